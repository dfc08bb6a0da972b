"""Presets of the theorem: how to look at a network, and the published looks.

The networks are those of 1905.13633 (tanh, no clipping; hard sigmoid with convolutions), with the
T, K, β and ε of the commands published with it, and, but for ``p-conv``, with their mini-batches:
20 samples with one hidden layer, 1 with more, where many samples do not settle within T (some of
the prototypical ones oscillate for ever). ``c-ep-1h`` and ``c-vf-1h`` have the β and an η of
2005.04168. ``digits-eb`` is ours: exact as ``eb-1h`` is, and so small, with an ε so large, that it
settles to rounding within seconds. All compute in float64. The other η are our choice: one at which
continual updates follow BPTT closely, and ten times as much, at which they part.

It knows nothing of torch, like :mod:`eqprop.settings.experiment`.

Source: https://arxiv.org/abs/1905.13633, figures 2, 3 and 8 to 13; 2005.04168, figure 4.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, final

from eqprop.registries import ESTIMATORS
from eqprop.settings.experiment import Experiment
from eqprop.settings.fields import Settings, device, different, number, setting, whole
from eqprop.settings.presets import PRESETS

__all__ = ["CIRCLE", "SWEPT", "THEOREM_PRESETS", "TheoremPreset", "TheoremSettings"]

SWEPT = ("beta", "free_steps", "nudged_steps")
"""What can be swept: the settings that an experimenter chooses by the theorem."""


CIRCLE = "holomorphic-ep"
"""The estimator that has many points on the circle of β."""


def _sized(value: float) -> bool:
    # Beyond either end there is nothing but rounding and overflow.
    return 1e-15 <= abs(value) <= 1e30


@final
@dataclass(frozen=True, kw_only=True)
class TheoremSettings(Settings):
    """How to compare EP with BPTT.

    Raises:
        ConfigurationError: a setting outside what is allowed.
    """

    free_steps: int = setting(200, "T, steps of the free phase", allowed=whole(1))
    nudged_steps: int = setting(
        20, "K, steps of the nudged phase, and of BPTT; at most T", allowed=whole(1)
    )
    tolerance: float | None = setting(
        None,
        "choose the least T and K with which 99 % of the samples come to rest, no unit of them "
        "moving by more than this in a step, such as 1e-6, in proportion to a β below 1; K is "
        "added to T, as the last K free steps are to be at rest; a T or K that is given is taken "
        "all the same",
        allowed=number("a finite number >= 0, or none", lambda x: x >= 0),
        flag="settle",
    )
    most_steps: int | None = setting(
        None, "the most steps in which to look for T, and for K", allowed=whole(1), shown="3 T"
    )
    estimator: str = setting(
        "ep", "whose nudged phase is compared; of a run that which it learns by", choices=ESTIMATORS
    )
    beta: float = setting(
        0.01,
        "β, strength of the nudge, of either sign",
        allowed=number("a finite number other than 0, of size 1e-15 to 1e30", _sized),
    )
    nudging: Literal["one-sided", "symmetric"] = setting(
        "one-sided", "β as given, or the mean of the processes of +β and −β"
    )
    points: int = setting(
        4,
        "N, points of the circle of β (holomorphic-ep alone): the error is O(β^N)",
        allowed=whole(2, 1024),
    )
    eta: tuple[float, ...] = setting(
        (),
        "η, learning rates of continual updates to set beside η = 0, each for all layers",
        allowed=different(
            "up to five different finite numbers > 0",
            lambda e: math.isfinite(e) and e > 0,
            lambda count: count <= 5,
        ),
    )
    betas: tuple[float, ...] = setting(
        (),
        "strengths of the figure of error against β",
        allowed=different(
            "at least two different numbers from 1e-15 to 1e30",
            lambda b: b > 0 and _sized(b),
            lambda count: count != 1,
        ),
        shown="1e-5 to 1e-2, a decade apart; symmetric: 1e-4 to 1e-1; holomorphic-ep: 0.01 to 0.3",
    )
    batches: int = setting(1, "mini-batches to average over", allowed=whole(1))
    batch_size: int = setting(20, "samples in a mini-batch", allowed=whole(1))
    seed: int = setting(
        0, "of the weights, the mini-batches and the units drawn", allowed=whole(0, 2**63 - 1)
    )
    device: str = setting("cpu", "cpu, cuda or cuda:N", allowed=device())
    threads: int = setting(1, "CPU threads", allowed=whole(1, 1024))

    def check_together(self) -> None:
        self.require(
            "nudged_steps",
            self.nudged_steps <= self.free_steps,
            f"at most free_steps = {self.free_steps}, as BPTT goes through the last of them",
        )
        self.require(
            "eta",
            not self.eta or self.estimator != CIRCLE,
            f"none with estimator = {CIRCLE}, as continual updates of complex β would make the "
            "parameters complex",
        )

    @property
    def looked_for(self) -> int:
        """The most steps in which to look for T and K."""
        return self.most_steps or 3 * self.free_steps

    @property
    def nudges(self) -> Literal["one-sided", "symmetric"] | int:
        """Of which β the processes are averaged: N of a circle, or as ``nudging`` has it."""
        return self.points if self.estimator == CIRCLE else self.nudging

    @property
    def curve(self) -> tuple[float, ...]:
        """The β of the figure of error against β, in ascending order."""
        if self.betas:
            return tuple(sorted(self.betas))
        # Where the error is O(β²), or O(β^N), the smallest β would show nothing but rounding.
        if self.estimator == CIRCLE:
            return (0.01, 0.03, 0.1, 0.3)
        return (1e-4, 1e-3, 1e-2, 1e-1) if self.nudging == "symmetric" else (1e-5, 1e-4, 1e-3, 1e-2)

    @classmethod
    def of_run(cls, experiment: Experiment) -> "TheoremSettings":
        """Those of a training run; a β of random sign is looked at with the sign it has."""
        return cls(
            free_steps=experiment.free_steps,
            nudged_steps=min(experiment.nudged_steps, experiment.free_steps),
            estimator=experiment.estimator,
            beta=experiment.beta,
            nudging="symmetric" if experiment.nudging == "symmetric" else "one-sided",
            points=experiment.points,
            batch_size=experiment.batch_size,
            seed=experiment.seed,
            device=experiment.device,
        )


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


def _published(
    name: str,
    T: int,
    K: int,
    beta: float,
    eta: tuple[float, ...],
    batch_size: int = 20,
    betas: tuple[float, ...] = (),
    **others: Any,
) -> dict[str, Any]:
    """The network of a published experiment, as the figures of the theorem have it."""
    tanh = {"activation": "tanh", "epsilon": 0.08, "clip": False, "dtype": "float64"}
    phases = {"free_steps": T, "nudged_steps": K, "beta": beta, "eta": eta}
    return {
        "settings": TheoremSettings(**phases, batch_size=batch_size, betas=betas),
        "experiment": PRESETS[name].experiment.override({**tanh, **others}) if name else None,
    }


THEOREM_PRESETS: dict[str, TheoremPreset] = {
    "digits-eb": TheoremPreset(
        "64-128-10, real-time, exact, no download (not published)",
        **_published(
            "digits-eb",
            200,
            30,
            0.01,
            (2e-5, 2e-4),
            activation="scaled-sigmoid",
            epsilon=0.5,
        ),
    ),
    "toy": TheoremPreset(
        "10-50-5 all-to-all, real-time, exact, random data",
        **_published("", 5000, 80, 0.01, (2e-5, 2e-4), batch_size=1),
    ),
    "eb-1h": TheoremPreset(
        "784-512-10, real-time, exact", **_published("eb-1h", 800, 80, 0.001, (2e-6, 2e-5))
    ),
    "c-ep-1h": TheoremPreset(
        "784-512-10, real-time, with the β and η of continual updates",
        **_published("eb-1h", 800, 80, 0.005, (2e-5, 2e-4)),
    ),
    "c-vf-1h": TheoremPreset(
        "the same with untied weights, at 0° unless --angle says otherwise",
        **_published("eb-1h", 800, 80, 0.005, (2e-5, 2e-4), weight_angle=0.0),
    ),
    "eb-2h": TheoremPreset(
        "784-512-512-10, real-time, exact",
        **_published(
            "eb-2h", 5000, 150, 0.01, (2e-6, 2e-5), batch_size=1, betas=(0.01, 0.02, 0.05, 0.1)
        ),
    ),
    "p-1h": TheoremPreset(
        "784-512-10, prototypical, approximate", **_published("p-1h", 150, 10, 0.01, (2e-5, 2e-4))
    ),
    "p-2h": TheoremPreset(
        "784-512-512-10, prototypical, approximate",
        **_published("p-2h", 1500, 40, 0.01, (5e-7, 5e-6), batch_size=1),
    ),
    "p-3h": TheoremPreset(
        "784-512-512-512-10, prototypical, approximate",
        **_published("p-3h", 5000, 40, 0.015, (5e-7, 5e-6), batch_size=1),
    ),
    "p-conv": TheoremPreset(
        "two convolutions, prototypical, approximate, hard sigmoid",
        **_published(
            "p-conv",
            5000,
            10,
            0.02,
            (2e-6, 2e-5),
            activation="hard-sigmoid",
            epsilon=0.2,
            clip=True,
        ),
    ),
    "digits": TheoremPreset(
        "64-128-10, prototypical, approximate, no download (not published)",
        **_published("digits", 150, 10, 0.01, (2e-5, 2e-4)),
    ),
}
"""The figures of the theorem that have names."""
