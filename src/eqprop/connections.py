r"""Connections: how two neighbouring layers pull at each other.

A connection contributes the coupling u · (W l + b) to Φ, with l what the lower layer sends and u
what the upper one does. Its way *up* is the derivative with respect to u, W l + b; its way *down*
the one with respect to l, Wᵀ u.
"""

import math
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn

__all__ = ["Connection", "Dense", "dense"]


class Connection(nn.Module, ABC):
    """A coupling of a lower with an upper layer, given by its derivatives.

    Attributes:
        lower_shape: the shape of the lower layer, without the batch.
        upper_shape: the shape of the upper layer, without the batch.
    """

    lower_shape: tuple[int, ...]
    upper_shape: tuple[int, ...]

    @abstractmethod
    def up(self, lower: Tensor) -> Tensor:
        """∂coupling/∂upper: what the upper layer receives, (B, …upper)."""

    @abstractmethod
    def down(self, upper: Tensor, onto: Tensor | None = None) -> Tensor:
        """∂coupling/∂lower: what the lower layer receives, (B, …lower), added to ``onto``."""

    @abstractmethod
    def contrast_gradients(
        self, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], scale: float = 1.0
    ) -> dict[str, Tensor]:
        """scale · ∂/∂θ of the batch mean of coupling(after) − coupling(before), by parameter name.

        Both are pairs (lower, upper) of what the layers send. A lower that is the same tensor in
        both is the static input.
        """


@final
class Dense(Connection):
    """All-to-all weights: up(l) = W l + b, down(u) = Wᵀ u, with W (out, in) and b (out,).

    Weights and bias start uniform in ±1/√in, as those of :class:`torch.nn.Linear` do.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, in_size: int, out_size: int) -> None:
        super().__init__()
        if in_size < 1 or out_size < 1:
            raise ValueError(f"Dense: expected sizes of at least 1, got {in_size} and {out_size}")
        self.lower_shape, self.upper_shape = (in_size,), (out_size,)
        bound = 1 / math.sqrt(in_size)
        self.weight = nn.Parameter(torch.empty(out_size, in_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_size).uniform_(-bound, bound))

    def up(self, lower: Tensor) -> Tensor:
        return torch.addmm(self.bias, lower, self.weight.t())

    def down(self, upper: Tensor, onto: Tensor | None = None) -> Tensor:
        return upper @ self.weight if onto is None else torch.addmm(onto, upper, self.weight)

    def contrast_gradients(
        self, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], scale: float = 1.0
    ) -> dict[str, Tensor]:
        (lower_before, upper_before), (lower_after, upper_after) = before, after
        # The scale goes into the states: multiplying the gradient would be another pass over it.
        scale /= len(upper_after)
        moved = (upper_after - upper_before) * scale
        if lower_after is lower_before:
            weight = moved.t() @ lower_after
        else:
            # u′ l′ᵀ − u lᵀ = (u′ − u) l′ᵀ + u (l′ − l)ᵀ: no difference of two large products.
            nearby = (lower_after - lower_before) * scale
            weight = torch.addmm(moved.t() @ lower_after, upper_before.t(), nearby)
        return {"weight": weight, "bias": moved.sum(0)}

    def extra_repr(self) -> str:
        return f"{self.lower_shape[0]}, {self.upper_shape[0]}"


def dense(*sizes: int) -> list[Connection]:
    """The dense connections of a chain of layers: ``dense(784, 512, 10)``, input side first.

    Raises:
        ValueError: fewer than two sizes, or one below 1.
    """
    if len(sizes) < 2:
        raise ValueError(f"dense: expected the sizes of the input and of a layer, got {sizes}")
    return [Dense(lower, upper) for lower, upper in pairwise(sizes)]
