r"""Real-time networks: Euler's method on an energy."""

from typing import Any, final

import torch
from torch import Tensor, nn

from eqprop.core.activations import Rho, as_activation
from eqprop.core.models import State, half_square_norm
from eqprop.networks.graph import Edges
from eqprop.networks.jacobian import LayeredJacobian
from eqprop.networks.layered import LayeredNetwork, Updates

__all__ = ["RealTimeNetwork"]


@final
class RealTimeNetwork(LayeredNetwork):
    """s ← clip(s − ε ∂E/∂s + ε force), E = ½‖s‖² − Σ_l ρ(sˡ⁺¹) · up_l(ρ(sˡ)).

    Exact as long as nothing is clipped and all layers are updated at once.

    Args:
        connections: a chain, input side first, see
            :func:`~eqprop.networks.connections.chains.dense` and
            :func:`~eqprop.networks.connections.chains.convolutional`; or the edges of a graph, see
            :mod:`eqprop.networks.graph`.
        rho: a name, an :class:`~eqprop.core.activations.Activation` or a callable.
        epsilon: the time step ε > 0.
        clip: the interval every state is kept in; none leaves it free.
        updates: ``synchronous``, as published, or ``alternating``, which settles in fewer steps.
        readout: what makes ŷ of the output layer outside of the dynamics, such as
            ``nn.Linear(512, 10)``; none for the output layer itself.

    Raises:
        ValueError: ρ′(0) = 0, as autograd has it for ``relu`` or ``hardtanh`` from 0 on: ρ′ stands
            before all that a unit receives, and one that starts at s = 0 would stay there for ever.

    Source: 1905.13633; Scellier and Bengio, https://arxiv.org/abs/1602.05179.
    """

    def __init__(
        self,
        connections: Edges,
        rho: Rho = "scaled-sigmoid",
        *,
        epsilon: float = 0.2,
        clip: tuple[float, float] | None = None,
        updates: Updates = "synchronous",
        readout: nn.Module | None = None,
    ) -> None:
        super().__init__(connections, updates=updates, epsilon=epsilon, clip=clip, readout=readout)
        self.rho = as_activation(rho)
        origin = torch.zeros(2, 2)
        try:
            slope = self.rho.derivative(origin, self.rho(origin.clone()))
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"rho: expected a function that autograd can differentiate, got {self.rho.name} "
                f"({error}); write it with operations of torch, or give its derivative"
            ) from error
        if not isinstance(slope, torch.Tensor) or slope.shape != origin.shape:
            got = f"shape {tuple(slope.shape)}" if isinstance(slope, torch.Tensor) else repr(slope)
            raise ValueError(
                f"rho: expected a derivative for every element, got that of {self.rho.name}, which "
                f"gives {got} for as many as {tuple(origin.shape)}"
            )
        if not slope.any():
            raise ValueError(
                f"rho: expected a function with a slope at 0, where states begin, got "
                f"{self.rho.name} with ρ′(0) = 0, from where no unit would ever move; take "
                'rho="hard-sigmoid", or an Activation whose derivative counts the end in'
            )

    @property
    def architecture(self) -> dict[str, Any]:
        return {**super().architecture, "rho": self.rho.name}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ρ={self.rho.name}"

    def rate(self, s: Tensor) -> Tensor:
        return self.rho(s)

    def energy(self, x: Tensor, state: State) -> Tensor:
        """E = ½‖s‖² − coupling, per sample."""
        return half_square_norm(state) - self.coupling(x, state)

    def phi(self, x: Tensor, state: State) -> Tensor:
        """Φ = ½‖s‖² − ε E."""
        return half_square_norm(state) - self.epsilon * self.energy(x, state)

    def jacobian(self, drive: Tensor, state: State) -> LayeredJacobian | None:
        # What something is added to, such as noise, may depend on more than single units.
        return LayeredJacobian.of(self, drive, state) if type(self) is RealTimeNetwork else None

    def layer_field(self, s: Tensor, rate: Tensor, current: Tensor) -> Tensor:
        """∂Φ/∂s = (1 − ε) s + ε ρ′(s) ⊙ current."""
        return torch.lerp(s, self.rho.times_slope(s, rate, current), self.epsilon)

    def response(self, s: Tensor, moved: Tensor) -> Tensor:
        """ρ′(s) ⊙ moved."""
        return self.rho.times_slope(s, self.rho(s), moved)
