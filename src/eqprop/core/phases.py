r"""The two phases: the network settles freely, then nudged a little towards the target.

Free phase: s_{t+1} = F(x, s_t, θ) for T transitions from s₀ = 0, to the steady state s_*. Nudged
phase: the same with the force −β ∂ℓ/∂s(s_t, y) on the output layer, for K transitions from s_*, to
s_*^β.

Source: Ernoult et al., https://arxiv.org/abs/1905.13633.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from eqprop.core.models import ConvergentModel, State
from eqprop.core.nudging import Nudge
from eqprop.core.stepping import residual, transitions

__all__ = ["Relaxation", "nudged_phase", "relax", "require_steps", "require_tolerance"]


@final
@dataclass(frozen=True, eq=False)
class Relaxation:
    """Where a relaxation ended, and how.

    Attributes:
        state: the last state.
        before: the one before it.
        steps: the number of transitions taken.
        converged: whether every layer's residual came to the tolerance; ``None`` without one.
    """

    state: State
    before: State
    steps: int
    converged: bool | None = None

    @property
    def residual(self) -> tuple[float, ...]:
        """max |s_{t+1} − s_t| over the units of each layer in the last transition."""
        return residual(self.before, self.state)


def relax(
    model: ConvergentModel,
    x: Tensor,
    steps: int,
    *,
    state: State | None = None,
    nudge: Callable[[State], Tensor] | None = None,
    drive: Any = None,
    tolerance: float | None = None,
    check_every: int = 10,
    update: Callable[[State, State], Any] | None = None,
    phase: str = "free phase",
) -> Relaxation:
    """Take ``steps`` transitions of the model: a free phase, unless something nudges.

    Args:
        x: the static input, (B, …).
        steps: T in the free phase, K in the nudged one; with a tolerance, the most to be taken.
        state: where to start; s₀ = 0 if not given.
        nudge: what pulls at the output layer, see :class:`~eqprop.core.nudging.Nudge`.
        drive: ``model.drive(x)`` where the caller has it already.
        tolerance: stop at the first check at which no unit moved by more than this in one
            transition. 0 stops only at an exact fixed point, where further steps change nothing.
        check_every: how many transitions lie between two checks; the last one is always checked.
        update: called after every transition, see :func:`~eqprop.core.stepping.transitions`.
        phase: what messages call this relaxation.

    Raises:
        ValueError: steps or check_every < 1, or a negative tolerance.
        NonFiniteError: a state stopped being finite; names the layer, the phase and the step.
    """
    require_steps(steps=steps, check_every=check_every)
    require_tolerance(tolerance)
    drive = model.drive(x) if drive is None else drive
    before = after = model.initial_state(x) if state is None else state
    path = transitions(model, drive, after, steps, nudge=nudge, update=update, phase=phase)
    taken, converged = 0, None if tolerance is None else False
    for taken, (before, after) in enumerate(path, 1):
        if tolerance is not None and (taken % check_every == 0 or taken == steps):
            # Not the largest of them: max() may pass over one that is not a number.
            converged = all(moved <= tolerance for moved in residual(before, after))
            if converged:
                break
    return Relaxation(after, before, taken, converged)


def nudged_phase(
    model: ConvergentModel,
    x: Tensor,
    steps: int,
    nudge: Nudge,
    free: State,
    *,
    drive: Any = None,
    tolerance: float | None = None,
    update: Callable[[State, State], Any] | None = None,
) -> Relaxation:
    """K transitions from the free steady state under a nudge.

    Args:
        x: the static input, (B, …).
        steps: K.
        nudge: the force on the output layer.
        free: s_*.
        drive: ``model.drive(x)`` where the caller has it already.
        tolerance: as for :func:`relax`, but for one of |β| = 1: all movement is in proportion to β,
            and a weaker nudge would end before it has done anything.
        update: called after every transition, see :func:`~eqprop.core.stepping.transitions`.

    Raises:
        ValueError: steps < 1, or a negative tolerance.
        NonFiniteError: a state stopped being finite; names the layer, the phase and the step.
    """
    return relax(
        model,
        x,
        steps,
        state=free,
        nudge=nudge,
        drive=drive,
        tolerance=None if tolerance is None else tolerance * abs(nudge.beta),
        update=update,
        phase=nudge.phase,
    )


def require_steps(**steps: int | None) -> None:
    """Refuse phases of no length, naming the argument."""
    for name, count in steps.items():
        if count is not None and count < 1:
            raise ValueError(f"{name}: expected at least 1 transition, got {count}")


def require_tolerance(tolerance: float | None) -> None:
    """Refuse a tolerance that no relaxation comes to."""
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance: expected a number >= 0, got {tolerance}")
