"""The theorem as a diagnostic: a model's EP processes beside BPTT's, over mini-batches, η and β.

The gradients of BPTT and the free phase are computed once per mini-batch, T and K; all β and η
share them. Of the processes themselves only a few randomly drawn neurons and synapses are kept, to
be drawn; everything else becomes figures at once, so that memory holds two processes at a time.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any, final

import torch
from torch import Tensor

from eqprop.analysis.agreement import (
    Agreement,
    Average,
    Comparison,
    Premise,
    average,
    compare,
)
from eqprop.analysis.kind import ModelKind, model_kind
from eqprop.analysis.processes import (
    FreePhase,
    Nudges,
    Process,
    bptt_process,
    ep_process,
    free_phase,
    points_of,
    require_reach,
)
from eqprop.core.costs import Cost
from eqprop.core.models import ConvergentModel
from eqprop.core.nudging import require_beta
from eqprop.estimators.dynamics import Local, NudgedDynamics
from eqprop.estimators.holomorphic import Holomorphic
from eqprop.summary import summary

__all__ = [
    "BetaCurve",
    "Cell",
    "Conditions",
    "Diagnosis",
    "Trace",
    "cell_to_json",
    "diagnose",
    "sweep",
    "sweep_ticks",
    "ticks",
    "to_json",
]

_DRAWN = 3
"""Neurons per layer and synapses per weight that are kept to be drawn."""

_SWEPT = ("beta", "free_steps", "nudged_steps")

Batches = Sequence[tuple[Tensor, Tensor]]
Tick = Callable[[str], None]


@final
@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Under which EP is compared with BPTT.

    Attributes:
        free_steps: T.
        nudged_steps: K, at most T.
        beta: β ≠ 0.
        nudging: ``symmetric`` averages the processes of +β and −β, a number N those of N points
            of the circle of complex β, as holomorphic EP does.
        dynamics: of the nudged phase: EP's, or those of another estimator.
    """

    free_steps: int
    nudged_steps: int
    beta: float
    nudging: Nudges = "one-sided"
    dynamics: type[NudgedDynamics] = Local

    @property
    def points(self) -> int:
        """N, of so many β the processes are averaged: 1 is one-sided, 2 symmetric."""
        return points_of(self.nudging)


@final
@dataclass(frozen=True, eq=False)
class Trace:
    """The processes of a few entries of a layer's state, or of a parameter.

    Attributes:
        name: of the layer, or of the parameter.
        bptt: minus the gradients of BPTT, (K, n).
        ep: the updates of EP for each η, (K, n).
    """

    name: str
    bptt: Tensor
    ep: tuple[Tensor, ...]

    __repr__ = summary


@final
@dataclass(frozen=True)
class BetaCurve:
    """The relative error against β, on the first mini-batch, with η = 0.

    Attributes:
        beta: in ascending order.
        states, parameters: the relative error, one per β.
        holds: whether the premise holds for that β.
        steady: whether the free phase was steady enough for that β.
        angles: degrees between the total updates of EP and of BPTT, over all weights.
    """

    beta: tuple[float, ...]
    states: tuple[float, ...]
    parameters: tuple[float, ...]
    holds: tuple[bool, ...]
    steady: tuple[bool, ...]
    angles: tuple[float, ...]

    __repr__ = summary

    def slope(self, errors: Sequence[float]) -> float:
        """d log error / d log β by least squares, over the β for which the free phase was steady.

        Not a number where those are fewer than two, or an error is 0 or infinite.
        """
        points = [
            (math.log(beta), math.log(error) if 0 < error < math.inf else math.nan)
            for beta, error, steady in zip(self.beta, errors, self.steady, strict=True)
            if steady
        ]
        if len(points) < 2:
            return math.nan
        centre = sum(x for x, _ in points) / len(points)
        return sum((x - centre) * y for x, y in points) / sum((x - centre) ** 2 for x, _ in points)

    def level(self, errors: Sequence[float]) -> float | None:
        """Where the error levels off as β falls: what it is at the smallest β, if it does.

        It does if the two smallest β for which the free phase was steady differ in it by less than
        the square root of their ratio. An error that grows as β falls, such as that of rounding,
        has no level.
        """
        at = [
            (beta, error)
            for beta, error, steady in zip(self.beta, errors, self.steady, strict=True)
            if steady
        ]
        if len(at) < 2 or not all(0 < error < math.inf for _, error in at[:2]):
            return None
        (small, least), (larger, more) = at[:2]
        power = math.log(more / least) / math.log(larger / small)
        return least if -0.5 < power < 0.5 else None


@final
@dataclass(frozen=True)
class Diagnosis:
    """What :func:`diagnose` found.

    Attributes:
        conditions: T, K, β and the nudging.
        kind: what the model is to the theorem.
        etas: 0, then the η of continual updates.
        by_eta: the comparison for each of them.
        curve: the error against β.
        states, parameters: what to draw, of the first mini-batch.
        labels: what tables and figures call the parameters, by name.
    """

    conditions: Conditions
    kind: ModelKind
    etas: tuple[float, ...]
    by_eta: tuple[Average, ...]
    curve: BetaCurve
    states: tuple[Trace, ...]
    parameters: tuple[Trace, ...]
    labels: Mapping[str, str] = field(repr=False)

    __repr__ = summary

    @property
    def premise(self) -> Premise:
        """Of the mini-batch that kept it least."""
        return self.by_eta[0].mean.premise

    @property
    def by(self) -> str:
        """What is compared with BPTT."""
        conditions = self.conditions
        return (Holomorphic if conditions.points > 2 else conditions.dynamics).name

    @property
    def expected(self) -> str:
        """What the error is to do as β → 0."""
        return self.kind.expected(self.conditions.points, self.conditions.dynamics.error)


@final
@dataclass(frozen=True)
class Cell:
    """One point of a sweep."""

    settings: Mapping[str, float]
    average: Average

    __repr__ = summary


def diagnose(
    model: ConvergentModel,
    batches: Batches,
    *,
    free_steps: int,
    nudged_steps: int,
    beta: float,
    nudging: Nudges = "one-sided",
    eta: Sequence[float] = (),
    betas: Sequence[float] = (1e-5, 1e-4, 1e-3, 1e-2),
    cost: Cost | None = None,
    seed: int = 0,
    tick: Tick = lambda _: None,
    dynamics: type[NudgedDynamics] = Local,
) -> Diagnosis:
    """Compare EP with BPTT on any model, which is to be one of float64 if small errors matter.

    Args:
        batches: (x, y) of every mini-batch to average over.
        free_steps: T, enough of them for the network to be at rest in the last K.
        nudged_steps: K.
        beta: β ≠ 0; in real time the continuous-time one.
        nudging: ``symmetric`` averages the processes of +β and −β, a number N those of N points
            of the circle of complex β, as holomorphic EP does.
        eta: learning rates of continual updates to set beside η = 0, each for all parameters.
        betas: strengths for the error against β; those of symmetric nudging are better larger, as
            its error, O(β²), soon is rounding alone.
        cost: ℓ; the squared error if not given.
        seed: of the units and synapses that are drawn.
        tick: told after each process what it was; see :func:`ticks`.
        dynamics: of the nudged phase; those of another estimator compare that one, such as
            ``AsymEP(...).dynamics``.

    Raises:
        ValueError: no mini-batch, K < 1, K > T, β = 0, or strengths of the curve not
            above 0.
        NonFiniteError: a state stopped being finite.
    """
    conditions = Conditions(
        free_steps=free_steps,
        nudged_steps=nudged_steps,
        beta=beta,
        nudging=nudging,
        dynamics=dynamics,
    )
    if len(set(betas)) < len(betas) or not all(strength > 0 for strength in betas):
        raise ValueError(f"betas: expected different numbers above 0, got {list(betas)}")
    etas, strengths = (0.0, *eta), tuple(sorted(betas))
    found: list[list[Comparison]] = [[] for _ in etas]
    states: tuple[Trace, ...] = ()
    parameters: tuple[Trace, ...] = ()
    curve: list[Comparison] = []
    generator = torch.Generator().manual_seed(seed)
    for number, (x, target) in enumerate(batches):
        free, bptt = _reference(model, x, target, conditions, cost)
        tick("backpropagation through time")
        drawn = _Drawn(bptt, generator) if number == 0 else None
        for index, rate in enumerate(etas):
            ep = _ep(model, x, target, conditions, free, cost, eta=rate or None)
            found[index].append(compare(ep, bptt))
            if drawn is not None:
                drawn.add(ep)
            del ep
            tick(f"η = {rate:g}")
        if drawn is not None:
            states, parameters = drawn.traces()
            for strength in strengths:
                at = replace(conditions, beta=strength)
                curve.append(compare(_ep(model, x, target, at, free, cost), bptt))
                tick(f"β = {strength:g}")
    return Diagnosis(
        conditions,
        model_kind(model),
        etas,
        tuple(average(comparisons) for comparisons in found),
        BetaCurve(
            strengths,
            states=tuple(of.states.overall.relative_error for of in curve),
            parameters=tuple(of.parameters.overall.relative_error for of in curve),
            holds=tuple(of.premise.holds for of in curve),
            steady=tuple(of.premise.steady for of in curve),
            angles=tuple(of.total_update_angle for of in curve),
        ),
        states,
        parameters,
        {name: model.parameter_label(name) for name, _ in model.named_parameters()},
    )


def sweep(
    model: ConvergentModel,
    batches: Batches,
    grid: Mapping[str, Sequence[float]],
    *,
    free_steps: int,
    nudged_steps: int,
    beta: float,
    nudging: Nudges = "one-sided",
    cost: Cost | None = None,
    tick: Tick = lambda _: None,
    dynamics: type[NudgedDynamics] = Local,
) -> list[Cell]:
    """Compare EP with BPTT, with η = 0, at every point of a grid.

    Args:
        batches: (x, y) of every mini-batch to average over.
        grid: values of some of ``beta``, ``free_steps`` and ``nudged_steps``, by name.
        free_steps, nudged_steps, beta, nudging: as for :func:`diagnose`, where the grid has none.
        cost: ℓ; the squared error if not given.
        tick: told after each process what it was; see :func:`sweep_ticks`.
        dynamics: as for :func:`diagnose`.

    Returns:
        One cell per point, the last name of the grid running fastest.

    Raises:
        ValueError: the grid names something else, K < 1, K > T, or β = 0 at a point.
        NonFiniteError: a state stopped being finite.
    """
    base = Conditions(
        free_steps=free_steps,
        nudged_steps=nudged_steps,
        beta=beta,
        nudging=nudging,
        dynamics=dynamics,
    )
    points = [replace(base, **point) for point in _points(grid)]
    for at in points:
        require_beta(at.beta)
        require_reach(at.free_steps, at.nudged_steps)
    found: list[list[Comparison]] = [[] for _ in points]
    for x, target in batches:
        # Points of the same T and K share a free phase and the gradients of BPTT.
        order = sorted(range(len(points)), key=lambda i: _lengths(points[i]))
        shared: tuple[FreePhase, Process] | None = None
        for index in order:
            at = points[index]
            if shared is None or _lengths(shared[0]) != _lengths(at):
                del shared
                shared = _reference(model, x, target, at, cost)
                tick("backpropagation through time")
            free, bptt = shared
            found[index].append(compare(_ep(model, x, target, at, free, cost), bptt))
            tick(", ".join(f"{name} = {getattr(at, name):g}" for name in grid))
    return [
        Cell({name: getattr(at, name) for name in grid}, average(comparisons))
        for at, comparisons in zip(points, found, strict=True)
    ]


def _points(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    if unknown := [name for name in grid if name not in _SWEPT]:
        raise ValueError(f"grid: expected names among {', '.join(_SWEPT)}, got {unknown[0]}")
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _lengths(of: Conditions | FreePhase) -> tuple[int, int]:
    return of.free_steps, of.nudged_steps


def ticks(batches: int, etas: int, betas: int) -> int:
    """How many processes a diagnosis computes: of BPTT, of η = 0 and of so many η > 0 for each
    mini-batch, and of so many β for the first."""
    return batches * (2 + etas) + betas


def sweep_ticks(batches: int, grid: Mapping[str, Sequence[float]]) -> int:
    """How many processes a sweep computes: one of EP per point, one of BPTT per T and K."""
    points = math.prod(map(len, grid.values()))
    lengths = math.prod(len(values) for name, values in grid.items() if name != "beta")
    return batches * (points + lengths)


def to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The figures of a diagnosis, those that are no finite number as null.

    ``overall``, ``layers``, ``parameters``, ``per_step`` and ``total_update_angle`` are of η = 0;
    ``continual`` has the same for every η > 0.
    """
    premise = diagnosis.premise
    curve = diagnosis.curve
    mean = diagnosis.by_eta[0].mean
    tree = {
        "estimator": diagnosis.by,
        "beta": diagnosis.conditions.beta,
        "model": {**diagnosis.kind.to_json(), "expected": diagnosis.expected},
        "residual": max(premise.residual),
        **_average(diagnosis.by_eta[0]),
        "premise": {
            "holds": premise.holds,
            "problems": list(premise.problems),
            "limit": premise.limit,
            "oscillating": premise.oscillating,
            "in_turn": premise.in_turn,
            "layers": {
                layer: {
                    "residual": premise.residual[index],
                    "moved": premise.moved[index],
                    "nudged_step": premise.nudged_step[index],
                    "nudged": premise.nudged[index],
                }
                for index, layer in enumerate(premise.layers)
            },
        },
        "held": {
            "by": premise.holding or None,
            "layers": {
                layer: {
                    "held": _of_layer(premise.held, index),
                    "crossed": _of_layer(premise.crossed, index),
                }
                for index, layer in enumerate(premise.layers)
            },
            "states_of_others": asdict(mean.unheld.overall),
        },
        "continual": [
            {"eta": eta, **_average(found)}
            for eta, found in zip(diagnosis.etas[1:], diagnosis.by_eta[1:], strict=True)
        ],
        "error_against_beta": {
            "beta": list(curve.beta),
            "states": list(curve.states),
            "parameters": list(curve.parameters),
            "total_update_angle": list(curve.angles),
            "premise_holds": list(curve.holds),
            "slope": {
                "states": curve.slope(curve.states),
                "parameters": curve.slope(curve.parameters),
            },
            "level": {
                "states": curve.level(curve.states),
                "parameters": curve.level(curve.parameters),
            },
        },
    }
    return _finite(tree)


def cell_to_json(cell: Cell) -> dict[str, Any]:
    """One point of a sweep: its settings, figures and whether the premise held there."""
    mean = cell.average.mean
    found = _figures(mean)
    return _finite(
        {
            **cell.settings,
            "overall": found["overall"],
            "total_update_angle": mean.total_update_angle,
            "residual": max(mean.premise.residual),
            "premise_holds": mean.premise.holds,
        }
    )


def _of_layer(shares: Sequence[float], index: int) -> float | None:
    """Nothing where nobody looked."""
    return shares[index] if shares else None


def _average(found: Average) -> dict[str, Any]:
    steps = {"states": found.mean.states, "parameters": found.mean.parameters}
    names = Agreement.__dataclass_fields__
    tree = {
        **_figures(found.mean),
        "per_step": {
            what: {name: [getattr(a, name) for a in of.at] for name in names}
            for what, of in steps.items()
        },
        "batches": found.batches,
    }
    return {**tree, "spread": _figures(found.spread)} if found.batches > 1 else tree


def _figures(of: Comparison) -> dict[str, Any]:
    return {
        "overall": {
            "states": asdict(of.states.overall),
            "parameters": asdict(of.parameters.overall),
        },
        "total_update_angle": of.total_update_angle,
        "layers": {name: asdict(a.overall) for name, a in of.by_layer.items()},
        "parameters": {name: asdict(a.overall) for name, a in of.by_parameter.items()},
    }


def _finite(tree: Any) -> Any:
    """JSON knows neither infinity nor not-a-number."""
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _reference(
    model: ConvergentModel, x: Tensor, y: Tensor, at: Conditions, cost: Cost | None
) -> tuple[FreePhase, Process]:
    T, K = _lengths(at)
    free = free_phase(model, x, T, K)
    return free, bptt_process(model, x, y, free_steps=T, nudged_steps=K, cost=cost, free=free)


def _ep(
    model: ConvergentModel,
    x: Tensor,
    y: Tensor,
    at: Conditions,
    free: FreePhase,
    cost: Cost | None,
    eta: float | None = None,
) -> Process:
    return ep_process(model, x, y, eta=eta, cost=cost, free=free, **vars(at))


class _Drawn:
    """Randomly drawn neurons and synapses, from among those that BPTT gives a gradient at all."""

    def __init__(self, bptt: Process, generator: torch.Generator) -> None:
        self._of: list[tuple[bool, str, Tensor, Tensor, list[Tensor]]] = []
        for is_state, name, steps in _parts(bptt):
            live = steps.flatten(1).abs().amax(0).nonzero().flatten().cpu()
            chosen = live[torch.randperm(len(live), generator=generator)[:_DRAWN]]
            chosen = chosen.to(steps.device)
            self._of.append((is_state, name, chosen, -_pick(steps, chosen), []))

    def add(self, ep: Process) -> None:
        for (_, _, chosen, _, processes), (_, _, steps) in zip(self._of, _parts(ep), strict=True):
            processes.append(_pick(steps, chosen))

    def traces(self) -> tuple[tuple[Trace, ...], tuple[Trace, ...]]:
        states, parameters = (
            tuple(
                Trace(name, bptt, tuple(ep))
                for is_state, name, _, bptt, ep in self._of
                if is_state is wanted
            )
            for wanted in (True, False)
        )
        return states, parameters


def _parts(process: Process) -> Iterable[tuple[bool, str, Tensor]]:
    """Every layer, and every weight (a parameter of at least two dimensions)."""
    for name, steps in zip(process.layers, process.states, strict=True):
        yield True, name, steps
    for name, steps in process.parameters.items():
        if steps.dim() > 2:
            yield False, name, steps


def _pick(steps: Tensor, chosen: Tensor) -> Tensor:
    return steps.flatten(1)[:, chosen].cpu()
