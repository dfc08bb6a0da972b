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

A free phase that has been cut short, or has ended at a tolerance, leaves F(s_*) a little off s_*.
From there a network would drift on, out of the neighbourhood where J is its Jacobian: unlike EP,
which looks at the network where it is, AsymEP was then 45° off the gradient where a sample was said
to rest at 0.03. So F(s_*) − s_*, which is 0 at rest, is taken off every step.

J and Jᵀ are products with vectors, see :mod:`eqprop.core.linearised`: a nudged step costs three
transitions, or where autograd has to find them about five.

Source: https://arxiv.org/abs/2602.03670.
"""

from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from eqprop.core.costs import Cost, SquaredError
from eqprop.core.models import ConvergentModel, State
from eqprop.core.nudging import Nudge, Nudging, require_nudging
from eqprop.core.phases import relax
from eqprop.estimators.dynamics import AroundRest, NudgedDynamics, pulled
from eqprop.estimators.estimator import Estimate, Estimator, accumulate
from eqprop.estimators.nudges import betas, readout_gradients, require_phases

__all__ = ["AsymEP", "Asymmetric"]


@final
class Asymmetric(AroundRest):
    """The transition F(s) − (J − Jᵀ)(s − s_*) − (F(s_*) − s_*) + ε · force."""

    name = "AsymEP"
    error = "the error falls in proportion to {beta}, whatever F is"

    def step(self, drive: Any, state: State, force: Tensor | None = None) -> State:
        after = pulled(self._model, self._model.step(drive, state), force)
        moved, around = self.moved(state), self.around
        forth, back = around.times(moved), around.transposed(moved)
        parts = zip(after, forth, back, self.moved(around.reached), strict=True)
        return tuple(a - j + t - left for a, j, t, left in parts)


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
    dynamics: type[NudgedDynamics] | None = field(default=Asymmetric, init=False, repr=False)

    def __post_init__(self) -> None:
        require_phases(self)
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
        corrected = Asymmetric(model, x, free.state, drive)
        nudged = [corrected.phase(drive, self.nudged_steps, nudge) for nudge in nudges]
        points = [(0.0, free.state)]
        points += [(beta, phase.state) for beta, phase in zip(signed, nudged, strict=True)]
        (lower, start), (upper, end) = points[-2:]
        gradients = corrected.teaching(start, end, free.state, -1 / (upper - lower))
        accumulate(model, gradients | readout_gradients(model, self.cost, points[-2:], target))
        return Estimate(free, tuple(nudged))
