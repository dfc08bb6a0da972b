r"""How many steps the phases need: the least T and K with which a network comes to rest.

Of every sample are counted the transitions until it *rests*, in each of which no unit of it moves
by more than the tolerance, see :mod:`eqprop.core.settling`: in the free phase from s₀ = 0, and in
every nudged phase from where the free one came to rest, by the rules of
:func:`~eqprop.core.phases.nudged_phase`: to tolerance · min(1, ``|β|``), and not before the nudge
can have come to every layer. Unless the nudge is symmetric, what is left of the free phase counts
as its effect in what EP learns, and the free phase is to rest to the tolerance times that effect,
as in :class:`~eqprop.estimators.ep.EquilibriumPropagation`.
Samples that do not come to rest freely have no nudged phase. The least T
that settles a share of the samples is then the number of transitions within which so many of them
come to rest freely; and K likewise, in the nudged phase that takes longer.

Where movement shrinks by a factor λ < 1 a step from m in the first one, a sample rests after
t = 1 + log(limit / m) / log λ transitions, rounded up, the limit being the tolerance times ε.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from eqprop.core.costs import Cost, SquaredError
from eqprop.core.models import ConvergentModel, State
from eqprop.core.nudging import Nudge, Nudging, require_beta, require_nudging
from eqprop.core.phases import (
    nudged_phase,
    relax,
    require_steps,
    require_tolerance,
)
from eqprop.core.settling import Relaxation, two_cycles
from eqprop.core.sizes import counted
from eqprop.summary import summary

__all__ = ["PhaseSteps", "SettlingSteps", "settling_steps"]


@final
@dataclass(frozen=True, eq=False)
class PhaseSteps:
    """How many transitions samples take in a phase to come to rest.

    Attributes:
        phase: what messages call it.
        steps: of each sample, (B,), in float64; infinitely many where the most were not enough.
        most: how many those were.
        cycling: how many samples go to and fro between two states instead.
    """

    phase: str
    steps: Tensor
    most: int
    cycling: int

    __repr__ = summary

    def within(self, steps: int) -> float:
        """The share of the samples, 0 to 1, that come to rest within so many transitions."""
        return float((self.steps <= steps).double().mean())

    def least(self, share: float) -> int | None:
        """The least number of transitions within which a share of the samples comes to rest.

        None where the most were not enough.
        """
        steps = float(self.steps.sort().values[_count(share, len(self.steps)) - 1])
        return int(steps) if math.isfinite(steps) else None

    @property
    def largest(self) -> int | None:
        """Of those that come to rest; none where no sample does."""
        resting = self.steps[self.steps.isfinite()]
        return int(resting.max()) if len(resting) else None

    @property
    def restless(self) -> int:
        """How many samples did not come to rest."""
        return int(self.steps.isinf().sum())

    def to_json(self) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "samples": len(self.steps),
            "median": self.least(0.5),
            "percentile_90": self.least(0.9),
            "percentile_99": self.least(0.99),
            "largest": self.largest,
            "restless": 100 * self.restless / len(self.steps),
            "two_cycles": self.cycling,
            "most_steps": self.most,
            "steps": [int(n) if math.isfinite(n) else None for n in self.steps.tolist()],
        }


@final
@dataclass(frozen=True, eq=False)
class SettlingSteps:
    """What :func:`settling_steps` found.

    Attributes:
        tolerance: to which the samples are to come to rest, see :func:`settling_steps`.
        share: of the samples that is to, 0 to 1.
        free: the free phase.
        nudged: the nudged phases, of β and, if the nudge is symmetric, of −β, of the samples that
            come to rest freely; none where no sample does.
        in_turn: whether layers are updated in turn.
    """

    tolerance: float
    share: float
    free: PhaseSteps
    nudged: tuple[PhaseSteps, ...]
    in_turn: bool

    __repr__ = summary

    @property
    def free_steps(self) -> int | None:
        """The least T that settles the share of the samples; none if no T does."""
        return self.free.least(self.share)

    @property
    def nudged_steps(self) -> int | None:
        """The least K that settles the share of those that come to rest freely, if any does."""
        least = [phase.least(self.share) for phase in self.nudged]
        found = [steps for steps in least if steps is not None]
        return max(found) if found and len(found) == len(least) else None

    def nudged_within(self, steps: int) -> float:
        """The share of the samples that K settles, in the nudged phase in which it is smaller."""
        return min((phase.within(steps) for phase in self.nudged), default=0.0)

    @property
    def said(self) -> str:
        """T and K in a sentence, or why there are none and what to do."""
        T, K = self.free_steps, self.nudged_steps
        count = len(self.free.steps)
        many = f"{_percent(self.share)} of the {count} samples"
        if _count(self.share, count) == count:
            many = f"all {count} samples" if count > 1 else "the one sample"
        to = f"to {self.tolerance:g}"
        if T is None:
            return f"no T settles {many} {to}: {self._why(self.free)}"
        if K is None:
            worst = max(self.nudged, key=lambda phase: phase.restless)
            return f"T = {T} settles {many} {to}, but no K does: {self._why(worst)}"
        return f"T = {T} and K = {K} settle {many} {to}"

    def said_of(self, free_steps: int | None = None, nudged_steps: int | None = None) -> str:
        """What another T, another K, or both settle."""
        said = []
        if free_steps is not None:
            share = _at_least(self.free.within(free_steps), free_steps, (self.free,))
            said.append(f"T = {free_steps} settles {share}")
        if nudged_steps is not None:
            share = _at_least(self.nudged_within(nudged_steps), nudged_steps, self.nudged)
            none = "was not looked at, as no sample rests freely"
            said.append(f"K = {nudged_steps} {f'settles {share}' if self.nudged else none}")
        return ", ".join(said)

    def _why(self, phase: PhaseSteps) -> str:
        resting = _percent(phase.within(phase.most))
        steps = counted(phase.most, "step")
        found = f"in the {phase.phase} {resting} come to rest within {steps}"
        remedies = ["a larger tolerance", "more steps"]
        if phase.cycling:
            found += f", {_percent(phase.cycling / len(phase.steps))} go to and fro between two "
            found += "states (a two-cycle)"
            if not self.in_turn:
                remedies.insert(0, "alternating updates (no two-cycles where ρ ≥ 0)")
        return f"{found}; expected {', '.join(remedies[:-1])} or {remedies[-1]}"

    def to_json(self) -> dict[str, Any]:
        return {
            "said": self.said,
            "tolerance": self.tolerance,
            "share": self.share,
            "free_steps": self.free_steps,
            "nudged_steps": self.nudged_steps,
            "free": self.free.to_json(),
            "nudged": [phase.to_json() for phase in self.nudged],
        }


@torch.no_grad()
def settling_steps(
    model: ConvergentModel,
    x: Tensor,
    target: Tensor,
    *,
    beta: float,
    most: int,
    tolerance: float = 1e-3,
    nudging: Nudging = "one-sided",
    cost: Cost | None = None,
    share: float = 0.99,
    batch_size: int = 100,
    tick: Callable[[str], None] = lambda _: None,
) -> SettlingSteps:
    """Count the transitions that samples take to come to rest, freely and nudged.

    Args:
        x: the static input, (B, …).
        target: y, (B, …).
        beta: β ≠ 0.
        most: how many transitions a sample may take in a phase.
        tolerance: at rest no unit moves by more than this, times ε, in one transition; in nudged
            phases times min(1, ``|β|``) too, and in the free phase, unless the nudge is symmetric,
            times its :meth:`~eqprop.core.nudging.Nudge.effect`.
        nudging: ``symmetric`` counts those of a nudged phase of −β too.
        cost: ℓ; the squared error if not given.
        share: of the samples that T and K are to settle, above 0 and up to 1.
        batch_size: how many samples settle at once; the result does not depend on it, but for
            rounding.
        tick: called whenever a mini-batch took a phase, with what is being computed.

    Raises:
        ValueError: no sample, most < 1, a negative tolerance, β = 0, another nudging, or a share
            outside of its range.
        NonFiniteError: a state stopped being finite.
    """
    require_beta(beta)
    require_tolerance(tolerance)
    require_steps(most=most, batch_size=batch_size)
    if not 0 < share <= 1:
        raise ValueError(f"share: expected a number above 0 and up to 1, got {share}")
    require_nudging(nudging)
    if not len(x):
        raise ValueError("x: expected at least one sample, got none")
    symmetric = nudging == "symmetric"
    counted = (
        _Counted("free phase"),
        *(
            _Counted(f"nudged phase (beta {strength:+g})")
            for strength in ((beta, -beta) if symmetric else (beta,))
        ),
    )
    cost = cost or SquaredError()
    for inputs, wanted in zip(x.split(batch_size), target.split(batch_size), strict=True):
        drive = model.drive(inputs)
        ahead = None if symmetric else Nudge(cost, wanted, beta, model)
        relaxed = relax(
            model, inputs, most, drive=drive, tolerance=tolerance, ahead=ahead, check_every=1
        )
        counted[0].add(model, drive, relaxed)
        tick("steps until rest")
        rows = relaxed.rests().nonzero().squeeze(1)
        if not len(rows):
            for _ in counted[1:]:
                tick("steps until rest")
            continue
        free: State = tuple(layer.index_select(0, rows) for layer in relaxed.state)
        inputs, drive = inputs.index_select(0, rows), model.part(drive, inputs, rows)
        for count, strength in zip(counted[1:], (beta, -beta), strict=False):
            nudge = Nudge(cost, wanted.index_select(0, rows), strength, model)
            relaxed = nudged_phase(
                model, inputs, most, nudge, free, drive=drive, tolerance=tolerance, check_every=1
            )
            count.add(model, drive, relaxed, nudge)
            tick("steps until rest")
    first, *others = (count.phase_steps(most) for count in counted if count.steps)
    return SettlingSteps(
        tolerance, share, first, tuple(others), bool(getattr(model, "in_turn", False))
    )


class _Counted:
    """A phase, counted mini-batch by mini-batch."""

    def __init__(self, phase: str) -> None:
        self.phase, self.cycling = phase, 0
        self.steps: list[Tensor] = []

    def add(
        self, model: ConvergentModel, drive: Any, relaxed: Relaxation, nudge: Nudge | None = None
    ) -> None:
        rests = relaxed.rests()
        steps = relaxed.steps.double().masked_fill(~rests, math.inf)
        self.steps.append(steps.cpu())
        if not rests.all():
            cycling = two_cycles(model, drive, relaxed, relaxed.limits(), nudge)
            self.cycling += int((cycling & ~rests).sum())

    def phase_steps(self, most: int) -> PhaseSteps:
        return PhaseSteps(self.phase, torch.cat(self.steps), most, self.cycling)


def _count(share: float, samples: int) -> int:
    """The least number of samples that is such a share of all."""
    # Without what rounding adds, 0.07 · 100 would be more than 7 samples.
    return max(1, math.ceil(share * samples - 1e-9))


def _percent(share: float) -> str:
    """In %, rounded down: only all are 100 %."""
    return f"{math.floor(1000 * share + 1e-9) / 10:g} %"


def _at_least(share: float, steps: int, phases: Sequence[PhaseSteps]) -> str:
    """The same, and whether it may be more, as nobody looked so far."""
    unseen = any(phase.restless and steps > phase.most for phase in phases)
    return f"{'at least ' * unseen}{_percent(share)}"
