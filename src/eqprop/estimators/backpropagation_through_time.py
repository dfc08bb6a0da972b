r"""Backpropagation through time: the gradient of the loss after T transitions, by autograd.

L = ℓ(s_T, y), s_{t+1} = F(x, s_t, θ). Truncated to K, only the last K transitions are
differentiated: the gradient that EP with K nudged steps computes (Theorem 1), and memory grows
with K, not with T.

Source: https://arxiv.org/abs/1905.13633, section 3.
"""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from eqprop.costs import Cost, SquaredError
from eqprop.estimators.estimator import Estimate, Estimator, accumulate, check_steps
from eqprop.models import ConvergentModel
from eqprop.relaxation import relax

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
        ValueError: T < 1, K < 1 or K > T.
    """

    free_steps: int
    truncation: int | None = None
    tolerance: float | None = None
    cost: Cost = field(default_factory=SquaredError)

    def __post_init__(self) -> None:
        check_steps(free_steps=self.free_steps, truncation=self.truncation)
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
        state = None
        settling = self.free_steps - (self.truncation or self.free_steps)
        if settling:
            with torch.no_grad():
                state = relax(model, x, settling, drive=drive, tolerance=self.tolerance).state
        last = relax(model, x, self.free_steps - settling, drive=drive, state=state)
        loss = self.cost(last.state[-1], target).mean()
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(loss, list(trained.values()), materialize_grads=True)
        accumulate(model, dict(zip(trained, gradients, strict=True)))
        return Estimate(last)
