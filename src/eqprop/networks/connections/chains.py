"""Chains of connections, input side first."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from eqprop.core.sizes import described
from eqprop.networks.connections.connection import Connection, TiedConnection
from eqprop.networks.connections.conv_pool import ConvPool, Pooling
from eqprop.networks.connections.dense import Dense
from eqprop.networks.connections.untied import Untied

__all__ = ["convolutional", "dense", "require_chain", "untied"]


def dense(inputs: int | Sequence[int], /, *sizes: int) -> list[TiedConnection]:
    """The dense connections of a chain of layers: ``dense(784, 512, 10)``, input side first.

    Args:
        inputs: the size of the input, or its shape, which is flattened:
            ``dense(data.input_shape, 512, data.classes)``.
        sizes: of every layer.

    Raises:
        ValueError: no layer, or a size below 1.
    """
    if not sizes:
        raise ValueError(
            "dense: expected the sizes of the input and of a layer, as in dense(784, 512, 10), got "
            f"{inputs}"
        )
    size = math.prod(inputs) if isinstance(inputs, Sequence) else inputs
    return [Dense(lower, upper) for lower, upper in pairwise([size, *sizes])]


def untied(connections: Sequence[TiedConnection], angle: float = 0.0) -> list[Connection]:
    """The same chain with backward weights of their own, but at the input, from which none lead.

    Args:
        connections: input side first, see :func:`dense` and :func:`convolutional`; they become the
            ways up.
        angle: ψ in degrees, from 0 to 180, at which the backward weights start.

    Raises:
        ValueError: an angle outside that range, or no connection.
        TypeError: no list of connections, or of such as are untied already.
    """
    first, *others = require_chain(connections)
    return [first, *(Untied(connection, angle) for connection in others)]


def require_chain(connections: object) -> list[Any]:
    """Connections, input side first, of which there is at least one.

    Raises:
        TypeError: they are none, or a single one is not in a list. ValueError: there is none.
    """
    if isinstance(connections, str) or not isinstance(connections, Iterable):
        listed = f"; write [{type(connections).__name__}(…)]"
        raise TypeError(
            "connections: expected a list of them, input side first, such as dense(784, 512, 10), "
            f"got {described(connections)}{listed * isinstance(connections, Connection)}"
        )
    found = list(connections)
    if not found:
        raise ValueError("connections: expected at least one, got none")
    for index, connection in enumerate(found):
        if not isinstance(connection, Connection):
            raise TypeError(
                "connections: expected connections such as Dense(784, 512), got "
                f"{described(connection)} as number {index + 1}"
            )
    return found


def convolutional(
    input_shape: Sequence[int],
    channels: Sequence[int],
    *sizes: int,
    kernel: int | Sequence[int] = 5,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    pool: int | Sequence[int] = 2,
    pooling: Pooling = "max",
) -> list[TiedConnection]:
    """Convolutions with pooling, then dense connections, input side first.

    ``convolutional((1, 28, 28), (32, 64), 10)`` has two convolutions and a dense output layer.

    Args:
        input_shape: (C, H, W).
        channels: of each convolution; none at all leaves the dense connections.
        sizes: of the dense layers, if any.
        kernel, stride, padding, pool: one number for all convolutions, or one for each.
        pooling: ``max`` or ``average``.

    Raises:
        ValueError: a convolution that does not fit on what lies below it; says which layer, what it
            got and what would fit. A setting that is there neither once nor for each.
    """
    settings = {"kernel": kernel, "stride": stride, "padding": padding, "pool": pool}
    each: dict[str, Sequence[int]] = {}
    for name, value in settings.items():
        each[name] = value if isinstance(value, Sequence) else [value] * len(channels)
        if len(each[name]) == 1:
            each[name] = [*each[name]] * len(channels)
        if channels and len(each[name]) != len(channels):
            raise ValueError(
                f"{name}: expected one number, or {len(channels)}, one for each convolution, "
                f"got {len(each[name])}"
            )
    connections: list[TiedConnection] = []
    shape = tuple(input_shape)
    for index, size in enumerate(channels):
        at = {name: values[index] for name, values in each.items()}
        try:
            connections.append(ConvPool(shape, size, **at, pooling=pooling))
        except ValueError as error:
            raise ValueError(f"hidden layer {index + 1}: {error}") from None
        shape = connections[-1].upper_shape
    for size in sizes:
        connections.append(Dense(shape if connections else math.prod(shape), size))
        shape = (size,)
    return connections
