r"""Settling: every sample of a mini-batch goes on until it rests, and no longer.

A sample *rests* when no unit of it moved by more than the tolerance in one transition::

    max_i |s_{t+1,i} − s_{t,i}| ≤ tolerance · ε

with ε the time step, 1 in discrete time and by Newton's steps: in real time it is the velocity that
must be small, whatever the step it is followed with. The result of a sample is its state at the
first check at which it rests, whatever the others do: alone or in any company it is the same but
for rounding. Samples that rest leave the mini-batch once enough of them do for the smaller products
to pay for the copying; until then they are only remembered.

Close to a steady state movement shrinks in proportion, by a factor λ < 1 a step, so that the
distance left is about tolerance · λ / (1 − λ).

What a free phase leaves goes on moving in the nudged one, and the difference of the two states
takes it for an effect of the nudge. Where nothing cancels it, it has to be small against that
effect, which is about a tenth of ``|β ∂ℓ/∂ŷ|`` in the layers below the output: the tolerance is
then times :meth:`~eqprop.core.nudging.Nudge.effect` of the nudge ahead, sample by sample.

A state may go to and fro between two, at rest in no step though it comes back after two: a
*two-cycle*. Synchronous updates are capable of it, as every layer answers to where the others
were; alternating ones of a non-negative ρ are not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from eqprop.core.models import ConvergentModel, State
from eqprop.core.nudging import Nudge
from eqprop.core.stepping import Relaxes, movement, transitions
from eqprop.summary import summary

__all__ = ["Relaxation", "settle", "two_cycles"]

_LEAVING = 0.5
"""The share of the samples that must rest for the mini-batch to be made smaller."""

_ROUNDING = 16
"""By how many units in the last place of the largest state a step may miss a fixed point."""


@final
@dataclass(frozen=True, eq=False)
class Relaxation:
    """Where a relaxation ended, and how.

    Attributes:
        state: the last state of every sample. Where gradients were enabled and no tolerance was
            asked for, autograd can follow it back; ``.detach()`` then gives the numbers alone.
        steps: the transitions each took, (B,).
        moved: max ``|s_{t+1} − s_t|`` over the units of each layer in the last transition of each
            sample, (B, layers).
        limit: the largest of them at rest for each sample, (B,); none where a number of steps was
            asked for.
    """

    state: State
    steps: Tensor
    moved: Tensor
    limit: Tensor | None = None

    __repr__ = summary

    def rests(self, limit: float | None = None) -> Tensor:
        """Whether each sample came to rest, (B,).

        Args:
            limit: the largest movement at rest, where the relaxation had none of its own.

        Raises:
            ValueError: neither has one.
        """
        return self.moved.amax(1) <= self.limits(limit)

    def limits(self, limit: float | None = None) -> Tensor:
        """The largest movement at rest of each sample, (B,); ``limit`` if it had none."""
        if self.limit is not None:
            return self.limit
        if limit is None:
            raise ValueError("limit: expected one, by which to tell what rests, got none")
        return self.moved.new_full((len(self.moved),), limit)

    @property
    def residual(self) -> tuple[float, ...]:
        """The largest last movement of each layer."""
        return tuple(self.moved.amax(0).tolist())


@torch.no_grad()
def settle(
    model: Relaxes,
    x: Tensor,
    most: int,
    tolerance: float,
    *,
    state: State,
    drive: Any,
    nudge: Callable[[State], Tensor] | None = None,
    ahead: Nudge | None = None,
    least: int = 1,
    check_every: int = 2,
    phase: str = "free phase",
) -> Relaxation:
    """Take transitions until every sample rests, or ``most`` were taken.

    Memory does not grow with the steps, and no gradient flows through them.

    Args:
        x: the static input, (B, …).
        most: how many transitions a sample may take.
        tolerance: the largest movement that is rest.
        state: where to start.
        drive: ``model.drive(x)``.
        nudge: what pulls at the output layer. Under one that cannot be had for some of the samples
            alone, as :meth:`~eqprop.core.nudging.Nudge.part` gives it, none leaves.
        ahead: the nudge that follows, against whose effect what is left of this phase counts.
        least: how many transitions every sample takes, at rest or not.
        check_every: how many transitions lie between two checks; the last one is always checked.
        phase: what messages call it.

    Raises:
        NonFiniteError: a state stopped being finite; names the layer, the phase and the step.
    """
    if isinstance(model, ConvergentModel):
        ahead = None if ahead is None else ahead.of(model)
    divisible = nudge is None or isinstance(nudge, Nudge)
    limit = state[0].new_full((len(state[0]),), tolerance * model.epsilon)
    whole: list[Tensor] | None = None
    rows: Tensor | None = None
    taken, part, pull, measure = 0, drive, nudge, ahead
    while True:
        # Of those in the mini-batch: who still moves, and where the others stopped.
        moving: Tensor | None = None
        found: list[Tensor] = []
        count = of = len(state[0])
        path = transitions(model, part, state, most - taken, nudge=pull, taken=taken, phase=phase)
        for before, state in path:
            taken += 1
            if taken < most and (taken % check_every or taken < least):
                continue
            move = movement(before, state)
            at_most = limit if measure is None else limit * measure.effect(state)
            still = ~(move.amax(1) <= at_most)
            if moving is not None:
                still &= moving
            last, count = count, still.tolist().count(True)
            if taken < most and count == last:
                continue
            now = [*state, torch.full((of,), taken, device=move.device), move, at_most]
            found = now if moving is None else _where(moving, now, found)
            moving = still
            # After the last one the path looks for what is not finite, and for the step that it was
            # so first: it must have begun before.
            enough = divisible and of - count >= _LEAVING * of
            if taken < most and (count == 0 or (enough and move.isfinite().all())):
                break
        if rows is not None and whole is not None:
            for into, those in zip(whole, found, strict=True):
                into.index_copy_(0, rows, those)
        if taken == most or count == 0 or moving is None:
            *ended, steps, moved, at_most = found if whole is None else whole
            # A step may return what it was given, or the drive: of those the graph is not ours.
            return Relaxation(tuple(layer.detach() for layer in ended), steps, moved, at_most)
        if whole is None:
            whole = [those.clone() for those in found]
        stay = moving.nonzero().squeeze(1)
        rows = stay if rows is None else rows.index_select(0, stay)
        state = tuple(layer.index_select(0, stay) for layer in state)
        part = model.part(drive, x, rows)
        pull = nudge.part(rows) if isinstance(nudge, Nudge) else nudge
        measure = None if ahead is None else ahead.part(rows)
        limit = limit[: len(stay)]


@torch.no_grad()
def two_cycles(
    model: ConvergentModel,
    drive: Any,
    relaxed: Relaxation,
    limit: float | Tensor,
    nudge: Callable[[State], Tensor] | None = None,
) -> Tensor:
    """Which samples go to and fro, (B,): not at rest, but back by half or more in two more steps.

    That is, ``|s_{t+1} − s_t| > limit`` and ``|s_{t+2} − s_t| ≤ ½ |s_{t+1} − s_t|``, all norms the
    largest over the units. What goes to and fro by the rounding of its numbers alone is none.

    Args:
        drive: ``model.drive(x)``.
        relaxed: a phase.
        limit: the largest movement at rest; of each sample, (B,), or one for all.
        nudge: what pulled at the output layer in it.
    """
    once, twice = (after for _, after in transitions(model, drive, relaxed.state, 2, nudge=nudge))
    step, back = (movement(relaxed.state, after).amax(1) for after in (once, twice))
    size = movement(tuple(map(torch.zeros_like, relaxed.state)), relaxed.state).amax(1)
    rounding = _ROUNDING * torch.finfo(step.dtype).eps * size
    return (step > limit) & (step > rounding) & (2 * back <= step)


def _where(which: Tensor, those: list[Tensor], others: list[Tensor]) -> list[Tensor]:
    """Sample by sample, one or the other."""
    return [
        torch.where(which.view(-1, *[1] * (one.dim() - 1)), one, other)
        for one, other in zip(those, others, strict=True)
    ]
