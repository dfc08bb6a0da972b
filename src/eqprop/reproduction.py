"""What is published as a figure and can be made again: which runs it takes.

``fig-1c``: the better Theorem 1 holds before training, the better a network learns. Networks of
continual updates and untied weights (C-VF) begin with their backward weights at several angles Ψ to
the forward ones. For each the angle between the total update of EP and minus the gradient of
backpropagation through time is measured before training; then it is trained, and its test error is
set against that angle. EP and C-EP, whose weights are tied, stand beside as references.

It knows nothing of torch, like :mod:`eqprop.experiment`.

Source: Ernoult et al., https://arxiv.org/abs/2005.04169, figure 1c; with more trials
https://arxiv.org/abs/2005.04168, figure 5a.
"""

import os
from dataclasses import dataclass, field, fields
from typing import Any, Literal, final

from eqprop.experiment import ConfigurationError, Experiment
from eqprop.presets import preset

__all__ = ["FIGURES", "Figure1cSettings", "PlannedRun"]

FIGURES = {"fig-1c": "test error against how well Theorem 1 holds before training"}
"""What can be reproduced, and what it shows."""

_PRESETS = {"C-VF": "c-vf-{}h", "C-EP": "c-ep-{}h", "EP": "p-{}h"}


@final
@dataclass(frozen=True)
class PlannedRun:
    """One network to be measured and trained.

    Attributes:
        algorithm: ``EP``, ``C-EP`` or ``C-VF``.
        preset: the published experiment it is.
        hidden_layers: of the network.
        changes: what differs from the preset.
    """

    algorithm: str
    preset: str
    hidden_layers: int
    changes: dict[str, Any]

    @property
    def experiment(self) -> Experiment:
        """All settings."""
        return preset(self.preset).override(self.changes)

    @property
    def name(self) -> str:
        """What its folder is called."""
        angle = f"-angle-{_plain(self.changes['weight_angle'])}" if self.algorithm == "C-VF" else ""
        return f"{self.preset}{angle}-seed-{self.changes['seed']}"

    @property
    def options(self) -> tuple[str, ...]:
        """The changes as ``eqprop train`` takes them."""
        return tuple(f"--{name.replace('_', '-')}={value}" for name, value in self.changes.items())

    @property
    def effort(self) -> float:
        """About how long an epoch takes, in units of no meaning: to start the longest runs first.

        A nudged step that moves the weights costs several free ones.
        """
        experiment = self.experiment
        nudged = experiment.nudged_steps * (4 if experiment.estimator == "c-ep" else 1)
        return self.hidden_layers * (experiment.free_steps + nudged)


def _setting(default: Any, description: str) -> Any:
    return field(default=default, metadata={"help": description})


@final
@dataclass(frozen=True, kw_only=True)
class Figure1cSettings:
    """How much of the figure to make.

    Raises:
        ConfigurationError: a setting outside what is allowed.
    """

    dataset: Literal["digits", "mnist", "fashion-mnist", "kmnist"] = _setting(
        "mnist", "what to learn (default: mnist, as published)"
    )
    epochs: tuple[int, ...] = _setting(
        (),
        "passes over the training data: one number for all runs, or one for each of "
        "--hidden-layers (default: as published, 30 to 150)",
    )
    seeds: tuple[int, ...] = _setting(
        (0,), "of the initial weights and the order of the data, a trial each (default: 0; "
        "published: 5 trials)"
    )  # fmt: skip
    angles: tuple[float, ...] = _setting(
        tuple(22.5 * n for n in range(9)),
        "Ψ, degrees between forward and backward weights before training "
        "(default: 0 22.5 45 … 180)",
    )
    hidden_layers: tuple[int, ...] = _setting(
        (1, 2), "of the networks: 1, 2 or both (default: 1 2)"
    )
    workers: int | None = _setting(
        None, "runs at a time, of one thread each (default: one per core)"
    )

    def __post_init__(self) -> None:
        self._require(
            "hidden_layers",
            self.hidden_layers and _different(self.hidden_layers, {1, 2}),
            "1, 2 or both, each once",
        )
        self._require(
            "epochs",
            len(self.epochs) in {0, 1, len(self.hidden_layers)}
            and all(n >= 1 for n in self.epochs),
            "a whole number of at least 1, or one for each of hidden_layers = "
            f"{' '.join(map(str, self.hidden_layers))}",
        )
        self._require(
            "seeds",
            self.seeds and _different(self.seeds) and all(0 <= seed < 2**63 for seed in self.seeds),
            "different whole numbers from 0 to 2^63 − 1",
        )
        self._require(
            "angles",
            self.angles
            and _different(self.angles)
            and all(0 <= angle <= 180 for angle in self.angles),
            "different degrees from 0 to 180",
        )
        self._require(
            "workers",
            self.workers is None or 1 <= self.workers <= 1024,
            "a whole number from 1 to 1024",
        )
        for run in self.runs:
            # Refuses an unknown data set.
            _ = run.experiment

    def _require(self, name: str, condition: object, expected: str) -> None:
        if not condition:
            raise ConfigurationError(name, getattr(self, name), expected)

    @property
    def runs(self) -> list[PlannedRun]:
        """All runs that the figure takes."""
        found = []
        for index, layers in enumerate(self.hidden_layers):
            for algorithm, pattern in _PRESETS.items():
                name = pattern.format(layers)
                epochs = (
                    self.epochs[index if len(self.epochs) > 1 else 0]
                    if self.epochs
                    else preset(name).epochs
                )
                # abs: there is no angle of −0.
                angles = [{"weight_angle": abs(float(a))} for a in self.angles]
                for seed in self.seeds:
                    for angle in angles if algorithm == "C-VF" else [{}]:
                        changes = {
                            "dataset": self.dataset,
                            **angle,
                            "epochs": epochs,
                            "seed": seed,
                            "threads": 1,
                        }
                        found.append(PlannedRun(algorithm, name, layers, changes))
        return found

    @property
    def processes(self) -> int:
        """How many runs at a time."""
        if self.workers is not None:
            return self.workers
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

    def to_json(self) -> dict[str, Any]:
        """All settings."""
        return {setting.name: getattr(self, setting.name) for setting in fields(self)}


def _different(values: tuple[float, ...], allowed: set[int] | None = None) -> bool:
    return len(set(values)) == len(values) and (allowed is None or set(values) <= allowed)


def _plain(angle: float) -> str:
    return repr(angle).removesuffix(".0")
