"""What a person sees while they wait: a live bar on a terminal, else plain lines."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import final

from tqdm import tqdm

from eqprop.training import Metrics, Running

__all__ = ["Display", "Progress", "duration"]

_PLAIN_INTERVAL = 60.0
"""Seconds between two plain lines within an epoch."""

_PLAIN_PROGRESS = 10.0
"""Seconds between two plain lines of anything else."""


@final
class Display:
    """The progress of training, on standard error.

    Args:
        epochs: how many there will be.
        done: how many were completed earlier.
    """

    def __init__(self, epochs: int, done: int = 0) -> None:
        self._epochs = epochs
        self._started = self._said = time.perf_counter()
        self._done = done
        self._bar: tqdm | None = None
        self._live = sys.stderr.isatty()

    def batch(self, running: Running) -> None:
        """A mini-batch is done."""
        if not self._live:
            self._plain(running)
            return
        if self._bar is None:
            self._bar = tqdm(
                total=self._epochs * running.batches,
                initial=(running.epoch - 1) * running.batches,
                unit="batch",
                file=sys.stderr,
                leave=False,
                dynamic_ncols=True,
                mininterval=0.2,
            )
        if self._bar.update(1):
            self._bar.set_description_str(f"epoch {running.epoch}/{self._epochs}", refresh=False)
            self._bar.set_postfix_str(f"train error {running.train_error:.2f} %", refresh=False)

    def epoch(self, metrics: Metrics) -> None:
        """An epoch is done."""
        completed = metrics.epoch - self._done
        left = (time.perf_counter() - self._started) / completed * (self._epochs - metrics.epoch)
        line = (
            f"epoch {metrics.epoch:>{len(str(self._epochs))}}/{self._epochs}  "
            f"train error {metrics.train_error:6.2f} %  test error {metrics.test_error:6.2f} %  "
            f"{_angles(metrics.weight_angles)}{metrics.seconds:.1f} s  {duration(left)} left"
        )
        self._said = time.perf_counter()
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _plain(self, running: Running) -> None:
        now = time.perf_counter()
        if now - self._said < _PLAIN_INTERVAL:
            return
        self._said = now
        print(
            f"epoch {running.epoch}/{self._epochs}  batch {running.batch}/{running.batches}  "
            f"train error so far {running.train_error:.2f} %",
            file=sys.stderr,
            flush=True,
        )


@final
class Progress:
    """That of anything else: within it, call what it gives with the name of every part done.

    Nothing is shown in the first two seconds.

    Args:
        total: how many parts there will be.
        unit: what a part is.
    """

    def __init__(self, total: int, unit: str) -> None:
        self._bar = tqdm(
            total=total,
            unit=unit,
            file=sys.stderr,
            leave=False,
            dynamic_ncols=True,
            delay=2,
            disable=not sys.stderr.isatty(),
        )
        self._total, self._units = total, f"{unit}es" if unit.endswith("s") else f"{unit}s"
        self._done = 0
        self._said = time.perf_counter()

    def __enter__(self) -> Callable[[str], None]:
        return self._tick

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _tick(self, what: str) -> None:
        self._done += 1
        self._bar.set_description_str(what, refresh=False)
        self._bar.update(1)
        now = time.perf_counter()
        if self._bar.disable and now - self._said > _PLAIN_PROGRESS:
            self._said = now
            print(f"{self._done} of {self._total} {self._units}", file=sys.stderr, flush=True)


def _angles(angles: Sequence[float]) -> str:
    return f"weight angle {', '.join(f'{angle:.1f}°' for angle in angles)}  " if angles else ""


def duration(seconds: float) -> str:
    """Hours, if any, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
