"""A process of its own for every measurement: what one has used neither warms up, nor fragments,
nor counts as, what the next one uses."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from eqprop.errors import Failure

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
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_work, args=(sender, measure, given, tick is not None), daemon=True
    )
    process.start()
    # Its own end is then the only one: once the process has gone, nothing more is to be received.
    sender.close()
    try:
        while True:
            said, what = receiver.recv()
            if said == "found":
                return what
            if said == "raised":
                raise what
            if tick is not None:
                tick(what)
    except EOFError:
        raise Failure(
            f"{name}: expected the process that measures it to end well, but it was killed; was "
            "there enough memory?"
        ) from None
    finally:
        process.kill()
        process.join()
        receiver.close()


def _work(
    sender: Connection, measure: Callable[..., dict[str, Any]], given: Any, ticking: bool
) -> None:
    # Ctrl-C is for the command, which ends this process too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tick = {"tick": lambda what: sender.send(("doing", what))} if ticking else {}
    try:
        found = measure(*given, **tick)
    except Exception as error:
        sender.send(("raised", error))
    else:
        sender.send(("found", found))
