"""A run that a figure takes: as it is planned, and what has become of it in the figure's folder."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import fsum
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, final

from eqprop import runs
from eqprop.errors import UsageError
from eqprop.files import write_atomically
from eqprop.settings.experiment import Experiment
from eqprop.settings.presets import preset

__all__ = ["PlannedRun", "Run", "length_said", "machines"]

_FREE = ("epochs", "threads", "device")
"""Settings that nothing before training depends on, and that may change from run to run."""


def length_said(epochs: int | None, whole: int, schedule: str) -> str:
    """What the name of a run says of its length: ``-2-epochs`` where it must, else nothing.

    Rates that fall do so over all epochs, so that fewer of them are no beginning of more, and lie
    in a folder of their own; with constant ones a run may always be gone on with.

    Args:
        epochs: how many are wanted; those of the recipe if none.
        whole: those of the recipe.
        schedule: of the learning rates.
    """
    if epochs is None or epochs == whole or schedule == "constant":
        return ""
    return f"-{epochs}-epoch{'s' * (epochs != 1)}"


@final
@dataclass(frozen=True)
class PlannedRun:
    """One network to be measured and trained, on one thread.

    Attributes:
        name: what its folder is called.
        preset: the published experiment it is.
        changes: what differs from the preset.
        trained: whether it is trained at all, or only measured.
    """

    name: str
    preset: str
    changes: Mapping[str, Any]
    trained: bool = True

    @cached_property
    def experiment(self) -> Experiment:
        """All settings.

        Raises:
            ConfigurationError: a change that is not allowed.
        """
        return preset(self.preset).override({"threads": 1, **self.changes})

    @property
    def words(self) -> list[str]:
        """What ``eqprop train`` is to be told."""
        changes = {"threads": 1, **self.changes}
        options = [word for name in changes for word in Experiment.words(name, changes[name])]
        return [self.preset, *options]

    @property
    def effort(self) -> float:
        """About how long an epoch takes, in units of no meaning: to start the longest runs first.

        A nudged step that moves the weights, or asks for J, costs several free ones.
        """
        of = self.experiment
        nudged = of.nudged_steps * (4 if of.estimator in ("c-ep", "asym-ep") else 1)
        return max(1, len(of.channels) + len(of.hidden)) * (of.free_steps + nudged)


@final
class Run:
    """A planned run, and what has become of it.

    Args:
        planned: the run.
        folder: of the figure.
        measurements: where what is measured before training is stored.
        accepts: whether what lies there is what the figure measures.
        trained_in: where the runs lie, if not in ``runs`` of that folder.

    Attributes:
        wanted: how many epochs; 0 of a network that is only measured.
        history: the metrics of those completed, but for any beyond the wanted ones.
        measured: what was measured before training, if it was.
        unmeasured, untrained: why it could not be.
        running: whether it is trained at this moment.
        seconds_per_effort: what the other runs let expect.
    """

    def __init__(
        self,
        planned: PlannedRun,
        folder: Path,
        measurements: Path,
        accepts: Callable[[Mapping[str, Any]], bool],
        trained_in: Path | None = None,
    ) -> None:
        self.planned, self.name = planned, planned.name
        self.wanted = planned.experiment.epochs if planned.trained else 0
        self.log = folder / "logs" / f"{self.name}.log"
        self.unmeasured: str | None = None
        self.untrained: str | None = None
        self.running = False
        self.seconds_per_effort: float | None = None
        self.history: list[dict[str, Any]] = []
        self._since = time.monotonic()
        self._folder = runs.RunFolder((trained_in or folder / "runs") / self.name)
        self._measurement = measurements / f"{self.name}.json"
        self.measured = self._stored(accepts)
        self.look()

    def look(self) -> None:
        """Read how far training has come."""
        history = self._folder.read_metrics()[: self.wanted]
        if len(history) != len(self.history):
            self._since = time.monotonic()
        self.history = history

    def begin(self) -> None:
        """Training begins, or goes on."""
        self.running, self._since = True, time.monotonic()

    def end(self, reason: str | None) -> None:
        """Training has ended, with the reason if it failed."""
        self.look()
        self.running = False
        if reason is None and not self.finished:
            reason = f"ended after epoch {len(self.history)} of {self.wanted}; see its log"
        self.untrained = reason

    @property
    def finished(self) -> bool:
        return len(self.history) == self.wanted

    @property
    def state(self) -> Literal["waiting", "running", "done", "FAILED"]:
        if self.untrained:
            return "FAILED"
        return "done" if self.finished else "running" if self.running else "waiting"

    @property
    def failed(self) -> str | None:
        """Why the figure lacks it, or part of it, if something failed."""
        # What failed after the last epoch (to draw its curves, say) leaves the run whole.
        return (None if self.finished else self.untrained) or self.unmeasured

    @property
    def left(self) -> float | None:
        """Seconds to go; those of an epoch are those of its last ones, else of other runs."""
        if self.untrained or self.finished:
            return 0.0
        if self.history:
            epoch = fmean(metrics["seconds"] for metrics in self.history[-3:])
        elif self.seconds_per_effort is not None:
            epoch = self.seconds_per_effort * self.planned.effort
        else:
            return None
        begun = min(epoch, time.monotonic() - self._since) if self.running else 0.0
        return epoch * (self.wanted - len(self.history)) - begun

    @property
    def row(self) -> dict[str, Any]:
        """What every figure stores of it, with errors in % once it is finished."""
        last = self.history[-1] if self.history and self.finished else {}
        return {
            "name": self.name,
            "preset": self.planned.preset,
            "seed": self.planned.experiment.seed,
            "epochs": len(self.history),
            "train_error": last.get("train_error"),
            "test_error": last.get("test_error"),
            "seconds": fsum(metrics["seconds"] for metrics in self.history),
            "failed": self.failed,
        }

    @property
    def machine(self) -> str | None:
        """On what it was begun, and by which versions; none before."""
        try:
            environment = self._folder.read_config().environment
        except runs.RunError:
            return None
        names = ("processor", "device", "threads", "eqprop", "torch", "python")
        processor, device, threads, *versions = (environment.get(name) for name in names)
        if None in (processor, device, threads, *versions):
            return None
        where = processor if device == "cpu" else f"{device}, {processor}"
        eqprop, torch, python = versions
        several = "" if threads == 1 else "s"
        return (
            f"{where}, {threads} thread{several}, eqprop {eqprop}, torch {torch}, Python {python}"
        )

    def job(self, trainer: Sequence[str], data_dir: str | None, device: str) -> "runs.Job":
        """What trains it, or goes on with it: the command ``trainer``, told what to train.

        Args:
            device: on which it is begun, and then goes on.
        """
        place = [] if data_dir is None else [f"--data-dir={data_dir}"]
        path = self._folder.path
        on = [] if device == self.planned.experiment.device else [f"--device={device}"]
        return runs.Job(
            self.name,
            [*trainer, "train", *self.planned.words, *on, f"--out={path}", *place],
            self.log,
            begun=self._folder.config,
            resuming=[*trainer, "train", f"--resume={path}", f"--epochs={self.wanted}", *place],
        )

    def require_same(self) -> None:
        """Refuse a folder that holds another run.

        Raises:
            UsageError: it does, or it holds something else.
        """
        if not self._folder.config.exists():
            self._folder.require_new()
            return
        found = self._folder.read_config().experiment.to_json()
        for name, value in self.planned.experiment.to_json().items():
            if name not in _FREE and found[name] != value:
                raise UsageError(
                    f"{self._folder.path}: {name} = {found[name]}: expected {value}, as in the run "
                    "that is wanted; choose another --out"
                )

    def store(self, measured: dict[str, Any] | None) -> None:
        """Store what was measured, if anything, with the settings it belongs to."""
        self.measured = measured
        if measured is None:
            return
        settings = self.planned.experiment.to_json()
        settings = {name: value for name, value in settings.items() if name not in _FREE}
        written = json.dumps({**measured, "experiment": settings}, indent=2)
        write_atomically(self._measurement, f"{written}\n".encode())

    def _stored(self, accepts: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any] | None:
        """What was measured earlier; none if the settings were others, or it cannot be read."""
        wanted = self.planned.experiment
        try:
            found = json.loads(self._measurement.read_text(encoding="utf-8"))
            settings = {
                **found.pop("experiment"),
                **{name: getattr(wanted, name) for name in _FREE},
            }
            # Settings that are younger than the file had their defaults.
            same = Experiment().override(settings) == wanted
            return found if same and accepts(found) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def machines(of: Sequence[Run]) -> str | None:
    """On what these were begun, each machine once; none before."""
    return " and ".join(dict.fromkeys(run.machine for run in of if run.machine)) or None
