r"""Layered networks with an explicit step.

A chain of layers coupled by connections, r(s⁰) = r(x) being what the input sends::

    coupling(x, s) = Σ_l r(sˡ⁺¹) · up_l(r(sˡ))

=============================  ====  ============================  =========================
network                        r(s)  Φ                             transition
=============================  ====  ============================  =========================
:class:`PrototypicalNetwork`   s     coupling                      s ← ρ(∂Φ/∂s) + force
:class:`RealTimeNetwork`       ρ(s)  ½‖s‖² − ε (½‖s‖² − coupling)  s ← clip(∂Φ/∂s + ε force)
=============================  ====  ============================  =========================

The current into layer l, c_l = up_{l−1}(r(sˡ⁻¹)) + down_l(r(sˡ⁺¹)), is computed explicitly (see
:mod:`eqprop.connections`); so ρ(c_l) is the prototypical transition and (1 − ε) s + ε ρ′(s) ⊙ c_l
the real-time one. Both agree with autograd of Φ. The input's part of c_1, the *drive*, does not
change and is computed once per relaxation.

A layer is coupled to its neighbours alone. With *alternating* updates a step therefore moves the
layers of even number first, all at once, then those of odd number, which see where the others have
gone. In a prototypical network ρ(c) minimises G(s) − s·c, G′ = ρ⁻¹, so each half lowers the energy
Σ G(s) − coupling with the other half held (with max-pooling too, whose coupling is convex, as long
as ρ ≥ 0): the network settles, where all layers moved at once may go to and fro between two states.
The steady states are the same, and fewer steps lead there. Theorem 1 then holds for the totals over
a nudged phase that has settled, but not step by step.

With *untied* connections (:class:`~eqprop.connections.Untied`) there is no coupling and no Φ: the
step is the same with their ways up and down, and the learning rule is the connections' contrast::

    contrast(x, before, after, anchor) = Σ_l contrast of connection l, m = (∂r/∂s)ᵀ (after − before)

which is Φ(after) − Φ(before), without what does not depend on θ, where all are tied, and
⟨field(anchor), after − before⟩ / ε for what is untied. The first connection is tied always: nothing
comes back from the input.

Source: Ernoult et al., https://arxiv.org/abs/1905.13633. The published code leaves out ρ′ in the
real-time dynamics of the output layer; it is kept here, so that dynamics and learning rule come
from one energy. Alternating updates: https://arxiv.org/abs/2312.15103. Untied weights:
https://arxiv.org/abs/2005.04168.
"""

import math
from abc import abstractmethod
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, cast, final, get_args

import torch
from torch import Tensor, nn

from eqprop.activations import Rho, as_activation
from eqprop.connections import Change, Connection, Switches, TiedConnection, Untied
from eqprop.models import PrimitiveModel, State, Telescope, half_square_norm

__all__ = ["LayeredNetwork", "PrototypicalNetwork", "RealTimeNetwork", "Updates"]

Updates = Literal["synchronous", "alternating"]
"""All layers at once, as published, or those of even and of odd number in turn."""


class LayeredNetwork(PrimitiveModel):
    """A chain of layers; the two kinds differ in what a layer sends and in the transition.

    It has a primitive function if all its connections are tied; otherwise it is a vector field.

    Args:
        connections: input side first, each fitting on the one below.
        updates: which layers a step updates at once, see :data:`Updates`.
        activation, epsilon, clip: as for :class:`~eqprop.models.ConvergentModel`.

    Raises:
        ValueError: no connection, two that do not fit, or unknown updates.
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
        if not connections:
            raise ValueError("connections: expected at least one, got none")
        if isinstance(connections[0], Untied):
            raise ValueError(
                "connections: expected a tied one at the input, to which nothing comes down, got "
                "an untied one"
            )
        for index, (lower, upper) in enumerate(pairwise(connections)):
            if lower.upper_shape != upper.lower_shape:
                raise ValueError(
                    f"connections: layer {index + 1} has shape {lower.upper_shape}, but the "
                    f"connection above it expected {upper.lower_shape}"
                )
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
    def chain(self) -> tuple[Connection, ...]:
        """The connections, input side first."""
        return tuple(cast("Iterable[Connection]", self.connections))

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

    @abstractmethod
    def response(self, s: Tensor, moved: Tensor) -> Tensor:
        """(∂r/∂s)ᵀ moved, at the state s of a layer."""

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
                    "phi: expected tied connections, got untied ones, whose dynamics have no "
                    "primitive function; their learning rule is that of contrast"
                )
            terms.append(connection.coupling((ends[0], ends[1])))
        return torch.stack(terms).sum(0)

    def contrast(self, x: Tensor, before: State, after: State, anchor: State) -> Tensor:
        """Σ_l of the connections' contrasts, (B,)."""
        changes = self._changes(x, before, after, anchor)
        terms = [c.contrast(change) for c, change in zip(self.chain, changes, strict=True)]
        return torch.stack(terms).sum(0)

    def _changes(self, x: Tensor, before: State, after: State, anchor: State) -> list[Change]:
        """What happens at the ends of every connection."""
        sent = self._sent(x)
        rates = {
            id(state): [sent, *(self.rate(layer) for layer in state)]
            for state in (before, after, anchor)
        }
        moved = [
            sent.new_zeros(()),  # the input does not
            *(self.response(s, b - a) for s, a, b in zip(anchor, before, after, strict=True)),
        ]
        ends = [
            list(pairwise(layers))
            for layers in (rates[id(before)], rates[id(after)], rates[id(anchor)], moved)
        ]
        return [Change(*of_connection) for of_connection in zip(*ends, strict=True)]

    def initial_state(self, x: Tensor) -> State:
        """s₀ = 0, of images with the channels last in memory."""
        return tuple(
            layer.contiguous(memory_format=torch.channels_last) if layer.dim() == 4 else layer
            for layer in super().initial_state(x)
        )

    def drive(self, x: Tensor) -> Tensor:
        """The input's part of the current into the first layer.

        Raises:
            ValueError: an input that does not fit the first connection.
        """
        return self.chain[0].up(self._sent(x))[0]

    def _sent(self, x: Tensor) -> Tensor:
        """r(x), where images may stand for vectors, and vectors for images."""
        shape = self.chain[0].lower_shape
        flat = min(x.dim() - 1, len(shape)) == 1
        if x.shape[1:] != shape and not (flat and x.shape[1:].numel() == math.prod(shape)):
            raise ValueError(f"x: expected samples of shape {shape}, got {tuple(x.shape[1:])}")
        return self.rate(x.reshape(len(x), *shape))

    def field(self, drive: Tensor, state: State) -> State:
        """∂Φ/∂s, one tensor per layer."""
        rates = [self.rate(layer) for layer in state]
        chain = self.chain
        currents = [drive]
        for index in range(1, len(chain)):
            received, switches = chain[index].up(rates[index - 1])
            currents[-1] = chain[index].down(rates[index], switches, onto=currents[-1])
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
        known: dict[int, Switches] = {}
        for first in (1, 0):
            half = range(first, last + 1, 2)
            for index in half:
                current = drive
                if index > 0:
                    current, known[index] = chain[index].up(rates[index - 1])
                if index < last:
                    above, lower, upper = chain[index + 1], rates[index], rates[index + 1]
                    switches = known[index + 1] if index + 1 in known else above.switches(lower)
                    current = above.down(upper, switches, onto=current)
                field = self.layer_field(layers[index], rates[index], current)
                layers[index] = self.settle(field, force if index == last else None)
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
        """scale · ∂/∂θ of the batch mean of :meth:`contrast`, explicitly."""
        changes = self._changes(x, before, after, anchor)
        # A connection used twice has the name of its first place, and learns from both.
        names: dict[int, str] = {}
        gradients: dict[str, Tensor] = {}
        for index, (connection, change) in enumerate(zip(self.chain, changes, strict=True)):
            of_connection: dict[str, Tensor] = {}
            for of, parameter in connection.named_parameters(remove_duplicate=False):
                name = names.setdefault(id(parameter), f"connections.{index}.{of}")
                if parameter.requires_grad and (only is None or name in only):
                    of_connection = of_connection or connection.contrast_gradients(change, scale)
                    gradient = of_connection[of]
                    gradients[name] = gradients[name] + gradient if name in gradients else gradient
        return gradients

    def telescope(self, x: Tensor, rates: Mapping[str, float]) -> Telescope | None:
        """The first connection's, if it is dense and used once.

        Its contrast is ⟨r(s¹ after) − r(s¹ before), up(r(x))⟩, so the drive gains K times that
        difference ÷ B, with K the :meth:`~eqprop.connections.Connection.tangent_kernel`.
        """
        first, *others = self.chain
        names = {id(p): name for name, p in self.named_parameters()}
        own = {of: id(p) for of, p in first.named_parameters()}
        if first in others or any(id(p) in own.values() for c in others for p in c.parameters()):
            return None
        kernel = first.tangent_kernel(
            self._sent(x), {of: rates.get(names[p], 0.0) / len(x) for of, p in own.items()}
        )
        if kernel is None:
            return None

        def follow(before: State, after: State) -> Tensor:
            moved = self.rate(after[0]) - self.rate(before[0])
            return (kernel @ moved.flatten(1)).view_as(moved)

        return Telescope(frozenset(names[p] for p in own.values()), follow)

    def parameter_name(self, name: str) -> str:
        _, index, *_, kind = name.split(".")
        return f"the {kind.replace('_', ' ')} of {self.layer_name(int(index))} ({name})"

    def parameter_groups(self, learning_rates: Sequence[float]) -> list[dict[str, Any]]:
        """Groups for a ``torch.optim`` optimizer: one learning rate per layer, input side first.

        A connection used twice learns at the rate of its first place.

        Raises:
            ValueError: not one learning rate per layer.
        """
        if len(learning_rates) != len(self.chain):
            raise ValueError(
                f"learning_rates: expected {len(self.chain)}, one per layer, input side first, "
                f"got {len(learning_rates)}"
            )
        rates = zip(self.chain, learning_rates, strict=True)
        return [
            {"params": list(connection.parameters()), "lr": rate}
            for index, (connection, rate) in enumerate(rates)
            if connection not in self.chain[:index]
        ]


@final
class PrototypicalNetwork(LayeredNetwork):
    """s ← ρ(∂Φ/∂s) + force, Φ = Σ_l sˡ⁺¹ · up_l(sˡ): discrete time, fast, approximate.

    The nudging force is added outside ρ. The learning rule is that of Φ, with no ρ′.

    Args:
        connections: input side first, see :func:`~eqprop.connections.dense` and
            :func:`~eqprop.connections.convolutional`.
        rho: a name, an :class:`~eqprop.activations.Activation` or a callable.
        updates: ``synchronous``, as published, or ``alternating``, which settles in fewer steps.

    Source: https://arxiv.org/abs/1905.13633.
    """

    def __init__(
        self,
        connections: Sequence[Connection],
        rho: Rho = "scaled-sigmoid",
        *,
        updates: Updates = "synchronous",
    ) -> None:
        super().__init__(connections, updates=updates, activation=rho)

    def rate(self, s: Tensor) -> Tensor:
        return s

    def phi(self, x: Tensor, state: State) -> Tensor:
        """Φ = Σ_l sˡ⁺¹ · up_l(sˡ)."""
        return self.coupling(x, state)

    def layer_field(self, s: Tensor, rate: Tensor, current: Tensor) -> Tensor:
        """∂Φ/∂s is the current."""
        return current

    def response(self, s: Tensor, moved: Tensor) -> Tensor:
        """r(s) = s."""
        return moved


@final
class RealTimeNetwork(LayeredNetwork):
    """s ← clip(s − ε ∂E/∂s + ε force), E = ½‖s‖² − Σ_l ρ(sˡ⁺¹) · up_l(ρ(sˡ)).

    Exact as long as nothing is clipped and all layers are updated at once.

    Args:
        connections: input side first, see :func:`~eqprop.connections.dense` and
            :func:`~eqprop.connections.convolutional`.
        rho: a name, an :class:`~eqprop.activations.Activation` or a callable.
        epsilon: the time step ε > 0.
        clip: the interval every state is kept in; none leaves it free.
        updates: ``synchronous``, as published, or ``alternating``, which settles in fewer steps.

    Source: 1905.13633; Scellier and Bengio, https://arxiv.org/abs/1602.05179.
    """

    def __init__(
        self,
        connections: Sequence[Connection],
        rho: Rho = "scaled-sigmoid",
        *,
        epsilon: float = 0.2,
        clip: tuple[float, float] | None = None,
        updates: Updates = "synchronous",
    ) -> None:
        super().__init__(connections, updates=updates, epsilon=epsilon, clip=clip)
        self.rho = as_activation(rho)

    def rate(self, s: Tensor) -> Tensor:
        return self.rho(s)

    def energy(self, x: Tensor, state: State) -> Tensor:
        """E = ½‖s‖² − coupling, per sample."""
        return half_square_norm(state) - self.coupling(x, state)

    def phi(self, x: Tensor, state: State) -> Tensor:
        """Φ = ½‖s‖² − ε E."""
        return half_square_norm(state) - self.epsilon * self.energy(x, state)

    def layer_field(self, s: Tensor, rate: Tensor, current: Tensor) -> Tensor:
        """∂Φ/∂s = (1 − ε) s + ε ρ′(s) ⊙ current."""
        return torch.lerp(s, self.rho.derivative(s, rate) * current, self.epsilon)

    def response(self, s: Tensor, moved: Tensor) -> Tensor:
        """ρ′(s) ⊙ moved."""
        return self.rho.derivative(s, self.rho(s)) * moved
