"""Augmentation: training images that are a little different each time they are seen."""

from collections.abc import Callable
from numbers import Integral
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["Augmentation", "Fill", "random_flip", "random_shift"]

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""From a mini-batch of inputs (B, …) and a source of randomness to inputs of the same shape."""

Fill = Literal["zeros", "edge"]
"""What comes in where an image moves: zeros, or its outermost pixels again."""


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every image left to right, or not, each as likely.

    Args:
        images: (B, C, H, W).
        generator: on the device of the images.

    Raises:
        ValueError: no images.
    """
    _require_images("random_flip", images)
    shape = (len(images), 1, 1, 1)
    flipped = torch.randint(2, shape, generator=generator, device=images.device).bool()
    return torch.where(flipped, images.flip(3), images)


def random_shift(
    images: Tensor, generator: torch.Generator, *, pixels: int, fill: Fill = "zeros"
) -> Tensor:
    """Move every image by −pixels … pixels, drawn for both directions on their own.

    The same as a random crop of the image with so many pixels of padding. What moves out is lost.

    Args:
        images: (B, C, H, W).
        generator: on the device of the images.
        pixels: how far at most.
        fill: what moves in: zeros, or the outermost pixels again.

    Raises:
        ValueError: no images, but a table for instance, whose columns have no place; or pixels < 0.
    """
    if not isinstance(pixels, Integral) or pixels < 0:
        raise ValueError(f"pixels: expected a whole number of at least 0, got {pixels!r}")
    _require_images("random_shift", images)
    if fill not in get_args(Fill):
        raise ValueError(f"fill: expected one of {', '.join(get_args(Fill))}, got {fill!r}")
    samples, channels, height, width = images.shape
    mode = "constant" if fill == "zeros" else "replicate"
    padded = torch.nn.functional.pad(images, (pixels, pixels, pixels, pixels), mode)
    corner = torch.randint(
        2 * pixels + 1, (2, samples, 1, 1, 1), generator=generator, device=images.device
    )
    count = torch.arange
    rows = corner[0] + count(height, device=images.device).view(1, 1, -1, 1)
    columns = corner[1] + count(width, device=images.device)
    sample = count(samples, device=images.device).view(-1, 1, 1, 1)
    channel = count(channels, device=images.device).view(1, -1, 1, 1)
    return padded[sample, channel, rows, columns]


def _require_images(name: str, images: Tensor) -> None:
    if images.dim() != 4:
        raise ValueError(
            f"{name}: expected images (B, C, H, W), whose pixels have a place, got inputs of shape "
            f"{tuple(images.shape)}"
        )
