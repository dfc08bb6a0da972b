"""The theorem as a diagnostic: a model's EP processes beside BPTT's, over mini-batches, η and β.

The gradients of BPTT and the free phase are computed once per mini-batch, T and K; all β and η
share them. Of the processes themselves only a few randomly drawn neurons and synapses are kept, to
be drawn; everything else becomes figures at once, so that memory holds two processes at a time.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
from eqprop.analysis.processes import FreePhase, Process, bptt_process, ep_process, free_phase
from eqprop.core.costs import Cost
from eqprop.core.models import ConvergentModel
from eqprop.settings.theorem import SWEPT, TheoremSettings
from eqprop.summary import summary

__all__ = [
    "BetaCurve",
    "Cell",
    "Diagnosis",
    "Trace",
    "cell_to_json",
    "diagnose",
    "grid_points",
    "sweep",
    "ticks",
    "to_json",
]

_DRAWN = 3
"""Neurons per layer and synapses per weight that are kept to be drawn."""

Batches = Sequence[tuple[Tensor, Tensor]]
Tick = Callable[[str], None]


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
        holds: whether the free phase was steady enough for that β.
    """

    beta: tuple[float, ...]
    states: tuple[float, ...]
    parameters: tuple[float, ...]
    holds: tuple[bool, ...]

    __repr__ = summary

    def slope(self, errors: Sequence[float]) -> float:
        """d log error / d log β by least squares, over the β for which the premise holds.

        Not a number where those are fewer than two, or an error is 0 or infinite.
        """
        points = [
            (math.log(beta), math.log(error) if 0 < error < math.inf else math.nan)
            for beta, error, holds in zip(self.beta, errors, self.holds, strict=True)
            if holds
        ]
        if len(points) < 2:
            return math.nan
        centre = sum(x for x, _ in points) / len(points)
        return sum((x - centre) * y for x, y in points) / sum((x - centre) ** 2 for x, _ in points)


@final
@dataclass(frozen=True)
class Diagnosis:
    """What :func:`diagnose` found.

    Attributes:
        settings: how it looked.
        etas: 0, then the η of continual updates.
        by_eta: the comparison for each of them.
        curve: the error against β.
        states, parameters: what to draw, of the first mini-batch.
        labels: what tables and figures call the parameters, by name.
    """

    settings: TheoremSettings
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
    settings: TheoremSettings,
    cost: Cost | None = None,
    tick: Tick = lambda _: None,
) -> Diagnosis:
    """Compare EP with BPTT on a model.

    Args:
        batches: (x, y) of every mini-batch to average over.
        settings: the T, K, β, nudging, η and β curve to look at.
        cost: ℓ; the squared error if not given.
        tick: told after each process what it was; see :func:`ticks`.

    Raises:
        NonFiniteError: a state stopped being finite.
    """
    etas = (0.0, *settings.eta)
    found: list[list[Comparison]] = [[] for _ in etas]
    states: tuple[Trace, ...] = ()
    parameters: tuple[Trace, ...] = ()
    curve: list[tuple[float, float, bool]] = []
    generator = torch.Generator().manual_seed(settings.seed)
    for number, (x, target) in enumerate(batches):
        free, bptt = _reference(model, x, target, settings, cost)
        tick("backpropagation through time")
        drawn = _Drawn(bptt, generator) if number == 0 else None
        for index, eta in enumerate(etas):
            ep = _ep(model, x, target, settings, free, cost, eta=eta or None)
            found[index].append(compare(ep, bptt))
            if drawn is not None:
                drawn.add(ep)
            del ep
            tick(f"η = {eta:g}")
        if drawn is not None:
            states, parameters = drawn.traces()
            for beta in settings.curve:
                comparison = compare(_ep(model, x, target, settings, free, cost, beta=beta), bptt)
                curve.append(
                    (
                        comparison.states.overall.relative_error,
                        comparison.parameters.overall.relative_error,
                        comparison.premise.holds,
                    )
                )
                tick(f"β = {beta:g}")
    return Diagnosis(
        settings,
        etas,
        tuple(average(comparisons) for comparisons in found),
        BetaCurve(
            settings.curve,
            states=tuple(states for states, _, _ in curve),
            parameters=tuple(parameters for _, parameters, _ in curve),
            holds=tuple(holds for _, _, holds in curve),
        ),
        states,
        parameters,
        {name: model.parameter_label(name) for name, _ in model.named_parameters()},
    )


def sweep(
    model: ConvergentModel,
    batches: Batches,
    settings: TheoremSettings,
    grid: Mapping[str, Sequence[float]],
    cost: Cost | None = None,
    tick: Tick = lambda _: None,
) -> list[Cell]:
    """Compare EP with BPTT, with η = 0, at every point of a grid.

    Args:
        grid: values of some of :data:`~eqprop.settings.theorem.SWEPT`, by name; the other settings
            stay.
        cost: ℓ; the squared error if not given.
        tick: told after each process what it was.

    Returns:
        One cell per point, the last name of the grid running fastest.

    Raises:
        ConfigurationError: a point that cannot be, K > T for instance.
        ValueError: the grid names something else.
        NonFiniteError: a state stopped being finite.
    """
    points = list(grid_points(settings, grid))
    found: list[list[Comparison]] = [[] for _ in points]
    for x, target in batches:
        # Points of the same T and K share a free phase and the gradients of BPTT.
        order = sorted(
            range(len(points)), key=lambda i: (points[i].free_steps, points[i].nudged_steps)
        )
        shared: tuple[FreePhase, Process] | None = None
        for index in order:
            at = points[index]
            if shared is None or (shared[0].free_steps, shared[0].nudged_steps) != (
                at.free_steps,
                at.nudged_steps,
            ):
                del shared
                shared = _reference(model, x, target, at, cost)
            free, bptt = shared
            found[index].append(compare(_ep(model, x, target, at, free, cost), bptt))
            tick(", ".join(f"{name} = {getattr(at, name):g}" for name in grid))
    return [
        Cell({name: getattr(at, name) for name in grid}, average(comparisons))
        for at, comparisons in zip(points, found, strict=True)
    ]


def grid_points(
    settings: TheoremSettings, grid: Mapping[str, Sequence[float]]
) -> Iterator[TheoremSettings]:
    """The settings at every point of a grid.

    Raises:
        ConfigurationError: a point that cannot be.
        ValueError: the grid names something that is not swept.
    """
    if unknown := [name for name in grid if name not in SWEPT]:
        raise ValueError(f"grid: expected names among {', '.join(SWEPT)}, got {unknown[0]}")
    for values in product(*grid.values()):
        yield settings.override(dict(zip(grid, values, strict=True)))


def ticks(settings: TheoremSettings, cells: int = 0) -> int:
    """How often the progress of a diagnosis, and of a sweep of so many cells, is told."""
    return settings.batches * (2 + len(settings.eta) + cells) + len(settings.curve)


def to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The figures of a diagnosis, those that are no finite number as null.

    ``overall``, ``layers``, ``parameters``, ``per_step`` and ``total_update_angle`` are of η = 0;
    ``continual`` has the same for every η > 0.
    """
    premise = diagnosis.premise
    curve = diagnosis.curve
    tree = {
        "beta": diagnosis.settings.beta,
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
        "continual": [
            {"eta": eta, **_average(found)}
            for eta, found in zip(diagnosis.etas[1:], diagnosis.by_eta[1:], strict=True)
        ],
        "error_against_beta": {
            "beta": list(curve.beta),
            "states": list(curve.states),
            "parameters": list(curve.parameters),
            "premise_holds": list(curve.holds),
            "slope": {
                "states": curve.slope(curve.states),
                "parameters": curve.slope(curve.parameters),
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


def _steps(settings: TheoremSettings, cost: Cost | None) -> dict[str, Any]:
    T, K = settings.free_steps, settings.nudged_steps
    return {"free_steps": T, "nudged_steps": K, "cost": cost}


def _reference(
    model: ConvergentModel, x: Tensor, y: Tensor, settings: TheoremSettings, cost: Cost | None
) -> tuple[FreePhase, Process]:
    free = free_phase(model, x, settings.free_steps, settings.nudged_steps)
    return free, bptt_process(model, x, y, free=free, **_steps(settings, cost))


def _ep(
    model: ConvergentModel,
    x: Tensor,
    y: Tensor,
    settings: TheoremSettings,
    free: FreePhase,
    cost: Cost | None,
    *,
    beta: float | None = None,
    eta: float | None = None,
) -> Process:
    beta = settings.beta if beta is None else beta
    chosen = {"beta": beta, "nudging": settings.nudging, "eta": eta}
    return ep_process(model, x, y, free=free, **chosen, **_steps(settings, cost))


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
