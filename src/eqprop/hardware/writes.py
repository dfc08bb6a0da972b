r"""What becomes of an update when it is written into devices that hold the weights.

The optimizer's step asks for Δ; a device of the range ±P that can tell 2^b − 1 values apart does ::

    w ← round( clamp( w + Δ (1 − w sgn(Δ) / P)^ν, ±P ) )

- *Bounded*: nothing goes beyond ±P.
- *Non-linear* (ν > 0): the nearer a weight is to the bound towards which it is to go, the less a
  write does, as in memristors; at 0 it does what was asked.
- *Quantised*: of b bits, the values k P / (2^{b−1} − 1), k a whole number; a weight between two of
  them takes either, at random, so that its mean is what was asked for (*stochastic rounding*): an
  update smaller than the distance of two values is not lost, but done seldom.

P is so many times 1/√n of each weight, n being the number of inputs of a unit: as initial weights
lie within ±1/√n, that of every layer is its own. Biases, of which there are few, are written as
they are.

These are hooks of the optimizer: whatever estimates gradients, and whatever makes steps of them, is
written so, and continual updates in every step of the nudged phase.

Source: stochastic rounding: Gupta et al., https://arxiv.org/abs/1502.02551; soft bounds: Fusi and
Abbott (2007), https://doi.org/10.1038/nn1859.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from eqprop.core.sizes import require_number, require_whole
from eqprop.hardware.draws import draw

__all__ = ["DeviceWrites", "written"]

_COUNT = "writes"
"""What a parameter group counts them as: it is stored with the optimizer."""


@final
@dataclass(frozen=True)
class DeviceWrites:
    """Bounded, non-linear and quantised writes of the weights.

    Args:
        bits: b from 2 to 16; none does not round.
        span: P in multiples of 1/√n; infinite sets no bound.
        nonlinearity: ν ≥ 0.
        seed: of the rounding.

    Raises:
        ValueError: b, P or ν outside of that; bits or ν without a bound.

    Example::

        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        eqprop.DeviceWrites(bits=4).attach(optimizer)
    """

    bits: int | None = None
    span: float = 4.0
    nonlinearity: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits is not None:
            (bits,) = require_whole("bits", self.bits)
            if not 2 <= bits <= 16:
                raise ValueError(f"bits: expected 2 to 16, or none, got {self.bits}")
        if not require_number("span", self.span) > 0:
            raise ValueError(f"span: expected a number > 0, got {self.span}")
        if not 0 <= require_number("nonlinearity", self.nonlinearity) < math.inf:
            raise ValueError(
                f"nonlinearity: expected a finite number >= 0, got {self.nonlinearity}"
            )
        if self.span == math.inf and (self.bits is not None or self.nonlinearity):
            raise ValueError("span: expected a finite one with bits or a nonlinearity, got inf")
        require_whole("seed", self.seed)

    def bound(self, weight: Tensor) -> float:
        """P of a weight."""
        return self.span / math.sqrt(math.prod(weight.shape[1:]))

    def values(self, weight: Tensor) -> Tensor:
        """The values that it can have, in their order.

        Raises:
            ValueError: without bits it can have any.
        """
        if self.bits is None:
            raise ValueError("values: expected bits, without which there are any")
        most = 2 ** (self.bits - 1) - 1
        return torch.arange(-most, most + 1).to(weight) * (self.bound(weight) / most)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """From now on the optimizer's steps are written so; the weights are written once now."""
        before: list[Tensor] = []
        if self.nonlinearity:

            def remember(optimizer: torch.optim.Optimizer, *_: Any) -> None:
                before[:] = [weight.detach().clone() for weight in written(optimizer)]

            optimizer.register_step_pre_hook(remember)
        optimizer.register_step_post_hook(partial(self._write, before=before))
        self._write(optimizer)

    @torch.no_grad()
    def _write(
        self, optimizer: torch.optim.Optimizer, *_: Any, before: Sequence[Tensor] = ()
    ) -> None:
        group = optimizer.param_groups[0]
        count = group[_COUNT] = group.get(_COUNT, -1) + 1
        for index, weight in enumerate(written(optimizer)):
            bound = self.bound(weight)
            if before:
                asked = weight - before[index]
                left = (1 - before[index] * asked.sign() / bound).clamp_(min=0)
                weight.copy_(before[index] + asked * left.pow_(self.nonlinearity))
            weight.clamp_(-bound, bound)
            if self.bits is not None:
                source = draw(self.seed, count, index, device=weight.device)
                step = bound / (2 ** (self.bits - 1) - 1)
                below = (weight / step).floor()
                share = (weight / step).sub_(below)
                up = torch.rand(
                    weight.shape, generator=source, dtype=weight.dtype, device=weight.device
                )
                weight.copy_(below.add_(up < share).mul_(step).clamp_(-bound, bound))


def written(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The weights that it moves: the parameters with more than one dimension."""
    return [
        p
        for group in optimizer.param_groups
        for p in group["params"]
        if p.dim() > 1 and p.requires_grad
    ]
