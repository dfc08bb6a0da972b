"""What can be chosen by name: one line each, from which everything that offers a choice takes it.

Settings, the command line, ``bench``, ``theorem``, ``show`` and the documentation have no lists of
their own. A target is named, ``module:attribute``, and imported when it is asked for, so that
listing names needs no torch. What is registered:

===================  ===============================================================================
registry             target
===================  ===============================================================================
:data:`ESTIMATORS`   a callable that makes an :class:`~eqprop.estimators.Estimator`; it is called
                     with those of its parameters that are settings of an experiment, and
                     ``optimizer`` and ``cost`` if it has them
:data:`COSTS`        a callable that makes a :class:`~eqprop.core.Cost`
:data:`ACTIVATIONS`  an :class:`~eqprop.core.Activation`
:data:`DATASETS`     a :class:`~eqprop.data.Source`
:data:`FIGURES`      a :class:`~eqprop.figures.Figure`; its module must not import torch
===================  ===============================================================================

Another package adds to them by an entry point of the registry's group in its ``pyproject.toml``::

    [project.entry-points."eqprop.estimators"]
    mine = "my_package:MyEstimator"

or at run time, ``ESTIMATORS.add("mine", MyEstimator)``.
"""

from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, final

from eqprop.errors import Failure

__all__ = ["ACTIVATIONS", "COSTS", "DATASETS", "ESTIMATORS", "FIGURES", "Registry"]


@final
class Registry(Mapping[str, str]):
    """Names, and what each of them means in a few words.

    Args:
        kind: what is registered, as messages call it.
        group: of the entry points by which other packages add to it.
        entries: target and summary by name.
        forms: names that a person completes, such as ``npz:FILE``: target and summary. The target
            is a callable, to which what stands after the colon is given.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        entries: Mapping[str, tuple[str, str]],
        forms: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        self.kind = kind
        self.group = group
        self.forms = dict(forms or {})
        self._own: dict[str, tuple[Any, str]] = {}
        for name, (target, summary) in entries.items():
            self.add(name, target, summary)

    @cached_property
    def _foreign(self) -> dict[str, tuple[Any, str]]:
        return {
            point.name: (point, f"of {point.dist.name if point.dist else point.module}")
            for point in _installed().select(group=self.group)
        }

    @property
    def _entries(self) -> dict[str, tuple[Any, str]]:
        # Its own first, in their order; an installed package cannot take over a name of them.
        return self._own | {n: it for n, it in self._foreign.items() if n not in self._own}

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, name: str) -> str:
        return self._entries[name][1]

    @property
    def offered(self) -> tuple[str, ...]:
        """What there is to choose from, as messages say it."""
        return (*self, *self.forms)

    def knows(self, name: str) -> bool:
        """Whether something can be had by this name, whole or completed."""
        return name in self or self._form(name) is not None

    def _form(self, name: str) -> str | None:
        """The form that a name completes."""
        word, _, rest = name.partition(":")
        return next((form for form in self.forms if rest and form.startswith(f"{word}:")), None)

    def add(self, name: str, target: Any, summary: str = "") -> None:
        """Offer something more, or something else under a name there is.

        Args:
            target: it, or ``module:attribute``.
            summary: what it is, in a few words.
        """
        if isinstance(target, str):
            target = EntryPoint(name, target, self.group)
        self._own[name] = (target, summary)

    def load(self, name: str) -> Any:
        """What is registered under the name.

        Raises:
            ValueError: nothing is.
            Failure: it cannot be imported.
        """
        form = self._form(name)
        if form is not None and name not in self:
            target = EntryPoint(name, self.forms[form][0], self.group)
            return target.load()(name.partition(":")[2])
        if name not in self:
            raise ValueError(
                f"{self.kind}: expected one of {', '.join(self.offered)}, got {name!r}"
            )
        target = self._entries[name][0]
        if not isinstance(target, EntryPoint):
            return target
        try:
            return target.load()
        except (ImportError, AttributeError) as error:
            raise Failure(
                f"{self.kind} {name}: expected to find {target.value}, found {error}; mend the "
                "package that offers it, or remove it"
            ) from error


@cache
def _installed() -> Any:
    """Of all packages: to look at them takes some milliseconds, once."""
    return entry_points()


ESTIMATORS = Registry(
    "estimator",
    "eqprop.estimators",
    {
        "ep": ("eqprop.estimators.ep:EquilibriumPropagation", "equilibrium propagation"),
        "c-ep": (
            "eqprop.estimators.continual:ContinualEP",
            "the same with continual weight updates",
        ),
        "asym-ep": (
            "eqprop.estimators.asymmetric:AsymEP",
            "the same, exact also where weights up and down differ",
        ),
        "c-asym-ep": (
            "eqprop.estimators.continual:continual_asymmetric",
            "that with continual weight updates",
        ),
        "dyadic-ep": (
            "eqprop.estimators.dyadic:DyadicEP",
            "exact as well, in one phase and without a β",
        ),
        "c-dyadic-ep": (
            "eqprop.estimators.continual:continual_dyadic",
            "that with a phase of continual weight updates",
        ),
        "holomorphic-ep": (
            "eqprop.estimators.holomorphic:HolomorphicEP",
            "exact at a β that is not small",
        ),
        "bptt": ("eqprop.estimators.bptt:truncated", "backpropagation through time"),
        "rbp": (
            "eqprop.estimators.recurrent_backprop:RecurrentBackprop",
            "recurrent backpropagation",
        ),
    },
)

COSTS = Registry(
    "cost",
    "eqprop.costs",
    {
        "squared-error": ("eqprop.core.costs:SquaredError", "½‖ŷ − y‖²"),
        "cross-entropy": (
            "eqprop.core.costs:CrossEntropy",
            "−log softmax(scale · ŷ) of the class, ÷ scale",
        ),
    },
)

ACTIVATIONS = Registry(
    "activation",
    "eqprop.activations",
    {
        "scaled-sigmoid": ("eqprop.core.activations:SCALED_SIGMOID", "sigmoid(4x − 2)"),
        "hard-sigmoid": ("eqprop.core.activations:HARD_SIGMOID", "x, kept in [0, 1]"),
        "half-hard-sigmoid": (
            "eqprop.core.activations:HALF_HARD_SIGMOID",
            "x/2, kept in [0, 1]",
        ),
        "tanh": ("eqprop.core.activations:TANH", "tanh(x)"),
    },
)

DATASETS = Registry(
    "data set",
    "eqprop.datasets",
    {
        "digits": ("eqprop.data.digits:DIGITS", "8×8, no download"),
        "mnist": ("eqprop.data.archives:MNIST", "28×28"),
        "fashion-mnist": ("eqprop.data.archives:FASHION_MNIST", "28×28"),
        "kmnist": ("eqprop.data.archives:KMNIST", "28×28"),
        "cifar-10": ("eqprop.data.colour:CIFAR_10", "3×32×32"),
        "cifar-100": ("eqprop.data.colour:CIFAR_100", "3×32×32, 100 classes"),
        "svhn": ("eqprop.data.colour:SVHN", "3×32×32"),
    },
    {
        "npz:FILE": (
            "eqprop.data.brought:npz",
            "arrays x_train, y_train, x_test and y_test of numpy; without the latter two, a share "
            "of the former",
        ),
        "regression:FILE": (
            "eqprop.data.brought:regression",
            "the same with targets that are no classes, (N,) or (N, targets)",
        ),
        "folder:DIR": (
            "eqprop.data.brought:folder",
            "images DIR/train/CLASS/*.png or *.jpg and DIR/test/…; without the latter, a share",
        ),
    },
)

FIGURES = Registry(
    "figure",
    "eqprop.figures",
    {
        "table-1": (
            "eqprop.figures.published_table:TABLE_1",
            "test errors of EP and BPTT, one to three hidden layers and convolutions",
        ),
        "table-cep": (
            "eqprop.figures.published_table:TABLE_CEP",
            "test errors of EP, C-EP and C-VF, one and two hidden layers",
        ),
        "fig-1b": (
            "eqprop.figures.figure_1b:FIGURE_1B",
            "Theorem 1 step by step: real time, continual, prototypical, convolutional",
        ),
        "fig-1c": (
            "eqprop.figures.figure_1c:FIGURE_1C",
            "test error against how well Theorem 1 holds before training",
        ),
        "speed": (
            "eqprop.figures.speed:SPEED",
            "prototypical networks against real-time ones: the time to equal test error",
        ),
        "hardware": (
            "eqprop.figures.hardware:HARDWARE",
            "test error on devices with noise, few bits, mismatch, by every estimator",
        ),
    },
)
