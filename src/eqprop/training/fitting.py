"""What training is given has to fit together: refused in words before the first mini-batch."""

from torch.optim import Optimizer

from eqprop.core.fitting import require_input, require_model
from eqprop.data.dataset import Dataset
from eqprop.estimators.descent import learning_rates
from eqprop.estimators.estimator import Estimator

__all__ = ["require_trainable"]


def require_trainable(model: object, estimator: object, optimizer: object, data: object) -> None:
    """Refuse what :func:`~eqprop.training.loop.train` could not train with.

    Raises:
        TypeError: one that is no model, estimator, optimizer or data set, as when they come in
            another order; data in another dtype or on another device than the parameters.
        ValueError: an output layer that has not one unit for every class, or an optimizer of other
            parameters than the model's, or another one than the estimator's.
    """
    model = require_model(model)
    for name, given, kind, such in (
        ("estimator", estimator, Estimator, "an estimator such as EquilibriumPropagation(…)"),
        ("optimizer", optimizer, Optimizer, "an optimizer of torch.optim"),
        ("data", data, Dataset, "a Dataset, which has a part to learn from and one to test"),
    ):
        if not isinstance(given, kind):
            got = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
            raise TypeError(
                f"{name}: expected {such}, got {got}; the order is model, estimator, optimizer, "
                "data"
            )
    if not hasattr(estimator, "free_steps"):
        raise TypeError(
            f"estimator: expected one with free_steps, T, with which it is evaluated too, got "
            f"{type(estimator).__name__}, which has none; set it in its class"
        )
    own = getattr(estimator, "optimizer", None)
    if isinstance(own, Optimizer) and own is not optimizer:
        raise ValueError(
            f"optimizer: expected that of the estimator, a {type(own).__name__}, which takes the "
            "steps, got another one, which would do nothing; give the same to both"
        )
    assert isinstance(optimizer, Optimizer)
    assert isinstance(data, Dataset)
    if model.shapes[-1] != (data.classes,):
        units = " × ".join(map(str, model.shapes[-1]))
        raise ValueError(
            f"model: expected an output layer of {data.classes} units, one for every class of "
            f"{data.name}, got one of {units}"
        )
    require_input(model, data.train.images, "images")
    learning_rates(model, optimizer)
