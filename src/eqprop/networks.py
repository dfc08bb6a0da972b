r"""Layered networks with an explicit step.

A chain of layers coupled by connections, r(s⁰) = r(x) being what the input sends::

    coupling(x, s) = Σ_l r(sˡ⁺¹) · (W_l r(sˡ) + b_l)

========================  =========  ================================  ===========================
network                   r(s)       Φ                                 transition
========================  =========  ================================  ===========================
:class:`PrototypicalNetwork`  s      coupling                          s ← ρ(∂Φ/∂s) + force
:class:`RealTimeNetwork`  ρ(s)       ½‖s‖² − ε (½‖s‖² − coupling)      s ← clip(∂Φ/∂s + ε force)
========================  =========  ================================  ===========================

The current into layer l, c_l = W_{l−1} r(sˡ⁻¹) + b_{l−1} + W_lᵀ r(sˡ⁺¹), is computed explicitly; so
ρ(c_l) is the prototypical transition and (1 − ε) s + ε ρ′(s) ⊙ c_l the real-time one. Both agree
with autograd of Φ. The input's part of c_1, the *drive* W₀ r(x) + b₀, does not change and is
computed once per relaxation.

Source: Ernoult et al., https://arxiv.org/abs/1905.13633. The published code leaves out ρ′ in the
real-time dynamics of the output layer; it is kept here, so that dynamics and learning rule come
from one energy.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from eqprop.activations import Rho, as_activation
from eqprop.connections import Connection
from eqprop.models import PrimitiveModel, State, half_square_norm

__all__ = ["LayeredNetwork", "PrototypicalNetwork", "RealTimeNetwork"]


class LayeredNetwork(PrimitiveModel):
    """A chain of layers; the two kinds differ in what a layer sends and in the transition.

    Args:
        connections: input side first, each fitting on the one below.
        activation, epsilon, clip: as for :class:`~eqprop.models.ConvergentModel`.

    Raises:
        ValueError: no connection, or two that do not fit.
    """

    def __init__(
        self,
        connections: Sequence[Connection],
        *,
        activation: Rho | None = None,
        epsilon: float = 1.0,
        clip: tuple[float, float] | None = None,
    ) -> None:
        if not connections:
            raise ValueError("connections: expected at least one, got none")
        for index, (lower, upper) in enumerate(pairwise(connections)):
            if lower.upper_shape != upper.lower_shape:
                raise ValueError(
                    f"connections: layer {index + 1} has shape {lower.upper_shape}, but the "
                    f"connection above it expected {upper.lower_shape}"
                )
        super().__init__(
            [connection.upper_shape for connection in connections],
            activation=activation,
            epsilon=epsilon,
            clip=clip,
        )
        self.connections = nn.ModuleList(connections)

    @property
    def chain(self) -> tuple[Connection, ...]:
        """The connections, input side first."""
        return tuple(cast("Iterable[Connection]", self.connections))

    @abstractmethod
    def rate(self, s: Tensor) -> Tensor:
        """r(s), what a layer in state s sends to its neighbours."""

    def coupling(self, x: Tensor, state: State) -> Tensor:
        """Σ_l r(sˡ⁺¹) · (W_l r(sˡ) + b_l), per sample."""
        rates = [self.rate(layer) for layer in (x.flatten(1), *state)]
        terms = (
            (upper * connection.up(lower)).flatten(1).sum(1)
            for connection, lower, upper in zip(self.chain, rates, rates[1:], strict=False)
        )
        return torch.stack(tuple(terms)).sum(0)

    def drive(self, x: Tensor) -> Tensor:
        """W₀ r(x) + b₀, the input's part of the current into the first layer."""
        return self.chain[0].up(self.rate(x.flatten(1)))

    def currents(self, drive: Tensor, rates: Sequence[Tensor]) -> list[Tensor]:
        """∂coupling/∂r, one tensor per layer."""
        chain = self.chain
        last = len(chain) - 1
        currents = []
        for index in range(last + 1):
            current = drive if index == 0 else chain[index].up(rates[index - 1])
            if index < last:
                current = chain[index + 1].down(rates[index + 1], onto=current)
            currents.append(current)
        return currents

    def contrast_gradients(
        self, x: Tensor, before: State, after: State, anchor: State, scale: float = 1.0
    ) -> dict[str, Tensor]:
        """The explicit learning rule: scale · batch mean of r(sˡ⁺¹) r(sˡ)ᵀ, after − before."""
        sent = self.rate(x.flatten(1))
        rates_before = [sent, *(self.rate(layer) for layer in before)]
        rates_after = [sent, *(self.rate(layer) for layer in after)]
        gradients: dict[str, Tensor] = {}
        for index, connection in enumerate(self.chain):
            of_connection = connection.contrast_gradients(
                (rates_before[index], rates_before[index + 1]),
                (rates_after[index], rates_after[index + 1]),
                scale,
            )
            for name, parameter in connection.named_parameters():
                if parameter.requires_grad:
                    gradients[f"connections.{index}.{name}"] = of_connection[name]
        return gradients

    def parameter_name(self, name: str) -> str:
        _, index, kind = name.split(".")
        return f"the {kind} of {self.layer_name(int(index))} ({name})"

    def parameter_groups(self, learning_rates: Sequence[float]) -> list[dict[str, Any]]:
        """Groups for a ``torch.optim`` optimizer: one learning rate per layer, input side first.

        Raises:
            ValueError: not one learning rate per layer.
        """
        if len(learning_rates) != len(self.chain):
            raise ValueError(
                f"learning_rates: expected {len(self.chain)}, one per layer, input side first, "
                f"got {len(learning_rates)}"
            )
        return [
            {"params": list(connection.parameters()), "lr": rate}
            for connection, rate in zip(self.chain, learning_rates, strict=True)
        ]


@final
class PrototypicalNetwork(LayeredNetwork):
    """s ← ρ(∂Φ/∂s) + force, Φ = Σ_l sˡ⁺¹ · (W_l sˡ + b_l): discrete time, fast, approximate.

    The nudging force is added outside ρ. The learning rule is that of Φ, with no ρ′.

    Args:
        connections: input side first, see :func:`~eqprop.connections.dense`.
        rho: a name, an :class:`~eqprop.activations.Activation` or a callable.

    Source: https://arxiv.org/abs/1905.13633.
    """

    def __init__(self, connections: Sequence[Connection], rho: Rho = "scaled-sigmoid") -> None:
        super().__init__(connections, activation=rho)

    def rate(self, s: Tensor) -> Tensor:
        return s

    def phi(self, x: Tensor, state: State) -> Tensor:
        """Φ = Σ_l sˡ⁺¹ · (W_l sˡ + b_l)."""
        return self.coupling(x, state)

    def field(self, drive: Tensor, state: State) -> State:
        """∂Φ/∂s: the current into every layer."""
        return tuple(self.currents(drive, state))


@final
class RealTimeNetwork(LayeredNetwork):
    """s ← clip(s − ε ∂E/∂s + ε force), E = ½‖s‖² − Σ_l ρ(sˡ⁺¹) · (W_l ρ(sˡ) + b_l).

    Exact as long as nothing is clipped.

    Args:
        connections: input side first, see :func:`~eqprop.connections.dense`.
        rho: a name, an :class:`~eqprop.activations.Activation` or a callable.
        epsilon: the time step ε > 0.
        clip: the interval every state is kept in; none leaves it free.

    Source: 1905.13633; Scellier and Bengio, https://arxiv.org/abs/1602.05179.
    """

    def __init__(
        self,
        connections: Sequence[Connection],
        rho: Rho = "scaled-sigmoid",
        *,
        epsilon: float = 0.2,
        clip: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(connections, epsilon=epsilon, clip=clip)
        self.rho = as_activation(rho)

    def rate(self, s: Tensor) -> Tensor:
        return self.rho(s)

    def energy(self, x: Tensor, state: State) -> Tensor:
        """E = ½‖s‖² − coupling, per sample."""
        return half_square_norm(state) - self.coupling(x, state)

    def phi(self, x: Tensor, state: State) -> Tensor:
        """Φ = ½‖s‖² − ε E."""
        return half_square_norm(state) - self.epsilon * self.energy(x, state)

    def field(self, drive: Tensor, state: State) -> State:
        """∂Φ/∂s = (1 − ε) s + ε ρ′(s) ⊙ current."""
        rates = [self.rho(layer) for layer in state]
        return tuple(
            torch.lerp(layer, self.rho.derivative(layer, rate) * current, self.epsilon)
            for layer, rate, current in zip(state, rates, self.currents(drive, rates), strict=True)
        )
