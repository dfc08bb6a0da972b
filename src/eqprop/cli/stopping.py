"""Being told to stop, by Ctrl-C or SIGTERM: not in the middle of something, and not an error."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

__all__ = ["Stop"]


@final
class Stop:
    """Whether, and by which signal, the process was told to stop."""

    def __init__(self) -> None:
        self.number: int | None = None

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Within it the first SIGINT or SIGTERM is noted, and the second is a KeyboardInterrupt.

        Elsewhere than in the main thread, which alone may listen, signals do what they did.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
