"""What training is given has to fit together, and to have an effect."""

import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eqprop.core.costs import Cost, CrossEntropy, Weighted
from eqprop.core.fitting import require_input, require_model, require_unchanging
from eqprop.core.models import ConvergentModel
from eqprop.core.sizes import described
from eqprop.data.dataset import Dataset, Split
from eqprop.estimators.descent import learning_rates
from eqprop.estimators.estimator import Estimator

_LARGE = 20.0
"""Targets beyond it are those of somebody who has forgotten to scale them."""

__all__ = ["learnt_by", "require_trainable", "warn_of_unmoved"]


def require_trainable(model: object, estimator: object, optimizer: object, data: object) -> None:
    """Refuse what :func:`~eqprop.training.loop.train` could not train with.

    Raises:
        TypeError: one that is no model, estimator, optimizer or data set, as when they come in
            another order; data in another dtype or on another device than the parameters.
        ValueError: an output layer that has not one unit for every class; parameters in a plain
            list; an optimizer of other parameters than the model's, or of frozen ones alone, or
            another one than the estimator's; dropout or batch normalisation in training mode.

    Warns:
        UserWarning: parameters that the optimizer does not hold; a cross-entropy of outputs that
            are kept too close together for it.
    """
    model = require_model(model)
    for name, given, kind, such in (
        ("estimator", estimator, Estimator, "an estimator such as EquilibriumPropagation(…)"),
        ("optimizer", optimizer, Optimizer, "an optimizer of torch.optim"),
        ("data", data, Dataset, "a Dataset, which has a part to learn from and one to test"),
    ):
        if not isinstance(given, kind):
            raise TypeError(
                f"{name}: expected {such}, got {described(given)}; the order is model, estimator, "
                "optimizer, data"
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
    assert isinstance(estimator, Estimator)
    assert isinstance(optimizer, Optimizer)
    assert isinstance(data, Dataset)
    images, labels = data.train.first
    if data.train.regression and model.output_shape != labels.shape[1:]:
        raise ValueError(
            f"model: expected an output of the shape of the targets of {data.name}, "
            f"{tuple(labels.shape[1:])}, got {model.output_shape}"
        )
    if not data.train.regression and model.output_shape != (data.classes,):
        units = " × ".join(map(str, model.output_shape))
        raise ValueError(
            f"model: expected an output layer of {data.classes} units, one for every class of "
            f"{data.name}, got one of {units}"
        )
    _require_registered(model)
    require_unchanging(model)
    require_input(model, images, "images")
    rates = learning_rates(model, optimizer)
    if not rates:
        raise ValueError(
            "optimizer: expected a parameter of the model that learns, got frozen ones alone; "
            "let some of them learn with requires_grad_(True)"
        )
    _warn_of_narrow_outputs(model, estimator.cost)
    if isinstance(data.train, Split) and data.train.regression:
        _warn_of_far_targets(model, data.train)
    left = [n for n, p in model.named_parameters() if p.requires_grad and n not in rates]
    if left:
        warnings.warn(
            f"optimizer: expected one that holds {_named(model, left)} too, which will not "
            "learn: were layers replaced after it was made? What is meant to stay, freeze with "
            "requires_grad_(False)",
            stacklevel=3,
        )


def _warn_of_narrow_outputs(model: ConvergentModel, cost: Cost) -> None:
    """Say where a softmax cannot come near a one-hot target, so that its gradient never ends.

    Outputs in an interval of width w give the likeliest of n classes e^{scale·w}/(e^{scale·w} + n −
    1) at most.
    """
    cost = cost.cost if isinstance(cost, Weighted) else cost
    if not isinstance(cost, CrossEntropy):
        return
    low, high = _reach(model)
    width, classes = high - low, math.prod(model.output_shape)
    most = 1 / (1 + (classes - 1) * math.exp(-cost.scale * width))
    if most < 0.9:
        warnings.warn(
            f"cost: expected outputs whose softmax can come near 1, got some kept in an interval "
            f"of width {width:g}, of which it comes to {most:.2f} at most: learning would not "
            f"end, and get worse. Take CrossEntropy(scale={10 / width:g}), or a readout",
            stacklevel=4,
        )


def _warn_of_far_targets(model: ConvergentModel, split: Split) -> None:
    """Say where targets of a regression lie beyond what the output layer can come to."""
    low, high = _reach(model)
    least, most = (float(end) for end in split.labels.aminmax())
    if least < low or most > high:
        warnings.warn(
            f"targets: expected some that the outputs can come to, which are kept in [{low:g}, "
            f"{high:g}], got {least:.4g} to {most:.4g}; read them off the last hidden layer by "
            "readout=torch.nn.Linear(…) (--readout linear), or scale them",
            stacklevel=4,
        )
    elif max(-least, most) > _LARGE:
        warnings.warn(
            f"targets: expected numbers of about the size of 1, got {least:.4g} to {most:.4g}, "
            "which nudge the network far, and make large steps: scale them to mean 0 and "
            "deviation 1 as by (y - y.mean(0)) / y.std(0)",
            stacklevel=4,
        )


def _reach(model: ConvergentModel) -> tuple[float, float]:
    """Between which numbers the outputs are kept, as far as is known."""
    low, high = -math.inf, math.inf
    if model.has_readout:
        return low, high
    if model.clip is not None:
        low, high = model.clip
    if model.activation is not None:
        try:
            ends = model.activation(torch.tensor([-1e4, 1e4])).tolist()
        except (RuntimeError, TypeError, ValueError):
            return low, high
        low, high = max(low, ends[0]), min(high, ends[1])
    return low, high


def _require_registered(model: nn.Module) -> None:
    """Refuse parameters in a plain list, tuple or dictionary, where torch does not look for any."""
    known = {id(p) for p in model.parameters()}
    for module in model.modules():
        for name, value in vars(module).items():
            if name.startswith("_") or not isinstance(value, list | tuple | dict):
                continue
            for item in value.values() if isinstance(value, dict) else value:
                inside = item.parameters() if isinstance(item, nn.Module) else [item]
                if any(isinstance(p, nn.Parameter) and id(p) not in known for p in inside):
                    kind = "nn.Module" if isinstance(item, nn.Module) else "nn.Parameter"
                    kind += "Dict" if isinstance(value, dict) else "List"
                    raise ValueError(
                        f"model: expected parameters where torch finds them, got some in the "
                        f"{type(value).__name__} {type(module).__name__}.{name}, which would not "
                        f"learn; make it an {kind}"
                    )


def _named(model: ConvergentModel, names: list[str]) -> str:
    """The first of these parameters, as messages name them."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(model.parameter_name, names[:3])) + more


def learnt_by(model: ConvergentModel, optimizer: Optimizer) -> dict[str, Tensor]:
    """A copy of the parameters that the optimizer is to move, by their names."""
    rates = learning_rates(model, optimizer)
    return {name: p.detach().clone() for name, p in model.named_parameters() if rates.get(name)}


def warn_of_unmoved(model: ConvergentModel, before: Mapping[str, Tensor], when: str) -> None:
    """Say which parameters are still as they were; in ordinary training there are none.

    Warns:
        UserWarning: names them, and says what may be the reason.
    """
    now = dict(model.named_parameters())
    still = [name for name, p in before.items() if now[name].equal(p)]
    if still:
        warnings.warn(
            f"{_named(model, still)} did not move {when}: does what the network does depend "
            "on it, or is it detached, or used nowhere? Are there enough nudged steps for the "
            "nudge to come to it? If it is meant to stay, freeze it with requires_grad_(False)",
            stacklevel=2,
        )
