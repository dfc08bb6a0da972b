"""Presets of the theorem: how to look at a network, and the published looks.

The networks are those of 1905.13633 (tanh, no clipping; hard sigmoid with convolutions), with the
T, K, β and ε of the commands published with it, and, but for ``p-conv``, with their mini-batches:
20 samples with one hidden layer, 1 with more, where many samples do not settle within T (some of
the prototypical ones oscillate for ever). ``c-ep-1h`` and ``c-vf-1h`` have the β and an η of
2005.04168. All compute in float64. The other η are our choice: one at which continual updates
follow BPTT closely, and ten times as much, at which they part.

It knows nothing of torch, like :mod:`eqprop.experiment`.

Source: https://arxiv.org/abs/1905.13633, figures 2, 3 and 8 to 13; 2005.04168, figure 4.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, final

from eqprop.experiment import ConfigurationError, Experiment
from eqprop.presets import PRESETS

__all__ = ["SWEPT", "THEOREM_PRESETS", "TheoremPreset", "TheoremSettings"]

SWEPT = ("beta", "free_steps", "nudged_steps")
"""What can be swept: the settings that an experimenter chooses by the theorem."""


def _setting(default: Any, description: str) -> Any:
    return field(default=default, metadata={"help": description})


@final
@dataclass(frozen=True, kw_only=True)
class TheoremSettings:
    """How to compare EP with BPTT.

    Raises:
        ConfigurationError: a setting outside what is allowed.
    """

    free_steps: int = _setting(200, "T, steps of the free phase")
    nudged_steps: int = _setting(20, "K, steps of the nudged phase, and of BPTT; at most T")
    beta: float = _setting(0.01, "β, strength of the nudge, of either sign")
    nudging: Literal["one-sided", "symmetric"] = _setting(
        "one-sided", "β as given, or the mean of the processes of +β and −β"
    )
    eta: tuple[float, ...] = _setting(
        (), "η, learning rates of continual updates to set beside η = 0, each for all layers"
    )
    betas: tuple[float, ...] = _setting(
        (), "strengths of the figure of error against β (default: 1e-5 to 1e-2, a decade apart; "
        "symmetric: 1e-4 to 1e-1)"
    )  # fmt: skip
    batches: int = _setting(1, "mini-batches to average over")
    batch_size: int = _setting(20, "samples in a mini-batch")
    seed: int = _setting(0, "of the weights, the mini-batches and the units drawn")
    device: str = _setting("cpu", "cpu, cuda or cuda:N")
    threads: int = _setting(1, "CPU threads")

    def __post_init__(self) -> None:
        for name in ("free_steps", "nudged_steps", "batches", "batch_size", "threads"):
            value = getattr(self, name)
            self._require(name, type(value) is int and value >= 1, "a whole number of at least 1")
        self._require("threads", self.threads <= 1024, "a whole number of at most 1024")
        self._require(
            "nudged_steps",
            self.nudged_steps <= self.free_steps,
            f"at most free_steps = {self.free_steps}, as BPTT goes through the last of them",
        )
        self._require(
            "beta", _nonzero(self.beta), "a finite number other than 0, of size 1e-30 to 1e30"
        )
        self._require(
            "nudging",
            self.nudging in ("one-sided", "symmetric"),
            "one of one-sided, symmetric",
        )
        self._require(
            "eta",
            len(set(self.eta)) == len(self.eta) <= 5
            and all(math.isfinite(e) and e > 0 for e in self.eta),
            "up to five different finite numbers > 0",
        )
        self._require(
            "betas",
            all(_nonzero(b) and b > 0 for b in self.betas)
            and len(set(self.betas)) == len(self.betas) != 1,
            "at least two different numbers from 1e-30 to 1e30",
        )
        self._require("seed", 0 <= self.seed < 2**63, "a whole number from 0 to 2^63 − 1")

    def _require(self, name: str, condition: bool, expected: str) -> None:
        if not condition:
            raise ConfigurationError(name, getattr(self, name), expected)

    @property
    def curve(self) -> tuple[float, ...]:
        """The β of the figure of error against β, in ascending order."""
        if self.betas:
            return tuple(sorted(self.betas))
        # Where the error is O(β²), the smallest β would show nothing but rounding.
        return (1e-4, 1e-3, 1e-2, 1e-1) if self.nudging == "symmetric" else (1e-5, 1e-4, 1e-3, 1e-2)

    def override(self, settings: Mapping[str, Any]) -> "TheoremSettings":
        """These settings with other values for some.

        Raises:
            ConfigurationError: a value that is not allowed.
        """
        return replace(self, **settings)

    @classmethod
    def of_run(cls, experiment: Experiment) -> "TheoremSettings":
        """Those of a training run; a β of random sign is looked at with the sign it has."""
        return cls(
            free_steps=experiment.free_steps,
            nudged_steps=min(experiment.nudged_steps, experiment.free_steps),
            beta=experiment.beta,
            nudging="symmetric" if experiment.nudging == "symmetric" else "one-sided",
            batch_size=experiment.batch_size,
            seed=experiment.seed,
            device=experiment.device,
        )

    def to_json(self) -> dict[str, Any]:
        """All settings."""
        return {setting.name: getattr(self, setting.name) for setting in fields(self)}


def _nonzero(value: float) -> bool:
    # Far beyond either end there is nothing but rounding and overflow.
    return 1e-30 <= abs(value) <= 1e30


@final
@dataclass(frozen=True)
class TheoremPreset:
    """A network before training, and how to look at it.

    Attributes:
        description: in a few words.
        settings: how to look.
        experiment: the network and the data; none for the toy model and its random data.
    """

    description: str
    settings: TheoremSettings
    experiment: Experiment | None


def _published(name: str) -> Experiment:
    """The network of a published experiment, as the figures of the theorem have it."""
    return PRESETS[name].experiment.override(
        {"activation": "tanh", "epsilon": 0.08, "clip": False, "dtype": "float64"}
    )


THEOREM_PRESETS: dict[str, TheoremPreset] = {
    "toy": TheoremPreset(
        "10-50-5 all-to-all, real-time, random data",
        TheoremSettings(
            free_steps=5000, nudged_steps=80, beta=0.01, batch_size=1, eta=(2e-5, 2e-4)
        ),
        None,
    ),
    "eb-1h": TheoremPreset(
        "784-512-10, real-time",
        TheoremSettings(free_steps=800, nudged_steps=80, beta=0.001, eta=(2e-6, 2e-5)),
        _published("eb-1h"),
    ),
    "c-ep-1h": TheoremPreset(
        "784-512-10, real-time, with the β and η of continual updates",
        TheoremSettings(free_steps=800, nudged_steps=80, beta=0.005, eta=(2e-5, 2e-4)),
        _published("eb-1h"),
    ),
    "c-vf-1h": TheoremPreset(
        "the same with untied weights, at 0° unless --angle says otherwise",
        TheoremSettings(free_steps=800, nudged_steps=80, beta=0.005, eta=(2e-5, 2e-4)),
        _published("eb-1h").override({"weight_angle": 0.0}),
    ),
    "eb-2h": TheoremPreset(
        "784-512-512-10, real-time",
        TheoremSettings(
            free_steps=5000,
            nudged_steps=150,
            beta=0.01,
            eta=(2e-6, 2e-5),
            betas=(0.01, 0.02, 0.05, 0.1),
            batch_size=1,
        ),
        _published("eb-2h"),
    ),
    "p-1h": TheoremPreset(
        "784-512-10, prototypical",
        TheoremSettings(free_steps=150, nudged_steps=10, beta=0.01, eta=(2e-5, 2e-4)),
        _published("p-1h"),
    ),
    "p-2h": TheoremPreset(
        "784-512-512-10, prototypical",
        TheoremSettings(
            free_steps=1500, nudged_steps=40, beta=0.01, eta=(5e-7, 5e-6), batch_size=1
        ),
        _published("p-2h"),
    ),
    "p-3h": TheoremPreset(
        "784-512-512-512-10, prototypical",
        TheoremSettings(
            free_steps=5000, nudged_steps=40, beta=0.015, eta=(5e-7, 5e-6), batch_size=1
        ),
        _published("p-3h"),
    ),
    "p-conv": TheoremPreset(
        "two convolutions, prototypical, hard sigmoid",
        TheoremSettings(free_steps=5000, nudged_steps=10, beta=0.02, eta=(2e-6, 2e-5)),
        PRESETS["p-conv"].experiment.override({"dtype": "float64"}),
    ),
    "digits": TheoremPreset(
        "64-128-10, prototypical, no download (not published)",
        TheoremSettings(free_steps=150, nudged_steps=10, beta=0.01, eta=(2e-5, 2e-4)),
        _published("digits"),
    ),
}
