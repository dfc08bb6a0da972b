"""Pooling without a convolution."""

from collections.abc import Sequence
from typing import final, get_args

import torch.nn.functional as F
from torch import Tensor

from eqprop.core.sizes import require_whole
from eqprop.networks.connections.connection import Ends, TiedConnection, Trace, product
from eqprop.networks.connections.conv_pool import Pooling

__all__ = ["Pool"]


@final
class Pool(TiedConnection):
    """Pooling, without weights: up(l) = P(l); the coupling is u • P(l).

    Args:
        lower: the shape (C, H, W) of the lower layer.
        size: side of the windows, which do not overlap; what remains of an image is left out.
        pooling: whether a window gives its largest value (``max``) or the mean (``average``).

    Raises:
        ValueError: a lower layer that is no image, or is smaller than a window.
    """

    def __init__(self, lower: Sequence[int], size: int = 2, pooling: Pooling = "max") -> None:
        shape = require_whole("Pool", *(lower if isinstance(lower, Sequence) else [lower]))
        (size,) = require_whole("Pool, whose windows are square", size)
        if len(shape) != 3 or min(shape) < 1 or not 1 <= size <= min(shape[1:]):
            raise ValueError(
                "Pool: expected a lower layer (channels, height, width) and windows that fit into "
                f"it, got {lower} and windows of {size}"
            )
        if pooling not in get_args(Pooling):
            raise ValueError(
                f"pooling: expected one of {', '.join(get_args(Pooling))}, got {pooling!r}"
            )
        super().__init__(shape, (shape[0], *(n // size for n in shape[1:])))
        self.size, self.pooling = size, pooling

    def coupling(self, ends: Ends) -> Tensor:
        lower, upper = ends
        return product(upper, self._pooled(lower))

    def up(self, lower: Tensor) -> tuple[Tensor, Trace]:
        return self._pooled(lower), lower

    def _pooled(self, lower: Tensor) -> Tensor:
        pooled = F.max_pool2d if self.pooling == "max" else F.avg_pool2d
        return pooled(lower, self.size)

    def extra_repr(self) -> str:
        return f"{' × '.join(map(str, self.lower_shape))}, {self.size}, {self.pooling}"
