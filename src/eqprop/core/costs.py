r"""Costs ℓ(ŷ, y): what the output layer should come to.

A cost gives one value per sample; losses are means over the batch. Its gradient at the output is
what nudges the network: in the nudged phase the output layer receives the force −β ∂ℓ/∂ŷ.
"""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from eqprop.core.sizes import described

__all__ = [
    "Cost",
    "SquaredError",
    "cost_gradient",
    "require_cost",
    "require_differentiable",
    "require_per_sample",
]


def require_per_sample(name: str, value: Tensor, samples: int) -> Tensor:
    """``value``, if it is one number per sample.

    Raises:
        ValueError: it is not of shape (B,): a mean or a sum over the batch, for instance; or no
            tensor.
    """
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name}: expected one value per sample, a tensor of shape ({samples},), got "
            f"{type(value).__name__}"
        )
    if value.shape != (samples,):
        raise ValueError(
            f"{name}: expected one value per sample, shape ({samples},), got {tuple(value.shape)}"
        )
    return value


def require_differentiable(cost: Tensor) -> None:
    """Refuse the costs of an output that requires a gradient if no gradient comes back from them.

    Raises:
        ValueError: says so.
    """
    if not cost.requires_grad:
        raise ValueError(
            "cost: expected one that autograd can follow back to the output, got one that is "
            "detached from it, such as a count of errors or what numpy has computed"
        )


class Cost(ABC):
    """ℓ(ŷ, y), per sample.

    Write ``__call__``; override :meth:`gradient` where an explicit formula is faster than autograd.
    """

    @abstractmethod
    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """ℓ for every sample: ``output`` and ``target`` (B, …) give (B,)."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def gradient(self, output: Tensor, target: Tensor) -> Tensor:
        """∂ℓ/∂ŷ for every sample, shaped like ``output``.

        Raises:
            ValueError: the cost is not one value per sample, or no function of the output that
                autograd can follow.
        """
        with torch.enable_grad():
            at = output.detach().requires_grad_()
            cost = require_per_sample("cost", self(at, target), len(output))
            require_differentiable(cost)
            (gradient,) = torch.autograd.grad(cost.sum(), at)
        return gradient


@final
class SquaredError(Cost):
    """ℓ = ½‖ŷ − y‖², the cost of the published experiments.

    Raises:
        ValueError: output and target are not of one shape (labels, for instance, are to be made
            targets first, see :func:`~eqprop.data.dataset.one_hot`).
    """

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * self.gradient(output, target).square().flatten(1).sum(1)

    def gradient(self, output: Tensor, target: Tensor) -> Tensor:
        if output.shape != target.shape:
            raise ValueError(
                f"target: expected the shape of the output, {tuple(output.shape)}, "
                f"got {tuple(target.shape)}"
            )
        return output - target


def cost_gradient(cost: Cost, output: Tensor, target: Tensor) -> Tensor:
    """∂ℓ/∂ŷ, of whatever cost, one value for every output unit.

    Raises:
        ValueError: it has another shape, which might pass for one by broadcasting.
    """
    gradient = cost.gradient(output, target)
    if not isinstance(gradient, Tensor) or gradient.shape != output.shape:
        got = tuple(gradient.shape) if isinstance(gradient, Tensor) else described(gradient)
        raise ValueError(
            f"{type(cost).__name__}.gradient: expected one value for every output unit of every "
            f"sample, {tuple(output.shape)}, got {got}"
        )
    return gradient


def require_cost(cost: object) -> None:
    """Refuse what is no cost, such as a loss of torch.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(cost, Cost):
        raise TypeError(
            "cost: expected a Cost, such as SquaredError() or one of a class of your own, got "
            f"{described(cost)}"
        )
