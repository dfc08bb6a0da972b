r"""Noise on the states: fresh in every step.

    s_{t+1} = F(s_t) + σ ξ_t        ξ_t normal, independent in every unit, sample, phase and step

Whatever the states are compared for contains it: in (s_*^β − s_*)/β it is amplified by 1/β, which
speaks for large β, and is averaged over the samples of a mini-batch. A network with noise never
rests, so that no sample ends a phase early. Where states are complex
(:mod:`eqprop.estimators.holomorphic`), so is ξ, of mean square 1.

Source: the noise of analog neurons in Laborieux and Zenke, https://arxiv.org/abs/2209.00530.
"""

import math
from typing import Any

import torch
from torch import Tensor

from eqprop.core.models import ConvergentModel
from eqprop.core.sizes import require_number, require_whole
from eqprop.hardware.draws import draw
from eqprop.hardware.wrapping import Device, wrapped

__all__ = ["noisy"]


class Noisy(Device):
    """Attributes:
    state_noise: σ.
    """

    state_noise: float
    _seed: int
    _drawn: int

    @property
    def architecture(self) -> dict[str, Any]:
        return {**super().architecture, "state_noise": self.state_noise}

    def move(self, layer: int, state: Tensor, field: Tensor, force: Tensor | None) -> Tensor:
        after = super().move(layer, state, field, force)
        self._drawn += 1
        source = draw(self._seed, _rank(), self._drawn, device=after.device)
        xi = torch.randn(after.shape, generator=source, dtype=after.dtype, device=after.device)
        return torch.add(after, xi, alpha=self.state_noise)

    def get_extra_state(self) -> Tensor:
        """How often noise was drawn: a run that goes on draws what it would have drawn."""
        return torch.tensor(self._drawn)

    def set_extra_state(self, state: Tensor) -> None:
        self._drawn = int(state)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, noise={self.state_noise:g}"


def noisy(network: ConvergentModel, std: float, seed: int = 0) -> ConvergentModel:
    """The network with normal noise on every state in every step; its parameters are shared.

    Args:
        network: any.
        std: σ ≥ 0, in the units of the states.
        seed: of the noise.

    Raises:
        TypeError: no network. ValueError: σ < 0 or not finite; a network that is noisy already.
    """
    if not 0 <= require_number("std", std) < math.inf:
        raise ValueError(f"std: expected a finite number >= 0, got {std}")
    found = wrapped(network, Noisy)
    (found._seed,) = require_whole("seed", seed)
    found.state_noise, found._drawn = float(std), 0
    return found


def _rank() -> int:
    """Every process of a group has noise of its own."""
    group = torch.distributed
    return group.get_rank() if group.is_available() and group.is_initialized() else 0
