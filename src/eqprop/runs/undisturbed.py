"""Starting a process without being interrupted halfway, and without its being interrupted too."""

import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

__all__ = ["blocked", "undisturbed"]


@contextmanager
def undisturbed(*also: int) -> Iterator[None]:
    """Within it a process is started from which Ctrl-C is kept, as it is for the command, which
    does then what is to be done; and SIGTERM waits, as one that is started by half complains.

    Args:
        also: signals that are kept from the process besides.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or not hasattr(signal, "pthread_sigmask"):  # as on Windows
        yield
        return
    waiting: list[int] = []
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        with blocked({signal.SIGINT, *also}):
            if callable(terminate):
                signal.signal(signal.SIGTERM, lambda number, _: waiting.append(number))
            try:
                yield
            finally:
                if callable(terminate):
                    signal.signal(signal.SIGTERM, terminate)
    finally:
        for number in waiting:
            signal.raise_signal(number)


@contextmanager
def blocked(signals: Collection[int]) -> Iterator[None]:
    """Within it these signals wait, and a process that is started never gets them."""
    # Blocked, which such a process inherits, and not ignored: one that comes now is not lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
