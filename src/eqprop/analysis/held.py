r"""Units that are held: at a bound of the clip, or where ρ is flat.

Theorem 1 supposes that F is ∂Φ/∂s, and differentiable at s_*. Where it is neither depends on what
holds a unit. With H = ∂²Φ/∂s² and g = ∂ℓ/∂s at s_*, D the diagonal matrix that is 0 for held units
and 1 for all others, and as β → 0:

===================================  =======================  ==========================
model                                BPTT, ∇_s(t)             EP, Δ_s(t)
===================================  =======================  ==========================
s ← ∂Φ/∂s − εβg                      Hᵗ g                     −Hᵗ g
s ← clip(∂Φ/∂s − εβg)                (H D)ᵗ g                 −(D H)ᵗ D g = −D (H D)ᵗ g
s ← σ(∂Φ/∂s) − βg (prototypical)     (H D)ᵗ g, D = σ′         −(D H)ᵗ g
===================================  =======================  ==========================

while Δ_θ(t) = ∂²Φ/∂θ∂s Δ_s(t), and ∇_θ(t) is ∂²Φ/∂θ∂s D ∇_s(t) (with D = 1 in the first row). So

- a unit *at a bound of the clip* does not move in EP, and has a gradient in BPTT, which asks what
  would be if it stood elsewhere: states disagree there, whatever β, and nowhere else. Updates of
  parameters agree: no gradient passes such a unit on its way to them either.
- a unit *where ρ is flat*, in real time, is no exception: ρ′ = 0 is part of ∂Φ/∂s, and both agree.
- in the prototypical setting EP leaves out one σ′, that of the output, whether flat or not.

All that as long as D stays what it was. A unit that is held and then is not, or the other way
round, *crosses* a kink, where F has no derivative; both states and parameters disagree then. A
smaller β leads fewer units across, unless they rest at the kink itself: where s decays to the end
of a hard sigmoid, it comes to lie on it.
"""

from typing import Literal

import torch

from eqprop.core.activations import Activation
from eqprop.core.models import ConvergentModel, State
from eqprop.networks.real_time import RealTimeNetwork

__all__ = ["Holding", "held_units", "holding"]

Holding = Literal["", "clip", "rho", "activation"]
"""What can hold a unit: nothing that is known, the clip, ρ in real time, σ outside of the field."""


def holding(model: ConvergentModel) -> Holding:
    """What can hold the units of a model; a ρ can if it has a kink, beyond which it is flat."""
    if model.clip is not None:
        return "clip"
    if isinstance(model, RealTimeNetwork):
        return "rho" if _kinked(model.rho) else ""
    return "activation" if model.activation is not None and _kinked(model.activation) else ""


@torch.no_grad()
def held_units(model: ConvergentModel, drive: object, state: State, by: Holding) -> State:
    """Whether a unit is held, (B, …) of bool per layer; nothing where nothing can hold one.

    Args:
        drive: ``model.drive(x)``.
        state: where; what an activation σ holds is asked of the field there.
        by: what can hold units of the model, see :func:`holding`.
    """
    if by == "clip" and model.clip is not None:
        low, high = model.clip
        return tuple((s <= low) | (s >= high) for s in state)
    if by == "rho" and isinstance(model, RealTimeNetwork):
        return tuple(_slope(model.rho, s) == 0 for s in state)
    if by == "activation" and model.activation is not None:
        sigma = model.activation
        return tuple(_slope(sigma, field) == 0 for field in model.field(drive, state))
    return ()


@torch.no_grad()
def _kinked(rho: Activation) -> bool:
    """Whether the slope jumps to 0 somewhere; that of a sigmoid comes there by rounding alone."""
    steep = _slope(rho, torch.linspace(-10, 10, 20_001, dtype=torch.float64)).abs()
    pairs = torch.stack((steep[:-1], steep[1:]))
    return bool(((pairs.amin(0) == 0) & (pairs.amax(0) > 0.01)).any())


def _slope(rho: Activation, s: torch.Tensor) -> torch.Tensor:
    return rho.derivative(s, rho(s))
