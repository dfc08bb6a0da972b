"""A step of a layered network beside its *bare* products: the same matrix products and convolutions
with nothing around them, one up and one down for every connection but the input's."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from eqprop.core.models import State
from eqprop.networks.connections.conv_pool import ConvPool
from eqprop.networks.connections.dense import Dense
from eqprop.networks.connections.feedback import Feedback
from eqprop.networks.connections.untied import Untied
from eqprop.networks.layered import LayeredNetwork

__all__ = ["bare_products"]


def bare_products(network: LayeredNetwork, state: State) -> list[Callable[[], object]]:
    """Those of one step, on tensors of the same shapes and layouts.

    Connections of other kinds than the library's own have none that are known.
    """
    bare: list[Callable[[], object]] = []
    for connection, (low, high) in zip(network.chain, network.graph.ends, strict=True):
        if low < 0:
            continue
        lower, upper = state[low], state[high]
        untied = isinstance(connection, Untied | Feedback)
        forward = connection.upward if untied else connection
        if not isinstance(forward, ConvPool | Dense):
            continue
        back = connection.backward_weight if untied else forward.weight
        if isinstance(forward, ConvPool):
            bare += _convolutions(forward, back, lower)
        else:
            flat = lower.flatten(1).contiguous()
            bare += [partial(torch.mm, flat, forward.weight.t()), partial(torch.mm, upper, back)]
    return bare


def _convolutions(connection: ConvPool, back: Tensor, lower: Tensor) -> list[Callable[[], object]]:
    weight, stride, padding = connection.weight, connection.stride, connection.padding
    image = F.conv2d(lower, weight, connection.bias, stride, padding)
    return [
        partial(F.conv2d, lower, weight, connection.bias, stride, padding),
        partial(F.conv_transpose2d, image, back, None, stride, padding),
    ]
