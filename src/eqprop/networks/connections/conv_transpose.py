"""Convolutions that make an image larger on the way up."""

import math
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from eqprop.core.sizes import require_whole
from eqprop.networks.connections.connection import Change, ExplicitConnection, Trace

__all__ = ["ConvTranspose"]


@final
class ConvTranspose(ExplicitConnection):
    """Transposed convolution: up(l) = wᵀ ⋆ l + b, down(u) = w ⋆ u, for generators and decoders.

    w is (C, channels, kernel, kernel) and b (channels,); both start uniform in ±1/√(C kernel²). An
    image of height H becomes one of (H − 1) stride − 2 padding + kernel.

    Args:
        lower: the shape (C, H, W) of the lower layer.
        channels: of the upper layer.
        kernel: side of the convolution's window.
        stride: by how many pixels the window moves in the upper layer.
        padding: rows and columns that are taken off around the upper image.

    Raises:
        ValueError: a lower layer that is no image, or an upper one of no size.
    """

    def __init__(
        self,
        lower: Sequence[int],
        channels: int,
        kernel: int = 5,
        *,
        stride: int = 1,
        padding: int = 0,
    ) -> None:
        shape = require_whole("ConvTranspose", *(lower if isinstance(lower, Sequence) else [lower]))
        channels, kernel, stride, padding = require_whole(
            "ConvTranspose, whose windows are square", channels, kernel, stride, padding
        )
        if len(shape) != 3 or min(*shape, channels, kernel, stride) < 1 or padding < 0:
            raise ValueError(
                "ConvTranspose: expected a lower layer (channels, height, width), channels, kernel "
                f"and stride of at least 1 and padding of at least 0, got {lower}, {channels}, "
                f"{kernel}, {stride} and {padding}"
            )
        inputs, *image = shape
        grown = tuple((n - 1) * stride - 2 * padding + kernel for n in image)
        if min(grown) < 1:
            raise ValueError(
                f"ConvTranspose: expected less padding than leaves an image of {grown}, got "
                f"{padding}"
            )
        super().__init__(shape, (channels, *grown))
        self.kernel, self.stride, self.padding = kernel, stride, padding
        bound = 1 / math.sqrt(inputs * kernel**2)
        weight = torch.empty(inputs, channels, kernel, kernel).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def up(self, lower: Tensor) -> tuple[Tensor, Trace]:
        return F.conv_transpose2d(lower, self.weight, self.bias, self.stride, self.padding), None

    def trace(self, lower: Tensor) -> Trace:
        return None

    def transposed(
        self, weight: Tensor, upper: Tensor, trace: Trace, onto: Tensor | None = None
    ) -> Tensor:
        received = F.conv2d(upper, weight, None, self.stride, self.padding)
        return received if onto is None else received.add_(onto)

    def contrast_gradients(self, change: Change, scale: float = 1.0) -> dict[str, Tensor]:
        (lower_before, upper_before), (lower_after, upper_after) = change.before, change.after
        scale /= len(upper_after)
        moved = (upper_after - upper_before) * scale
        # As for Dense: u′ l′ − u l = (u′ − u) l′ + u (l′ − l), both in one call.
        weight = self._weight_gradient(
            torch.cat((lower_after, lower_after - lower_before)),
            torch.cat((moved, upper_before * scale)),
        )
        return {"weight": weight, "bias": moved.sum((0, 2, 3))}

    def up_gradients(self, lower: Tensor, upper: Tensor) -> dict[str, Tensor]:
        return {"weight": self._weight_gradient(lower, upper), "bias": upper.sum((0, 2, 3))}

    def down_gradient(self, lower: Tensor, upper: Tensor, trace: Trace) -> Tensor:
        return self._weight_gradient(lower, upper)

    def _weight_gradient(self, lower: Tensor, upper: Tensor) -> Tensor:
        """∂/∂w of lower • (w ⋆ upper), summed over the batch."""
        shape = self.weight.shape
        return conv2d_weight(upper, shape, lower, self.stride, self.padding).contiguous()

    def extra_repr(self) -> str:
        return (
            f"{' × '.join(map(str, self.lower_shape))}, {self.upper_shape[0]}, "
            f"kernel={self.kernel}, stride={self.stride}, padding={self.padding}"
        )
