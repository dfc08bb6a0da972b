"""Who speaks, where several processes meet the same: whoever comes first, and nobody after.

The processes may be at their end, and the first of them gone: they agree by the store of keys that
the launcher keeps for them.
"""

import os
import socket
import sys
import time
from datetime import timedelta
from typing import Any

from eqprop.distributed.launch import Launch

__all__ = ["await_end", "speaks_first", "tell_end"]

_PATIENCE = timedelta(seconds=5)
"""How long the launcher may take to answer: it is there, or it is not."""


def speaks_first(launch: Launch) -> bool:
    """Whether nobody has asked before: then it is for this process to say what has happened."""
    store = _store(launch)
    if store is None:
        # Not there yet, where the first process keeps it itself; or gone with that.
        known = sys.modules.get("torch.distributed")
        return launch.rank == 0 or (known is not None and known.is_initialized())
    return store.add(_key("spoken"), 1) == 1


def tell_end(launch: Launch) -> None:
    """Let the others know that this process has done what it had to."""
    store = _store(launch)
    if store is not None:
        store.set(_key("ended"), "")


def await_end(launch: Launch) -> None:
    """Wait until the first process has ended: launchers end the others when one ends early."""
    store = _store(launch)
    while store is not None:
        try:
            # Not by its own way to wait, in which no signal would be noticed.
            if store.check([_key("ended")]):
                return
        except RuntimeError:
            return  # It has gone, and its store with it.
        time.sleep(0.02)


def _key(what: str) -> str:
    """Of this attempt, where a launcher makes several."""
    return f"eqprop/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{what}"


def _store(launch: Launch) -> Any:
    """What the launcher keeps; none if it cannot be reached."""
    address, port = launch.meeting
    try:
        # Torch would try again and again, and complain at length.
        socket.create_connection(launch.meeting, _PATIENCE.total_seconds()).close()
    except OSError:
        return None
    # Imported here, as what is said before anything is computed needs no torch in one process.
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        return TCPStore(address, port, is_master=False, timeout=_PATIENCE, wait_for_workers=False)
    except RuntimeError:
        return None
