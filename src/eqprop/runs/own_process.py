"""A process of its own for every measurement: what one has used neither warms up, nor fragments,
nor counts as, what the next one uses.

It ends with the process that has started it, however that ends: by an error it is killed, and that
its parent is gone it notices itself.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from eqprop.errors import Failure
from eqprop.runs.undisturbed import undisturbed

__all__ = ["in_own_process"]


def in_own_process(
    name: str,
    measure: Callable[..., dict[str, Any]],
    *given: Any,
    tick: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """What ``measure`` returns for what is given, in a new process, which this call outlives.

    Args:
        name: what messages call it.
        tick: if there is one, ``measure`` is called with a ``tick`` too, for it to call with what
            it is doing; this one is then called here.

    Raises:
        Failure: the process was killed.
        Exception: what ``measure`` raised.
    """
    context = multiprocessing.get_context("spawn")
    connection, other_end = context.Pipe()
    process = context.Process(target=_work, args=(other_end, tick is not None), daemon=True)
    if hasattr(signal, "pthread_sigmask"):
        # What keeps track of processes' resources, once it is started, unblocks what is blocked
        # for the start of a process: so it goes first.
        resource_tracker.ensure_running()
    with undisturbed():
        process.start()
    # That process's end is then the only one: once it has gone, nothing more is to be received.
    other_end.close()
    try:
        with _alive(name):
            # Not what it is started with: to wait until it has imported all that takes seconds, in
            # which nothing would end it.
            connection.send((measure, given))
        while True:
            with _alive(name):
                said, what = connection.recv()
            if said == "found":
                return what
            if said == "raised":
                raise what
            if tick is not None:
                tick(what)
    finally:
        process.kill()
        process.join()
        connection.close()


@contextmanager
def _alive(name: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError):
        raise Failure(
            f"{name}: expected the process that measures it to end well, but it was killed; was "
            "there enough memory?"
        ) from None


def _work(connection: Connection, ticking: bool) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    measure, given = connection.recv()
    tick = {"tick": lambda what: connection.send(("doing", what))} if ticking else {}
    try:
        found = measure(*given, **tick)
    except Exception as error:
        connection.send(("raised", error))
    else:
        connection.send(("found", found))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
