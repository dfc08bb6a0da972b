"""What a launcher such as torchrun tells each of the processes that it starts.

It sets variables of the environment: ``WORLD_SIZE``, how many processes there are, ``RANK``, which
of them this one is, ``LOCAL_WORLD_SIZE`` and ``LOCAL_RANK``, the same of those on this machine, and
``MASTER_ADDR`` and ``MASTER_PORT``, where they meet.
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
        here: how many there are on this machine.
        meeting: the address and the port where they meet.
    """

    rank: int
    count: int
    local: int
    here: int
    meeting: tuple[str, int]

    @property
    def command(self) -> str:
        """What starts as many again, before the options of eqprop."""
        machines = -(-self.count // self.here)
        nodes = f"--nnodes {machines} " if machines > 1 else ""
        return f"torchrun {nodes}--nproc-per-node {self.here} -m eqprop"


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
        here = int(environment.get("LOCAL_WORLD_SIZE") or count)
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
    if count == 1:
        return None
    return Launch(rank, count, local, here, (environment["MASTER_ADDR"], port))
