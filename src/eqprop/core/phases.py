r"""The two phases: the network settles freely, then nudged a little towards the target.

Free phase: s_{t+1} = F(x, s_t, θ) for T transitions from s₀ = 0, to the steady state s_*. Nudged
phase: the same with the force −β ∂ℓ/∂s(s_t, y) on the output layer, for K transitions from s_*, to
s_*^β.

Source: Ernoult et al., https://arxiv.org/abs/1905.13633.
"""

import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eqprop.core.fitting import require_input, require_model, require_unchanging
from eqprop.core.models import ConvergentModel, State
from eqprop.core.nudging import Nudge
from eqprop.core.settling import Relaxation, settle
from eqprop.core.sizes import require_number, require_whole
from eqprop.core.stepping import Relaxes, movement, transitions

__all__ = [
    "nudged_phase",
    "relax",
    "require_steps",
    "require_tolerance",
]


def relax(
    model: Relaxes,
    x: Tensor,
    steps: int,
    *,
    state: State | None = None,
    nudge: Callable[[State], Tensor] | None = None,
    drive: Any = None,
    tolerance: float | None = None,
    ahead: Nudge | None = None,
    least: int = 1,
    check_every: int = 2,
    update: Callable[[State, State], Any] | None = None,
    phase: str = "free phase",
) -> Relaxation:
    """Take ``steps`` transitions of the model: a free phase, unless something nudges.

    With a tolerance every sample stops when it rests, see :mod:`eqprop.core.settling`. Without one
    gradients flow through all the steps where they are enabled: if you only want to look at where
    the state ended, call this under ``torch.no_grad()``, or take ``state[-1].detach().numpy()``.

    Args:
        x: the static input, (B, …).
        steps: T in the free phase, K in the nudged one; with a tolerance, the most to be taken.
        state: where to start; s₀ = 0 if not given.
        nudge: what pulls at the output layer, see :class:`~eqprop.core.nudging.Nudge`.
        drive: ``model.drive(x)`` where the caller has it already.
        tolerance: a sample rests when no unit of it moved by more than this, times ε, in one
            transition. 0 is rest only at an exact fixed point, where further steps change nothing.
        ahead: the nudge that follows, where what is left of this phase counts against what it does:
            the tolerance is then times its :meth:`~eqprop.core.nudging.Nudge.effect` on a sample.
        least: with a tolerance, how many transitions every sample takes, at rest or not.
        check_every: how many transitions lie between two checks; the last one is always checked.
        update: called after every transition, see :func:`~eqprop.core.stepping.transitions`.
        phase: what messages call this relaxation.

    Raises:
        TypeError: x is no tensor, or of another dtype or device than the parameters.
        ValueError: steps, least or check_every < 1, a tolerance that is negative or infinite, or
            one together with an update: while the parameters move, a sample has no state of its
            own to come to.
        NonFiniteError: a state stopped being finite; names the layer, the phase and the step.
    """
    require_steps(steps=steps, least=least, check_every=check_every)
    require_tolerance(tolerance)
    if drive is None:
        model = require_model(model)
        require_unchanging(model)
        require_input(model, x)
        drive = model.drive(x)
    start = model.initial_state(x) if state is None else state
    if tolerance is not None:
        if update is not None:
            raise ValueError(
                "tolerance: expected none where parameters are updated in every step, as what a "
                f"sample comes to moves with them, got {tolerance:g}"
            )
        return settle(
            model,
            x,
            steps,
            tolerance,
            state=start,
            drive=drive,
            nudge=nudge,
            ahead=ahead,
            least=least,
            check_every=check_every,
            phase=phase,
        )
    path = transitions(model, drive, start, steps, nudge=nudge, update=update, phase=phase)
    before, after = deque(path, maxlen=1).pop()
    if not torch.is_grad_enabled():
        # A step may return what it was given, or the drive: of those the graph is not ours.
        after = tuple(layer.detach() for layer in after)
    taken = torch.full((len(after[0]),), steps, device=after[0].device)
    return Relaxation(after, taken, movement(before, after))


def nudged_phase(
    model: ConvergentModel,
    x: Tensor,
    steps: int,
    nudge: Nudge,
    free: State,
    *,
    drive: Any = None,
    tolerance: float | None = None,
    check_every: int = 2,
    update: Callable[[State, State], Any] | None = None,
) -> Relaxation:
    """K transitions from the free steady state under a nudge.

    Args:
        x: the static input, (B, …).
        steps: K.
        nudge: the force on the output layer.
        free: s_*.
        drive: ``model.drive(x)`` where the caller has it already.
        tolerance: as for :func:`relax`, times min(1, ``|β|``): all movement is in proportion to β,
            and under a weak nudge would be taken for rest before it has done anything. Nor does a
            sample rest before the nudge can have come to every layer.
        check_every: how many transitions lie between two checks; the last one is always checked.
        update: called after every transition, see :func:`~eqprop.core.stepping.transitions`.

    Raises:
        ValueError: steps or check_every < 1, or a tolerance that is negative or infinite.
        NonFiniteError: a state stopped being finite; names the layer, the phase and the step.
    """
    return relax(
        model,
        x,
        steps,
        state=free,
        nudge=nudge,
        drive=drive,
        tolerance=None if tolerance is None else tolerance * min(1.0, abs(nudge.beta)),
        least=model.steps_to_arrive,
        check_every=check_every,
        update=update,
        phase=nudge.phase,
    )


def require_steps(**steps: object) -> None:
    """Refuse phases of no length, of a fraction of a step, or without end, naming the argument."""
    for name, count in steps.items():
        if type(count) is int and 1 <= count <= sys.maxsize:
            continue  # As good as always, and asked in every phase.
        (number,) = require_whole(name, count)
        if number < 1:
            raise ValueError(f"{name}: expected at least 1 transition, got {count}")
        if number > sys.maxsize:
            raise ValueError(f"{name}: expected at most {sys.maxsize} transitions, got {count}")


def require_tolerance(tolerance: float | None) -> None:
    """Refuse a tolerance that no relaxation comes to."""
    if tolerance is not None and not 0 <= require_number("tolerance", tolerance) < float("inf"):
        raise ValueError(f"tolerance: expected a finite number >= 0, got {tolerance}")
