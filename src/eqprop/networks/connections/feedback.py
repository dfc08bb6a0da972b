r"""A way down that is not quite the way up: scaled, or of synapses that differ.

    up(l) = as the connection has it        down(u) = c · (w ⊙ (1 + σ ξ))ᵀ u      ξ normal, fixed

**Feedback scaling** (σ = 0). A small c keeps what comes down from ruling what goes up: the network
settles in fewer steps. In a chain of N layers, all ways down scaled by c, F is the gradient of the
Φ whose coupling with layer l counts c^l, in the metric c^l::

    c^l F_l = ∂/∂s_l Σ_k c^k coupling_k        so that        s_*^β − s_* = −β c^{N−l} λ_l

in layer l, λ the adjoint of the implicit gradient: the nudge comes down weakened, in a known
proportion. Divided by it, which is the *share* c^{l−N} by which the connection below layer l
multiplies what it learns, EP's update is the gradient again, exactly.

**Mismatch** (σ > 0). Where each way has devices of its own, what was meant to be one weight is two.
No Φ is left, and what comes down is off by what the synapses differ by.

Source: feedback scaling: https://arxiv.org/abs/2508.11659.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from eqprop.core.sizes import require_number
from eqprop.networks.connections.chains import require_chain
from eqprop.networks.connections.connection import (
    Change,
    Connection,
    ExplicitConnection,
    TiedConnection,
    Trace,
    Ways,
)

__all__ = ["Feedback", "feedback"]

_INNER = "upward."


@final
class Feedback(Connection):
    """A tied connection with a way down that is scaled, or whose synapses differ from those up.

    Args:
        upward: a tied connection.
        scale: c > 0.
        spread: σ ≥ 0, of the synapses; their differences are drawn now, and stay.
        share: by what the connection multiplies what it learns.

    Raises:
        TypeError: ``upward`` is not tied.
        ValueError: c, σ or the share outside of that; a spread of what has no ``weight``.
    """

    asks_moved = False

    def __init__(
        self, upward: TiedConnection, scale: float = 1.0, spread: float = 0.0, share: float = 1.0
    ) -> None:
        if not isinstance(upward, TiedConnection):
            raise TypeError(f"Feedback: expected a tied connection, got {type(upward).__name__}")
        for name, value in (("scale", scale), ("share", share)):
            if not 0 < require_number(name, value) < math.inf:
                raise ValueError(f"{name}: expected a finite number > 0, got {value}")
        if not 0 <= require_number("spread", spread) < math.inf:
            raise ValueError(f"spread: expected a finite number >= 0, got {spread}")
        if spread and "weight" not in dict(upward.named_parameters()):
            raise ValueError(
                f"spread: expected 0 for a connection without a parameter called weight, got "
                f"{spread} for {type(upward).__name__}"
            )
        super().__init__(upward.lower_shape, upward.upper_shape)
        self.upward = upward
        self.scale, self.share = float(scale), float(share)
        drawn = 1 + spread * torch.randn(upward.weight.shape) if spread else None
        self.register_buffer("synapses", drawn)

    @property
    def backward_weight(self) -> Tensor:
        """What the way down goes by, c · w ⊙ (1 + σ ξ)."""
        weight = self.upward.weight * self.scale
        return weight if self._buffers["synapses"] is None else weight * self._buffers["synapses"]

    @property
    def keeps_phi(self) -> bool:
        """Whether both ways are derivatives of one coupling, but for a factor."""
        return self._buffers["synapses"] is None

    def up(self, lower: Tensor) -> tuple[Tensor, Trace]:
        return self.upward.up(lower)

    def trace(self, lower: Tensor) -> Trace:
        return self.upward.trace(lower)

    def down(self, upper: Tensor, trace: Trace, onto: Tensor | None = None) -> Tensor:
        if self.keeps_phi:
            return self.upward.down(upper * self.scale, trace, onto)
        return self.upward.transposed(self.backward_weight, upper, trace, onto)

    def ways(self) -> Ways | None:
        if not isinstance(self.upward, ExplicitConnection):
            return None
        return replace(self.upward.ways(), backward_weight=self.backward_weight.detach())

    def contrast(self, change: Change) -> Tensor:
        """The share of coupling(after) − coupling(before)."""
        return self.share * self.upward.contrast(change)

    def contrast_gradients(self, change: Change, scale: float = 1.0) -> dict[str, Tensor]:
        found = self.upward.contrast_gradients(change, scale * self.share)
        return {f"{_INNER}{name}": gradient for name, gradient in found.items()}

    def learn(self, change: Change, scale: float, rates: Mapping[str, float]) -> None:
        self.upward.learn(change, scale * self.share, _inner(rates))

    def tangent_kernel(self, lower: Tensor, rates: Mapping[str, float]) -> Tensor | None:
        found = self.upward.tangent_kernel(lower, _inner(rates))
        return None if found is None else found * self.share

    def extra_repr(self) -> str:
        apart = "" if self.keeps_phi else ", synapses that differ"
        return f"down × {self.scale:g}{apart}, learns × {self.share:g}"


def _inner(rates: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix(_INNER): rate for name, rate in rates.items()}


def feedback(
    connections: Sequence[Connection],
    scale: float = 1.0,
    spread: float = 0.0,
    *,
    levels: Sequence[tuple[int, int]] | None = None,
) -> list[Connection]:
    """The same chain with every way down scaled by c, and what is learnt divided by what that
    leaves of the nudge: exact, where the chain was, as long as the synapses do not differ.

    Args:
        connections: input side first, see :func:`~eqprop.dense` and :func:`~eqprop.convolutional`.
        scale: c > 0.
        spread: σ ≥ 0.
        levels: from and to which level each leads, 0 the input, where they are no chain: what comes
            down by several is scaled as often. The highest has the output.

    Raises:
        TypeError: no list of tied connections. ValueError: c or σ outside of that.
    """
    chain = require_chain(connections)
    levels = levels or [(i, i + 1) for i in range(len(chain))]
    output = max(high for _, high in levels)
    # Nothing comes down to the input.
    return [
        Feedback(
            connection, scale ** (high - low), spread if low else 0.0, scale ** (high - output)
        )
        for connection, (low, high) in zip(chain, levels, strict=True)
    ]
