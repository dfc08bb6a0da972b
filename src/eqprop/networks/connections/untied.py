"""Up by one weight, down by another."""

import math
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from eqprop.core.sizes import require_number
from eqprop.networks.connections.connection import (
    Change,
    Connection,
    Ends,
    ExplicitConnection,
    TiedConnection,
    Trace,
    Ways,
    product,
)

__all__ = ["Untied"]


@final
class Untied(Connection):
    """Up by one weight, down by another: up(l) as ``upward`` has it, down(u) = θ_bᵀ u.

    These are the derivatives of no coupling: the dynamics are a vector field, and each weight
    learns from its own way. The backward weights θ_b have the shape of the forward ones θ_f, and
    start as these with the sign of each flipped with the probability ½ (1 − cos ψ), so that the
    *weight angle*, cos Ψ = ⟨θ_b, θ_f⟩ / (‖θ_b‖ ‖θ_f‖), is about ψ. There is no backward bias.

    Args:
        upward: a tied connection with a ``weight``; what pools does so on the way up.
        angle: ψ in degrees, from 0 to 180.

    Raises:
        ValueError: an angle outside that range, or ``upward`` has no parameter called ``weight``.
        TypeError: ``upward`` is untied itself.

    Source: Ernoult et al., https://arxiv.org/abs/2005.04168.
    """

    def __init__(self, upward: TiedConnection, angle: float = 0.0) -> None:
        if not isinstance(upward, TiedConnection):
            raise TypeError(f"Untied: expected a tied connection, got {type(upward).__name__}")
        if "weight" not in dict(upward.named_parameters()):
            raise ValueError(
                f"Untied: expected a connection with a parameter called weight, got one with "
                f"{', '.join(dict(upward.named_parameters())) or 'none'}"
            )
        if not 0 <= require_number("angle", angle) <= 180:
            raise ValueError(f"angle: expected degrees from 0 to 180, got {angle}")
        super().__init__(upward.lower_shape, upward.upper_shape)
        self.upward = upward
        weight = upward.weight.detach()
        flipped = torch.rand(weight.shape) < (1 - math.cos(math.radians(angle))) / 2
        self.backward_weight = nn.Parameter(torch.where(flipped, -weight, weight))

    @property
    def weight_angle(self) -> float:
        """Ψ in degrees, now; 90 if one of the weights is 0."""
        weights = self.upward.weight.detach().double(), self.backward_weight.detach().double()
        if not all(weight.any() for weight in weights):
            return 90.0
        forward, backward = (weight / weight.norm() for weight in weights)
        # 2 atan(‖f − b‖ / ‖f + b‖): the arc cosine would lose half the digits of a small angle.
        apart, along = (forward - backward).norm().item(), (forward + backward).norm().item()
        return math.degrees(2 * math.atan2(apart, along))

    def up(self, lower: Tensor) -> tuple[Tensor, Trace]:
        return self.upward.up(lower)

    def trace(self, lower: Tensor) -> Trace:
        return self.upward.trace(lower)

    def down(self, upper: Tensor, trace: Trace, onto: Tensor | None = None) -> Tensor:
        return self.upward.transposed(self.backward_weight, upper, trace, onto)

    def ways(self) -> Ways | None:
        if not isinstance(self.upward, ExplicitConnection):
            return None
        return replace(self.upward.ways(), backward_weight=self.backward_weight.detach())

    def contrast(self, change: Change) -> Tensor:
        """⟨up(l), m_u⟩ + ⟨down(u), m_l⟩."""
        (lower, upper), (moved_lower, moved_upper) = change.anchor, _moved(change)
        received, trace = self.up(lower)
        return product(received, moved_upper) + product(self.down(upper, trace), moved_lower)

    def contrast_gradients(self, change: Change, scale: float = 1.0) -> dict[str, Tensor]:
        if not isinstance(self.upward, ExplicitConnection):
            return super().contrast_gradients(change, scale)
        (lower, upper), (moved_lower, moved_upper) = change.anchor, _moved(change)
        scale /= len(upper)
        forward = self.upward.up_gradients(lower, moved_upper * scale)
        trace = self.upward.trace(lower)
        backward = self.upward.down_gradient(moved_lower, upper * scale, trace)
        return {
            **{f"upward.{name}": gradient for name, gradient in forward.items()},
            "backward_weight": backward,
        }

    def extra_repr(self) -> str:
        return f"weight angle {self.weight_angle:.1f}°"


def _moved(change: Change) -> Ends:
    if change.moved is None:
        raise ValueError("change: expected what the layers moved by, got nothing")
    return change.moved
