r"""Floating-point operations: how many something takes, and how many a second are to be had.

Counted are those of matrix products and convolutions, 2 · B · n · m for B samples, n inputs and m
outputs. What goes over units or weights one by one (activations, the biases, an optimizer's step)
counts as nothing: it is bound by memory, not by arithmetic.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["large_product_rate", "operation_counter"]

_LARGE = 2048


def operation_counter() -> FlopCounterMode:
    """Counts within ``with``; ``get_total_flops()`` shows how many there have been so far."""
    # The library's counter knows the products that make a new tensor, and passes over this one.
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _product_in_place})


def _product_in_place(
    onto: Sequence[int], one: Sequence[int], other: Sequence[int], **_: Any
) -> int:
    rows, inner = one
    return 2 * rows * inner * other[1]


def large_product_rate(
    device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Operations a second of a product of two 2048 by 2048 matrices: the best of three."""
    a, b = (torch.randn(_LARGE, _LARGE, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    seconds = []
    for _ in range(4):
        started = clock()
        torch.mm(a, b, out=out)
        seconds.append(clock() - started)
    # The first one also sets things up.
    return 2 * _LARGE**3 / min(seconds[1:])
