"""``fig-1c``: the better Theorem 1 holds before training, the better a network learns.

The gradient angle lies between Σ_t Δ_θ(t) of EP and −Σ_t ∇_θ(t) of backpropagation through time,
over all weights put end to end, see :mod:`eqprop.analysis.agreement`. It is that of the network
which training starts from, in float64, on one mini-batch, with the T, K, β (of positive sign where
it is random) and, where updates are continual, the learning rates of the training; backward weights
move at those of the forward ones.

The published figure sums over t = 1 … K−1. In the step t = 0 nothing but the output layer moves, by
its error: Δ_θ(0) and −∇_θ(0) are those of the last way up alone, the same whatever comes down, and
before training large beside what follows. So both are measured: without that step, as published,
and the whole sum.

Beside them may stand the same networks by AsymEP, whose updates follow the gradient whatever Ψ, see
:mod:`eqprop.estimators.asymmetric`: with the settings of ``p-1h`` and ``p-2h``, weights untied, and
by our recipes the β of ``asym-ep-2h``.

Source: Ernoult et al., https://arxiv.org/abs/2005.04169, figure 1c; with more trials, and on the
angle, https://arxiv.org/abs/2005.04168, section 4.3 and figure 5a, and the code published with it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, final

from eqprop import analysis, data, pictures, runs
from eqprop.figures.figure import COLUMNS, Figure, Table
from eqprop.figures.run import PlannedRun, Run, length_said
from eqprop.registries import DATASETS
from eqprop.settings.fields import Settings, different, each, setting
from eqprop.settings.presets import preset

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FIGURE_1C", "Figure1c", "Figure1cSettings"]

_ALGORITHMS = {"c-vf": "C-VF", "c-ep": "C-EP", "p": "EP"}
"""By the beginning of their presets' names."""

_TURNED = {"C-VF": "o", "AsymEP": "^"}
"""Whose weights are untied, with an angle of their own each, and which marker they have."""

_LAYERS = {1: "one hidden layer", 2: "two hidden layers"}

_CHANCE = 90.0
"""Test error of guessing one of ten classes, in %."""

_REFERENCES = {"C-EP": 1, "EP": 3}
"""Which marker and colour those of tied weights have."""

_SEED = 0
"""Of the order of the data: the same mini-batch for all networks."""


class _Angle(NamedTuple):
    """A gradient angle, by what it is summed over."""

    name: str
    steps: str
    correlation: str
    picture: str


_ANGLES = (
    _Angle("gradient_angle", "t = 1 … K − 1", "spearman", "fig-1c"),
    _Angle("whole_angle", "t = 0 … K − 1", "spearman_whole", "fig-1c-whole"),
)
_DRAWN = (*(angle.name for angle in _ANGLES), "test_error")

_MEASURED = {
    "run": "name",
    "gradient angle (°)": "gradient_angle",
    "t = 0 too (°)": "whole_angle",
    "steady": "premise_holds",
}
_CORRELATIONS = {
    "Spearman's ρ of angle and test error": "points",
    "hidden layers": "hidden_layers",
    "gradient angle": "spearman",
    "t = 0 too": "spearman_whole",
    "n": "n",
}


@final
@dataclass(frozen=True, kw_only=True)
class Figure1cSettings(Settings):
    """How much of the figure to make.

    Raises:
        ConfigurationError: a setting outside what is allowed.
    """

    dataset: str = setting("mnist", "what to learn", choices=DATASETS, shown="mnist, as published")
    recipe: Literal["published", "own"] | None = setting(
        None,
        "the published settings, or our own for the same networks: fewer steps and epochs",
        since="0.1",
        shown="published; own with --quick",
    )
    epochs: tuple[int, ...] = setting(
        (),
        "passes over the training data: one number for all runs, or one for each of "
        "--hidden-layers",
        allowed=each("whole numbers of at least 1", lambda n: n >= 1),
        shown="as in the recipe, published 30 to 150; 1 with --quick",
    )
    seeds: tuple[int, ...] = setting(
        (0,),
        "of the initial weights and the order of the data, a trial each",
        allowed=different("different whole numbers from 0 to 2^63 − 1", lambda n: 0 <= n < 2**63),
        shown="0; published: 5 trials",
    )
    angles: tuple[float, ...] | None = setting(
        None,
        "Ψ, degrees between forward and backward weights before training",
        allowed=different("different degrees from 0 to 180", lambda angle: 0 <= angle <= 180),
        shown="0 22.5 45 … 180; 0 45 90 135 180 with --quick",
    )
    hidden_layers: tuple[int, ...] | None = setting(
        None,
        "of the networks: 1, 2 or both",
        allowed=different("1, 2 or both, each once", lambda n: n in _LAYERS),
        shown="1 2; 1 with --quick",
    )
    asym_ep: bool = setting(
        False,
        "the networks by AsymEP too, at every Ψ, and a picture of test error against Ψ",
        since="0.2",
    )
    quick: bool = setting(
        False, "fewer angles, one hidden layer, own recipes for one epoch: some minutes"
    )

    @property
    def psi(self) -> tuple[float, ...]:
        """Ψ of all networks, in degrees."""
        if self.angles is None:
            step = 45.0 if self.quick else 22.5
            return tuple(step * n for n in range(round(180 / step) + 1))
        # There is no angle of −0.
        return tuple(map(abs, self.angles))

    @property
    def own(self) -> bool:
        """Whether by recipes of our own."""
        return self.quick if self.recipe is None else self.recipe == "own"

    @property
    def depths(self) -> tuple[int, ...]:
        """How many hidden layers the networks have."""
        return (
            ((1,) if self.quick else (1, 2)) if self.hidden_layers is None else self.hidden_layers
        )

    def epochs_of(self, layers: int) -> int | None:
        """How many the networks of that depth are trained; as in their presets if none."""
        epochs = self.epochs or ((1,) if self.quick else (None,))
        return epochs[self.depths.index(layers) if len(epochs) > 1 else 0]

    def check_together(self) -> None:
        for name in ("seeds", "angles", "hidden_layers"):
            self.require(name, getattr(self, name) != (), "at least one")
        self.require(
            "epochs",
            len(self.epochs) in {0, 1, len(self.depths)},
            f"one number, or one for each of hidden_layers = {' '.join(map(str, self.depths))}",
        )


@final
class Figure1c(Figure[Figure1cSettings]):
    """Test error against the gradient angle before training."""

    description = """\
The better Theorem 1 holds before training, the better a network learns. Networks of continual
updates whose backward weights are not the forward ones (C-VF) begin with an angle Ψ between the
two. Before training, the angle between the update of EP and minus the gradient of backpropagation
through time is measured; after it, the test error. EP and C-EP, whose weights are tied, stand
beside.

As published this takes days of one core: with the defaults 11 runs of 30 to 100 epochs with one
hidden layer, and 11 of 50 to 150 epochs with two. Scale it down to look first:

  eqprop reproduce fig-1c --quick                          some minutes on two cores
  eqprop reproduce fig-1c --dataset digits --epochs 5      no download, some minutes
  eqprop reproduce fig-1c --epochs 6 1                     about an hour of one core
  eqprop reproduce fig-1c --recipe own                     all of it, in hours
  eqprop reproduce fig-1c --angles 0 45 90 --epochs 5 10   fewer networks; epochs per depth
  eqprop reproduce fig-1c --seeds 0 1 2 3 4                five trials, as published
  eqprop reproduce fig-1c --quick --asym-ep                AsymEP beside: the same at every Ψ
"""
    epilog = """\
The angle is summed over the nudged phase without its first step, as published; in fig-1c-whole.png
with it.
"""
    settings = Figure1cSettings
    measured = "gradient angle"

    def runs(self, settings: Figure1cSettings) -> list[PlannedRun]:
        found = []
        for layers in settings.depths:
            epochs = settings.epochs_of(layers)
            for beginning, algorithm in _ALGORITHMS.items():
                name = f"{beginning}-{layers}h" + "-fast" * settings.own
                of = preset(name)
                common = {"dataset": settings.dataset, "epochs": epochs or of.epochs}
                length = length_said(epochs, of.epochs, of.schedule)
                angles = settings.psi if algorithm == "C-VF" else [None]
                for seed in settings.seeds:
                    for angle in angles:
                        turned = {} if angle is None else {"weight_angle": angle}
                        said = "" if angle is None else f"-angle-{repr(angle).removesuffix('.0')}"
                        changes = {**common, **turned, "seed": seed}
                        found.append(PlannedRun(f"{name}{said}{length}-seed-{seed}", name, changes))
            if settings.asym_ep:
                found += self._by_asym_ep(settings, layers)
        return found

    def _by_asym_ep(self, settings: Figure1cSettings, layers: int) -> list[PlannedRun]:
        name = f"p-{layers}h" + "-fast" * settings.own
        of, epochs = preset(name), settings.epochs_of(layers)
        changes = {"dataset": settings.dataset, "epochs": epochs or of.epochs}
        if settings.own:
            # What AsymEP adds is linear, so that the two opposite nudges of our recipes are weaker.
            changes["beta"] = preset("asym-ep-2h").beta
        said = f"{name.replace('p-', 'asym-ep-', 1)}-angle-"
        length = length_said(epochs, of.epochs, of.schedule)
        return [
            PlannedRun(
                f"{said}{repr(angle).removesuffix('.0')}{length}-seed-{seed}",
                name,
                {**changes, "estimator": "asym-ep", "weight_angle": angle, "seed": seed},
            )
            for seed in settings.seeds
            for angle in settings.psi
        ]

    def measure(self, run: PlannedRun, dataset: "data.Dataset") -> dict[str, Any]:
        """The angles in degrees, 0 to 180, and whether the free phase was steady, as Theorem 1
        supposes; an angle is none if one of the two updates is 0.

        Raises:
            NonFiniteError: a state stopped being finite.
        """
        import torch

        experiment = replace(run.experiment, dtype="float64")
        network = runs.build_network(experiment, dataset.input_shape, dataset.units)
        generator = torch.Generator().manual_seed(_SEED)
        x, labels = next(dataset.train.batches(experiment.batch_size, generator))
        x, y = x.double(), dataset.train.targets(labels, dataset.classes).double()
        T, K = experiment.free_steps, experiment.nudged_steps
        free = analysis.free_phase(network, x, T, K)
        bptt = analysis.bptt_process(network, x, y, free_steps=T, nudged_steps=K, free=free)
        rates = experiment.learning_rates
        of_all = rates if len(rates) > 1 else sum(rates)
        eta = of_all if experiment.estimator == "c-ep" else None
        drawn = experiment.nudging == "random-sign"
        beta = abs(experiment.beta) if drawn else experiment.beta
        nudging = "symmetric" if experiment.nudging == "symmetric" else "one-sided"
        dynamics = runs.nudged_dynamics("ep" if eta else experiment.estimator)
        assert dynamics is not None
        ep = analysis.ep_process(
            network,
            x,
            y,
            free_steps=T,
            nudged_steps=K,
            beta=beta,
            nudging=nudging,
            eta=eta,
            free=free,
            dynamics=dynamics,
        )
        whole = analysis.compare(ep, bptt)
        later = analysis.compare(_later(ep), _later(bptt)).total_update_angle if K > 1 else math.nan
        return {
            "degrees": later if math.isfinite(later) else None,
            "whole_degrees": angle if math.isfinite(angle := whole.total_update_angle) else None,
            "premise_holds": whole.premise.holds,
        }

    def accepts(self, measured: Mapping[str, Any]) -> bool:
        angles = [measured.get(name, "none") for name in ("degrees", "whole_degrees")]
        right = all(a is None or (isinstance(a, float) and 0 <= a <= 180) for a in angles)
        return right and isinstance(measured.get("premise_holds"), bool)

    def result(self, settings: Figure1cSettings, runs: Sequence[Run]) -> dict[str, Any]:
        rows = [_row(run) for run in runs]
        return {"rows": rows, "correlations": _correlations(rows, settings.depths)}

    def tables(self, result: Mapping[str, Any]) -> list[Table]:
        return [
            Table(result["rows"], {**_MEASURED, **COLUMNS}),
            Table(result["correlations"], _CORRELATIONS),
        ]

    def draw(self, settings: Figure1cSettings, result: Mapping[str, Any], folder: Path) -> None:
        """A panel per number of hidden layers; of several seeds, mean and standard deviation.

        Cividis rises evenly in brightness, so that it is legible in grey and for the colour-blind.
        """
        from matplotlib.figure import Figure as Picture

        rows = result["rows"]
        panels = [found for found in result["correlations"] if found["points"] == "C-VF"]
        errors = [row["test_error"] for row in rows if _has_point(row)]
        for angle in _ANGLES:
            picture = Picture(figsize=(2.2 + 3.9 * len(panels), 4.8), layout="constrained")
            grid = picture.subplots(1, len(panels), sharey=True, squeeze=False)[0]
            colours: Any = None
            for axes, panel in zip(grid, panels, strict=True):
                colours = _draw_points(axes, _points(rows, panel["hidden_layers"]), angle.name)
                rho = panel[angle.correlation]
                said = "undefined" if rho is None else f"{rho:+.2f}"
                title = f"{_LAYERS[panel['hidden_layers']]}\nC-VF: Spearman ρ {said}"
                axes.set_title(f"{title} (n = {panel['n']})", fontsize="medium")
                axes.set_xlabel(
                    f"angle between EP and −BPTT before training,\nsummed over {angle.steps} (°)"
                )
                if errors and min(errors) > 0 and max(errors) > 10 * min(errors):
                    pictures.error_axis(axes, errors)
                axes.grid(alpha=0.3)
                axes.set_axisbelow(True)
            grid[0].set_ylabel("test error (%)")
            bar = picture.colorbar(colours, ax=list(grid), shrink=0.9)
            bar.set_label("Ψ before training (°), of untied weights")
            bar.set_ticks([0, 45, 90, 135, 180])
            entries = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in grid]
            legend = {label: handle for of in entries for handle, label in of}
            place: dict[str, Any] = {"loc": "outside lower center", "ncols": 4, "frameon": False}
            picture.legend(legend.values(), legend.keys(), **place)
            pictures.write_picture(picture, folder / angle.picture, _caption(settings, rows))
        if any(row["algorithm"] == "AsymEP" and _has_point(row) for row in rows):
            _draw_against_psi(settings, rows, folder)


FIGURE_1C = Figure1c()
"""The figure."""


def _later(process: "analysis.Process") -> "analysis.Process":
    """The process without its step t = 0."""
    return replace(
        process,
        states=tuple(steps[1:] for steps in process.states),
        parameters={name: steps[1:] for name, steps in process.parameters.items()},
    )


def _row(run: Run) -> dict[str, Any]:
    experiment, found = run.planned.experiment, run.measured or {}
    return {
        **run.row,
        "algorithm": "AsymEP"
        if experiment.estimator == "asym-ep"
        else next(
            said for name, said in _ALGORITHMS.items() if run.planned.preset.startswith(f"{name}-")
        ),
        "hidden_layers": len(experiment.hidden),
        "weight_angle": experiment.weight_angle,
        "gradient_angle": found.get("degrees"),
        "whole_angle": found.get("whole_degrees"),
        "premise_holds": found.get("premise_holds"),
    }


def _has_point(row: Mapping[str, Any]) -> bool:
    return all(row[name] is not None for name in _DRAWN)


def _points(rows: Sequence[Mapping[str, Any]], layers: int) -> list[dict[str, Any]]:
    """What is drawn of the networks with so many hidden layers: all seeds of one are a point."""
    trials: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["hidden_layers"] == layers and _has_point(row):
            trials.setdefault((row["algorithm"], row["weight_angle"]), []).append(row)
    return [
        {"algorithm": algorithm, "psi": psi, **{name: [row[name] for row in of] for name in _DRAWN}}
        for (algorithm, psi), of in trials.items()
    ]


def _correlations(rows: Sequence[Mapping[str, Any]], layers: Sequence[int]) -> list[dict[str, Any]]:
    """Spearman's rank correlation of angle and test error over what is drawn: means over seeds."""
    found = []
    for count, of in product(layers, ("C-VF", "all")):
        points = [point for point in _points(rows, count) if of in ("all", point["algorithm"])]
        means = {name: [fmean(point[name]) for point in points] for name in _DRAWN}
        rho = {a.correlation: _spearman(means[a.name], means["test_error"]) for a in _ANGLES}
        found.append({"hidden_layers": count, "points": of, **rho, "n": len(points)})
    return found


def _spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """None where it says nothing: of fewer than three pairs, or where one side is constant."""
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    from scipy.stats import spearmanr

    found: Any = spearmanr(x, y)
    return float(found.statistic)


def _draw_points(axes: "Axes", points: Sequence[Mapping[str, Any]], angle: str) -> Any:
    """Test errors against the angle; gives what has the colours of the C-VF networks."""
    # Where all learn, it would press them together.
    if max((error for point in points for error in point["test_error"]), default=0) > _CHANCE / 2:
        axes.axhline(_CHANCE, color="0.4", linestyle="--", linewidth=1, label="chance, 90 %")
    filled: dict[str, list[tuple[float, float, float]]] = {algorithm: [] for algorithm in _TURNED}
    for point in points:
        values = point[angle], point["test_error"]
        x, y = map(fmean, values)
        dx, dy = (stdev(of) or None if len(of) > 1 else None for of in values)
        axes.errorbar(x, y, dy, dx, ecolor="0.35", elinewidth=1, capsize=3, fmt="none")
        index = _REFERENCES.get(point["algorithm"])
        if index is None:
            filled[point["algorithm"]].append((x, y, point["psi"]))
            continue
        # Hollow, so that it hides no other where they meet.
        hollow: dict[str, Any] = {"markerfacecolor": "none", "markeredgewidth": 2, "markersize": 9}
        label, colour = f"{point['algorithm']}, tied", pictures.COLOURS[index]
        axes.plot(x, y, pictures.MARKERS[index], color=colour, label=label, **hollow)
    # The legend knows them in grey, as no colour stands for all.
    edge: dict[str, Any] = {"markeredgecolor": "black", "markeredgewidth": 0.7, "markersize": 8}
    drawn: Any = None
    for algorithm, marker in _TURNED.items():
        of = filled[algorithm]
        if algorithm == "C-VF" or of:
            axes.plot([], [], marker, color="0.6", label=algorithm, **edge)
            x, y, psi = zip(*of, strict=True) if of else ([], [], [])
            look: dict[str, Any] = {"edgecolors": "black", "linewidths": 0.7, "s": 64}
            colours: dict[str, Any] = {"c": psi, "cmap": "cividis", "vmin": 0, "vmax": 180}
            drawn = axes.scatter(x, y, marker=marker, zorder=2.5, **colours, **look)
    return drawn


def _draw_against_psi(
    settings: Figure1cSettings, rows: Sequence[Mapping[str, Any]], folder: Path
) -> None:
    """Test error against Ψ before training, a panel per number of hidden layers."""
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(1.2 + 3.9 * len(settings.depths), 4.2), layout="constrained")
    grid = picture.subplots(1, len(settings.depths), sharey=True, squeeze=False)[0]
    for axes, layers in zip(grid, settings.depths, strict=True):
        points = _points(rows, layers)
        for index, (algorithm, marker) in enumerate(_TURNED.items()):
            of = sorted(
                (point for point in points if point["algorithm"] == algorithm),
                key=lambda point: point["psi"],
            )
            errors = [point["test_error"] for point in of]
            spread = [stdev(trials) if len(trials) > 1 else 0.0 for trials in errors]
            look: dict[str, Any] = {"color": pictures.COLOURS[index], "label": algorithm}
            look |= {"linestyle": pictures.STYLES[index], "marker": marker, "capsize": 3}
            psi = [point["psi"] for point in of]
            axes.errorbar(psi, list(map(fmean, errors)), spread, **look)
        axes.set_title(_LAYERS[layers], fontsize="medium")
        axes.set_xlabel("Ψ before training (°)")
        axes.set_xticks([0, 45, 90, 135, 180])
        axes.grid(alpha=0.3)
    pictures.error_axis(grid[0], [row["test_error"] for row in rows if _has_point(row)])
    grid[0].set_ylabel("test error (%)")
    grid[0].legend(frameon=False)
    pictures.write_picture(picture, folder / "fig-1c-angle", _caption(settings, rows))


def _caption(settings: Figure1cSettings, rows: Sequence[Mapping[str, Any]]) -> str:
    """What was trained."""
    lengths = []
    for layers in settings.depths:
        experiments = [run.experiment for run in FIGURE_1C.runs(settings)]
        of = sorted({e.epochs for e in experiments if len(e.hidden) == layers})
        span = "–".join(map(str, dict.fromkeys((of[0], of[-1]))))
        lengths.append(f"{span} epoch{'s' * (of != [1])} with {_LAYERS[layers]}")
    drawn = [row for row in rows if _has_point(row)]
    counted = f"{len(drawn)} of {len(rows)}" if len(drawn) < len(rows) else f"{len(rows)}"
    steady = sum(row["premise_holds"] for row in drawn)
    several = len(settings.seeds) > 1
    seeds = f"seed{'s' * several} {', '.join(map(str, settings.seeds))}"
    return (
        f"{settings.dataset}{', our own recipes' * settings.own}, {', '.join(lengths)}, {seeds}"
        f"{'; mean ± standard deviation' * several}\n{counted} networks; the free phase was "
        f"steady before training in {steady} of them"
    )
