r"""Equilibrium Propagation: the difference of two steady states is the gradient.

The network settles freely to s_*, then, nudged by the force −β ∂ℓ/∂s, to s_*^β::

    one-sided, random-sign   Δθ = (1/β)  (∂Φ/∂θ(s_*^β) − ∂Φ/∂θ(s_*))        error O(β)
    symmetric                Δθ = (1/2β) (∂Φ/∂θ(s_*^{+β}) − ∂Φ/∂θ(s_*^{−β}))  error O(β²)

and ``.grad`` receives −Δθ. Nothing but the two states is kept: memory does not grow with T or K.

Where phases settle to a tolerance, the second of two opposite nudges starts from 2 s_* − s_*^β, the
mirror image of where the first one has led: but for O(β²) it is there already, if the free phase
rests. The state it settles to is the same.

Source: Scellier and Bengio, https://arxiv.org/abs/1602.05179; 1905.13633; symmetric
nudging: Laborieux et al., https://arxiv.org/abs/2006.03824.
"""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from eqprop.core.costs import Cost, SquaredError
from eqprop.core.models import ConvergentModel, State
from eqprop.core.nudging import Nudge, Nudging, require_nudging
from eqprop.core.phases import (
    nudged_phase,
    relax,
)
from eqprop.core.settling import Relaxation
from eqprop.estimators.descent import is_plain_descent, learning_rates
from eqprop.estimators.dynamics import Local, NudgedDynamics
from eqprop.estimators.estimator import Estimate, Estimator, accumulate
from eqprop.estimators.nudges import betas, readout_gradients, require_phases

__all__ = ["EquilibriumPropagation"]


@final
@dataclass(frozen=True)
class EquilibriumPropagation(Estimator):
    """Two (or, symmetric, three) relaxations and a local learning rule.

    Args:
        free_steps: T, transitions of the free phase.
        nudged_steps: K, transitions of each nudged phase.
        beta: β ≠ 0, the strength of the nudge; in real time the continuous-time one. Where samples
            or classes have weights, that of those of the largest weight.
        nudging: ``one-sided`` with β as given, ``random-sign`` with +β or −β drawn per mini-batch,
            ``symmetric`` with one nudged phase each way.
        tolerance: let every sample end a phase where it rests, see
            :func:`~eqprop.core.phases.relax` and :func:`~eqprop.core.phases.nudged_phase`; T and K
            are then the most steps it may take. Unless nudging is symmetric, what is left of the
            free phase counts as an effect of the nudge: it settles to the tolerance times that, see
            :meth:`~eqprop.core.nudging.Nudge.effect`.
        cost: ℓ.
        optimizer: of the model's parameters; if it is plain gradient descent, its step is taken
            right here, in one pass over the weights, and ``.grad`` stays empty, so that a training
            loop's own ``optimizer.step()`` finds nothing to do. Others, and none, change nothing.

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
    optimizer: torch.optim.Optimizer | None = None
    dynamics: type[NudgedDynamics] | None = field(default=Local, init=False, repr=False)

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
        drive = model.drive(x)
        signed = betas(self.beta, self.nudging, self.cost, generator)
        nudges = [Nudge(self.cost, target, beta, model) for beta in signed]
        # What is left of the free phase is in the difference; between opposite nudges it cancels.
        ahead = None if self.nudging == "symmetric" else nudges[0]
        free = relax(model, x, self.free_steps, drive=drive, tolerance=self.tolerance, ahead=ahead)
        nudged = list[Relaxation]()
        for nudge in nudges:
            start = free.state
            if nudged and self.tolerance is not None:
                start = _mirrored(model, free, nudged[0].state)
            nudged.append(
                nudged_phase(
                    model,
                    x,
                    self.nudged_steps,
                    nudge,
                    start,
                    drive=drive,
                    tolerance=self.tolerance,
                )
            )
        # Two points on the line of β: (0, β) one-sided, (−β, +β) symmetric.
        points = [(0.0, free.state)]
        points += [(beta, phase.state) for beta, phase in zip(signed, nudged, strict=True)]
        compared = points[-2:]
        (lower, before), (upper, after) = compared
        scale = 1 / (upper - lower)
        read = readout_gradients(model, self.cost, compared, target)
        if self.optimizer is not None and is_plain_descent(self.optimizer):
            rates = learning_rates(model, self.optimizer)
            model.learning_rule(x, rates)(before, after, free.state, scale)
            parameters = dict(model.named_parameters()) if read else {}
            for name in read.keys() & rates.keys():
                parameters[name].add_(read[name], alpha=-rates[name])
        else:
            gradients = model.contrast_gradients(x, before, after, free.state, -scale)
            accumulate(model, gradients | read)
        return Estimate(free, tuple(nudged))


def _mirrored(model: ConvergentModel, free: Relaxation, nudged: State) -> State:
    """2 s_* − s_*^β, where −β leads, but for O(β²); s_* where that is not at rest.

    What is left of a free phase is in both nudged states alike only if they begin alike.
    """
    rests = free.rests()
    start = []
    for at, to in zip(free.state, nudged, strict=True):
        mirrored = 2 * at - to
        if model.clip is not None:
            mirrored = mirrored.clamp(*model.clip)
        start.append(torch.where(rests.view(-1, *[1] * (at.dim() - 1)), mirrored, at))
    return tuple(start)
