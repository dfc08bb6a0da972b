"""Evaluation: how often, and by how much, the free steady state misses the target."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from eqprop.core.costs import Cost, SampleWeighted, SquaredError, require_cost
from eqprop.core.fitting import require_input, require_model, require_unchanging
from eqprop.core.models import ConvergentModel
from eqprop.core.phases import relax
from eqprop.core.settling import two_cycles
from eqprop.data.dataset import Examples, Split, require_learnable
from eqprop.distributed.ranks import Ranks
from eqprop.summary import summary
from eqprop.training.settled import AT_REST, Tally
from eqprop.training.sharing import summed

__all__ = ["Evaluation", "evaluate", "guessing_error", "predict"]


@final
@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        error: misclassified samples, in %; of a regression the share of the variance of the targets
            that is not explained, 100 · mean ‖ŷ − y‖² / mean ‖y − ȳ‖², which is 100 for whoever
            says the mean ȳ of all.
        loss: mean cost, of samples that have weights times these; the error counts all alike.
        samples: how many were looked at.
        residual: max ``|s_T − s_{T−1}|`` at the end of the free phase, over all samples, per layer.
        steps: the mean number of transitions of the free phase.
        most_steps: the largest.
        restless: samples whose free phase did not come to rest, in %; without a tolerance, to
            :data:`~eqprop.training.settled.AT_REST`.
        cycling: those among them that go to and fro between two states, in % of all samples, see
            :func:`~eqprop.core.settling.two_cycles`.
    """

    error: float
    loss: float
    samples: int
    residual: tuple[float, ...]
    steps: float
    most_steps: int
    restless: float
    cycling: float

    __repr__ = summary


def guessing_error(split: Split) -> float:
    """The error of always answering the most frequent class, or the mean of all targets, in %."""
    if split.regression:
        return 100.0
    return 100 * (1 - int(split.labels.bincount().max()) / len(split))


@torch.no_grad()
def predict(
    model: ConvergentModel, x: Tensor, free_steps: int, tolerance: float | None = None
) -> Tensor:
    """The class of every sample, (B,): the largest unit of the output at the steady state."""
    return model.prediction(relax(model, x, free_steps, tolerance=tolerance).state).argmax(1)


@torch.no_grad()
def evaluate(
    model: ConvergentModel,
    split: Examples,
    free_steps: int,
    *,
    tolerance: float | None = None,
    cost: Cost | None = None,
    batch_size: int = 500,
    on_batch: Callable[[int], None] = lambda _: None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Error and loss of the free steady state over a whole split.

    Args:
        free_steps: T.
        tolerance: let every sample end its free phase where it rests, see
            :func:`~eqprop.core.phases.relax`.
        cost: ℓ; the squared error if not given.
        batch_size: how many samples settle at once; the result does not depend on it, but for
            rounding.
        on_batch: called after every mini-batch, with the number of samples looked at so far.
        ranks: the processes that share every mini-batch, see :func:`eqprop.distributed.start`; all
            get the same. Alone if not given.

    Raises:
        TypeError: what is no model, no split or no cost, or a split in another dtype or on another
            device than the parameters.
        ValueError: a split without samples, with labels that are no output unit, or with pixels
            that are not finite.
        RankError: another process has gone.
    """
    ranks = ranks or Ranks()
    model = require_model(model)
    require_unchanging(model)
    units = math.prod(model.output_shape)
    classes = 0 if getattr(split, "regression", False) else units
    require_learnable(split, classes, f"split, for a network of {units} output units")
    first, label = split.first
    if split.regression and label.shape[1:] != model.output_shape:
        raise ValueError(
            f"split: expected targets of the shape of the output, {model.output_shape}, got "
            f"{tuple(label.shape[1:])}"
        )
    require_input(model, first, "images")
    cost = SquaredError() if cost is None else cost
    require_cost(cost)
    wrong = torch.zeros((), device=label.device)
    wrong = wrong.to(torch.float64 if split.regression else torch.int64)
    loss = torch.zeros((), dtype=torch.float64, device=label.device)
    worst: tuple[float, ...] = ()
    tally, cycling, looked_at = Tally(model.epsilon), 0, 0
    for batch in split.batches(batch_size):
        x, labels, *weights = ranks.part(*batch)
        drive = model.drive(x)
        free = relax(model, x, free_steps, drive=drive, tolerance=tolerance)
        output = model.prediction(free.state)
        missed = split.missed(output, labels)
        target = split.targets(labels, units).to(output.dtype)
        costs = (SampleWeighted(cost, weights[0]) if weights else cost)(output, target).sum()
        worst = tuple(map(max, worst, free.residual)) if worst else free.residual
        limit = free.limits(AT_REST * model.epsilon)
        restless = free.moved.amax(1) > limit
        to_and_fro = 0
        if restless.any():
            to_and_fro = int((two_cycles(model, drive, free, limit) & restless).sum())
        if ranks.count == 1:
            tally.add(free)
        else:
            of_all = summed(ranks, (missed, costs, to_and_fro), [(tally, [free])])
            missed, costs = wrong.new_tensor(of_all[0]), loss.new_tensor(of_all[1])
            to_and_fro = int(of_all[2])
        wrong += missed
        loss += costs
        cycling += to_and_fro
        looked_at += len(batch[1])
        on_batch(looked_at)
    # With a sample that stands in, which is one of these, the largest is the same.
    worst = tuple(map(max, zip(*ranks.gather(worst), strict=True)))
    samples, settled = looked_at, tally.settled()
    return Evaluation(
        error=100 * wrong.item() / samples,
        loss=loss.item() / samples,
        samples=samples,
        residual=worst,
        steps=settled.steps if settled else 0.0,
        most_steps=settled.most if settled else 0,
        restless=settled.restless if settled else 0.0,
        cycling=100 * cycling / samples,
    )
