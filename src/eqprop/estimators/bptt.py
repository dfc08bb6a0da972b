r"""Backpropagation through time: the gradient of the loss after T transitions, by autograd.

L = ℓ(s_T, y), s_{t+1} = F(x, s_t, θ). Truncated to K, only the last K transitions are
differentiated: the gradient that EP with K nudged steps computes (Theorem 1), and memory grows
with K, not with T.

Source: https://arxiv.org/abs/1905.13633.
"""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from eqprop.core.costs import (
    Cost,
    SquaredError,
    require_cost,
    require_differentiable,
    require_per_sample,
)
from eqprop.core.models import ConvergentModel, parameter_gradients
from eqprop.core.phases import relax, require_steps, require_tolerance
from eqprop.core.settling import Relaxation
from eqprop.estimators.estimator import Estimate, Estimator, accumulate

__all__ = ["BPTT", "truncated"]


@final
@dataclass(frozen=True)
class BPTT(Estimator):
    """∂ℓ(s_T)/∂θ through the last K of T transitions.

    Args:
        free_steps: T, all transitions.
        truncation: K, the last ones, that are differentiated; all T if not given.
        tolerance: let every sample rest before the last K transitions, see
            :func:`~eqprop.core.phases.relax`.
        cost: ℓ.

    Raises:
        TypeError: a cost that is none, such as a loss of torch.
        ValueError: T < 1, K < 1, K > T or a negative tolerance.
    """

    free_steps: int
    truncation: int | None = None
    tolerance: float | None = None
    cost: Cost = field(default_factory=SquaredError)

    def __post_init__(self) -> None:
        require_steps(free_steps=self.free_steps)
        require_cost(self.cost)
        if self.truncation is not None:
            require_steps(truncation=self.truncation)
        require_tolerance(self.tolerance)
        if self.truncation is not None and self.truncation > self.free_steps:
            raise ValueError(
                f"truncation: expected at most free_steps = {self.free_steps} transitions, "
                f"got {self.truncation}"
            )

    @torch.enable_grad()
    def estimate(
        self,
        model: ConvergentModel,
        x: Tensor,
        target: Tensor,
        generator: torch.Generator | None,
    ) -> Estimate:
        drive, state = model.drive(x), model.initial_state(x)
        settling = self.free_steps - (self.truncation or self.free_steps)
        settled = None
        if settling:
            with torch.no_grad():
                settled = relax(model, x, settling, drive=drive, tolerance=self.tolerance)
            state = settled.state
            # Some versions of torch would go on with the rounded weights of there, which pass no
            # gradient.
            torch.clear_autocast_cache()
        last = relax(
            model,
            x,
            self.free_steps - settling,
            drive=drive,
            state=state,
            phase="free phase, where it is differentiated,",
        )
        output = model.prediction(last.state)
        losses = require_per_sample("cost", self.cost(output, target), len(x))
        if output.requires_grad:
            require_differentiable(losses)
        accumulate(model, parameter_gradients(model, (losses.mean(),)))
        # Detached, or the graph of all steps would live as long as the estimate.
        state = tuple(layer.detach() for layer in last.state)
        steps = last.steps if settled is None else settled.steps + last.steps
        limit = None
        if self.tolerance is not None:
            limit = last.moved.new_full((len(x),), self.tolerance * model.epsilon)
        return Estimate(Relaxation(state, steps, last.moved, limit))


def truncated(free_steps: int, nudged_steps: int, tolerance: float | None, cost: Cost) -> BPTT:
    """BPTT through as many steps as EP would nudge.

    Raises:
        ValueError: K > T.
    """
    if nudged_steps > free_steps:
        raise ValueError(
            f"nudged_steps: expected at most free_steps = {free_steps}, as bptt differentiates the "
            f"last of them, got {nudged_steps}"
        )
    return BPTT(free_steps, nudged_steps, tolerance, cost)
