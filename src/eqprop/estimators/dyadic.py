r"""Dyadic Equilibrium Propagation: the state and what it is to change by, found together.

Two states of every unit, m and d, settle at once, in one phase::

    m ← F(m)
    d ← J_F(m)ᵀ d − ε ∂ℓ/∂s(m)

m comes to the free steady state s_*; there d obeys the backward recursion of BPTT, as s − s_* does
in :mod:`~eqprop.estimators.asymmetric` to first order. It is linear in d, so that nothing is left
out: at rest d = −ε λ with λ the adjoint of the implicit gradient, λ = Jᵀ λ + ∂ℓ/∂s, and ::

    Δθ = (1/ε) (∂F/∂θ(m))ᵀ d = −(∂F/∂θ)ᵀ λ = −∂L/∂θ

whatever F. A nudge of another strength β would make d as many times as large, and be divided by
again: there is no β to be chosen, and none is small. The two states are those of a pair of
networks, m + d/2 and m − d/2, one drawn towards the target and one away from it, seen as their mean
and their difference.

Each transition takes one of F and one backward pass through it. Nothing is left to be nudged: the
whole takes the T steps of a free phase, and no K. Where d begins at a steady state instead, Δ_d(t)
= −∇_s(t) exactly, step by step: these are the dynamics of :class:`Adjoint`, by which Theorem 1 is
looked at, and which continual updates need, as m must not move on where the sum of its moves is to
be the total.

Source: https://arxiv.org/abs/2602.03670; the adjoint: Almeida (1987) and Pineda (1987).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from eqprop.core.costs import Cost, SquaredError, require_cost
from eqprop.core.linearised import Linearised
from eqprop.core.models import ConvergentModel, State
from eqprop.core.nudging import Nudge
from eqprop.core.phases import relax, require_steps, require_tolerance
from eqprop.core.settling import Relaxation
from eqprop.estimators.dynamics import AroundRest, NudgedDynamics, pulled
from eqprop.estimators.estimator import Estimate, Estimator, accumulate
from eqprop.estimators.nudges import readout_gradients

__all__ = ["Adjoint", "DyadicEP"]


@final
class Adjoint(AroundRest):
    """The transition s_* + Jᵀ (s − s_*) + ε · force, the force that at s_*."""

    name = "dyadic EP"
    error = "the error is that of rounding alone, whatever F and β are"

    def step(self, drive: Any, state: State, force: Tensor | None = None) -> State:
        down = self.around.transposed(self.moved(state))
        after = tuple(free + d for free, d in zip(self._free, down, strict=True))
        return pulled(self._model, after, force)

    def pulling(self, nudge: Nudge) -> Callable[[State], Tensor]:
        force = nudge.of(self._model)(self._free)
        return lambda _: force


@final
class _Pair:
    """(m, d), one after the other, as one state."""

    def __init__(self, model: ConvergentModel) -> None:
        self._model, self._layers = model, len(model.shapes)
        self.epsilon = model.epsilon

    def step(self, drive: Any, state: State, force: Tensor | None = None) -> State:
        around = Linearised(self._model, drive, state[: self._layers])
        down = around.transposed(state[self._layers :])
        return (*around.reached, *pulled(self._model, down, force))

    def drive(self, x: Tensor) -> Any:
        return self._model.drive(x)

    def part(self, drive: Any, x: Tensor, rows: Tensor) -> Any:
        return self._model.part(drive, x, rows)

    def initial_state(self, x: Tensor) -> State:
        """m = d = 0."""
        m = self._model.initial_state(x)
        return (*m, *map(torch.zeros_like, m))

    def layer_name(self, index: int) -> str:
        name = self._model.layer_name(index % self._layers)
        return name if index < self._layers else f"{name}, its difference d,"


@final
@dataclass(frozen=True)
class DyadicEP(Estimator):
    """State and difference in one phase: exact for any vector field, and without a β.

    Args:
        free_steps: T, transitions of the one phase. The difference comes to rest after the state,
            about as fast: allow for both.
        tolerance: end the phase where every sample rests in both; T is then the most steps it may
            take.
        cost: ℓ.

    Raises:
        TypeError: a cost that is none, such as a loss of torch.
        ValueError: T < 1, a negative tolerance.
    """

    free_steps: int
    tolerance: float | None = None
    cost: Cost = field(default_factory=SquaredError)
    dynamics: type[NudgedDynamics] | None = field(default=Adjoint, init=False, repr=False)

    def __post_init__(self) -> None:
        require_steps(free_steps=self.free_steps)
        require_cost(self.cost)
        require_tolerance(self.tolerance)

    @torch.no_grad()
    def estimate(
        self,
        model: ConvergentModel,
        x: Tensor,
        target: Tensor,
        generator: torch.Generator | None,
    ) -> Estimate:
        """Adds the gradient to ``.grad``.

        Raises:
            NonFiniteError: a state stopped being finite.
        """
        nudge = Nudge(self.cost, target, 1.0, model)
        pair, layers = _Pair(model), len(model.shapes)
        with torch.enable_grad():
            drive = model.drive(x)
        found = relax(
            pair,
            x,
            self.free_steps,
            drive=drive,
            nudge=lambda state: nudge(state[:layers]),
            tolerance=self.tolerance,
        )
        m, d = found.state[:layers], found.state[layers:]
        there = tuple(a + b for a, b in zip(m, d, strict=True))
        gradients = Adjoint(model, x, m, drive).teaching(m, there, m, -1.0)
        points = [(0.0, m), (1.0, m)]
        accumulate(model, gradients | readout_gradients(model, self.cost, points, target))
        return Estimate(Relaxation(m, found.steps, found.moved, found.limit))
