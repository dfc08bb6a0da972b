"""A run's folder: what a training run leaves on the disk.

====================================  ========================================================
``config.json``                       all settings, versions and hardware: enough to run it again
``metrics.jsonl``                     one JSON object per epoch
``inputs.json``                       how inputs are scaled, and what the classes are called
``checkpoint/last.safetensors``       where to go on, see :mod:`eqprop.training.checkpoint`
``curves.png``                        errors over epochs
====================================  ========================================================

The checkpoint is the truth: the metrics of all epochs are in it too, and ``metrics.jsonl`` is
written after it, so that a kill between the two loses nothing.
"""

import json
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, final

from eqprop.data.inputs import Inputs
from eqprop.errors import ConfigurationError, Failure, UsageError, system_error
from eqprop.files import locked, naming, write_atomically
from eqprop.settings.experiment import Experiment
from eqprop.settings.fields import UnknownSettingsError
from eqprop.training.checkpoint import LAST, Checkpoint
from eqprop.version import __version__

__all__ = ["RunConfig", "RunError", "RunFolder", "new_folder", "require_folder", "resuming"]

_LEGIBLE = 80
"""Characters that the name of a folder may have before the time."""


def resuming(folder: Path) -> str:
    """The option that goes on with a run, as a shell takes it."""
    named = shlex.quote(str(folder))
    # What begins like an option would be taken for one.
    return f"--resume={named}" if str(folder).startswith("-") else f"--resume {named}"


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
    def inputs(self) -> Path:
        return self.path / "inputs.json"

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
                    f", or continue that run with {resuming(self.path)}"
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
        with ExitStack() as held:
            with naming(self._lock):
                self.path.mkdir(parents=True, exist_ok=True)
                try:
                    held.enter_context(locked(self._lock, wait=False))
                except TimeoutError:
                    raise RunError(
                        f"{self.path}: expected a run that nobody works on, but another process "
                        "does; wait for it, or begin a new run elsewhere"
                    ) from None
            yield

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

    def write_inputs(self, inputs: Inputs | None) -> None:
        """Write ``inputs.json``, where anything is known."""
        if inputs is not None:
            written = json.dumps(inputs.to_json(), indent=2) + "\n"
            write_atomically(self.inputs, written.encode())

    def read_inputs(self) -> Inputs | None:
        """What ``inputs.json`` says; none if it is not there, as in runs before it was written.

        Raises:
            RunError: it is damaged.
        """
        try:
            written = self.inputs.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(system_error(error)) from None
        try:
            return Inputs.stored(json.loads(written))
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self.inputs}: expected shape, classes and scale of the inputs, found something "
                f"else ({type(error).__name__}: {error}); delete it to have the data looked at"
            ) from None

    def require_same_inputs(self, inputs: Inputs | None) -> None:
        """Refuse data that is no longer what the run has learnt from.

        Raises:
            RunError: the inputs have another shape, or the classes have other names or another
                order, so that what was learnt would be taken for something else.
        """
        known = self.read_inputs()
        if known is None or inputs is None:
            return
        for what in ("shape", "classes", "names"):
            was, now = getattr(known, what), getattr(inputs, what)
            if was != now:
                said, found = (
                    ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
                    for value in (was, now)
                )
                plural = {"shape": "inputs of shape", "classes": "classes:", "names": "the classes"}
                raise RunError(
                    f"{self.path}: expected the data that it has learnt from, {plural[what]} "
                    f"{said or 'none'}, found {found or 'none'}; bring that back, or train a new "
                    "run"
                )

    def read_config(self) -> RunConfig:
        """What ``config.json`` says.

        Raises:
            RunError: it is missing, not one of ours, or that of a version to come.
        """
        if not self.config.is_file():
            found = "no config.json in it" if self.path.is_dir() else "no such folder"
            raise RunError(
                f"{self.path}: expected the folder of a run, found {found}{self._near()}"
            )
        try:
            written = self.config.read_bytes()
        except OSError as error:
            raise RunError(system_error(error)) from None
        config: Any = None
        try:
            # Of bytes, as some editors begin a file with a mark of its encoding.
            config = json.loads(written)
            if not isinstance(config["data_dir"], str | None):
                raise ConfigurationError("data_dir", config["data_dir"], "the name of a folder")
            experiment = Experiment.stored(config["experiment"])
            return RunConfig(
                str(config["preset"]), experiment, config["data_dir"], dict(config["environment"])
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{self.config}: {_unreadable(config, error)}") from error

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
            CheckpointError: it is damaged.
            RunError: there is none, or the settings are others.
        """
        if not self.checkpoint.exists():
            resume = f"train it first, with: eqprop train --resume {shlex.quote(str(self.path))}"
            lost = "it is lost: restore it from a copy, or start a new run"
            raise RunError(
                f"{self.checkpoint}: expected a checkpoint, found no such file; "
                + (lost if self.has_metrics else resume)
            )
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
        """Store the state within an epoch, or after one and then its metrics.

        Raises:
            RunError: the disk is full, say, or somebody has moved the folder meanwhile.
        """
        if not self.config.exists():
            raise RunError(
                f"{self.path}: expected the folder of this run, found that it was moved or removed "
                "meanwhile; if it was moved, go on with: eqprop train --resume ITS_NEW_PLACE"
            )
        try:
            checkpoint.save(self.checkpoint)
            if checkpoint.unfinished is not None:
                return
            with naming(self.metrics), self.metrics.open("a") as file:
                file.write(json.dumps(checkpoint.history[-1]) + "\n")
        except OSError as error:
            resume = f"then go on with: eqprop train {resuming(self.path)}"
            raise RunError(system_error(error, resume)) from None

    def _near(self) -> str:
        """The newest runs within a folder that is none, or beside one that does not exist."""
        within = self.path if self.path.is_dir() else self.path.parent
        with suppress(OSError):
            runs = sorted(within.glob("*/config.json"), key=lambda at: -at.stat().st_mtime)
            if runs:
                names = ", ".join(shlex.quote(str(at.parent)) for at in runs[:3])
                return f"; there is {names}{', …' * (len(runs) > 3)}"
        return ""

    def rewrite_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Bring ``metrics.jsonl`` to the state of a checkpoint."""
        lines = "".join(json.dumps(metrics) + "\n" for metrics in history)
        write_atomically(self.metrics, lines.encode())


def _unreadable(config: Any, error: Exception) -> str:
    """Why the settings of a run cannot be read, and what to do."""
    environment = config.get("environment") if isinstance(config, dict) else None
    theirs = environment.get("eqprop") if isinstance(environment, dict) else None
    if isinstance(theirs, str) and _order(theirs) > _order(__version__):
        return (
            f"written by a newer version of eqprop: expected a run of {__version__} or earlier, "
            f"found one of {theirs} ({error}); upgrade eqprop"
        )
    if isinstance(error, UnknownSettingsError):
        return (
            "written by a newer version of eqprop, or changed by hand: expected the settings that "
            f"{__version__} has, found {error} too; upgrade eqprop, or restore the file from a copy"
        )
    if isinstance(error, ConfigurationError):
        return f"{error}; put it right, or restore the file from a copy"
    if config is None:
        found = f"a file that is no JSON, or only the beginning of it ({error})"
    elif isinstance(error, KeyError):
        found = f"a file without {error.args[0]}"
    else:
        found = "something else"
    return f"expected the settings of a run, found {found}; restore it from a copy"


def _order(version: str) -> list[int]:
    """By which versions are compared."""
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def require_folder(path: Path) -> None:
    """Refuse a place where no folder is, or can be made.

    Raises:
        UsageError: a file is in the way, or nothing can be written there.
    """
    nearest = next(p for p in (path, *path.absolute().parents) if p.exists() or p.is_symlink())
    if not nearest.exists():
        raise UsageError(
            f"{path}: expected a folder, but {nearest} is a link to {nearest.readlink()}, which is "
            "not there; choose another --out"
        )
    if not nearest.is_dir():
        raise UsageError(
            f"{path}: expected a folder, but {nearest} is a file; choose another --out"
        )
    # Now, not once everything is computed.
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(
            f"{path}: expected a folder that can be written to, but {nearest} cannot; change the "
            "permissions, or choose another --out"
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
