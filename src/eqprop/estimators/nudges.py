"""What estimators that compare two points on the line of β have in common."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from eqprop.core.costs import Cost, require_cost
from eqprop.core.models import ConvergentModel, State
from eqprop.core.nudging import Nudging, require_beta
from eqprop.core.phases import require_steps, require_tolerance
from eqprop.estimators.estimator import random_sign

__all__ = ["betas", "readout_gradients", "require_phases"]


class _TwoPhases(Protocol):
    """The settings of an estimator with a free and a nudged phase."""

    @property
    def free_steps(self) -> int: ...
    @property
    def nudged_steps(self) -> int: ...
    @property
    def beta(self) -> float: ...
    @property
    def tolerance(self) -> float | None: ...
    @property
    def cost(self) -> Cost: ...


def require_phases(settings: _TwoPhases) -> None:
    """Refuse phases that cannot be.

    Raises:
        TypeError: a cost that is none, such as a loss of torch.
        ValueError: T or K < 1, β = 0 or not finite, a negative tolerance.
    """
    require_steps(free_steps=settings.free_steps, nudged_steps=settings.nudged_steps)
    require_cost(settings.cost)
    require_tolerance(settings.tolerance)
    require_beta(settings.beta)


def betas(
    beta: float, nudging: Nudging, cost: Cost, generator: torch.Generator | None
) -> list[float]:
    """Of the nudged phases, in their order; β is that of the samples of the largest weight."""
    beta = beta / cost.largest_weight
    if nudging == "symmetric":
        return [-beta, beta]
    if nudging == "one-sided":
        return [beta]
    return [beta * random_sign(generator)]


def readout_gradients(
    model: ConvergentModel, cost: Cost, points: Sequence[tuple[float, State]], target: Tensor
) -> dict[str, Tensor]:
    """(β₂ ∂ℓ/∂θ(s₂) − β₁ ∂ℓ/∂θ(s₁)) / (β₂ − β₁) for the readout, if there is one.

    Args:
        points: (β₁, s₁) and (β₂, s₂).
    """
    found: dict[str, Tensor] = {}
    if not model.has_readout:
        return found
    (lower, before), (upper, after) = points
    for weight, state in ((-lower, before), (upper, after)):
        if weight:
            for name, g in model.readout_gradients(cost, state, target).items():
                found[name] = found.get(name, 0.0) + g * (weight / (upper - lower))
    return found
