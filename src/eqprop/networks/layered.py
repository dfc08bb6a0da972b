r"""Layered networks with an explicit step.

Layers coupled by connections, r(x) being what an input sends::

    coupling(x, s) = Σ_c r(s of its upper layer) · up_c(r(s of its lower layer))

In a chain, connection l leads from layer l to layer l + 1, s⁰ = x; what else there may be stands in
:mod:`eqprop.networks.graph`.

=============  ====  ============================  =========================
network        r(s)  Φ                             transition
=============  ====  ============================  =========================
prototypical   s     coupling                      s ← ρ(∂Φ/∂s) + force
real-time      ρ(s)  ½‖s‖² − ε (½‖s‖² − coupling)  s ← clip(∂Φ/∂s + ε force)
=============  ====  ============================  =========================

The current into layer l, the sum of what its connections bring up and down to it, in a chain c_l =
up_{l−1}(r(sˡ⁻¹)) + down_l(r(sˡ⁺¹)), is computed explicitly (see
:mod:`eqprop.networks.connections.connection`); so ρ(c_l) is the prototypical transition and (1 − ε)
s + ε ρ′(s) ⊙ c_l the real-time one. Both agree with autograd of Φ. What inputs bring, the *drive*,
does not change and is computed once per relaxation.

In a chain a layer is coupled to its neighbours alone. With *alternating* updates a step therefore
moves the layers of even number first, all at once, then those of odd number, which see where the
others have gone; in a graph the classes of a colouring, one after the other. In a
prototypical network ρ(c) minimises G(s) − s·c, G′ = ρ⁻¹, so each class lowers the energy
Σ G(s) − coupling with the others held (with max-pooling too, whose coupling is convex, as long
as ρ ≥ 0): the network settles, where all layers moved at once may go to and fro between two states.
So may one layer that is connected with itself, whose units all move at once.
The steady states are the same, and fewer steps lead there. Theorem 1 then holds for the totals over
a nudged phase that has settled, but not step by step.

With *untied* connections (:class:`~eqprop.networks.connections.untied.Untied`) there is no coupling
and no Φ: the step is the same with their ways up and down, and the learning rule is the
connections' contrast::

    contrast(x, before, after, anchor) = Σ_c contrast of connection c, m = (∂r/∂s)ᵀ (after − before)

which is Φ(after) − Φ(before), without what does not depend on θ, where all are tied, and
⟨field(anchor), after − before⟩ / ε for what is untied. A connection from an input is tied always:
nothing comes back to it.

The parameters of the connections learn by their explicit rules. Whatever else a network has, such
as a gain in what its layers send, learns by autograd of the contrast; a parameter on which the
contrast does not depend would never learn, and is refused.

Source: Ernoult et al., https://arxiv.org/abs/1905.13633. The published code leaves out ρ′ in the
real-time dynamics of the output layer; it is kept here, so that dynamics and learning rule come
from one energy. Alternating updates: https://arxiv.org/abs/2312.15103. Untied weights:
https://arxiv.org/abs/2005.04168.
"""

import math
from abc import abstractmethod
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from eqprop.core.activations import Rho
from eqprop.core.derivative import derivative
from eqprop.core.fitting import parameters_within
from eqprop.core.models import ConvergentModel, LearningRule, NudgePlace, State, own_memory
from eqprop.core.powers import DeferredUpdates
from eqprop.core.sizes import require_number
from eqprop.networks.connections.connection import (
    Change,
    Connection,
    Ends,
    TiedConnection,
    Trace,
)
from eqprop.networks.connections.consistency import require_consistent
from eqprop.networks.connections.untied import Untied
from eqprop.networks.graph import Edges, graph_of

__all__ = ["LayeredNetwork", "Moves", "Updates"]

Updates = Literal["synchronous", "alternating"]
"""All layers at once, as published, or those of even and of odd number in turn."""

_DETOURS = {"upward", "parametrizations"}
"""What stands in the name of a parameter without saying more of what it is."""


class Moves(NamedTuple):
    """Layers that move at once, by number.

    Attributes:
        after: where to.
        a: ∂F/∂s; none where F depends on s by c alone.
        b: ∂F/∂c.
    """

    after: Mapping[int, Tensor]
    a: Mapping[int, Tensor | None]
    b: Mapping[int, Tensor]


class LayeredNetwork(ConvergentModel):
    """Layers and connections; the kinds differ in what a layer sends and in the transition.

    Write :meth:`rate` and :meth:`layer_field`. If all connections are tied, the dynamics can be
    those of a primitive function; otherwise they are a vector field. What a layer sends must not
    depend on parameters of the connections, whose explicit rules do not know of it.

    Args:
        connections: a chain, input side first, each fitting on the one below; or the edges of a
            graph, (lower layer, connection, upper layer) each, see :mod:`eqprop.networks.graph`.
        updates: which layers a step updates at once, one of :attr:`known_updates`.
        activation, epsilon, clip, readout, nudge: as for
            :class:`~eqprop.core.models.ConvergentModel`.

    Raises:
        TypeError: what is no connection.
        ValueError: no connection, two that do not fit, one of your own whose formulas are not the
            derivatives of its coupling, layers without a way to an output, or unknown updates.
    """

    known_updates: ClassVar[tuple[str, ...]] = get_args(Updates)
    """Those of the kind."""

    def __init__(
        self,
        connections: Edges,
        *,
        updates: str = "synchronous",
        activation: Rho | None = None,
        epsilon: float = 1.0,
        clip: tuple[float, float] | None = None,
        readout: nn.Module | None = None,
        nudge: NudgePlace = "outside",
    ) -> None:
        graph, chain = graph_of(connections)
        for connection in chain:
            require_consistent(connection)
        if updates not in self.known_updates:
            raise ValueError(
                f"updates: expected one of {', '.join(self.known_updates)}, got {updates!r}"
            )
        shapes = {upper: c.upper_shape for c, (_, upper) in zip(chain, graph.ends, strict=True)}
        super().__init__(
            [shapes[layer] for layer in range(graph.layers)],
            outputs=graph.outputs,
            activation=activation,
            epsilon=epsilon,
            clip=clip,
            readout=readout,
            nudge=nudge,
        )
        self.connections = nn.ModuleList(chain)
        if readout is not None:
            # Parameters come in the order of the layers, input side first.
            self._modules["readout"] = self._modules.pop("readout")
        self.graph = graph
        self._updates = updates
        self._see(tuple(chain))

    @property
    def architecture(self) -> dict[str, Any]:
        # An untied connection shows an angle, which moves as it learns.
        connections = [
            f"untied {c.upward}" if isinstance(c, Untied) else str(c) for c in self.chain
        ]
        if self.graph.names:
            names = ((self.graph.name(a), self.graph.name(b)) for a, b in self.graph.ends)
            connections = [
                f"{lower} → {upper}: {connection}"
                for (lower, upper), connection in zip(names, connections, strict=True)
            ]
        return {**super().architecture, "connections": connections}

    @property
    def chain(self) -> tuple[Connection, ...]:
        """The connections: of a chain input side first, of a graph in the order of its edges."""
        # Every step asks for them, and the ways of nn.Module there are long.
        modules = cast("nn.Module", self._modules["connections"])._modules
        return cast("tuple[Connection, ...]", tuple(modules.values()))

    def require_intact(self) -> None:
        chain = self.chain
        if chain == self._seen:
            return
        if len(chain) != len(self.graph.ends):
            raise ValueError(
                f"connections: expected {len(self.graph.ends)}, as when the network was made, got "
                f"{len(chain)}; make a new network of other connections"
            )
        inputs = self._inputs
        found: object
        for index, (found, (low, high)) in enumerate(zip(chain, self.graph.ends, strict=True)):
            lower = self.shapes[low] if low >= 0 else inputs[-1 - low]
            upper = self.shapes[high]
            if (
                not isinstance(found, Connection)
                or found.upper_shape != upper
                or (
                    found.lower_shape != lower
                    and not (low < 0 and _alike(found.lower_shape, lower))
                )
            ):
                raise ValueError(
                    f"connections.{index}: expected a connection from {lower} to {upper}, as when "
                    f"the network was made, got {found}; make a new network of other connections"
                )
        self._see(chain)

    def _see(self, chain: tuple[Connection, ...]) -> None:
        """Remember connections that fit, and what they take from each input."""
        self._seen, self._inputs = chain, self._input_shapes(chain)

    def _input_shapes(self, chain: Sequence[Connection]) -> tuple[tuple[int, ...], ...]:
        """Of each input, what the first connection from it takes."""
        shapes: dict[int, tuple[int, ...]] = {}
        for connection, (lower, _) in zip(chain, self.graph.ends, strict=True):
            if lower < 0:
                shapes.setdefault(lower, connection.lower_shape)
        return tuple(shapes[lower] for lower in sorted(shapes, reverse=True))

    @property
    def updates(self) -> str:
        """Which layers a step updates at once.

        Raises:
            ValueError: set to what the kind does not have, or from or to Newton's steps, for which
                a network is made.
        """
        return self._updates

    @updates.setter
    def updates(self, updates: str) -> None:
        made = self._updates == "newton"
        possible = [one for one in self.known_updates if (one == "newton") is made]
        if updates not in possible:
            raise ValueError(
                f"updates: expected {'' if made else 'one of '}{', '.join(possible)}, as the "
                f"network was made, got {updates!r}; make a new one of the same connections"
            )
        self._updates = updates

    @property
    def in_turn(self) -> bool:
        """Whether layers move in turn."""
        return self.updates != "synchronous"

    @property
    def steps_to_arrive(self) -> int:
        steps = self.graph.reach + 1
        # Of two classes each follows the other within one step; of more, one of them does at least.
        return steps // 2 + 1 if self.in_turn and len(self.graph.classes) < 3 else steps

    @abstractmethod
    def rate(self, s: Tensor) -> Tensor:
        """r(s), what a layer in state s sends to its neighbours."""

    @abstractmethod
    def layer_field(self, s: Tensor, rate: Tensor, current: Tensor) -> Tensor:
        """∂Φ/∂s of one layer, from its state, what it sends and the current into it."""

    def move_in_turn(
        self, layer: int, s: Tensor, rate: Tensor, current: Tensor, force: Tensor | None
    ) -> Tensor:
        """Where a layer goes that others have waited for: by its field, as all of them at once.

        Args:
            layer: its number, from 0.
            s, rate, current: as for :meth:`layer_field`.
            force: as for :meth:`~eqprop.core.models.ConvergentModel.advance`.
        """
        return self.move(layer, s, self.layer_field(s, rate, current), force)

    def response(self, s: Tensor, moved: Tensor) -> Tensor:
        """(∂r/∂s)ᵀ moved, at the state s of a layer; by autograd, unless written out."""
        return derivative(self.rate, (s,), moved)[0]

    def moves(self, layers: Sequence[Tensor], currents: Mapping[int, Tensor]) -> Moves:
        """Where layers with these currents move to, and by what slopes: all from one backward pass
        through single units, unless written out."""
        with torch.enable_grad():
            at = [layers[layer].detach().requires_grad_() for layer in currents]
            into = [current.detach().requires_grad_() for current in currents.values()]
            after = [
                self.move_in_turn(layer, s, self.rate(s), current, None)
                for layer, s, current in zip(currents, at, into, strict=True)
            ]
            ones = [torch.ones_like(s) for s in after]
            found = torch.autograd.grad(after, [*at, *into], ones, allow_unused=True)
        a, b = found[: len(at)], found[len(at) :]
        moved = [s.detach() for s in after]
        b = [torch.zeros_like(s) if by is None else by for s, by in zip(moved, b, strict=True)]
        return Moves(*(dict(zip(currents, of, strict=True)) for of in (moved, a, b)))

    @property
    def weight_angles(self) -> tuple[float, ...]:
        """Ψ of every untied connection in degrees, input side first."""
        return tuple(c.weight_angle for c in self.chain if isinstance(c, Untied))

    def coupling(self, x: Tensor, state: State) -> Tensor:
        """Σ_l r(sˡ⁺¹) · up(r(sˡ)), per sample.

        Raises:
            TypeError: an untied connection, which has no coupling.
        """
        rates = [self.rate(layer) for layer in state]
        terms = []
        for connection, ends in zip(self.chain, self._ends(rates, self._sent(x)), strict=True):
            if not isinstance(connection, TiedConnection):
                raise TypeError(
                    "coupling: expected tied connections, got untied ones, whose dynamics have no "
                    "primitive function; their learning rule is that of contrast"
                )
            terms.append(connection.coupling(ends))
        return torch.stack(terms).sum(0)

    def _ends(
        self,
        rates: Sequence[Tensor],
        sent: Mapping[int, Tensor],
        which: Iterable[int] | None = None,
    ) -> list[Ends]:
        """What the layers at both ends of every connection send, or of those of ``which`` alone.

        Args:
            rates: what each layer sends.
            sent: what comes through each connection from an input, by its number.
        """
        ends = self.graph.ends
        return [
            (sent[i] if ends[i][0] < 0 else rates[ends[i][0]], rates[ends[i][1]])
            for i in (range(len(ends)) if which is None else which)
        ]

    def contrast(self, x: Tensor, before: State, after: State, anchor: State) -> Tensor:
        """Σ_c of the connections' contrasts, (B,)."""
        which = range(len(self.graph.ends))
        changes = self._changes(x, before, after, anchor, which)
        terms = [c.contrast(change) for c, change in zip(self.chain, changes, strict=True)]
        return torch.stack(terms).sum(0)

    def _changes(
        self, x: Tensor, before: State, after: State, anchor: State, which: Collection[int]
    ) -> list[Change]:
        """What happens at the ends of these connections."""
        driven = [i for i in self.graph.driven if i in which]
        sent = self._sent(x, driven) if driven else {}
        ends = {
            id(state): self._ends([self.rate(layer) for layer in state], sent, which)
            for state in (before, after, anchor)
        }
        compared = ends[id(before)], ends[id(after)], ends[id(anchor)]
        if not any(connection.asks_moved for connection in self.chain):
            return list(map(Change, *compared))
        # An input does not move.
        moved = [self.response(s, a - b) for s, b, a in zip(anchor, before, after, strict=True)]
        still = {i: layer.new_zeros(()) for i, layer in sent.items()}
        return list(map(Change, *compared, self._ends(moved, still, which)))

    def drive(self, x: Tensor) -> Tensor:
        """What inputs bring to the layer that they lead to; of several, flattened, side by side.

        Raises:
            ValueError: an input that does not fit the connections from it.
            TypeError: one of whole numbers.
        """
        brought: dict[int, Tensor] = {}
        for i, sent in self._sent(x).items():
            layer, received = self.graph.ends[i][1], self.chain[i].up(sent)[0]
            brought[layer] = brought[layer] + received if layer in brought else received
        if len(brought) == 1:
            return next(iter(brought.values()))
        return torch.cat([brought[layer].flatten(1) for layer in sorted(brought)], 1)

    def driven(self, drive: Tensor) -> dict[int, Tensor]:
        """By layer what inputs bring to it."""
        layers = self.graph.driven_layers
        if len(layers) == 1:
            return {layers[0]: drive}
        parts = drive.split([math.prod(self.shapes[layer]) for layer in layers], 1)
        return {
            layer: part.reshape(len(part), *self.shapes[layer])
            for layer, part in zip(layers, parts, strict=True)
        }

    def part(self, drive: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        return drive.index_select(0, rows)

    def _sent(self, x: Tensor, which: Iterable[int] | None = None) -> dict[int, Tensor]:
        """r(x) as every connection from an input takes it, by its number: of all of them, or of
        these. Images may stand for vectors, and vectors for images."""
        graph, chain = self.graph, self.chain
        shapes = self._inputs
        if not (x.is_floating_point() or x.is_complex()) and _fits(x, shapes):
            raise TypeError(
                f"x: expected floating point numbers, got {x.dtype}; divide grey levels by the "
                "brightest one, as in x / 255"
            )
        if not _fits(x, shapes):
            wanted = f"shape {shapes[0]}"
            if len(shapes) > 1:
                names = ", ".join(graph.input_names)
                wanted = f"{sum(map(math.prod, shapes))} numbers, those of {names} side by side"
            raise ValueError(f"x: expected samples of {wanted}, got {tuple(x.shape[1:])}")
        parts = [x] if len(shapes) == 1 else x.split([math.prod(shape) for shape in shapes], 1)
        rates = [
            self.rate(part.reshape(len(x), *shape))
            for part, shape in zip(parts, shapes, strict=True)
        ]
        sent = {}
        for i in graph.driven if which is None else which:
            rate, shape = rates[-1 - graph.ends[i][0]], chain[i].lower_shape
            sent[i] = rate if rate.shape[1:] == shape else rate.reshape(len(x), *shape)
        return sent

    def field(self, drive: Tensor, state: State) -> State:
        """∂Φ/∂s, one tensor per layer."""
        rates = [self.rate(layer) for layer in state]
        chain, currents = self.chain, self.driven(drive)
        for i, (lower, upper) in enumerate(self.graph.ends):
            if lower < 0:
                continue
            received, trace = chain[i].up(rates[lower])
            currents[lower] = chain[i].down(rates[upper], trace, onto=currents.get(lower))
            currents[upper] = currents[upper] + received if upper in currents else received
        return tuple(
            self.layer_field(s, rate, currents[layer])
            for layer, (s, rate) in enumerate(zip(state, rates, strict=True))
        )

    def step(self, drive: Tensor, state: State, force: Tensor | None = None) -> State:
        """One transition; with alternating updates, of one class of layers after the other."""
        if not self.in_turn:
            return super().step(drive, state, force)
        graph, layers = self.graph, list(state)
        driven, forces = self.driven(drive), self.forces_on_layers(force)
        rates = [self.rate(layer) for layer in state]
        known: dict[int, Trace] = {}
        for members in graph.classes:
            for layer, current in self.currents(members, driven, rates, known):
                s, rate = layers[layer], rates[layer]
                layers[layer] = self.move_in_turn(layer, s, rate, current, forces.get(layer))
            if members is not graph.classes[-1]:
                for layer in members:
                    rates[layer] = self.rate(layers[layer])
        return tuple(layers)

    def currents(
        self,
        members: Iterable[int],
        driven: Mapping[int, Tensor],
        rates: Sequence[Tensor],
        known: dict[int, Trace],
    ) -> Iterator[tuple[int, Tensor]]:
        """Layers that move at once, and the current into each.

        Args:
            members: which.
            driven: what inputs bring, see :meth:`driven`.
            rates: what every layer sends.
            known: what connections have found of their lower layer, which holds until that moves,
                once in a step; it receives what is found of them here.
        """
        graph, chain = self.graph, self.chain
        for layer in members:
            current = driven.get(layer)
            for i, lower in graph.below[layer]:
                received, known[i] = chain[i].up(rates[lower])
                current = received if current is None else current + received
            for i, upper in graph.above[layer]:
                if i not in known:
                    known[i] = chain[i].trace(rates[layer])
                current = chain[i].down(rates[upper], known[i], onto=current)
            assert current is not None
            yield layer, current

    def contrast_gradients(
        self,
        x: Tensor,
        before: State,
        after: State,
        anchor: State,
        scale: float = 1.0,
        only: Container[str] | None = None,
    ) -> dict[str, Tensor]:
        """scale · ∂/∂θ of the batch mean of :meth:`contrast`: explicit for connections.

        Raises:
            ValueError: a parameter, not of a connection, on which the contrast does not depend.
        """
        others = {
            id(p): name
            for name, p in self._parameters_elsewhere()
            if p.requires_grad and (only is None or name in only)
        }
        # A connection used twice has the name of its first place, and learns from both.
        names: dict[int, str] = {}
        learning: list[list[tuple[str, str]]] = []
        for index, connection in enumerate(self.chain):
            learning.append([])
            for of, p in parameters_within(connection):
                name = names.setdefault(id(p), f"connections.{index}.{of}")
                if p.requires_grad and (only is None or name in only) and id(p) not in others:
                    learning[-1].append((of, name))
        # The input's is the largest, and in continual updates may wait.
        which = [index for index, own in enumerate(learning) if own]
        changes = self._changes(x, before, after, anchor, which)
        gradients: dict[str, Tensor] = {}
        for index, change in zip(which, changes, strict=True):
            found = self.chain[index].gradients_of([of for of, _ in learning[index]], change, scale)
            for of, name in learning[index]:
                if of in found:
                    gradient = found[of]
                    gradients[name] = gradients[name] + gradient if name in gradients else gradient
        if others:
            gradients |= self._other_gradients(
                list(others.values()), x, before, after, anchor, scale
            )
        return gradients

    def learning_rule(self, x: Tensor, rates: Mapping[str, float]) -> LearningRule:
        """Connection by connection, where each has its parameters for itself."""
        owned: list[dict[str, float]] = []
        seen: set[int] = set()
        shared = 0
        for index, connection in enumerate(self.chain):
            owned.append({})
            for of, p in parameters_within(connection):
                shared += id(p) in seen
                seen.add(id(p))
                name = f"connections.{index}.{of}"
                if p.requires_grad and name in rates:
                    owned[-1][of] = rates[name]
        read = sum(name.startswith("readout.") for name in rates) if self.has_readout else 0
        if shared or len(rates) - read > sum(map(len, owned)):
            return super().learning_rule(x, rates)
        which = [index for index, own in enumerate(owned) if own]

        @torch.no_grad()
        def learn(before: State, after: State, anchor: State, scale: float) -> None:
            changes = self._changes(x, before, after, anchor, which)
            for index, change in zip(which, changes, strict=True):
                self.chain[index].learn(change, scale, owned[index])

        return learn

    def _parameters_elsewhere(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Those that are not in the connections alone; in most networks there are none."""
        if not self._parameters and len(self._modules) == 1:
            return []
        known = ("connections.", "readout.") if self.has_readout else "connections."
        return [(name, p) for name, p in self.named_parameters() if not name.startswith(known)]

    def _other_gradients(
        self,
        names: Sequence[str],
        x: Tensor,
        before: State,
        after: State,
        anchor: State,
        scale: float,
    ) -> dict[str, Tensor]:
        """Those of parameters that are not the connections' alone, by autograd."""
        torch.clear_autocast_cache()
        with torch.enable_grad():
            mean = self.contrast(x, before, after, anchor).mean() * scale
        found: Sequence[Tensor | None] = [None] * len(names)
        if mean.requires_grad:
            parameters = dict(self.named_parameters())
            found = torch.autograd.grad(
                mean, [parameters[name] for name in names], allow_unused=True
            )
        gradients = {}
        for name, gradient in zip(names, found, strict=True):
            if gradient is None:
                raise ValueError(
                    f"{self.parameter_name(name)}: expected one on which what the layers send to "
                    "each other depends, got one that the local learning rule would pass over; "
                    "write it into rate or a connection, freeze it, or override contrast"
                )
            gradients[name] = gradient
        return own_memory(gradients)

    def defer(self, x: Tensor, rates: Mapping[str, float]) -> DeferredUpdates | None:
        """Those of the connection from the input, if there is one, it is dense and used once.

        Its contrast is ⟨r(s after) − r(s before), up(r(x))⟩, s its upper layer, so the drive gains
        K times that difference ÷ B, with K the
        :meth:`~eqprop.networks.connections.connection.Connection.tangent_kernel`.
        """
        index, *more = self.graph.driven
        if more:
            return None
        layer, first = self.graph.ends[index][1], self.chain[index]
        others = [*self.chain[:index], *self.chain[index + 1 :]]
        names = {id(p): name for name, p in self.named_parameters()}
        own = {of: id(p) for of, p in first.named_parameters()}
        again = first in others or any(
            id(p) in own.values() for c in others for p in c.parameters()
        )
        # What else the drive depends on would have to move with every step.
        if again or any(name in rates for name, _ in self._parameters_elsewhere()):
            return None
        kernel = first.tangent_kernel(
            self._sent(x)[index], {of: rates.get(names[p], 0.0) / len(x) for of, p in own.items()}
        )
        if kernel is None:
            return None

        def follow(before: State, after: State) -> Tensor:
            moved = self.rate(after[layer]) - self.rate(before[layer])
            return (kernel @ moved.flatten(1)).view_as(moved)

        return DeferredUpdates(frozenset(names[p] for p in own.values()), follow)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, updates={self.updates}"

    def parameter_label(self, name: str) -> str:
        """A connection's are those of the layer that it feeds, *weight of hidden layer 1*, or in a
        graph of both its ends: *weight from a to b*."""
        room, *rest = name.split(".")
        if room != "connections":
            return super().parameter_label(name)
        index, *parts = (part for part in rest if part not in _DETOURS)
        lower, upper = self.graph.ends[int(index)]
        where = f"of {self.layer_name(upper)}"
        if self.graph.names:
            where = f"from {self.graph.name(lower)} to {self.graph.name(upper)}"
            alike = [i for i, ends in enumerate(self.graph.ends) if ends == (lower, upper)]
            where += f" ({1 + alike.index(int(index))})" * (len(alike) > 1)
        return f"{' '.join(parts).replace('_', ' ')} {where}"

    def layer_name(self, index: int) -> str:
        return f"layer {self.graph.name(index)}" if self.graph.names else self.graph.name(index)

    def parameter_groups(
        self, learning_rates: Sequence[float], *, backward: float = 1.0
    ) -> list[dict[str, Any]]:
        """Groups for a ``torch.optim`` optimizer: one learning rate per layer, input side first, or
        in a graph one per connection, in the order of its edges.

        ``backward`` multiplies those of the backward weights of untied connections, which then have
        groups of their own.

        What is used twice learns at the rate of its first place. A network that has parameters
        besides those of its connections takes one rate more, for them, and one that has a readout
        another one, the last.

        Raises:
            TypeError: a rate that is no number.
            ValueError: another number of learning rates, or one that is negative or not finite.
        """
        owners = [list(connection.parameters()) for connection in self.chain]
        order = "per connection" if self.graph.names else "per layer, input side first"
        besides = ""
        if others := [p for _, p in self._parameters_elsewhere()]:
            owners.append(others)
            besides = ", then one for the network's other parameters"
        if self.has_readout and (read := list(self.readout.parameters())):
            owners.append(read)
            besides += ", then one for the readout"
        several = not isinstance(learning_rates, Real)
        if not several or len(learning_rates) != len(owners):
            raise ValueError(
                f"learning_rates: expected {len(owners)}, one {order}{besides}, got "
                f"{len(learning_rates) if several else f'{learning_rates} alone'}"
            )
        slower = {id(c.backward_weight) for c in self.chain if isinstance(c, Untied)}
        for rate in (*learning_rates, backward):
            number = rate.item() if isinstance(rate, Tensor) else rate
            if not 0 <= require_number("learning_rates", number) < math.inf:
                raise ValueError(
                    f"learning_rates: expected finite numbers of at least 0, got {rate}"
                )
        groups, seen = [], set()
        for parameters, rate in zip(owners, learning_rates, strict=True):
            new = [p for p in parameters if id(p) not in seen]
            seen.update(map(id, new))
            parts = [(new, rate)]
            if backward != 1:
                ways = ([p for p in new if (id(p) in slower) is back] for back in (False, True))
                parts = list(zip(ways, (rate, rate * backward), strict=True))
            groups += [{"params": part, "lr": own} for part, own in parts if part]
        return groups


def _alike(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether one of two shapes is the other, flattened."""
    return math.prod(one) == math.prod(other) and 1 in (len(one), len(other))


def _fits(x: Tensor, shapes: Sequence[tuple[int, ...]]) -> bool:
    if len(shapes) > 1:
        return x.dim() == 2 and x.shape[1] == sum(map(math.prod, shapes))
    return x.shape[1:] == shapes[0] or (x.dim() > 1 and _alike(x.shape[1:], shapes[0]))
