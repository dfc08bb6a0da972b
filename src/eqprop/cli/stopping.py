"""Being told to stop, by Ctrl-C, SIGTERM or SIGHUP: not in the middle of something; no error."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

__all__ = ["Stop"]

_SIGNALS = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
"""SIGHUP is that the terminal has gone; not every system has it."""


@final
class Stop:
    """Whether, and by which signal, the process was told to stop."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Within it the first SIGINT, SIGTERM or SIGHUP is noted, the next a KeyboardInterrupt.

        What is ignored still is, as SIGHUP by ``nohup``; but not Ctrl-C.

        Elsewhere than in the main thread, which alone may listen, signals do what they did.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._before = {
            number: signal.signal(number, self._note)
            for number in _SIGNALS
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def ignore(self) -> None:
        """Let nothing disturb what there is to be said at the end, which has come anyway: when one
        of several processes has gone, the launcher tells the others to go too."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)
        self._before = {}

    def _note(self, number: int, _: Any) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
