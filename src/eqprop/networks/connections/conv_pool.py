"""Convolution, then pooling.

P pools and P⁻¹ undoes it: where P takes the largest value of each window, P⁻¹ puts u where that
value was and 0 elsewhere; where P takes their average, P⁻¹ spreads u evenly. wᵀ ⋆ is the transposed
convolution. P⁻¹ depends on l through the places of the largest values, the *switches*, which are
the trace of the way up.

Source: Ernoult et al., https://arxiv.org/abs/1905.13633.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, final, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from eqprop.core.sizes import require_whole
from eqprop.networks.connections.connection import Change, ExplicitConnection

__all__ = ["ConvPool", "Pooling", "Switches"]

Switches = Tensor | None
"""Where the largest values of a pooling's windows were; ``None`` where nothing is chosen."""

Pooling = Literal["max", "average"]


@final
class ConvPool(ExplicitConnection):
    """Convolution, then pooling: up(l) = P(w ⋆ l + b), down(u) = wᵀ ⋆ P⁻¹(u).

    w is (channels, C, kernel, kernel) and b (channels,); both start uniform in ±1/√(C kernel²), as
    those of :class:`torch.nn.Conv2d` do. Without padding a convolution makes an image of height H
    one of ⌊(H + 2 padding − kernel) / stride⌋ + 1, and pooling divides that by ``pool``, leaving
    out what remains.

    Args:
        lower: the shape (C, H, W) of the lower layer.
        channels: of the upper layer.
        kernel: side of the convolution's window.
        stride: by how many pixels the window moves.
        padding: rows and columns of zeros around the image.
        pool: side of the pooling's windows, which do not overlap; 1 does not pool.
        pooling: whether a window gives its largest value (``max``) or the mean (``average``).

    Raises:
        ValueError: a lower layer that is no image, or is too small; says what would fit.
    """

    def __init__(
        self,
        lower: Sequence[int],
        channels: int,
        kernel: int = 5,
        *,
        stride: int = 1,
        padding: int = 0,
        pool: int = 2,
        pooling: Pooling = "max",
    ) -> None:
        if not isinstance(lower, Sequence):
            raise ValueError(
                "ConvPool: expected a lower layer of shape (channels, height, width), "
                f"got the size {lower}"
            )
        lower = require_whole("ConvPool", *lower)
        channels, kernel, stride, padding, pool = require_whole(
            "ConvPool, whose windows are square", channels, kernel, stride, padding, pool
        )
        if len(lower) != 3 or min(lower) < 1:
            raise ValueError(
                "ConvPool: expected a lower layer of shape (channels, height, width), "
                f"got {tuple(lower)}"
            )
        if min(channels, kernel, stride, pool) < 1 or padding < 0:
            raise ValueError(
                "ConvPool: expected channels, kernel, stride and pool of at least 1 and padding of "
                f"at least 0, got {channels}, {kernel}, {stride}, {pool} and {padding}"
            )
        if pooling not in get_args(Pooling):
            raise ValueError(
                f"pooling: expected one of {', '.join(get_args(Pooling))}, got {pooling!r}"
            )
        inputs, *image = lower
        convolved = tuple((n + 2 * padding - kernel) // stride + 1 for n in image)
        if min(convolved) < pool:
            least = kernel + (pool - 1) * stride - 2 * padding
            raise ValueError(
                f"ConvPool: expected an image of at least {least}×{least}, which kernel {kernel}, "
                f"stride {stride}, padding {padding} and pool {pool} need, "
                f"got {image[0]}×{image[1]}"
            )
        super().__init__(lower, (channels, *(n // pool for n in convolved)))
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.pool, self.pooling = pool, pooling
        self.conv_shape = (channels, *convolved)
        bound = 1 / math.sqrt(inputs * kernel**2)
        weight = torch.empty(channels, inputs, kernel, kernel).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def up(self, lower: Tensor) -> tuple[Tensor, Switches]:
        lower = _channels_last(lower)
        image = F.conv2d(lower, self.weight, self.bias, self.stride, self.padding)
        if self.pool == 1:
            return image, None
        if self.pooling == "average":
            return _by_parts(partial(F.avg_pool2d, kernel_size=self.pool), image), None
        return F.max_pool2d(image, self.pool, return_indices=True)

    def trace(self, lower: Tensor) -> Switches:
        chosen = self.pool > 1 and self.pooling == "max"
        return self.up(lower)[1] if chosen else None

    def transposed(
        self, weight: Tensor, upper: Tensor, trace: Switches, onto: Tensor | None = None
    ) -> Tensor:
        missed = tuple(
            n - ((m - 1) * self.stride + self.kernel - 2 * self.padding)
            for n, m in zip(self.lower_shape[1:], self.conv_shape[1:], strict=True)
        )
        received = F.conv_transpose2d(
            self._unpooled(upper, trace),
            weight,
            None,
            self.stride,
            self.padding,
            output_padding=missed,
        )
        # In place, as this tensor is new and no backward pass needs its values.
        return received if onto is None else received.add_(onto)

    def raised(
        self, weight: Tensor, lower: Tensor, trace: Switches, onto: Tensor | None = None
    ) -> Tensor:
        image = F.conv2d(_channels_last(lower), weight, None, self.stride, self.padding)
        received = image
        if trace is not None:
            # Of each window the pixel that was the largest, whatever its value is here.
            rows = _pixel_rows(image).gather(1, _pixel_rows(trace))
            height, width = self.upper_shape[1:]
            received = rows.view(len(rows), height, width, -1).permute(0, 3, 1, 2)
        elif self.pool > 1:
            received = _by_parts(partial(F.avg_pool2d, kernel_size=self.pool), image)
        return received if onto is None else onto + received

    def _unpooled(self, upper: Tensor, switches: Switches) -> Tensor:
        """P⁻¹(u), (B, …conv_shape)."""
        if self.pool == 1:
            return upper
        if switches is not None:
            # Not F.max_unpool2d, which torch takes for nondeterministic, as windows might overlap.
            channels, height, width = self.conv_shape
            values, places = (_pixel_rows(image) for image in (upper, switches))
            spread = values.new_zeros(len(values), height * width, channels)
            spread = spread.scatter(1, places, values)
            return spread.view(-1, height, width, channels).permute(0, 3, 1, 2)
        larger = partial(F.interpolate, scale_factor=self.pool, mode="nearest")
        spread = _by_parts(larger, upper / self.pool**2)
        height, width = (n - m for n, m in zip(self.conv_shape[1:], spread.shape[2:], strict=True))
        return F.pad(spread, (0, width, 0, height)) if height or width else spread

    def contrast_gradients(self, change: Change, scale: float = 1.0) -> dict[str, Tensor]:
        (lower_before, upper_before), (lower_after, upper_after) = change.before, change.after
        scale /= len(upper_after)
        if lower_after is lower_before:
            return self.up_gradients(lower_after, (upper_after - upper_before) * scale)
        switches = self.trace(torch.cat((lower_after, lower_before)))
        images = self._unpooled(torch.cat((upper_after, upper_before)) * scale, switches)
        image_after, image_before = images.chunk(2)
        moved = image_after - image_before
        # As for Dense: U′ ⋆ l′ − U ⋆ l = (U′ − U) ⋆ l′ + U ⋆ (l′ − l), both in one call.
        weight = self._weight_gradient(
            torch.cat((lower_after, lower_after - lower_before)), torch.cat((moved, image_before))
        )
        return {"weight": weight, "bias": moved.sum((0, 2, 3))}

    def up_gradients(self, lower: Tensor, upper: Tensor) -> dict[str, Tensor]:
        image = self._unpooled(upper, self.trace(lower))
        return {"weight": self._weight_gradient(lower, image), "bias": image.sum((0, 2, 3))}

    def down_gradient(self, lower: Tensor, upper: Tensor, trace: Switches) -> Tensor:
        return self._weight_gradient(lower, self._unpooled(upper, trace))

    def _weight_gradient(self, lower: Tensor, image: Tensor) -> Tensor:
        """∂/∂w of image • (w ⋆ lower), summed over the batch."""
        shape = self.weight.shape
        gradient = conv2d_weight(_channels_last(lower), shape, image, self.stride, self.padding)
        return gradient.contiguous()

    def extra_repr(self) -> str:
        pooled = f", pool={self.pool}, pooling={self.pooling}" if self.pool > 1 else ""
        return (
            f"{' × '.join(map(str, self.lower_shape))}, {self.upper_shape[0]}, "
            f"kernel={self.kernel}, stride={self.stride}, padding={self.padding}{pooled}"
        )


def _by_parts(linear: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """A linear function with real weights, which torch may not have for complex numbers."""
    if image.is_complex():
        return torch.complex(linear(image.real), linear(image.imag))
    return linear(image)


def _pixel_rows(images: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H W, C): a view where the channels are last in memory."""
    return images.permute(0, 2, 3, 1).flatten(1, 2)


def _channels_last(images: Tensor) -> Tensor:
    """The same images with the channels last in memory, for which pooling is over ten times faster.

    All that is computed from them keeps that order, so that only an input is ever copied.
    """
    if images.shape[1] == 1:
        # Of one channel either order is a view, but torch takes it for the other one.
        return images.reshape(len(images), *images.shape[2:], 1).permute(0, 3, 1, 2)
    return images.contiguous(memory_format=torch.channels_last)
