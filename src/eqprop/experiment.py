"""An experiment: every setting of a training run, typed and validated.

It knows nothing of torch, so that ``--help`` and the refusal of a bad setting come at once;
:mod:`eqprop.build` makes the objects it describes. Whatever a setting comes from (the command line,
a TOML file, a stored ``config.json`` or Python) passes the same checks here.
"""

import difflib
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields, replace
from typing import Any, Literal, final

__all__ = ["LATER", "ConfigurationError", "Experiment", "parse_setting"]

LATER = frozenset(
    {
        "channels",
        "kernel",
        "stride",
        "padding",
        "pool",
        "pooling",
        "updates",
        "weight_angle",
        "schedule",
        "shift",
    }
)
"""Settings that runs may lack, as they are older: their defaults are what was done then."""


@final
class ConfigurationError(ValueError):
    """A setting that cannot be: the message names it, its value and what is allowed."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(f"{name} = {_show(value)}: expected {expected}")
        self.name = name


def _show(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "(nothing)"
    return value if isinstance(value, str) else repr(value)


def _setting(default: Any, group: str, description: str) -> Any:
    return field(default=default, metadata={"group": group, "help": description})


@final
@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings of one training run; layers and learning rates are listed input side first.

    The defaults learn the embedded digits.

    Raises:
        ConfigurationError: a setting of the wrong type or outside what is allowed.
    """

    dataset: Literal["digits", "mnist", "fashion-mnist", "kmnist"] = _setting(
        "digits", "data", "what to learn"
    )
    network: Literal["prototypical", "real-time"] = _setting(
        "prototypical", "network", "discrete-time or real-time dynamics"
    )
    channels: tuple[int, ...] = _setting(
        (), "network", "channels of the convolutional layers, if any, below the dense ones"
    )
    kernel: tuple[int, ...] = _setting(
        (5,), "network", "side of the kernels: one number for all convolutions, or one for each"
    )
    stride: tuple[int, ...] = _setting((1,), "network", "steps of the kernels, likewise")
    padding: tuple[int, ...] = _setting((0,), "network", "zeros around the images, likewise")
    pool: tuple[int, ...] = _setting(
        (2,), "network", "side of the pooling windows, likewise; 1 does not pool"
    )
    pooling: Literal["max", "average"] = _setting(
        "max", "network", "what a window gives: its largest value or the mean"
    )
    hidden: tuple[int, ...] = _setting((128,), "network", "units of the dense hidden layers")
    activation: Literal["scaled-sigmoid", "hard-sigmoid", "tanh"] = _setting(
        "scaled-sigmoid", "network", "ρ; scaled-sigmoid is sigmoid(4x − 2)"
    )
    updates: Literal["synchronous", "alternating"] = _setting(
        "synchronous", "network", "a step moves all layers at once, or every other one in turn"
    )
    epsilon: float = _setting(0.2, "network", "ε, the time step of real-time dynamics")
    clip: bool = _setting(True, "network", "keep the states of real-time dynamics in [0, 1]")
    weight_angle: float | None = _setting(
        None,
        "network",
        "untie the backward from the forward weights, at first so many degrees (0 to 180) away; "
        "none ties them",
    )
    estimator: Literal["ep", "c-ep", "bptt", "rbp"] = _setting(
        "ep",
        "estimator",
        "equilibrium propagation, the same with continual weight updates, backpropagation through "
        "time or recurrent backpropagation",
    )
    free_steps: int = _setting(20, "estimator", "T, steps of the free phase")
    nudged_steps: int = _setting(
        8, "estimator", "K, steps of the nudged phase (bptt: steps differentiated; rbp: unused)"
    )
    beta: float = _setting(0.5, "estimator", "β, strength of the nudge, of either sign")
    nudging: Literal["one-sided", "random-sign", "symmetric"] = _setting(
        "symmetric", "estimator", "β as given, of random sign, or one nudged phase each way"
    )
    tolerance: float | None = _setting(
        None, "estimator", "end a phase once no unit moves by more than this in a step"
    )
    optimizer: Literal["sgd", "adam"] = _setting("sgd", "optimisation", "how weights follow")
    learning_rates: tuple[float, ...] = _setting(
        (0.1, 0.05), "optimisation", "one per layer, input side first"
    )
    schedule: Literal["constant", "cosine"] = _setting(
        "constant", "optimisation", "learning rates as given, or falling to 0 like half a cosine"
    )
    shift: int = _setting(
        0, "optimisation", "move training images at random by up to so many pixels each way"
    )
    batch_size: int = _setting(20, "optimisation", "samples in a mini-batch")
    epochs: int = _setting(30, "optimisation", "passes over the training data")
    seed: int = _setting(0, "optimisation", "of the initial weights and of the order of the data")
    device: str = _setting("cpu", "machine", "cpu, cuda or cuda:N")
    dtype: Literal["float32", "float64"] = _setting("float32", "machine", "arithmetic")
    threads: int = _setting(
        1, "machine", "CPU threads; at mini-batches of 20 more than one seldom helps"
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            _check_type(setting, getattr(self, setting.name))
        for name in ("free_steps", "nudged_steps", "batch_size", "epochs", "threads"):
            self._require(name, getattr(self, name) >= 1, "a whole number of at least 1")
        self._require("threads", self.threads <= 1024, "a whole number of at most 1024")
        self._require("seed", 0 <= self.seed < 2**63, "a whole number from 0 to 2^63 − 1")
        self._require(
            "beta", math.isfinite(self.beta) and self.beta != 0, "a finite number other than 0"
        )
        self._require(
            "epsilon", math.isfinite(self.epsilon) and self.epsilon > 0, "a finite number > 0"
        )
        self._require(
            "tolerance",
            self.tolerance is None or (math.isfinite(self.tolerance) and self.tolerance >= 0),
            "a finite number >= 0, or none",
        )
        self._require(
            "hidden",
            all(1 <= size <= 10**6 for size in self.hidden),
            "whole numbers from 1 to 1000000",
        )
        self._require(
            "learning_rates",
            all(0 <= rate <= 1e30 for rate in self.learning_rates),
            "numbers from 0 to 1e30",
        )
        self._require(
            "channels",
            all(1 <= size <= 10**6 for size in self.channels),
            "whole numbers from 1 to 1000000",
        )
        for name, least in (("kernel", 1), ("stride", 1), ("padding", 0), ("pool", 1)):
            values = getattr(self, name)
            self._require(
                name,
                all(least <= value <= 1000 for value in values)
                and len(values) in {1, max(1, len(self.channels))},
                f"one whole number from {least} to 1000, or one for each convolution "
                f"(channels = {_show(self.channels)})",
            )
        self._require("shift", 0 <= self.shift <= 1000, "a whole number from 0 to 1000")
        layers = len(self.channels) + len(self.hidden) + 1
        convolutions = f"channels = {_show(self.channels)}, " if self.channels else ""
        self._require(
            "learning_rates",
            len(self.learning_rates) == layers,
            f"{layers} numbers, one per layer ({convolutions}hidden = {_show(self.hidden)}, and "
            "the output)",
        )
        self._require(
            "weight_angle",
            self.weight_angle is None or 0 <= self.weight_angle <= 180,
            "degrees from 0 to 180, or none",
        )
        self._require(
            "weight_angle",
            self.weight_angle is None or bool(self.hidden or self.channels),
            "none in a network without hidden layers, in which nothing goes back",
        )
        if self.estimator == "c-ep":
            self._require(
                "nudging",
                self.nudging != "symmetric",
                "one-sided or random-sign, as with c-ep the weights follow one nudged phase only",
            )
        if self.estimator == "bptt":
            self._require(
                "nudged_steps",
                self.nudged_steps <= self.free_steps,
                f"at most free_steps = {self.free_steps}, as bptt differentiates the last of them",
            )
        self._require(
            "device",
            re.fullmatch("cpu|cuda(:(0|[1-9][0-9]?))?", self.device) is not None,
            "cpu, cuda or cuda:N",
        )

    def _require(self, name: str, condition: bool, expected: str) -> None:
        if not condition:
            raise ConfigurationError(name, getattr(self, name), expected)

    def override(self, settings: Mapping[str, Any]) -> "Experiment":
        """This experiment with other values for some settings.

        Values may be as TOML and JSON have them: lists for tuples, integers for floats.

        Raises:
            ConfigurationError: an unknown setting, or a value that is not allowed.
        """
        known = {setting.name: setting for setting in fields(self)}
        values = {}
        for name, value in settings.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise ConfigurationError(name, value, f"one of {', '.join(known)}{hint}")
            values[name] = _normalise(known[name], value)
        return replace(self, **values)

    def to_json(self) -> dict[str, Any]:
        """All settings, as JSON and :meth:`override` have them."""
        return asdict(self)


def parse_setting(setting: Field[Any], words: Sequence[str] | str | bool) -> Any:
    """The value that the words of a command line mean for a setting.

    Raises:
        ConfigurationError: they do not mean one.
    """
    if isinstance(words, bool):
        return words
    kind, optional = _kind(setting)
    if optional and words == "none":
        return None
    if kind is str or typing.get_origin(kind) is Literal:
        return words
    try:
        if typing.get_origin(kind) is tuple:
            number = typing.get_args(kind)[0]
            return tuple(number(word) for word in words)
        return kind(words)
    except ValueError:
        raise ConfigurationError(setting.name, words, _describe(setting)) from None


def _kind(setting: Field[Any]) -> tuple[Any, bool]:
    """The setting's type, and whether it may be none."""
    kind = setting.type
    if isinstance(kind, types.UnionType):
        return typing.get_args(kind)[0], True
    return kind, False


def _normalise(setting: Field[Any], value: Any) -> Any:
    kind, _ = _kind(setting)
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        number = typing.get_args(kind)[0]
        return tuple(_as_float(item) if number is float else item for item in value)
    return _as_float(value) if kind is float else value


def _as_float(value: Any) -> Any:
    # A whole number beyond all floating-point ones stays what it is, and is refused as such.
    return float(value) if type(value) is int and abs(value) < 2**1000 else value


def _check_type(setting: Field[Any], value: Any) -> None:
    kind, optional = _kind(setting)
    if value is None and optional:
        return
    if typing.get_origin(kind) is Literal:
        right = isinstance(value, str) and value in typing.get_args(kind)
    elif typing.get_origin(kind) is tuple:
        number = typing.get_args(kind)[0]
        right = isinstance(value, tuple) and all(type(item) is number for item in value)
    else:
        right = type(value) is kind
    if not right:
        raise ConfigurationError(setting.name, value, _describe(setting))


def _describe(setting: Field[Any]) -> str:
    """What a setting of the right type looks like."""
    kind, optional = _kind(setting)
    if typing.get_origin(kind) is Literal:
        words = f"one of {', '.join(typing.get_args(kind))}"
    elif typing.get_origin(kind) is tuple:
        words = "whole numbers" if typing.get_args(kind)[0] is int else "numbers"
    else:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}[
            kind
        ]
    return f"{words}, or none" if optional else words
