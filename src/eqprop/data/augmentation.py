"""Augmentation: training images that are a little different each time they are seen."""

from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor

__all__ = ["Augmentation", "random_shift"]

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""From a mini-batch of inputs (B, …) and a source of randomness to inputs of the same shape."""


def random_shift(images: Tensor, generator: torch.Generator, *, pixels: int) -> Tensor:
    """Move every image by −pixels … pixels, drawn for both directions on their own.

    What moves in is 0, what moves out is lost.

    Args:
        images: (B, C, H, W).
        generator: on the device of the images.
        pixels: how far at most.

    Raises:
        ValueError: no images, but a table for instance, whose columns have no place; or pixels < 0.
    """
    if not isinstance(pixels, Integral) or pixels < 0:
        raise ValueError(f"pixels: expected a whole number of at least 0, got {pixels!r}")
    if images.dim() != 4:
        raise ValueError(
            "random_shift: expected images (B, C, H, W), which can be moved by a pixel, got inputs "
            f"of shape {tuple(images.shape)}"
        )
    samples, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (pixels, pixels, pixels, pixels))
    corner = torch.randint(
        2 * pixels + 1, (2, samples, 1, 1, 1), generator=generator, device=images.device
    )
    count = torch.arange
    rows = corner[0] + count(height, device=images.device).view(1, 1, -1, 1)
    columns = corner[1] + count(width, device=images.device)
    sample = count(samples, device=images.device).view(-1, 1, 1, 1)
    channel = count(channels, device=images.device).view(1, -1, 1, 1)
    return padded[sample, channel, rows, columns]
