"""Times: medians over repeats, as a mean would count what else the machine did."""

import statistics
import time
from collections.abc import Callable

import torch

__all__ = ["clock", "median_seconds"]

_REPEATS = 7


def clock(device: torch.device) -> Callable[[], float]:
    """Seconds; on a device that works on its own, once all that it was given is done."""
    if device.type != "cuda":
        return time.perf_counter

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def median_seconds(
    run: Callable[[], object], now: Callable[[], float], least: float
) -> tuple[float, float]:
    """Median seconds of one call, and from the fastest to the slowest repeat relative to it.

    Args:
        run: what to time.
        now: a :func:`clock`.
        least: how many seconds a repeat, and the warm-up, take at least.
    """

    def one_call(calls: int) -> float:
        started = now()
        for _ in range(calls):
            run()
        return (now() - started) / calls

    calls = 1
    while (once := one_call(calls)) * calls < least:
        calls *= 2
    calls = max(1, round(least / once))
    repeats = [one_call(calls) for _ in range(_REPEATS)]
    median = statistics.median(repeats)
    return median, (max(repeats) - min(repeats)) / median
