r"""Prototypical networks: discrete time, fast, approximate."""

from typing import final

from torch import Tensor, nn

from eqprop.core.activations import Rho
from eqprop.core.models import NudgePlace, State
from eqprop.networks.graph import Edges
from eqprop.networks.layered import LayeredNetwork, Updates

__all__ = ["PrototypicalNetwork"]


@final
class PrototypicalNetwork(LayeredNetwork):
    """s ← ρ(∂Φ/∂s) + force, Φ = Σ_l sˡ⁺¹ · up_l(sˡ): discrete time, fast, approximate.

    The nudging force is added outside ρ, unless asked for inside. The learning rule is that of Φ,
    with no ρ′.

    Args:
        connections: a chain, input side first, see
            :func:`~eqprop.networks.connections.chains.dense` and
            :func:`~eqprop.networks.connections.chains.convolutional`; or the edges of a graph, see
            :mod:`eqprop.networks.graph`.
        rho: a name, an :class:`~eqprop.core.activations.Activation` or a callable.
        updates: ``synchronous``, as published, or ``alternating``, which settles in fewer steps.
        readout: what makes ŷ of the output layer outside of the dynamics, such as
            ``nn.Linear(512, 10)``; none for the output layer itself.
        nudge: ``outside`` ρ, as published, or ``inside``, s^N ← ρ(∂Φ/∂s + force).

    Source: https://arxiv.org/abs/1905.13633; readout, and nudge inside ρ:
    https://arxiv.org/abs/2006.03824.
    """

    def __init__(
        self,
        connections: Edges,
        rho: Rho = "scaled-sigmoid",
        *,
        updates: Updates = "synchronous",
        readout: nn.Module | None = None,
        nudge: NudgePlace = "outside",
    ) -> None:
        super().__init__(connections, updates=updates, activation=rho, readout=readout, nudge=nudge)

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
