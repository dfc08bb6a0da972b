"""What several tests measure."""

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from eqprop.core.models import ConvergentModel


def slope(betas: Sequence[float], errors: Sequence[float]) -> float:
    """Of log error against log β, by least squares."""
    u = [math.log(b) for b in betas]
    v = [math.log(e) for e in errors]
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    rise = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True))
    return rise / sum((a - mean_u) ** 2 for a in u)


def peak_states(model: ConvergentModel, run: Callable[[], Any]) -> int:
    """The most states of the first layer that were alive at once, seen after every step."""
    alive: list[weakref.ref] = []
    peak = 0
    step = model.step

    def counting(*arguments: Any, **keywords: Any) -> Any:
        nonlocal peak
        state = step(*arguments, **keywords)
        alive.append(weakref.ref(state[0]))
        peak = max(peak, sum(reference() is not None for reference in alive))
        return state

    model.step = counting  # pyright: ignore[reportAttributeAccessIssue]
    run()
    return peak
