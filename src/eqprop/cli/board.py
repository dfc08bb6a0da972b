"""What a person sees while many runs go on: a board on a terminal, else a few plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

from eqprop import figures
from eqprop.cli.progress import Progress, duration

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live


__all__ = ["RunBoard"]

_PLAIN_INTERVAL = 600.0
"""Seconds between two plain lines on the runs that go on."""


@final
class RunBoard:
    """All runs, on standard error: those that run, and as many of those that wait as there is room.

    A :class:`~eqprop.figures.Watcher`, and what rich draws.

    Args:
        console: where, if not there.
    """

    def __init__(self, console: Console | None = None) -> None:
        # Imported here: rich takes a tenth of a second that only those who see a board wait for.
        from rich.console import Console
        from rich.live import Live

        # Said, since rich takes a file for a terminal where the environment forces colours.
        self._console = console or Console(stderr=True, force_terminal=sys.stderr.isatty())
        self._live: Live | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(self, console=self._console, refresh_per_second=2, transient=True)
        self._runs: Sequence[figures.Run] = ()
        self._left: float | None = None
        self._said = time.monotonic()

    def measuring(self, total: int, what: str, /) -> Progress:
        return Progress(total, what)

    def say(self, line: str) -> None:
        from rich.text import Text

        self._console.print(Text(line), soft_wrap=True)

    def started(self, run: figures.Run) -> None:
        if self._live is None:
            begun = f", from epoch {len(run.history) + 1}" if run.history else ""
            self.say(f"{run.name}: started{begun}")

    def ended(self, run: figures.Run) -> None:
        width = max((len(other.name) for other in self._runs), default=0)
        error = f"test error {_error(run)}" if run.history else ""
        words = f"{run.name:<{width}}  {run.state:<6}  epoch {len(run.history):>3}/{run.wanted}"
        self.say(f"{words}  {error:<18}  {run.untrained or ''}".rstrip())

    def show(self, runs: Sequence[figures.Run], left: float | None) -> None:
        self._runs, self._left = runs, left
        if self._live is not None:
            self._live.start()
        elif time.monotonic() - self._said >= _PLAIN_INTERVAL:
            self._said = time.monotonic()
            going = [f"{run.name} {len(run.history)}/{run.wanted}" for run in runs if run.running]
            self.say(f"{self._summary}: {', '.join(going)}")

    def close(self) -> None:
        """Take the board away; what was said stays."""
        if self._live is not None:
            self._live.stop()

    @property
    def _summary(self) -> str:
        states = [run.state for run in self._runs]
        said = f"{states.count('done')} of {len(states)} runs done"
        said += f", {states.count('FAILED')} failed" if "FAILED" in states else ""
        return said + (f", about {duration(self._left)} left" if self._left else "")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.table import Table
        from rich.text import Text

        states = ("running", "waiting")
        open_ = [run for state in states for run in self._runs if run.state == state]
        # Beside them: the headers, the summary, and one line of what was said.
        room = max(1, options.size.height - 3)
        shown = open_ if len(open_) <= room else open_[: room - 1]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for header in ("run", "", "epoch", "test error", "left"):
            right = header in ("epoch", "test error", "left")
            table.add_column(header, no_wrap=header != "run", justify="right" if right else "left")
        for run in shown:
            # On a narrow terminal it is the name that gives way.
            name = Text(run.name, no_wrap=True, overflow="ellipsis")
            left = duration(run.left) if run.running and run.left is not None else ""
            table.add_row(name, run.state, f"{len(run.history)}/{run.wanted}", _error(run), left)
        yield table
        if len(shown) < len(open_):
            yield Text(f"… and {len(open_) - len(shown)} more")
        yield Text(self._summary, no_wrap=True, overflow="ellipsis")


def _error(run: figures.Run) -> str:
    return f"{run.history[-1]['test_error']:.2f} %" if run.history else ""
