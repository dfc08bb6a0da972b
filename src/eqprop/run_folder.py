"""A run's folder: what a training run leaves on the disk.

====================================  ========================================================
``config.json``                       all settings, versions and hardware: enough to run it again
``metrics.jsonl``                     one JSON object per epoch
``checkpoint/last.safetensors``       where to go on, see :mod:`eqprop.checkpoint`
``curves.png``                        errors over epochs
====================================  ========================================================

The checkpoint is the truth: the metrics of all epochs are in it too, and ``metrics.jsonl`` is
written after it, so that a kill between the two loses nothing.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

from eqprop.checkpoint import Checkpoint, write_atomically
from eqprop.experiment import Experiment

__all__ = ["RunError", "RunFolder", "environment"]


class RunError(Exception):
    """A folder that is not what it should be; one line says why."""


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
        return self.path / "checkpoint" / "last.safetensors"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    def require_new(self) -> None:
        """Refuse a folder in which something lies already.

        Raises:
            RunError: it exists and is not an empty folder.
        """
        if self.path.is_dir() and not any(self.path.iterdir()):
            return
        if self.path.exists():
            raise RunError(
                f"{self.path}: expected a new or empty folder, found something there; choose "
                f"another --out, or continue that run with --resume {self.path}"
            )

    def write_config(
        self, preset: str, experiment: Experiment, surroundings: Mapping[str, Any]
    ) -> None:
        """Write ``config.json``."""
        config = {
            "preset": preset,
            "experiment": experiment.to_json(),
            "environment": dict(surroundings),
        }
        write_atomically(self.config, (json.dumps(config, indent=2) + "\n").encode())

    def read_config(self) -> tuple[str, Experiment, dict[str, Any]]:
        """The preset's name, the experiment and the environment of ``config.json``.

        Raises:
            RunError: it is missing, or not one of ours.
        """
        if not self.config.is_file():
            raise RunError(f"{self.path}: expected the folder of a run, found no config.json in it")
        try:
            config = json.loads(self.config.read_text())
            experiment = Experiment().override(config["experiment"])
            return config["preset"], experiment, config["environment"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self.config}: expected the settings of a run, found a damaged file ({error})"
            ) from error

    def store(self, checkpoint: Checkpoint) -> None:
        """Store the state after an epoch, then its metrics."""
        checkpoint.save(self.checkpoint)
        with self.metrics.open("a") as file:
            file.write(json.dumps(checkpoint.history[-1]) + "\n")

    def rewrite_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Bring ``metrics.jsonl`` to the state of a checkpoint."""
        lines = "".join(json.dumps(metrics) + "\n" for metrics in history)
        write_atomically(self.metrics, lines.encode())


def environment(threads: int, device: str) -> dict[str, Any]:
    """Versions and hardware, to be stored beside every figure."""
    return {
        "eqprop": version("eqprop"),
        "torch": version("torch"),
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": device,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
