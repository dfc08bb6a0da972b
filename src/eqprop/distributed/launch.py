"""What a launcher such as torchrun tells each of the processes that it starts.

It sets variables of the environment: ``WORLD_SIZE``, how many processes there are, ``RANK``, which
of them this one is, ``LOCAL_RANK``, which of those on this machine, and ``MASTER_ADDR`` and
``MASTER_PORT``, where they meet.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from eqprop.errors import UsageError

__all__ = ["Launch", "launched"]

_TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@final
@dataclass(frozen=True)
class Launch:
    """One of several processes.

    Attributes:
        rank: which, from 0.
        count: of how many.
        local: which of those on this machine, from 0.
        meeting: the address and the port where they meet.
    """

    rank: int
    count: int
    local: int
    meeting: tuple[str, int]


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """What was told; none if this process is the only one.

    Raises:
        UsageError: something else than numbers.
    """
    if not all(environment.get(name) for name in _TOLD):
        return None
    try:
        rank, count, port = (int(environment[n]) for n in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
        local = int(environment.get("LOCAL_RANK") or rank)
    except ValueError:
        said = ", ".join(f"{name}={environment[name]}" for name in _TOLD)
        raise UsageError(
            f"{said}: expected whole numbers, as torchrun sets them; start the command with "
            "torchrun, or unset them"
        ) from None
    if not 0 <= rank < count:
        raise UsageError(
            f"RANK={rank}: expected one of 0 to {count - 1}, as WORLD_SIZE={count} says; start the "
            "command with torchrun, or unset both"
        )
    return None if count == 1 else Launch(rank, count, local, (environment["MASTER_ADDR"], port))
