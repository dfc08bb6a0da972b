r"""Prototypical networks: discrete time, fast, approximate."""

from collections.abc import Mapping, Sequence
from typing import final

from torch import Tensor, nn

from eqprop.core.activations import BUILT_IN, Rho
from eqprop.core.models import NudgePlace, State
from eqprop.networks.graph import Edges
from eqprop.networks.jacobian import LayeredJacobian
from eqprop.networks.layered import LayeredNetwork, Moves, Updates

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

    def jacobian(self, drive: Tensor, state: State) -> LayeredJacobian | None:
        # What something is added to, such as noise, may depend on more than single units.
        return LayeredJacobian.of(self, drive, state) if type(self) is PrototypicalNetwork else None

    def moves(self, layers: Sequence[Tensor], currents: Mapping[int, Tensor]) -> Moves:
        """ρ(c), by the slope ρ′(c)."""
        rho = self.activation
        if rho not in BUILT_IN:
            # Nobody has tried whether its derivative is one.
            return super().moves(layers, currents)
        after = {layer: rho(current) for layer, current in currents.items()}
        slopes = {layer: rho.derivative(currents[layer], s) for layer, s in after.items()}
        return Moves(after, dict.fromkeys(after), slopes)

    def layer_field(self, s: Tensor, rate: Tensor, current: Tensor) -> Tensor:
        """∂Φ/∂s is the current."""
        return current

    def response(self, s: Tensor, moved: Tensor) -> Tensor:
        """r(s) = s."""
        return moved
