r"""Relaxation: the one loop that runs a model to its steady state.

Free phase: s_{t+1} = F(x, s_t, θ) from s₀ = 0. Nudged phase: the same, from the free steady state
s_*, with the force −β ∂ℓ/∂s(s_t, y) on the output layer. Everything that settles a model (training,
evaluation, every estimator, the theorem) calls :func:`relax`.

Source: Ernoult et al., https://arxiv.org/abs/1905.13633.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from eqprop.costs import Cost
from eqprop.models import ConvergentModel, State

__all__ = ["NonFiniteError", "Relaxation", "nudge", "relax"]


class NonFiniteError(ArithmeticError):
    """A state or a parameter stopped being finite; the message says which, and where."""


@final
@dataclass(frozen=True)
class Relaxation:
    """Where a relaxation ended, and how.

    Attributes:
        state: the last state.
        steps: the number of transitions taken.
        residual: max |s_{t+1} − s_t| over the units of each layer in the last transition; empty
            unless a tolerance was given.
        converged: whether every layer's residual came to the tolerance; ``None`` without one.
        trajectory: s_0 … s_steps if recorded, else empty.
    """

    state: State
    steps: int
    residual: tuple[float, ...] = ()
    converged: bool | None = None
    trajectory: tuple[State, ...] = ()


def nudge(cost: Cost, target: Tensor, beta: float) -> Callable[[State], Tensor]:
    """The force −β ∂ℓ/∂ŷ(ŷ, y) on the output layer, as a function of the state."""
    return lambda state: cost.gradient(state[-1], target) * -beta


def relax(
    model: ConvergentModel,
    x: Tensor,
    steps: int,
    *,
    state: State | None = None,
    force: Callable[[State], Tensor] | None = None,
    drive: Any = None,
    tolerance: float | None = None,
    check_every: int = 10,
    record: bool = False,
    update: Callable[[State, State], Any] | None = None,
    phase: str = "free phase",
) -> Relaxation:
    """Take ``steps`` transitions of the model.

    Gradients flow through every transition where they are enabled; otherwise memory does not grow
    with ``steps`` (unless recorded).

    Args:
        x: the static input, (B, …).
        steps: T in the free phase, K in the nudged one; with a tolerance, the most to be taken.
        state: where to start; s₀ = 0 if not given.
        force: what pulls at the output layer, see :func:`nudge`; nothing in the free phase.
        drive: ``model.drive(x)`` where the caller has it already.
        tolerance: stop at the first check at which no unit moved by more than this in one
            transition. 0 stops only at an exact fixed point, where further steps change nothing.
        check_every: how many transitions lie between two checks; the last one is always checked.
        record: keep every state.
        update: called after every transition with the states before and after it; it may change
            the parameters, and returns the drive from then on.
        phase: what messages call this relaxation.

    Raises:
        ValueError: steps or check_every < 1, or a negative tolerance.
        NonFiniteError: a state stopped being finite; names the layer, the phase and the step.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1 transition, got {steps}")
    if check_every < 1:
        raise ValueError(f"check_every: expected at least 1 transition, got {check_every}")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance: expected a number >= 0, got {tolerance}")
    drive = model.drive(x) if drive is None else drive
    start = model.initial_state(x) if state is None else state

    now = start
    trajectory = [start] if record else []
    residual: tuple[float, ...] = ()
    converged = None if tolerance is None else False
    taken = 0
    while taken < steps and not converged:
        before, now = now, model.step(drive, now, None if force is None else force(now))
        taken += 1
        if update is not None:
            drive = update(before, now)
        if record:
            trajectory.append(now)
        if tolerance is not None and (taken % check_every == 0 or taken == steps):
            residual = _residual(before, now)
            converged = max(residual) <= tolerance

    if not _finite(now):
        if update is not None:
            # The same steps cannot be taken again: the parameters have moved.
            raise NonFiniteError(
                f"the states or the parameters stopped being finite in the {phase} within its "
                f"{taken} steps; lower the learning rates, epsilon or beta"
            )
        _locate(model, drive, start, force, taken, phase)
    return Relaxation(now, taken, residual, converged, tuple(trajectory))


@torch.no_grad()
def _residual(before: State, after: State) -> tuple[float, ...]:
    moved = torch.stack([(a - b).abs().max() for a, b in zip(after, before, strict=True)])
    return tuple(moved.tolist())


@torch.no_grad()
def _finite(state: State) -> bool:
    # One sum per layer and one transfer: far cheaper than isfinite().all() in the usual case.
    return math.isfinite(torch.stack([layer.sum() for layer in state]).sum().item())


@torch.no_grad()
def _locate(
    model: ConvergentModel,
    drive: Any,
    state: State,
    force: Callable[[State], Tensor] | None,
    steps: int,
    phase: str,
) -> None:
    """Take the same steps again, looking at each, to name the first that was not finite."""
    for step in range(1, steps + 1):
        state = model.step(drive, state, None if force is None else force(state))
        for index, layer in enumerate(state):
            if not layer.isfinite().all():
                raise NonFiniteError(
                    f"the state of {model.layer_name(index)} stopped being finite in the {phase} "
                    f"at step {step} of {steps}; lower the learning rates, epsilon or beta"
                )
