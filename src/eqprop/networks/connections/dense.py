"""All-to-all weights."""

import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eqprop.core.sizes import require_whole
from eqprop.networks.connections.connection import Change, ExplicitConnection, Trace, parameter_of

__all__ = ["Dense"]


@final
class Dense(ExplicitConnection):
    """All-to-all weights: up(l) = W l + b, down(u) = Wᵀ u, with W (out, in) and b (out,).

    Weights and bias start uniform in ±1/√in, as those of :class:`torch.nn.Linear` do.

    Args:
        lower: the size of the lower layer, or its shape, (C, H, W) above a convolution; it is
            flattened.
        size: the number of units of the upper layer.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, lower: int | Sequence[int], size: int) -> None:
        shape = lower if isinstance(lower, Sequence) else [lower]
        size, *shape = require_whole("Dense", size, *shape)
        super().__init__(shape, (size,))
        if not self.lower_shape or min(*self.lower_shape, size) < 1:
            raise ValueError(f"Dense: expected sizes of at least 1, got {lower} and {size}")
        inputs = math.prod(self.lower_shape)
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(size, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(size).uniform_(-bound, bound))

    def up(self, lower: Tensor) -> tuple[Tensor, Trace]:
        flat = lower if lower.dim() == 2 else lower.flatten(1)
        return F.linear(flat, parameter_of(self, "weight"), parameter_of(self, "bias")), None

    def trace(self, lower: Tensor) -> Trace:
        return None

    def transposed(
        self, weight: Tensor, upper: Tensor, trace: Trace, onto: Tensor | None = None
    ) -> Tensor:
        if onto is not None and len(self.lower_shape) == 1:
            return torch.addmm(onto, upper, weight)
        received = (upper @ weight).unflatten(1, self.lower_shape)
        return received if onto is None else onto + received

    def raised(
        self, weight: Tensor, lower: Tensor, trace: Trace, onto: Tensor | None = None
    ) -> Tensor:
        flat = lower if lower.dim() == 2 else lower.flatten(1)
        return flat @ weight.t() if onto is None else torch.addmm(onto, flat, weight.t())

    def contrast_gradients(self, change: Change, scale: float = 1.0) -> dict[str, Tensor]:
        upper, lower, moved = self._factors(change, scale)
        return {"weight": upper.t() @ lower, "bias": moved.sum(0)}

    def learn(self, change: Change, scale: float, rates: Mapping[str, float]) -> None:
        if rates.keys() - {"weight", "bias"}:
            super().learn(change, scale, rates)
            return
        # Straight into the weights: a gradient of its own would be written, read, and thrown away.
        upper, lower, moved = self._factors(change, scale)
        if "weight" in rates:
            parameter_of(self, "weight").addmm_(upper.t(), lower, alpha=rates["weight"])
        if "bias" in rates:
            parameter_of(self, "bias").add_(moved.sum(0), alpha=rates["bias"])

    def _factors(self, change: Change, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """u and l whose product uᵀ l is the gradient of the weight, and that of the bias by sample.

        u′ l′ᵀ − u lᵀ = (u′ − u) l′ᵀ + u (l′ − l)ᵀ: no difference of two large products, and both
        in one pass over the weight.
        """
        (lower_before, upper_before), (lower_after, upper_after) = change.before, change.after
        # The scale goes into the states: multiplying the gradient would be another pass over it.
        scale /= len(upper_after)
        moved = (upper_after - upper_before) * scale
        if lower_after is lower_before:
            return moved, lower_after.flatten(1), moved
        nearby = (lower_after - lower_before).flatten(1) * scale
        upper = torch.cat((moved, upper_before))
        return upper, torch.cat((lower_after.flatten(1), nearby)), moved

    def up_gradients(self, lower: Tensor, upper: Tensor) -> dict[str, Tensor]:
        return {"weight": upper.t() @ lower.flatten(1), "bias": upper.sum(0)}

    def down_gradient(self, lower: Tensor, upper: Tensor, trace: Trace) -> Tensor:
        return upper.t() @ lower.flatten(1)

    def tangent_kernel(self, lower: Tensor, rates: Mapping[str, float]) -> Tensor | None:
        """η_W l lᵀ + η_b."""
        if dict(self.named_parameters()).keys() != {"weight", "bias"}:
            return None
        lower = lower.flatten(1)
        return lower @ lower.t() * rates.get("weight", 0.0) + rates.get("bias", 0.0)

    def extra_repr(self) -> str:
        return f"{' × '.join(map(str, self.lower_shape))}, {self.upper_shape[0]}"
