"""A run's folder: what a training run leaves on the disk.

====================================  ========================================================
``config.json``                       all settings, versions and hardware: enough to run it again
``metrics.jsonl``                     one JSON object per epoch
``checkpoint/last.safetensors``       where to go on, see :mod:`eqprop.training.checkpoint`
``curves.png``                        errors over epochs
====================================  ========================================================

The checkpoint is the truth: the metrics of all epochs are in it too, and ``metrics.jsonl`` is
written after it, so that a kill between the two loses nothing.
"""

import json
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, final

from filelock import FileLock, Timeout

from eqprop.errors import Failure, UsageError
from eqprop.files import write_atomically
from eqprop.settings.experiment import Experiment
from eqprop.training.checkpoint import LAST, Checkpoint

__all__ = ["RunConfig", "RunError", "RunFolder", "new_folder", "require_folder"]

_LEGIBLE = 80
"""Characters that the name of a folder may have before the time."""


class RunError(Failure):
    """A folder that is not what it should be; one line says why."""


@final
@dataclass(frozen=True)
class RunConfig:
    """``config.json``.

    Attributes:
        preset: the name of the preset the run began with.
        experiment: all settings.
        data_dir: where its data lies, if that was said.
        environment: versions and hardware.
    """

    preset: str
    experiment: Experiment
    data_dir: str | None
    environment: dict[str, Any]


@final
@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.path / LAST

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def _lock(self) -> Path:
        return self.path / ".lock"

    def require_new(self) -> None:
        """Refuse a folder that cannot be a new one.

        Raises:
            UsageError: something lies there already, or no folder can be made there.
        """
        require_folder(self.path)
        if self.path.is_dir():
            # A kill may leave a lock, and the beginning of a file that was to take its place whole.
            left = {self._lock, *self.path.glob(".*.part")}
            if any(entry not in left for entry in self.path.iterdir()):
                resume = (
                    f", or continue that run with --resume {shlex.quote(str(self.path))}"
                    if self.config.exists()
                    else ""
                )
                raise UsageError(
                    f"{self.path}: expected a new or empty folder, found something there; choose "
                    f"another --out{resume}"
                )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes off the run, which two at once would mix up.

        Raises:
            RunError: another process has it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._lock, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise RunError(
                f"{self.path}: expected a run that nobody works on, but another process does; "
                "wait for it, or choose another --out"
            ) from None
        try:
            yield
        finally:
            # The file stays: to remove it would let in two that wait for it at once.
            lock.release()

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Claimed, and new at that: another process may have begun there meanwhile.

        Raises:
            RunError: another process has it.
            UsageError: something lies there already.
        """
        with self.claimed():
            self.require_new()
            yield

    def write_config(self, config: RunConfig) -> None:
        """Write ``config.json``."""
        written = {**vars(config), "experiment": config.experiment.to_json()}
        write_atomically(self.config, (json.dumps(written, indent=2) + "\n").encode())

    def read_config(self) -> RunConfig:
        """What ``config.json`` says.

        Raises:
            RunError: it is missing, or not one of ours.
        """
        if not self.config.is_file():
            raise RunError(f"{self.path}: expected the folder of a run, found no config.json in it")
        try:
            config = json.loads(self.config.read_text(encoding="utf-8"))
            if not isinstance(config["data_dir"], str | None):
                raise TypeError(f"data_dir = {config['data_dir']}")
            experiment = Experiment.stored(config["experiment"])
            return RunConfig(
                str(config["preset"]), experiment, config["data_dir"], dict(config["environment"])
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"{self.config}: expected the settings of a run, found a damaged file "
                f"({type(error).__name__}: {error}); restore it from a copy"
            ) from error

    @property
    def has_metrics(self) -> bool:
        """Whether an epoch was ever completed here."""
        return self.metrics.exists() and self.metrics.stat().st_size > 0

    def read_metrics(self) -> list[dict[str, Any]]:
        """The metrics of every epoch so far, also of a run that goes on at this moment.

        A kill may leave the last line torn: that epoch is left out.
        """
        history: list[dict[str, Any]] = []
        try:
            lines = self.metrics.read_text(encoding="utf-8").splitlines()
            for line in lines:
                history.append(json.loads(line))
        except (FileNotFoundError, ValueError):
            pass
        return history

    def read_checkpoint(self, config: RunConfig) -> Checkpoint:
        """The checkpoint, if it was written with the settings of the configuration.

        Raises:
            CheckpointError: there is none, or it is damaged.
            RunError: the settings are others.
        """
        checkpoint = Checkpoint.load(self.checkpoint)
        # What the checkpoint lacks is younger than it.
        written = {**Experiment().to_json(), **checkpoint.settings}
        for name, value in config.experiment.to_json().items():
            # More epochs may have been asked for since.
            if name != "epochs" and written.get(name) != value:
                raise RunError(
                    f"{self.config}: {name} = {value}: expected {written.get(name)}, "
                    "with which the checkpoint was written; put it back, or start a new run"
                )
        return checkpoint

    def store(self, checkpoint: Checkpoint) -> None:
        """Store the state within an epoch, or after one and then its metrics."""
        checkpoint.save(self.checkpoint)
        if checkpoint.unfinished is not None:
            return
        with self.metrics.open("a") as file:
            file.write(json.dumps(checkpoint.history[-1]) + "\n")

    def rewrite_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Bring ``metrics.jsonl`` to the state of a checkpoint."""
        lines = "".join(json.dumps(metrics) + "\n" for metrics in history)
        write_atomically(self.metrics, lines.encode())


def require_folder(path: Path) -> None:
    """Refuse a place where no folder is, or can be made.

    Raises:
        UsageError: a file is in the way.
    """
    nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise UsageError(
            f"{path}: expected a folder, but {nearest} is a file; choose another --out"
        )


def new_folder(name: str, changes: Mapping[str, Any] | None = None) -> Path:
    """Make a new folder below ``runs/``, named after what it is to hold and the present time.

    Args:
        name: of what it holds, such as a preset.
        changes: settings that differ from it, of which the name tells as many as are legible.
    """
    for change, value in (changes or {}).items():
        said = "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        longer = f"{name}-{change.replace('_', '-')}-{said}"
        # What a device or an activation is called may hold what a file name must not.
        if len(longer) > _LEGIBLE or not re.fullmatch(r"[\w.-]+", longer):
            name += "-and-more"
            break
        name = longer
    path = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for candidate in chain([path], (path.with_name(f"{path.name}-{n}") for n in count(2))):
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            continue
        return candidate
    raise AssertionError
