r"""Convergence, seen from close by: what `eqprop show` draws.

The free phase is watched step by step: the *residual* of a sample at step t is its last move,
max ``|s_t − s_{t−1}|`` over the units, of a layer or of all. Every figure comes from one free
phase to the largest t; what it would have given had it ended earlier is read off on the way.

A tolerance, with which a free phase may end early, plays no part here: all steps are taken.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from eqprop.core.costs import Cost, SquaredError
from eqprop.core.models import ConvergentModel, State
from eqprop.core.nudging import Nudge, Nudging, require_nudging
from eqprop.core.phases import nudged_phase, relax
from eqprop.core.stepping import movement, trajectory, transitions
from eqprop.data.dataset import Split
from eqprop.summary import summary

__all__ = [
    "ErrorByStep",
    "Phases",
    "ResidualByStep",
    "error_by_step",
    "output_by_step",
    "phases",
    "residual_by_step",
    "step_counts",
]

Tick = Callable[[str], None]
"""Called whenever a mini-batch took a step, with what is being computed."""


@final
@dataclass(frozen=True)
class Phases:
    """The two steady states that EP compares.

    Attributes:
        free: s_*, after T steps from s₀ = 0.
        nudged: s_*^β, after K more with the force −β ∂ℓ/∂s on the output layer.
        difference: (s_*^β − s_*)/β, or (s_*^β − s_*^{−β})/2β with symmetric nudging: how the state
            answers to the nudge, from which every synapse learns.
        symmetric: whether the nudge was.
        residual: the largest in step T, over all layers and samples: where it is not far below
            ``|β|`` · difference, the difference also holds what was left of the free phase.
    """

    free: State
    nudged: State
    difference: State
    symmetric: bool
    residual: float

    __repr__ = summary


@final
@dataclass(frozen=True)
class ResidualByStep:
    """How a mini-batch comes to rest; everything by layer, then by step t = 1, 2, ….

    Attributes:
        layers: what messages call them.
        median: of the samples' residuals.
        worst: the largest of them.
        samples: how many there are.
    """

    layers: tuple[str, ...]
    median: tuple[tuple[float, ...], ...]
    worst: tuple[tuple[float, ...], ...]
    samples: int

    __repr__ = summary


@final
@dataclass(frozen=True)
class ErrorByStep:
    """What a free phase of so many steps would have given.

    Attributes:
        steps: t, ascending.
        error: misclassified samples, in %.
        median: of the samples' residuals, each over all layers.
        worst: the largest of them.
        samples: how many settled.
    """

    steps: tuple[int, ...]
    error: tuple[float, ...]
    median: tuple[float, ...]
    worst: tuple[float, ...]
    samples: int

    __repr__ = summary


def step_counts(free_steps: int) -> tuple[int, ...]:
    """Up to 15 numbers of steps, from 1 to 3 T, T among them, in nearly equal ratios."""
    before = (round(free_steps ** (i / 9)) for i in range(10))
    beyond = (round(free_steps * 3 ** (i / 5)) for i in range(1, 6))
    return tuple(sorted({*before, *beyond}))


@torch.no_grad()
def phases(
    model: ConvergentModel,
    x: Tensor,
    target: Tensor,
    *,
    free_steps: int,
    nudged_steps: int,
    beta: float,
    nudging: Nudging = "one-sided",
    cost: Cost | None = None,
) -> Phases:
    """Settle freely, then nudged towards the target (away from it where β < 0).

    Args:
        x: the static input, (B, …).
        target: y, (B, …).
        free_steps: T.
        nudged_steps: K.
        beta: β ≠ 0.
        nudging: ``symmetric`` compares with the state nudged by −β, not with the free one.
        cost: ℓ; the squared error if not given.

    Raises:
        ValueError: another nudging, β = 0, or no steps.
    """
    require_nudging(nudging)
    drive = model.drive(x)
    free = relax(model, x, free_steps, drive=drive)

    def nudged_by(strength: float) -> State:
        nudge = Nudge(cost or SquaredError(), target, strength, model)
        return nudged_phase(model, x, nudged_steps, nudge, free.state, drive=drive).state

    nudged = nudged_by(beta)
    symmetric = nudging == "symmetric"
    other, apart = (nudged_by(-beta), 2 * beta) if symmetric else (free.state, beta)
    difference = tuple((b - a) / apart for a, b in zip(other, nudged, strict=True))
    return Phases(free.state, nudged, difference, symmetric, max(free.residual))


@torch.no_grad()
def residual_by_step(
    model: ConvergentModel, x: Tensor, steps: int, tick: Tick = lambda _: None
) -> ResidualByStep:
    """The residual of every layer in each of ``steps`` transitions, over the samples of x."""
    median, worst = [], []
    for before, after in _free_phase(model, x, steps):
        moves = movement(before, after).t()
        median.append(_median(moves).tolist())
        worst.append(moves.amax(1).tolist())
        tick("convergence")
    return ResidualByStep(
        tuple(model.layer_name(index) for index in range(len(model.shapes))),
        tuple(zip(*median, strict=True)),
        tuple(zip(*worst, strict=True)),
        len(x),
    )


@torch.no_grad()
def output_by_step(model: ConvergentModel, x: Tensor, steps: int) -> Tensor:
    """ŷ of the first sample of x at t = 0, 1, …, (steps + 1, …)."""
    return torch.cat([model.prediction(state) for state in trajectory(model, x[:1], steps)])


@torch.no_grad()
def error_by_step(
    model: ConvergentModel,
    split: Split,
    steps: Sequence[int],
    *,
    batch_size: int = 500,
    tick: Tick = lambda _: None,
) -> ErrorByStep:
    """Test error and residual had the free phase ended after each of ``steps``.

    The error is that of :func:`~eqprop.training.evaluation.evaluate`, of a regression too.

    Args:
        steps: numbers of steps ≥ 1, ascending.
        batch_size: how many samples settle at once; the result does not depend on it, but for
            rounding.
    """
    row = {t: index for index, t in enumerate(steps)}
    wrong = [0.0] * len(row)
    residuals: list[list[Tensor]] = [[] for _ in row]
    for x, labels in split.batches(batch_size):
        for t, (before, after) in enumerate(_free_phase(model, x, max(steps)), 1):
            if t in row:
                wrong[row[t]] += float(split.missed(model.prediction(after), labels))
                residuals[row[t]].append(movement(before, after).amax(1))
            tick("error against T")
    moves = torch.stack([torch.cat(of_step) for of_step in residuals])
    return ErrorByStep(
        tuple(row),
        tuple(100 * count / len(split) for count in wrong),
        tuple(_median(moves).tolist()),
        tuple(moves.amax(1).tolist()),
        len(split),
    )


def _free_phase(model: ConvergentModel, x: Tensor, steps: int) -> Iterator[tuple[State, State]]:
    return transitions(model, model.drive(x), model.initial_state(x), steps)


def _median(rows: Tensor) -> Tensor:
    """Of every row; the mean of the middle two where their number is even."""
    return rows.quantile(0.5, dim=1)
