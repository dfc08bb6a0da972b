"""Evaluation: how often, and by how much, the free steady state misses the target."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from eqprop.core.costs import Cost, SquaredError
from eqprop.core.models import ConvergentModel
from eqprop.core.phases import relax
from eqprop.data.dataset import Split, one_hot

__all__ = ["Evaluation", "evaluate", "predict"]


@final
@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        error: misclassified samples, in %.
        loss: mean cost.
        samples: how many were looked at.
        residual: max |s_T − s_{T−1}| at the end of the free phase, over all samples, per layer.
    """

    error: float
    loss: float
    samples: int
    residual: tuple[float, ...]


@torch.no_grad()
def predict(
    model: ConvergentModel, x: Tensor, free_steps: int, tolerance: float | None = None
) -> Tensor:
    """The class of every sample, (B,): the largest unit of the output at the steady state."""
    return relax(model, x, free_steps, tolerance=tolerance).state[-1].argmax(1)


@torch.no_grad()
def evaluate(
    model: ConvergentModel,
    split: Split,
    free_steps: int,
    *,
    tolerance: float | None = None,
    cost: Cost | None = None,
    batch_size: int = 500,
) -> Evaluation:
    """Error and loss of the free steady state over a whole split.

    Args:
        free_steps: T.
        tolerance: end a free phase early, see :func:`~eqprop.core.phases.relax`.
        cost: ℓ; the squared error if not given.
        batch_size: how many samples settle at once; the result does not depend on it, but for
            rounding.
    """
    cost = cost or SquaredError()
    wrong = torch.zeros((), dtype=torch.int64, device=split.labels.device)
    loss = torch.zeros((), dtype=torch.float64, device=split.labels.device)
    worst: tuple[float, ...] = ()
    for x, labels in split.batches(batch_size):
        free = relax(model, x, free_steps, tolerance=tolerance)
        output = free.state[-1]
        wrong += (output.argmax(1) != labels).sum()
        loss += cost(output, one_hot(labels, output.shape[1], output.dtype)).sum()
        worst = tuple(map(max, worst, free.residual)) if worst else free.residual
    samples = len(split)
    return Evaluation(100 * wrong.item() / samples, loss.item() / samples, samples, worst)
