"""Binary weights: each is +α or −α, and learning is to flip some.

A weight filters its gradient g and flips once the filtered one says so, clearly enough::

    m ← (1 − κ) m + κ g
    w ← −w        where m sgn(w) > τ

as w, where m has its sign, would be made smaller by descent. α is the mean size of the initial
weights of a layer. Only the signs of the weights have to be stored, and m, which may be done next
to the synapse. The threshold τ has the units of the gradient: the larger, the fewer flips. The
biases learn as the optimizer has it.

Source: Laydevant et al., "Training Dynamical Binary Neural Networks with Equilibrium Propagation",
https://arxiv.org/abs/2103.08953; Helwegen et al., https://arxiv.org/abs/1906.02107.
"""

import math
from dataclasses import dataclass
from typing import Any, final

import torch

from eqprop.core.sizes import require_number
from eqprop.hardware.writes import written

__all__ = ["BinaryWeights"]

_FILTERED = "filtered"
"""What the optimizer calls m in the state of a weight: it is stored with it."""


@final
@dataclass(frozen=True)
class BinaryWeights:
    """Weights of one bit, ±α.

    Args:
        threshold: τ ≥ 0.
        rate: κ, from above 0 to 1: about 1/κ steps are remembered.

    Raises:
        ValueError: τ or κ outside of that.

    Example::

        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        eqprop.BinaryWeights(threshold=1e-4).attach(optimizer)
    """

    threshold: float
    rate: float = 0.001

    def __post_init__(self) -> None:
        if not 0 <= require_number("threshold", self.threshold) < math.inf:
            raise ValueError(f"threshold: expected a finite number >= 0, got {self.threshold}")
        if not 0 < require_number("rate", self.rate) <= 1:
            raise ValueError(f"rate: expected a number above 0, up to 1, got {self.rate}")

    @torch.no_grad()
    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Makes the weights binary now; from now on a step flips some instead of moving all."""
        for weight in written(optimizer):
            alpha = weight.abs().mean()
            weight.copy_(torch.where(weight < 0, -alpha, alpha))
        optimizer.register_step_pre_hook(self._flip)

    @torch.no_grad()
    def _flip(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for weight in written(optimizer):
            if weight.grad is None:
                continue
            state = optimizer.state[weight]
            if _FILTERED not in state:
                state[_FILTERED] = torch.zeros_like(weight)
                # Adam, when it is restored, looks for it in whatever has a state.
                state.setdefault("step", torch.zeros(()))
            filtered = state[_FILTERED].lerp_(weight.grad, self.rate)
            weight.mul_(torch.where(filtered * weight.sign() > self.threshold, -1.0, 1.0))
            # The optimizer moves what has a gradient.
            weight.grad = None
