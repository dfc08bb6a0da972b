"""What a person sees while many runs go on: a board on a terminal, else a few plain lines."""

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from eqprop.display import duration

__all__ = ["RunBoard", "RunLine"]

_INTERVAL = 0.5
"""Seconds between two looks of the board."""

_PLAIN_INTERVAL = 600.0
"""Seconds between two plain lines on the runs that go on."""


@final
@dataclass(frozen=True)
class RunLine:
    """How one run stands.

    Attributes:
        name: of the run.
        state: what becomes of it.
        epoch: how many are completed, of ``epochs``.
        epochs: how many there are to be.
        test_error: after the last one, in %.
        left: seconds to go, if that can be said.
    """

    name: str
    state: Literal["waiting", "running", "done", "FAILED"]
    epoch: int
    epochs: int
    test_error: float | None
    left: float | None

    def text(self, width: int) -> str:
        """The line, with names padded to ``width``."""
        error = "" if self.test_error is None else f"test error {self.test_error:6.2f} %"
        running = self.state == "running"
        left = f"{duration(self.left)} left" if running and self.left is not None else ""
        progress = f"epoch {self.epoch:>3}/{self.epochs}"
        return f"{self.name:<{width}}  {self.state:<7}  {progress}  {error:<19}  {left}".rstrip()


@final
class RunBoard:
    """All runs, on standard error.

    Args:
        live: redraw lines in place; by default on a terminal alone.
    """

    def __init__(self, live: bool | None = None) -> None:
        self.live = sys.stderr.isatty() if live is None else live
        self._height = 0
        self._looked = -_INTERVAL
        self._said = time.monotonic()

    def say(self, line: str) -> None:
        """A line that stays."""
        self._clear()
        print(line, file=sys.stderr, flush=True)
        self._looked = -_INTERVAL

    def show(self, runs: Sequence[RunLine], left: float | None) -> None:
        """How all runs stand; called as often as one likes.

        Args:
            runs: those that are not done at least.
            left: seconds until all are done, if that can be said.
        """
        now = time.monotonic()
        if self.live and now - self._looked >= _INTERVAL:
            self._looked = now
            size = shutil.get_terminal_size()
            # A line too many, or too long, and the terminal scrolls: it could not be taken back.
            lines = [
                line[: size.columns - 1] for line in _board(runs, left, max(3, size.lines - 2))
            ]
            self._clear()
            print("\n".join(lines), file=sys.stderr, flush=True)
            self._height = len(lines)
        elif not self.live and now - self._said >= _PLAIN_INTERVAL:
            self._said = now
            going = ", ".join(
                f"{r.name} {r.epoch}/{r.epochs}" for r in runs if r.state == "running"
            )
            print(f"{_summary(runs, left)}: {going}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the board away."""
        self._clear()

    def _clear(self) -> None:
        if self._height:
            # Up to its first line, then erase to the end of the screen.
            print(f"\x1b[{self._height}A\x1b[J", end="", file=sys.stderr, flush=True)
            self._height = 0


def _board(runs: Sequence[RunLine], left: float | None, height: int) -> list[str]:
    """Those running, those waiting as far as there is room, and a line on all."""
    open_ = [r for r in runs if r.state == "running"] + [r for r in runs if r.state == "waiting"]
    shown = open_ if len(open_) < height else open_[: height - 2]
    width = max((len(run.name) for run in runs), default=0)
    lines = [run.text(width) for run in shown]
    if len(shown) < len(open_):
        lines.append(f"… and {len(open_) - len(shown)} more")
    return [*lines, _summary(runs, left)]


def _summary(runs: Sequence[RunLine], left: float | None) -> str:
    done = sum(run.state == "done" for run in runs)
    failed = sum(run.state == "FAILED" for run in runs)
    said = f"{done} of {len(runs)} runs done"
    said += f", {failed} failed" if failed else ""
    return said + (f", about {duration(left)} left" if left else "")
