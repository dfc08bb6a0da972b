r"""Costs ℓ(ŷ, y): what the output layer should come to.

A cost gives one value per sample; losses are means over the batch. Its gradient at the output is
what nudges the network: in the nudged phase the output layer receives the force −β ∂ℓ/∂ŷ.
"""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

__all__ = ["Cost", "SquaredError"]


class Cost(ABC):
    """ℓ(ŷ, y), per sample.

    Write ``__call__``; override :meth:`gradient` where an explicit formula is faster than autograd.
    """

    @abstractmethod
    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """ℓ for every sample: ``output`` and ``target`` (B, …) give (B,)."""

    def gradient(self, output: Tensor, target: Tensor) -> Tensor:
        """∂ℓ/∂ŷ for every sample, shaped like ``output``."""
        with torch.enable_grad():
            at = output.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self(at, target).sum(), at)
        return gradient


@final
class SquaredError(Cost):
    """ℓ = ½‖ŷ − y‖², the cost of the published experiments."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (output - target).square().flatten(1).sum(1)

    def gradient(self, output: Tensor, target: Tensor) -> Tensor:
        return output - target
