"""Which layers are connected: chains, and graphs of named layers.

A chain is a list of connections, input side first. A graph is a list of *edges*, each the lower
layer, a connection, and the upper layer::

    [("x", Dense(784, 256), "a"), ("a", Dense(256, 256), "b"), ("x", Dense(784, 256), "b"),
     ("b", Dense(256, 10), "y")]

Any two layers may be connected, by several connections too, and a layer with itself. What is
connected acts both ways, so which end is called the upper one says only in which way a connection
reads: its coupling is linear in the upper end.

- A layer to which no edge leads up is an *input*: it is given, and nothing comes back to it.
- A layer from which no edge leads up to another one is an *output*: the cost looks at it.

Several inputs lie side by side in x, several outputs in ŷ and y, each flattened, in the order in
which the edges name them first. The layers of a state are in that order too, the outputs last.

A *colouring* gives the layers numbers such that no two that are connected have the same: those of
one number may be updated at once and see all others where they are. In a chain there are two.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, final

from eqprop.core.sizes import described
from eqprop.networks.connections.chains import require_chain
from eqprop.networks.connections.connection import Connection
from eqprop.networks.connections.untied import Untied

__all__ = ["Edge", "Edges", "Graph", "graph_of"]

Edge = tuple[str, Connection, str]
"""(lower layer, connection, upper layer)."""

Edges = Sequence[Connection] | Sequence[Edge]
"""A chain of connections, input side first, or the edges of a graph."""


@final
@dataclass(frozen=True)
class Graph:
    """Which layer each connection leads from and to.

    Attributes:
        ends: for each connection the numbers of its lower and its upper layer; layers of the state
            count from 0, inputs from −1 downwards.
        names: of the layers of the state; none of a chain.
        input_names: of the inputs; none of a chain.
        outputs: how many of the last layers are outputs.
    """

    ends: tuple[tuple[int, int], ...]
    names: tuple[str, ...] = ()
    input_names: tuple[str, ...] = ()
    outputs: int = 1

    @cached_property
    def layers(self) -> int:
        """How many layers the state has."""
        return 1 + max(upper for _, upper in self.ends)

    @cached_property
    def driven(self) -> tuple[int, ...]:
        """The connections that lead from an input."""
        return tuple(i for i, (lower, _) in enumerate(self.ends) if lower < 0)

    @cached_property
    def driven_layers(self) -> tuple[int, ...]:
        """The layers to which those lead."""
        return tuple(sorted({self.ends[i][1] for i in self.driven}))

    @cached_property
    def below(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each layer, the connections that lead up to it from layers, and from which."""
        return tuple(
            tuple(
                (i, lower)
                for i, (lower, upper) in enumerate(self.ends)
                if upper == layer and lower >= 0
            )
            for layer in range(self.layers)
        )

    @cached_property
    def above(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each layer, the connections that lead up from it, and to which layers."""
        return tuple(
            tuple((i, upper) for i, (lower, upper) in enumerate(self.ends) if lower == layer)
            for layer in range(self.layers)
        )

    @cached_property
    def classes(self) -> tuple[tuple[int, ...], ...]:
        """Layers no two of which are connected, in the order in which they are updated in turn.

        Each layer has the least number that none of its neighbours before it has, and the largest
        number comes first: in a chain the layers of even number, then those of odd number.
        """
        colours: list[int] = []
        for layer in range(self.layers):
            taken = {colours[other] for other in self._neighbours(layer) if other < layer}
            colours.append(next(c for c in range(layer + 1) if c not in taken))
        return tuple(
            tuple(layer for layer, its in enumerate(colours) if its == colour)
            for colour in reversed(range(max(colours) + 1))
        )

    @cached_property
    def reach(self) -> int:
        """The most connections between an output and any layer; −1 if there is none to one."""
        distance = dict.fromkeys(range(self.layers - self.outputs, self.layers), 0)
        queue = list(distance)
        for layer in queue:
            for other in self._neighbours(layer):
                if other not in distance:
                    distance[other] = distance[layer] + 1
                    queue.append(other)
        return max(distance.values()) if len(distance) == self.layers else -1

    def _neighbours(self, layer: int) -> list[int]:
        """The layers that it is connected with, itself among them if it is."""
        pairs = [(a, b) for a, b in self.ends if layer in (a, b) and min(a, b) >= 0]
        return sorted({a if b == layer else b for a, b in pairs})

    def name(self, layer: int) -> str:
        """Of a layer or an input in a graph, ``a``; of those of a chain, ``hidden layer 1``."""
        if self.names:
            return self.names[layer] if layer >= 0 else self.input_names[-1 - layer]
        if layer < 0:
            return "input"
        return "output layer" if layer == self.layers - 1 else f"hidden layer {layer + 1}"


def graph_of(connections: object) -> tuple[Graph, list[Connection]]:
    """What is connected, and by what.

    Raises:
        TypeError: no list of connections or of edges.
        ValueError: no connection, two that do not fit on the layer between them, an untied one at
            an input, layers without a way to the output, or no output.
    """
    if isinstance(connections, Iterable) and not isinstance(connections, str):
        connections = list(connections)
        if any(isinstance(edge, tuple | list) for edge in connections):
            return _graph(connections)
    chain = require_chain(connections)
    if isinstance(chain[0], Untied):
        raise ValueError(
            "connections: expected a tied one at the input, to which nothing comes down, got an "
            "untied one"
        )
    for index, (lower, upper) in enumerate(pairwise(chain)):
        if lower.upper_shape != upper.lower_shape:
            raise ValueError(
                f"connections: hidden layer {index + 1} has shape {lower.upper_shape}, but "
                f"the connection above it expected {upper.lower_shape}"
            )
    return Graph(tuple((i - 1, i) for i in range(len(chain)))), chain


def _graph(edges: Sequence[Any]) -> tuple[Graph, list[Connection]]:
    for edge in edges:
        if not (
            isinstance(edge, tuple | list)
            and len(edge) == 3
            and isinstance(edge[0], str)
            and isinstance(edge[1], Connection)
            and isinstance(edge[2], str)
        ):
            raise TypeError(
                "connections: expected edges (lower layer, connection, upper layer), such as "
                f'("x", Dense(784, 256), "a"), got {described(edge)}'
            )
    found = [(str(lower), upper) for lower, _, upper in edges]
    named = list(dict.fromkeys(name for edge in found for name in edge))
    reached = {upper for _, upper in found}
    inputs = [name for name in named if name not in reached]
    if not inputs:
        raise ValueError(
            "connections: expected an input, a layer to which no connection leads up, got none "
            f"among {', '.join(named)}"
        )
    going_on = {lower for lower, upper in found if lower != upper}
    outputs = [name for name in named if name in reached and name not in going_on]
    if not outputs:
        raise ValueError(
            "connections: expected an output, a layer from which no connection leads up to another "
            f"one, got none among {', '.join(named)}; which end of a connection is called the "
            "upper one is free: turn one around"
        )
    hidden = [name for name in named if name in reached and name not in outputs]
    layers = [*hidden, *outputs]
    number = {name: index for index, name in enumerate(layers)}
    number |= {name: -1 - index for index, name in enumerate(inputs)}
    graph = Graph(
        tuple((number[lower], number[upper]) for lower, upper in found),
        tuple(layers),
        tuple(inputs),
        len(outputs),
    )
    _require_shapes(graph, edges)
    if graph.reach < 0:
        raise ValueError(
            "connections: expected a way from every layer to an output, without which none of "
            f"its connections would learn, got none from some of {', '.join(layers)}"
        )
    return graph, [connection for _, connection, _ in edges]


def _require_shapes(graph: Graph, edges: Sequence[Edge]) -> None:
    """Refuse connections that have another shape for a layer than those before them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for (lower, connection, upper), ends in zip(edges, graph.ends, strict=True):
        if ends[0] < 0 and isinstance(connection, Untied):
            raise ValueError(
                f"connections: expected a tied one from the input {lower} to {upper}, as nothing "
                "comes down to an input, got an untied one"
            )
        for name, shape in ((lower, connection.lower_shape), (upper, connection.upper_shape)):
            known = shapes.setdefault(name, shape)
            # An input may be an image to one of them and a vector to another.
            if known != shape and not (
                name in graph.input_names and math.prod(known) == math.prod(shape)
            ):
                raise ValueError(
                    f"connections: layer {name} has shape {known}, but the connection from "
                    f"{lower} to {upper} expected {shape}"
                )
