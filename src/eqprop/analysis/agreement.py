r"""How well EP's updates agree with minus the gradients of BPTT.

Of the processes of :mod:`eqprop.analysis.processes`, u = Δ(t) and v = −∇(t), over any set of
entries::

    relative error   ‖u − v‖ / ‖v‖
    cosine, angle    ⟨u, v⟩ / (‖u‖ ‖v‖), and its arccos
    sign agreement   share of the entries in which u has the sign of v

per layer, per parameter and overall, at every step t and over all of them; and the angle between
the total update Σ_t Δ_θ(t) and the total gradient −Σ_t ∇_θ(t). The share of equal signs is the
published recipe for choosing T, K and β.

Theorem 1 supposes that the free phase was steady, and that F is differentiable there and is ∂Φ/∂s,
which units at a bound of a clip are not: :class:`Premise` says whether that is so.

Source: Ernoult et al., https://arxiv.org/abs/1905.13633.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Self, final

import torch
from torch import Tensor

from eqprop.analysis.held import Holding
from eqprop.analysis.processes import Process
from eqprop.summary import summary

__all__ = [
    "Agreement",
    "Agreements",
    "Average",
    "Comparison",
    "Premise",
    "average",
    "compare",
]


@final
@dataclass(frozen=True)
class Agreement:
    """How well EP's updates u agree with v, minus the gradients of BPTT, over a set of entries.

    Attributes:
        relative_error: ‖u − v‖ / ‖v‖, the relative root-mean-square error; 0 if both are 0, and
            infinite if v alone is.
        cosine: ⟨u, v⟩ / (‖u‖ ‖v‖); not a number if one of them is 0.
        angle: arccos of it, in degrees, precise for small angles too.
        sign_agreement: the share, 0 to 1, of the entries with v ≠ 0 in which u has the sign of v.
            Where v is exactly 0 (a step that the error has not reached, a pixel that is black in
            the whole batch) there is no sign to agree with; where u alone is 0, it disagrees. Not a
            number if v is 0 everywhere.
    """

    relative_error: float
    cosine: float
    angle: float
    sign_agreement: float

    @classmethod
    def of(cls, sums: Sequence[float]) -> Self:
        """From ‖u‖², ‖v‖², ⟨u, v⟩, ‖u − v‖², how many signs were equal, of how many."""
        uu, vv, uv, dd, equal, counted = sums
        if not all(map(math.isfinite, sums)):
            # Squares that overflowed say nothing of an angle.
            return cls(math.inf, math.nan, math.nan, equal / counted if counted else math.nan)
        u, v, d = math.sqrt(uu), math.sqrt(vv), math.sqrt(dd)
        error = d / v if v else (math.inf if d else 0.0)
        cosine = angle = math.nan
        if u and v:
            cosine = max(-1.0, min(1.0, uv / (u * v)))
            if cosine > 0.9 and 1e-3 < u / v < 1e3:
                # ‖u − v‖² = (‖u‖ − ‖v‖)² + 2 ‖u‖ ‖v‖ (1 − cos): of small angles arccos would lose
                # half of the digits; of norms that are far apart this would lose all.
                chord = min(4.0, max(0.0, (d - (u - v)) * (d + (u - v)) / (u * v)))
                angle = math.degrees(2 * math.atan2(math.sqrt(chord), math.sqrt(4 - chord)))
            else:
                angle = math.degrees(math.acos(cosine))
        return cls(error, cosine, angle, equal / counted if counted else math.nan)


@final
@dataclass(frozen=True)
class Agreements:
    """Agreement over the whole of a nudged phase, and at every step.

    Attributes:
        overall: over all entries at all t.
        at: over all entries at t, for t = 0 … K−1.
    """

    overall: Agreement
    at: tuple[Agreement, ...] = field(repr=False)

    __repr__ = summary


@final
@dataclass(frozen=True)
class Premise:
    """Whether the free phase was steady, and no unit held by a clip, as Theorem 1 supposes.

    What the free state still moves by, EP takes for an effect of the nudge. So the premise is said
    to hold as long as, in every layer, the last free transition and the K last ones moved no unit
    by more than a ``limit`` of what the nudge moves one by, in its largest step and in all. The
    limit is 1 %, or ``|β|`` if that is smaller: the error that the finite nudge itself brings.

    What units that are held, or cross a kink, change is worked out in :mod:`eqprop.analysis.held`.

    Attributes:
        layers: what the layers are called.
        residual: the largest move in the last free transition, per layer.
        moved: the largest move within the last K free transitions, per layer.
        nudged_step: the largest move in one nudged transition, per layer.
        nudged: the largest move in the nudged phase, per layer.
        limit: the share of the latter two that the former two may come to.
        rounding: moves that may be those of rounding alone, which are no reproach.
        oscillating: whether the free state goes to and fro between two states.
        in_turn: whether the layers are updated in turn: the theorem then is one of totals, not of
            single steps, which is no fault of the free phase.
        holding: what can hold units: ``clip``, ``rho`` (flat), ``activation`` (flat), or nothing.
        held: the share, 0 to 1, of the units of each layer that are held at s_*.
        crossed: the share of those that are held at s_* and not while nudged, or the other way
            round; nothing where that was not to be seen.
    """

    layers: tuple[str, ...]
    residual: tuple[float, ...]
    moved: tuple[float, ...]
    nudged_step: tuple[float, ...]
    nudged: tuple[float, ...]
    limit: float
    rounding: float
    oscillating: bool
    in_turn: bool
    holding: Holding = ""
    held: tuple[float, ...] = ()
    crossed: tuple[float, ...] = ()

    __repr__ = summary

    @property
    def holds(self) -> bool:
        return not self.problems

    @property
    def steady(self) -> bool:
        """Whether the free phase was: what is compared is then what the nudge does alone."""
        return not self._unsteady

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, a line each; empty if the premise holds."""
        return (*self._unsteady, *self._kinks)

    @property
    def _kinks(self) -> list[str]:
        found = []
        if self.holding == "clip" and any(self.held):
            found.append(
                f"units rest at a bound of the clip, {self._shares(self.held)}: EP leaves them "
                "there, while BPTT has a gradient by their states, so that their states disagree, "
                "whatever β, and no others; updates of parameters are none the worse, as neither "
                "passes through such a unit; try a network without clip (--no-clip, clip=None)"
            )
        if any(self.crossed):
            at = "a bound of the clip" if self.holding == "clip" else "a kink of ρ"
            remedy = "" if self.holding == "clip" else ", or a smooth ρ such as tanh"
            found.append(
                f"units cross {at} while nudged, {self._shares(self.crossed)}: F has no derivative "
                f"there, so that neither states nor parameters agree; try a smaller β{remedy}"
            )
        return found

    def _shares(self, shares: Sequence[float]) -> str:
        pairs = zip(self.layers, shares, strict=True)
        return ", ".join(f"{_percent(share, 1)} of {layer}" for layer, share in pairs if share)

    @property
    def _unsteady(self) -> list[str]:
        found = []
        for what, free, nudged in (
            ("the free phase has not converged", self.residual, self.nudged_step),
            ("the free phase moved during its last K steps", self.moved, self.nudged),
        ):
            layers = [
                f"{layer} by {f:.1e}, {_percent(f, n)} of what the nudge moves it by"
                for layer, f, n in zip(self.layers, free, nudged, strict=True)
                if f > max(self.limit * n, self.rounding)
            ]
            if layers:
                found.append(
                    f"{what}: {'; '.join(layers)}; expected at most {100 * self.limit:.2g} %"
                )
        if found:
            found[0] += (
                "; it oscillates between two states, which more free steps seldom end"
                if self.oscillating
                else "; allow more free steps"
            )
        return found


@final
@dataclass(frozen=True)
class Comparison:
    """How well EP's processes agree with minus those of BPTT.

    Attributes:
        states: over all layers.
        parameters: over all parameters.
        by_layer: the states of each layer, by what it is called.
        by_parameter: each parameter, by name.
        total_update_angle: degrees between Σ_t Δ_θ(t) and −Σ_t ∇_θ(t) over all weights, that is
            parameters of at least two dimensions (or all, if none has), put end to end.
        premise: whether the theorem's premise holds.
        unheld: the states again, of those units alone that are not held at s_*.
    """

    states: Agreements
    parameters: Agreements
    by_layer: dict[str, Agreements]
    by_parameter: dict[str, Agreements]
    total_update_angle: float
    premise: Premise
    unheld: Agreements

    __repr__ = summary


@torch.no_grad()
def compare(ep: Process, bptt: Process) -> Comparison:
    """Compare the process of EP with that of BPTT, see :mod:`eqprop.analysis.processes`.

    Raises:
        ValueError: they are of different models, batches or K, or not one of each kind.
    """
    if ep.beta == 0 or bptt.beta != 0:
        raise ValueError(
            f"beta: expected a process of EP, then one of BPTT, got {ep.beta:g} and {bptt.beta:g}"
        )
    for what, ours, theirs in (
        ("layers", _shapes(dict(enumerate(ep.states))), _shapes(dict(enumerate(bptt.states)))),
        ("parameters", _shapes(ep.parameters), _shapes(bptt.parameters)),
    ):
        if ours != theirs:
            raise ValueError(
                f"{what}: expected processes of the same shapes, got {ours} and {theirs}"
            )
    layers = {
        name: _sums(u, v) for name, u, v in zip(ep.layers, ep.states, bptt.states, strict=True)
    }
    parameters = {name: _sums(u, bptt.parameters[name]) for name, u in ep.parameters.items()}
    weights = [name for name, p in ep.parameters.items() if p.dim() > 2] or list(parameters)
    totals = [
        _sums(ep.parameters[name].sum(0, keepdim=True), bptt.parameters[name].sum(0, keepdim=True))
        for name in weights
    ]
    states = _agreements(layers.values(), len(ep.states[0]))
    unheld = states
    if any(of.any() for of in ep.free.held):
        others = zip(ep.states, bptt.states, ep.free.held, strict=True)
        sums = [_sums(u.masked_fill(of, 0), v.masked_fill(of, 0)) for u, v, of in others]
        unheld = _agreements(sums, len(ep.states[0]))
    return Comparison(
        states=states,
        parameters=_agreements(parameters.values(), len(ep.states[0])),
        by_layer={name: _agreements([sums], len(sums)) for name, sums in layers.items()},
        by_parameter={name: _agreements([sums], len(sums)) for name, sums in parameters.items()},
        total_update_angle=_agreements(totals, 1).overall.angle,
        premise=_premise(ep),
        unheld=unheld,
    )


@final
@dataclass(frozen=True)
class Average:
    """A comparison averaged over mini-batches.

    Attributes:
        mean: the mean of every figure; of the premise, the worst.
        spread: the standard deviation of every figure over the mini-batches (n − 1); not a number
            for one alone.
        batches: how many there were.
    """

    mean: Comparison
    spread: Comparison
    batches: int

    __repr__ = summary


def average(comparisons: Sequence[Comparison]) -> Average:
    """Average comparisons over mini-batches.

    Raises:
        ValueError: there are none.
    """
    if not comparisons:
        raise ValueError("comparisons: expected at least one, got none")

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    def deviation(values: Sequence[float]) -> float:
        if len(values) < 2 or not all(map(math.isfinite, values)):
            return math.nan
        centre = mean(values)
        return math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1))

    return Average(_fold(comparisons, mean), _fold(comparisons, deviation), len(comparisons))


def _fold(trees: Sequence[Any], fold: Callable[[Sequence[float]], float]) -> Any:
    """One tree of the same structure, every number of it folded from theirs."""
    first = trees[0]
    if isinstance(first, float):
        return fold(trees)
    if isinstance(first, Premise):
        return _worst(trees)
    if isinstance(first, dict):
        return {key: _fold([tree[key] for tree in trees], fold) for key in first}
    if isinstance(first, tuple):
        return tuple(_fold(items, fold) for items in zip(*trees, strict=True))
    assert is_dataclass(first)
    return type(first)(
        **{
            field.name: _fold([getattr(tree, field.name) for tree in trees], fold)
            for field in fields(first)
        }
    )


def _worst(premises: Sequence[Premise]) -> Premise:
    """The premise of the mini-batch that kept it least, with the most units held and crossing."""

    def excess(premise: Premise) -> float:
        pairs = (
            *zip(premise.residual, premise.nudged_step, strict=True),
            *zip(premise.moved, premise.nudged, strict=True),
        )
        return max(free / max(premise.limit * n, premise.rounding) for free, n in pairs)

    held, crossed = (
        tuple(map(max, zip(*shares, strict=True)))
        for shares in ([p.held for p in premises], [p.crossed for p in premises])
    )
    return replace(max(premises, key=excess), held=held, crossed=crossed)


def _premise(ep: Process) -> Premise:
    scale = abs(ep.beta) * ep.epsilon
    dtype = ep.states[0].dtype
    largest = max(float(layer.abs().max()) for layer in ep.free.state)
    return Premise(
        ep.layers,
        ep.free.residual,
        ep.free.moved,
        nudged_step=tuple(scale * float(layer.abs().max()) for layer in ep.states),
        nudged=tuple(scale * float(layer.cumsum(0).abs().max()) for layer in ep.states),
        limit=min(0.01, abs(ep.beta)),
        rounding=8 * torch.finfo(dtype).eps * max(1.0, largest),
        oscillating=ep.free.oscillating,
        in_turn=ep.free.in_turn,
        holding=ep.free.holding,
        held=tuple(float(of.double().mean()) for of in ep.free.held),
        crossed=ep.crossed,
    )


def _sums(ep: Tensor, bptt: Tensor) -> list[list[float]]:
    """What :meth:`Agreement.of` needs, at every t: (K, 6); sums of them serve larger sets."""
    rows = []
    for u, gradient in zip(ep, bptt, strict=True):
        v = -gradient
        counted = v != 0
        rows.append(
            torch.stack(
                [
                    u.square().sum(),
                    v.square().sum(),
                    (u * v).sum(),
                    (u - v).square().sum(),
                    ((u.sign() == v.sign()) & counted).sum().to(u.dtype),
                    counted.sum().to(u.dtype),
                ]
            )
        )
    return torch.stack(rows).tolist()


def _agreements(parts: Any, steps: int) -> Agreements:
    at = [[sum(column) for column in zip(*(part[t] for part in parts), strict=True)]
          for t in range(steps)]  # fmt: skip
    return Agreements(
        Agreement.of([sum(column) for column in zip(*at, strict=True)]),
        tuple(Agreement.of(sums) for sums in at),
    )


def _shapes(tensors: Mapping[Any, Tensor]) -> dict[Any, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _percent(part: float, whole: float) -> str:
    share = 100 * part / whole if whole else math.inf
    return f"{share:.2g} %" if share < 100 else "all"
