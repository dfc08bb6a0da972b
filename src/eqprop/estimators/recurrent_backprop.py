r"""Recurrent backpropagation: the implicit gradient at the steady state.

At s_* = F(x, s_*, θ) the implicit function theorem gives, with J = ∂F/∂s(s_*)::

    ∂L/∂θ = (∂F/∂θ)ᵀ λ,    λ = Jᵀ λ + ∂L/∂s

The adjoint λ is found by iterating its equation from λ = 0, which converges as fast as the dynamics
themselves do; the k-th iterate gives BPTT truncated to k transitions at the steady state.

Source: Almeida (1987) and Pineda (1987).
"""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from eqprop.core.costs import Cost, SquaredError, cost_gradient, require_cost
from eqprop.core.linearised import Linearised
from eqprop.core.models import ConvergentModel, State, parameter_gradients
from eqprop.core.phases import relax, require_steps, require_tolerance
from eqprop.core.settling import Relaxation
from eqprop.core.sizes import require_number
from eqprop.estimators.estimator import Estimate, Estimator, accumulate

__all__ = ["AdjointError", "RecurrentBackprop"]


class AdjointError(ArithmeticError):
    """The adjoint did not come to its tolerance."""


@final
@dataclass(frozen=True)
class RecurrentBackprop(Estimator):
    """The implicit gradient, with the adjoint solved to a tolerance.

    Args:
        free_steps: T, the most transitions of the free phase.
        adjoint_steps: the most iterations of the adjoint.
        adjoint_tolerance: the iteration ends when ‖λ_{k+1} − λ_k‖ ≤ this · ‖λ_{k+1}‖.
        tolerance: let every sample end its free phase where it rests, see
            :func:`~eqprop.core.phases.relax`.
        cost: ℓ.

    Raises:
        TypeError: a cost that is none, such as a loss of torch.
        ValueError: a number of steps < 1, adjoint_tolerance ≤ 0 or a negative tolerance.
    """

    free_steps: int
    adjoint_steps: int = 1000
    adjoint_tolerance: float = 1e-4
    tolerance: float | None = None
    cost: Cost = field(default_factory=SquaredError)

    def __post_init__(self) -> None:
        require_steps(free_steps=self.free_steps, adjoint_steps=self.adjoint_steps)
        require_cost(self.cost)
        require_tolerance(self.tolerance)
        if not require_number("adjoint_tolerance", self.adjoint_tolerance) > 0:
            raise ValueError(
                f"adjoint_tolerance: expected a number > 0, got {self.adjoint_tolerance}"
            )

    def estimate(
        self,
        model: ConvergentModel,
        x: Tensor,
        target: Tensor,
        generator: torch.Generator | None,
    ) -> Estimate:
        """Adds the implicit gradient to ``.grad``.

        Raises:
            AdjointError: the adjoint did not come to its tolerance: the steady state is not stable,
                or more steps are needed.
            NonFiniteError: a state stopped being finite.
        """
        with torch.enable_grad():
            drive = model.drive(x)
        with torch.no_grad():
            free = relax(model, x, self.free_steps, drive=drive, tolerance=self.tolerance)
        around = Linearised(model, drive, free.state)
        adjoint = self._adjoint(model, free, around, target)
        gradients = parameter_gradients(model, around.after, adjoint)
        accumulate(model, gradients | model.readout_gradients(self.cost, free.state, target))
        return Estimate(free)

    def _adjoint(
        self,
        model: ConvergentModel,
        free: Relaxation,
        around: Linearised,
        target: Tensor,
    ) -> State:
        """λ = Jᵀ λ + ∂L/∂s, J that of one transition."""
        gradient = cost_gradient(self.cost, model.prediction(free.state), target) / len(target)
        pulls = model.forces_on_layers(model.pull_back(free.state, gradient))
        source = tuple(pulls.get(i, torch.zeros_like(layer)) for i, layer in enumerate(free.state))
        adjoint = source
        moved, size, taken = torch.tensor(0.0), torch.tensor(0.0), 0
        for taken in range(1, self.adjoint_steps + 1):  # noqa: B007 - the message says it
            before = adjoint
            pulled = around.transposed(before)
            adjoint = tuple(a + b for a, b in zip(pulled, source, strict=True))
            moved = _norm(tuple(a - b for a, b in zip(adjoint, before, strict=True)))
            size = _norm(adjoint)
            if not size.isfinite():
                break
            if moved <= self.adjoint_tolerance * size:
                return adjoint
        raise AdjointError(
            f"the adjoint still moved by {float(moved / size):.1e} of its size after {taken} "
            f"iterations, expected at most {self.adjoint_tolerance:g}; the "
            "steady state is hardly stable: lower the learning rates or allow more adjoint steps"
        )


def _norm(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([t.norm() for t in tensors]).norm()
