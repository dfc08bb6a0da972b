"""What the connections learned, as images: kernels of convolutions, and weights that see pixels.

The first connection always is one: a kernel for every channel, or, where it is dense, the weights
of every unit laid out as the input is. So are the convolutions above it, with a kernel for every
pair of an upper with a lower channel. Dense weights higher up connect no places, and are left out.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from eqprop.networks.connections.conv_pool import ConvPool
from eqprop.networks.connections.dense import Dense
from eqprop.networks.connections.feedback import Feedback
from eqprop.networks.connections.untied import Untied
from eqprop.networks.layered import LayeredNetwork
from eqprop.summary import summary

__all__ = ["WeightImages", "evenly", "weight_images"]

MOST_UNITS = 64
"""Most units of the first layer to be shown, where each has one image."""

MOST_CHANNELS = 32
"""Most channels to be shown on either side, where every pair has an image."""


@final
@dataclass(frozen=True, eq=False)
class WeightImages:
    """The images of one connection.

    Attributes:
        layer: the upper layer, as messages call it.
        kind: what its ``upper`` are: ``channels`` or ``units``.
        images: (upper, lower, height, width).
        upper: the numbers of those shown, ascending.
        lower: likewise, of the channels below.
        size: how many there are of both, shown or not.
    """

    layer: str
    kind: str
    images: Tensor
    upper: tuple[int, ...]
    lower: tuple[int, ...]
    size: tuple[int, int]

    __repr__ = summary


def weight_images(
    network: LayeredNetwork, input_shape: tuple[int, ...]
) -> tuple[WeightImages, ...]:
    """The images of the first connection, then those of the convolutions above it.

    Args:
        input_shape: (C, H, W) of images; the features of a table make an image one pixel high.
    """
    found = []
    *channels, height, width = (*[1] * (3 - len(input_shape)), *input_shape)
    for index, connection in enumerate(network.chain):
        forward = connection.upward if isinstance(connection, Untied | Feedback) else connection
        if isinstance(forward, ConvPool):
            kind, weight = "channels", forward.weight.detach()
        elif (
            isinstance(forward, Dense)
            and math.prod(forward.lower_shape) == math.prod(input_shape)
            and network.graph.ends[index][0] < 0
        ):
            kind, weight = (
                "units",
                forward.weight.detach().unflatten(1, (math.prod(channels), height, width)),
            )
        else:
            continue
        size = (weight.shape[0], weight.shape[1])
        upper = evenly(size[0], MOST_UNITS if size[1] == 1 else MOST_CHANNELS)
        lower = evenly(size[1], MOST_CHANNELS)
        images = weight[list(upper)][:, list(lower)].to("cpu", torch.float64)
        found.append(
            WeightImages(
                network.layer_name(network.graph.ends[index][1]), kind, images, upper, lower, size
            )
        )
    return tuple(found)


def evenly(count: int, most: int) -> tuple[int, ...]:
    """At most so many of the numbers 0 … count − 1, the same distance apart."""
    shown = min(count, most)
    return tuple(index * count // shown for index in range(shown))
