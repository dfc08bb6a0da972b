r"""The one stepping loop: s_{t+1} = F(x, s_t, θ), and in the nudged phase a force on the output
layer.

Whatever takes a step iterates over :func:`transitions`: relaxations, the processes of Theorem 1,
backpropagation through time and the pictures; the search for the first step that was not finite
takes the same ones again.
What is to be recorded, or measured, is for whoever iterates: each turn gives the states before and
after it, and nothing else is kept.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from eqprop.core.models import ConvergentModel, State
from eqprop.core.nudging import Nudge
from eqprop.core.sizes import counted

__all__ = [
    "NonFiniteError",
    "Relaxes",
    "Steps",
    "movement",
    "require_finite",
    "trajectory",
    "transitions",
]


class NonFiniteError(ArithmeticError):
    """A state or a parameter stopped being finite; the message says which, and where."""


class Steps(Protocol):
    """What takes a step: a model, or a model whose dynamics something is added to."""

    def step(self, drive: Any, state: State, force: Tensor | None = None, /) -> State:
        """s_{t+1}, with a force on the output layer."""
        ...

    def layer_name(self, index: int, /) -> str:
        """What messages call a layer."""
        ...


class Relaxes(Steps, Protocol):
    """What can come to rest: the same, of an input.

    Attributes:
        epsilon: ε, by which a force, and a tolerance, are multiplied.
    """

    epsilon: float

    def drive(self, x: Tensor, /) -> Any:
        """What depends on the static input alone."""
        ...

    def part(self, drive: Any, x: Tensor, rows: Tensor, /) -> Any:
        """That of some of the samples, by their numbers."""
        ...

    def initial_state(self, x: Tensor, /) -> State:
        """s₀."""
        ...


def transitions(
    model: Steps,
    drive: Any,
    state: State,
    steps: int,
    *,
    nudge: Callable[[State], Tensor] | None = None,
    update: Callable[[State, State], Any] | None = None,
    taken: int = 0,
    phase: str = "free phase",
) -> Iterator[tuple[State, State]]:
    """(s_t, s_{t+1}) for t = 0 … steps − 1.

    Gradients flow through every transition where they are enabled; otherwise memory does not grow
    with ``steps``.

    Args:
        drive: ``model.drive(x)``. state: s_0. steps: T in the free phase, K in the nudged one.
        nudge: what pulls at the output layer, see :class:`~eqprop.core.nudging.Nudge`; nothing in
        the
            free phase.
        update: called after every transition with the states before and after it; it may change
            the parameters, and returns the drive from then on.
        taken: how many steps messages count as taken before these.
        phase: what messages call it.

    Raises:
        ValueError: a step that leads to layers of other shapes.
        NonFiniteError: after the last step, if the state is not finite then; names the layer, the
            phase and the step.
    """
    if isinstance(nudge, Nudge) and isinstance(model, ConvergentModel):
        nudge = nudge.of(model)
    start = state
    after = yield from _stepping(model, drive, start, steps, nudge, update)
    sent = (drive,) if isinstance(drive, Tensor) else ()
    if _is_finite((*sent, *after)):
        return
    if not _is_finite(sent):
        raise NonFiniteError(
            f"what the input sends was not finite before the {phase} began; look for nan and inf "
            "in the input, and in the parameters that it passes"
        )
    if update is not None:
        # The same steps cannot be taken again: the parameters have moved.
        raise NonFiniteError(
            f"the states or the parameters stopped being finite in the {phase} within its "
            f"{taken + steps} steps; lower the learning rates, epsilon or beta"
        )
    with torch.no_grad():
        again = _stepping(model, drive, start, steps, nudge)
        require_finite(model, (state for _, state in again), taken + steps, phase, taken=taken)


def _require_alike(before: State, after: State) -> None:
    if len(before) == len(after) and all(
        b.shape == a.shape for b, a in zip(before, after, strict=True)
    ):
        return
    expected, found = ([tuple(layer.shape) for layer in state] for state in (before, after))
    if found != expected:
        said, got = (", ".join(map(str, shapes)) for shapes in (expected, found))
        raise ValueError(
            f"step: expected a state of {counted(len(expected), 'layer')}, of shapes {said}, got "
            f"{len(found)}, of {got}; what is the field of every layer?"
        )


def _stepping(
    model: Steps,
    drive: Any,
    state: State,
    steps: int,
    nudge: Callable[[State], Tensor] | None,
    update: Callable[[State, State], Any] | None = None,
) -> Generator[tuple[State, State], None, State]:
    """The loop itself; it returns where it has led to."""
    for number in range(steps):
        before, state = state, model.step(drive, state, None if nudge is None else nudge(state))
        if not number:
            _require_alike(before, state)
        if update is not None:
            drive = update(before, state)
        yield before, state
    return state


def trajectory(model: ConvergentModel, x: Tensor, steps: int) -> tuple[State, ...]:
    """s_0 … s_steps of a free phase.

    Raises:
        NonFiniteError: a state stopped being finite.
    """
    start = model.initial_state(x)
    return (start, *(after for _, after in transitions(model, model.drive(x), start, steps)))


@torch.no_grad()
def movement(before: State, after: State) -> Tensor:
    """max ``|s_{t+1} − s_t|`` over the units of each layer and sample, (B, layers)."""
    moved = (a - b for b, a in zip(before, after, strict=True))
    moved = (m.abs() if m.is_complex() else m.abs_() for m in moved)
    return torch.stack([m.amax(1 if m.dim() == 2 else tuple(range(1, m.dim()))) for m in moved], 1)


def require_finite(
    model: Steps, states: Iterable[State], steps: int, phase: str, *, taken: int = 0
) -> None:
    """Refuse the first of s_1, s_2, … that is not finite.

    Args:
        steps: of how many. taken: how many came before s_1.

    Raises:
        NonFiniteError: names the layer, the phase and the step.
    """
    for step, state in enumerate(states, taken + 1):
        for index, layer in enumerate(state):
            if not layer.isfinite().all():
                raise NonFiniteError(
                    f"the state of {model.layer_name(index)} stopped being finite in the {phase} "
                    f"at step {step} of {steps}; lower {_to_lower(phase)}"
                )


def _to_lower(phase: str) -> str:
    # A free phase knows of no nudge, and of no learning but that which lies behind.
    if phase == "free phase":
        return "the learning rates of what it has learnt, or epsilon where there is one"
    return "the learning rates or beta, or epsilon where there is one"


@torch.no_grad()
def _is_finite(state: State) -> bool:
    # One sum per layer, and of a device one transfer: far cheaper than isfinite().all() in the
    # usual case. Only a sum that is not finite may be that of large numbers that are.
    if not state:
        return True
    sums = [layer.sum().abs() if layer.is_complex() else layer.sum() for layer in state]
    total = sum(map(float, sums)) if sums[0].is_cpu else torch.stack(sums).sum().item()
    return math.isfinite(total) or all(layer.isfinite().all() for layer in state)
