"""A network as the page of the explorer has it: what it is made of, and its arrays.

The page computes by itself, so it is told everything that a step takes: layers, edges, ρ, ε, clip,
where the nudge acts, the classes that are updated in turn, the readout and the cost. Arrays are
float32, little endian, one after the other, compressed; the description says where each begins.
"""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from eqprop.core.activations import Activation
from eqprop.core.costs import Cost, CrossEntropy, SquaredError
from eqprop.core.models import ConvergentModel
from eqprop.errors import Failure
from eqprop.networks.connections.connection import Connection
from eqprop.networks.connections.conv_pool import ConvPool
from eqprop.networks.connections.dense import Dense
from eqprop.networks.connections.feedback import Feedback
from eqprop.networks.connections.untied import Untied
from eqprop.networks.layered import LayeredNetwork
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from eqprop.registries import ACTIVATIONS

__all__ = ["Arrays", "described_network"]


@final
@dataclass
class Arrays:
    """Arrays one after the other, each known by where it begins and ends.

    Attributes:
        parts: what was added.
    """

    parts: list[bytes] = field(default_factory=list)
    _length: int = 0

    def add(self, tensor: Tensor) -> list[int]:
        """Where it begins and how many numbers it has."""
        numbers = tensor.detach().cpu().to(torch.float32).contiguous().numpy()
        self.parts.append(np.ascontiguousarray(numbers, "<f4").tobytes())
        begin, self._length = self._length, self._length + numbers.size
        return [begin, numbers.size]

    def text(self) -> str:
        """All of them, compressed, as a page can hold it."""
        return base64.b64encode(zlib.compress(b"".join(self.parts), 9)).decode()


def described_network(network: LayeredNetwork, cost: Cost, arrays: Arrays) -> dict[str, Any]:
    """What the page is to know of a network.

    Args:
        network: prototypical or real-time, of dense and convolutional connections, tied or not.
        cost: the squared error or cross-entropy.
        arrays: where its weights are put.

    Raises:
        Failure: it has something that the page does not know; says what, and what it knows.
    """
    if not isinstance(network, PrototypicalNetwork | RealTimeNetwork):
        raise _unknown("a prototypical or a real-time network", type(network).__name__)
    if type(network).move is not ConvergentModel.move:
        said = f"{type(network).__name__}, whose devices add something to a step"
        raise _unknown("a network without noise and mismatch of its units", said)
    graph = network.graph
    if sum(lower == -1 for lower, _ in graph.ends) < len(graph.driven) or graph.outputs > 1:
        raise _unknown("one input and one output", "several")
    real_time = isinstance(network, RealTimeNetwork)
    rho = network.rho if real_time else network.activation
    edges = [
        {"lower": lower, "upper": upper, **_edge(connection, arrays)}
        for connection, (lower, upper) in zip(network.chain, graph.ends, strict=True)
    ]
    return {
        "kind": "real-time" if real_time else "prototypical",
        "rho": _rho(rho),
        # What Newton's steps, which have none, can be compared with: the published time step.
        "epsilon": 0.2 if network.updates == "newton" else network.epsilon,
        "sharpest": network.sharpest() if real_time else 0.0,
        "clip": network.clip,
        "nudge": network.nudge_place,
        "updates": network.updates,
        "classes": graph.classes,
        "shapes": network.shapes,
        "names": [network.layer_name(layer) for layer in range(len(network.shapes))],
        "edges": edges,
        "readout": _readout(network, arrays),
        "cost": _cost(cost),
    }


def _unknown(expected: str, got: object) -> Failure:
    return Failure(f"explore: expected {expected}, which the page can compute, got {got}")


def _rho(rho: object) -> str:
    name = rho.name if isinstance(rho, Activation) else ""
    known = ("scaled-sigmoid", "hard-sigmoid", "half-hard-sigmoid", "tanh")
    if name not in known or ACTIVATIONS.load(name) is not rho:
        raise _unknown(f"one of the activations {', '.join(known)}", name or rho)
    return name


def _cost(cost: Cost) -> dict[str, Any]:
    if isinstance(cost, SquaredError):
        return {"kind": "squared-error"}
    if isinstance(cost, CrossEntropy):
        return {"kind": "cross-entropy", "scale": cost.scale}
    raise _unknown("the squared error or cross-entropy", cost)


def _readout(network: LayeredNetwork, arrays: Arrays) -> dict[str, Any] | None:
    if not network.has_readout:
        return None
    readout = network.readout
    if not isinstance(readout, nn.Linear):
        raise _unknown("a linear readout", readout)
    return {
        "lowerShape": [readout.in_features],
        "upperShape": [readout.out_features],
        **_weights(readout.weight, readout.bias, arrays),
    }


def _weights(weight: Tensor, bias: Tensor | None, arrays: Arrays) -> dict[str, Any]:
    return {"weight": arrays.add(weight), "bias": None if bias is None else arrays.add(bias)}


def _edge(connection: Connection, arrays: Arrays) -> dict[str, Any]:
    found: dict[str, Any] = {"backward": None}
    if isinstance(connection, Untied | Feedback):
        found["backward"] = arrays.add(connection.backward_weight)
        connection = connection.upward
    shapes: dict[str, Sequence[int]] = {
        "lowerShape": connection.lower_shape,
        "upperShape": connection.upper_shape,
    }
    if isinstance(connection, Dense):
        found |= {"kind": "dense", **shapes}
    elif isinstance(connection, ConvPool):
        found |= {"kind": "conv-pool", **shapes, "convShape": connection.conv_shape}
        found |= {
            name: getattr(connection, name)
            for name in ("kernel", "stride", "padding", "pool", "pooling")
        }
    else:
        raise _unknown("dense and convolutional connections", connection)
    return found | _weights(connection.weight, connection.bias, arrays)
