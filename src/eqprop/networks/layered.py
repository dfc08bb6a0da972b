r"""Layered networks with an explicit step.

A chain of layers coupled by connections, r(s⁰) = r(x) being what the input sends::

    coupling(x, s) = Σ_l r(sˡ⁺¹) · up_l(r(sˡ))

=============  ====  ============================  =========================
network        r(s)  Φ                             transition
=============  ====  ============================  =========================
prototypical   s     coupling                      s ← ρ(∂Φ/∂s) + force
real-time      ρ(s)  ½‖s‖² − ε (½‖s‖² − coupling)  s ← clip(∂Φ/∂s + ε force)
=============  ====  ============================  =========================

The current into layer l, c_l = up_{l−1}(r(sˡ⁻¹)) + down_l(r(sˡ⁺¹)), is computed explicitly (see
:mod:`eqprop.networks.connections.connection`); so ρ(c_l) is the prototypical transition and (1 − ε)
s + ε ρ′(s) ⊙ c_l the real-time one. Both agree with autograd of Φ. The input's part of c_1, the
*drive*, does not change and is computed once per relaxation.

A layer is coupled to its neighbours alone. With *alternating* updates a step therefore moves the
layers of even number first, all at once, then those of odd number, which see where the others have
gone. In a prototypical network ρ(c) minimises G(s) − s·c, G′ = ρ⁻¹, so each half lowers the energy
Σ G(s) − coupling with the other half held (with max-pooling too, whose coupling is convex, as long
as ρ ≥ 0): the network settles, where all layers moved at once may go to and fro between two states.
The steady states are the same, and fewer steps lead there. Theorem 1 then holds for the totals over
a nudged phase that has settled, but not step by step.

With *untied* connections (:class:`~eqprop.networks.connections.untied.Untied`) there is no coupling
and no Φ: the step is the same with their ways up and down, and the learning rule is the
connections' contrast::

    contrast(x, before, after, anchor) = Σ_l contrast of connection l, m = (∂r/∂s)ᵀ (after − before)

which is Φ(after) − Φ(before), without what does not depend on θ, where all are tied, and
⟨field(anchor), after − before⟩ / ε for what is untied. The first connection is tied always: nothing
comes back from the input.

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
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from eqprop.core.activations import Rho
from eqprop.core.derivative import derivative
from eqprop.core.models import ConvergentModel, LearningRule, State, own_memory
from eqprop.core.powers import DeferredUpdates
from eqprop.core.sizes import require_number
from eqprop.networks.connections.chains import require_chain
from eqprop.networks.connections.connection import Change, Connection, TiedConnection, Trace
from eqprop.networks.connections.consistency import require_consistent
from eqprop.networks.connections.untied import Untied

__all__ = ["LayeredNetwork", "Updates"]

Updates = Literal["synchronous", "alternating"]
"""All layers at once, as published, or those of even and of odd number in turn."""

_DETOURS = {"upward", "parametrizations"}
"""What stands in the name of a parameter without saying more of what it is."""


class LayeredNetwork(ConvergentModel):
    """A chain of layers; the kinds differ in what a layer sends and in the transition.

    Write :meth:`rate` and :meth:`layer_field`. If all connections are tied, the dynamics can be
    those of a primitive function; otherwise they are a vector field. What a layer sends must not
    depend on parameters of the connections, whose explicit rules do not know of it.

    Args:
        connections: input side first, each fitting on the one below.
        updates: which layers a step updates at once, see :data:`Updates`.
        activation, epsilon, clip: as for :class:`~eqprop.core.models.ConvergentModel`.

    Raises:
        TypeError: what is no connection.
        ValueError: no connection, two that do not fit, one of your own whose formulas are not the
            derivatives of its coupling, or unknown updates.
    """

    def __init__(
        self,
        connections: Sequence[Connection],
        *,
        updates: Updates = "synchronous",
        activation: Rho | None = None,
        epsilon: float = 1.0,
        clip: tuple[float, float] | None = None,
    ) -> None:
        connections = require_chain(connections)
        if isinstance(connections[0], Untied):
            raise ValueError(
                "connections: expected a tied one at the input, to which nothing comes down, got "
                "an untied one"
            )
        for index, (lower, upper) in enumerate(pairwise(connections)):
            if lower.upper_shape != upper.lower_shape:
                raise ValueError(
                    f"connections: hidden layer {index + 1} has shape {lower.upper_shape}, but "
                    f"the connection above it expected {upper.lower_shape}"
                )
        for connection in connections:
            require_consistent(connection)
        if updates not in get_args(Updates):
            raise ValueError(
                f"updates: expected one of {', '.join(get_args(Updates))}, got {updates!r}"
            )
        super().__init__(
            [connection.upper_shape for connection in connections],
            activation=activation,
            epsilon=epsilon,
            clip=clip,
        )
        self.connections = nn.ModuleList(connections)
        self.updates = updates

    @property
    def architecture(self) -> dict[str, Any]:
        # An untied connection shows an angle, which moves as it learns.
        connections = [
            f"untied {c.upward}" if isinstance(c, Untied) else str(c) for c in self.chain
        ]
        return {**super().architecture, "connections": connections}

    @property
    def chain(self) -> tuple[Connection, ...]:
        """The connections, input side first."""
        # Every step asks for them, and the ways of nn.Module there are long.
        modules = cast("nn.Module", self._modules["connections"])._modules
        return cast("tuple[Connection, ...]", tuple(modules.values()))

    def require_intact(self) -> None:
        chain: tuple[object, ...] = self.chain
        if len(chain) != len(self.shapes):
            raise ValueError(
                f"connections: expected {len(self.shapes)}, as when the network was made, got "
                f"{len(chain)}; make a new network of other connections"
            )
        lower = None
        for index, (found, upper) in enumerate(zip(chain, self.shapes, strict=True)):
            fits = isinstance(found, Connection) and found.upper_shape == upper
            if not fits or lower not in (None, found.lower_shape):
                lead = f"a connection from {lower}" if lower else "one"
                raise ValueError(
                    f"connections.{index}: expected {lead} to {upper}, as when the network was "
                    f"made, got {found}; make a new network of other connections"
                )
            lower = upper

    @property
    def in_turn(self) -> bool:
        """Whether updates alternate."""
        return self.updates == "alternating"

    @abstractmethod
    def rate(self, s: Tensor) -> Tensor:
        """r(s), what a layer in state s sends to its neighbours."""

    @abstractmethod
    def layer_field(self, s: Tensor, rate: Tensor, current: Tensor) -> Tensor:
        """∂Φ/∂s of one layer, from its state, what it sends and the current into it."""

    def response(self, s: Tensor, moved: Tensor) -> Tensor:
        """(∂r/∂s)ᵀ moved, at the state s of a layer; by autograd, unless written out."""
        return derivative(self.rate, (s,), moved)[0]

    @property
    def weight_angles(self) -> tuple[float, ...]:
        """Ψ of every untied connection in degrees, input side first."""
        return tuple(c.weight_angle for c in self.chain if isinstance(c, Untied))

    def coupling(self, x: Tensor, state: State) -> Tensor:
        """Σ_l r(sˡ⁺¹) · up(r(sˡ)), per sample.

        Raises:
            TypeError: an untied connection, which has no coupling.
        """
        rates = [self._sent(x), *(self.rate(layer) for layer in state)]
        terms = []
        for connection, *ends in zip(self.chain, rates, rates[1:], strict=False):
            if not isinstance(connection, TiedConnection):
                raise TypeError(
                    "coupling: expected tied connections, got untied ones, whose dynamics have no "
                    "primitive function; their learning rule is that of contrast"
                )
            terms.append(connection.coupling((ends[0], ends[1])))
        return torch.stack(terms).sum(0)

    def contrast(self, x: Tensor, before: State, after: State, anchor: State) -> Tensor:
        """Σ_l of the connections' contrasts, (B,)."""
        changes = self._changes(x, before, after, anchor)
        terms = [c.contrast(change) for c, change in zip(self.chain, changes, strict=True)]
        return torch.stack(terms).sum(0)

    def _changes(
        self, x: Tensor, before: State, after: State, anchor: State, first: int = 0
    ) -> list[Change]:
        """What happens at the ends of every connection, from the ``first`` one on (0 or 1)."""
        sent = [] if first else [self._sent(x)]
        ends = {
            id(state): list(pairwise([*sent, *map(self.rate, state)]))
            for state in (before, after, anchor)
        }
        compared = ends[id(before)], ends[id(after)], ends[id(anchor)]
        if all(isinstance(connection, TiedConnection) for connection in self.chain):
            return list(map(Change, *compared))
        moved = [
            *(layer.new_zeros(()) for layer in sent),  # the input does not move
            *(self.response(s, a - b) for s, b, a in zip(anchor, before, after, strict=True)),
        ]
        return list(map(Change, *compared, pairwise(moved)))

    def drive(self, x: Tensor) -> Tensor:
        """The input's part of the current into the first layer.

        Raises:
            ValueError: an input that does not fit the first connection.
            TypeError: one of whole numbers.
        """
        return self.chain[0].up(self._sent(x))[0]

    def part(self, drive: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        return drive.index_select(0, rows)

    def _sent(self, x: Tensor) -> Tensor:
        """r(x), where images may stand for vectors, and vectors for images."""
        shape = self.chain[0].lower_shape
        flat = min(x.dim() - 1, len(shape)) == 1
        if x.shape[1:] != shape and not (flat and x.shape[1:].numel() == math.prod(shape)):
            raise ValueError(f"x: expected samples of shape {shape}, got {tuple(x.shape[1:])}")
        if not x.is_floating_point():
            raise TypeError(
                f"x: expected floating point numbers, got {x.dtype}; divide grey levels by the "
                "brightest one, as in x / 255"
            )
        return self.rate(x.reshape(len(x), *shape))

    def field(self, drive: Tensor, state: State) -> State:
        """∂Φ/∂s, one tensor per layer."""
        rates = [self.rate(layer) for layer in state]
        chain = self.chain
        currents = [drive]
        for index in range(1, len(chain)):
            received, trace = chain[index].up(rates[index - 1])
            currents[-1] = chain[index].down(rates[index], trace, onto=currents[-1])
            currents.append(received)
        return tuple(map(self.layer_field, state, rates, currents))

    def step(self, drive: Tensor, state: State, force: Tensor | None = None) -> State:
        """One transition; with alternating updates, of one half of the layers after the other."""
        if not self.in_turn:
            return super().step(drive, state, force)
        chain, layers = self.chain, list(state)
        rates = [self.rate(layer) for layer in state]
        last = len(chain) - 1
        # What a connection finds holds for as long as its lower layer stays.
        known: dict[int, Trace] = {}
        for first in (1, 0):
            half = range(first, last + 1, 2)
            for index in half:
                current = drive
                if index > 0:
                    current, known[index] = chain[index].up(rates[index - 1])
                if index < last:
                    above, lower, upper = chain[index + 1], rates[index], rates[index + 1]
                    trace = known[index + 1] if index + 1 in known else above.trace(lower)
                    current = above.down(upper, trace, onto=current)
                field = self.layer_field(layers[index], rates[index], current)
                layers[index] = self.advance(field, force if index == last else None)
            for index in half:
                rates[index] = self.rate(layers[index])
        return tuple(layers)

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
            for of, p in connection.named_parameters(remove_duplicate=False):
                name = names.setdefault(id(p), f"connections.{index}.{of}")
                if p.requires_grad and (only is None or name in only) and id(p) not in others:
                    learning[-1].append((of, name))
        # The input's is the largest, and in continual updates may wait.
        first = 0 if learning[0] else 1
        changes = self._changes(x, before, after, anchor, first)
        gradients: dict[str, Tensor] = {}
        for connection, own, change in zip(
            self.chain[first:], learning[first:], changes, strict=True
        ):
            found = connection.gradients_of([of for of, _ in own], change, scale)
            for of, name in own:
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
            for of, p in connection.named_parameters(remove_duplicate=False):
                shared += id(p) in seen
                seen.add(id(p))
                name = f"connections.{index}.{of}"
                if p.requires_grad and name in rates:
                    owned[-1][of] = rates[name]
        if shared or len(rates) > sum(map(len, owned)):
            return super().learning_rule(x, rates)
        first = 0 if owned[0] else 1

        @torch.no_grad()
        def learn(before: State, after: State, anchor: State, scale: float) -> None:
            changes = self._changes(x, before, after, anchor, first)
            for connection, own, change in zip(
                self.chain[first:], owned[first:], changes, strict=True
            ):
                if own:
                    connection.learn(change, scale, own)

        return learn

    def _parameters_elsewhere(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Those that are not in the connections alone; in most networks there are none."""
        if not self._parameters and len(self._modules) == 1:
            return []
        return [
            (name, p) for name, p in self.named_parameters() if not name.startswith("connections.")
        ]

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
        """The first connection's, if it is dense and used once.

        Its contrast is ⟨r(s¹ after) − r(s¹ before), up(r(x))⟩, so the drive gains K times that
        difference ÷ B, with K the
        :meth:`~eqprop.networks.connections.connection.Connection.tangent_kernel`.
        """
        first, *others = self.chain
        names = {id(p): name for name, p in self.named_parameters()}
        own = {of: id(p) for of, p in first.named_parameters()}
        again = first in others or any(
            id(p) in own.values() for c in others for p in c.parameters()
        )
        # What else the drive depends on would have to move with every step.
        if again or any(name in rates for name, _ in self._parameters_elsewhere()):
            return None
        kernel = first.tangent_kernel(
            self._sent(x), {of: rates.get(names[p], 0.0) / len(x) for of, p in own.items()}
        )
        if kernel is None:
            return None

        def follow(before: State, after: State) -> Tensor:
            moved = self.rate(after[0]) - self.rate(before[0])
            return (kernel @ moved.flatten(1)).view_as(moved)

        return DeferredUpdates(frozenset(names[p] for p in own.values()), follow)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, updates={self.updates}"

    def parameter_label(self, name: str) -> str:
        """A connection's are those of the layer that it feeds: *weight of hidden layer 1*."""
        room, *rest = name.split(".")
        if room != "connections":
            return super().parameter_label(name)
        index, *parts = (part for part in rest if part not in _DETOURS)
        return f"{' '.join(parts).replace('_', ' ')} of {self.layer_name(int(index))}"

    def parameter_groups(
        self, learning_rates: Sequence[float], *, backward: float = 1.0
    ) -> list[dict[str, Any]]:
        """Groups for a ``torch.optim`` optimizer: one learning rate per layer, input side first.

        ``backward`` multiplies those of the backward weights of untied connections, which then have
        groups of their own.

        What is used twice learns at the rate of its first place. A network that has parameters
        besides those of its connections takes one rate more, for them.

        Raises:
            TypeError: a rate that is no number.
            ValueError: another number of learning rates, or one that is negative or not finite.
        """
        owners = [list(connection.parameters()) for connection in self.chain]
        besides = ""
        if others := [p for _, p in self._parameters_elsewhere()]:
            owners.append(others)
            besides = ", then one for the network's other parameters"
        several = not isinstance(learning_rates, Real)
        if not several or len(learning_rates) != len(owners):
            raise ValueError(
                f"learning_rates: expected {len(owners)}, one per layer, input side first"
                f"{besides}, got {len(learning_rates) if several else f'{learning_rates} alone'}"
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
