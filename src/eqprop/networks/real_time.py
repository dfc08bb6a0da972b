r"""Real-time networks: Euler's method on an energy, or Newton's.

With the other layers held, the energy of a layer that is not connected with itself is a sum over
its units i, each in its current c_i, and nudged by a force f_i::

    e_i(s) = ½ s² − c_i ρ(s) − f_i s,    e′ = s − c ρ′(s) − f,    e″ = 1 − c ρ″(s)

Euler's step −ε e′ is as fast as its slowest unit: with the scaled sigmoid, e″ at rest lies between
0.5 and 4, so that units close to 1 go to and fro with ε near 0.5 while others still creep. Layers
that move in turn can take Newton's step −e′/e″, by each unit's own curvature. Alone it may lead too
far, where e soon bends otherwise; so the step goes to the minimum of a cubic that lies above e,
with M = sup ``|ρ‴|``::

    e(s + Δ) ≤ e + e′ Δ + ½ e″ Δ² + ⅙ M |c| |Δ|³
    s ← clip(s − 2 e′ / (e″ + √(e″² + 2 M |c| |e′|)))

which is Newton's where e′ is small, and with a smooth ρ never raises the energy, the force held,
wherever between the ends of the clip it starts: the network settles. Where it rests, Euler's steps
rest too. With max-pooling that is so as long as ρ ≥ 0, as the coupling is convex then and lies
above what the step takes it for. A layer connected with itself moves all its units by what the
others were, and has no such promise.

A nudge is not held: it bends by β ∂²ℓ/∂s², with the squared error by β, and where that is more than
e″ the output goes to and fro. So β stays below the least e″, 0.5 with the scaled sigmoid.

Of complex states, those of holomorphic EP, the step is Newton's own, which is holomorphic.

Source: Nesterov and Polyak, https://doi.org/10.1007/s10107-006-0706-8.
"""

from typing import Any, ClassVar, Literal, final, get_args

import torch
from torch import Tensor, nn

from eqprop.core.activations import Rho, as_activation
from eqprop.core.models import State, half_square_norm
from eqprop.networks.graph import Edges
from eqprop.networks.jacobian import LayeredJacobian
from eqprop.networks.layered import LayeredNetwork

__all__ = ["RealTimeNetwork", "RealTimeUpdates"]

RealTimeUpdates = Literal["synchronous", "alternating", "newton"]
"""All layers at once, as published; or in turn; or in turn and by Newton's steps."""

_LEAST_CURVATURE = 0.01
"""Of a unit on the top of its energy, where it is 0: a shorter step lowers the energy too."""

_FAR = (-10.0, 10.0)
"""Where the states of a network without a clip are looked for."""

_SHARPEST = 1e6
"""Beyond it no unit would move."""


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
        epsilon: the time step ε > 0; Newton's steps have their own, beside which it is 1.
        clip: the interval every state is kept in; none leaves it free.
        updates: ``synchronous``, as published; ``alternating``, which settles in fewer steps; or
            ``newton``, in turn too and by Newton's steps, the fewest.
        readout: what makes ŷ of the output layer outside of the dynamics, such as
            ``nn.Linear(512, 10)``; none for the output layer itself.

    Raises:
        ValueError: ρ′(0) = 0, as autograd has it for ``relu`` or ``hardtanh`` from 0 on: ρ′ stands
            before all that a unit receives, and one that starts at s = 0 would stay there for ever;
            with ``newton``, a ρ″ that autograd cannot find; or as for
            :class:`~eqprop.networks.layered.LayeredNetwork`.

    Source: 1905.13633; Scellier and Bengio, https://arxiv.org/abs/1602.05179.
    """

    known_updates: ClassVar[tuple[str, ...]] = get_args(RealTimeUpdates)

    def __init__(
        self,
        connections: Edges,
        rho: Rho = "scaled-sigmoid",
        *,
        epsilon: float = 0.2,
        clip: tuple[float, float] | None = None,
        updates: RealTimeUpdates = "synchronous",
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
        if self.updates == "newton":
            self.epsilon = 1.0
            self._sharpest = self.sharpest()

    def sharpest(self) -> float:
        """M, the largest ``|ρ‴|`` where states can be: within the clip, without one from −10 to 10.

        Raises:
            ValueError: there is none, or no ρ″ that autograd can find.
        """
        low, high = _FAR if self.clip is None else self.clip
        try:
            found = self.rho.sharpest(low, high)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"rho: expected a second derivative, which Newton's steps ask for, got that of "
                f"{self.rho.name} ({error}); give an Activation its bend, or take alternating "
                "updates"
            ) from error
        if not found < _SHARPEST:
            raise ValueError(
                f"rho: expected a third derivative that is bounded from {low:g} to {high:g}, as "
                f"Newton's steps ask for, got {self.rho.name}, where it comes to {found:.1e}; "
                "clip the states to where it is, or take alternating updates"
            )
        return found

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

    def move_in_turn(
        self, layer: int, s: Tensor, rate: Tensor, current: Tensor, force: Tensor | None
    ) -> Tensor:
        if self.updates != "newton":
            return super().move_in_turn(layer, s, rate, current, force)
        # Element by element, at a good part of a step's time: in place where that leaves autograd
        # what it needs.
        pulled = self.rho.times_slope(s, rate, current)
        bent = self.rho.times_second(s, rate, current, pulled).neg_().add_(1)
        own = pulled - s
        if not s.is_complex():
            down = own if force is None else own + force
            reach = (current * down).abs_().mul_(2 * self._sharpest).addcmul_(bent, bent)
            # √ has no slope at 0, which autograd would multiply by 0.
            reach = reach.clamp_(min=_LEAST_CURVATURE**2)
            bent = (bent + reach.sqrt_()).mul_(0.5).clamp_(min=_LEAST_CURVATURE)
        field = torch.addcdiv(s, own, bent)
        return self.move(layer, s, field, None if force is None else force / bent)

    def response(self, s: Tensor, moved: Tensor) -> Tensor:
        """ρ′(s) ⊙ moved."""
        return self.rho.times_slope(s, self.rho(s), moved)
