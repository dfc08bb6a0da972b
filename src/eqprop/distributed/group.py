"""The processes that train together, and what they can do together: sum, and follow the first.

Every operation here is one that all of them take, in the same order; whoever comes first waits. If
one of them has gone, the others learn it here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor
from torch import distributed as dist

from eqprop.errors import Failure

__all__ = ["Group", "RankError"]


@final
class RankError(Failure):
    """Another of the processes has gone, so that nobody can go on; or does something else."""


@final
class Group:
    """All processes of torch's default group.

    Args:
        device: where what is to be summed is put, if it is on none yet.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.count, self.device = dist.get_rank(), dist.get_world_size(), device

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the tensors of all processes, in place, bit for bit the same in each.

        Raises:
            RankError: another process has gone.
        """
        with self._together():
            dist.all_reduce(tensor)
        return tensor

    def follow(self, tensor: Tensor) -> Tensor:
        """That of the first process, in place.

        Raises:
            RankError: another process has gone.
        """
        with self._together():
            dist.broadcast(tensor, 0)
        return tensor

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            # On the CPU torch has no exception of its own for it.
            raise RankError(
                f"process {self.rank} of {self.count}: expected all to go on together, but another "
                f"one has ended, or cannot be reached ({_in_short(error)})"
            ) from None


def _in_short(error: RuntimeError) -> str:
    """What torch says, without the place in its sources where it says it."""
    line = str(error).strip().splitlines()[0]
    return line.rpartition("] ")[2].rstrip(". ")
