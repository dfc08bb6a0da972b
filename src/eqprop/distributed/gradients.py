r"""The mean gradient: what an optimizer sees where a mini-batch was split.

The loss of a mini-batch of n samples is a mean, so its gradient is that of the shares n₁ + … + n_N
of the N processes, weighted by their samples::

    g = Σ_r (n_r / n) g_r

All gradients of a process lie in one buffer, which is summed over the processes in one operation.
Behind them one number for each parameter says how many processes have a gradient of it: where some
have none, as of what their samples did not come to, it counts as 0, and where none has one, there
is none, so that the optimizer leaves it alone as it would in one process.
"""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from eqprop.distributed.group import Group

__all__ = ["MeanGradient"]


@final
class MeanGradient:
    """A hook before the steps of an optimizer, which gives its parameters the mean gradient.

    Where no parameter has a gradient, as after an estimator that has taken the steps itself, it
    does nothing: so it is then in all processes.

    Args:
        group: of the processes.
        share: n_r / n of the present mini-batch.
    """

    def __init__(self, group: Group, share: Callable[[], float]) -> None:
        self._group, self._share = group, share
        self._buffer: Tensor | None = None

    @torch.no_grad()
    def __call__(
        self, optimizer: torch.optim.Optimizer, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> None:
        """Average.

        Raises:
            TypeError: the step was given a closure, which would compute gradients after this.
            RankError: another process has gone.
        """
        if any(map(callable, (*args, *kwargs.values()))):
            raise TypeError(
                "step: expected no closure where several processes share an optimizer, as what it "
                "computes would be averaged by none; compute the gradients first"
            )
        learning = [
            p for group in optimizer.param_groups for p in group["params"] if p.requires_grad
        ]
        if all(p.grad is None for p in learning):
            return
        share, buffer = self._share(), self._room(learning)
        *parts, had = buffer.split([*(p.numel() for p in learning), len(learning)])
        for part, parameter in zip(parts, learning, strict=True):
            # A sample that only stands in counts for nothing, even if what it gives is not finite.
            if parameter.grad is None or not share:
                part.zero_()
            else:
                torch.mul(parameter.grad.reshape(-1), share, out=part)
        had.fill_(1.0)
        lacking = [i for i, p in enumerate(learning) if p.grad is None]
        if lacking:
            had[lacking] = 0.0
        self._group.sum(buffer)
        # Looked at only where it matters: of a GPU, to ask for it is to wait for it.
        anywhere = had.tolist() if lacking else [1.0] * len(learning)
        for part, parameter, known in zip(parts, learning, anywhere, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(part.view_as(parameter))
            elif known:
                parameter.grad = part.view_as(parameter).to(parameter.dtype, copy=True)

    def _room(self, learning: Sequence[Tensor]) -> Tensor:
        """The buffer, in the widest type of the parameters; the same as long as it fits."""
        size, dtype = sum(p.numel() for p in learning) + len(learning), learning[0].dtype
        for parameter in learning[1:]:
            dtype = torch.promote_types(dtype, parameter.dtype)
        buffer = self._buffer
        if buffer is None or (len(buffer), buffer.dtype) != (size, dtype):
            buffer = self._buffer = torch.empty(size, dtype=dtype, device=learning[0].device)
        return buffer
