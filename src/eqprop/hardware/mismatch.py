r"""Mismatch of the units: no two of them are built alike.

Every unit has a gain g and an offset o of its own for what it receives, which stay as they are::

    f → g f + (1 − g)(1 − ε) s + ε o         g = 1 + γ ξ,   o = ω ξ′,   ξ, ξ′ normal

of the field f: in discrete time (ε = 1) g f + o, before the activation, and in real time, where f =
s + ε (received − s), the same of what is received, s + ε (g received + o − s), as the leak is
nobody's gain. What nudges a unit passes its gain too.

The local rules do not know of it, and need not: where F comes from a Φ, the Jacobian with gains is
symmetric in the metric 1/g, the nudged phase moves a unit by g times what the adjoint says, and
what a unit receives acts on it by g: what synapses see is the gradient of the network as built,
exactly. What stands outside of Φ, an activation or a clip, does with it as without. Weights whose
way down differs from the way up are another matter, see
:mod:`eqprop.networks.connections.feedback`.
"""

import math
from typing import Any

import torch
from torch import Tensor

from eqprop.core.models import ConvergentModel
from eqprop.core.sizes import require_number, require_whole
from eqprop.hardware.wrapping import Device, wrapped

__all__ = ["mismatched"]


class Mismatched(Device):
    """Attributes:
    gain_spread, offset_spread: γ and ω.
    """

    gain_spread: float
    offset_spread: float

    @property
    def architecture(self) -> dict[str, Any]:
        spread = {"gain_spread": self.gain_spread, "offset_spread": self.offset_spread}
        return {**super().architecture, **spread}

    def move(self, layer: int, state: Tensor, field: Tensor, force: Tensor | None) -> Tensor:
        gain, offset = self._buffers[f"gain_{layer}"], self._buffers[f"offset_{layer}"]
        assert gain is not None
        assert offset is not None
        received = torch.addcmul(offset * self.epsilon, gain, field)
        if self.epsilon != 1:
            received = torch.addcmul(received, (1 - gain) * (1 - self.epsilon), state)
        return super().move(layer, state, received, None if force is None else gain * force)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, gain ±{self.gain_spread:g}, offset ±{self.offset_spread:g}"


def mismatched(
    network: ConvergentModel, gain: float = 0.0, offset: float = 0.0, seed: int = 0
) -> ConvergentModel:
    """The network with a gain and an offset of every unit; its parameters are shared.

    Args:
        network: any.
        gain: γ ≥ 0, the standard deviation of gains about 1.
        offset: ω ≥ 0, that of offsets about 0, in the units of the states.
        seed: of which gains and offsets. They are buffers, and so part of what is stored.

    Raises:
        TypeError: no network. ValueError: γ or ω < 0 or not finite; a network that is so already,
            or that goes by Newton's steps.
    """
    for name, spread in (("gain", gain), ("offset", offset)):
        if not 0 <= require_number(name, spread) < math.inf:
            raise ValueError(f"{name}: expected a finite number >= 0, got {spread}")
    (seed,) = require_whole("seed", seed)
    if getattr(network, "updates", "") == "newton":
        raise ValueError(
            "network: expected synchronous or alternating updates, got Newton's steps, which go by "
            "the energy of units that are all alike"
        )
    found = wrapped(network, Mismatched)
    found.gain_spread, found.offset_spread = float(gain), float(offset)
    like = next((p for p in found.parameters() if p.is_floating_point()), torch.empty(0))
    # On the CPU in float32, so that they are the same for every device and dtype.
    source = torch.Generator().manual_seed(seed)
    for index, shape in enumerate(found.shapes):
        for name, middle, spread in (("gain", 1.0, gain), ("offset", 0.0, offset)):
            drawn = middle + spread * torch.randn(shape, generator=source)
            found.register_buffer(f"{name}_{index}", drawn.to(like))
    return found
