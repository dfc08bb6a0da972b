r"""AsymEP: Equilibrium Propagation that is exact for any vector field.

EP's nudged phase passes the error down by J, the Jacobian of the transition F at the free steady
state s_*; the gradient goes down by Jᵀ. They are the same where F comes from a Φ, and differ where
forward and backward weights do, or an activation stands outside. AsymEP adds the difference::

    s_{t+1} = F(s_t) − (J − Jᵀ)(s_t − s_*) − ε β ∂ℓ/∂s(s_t)

With δ_t = s_t − s_*, to first order in β, δ_{t+1} = J δ_t − (J − Jᵀ) δ_t − ε β ∂ℓ/∂s(s_*)
= Jᵀ δ_t − ε β ∂ℓ/∂s(s_*). BPTT goes back by ∇_s(t+1) = Jᵀ ∇_s(t) from ∇_s(0) = ∂ℓ/∂s(s_*), so that
Δ_s(t) = (δ_{t+1} − δ_t) / (ε β) = −∇_s(t) for every t: Theorem 1 holds step by step, for any F. The
parameters learn by what they do to F at s_*::

    Δθ = (1/εβ) (∂F/∂θ(s_*))ᵀ (s_*^β − s_*)                         one-sided, error O(β)
    Δθ = (1/2εβ) (∂F/∂θ(s_*))ᵀ (s_*^{+β} − s_*^{−β})                symmetric, error O(β²)

with all of F: also the slope of an activation, and the bounds of a clip, which EP's own rule leaves
out. The nudge is added to the transition as a whole, outside of activation and clip and wherever
the model itself is nudged, as ∂ℓ/∂s enters the gradient by no slope. So layers may also move in
turn: F is then a whole turn, and J its Jacobian.

J and Jᵀ are products with vectors, see :mod:`eqprop.core.linearised`: a nudged step costs one
transition and two or three backward passes through one.

Source: https://arxiv.org/abs/2602.03670.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from eqprop.core.costs import Cost, SquaredError, require_cost
from eqprop.core.linearised import Linearised
from eqprop.core.models import ConvergentModel, State, parameter_gradients
from eqprop.core.nudging import Nudge, Nudging, require_beta, require_nudging
from eqprop.core.phases import relax, require_steps, require_tolerance
from eqprop.core.settling import Relaxation
from eqprop.core.stepping import movement, transitions
from eqprop.estimators.estimator import Estimate, Estimator, accumulate
from eqprop.estimators.nudges import betas, readout_gradients

__all__ = ["AsymEP", "Asymmetric"]


@final
class Asymmetric:
    """The transition of the nudged phase, F(s) − (J − Jᵀ)(s − s_*) + ε · force.

    Args:
        model: whose F it is.
        around: F linearised at s_*.
        free: s_*.
    """

    def __init__(self, model: ConvergentModel, around: Linearised, free: State) -> None:
        self._model, self._around, self._free = model, around, free

    def step(self, drive: Any, state: State, force: Tensor | None = None) -> State:
        """One transition, with a force on the output layer."""
        after = self._model.step(drive, state)
        if force is not None:
            forces = self._model.forces_on_layers(force)
            after = tuple(
                layer.add(forces[i], alpha=self._model.epsilon) if i in forces else layer
                for i, layer in enumerate(after)
            )
        moved = tuple(s - free for s, free in zip(state, self._free, strict=True))
        forth, back = self._around.times(moved), self._around.transposed(moved)
        return tuple(a - j + t for a, j, t in zip(after, forth, back, strict=True))

    def layer_name(self, index: int) -> str:
        """What messages call a layer."""
        return self._model.layer_name(index)


@final
@dataclass(frozen=True)
class AsymEP(Estimator):
    """EP whose nudged phase is corrected by the asymmetric part of the Jacobian.

    Args:
        free_steps: T, transitions of the free phase.
        nudged_steps: K, transitions of each nudged phase. As in BPTT, what has not come to a layer
            by then does not teach it.
        beta: β ≠ 0, the strength of the nudge; in real time the continuous-time one. Where samples
            or classes have weights, that of those of the largest weight.
        nudging: ``one-sided``, ``random-sign`` or ``symmetric``, as for
            :class:`~eqprop.estimators.ep.EquilibriumPropagation`.
        tolerance: let every sample end its free phase where it rests, see
            :func:`~eqprop.core.phases.relax`; T is then the most steps it may take. Nudged phases
            take K: J belongs to a whole mini-batch.
        cost: ℓ.

    Raises:
        TypeError: a cost that is none, such as a loss of torch.
        ValueError: T or K < 1, β = 0 or not finite, an unknown nudging, a negative tolerance.
    """

    free_steps: int
    nudged_steps: int
    beta: float
    nudging: Nudging = "one-sided"
    tolerance: float | None = None
    cost: Cost = field(default_factory=SquaredError)

    def __post_init__(self) -> None:
        require_steps(free_steps=self.free_steps, nudged_steps=self.nudged_steps)
        require_cost(self.cost)
        require_tolerance(self.tolerance)
        require_beta(self.beta)
        require_nudging(self.nudging)

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
        with torch.enable_grad():
            drive = model.drive(x)
        signed = betas(self.beta, self.nudging, self.cost, generator)
        nudges = [Nudge(self.cost, target, beta, model) for beta in signed]
        ahead = None if self.nudging == "symmetric" else nudges[0]
        free = relax(model, x, self.free_steps, drive=drive, tolerance=self.tolerance, ahead=ahead)
        around = Linearised(model, drive, free.state)
        corrected = Asymmetric(model, around, free.state)
        nudged = []
        for nudge in nudges:
            path = transitions(
                corrected, drive, free.state, self.nudged_steps, nudge=nudge, phase=nudge.phase
            )
            before, after = deque(path, maxlen=1).pop()
            taken = torch.full((len(x),), self.nudged_steps, device=x.device)
            nudged.append(Relaxation(after, taken, movement(before, after)))
        points = [(0.0, free.state)]
        points += [(n.beta, phase.state) for n, phase in zip(nudges, nudged, strict=True)]
        (lower, start), (upper, end) = points[-2:]
        scale = -1 / ((upper - lower) * model.epsilon * len(x))
        moved = tuple((b - a) * scale for a, b in zip(start, end, strict=True))
        gradients = parameter_gradients(model, around.after, moved)
        accumulate(model, gradients | readout_gradients(model, self.cost, points[-2:], target))
        return Estimate(free, tuple(nudged))
