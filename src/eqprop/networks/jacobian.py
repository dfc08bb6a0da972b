r"""The Jacobian of a layered network's step, as products written out.

With a layer's state s, what it sends r(s) and the current c into it, its next state is a function
F(s, c) of every unit alone. A step near a state is therefore, in layer l, ::

    dF_l = a ⊙ ds_l + b ⊙ dc_l              a = ∂F/∂s, b = ∂F/∂c at c
    dc_l = Σ U (r′ ⊙ ds)_lower + Σ D (r′ ⊙ ds)_upper

over the connections below l and those above it, with U the weight of the way up and D that of the
way down: J v costs the products of one step. Read backwards, each connection by the transposes of
its ways, that is Jᵀ v::

    Jᵀ v = a ⊙ v + r′ ⊙ (Σ Uᵀ (b ⊙ v)_upper + Σ Dᵀ (b ⊙ v)_lower)

Where layers move in turn, F is one class of layers after another, J the product of such matrices,
the first one on the right, and Jᵀ that of their transposes in the reverse order.

a, b and r′ concern single units, and so cost no product.

It is to be had of networks all of whose connections have such weights, see
:class:`~eqprop.networks.connections.connection.Ways`. Of others autograd finds J, see
:mod:`eqprop.core.linearised`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from eqprop.core.derivative import derivative
from eqprop.core.models import State
from eqprop.networks.connections.connection import Trace, Ways
from eqprop.networks.layered import LayeredNetwork
from eqprop.summary import summary

__all__ = ["LayeredJacobian"]


@final
@dataclass(frozen=True, eq=False)
class _Class:
    """Layers that move at once, and what is known of where they are.

    Attributes:
        a, b: of the layers that move, by number; no a where F depends on s by c alone.
        sent: r′ of every layer before they move; none where it is 1.
        traces: of the connections.
    """

    a: Mapping[int, Tensor | None]
    b: Mapping[int, Tensor]
    sent: list[Tensor | None]
    traces: dict[int, Trace]

    __repr__ = summary


@final
class LayeredJacobian:
    """J of a network at a state.

    Attributes:
        after: F there.
    """

    @torch.no_grad()
    def __init__(
        self, network: LayeredNetwork, ways: Sequence[Ways], drive: Tensor, at: State
    ) -> None:
        self._graph, self._ways = network.graph, ways
        self._classes: list[_Class] = []
        layers = list(at)
        known: dict[int, Trace] = {}
        driven = network.driven(drive)
        rates = [network.rate(layer) for layer in layers]
        sent = [_slope(network, s, rate) for s, rate in zip(layers, rates, strict=True)]
        everything = (tuple(range(len(layers))),)
        for members in network.graph.classes if network.in_turn else everything:
            currents = dict(network.currents(members, driven, rates, known))
            moves = network.moves(layers, currents)
            self._classes.append(_Class(moves.a, moves.b, list(sent), dict(known)))
            for layer, s in moves.after.items():
                layers[layer], rates[layer] = s, network.rate(s)
                sent[layer] = _slope(network, s, rates[layer])
        self.after: State = tuple(layers)

    @classmethod
    def of(cls, network: LayeredNetwork, drive: Tensor, at: State) -> Self | None:
        """J there; none where a connection has no ways that are weights."""
        ways = [connection.ways() for connection in network.chain]
        found = [way for way in ways if way is not None]
        return cls(network, found, drive, at) if len(found) == len(ways) else None

    @torch.no_grad()
    def times(self, v: State) -> State:
        """J v."""
        layers = list(v)
        for of in self._classes:
            sent = [s if r is None else s * r for s, r in zip(layers, of.sent, strict=True)]
            moved: dict[int, Tensor] = {}
            for layer, b in of.b.items():
                current: Tensor | None = None
                for i, lower in self._graph.below[layer]:
                    current = self._ways[i].up(sent[lower], of.traces[i], current)
                for i, upper in self._graph.above[layer]:
                    current = self._ways[i].down(sent[upper], of.traces[i], current)
                a = of.a[layer]
                if current is None:
                    moved[layer] = torch.zeros_like(v[layer]) if a is None else a * layers[layer]
                elif a is None:
                    moved[layer] = b * current
                else:
                    moved[layer] = torch.addcmul(a * layers[layer], b, current)
            for layer, s in moved.items():
                layers[layer] = s
        return tuple(layers)

    @torch.no_grad()
    def transposed(self, v: State) -> State:
        """Jᵀ v."""
        layers: list[Tensor | None] = list(v)
        for of in reversed(self._classes):
            received: dict[int, Tensor] = {}
            for layer, b in of.b.items():
                pulled, a = layers[layer], of.a[layer]
                if pulled is None:
                    continue
                layers[layer], pulled = None if a is None else a * pulled, b * pulled
                for i, lower in self._graph.below[layer]:
                    onto = received.get(lower)
                    received[lower] = self._ways[i].up_transposed(pulled, of.traces[i], onto)
                for i, upper in self._graph.above[layer]:
                    onto = received.get(upper)
                    received[upper] = self._ways[i].down_transposed(pulled, of.traces[i], onto)
            for layer, r in received.items():
                slope, kept = of.sent[layer], layers[layer]
                r = r if slope is None else slope * r
                layers[layer] = r if kept is None else kept + r
        zeros = map(torch.zeros_like, v)
        return tuple(z if layer is None else layer for layer, z in zip(layers, zeros, strict=True))


def _slope(network: LayeredNetwork, s: Tensor, rate: Tensor) -> Tensor | None:
    """r′(s); none where a layer sends its state."""
    return None if rate is s else derivative(network.rate, (s,))[0]
