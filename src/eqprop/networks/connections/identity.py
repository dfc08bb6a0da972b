"""Two layers of one shape that pull at each other unit by unit."""

from collections.abc import Sequence
from typing import final

from torch import Tensor

from eqprop.core.sizes import require_whole
from eqprop.networks.connections.connection import Ends, TiedConnection, Trace, product

__all__ = ["Identity"]


@final
class Identity(TiedConnection):
    """Unit by unit, without weights: up(l) = l, down(u) = u; the coupling is u · l.

    What a residual connection is between layers that settle: either pulls the other towards itself.

    Args:
        shape: of both layers; an ``int`` stands for a vector of that size.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        sizes = require_whole("Identity", *(shape if isinstance(shape, Sequence) else [shape]))
        if not sizes or min(sizes) < 1:
            raise ValueError(f"Identity: expected sizes of at least 1, got {shape}")
        super().__init__(sizes, sizes)

    def coupling(self, ends: Ends) -> Tensor:
        lower, upper = ends
        return product(upper, lower)

    def up(self, lower: Tensor) -> tuple[Tensor, Trace]:
        return lower, None

    def trace(self, lower: Tensor) -> Trace:
        return None

    def down(self, upper: Tensor, trace: Trace, onto: Tensor | None = None) -> Tensor:
        return upper if onto is None else onto + upper

    def extra_repr(self) -> str:
        return " × ".join(map(str, self.lower_shape))
