r"""Jacobian homeostasis: a term that draws any training towards a symmetric Jacobian.

EP follows the gradient as far as the Jacobian of the dynamics at the free steady state is
symmetric. With J that of the velocity (F(s) − s)/ε, in discrete time that of F less the identity,
and n units::

    h = ⟨‖J ξ‖² − ξᵀ J J ξ⟩ / n = ‖J − Jᵀ‖² / 2n        ξ normally distributed

as ⟨ξ ξᵀ⟩ = 1 makes of ‖J ξ‖² the sum of the squares of J, and of ξᵀ J J ξ the trace of J J. It is
0 where F comes from a Φ, and is measured by products of J and Jᵀ with a few random ξ, fresh in
every mini-batch. λ ∂h/∂θ is added to what an estimator finds; the state is taken as it is, not as
what it would become.

Source: Laborieux and Zenke, https://arxiv.org/abs/2309.02214, equation 12.
"""

from copy import copy
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from eqprop.core.models import ConvergentModel, State, parameter_gradients
from eqprop.core.sizes import described, require_number, require_whole
from eqprop.estimators.estimator import Estimate, Estimator, accumulate

__all__ = ["Homeostatic", "asymmetry"]


def asymmetry(
    model: ConvergentModel,
    x: Tensor,
    state: State,
    directions: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """h, the mean over the samples and some random ξ; autograd can follow it to the parameters.

    Args:
        x: the static input, (B, …).
        state: where, (B, …) per layer: the free steady state.
        directions: how many ξ.
        generator: where they come from.

    Raises:
        ValueError: a network of Newton's steps.
    """
    if getattr(model, "updates", "") == "newton":
        raise ValueError(
            "model: expected one time step for all units, got a network of Newton's steps, whose "
            "Jacobian is not symmetric where its weights are; take alternating updates"
        )
    torch.clear_autocast_cache()
    with torch.enable_grad():
        at = tuple(layer.detach().requires_grad_() for layer in state)
        after = model.step(model.drive(x), at)
        live = [i for i, layer in enumerate(after) if layer.requires_grad]
        dual = tuple(torch.zeros_like(layer, requires_grad=True) for layer in state)
        # Jᵀ dual, which is linear in it: J ξ is the derivative by it.
        down = torch.autograd.grad(
            [after[i] for i in live],
            at,
            [dual[i] for i in live],
            create_graph=True,
            materialize_grads=True,
        )
        total = x.new_zeros(())
        for _ in range(directions):
            xi = [_normal(layer, generator) for layer in state]
            forth = torch.autograd.grad(down, dual, xi, create_graph=True, materialize_grads=True)
            back = torch.autograd.grad(
                [after[i] for i in live],
                at,
                [xi[i] for i in live],
                create_graph=True,
                materialize_grads=True,
            )
            for j, t in zip(forth, back, strict=True):
                # J of F, less the identity, cancels: ‖Jξ‖² − Jᵀξ · Jξ.
                total = total + (j * (j - t)).sum()
    units = sum(layer[0].numel() for layer in state)
    return total / (directions * units * len(x) * model.epsilon**2)


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


@final
@dataclass(frozen=True)
class Homeostatic(Estimator):
    """Another estimator, and λ ∂h/∂θ.

    Args:
        of: the estimator of ∂L/∂θ.
        strength: λ ≥ 0.
        directions: random ξ of every mini-batch.

    Raises:
        TypeError: ``of`` is no estimator. ValueError: λ < 0 or not finite, no direction.
    """

    of: Estimator
    strength: float
    directions: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.of, Estimator):
            raise TypeError(
                "of: expected an estimator, such as EquilibriumPropagation(20, 8, 0.5), got "
                f"{described(self.of)}"
            )
        if not 0 <= require_number("strength", self.strength) < float("inf"):
            raise ValueError(f"strength: expected a finite number >= 0, got {self.strength}")
        (directions,) = require_whole("directions", self.directions)
        if directions < 1:
            raise ValueError(f"directions: expected at least 1, got {directions}")
        for name in ("free_steps", "tolerance", "cost", "dynamics"):
            # Estimators are frozen; this one is new.
            object.__setattr__(self, name, getattr(self.of, name))

    def estimate(
        self,
        model: ConvergentModel,
        x: Tensor,
        target: Tensor,
        generator: torch.Generator | None,
    ) -> Estimate:
        """Adds the sum of both gradients to ``.grad``."""
        inner = copy(self.of)
        object.__setattr__(inner, "cost", self.cost)
        found = inner.estimate(model, x, target, generator)
        if self.strength:
            h = asymmetry(model, x, found.free.state, self.directions, generator)
            accumulate(model, parameter_gradients(model, (self.strength * h,)))
        return found
