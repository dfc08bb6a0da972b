"""What one mini-batch has come to, summed over the processes that share it.

A process that only stands in (:meth:`~eqprop.distributed.ranks.Ranks.part`) adds nothing. All of it
travels in one small operation, and what the processes wish each other to know with it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from eqprop.core.models import ConvergentModel
from eqprop.core.settling import Relaxation
from eqprop.distributed.ranks import Ranks
from eqprop.training.settled import Tally

__all__ = ["require_in_step", "summed"]


def summed(
    ranks: Ranks,
    numbers: Sequence[Tensor | float],
    phases: Sequence[tuple[Tally, Sequence[Relaxation]]],
) -> list[float]:
    """Σ over all processes of each number.

    Args:
        numbers: of this process's share.
        phases: its phases, each with the tally that is to receive those of all processes.

    Raises:
        RankError: another process has gone.
    """
    row = [float(number) for number in numbers]
    own = [tally.empty() for tally, _ in phases]
    for tally, (_, relaxations) in zip(own, phases, strict=True):
        for relaxation in relaxations:
            tally.add(relaxation)
        row += tally.sums().values()
    rows = ranks.gather(row if ranks.samples else [0.0] * len(row))
    begin = len(numbers)
    for (tally, _), empty in zip(phases, own, strict=True):
        names = list(empty.sums())
        for of in rows:
            tally.include(dict(zip(names, of[begin : begin + len(names)], strict=True)))
        begin += len(names)
    return [sum(of) for of in zip(*(of[: len(numbers)] for of in rows), strict=True)]


@torch.no_grad()
def require_in_step(ranks: Ranks, model: ConvergentModel, generator: torch.Generator) -> None:
    """Refuse processes that have parted: which draw, or have learnt, something of their own.

    Raises:
        RankError: says which of both; or another process has gone.
    """
    if ranks.count == 1:
        return
    ranks.require_alike(
        "generator",
        generator.get_state(),
        "give all the same seed, and draw in an estimator of your own once for a mini-batch, not "
        "for each of its samples, of which every process has others",
    )
    sums = [p.detach().double().sum().to(ranks.device) for p in model.parameters()]
    ranks.require_alike(
        "parameters",
        torch.stack(sums).view(torch.int64),
        "leave it to the optimizer's step to change them, as it alone sees the gradients of all",
    )
