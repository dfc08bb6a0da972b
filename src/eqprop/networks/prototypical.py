r"""Prototypical networks: discrete time, fast, approximate."""

from typing import final

from torch import Tensor

from eqprop.core.activations import Rho
from eqprop.core.models import State
from eqprop.networks.graph import Edges
from eqprop.networks.layered import LayeredNetwork, Updates

__all__ = ["PrototypicalNetwork"]


@final
class PrototypicalNetwork(LayeredNetwork):
    """s ← ρ(∂Φ/∂s) + force, Φ = Σ_l sˡ⁺¹ · up_l(sˡ): discrete time, fast, approximate.

    The nudging force is added outside ρ. The learning rule is that of Φ, with no ρ′.

    Args:
        connections: a chain, input side first, see
            :func:`~eqprop.networks.connections.chains.dense` and
            :func:`~eqprop.networks.connections.chains.convolutional`; or the edges of a graph, see
            :mod:`eqprop.networks.graph`.
        rho: a name, an :class:`~eqprop.core.activations.Activation` or a callable.
        updates: ``synchronous``, as published, or ``alternating``, which settles in fewer steps.

    Source: https://arxiv.org/abs/1905.13633.
    """

    def __init__(
        self,
        connections: Edges,
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
