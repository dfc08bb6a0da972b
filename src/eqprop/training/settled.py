"""How the phases of many mini-batches came to rest, in a few numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from eqprop.core.settling import Relaxation

__all__ = ["AT_REST", "Settled", "Tally"]

AT_REST = 1e-2
"""What counts as rest, in units of a state of [0, 1], where no tolerance was asked for."""


_KEPT = 32
"""Mini-batches after which what was kept of them becomes sums."""


@final
@dataclass(frozen=True)
class Settled:
    """Of all samples, or of none.

    Attributes:
        steps: the mean number of transitions they took.
        most: the largest.
        restless: the share of those that did not come to rest, in %.
    """

    steps: float
    most: int
    restless: float


@final
class Tally:
    """Collects relaxations; all that is computed of them is computed when it is asked for.

    Args:
        epsilon: the time step ε of the model.
        beta: that of nudged phases. As with a tolerance, rest is then in proportion to
            ``min(1, |β|)``.
        earlier: the :meth:`sums` of another one, to go on from.
    """

    def __init__(
        self, epsilon: float = 1.0, beta: float = 1.0, earlier: Mapping[str, int] | None = None
    ) -> None:
        self._limit = AT_REST * epsilon * min(1.0, abs(beta))
        self._sums = {"samples": 0, "steps": 0, "most": 0, "resting": 0, **(earlier or {})}
        self._steps: list[Tensor] = []
        self._moved: list[Tensor] = []
        self._limits: list[Tensor] = []

    def add(self, relaxation: Relaxation) -> None:
        """Another mini-batch; all but now and then nothing is computed, and a few numbers kept."""
        self._steps.append(relaxation.steps)
        self._moved.append(relaxation.moved)
        self._limits.append(relaxation.limits(self._limit))
        if len(self._steps) == _KEPT:
            # Small as they are: each that stays splits what the allocator would give to a large
            # one, and an epoch of thousands took gigabytes.
            self.sums()

    def empty(self) -> "Tally":
        """Another one, by the same limit."""
        other = Tally()
        other._limit = self._limit
        return other

    def include(self, sums: Mapping[str, float]) -> None:
        """What another one has found, by its :meth:`sums`."""
        for name, number in sums.items():
            ours = self._sums[name]
            self._sums[name] = max(ours, int(number)) if name == "most" else ours + int(number)

    @torch.no_grad()
    def sums(self) -> dict[str, int]:
        """All that was added, in a few whole numbers."""
        if self._steps:
            steps = torch.cat(self._steps)
            self._sums["samples"] += len(steps)
            self._sums["steps"] += int(steps.sum())
            self._sums["most"] = max(self._sums["most"], int(steps.max()))
            resting = torch.cat(self._moved).amax(1) <= torch.cat(self._limits)
            self._sums["resting"] += int(resting.sum())
            for kept in (self._steps, self._moved, self._limits):
                kept.clear()
        return dict(self._sums)

    def settled(self) -> Settled | None:
        """What was found; none if nothing was added."""
        found = self.sums()
        samples = found["samples"]
        if not samples:
            return None
        restless = 100 * (samples - found["resting"]) / samples
        return Settled(found["steps"] / samples, found["most"], restless)
