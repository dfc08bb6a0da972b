r"""Backpropagation through time: the gradient of the loss after T transitions, by autograd.

L = ℓ(s_T, y), s_{t+1} = F(x, s_t, θ). Truncated to K, only the last K transitions are
differentiated: the gradient that EP with K nudged steps computes (Theorem 1), and memory grows
with K, not with T.

Source: https://arxiv.org/abs/1905.13633.
"""

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from eqprop.costs import Cost, SquaredError, require_per_sample
from eqprop.estimators.estimator import (
    Estimate,
    Estimator,
    accumulate,
    check_steps,
    check_tolerance,
)
from eqprop.models import ConvergentModel, parameter_gradients
from eqprop.relaxation import Relaxation, relax

__all__ = ["BPTT"]


@final
@dataclass(frozen=True)
class BPTT(Estimator):
    """∂ℓ(s_T)/∂θ through the last K of T transitions.

    Args:
        free_steps: T, all transitions.
        truncation: K, the last ones, that are differentiated; all T if not given.
        tolerance: let the transitions before the last K end early once no unit moves by more than
            this, see :func:`~eqprop.relaxation.relax`.
        cost: ℓ.

    Raises:
        ValueError: T < 1, K < 1, K > T or a negative tolerance.
    """

    free_steps: int
    truncation: int | None = None
    tolerance: float | None = None
    cost: Cost = field(default_factory=SquaredError)

    def __post_init__(self) -> None:
        check_steps(free_steps=self.free_steps, truncation=self.truncation)
        check_tolerance(self.tolerance)
        if self.truncation is not None and self.truncation > self.free_steps:
            raise ValueError(
                f"truncation: expected at most free_steps = {self.free_steps} transitions, "
                f"got {self.truncation}"
            )

    @torch.enable_grad()
    def __call__(
        self,
        model: ConvergentModel,
        x: Tensor,
        target: Tensor,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        drive = model.drive(x)
        settled = Relaxation(model.initial_state(x), 0)
        settling = self.free_steps - (self.truncation or self.free_steps)
        if settling:
            with torch.no_grad():
                settled = relax(model, x, settling, drive=drive, tolerance=self.tolerance)
        last = relax(
            model,
            x,
            self.free_steps - settling,
            drive=drive,
            state=settled.state,
            phase="free phase, where it is differentiated,",
        )
        losses = require_per_sample("cost", self.cost(last.state[-1], target), len(x))
        accumulate(model, parameter_gradients(model, (losses.mean(),)))
        state = tuple(layer.detach() for layer in last.state)
        return Estimate(replace(settled, state=state, steps=settled.steps + last.steps))
