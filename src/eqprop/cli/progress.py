"""What a person sees while they wait: a live bar on a terminal, else a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import lazy_loader

from eqprop import core, training

__all__ = ["Display", "Progress", "duration"]

# Some hundredths of a second that --help need not wait for.
tqdm: Any = lazy_loader.load("tqdm")


@final
class Progress:
    """How far something has come, on standard error: within it, call what it gives with every part.

    Args:
        total: how many parts there will be.
        unit: what a part is.
        done: how many were done earlier.
        delay: seconds in which nothing is shown.
        interval: seconds between two plain lines.
    """

    def __init__(
        self, total: int, unit: str, *, done: int = 0, delay: float = 2, interval: float = 10
    ) -> None:
        self._bar = tqdm.tqdm(
            total=total,
            initial=done,
            unit=unit,
            file=sys.stderr,
            leave=False,
            dynamic_ncols=True,
            mininterval=0.2,
            delay=delay,
            disable=not sys.stderr.isatty(),
            # Short enough to leave room for the bar on a terminal of 60 columns.
            bar_format="{desc} |{bar}| {percentage:.0f} %, {remaining} left",
        )
        self._total, self._unit = total, unit
        self._done, self._interval = done, interval
        self._said = time.perf_counter()

    def __enter__(self) -> Callable[[object], None]:
        return self.tick

    def __exit__(self, *_: object) -> None:
        self.close()

    def tick(self, what: object) -> None:
        """A part is done: ``what`` says which, and is made a ``str`` only where that is shown."""
        self._done += 1
        if self._bar.disable:
            if time.perf_counter() - self._said >= self._interval:
                self.say(f"{what}: {self._done} of {core.counted(self._total, self._unit)}")
        elif self._bar.update(1):
            self._bar.set_description_str(str(what))

    def going(self, what: object) -> None:
        """Something goes on within a part, which ``what`` says."""
        if not self._bar.disable:
            self._bar.set_description_str(str(what))

    def say(self, line: str) -> None:
        """A line that stays."""
        self._said = time.perf_counter()
        self._bar.write(line, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


@final
class Display:
    """The progress of training.

    Args:
        epochs: how many there will be.
        batches: mini-batches in each.
        done: how many mini-batches were done earlier.
        settles: whether samples stop where they rest, each after steps of its own.
        tested_on: which samples the test error is of.
    """

    def __init__(
        self,
        epochs: int,
        batches: int,
        done: int = 0,
        *,
        settles: bool = False,
        tested_on: str = "test",
    ) -> None:
        self._epochs, self._batches, self._settles = epochs, batches, settles
        self._tested_on = tested_on
        self._done, self._started = done, time.perf_counter()
        self._progress = Progress(epochs * batches, "batch", done=done, delay=0, interval=60)

    def batch(self, running: training.Running) -> None:
        """A mini-batch is done, of the epoch or of its test."""
        if running.tested:
            self._progress.going(_Testing(running, self._epochs))
        else:
            self._progress.tick(_Epoch(running, self._epochs))

    def epoch(self, metrics: training.Metrics) -> None:
        """An epoch is done."""
        done = metrics.epoch * self._batches
        per_batch = (time.perf_counter() - self._started) / max(1, done - self._done)
        left = per_batch * (self._epochs * self._batches - done)
        self._progress.say(
            f"epoch {metrics.epoch:>{len(str(self._epochs))}}/{self._epochs}  "
            f"error: train {metrics.train_error:5.2f} %, "
            f"{self._tested_on} {metrics.test_error:5.2f} %  "
            f"{_angles(metrics.weight_angles)}{_steps(metrics) if self._settles else ''}"
            f"{_unrest(metrics)}"
            f"{metrics.seconds:.1f} s  {duration(left)} left"
        )

    def warn(self, line: str) -> None:
        """Something to think about."""
        self._progress.say(f"warning: {line}")

    def close(self) -> None:
        """Take the bar away."""
        self._progress.close()


@final
@dataclass(frozen=True)
class _Epoch:
    running: training.Running
    epochs: int

    def __str__(self) -> str:
        # To ask for the error waits for the device.
        error = self.running.train_error
        return f"epoch {self.running.epoch}/{self.epochs}, error {error:.2f} %"


@final
@dataclass(frozen=True)
class _Testing:
    running: training.Running
    epochs: int

    def __str__(self) -> str:
        return f"epoch {self.running.epoch}/{self.epochs}, {self.running.tested} tested"


def _angles(angles: Sequence[float]) -> str:
    return f"weight angle {', '.join(f'{angle:.1f}°' for angle in angles)}  " if angles else ""


def _steps(metrics: training.Metrics) -> str:
    said = []
    if metrics.free_steps is not None:
        said.append(f"T {metrics.free_steps:.1f} (most {metrics.most_free_steps})")
    if metrics.nudged_steps is not None:
        said.append(f"K {metrics.nudged_steps:.1f}")
    return f"{', '.join(said)}  " if said else ""


def _unrest(metrics: training.Metrics) -> str:
    """Of the free phases, where it is more than nothing at the precision of the line."""
    share = metrics.restless or 0.0
    return f"{share:.1f} % not at rest  " if share >= 0.05 else ""


def duration(seconds: float) -> str:
    """Hours, if any, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
