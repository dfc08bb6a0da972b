"""``speed``: how much sooner prototypical networks come to the same test error as real-time ones.

The published claim: a prototypical network learns 5 to 8 times faster than a real-time one, without
loss of accuracy. Here it is the time to equal error: every network is trained, and of those of the
same depth the run that does worst sets the error E which all of them come to,

    E = max over runs of the lowest test error of any epoch,

unless another is given. Counted are the seconds of all epochs up to the first whose test error is
at most E: of training and testing, on one thread, whatever else the machine does meanwhile. So let
nothing else run, and one run at a time (``--workers 1``), if the seconds are to be quoted; ratios
suffer less.

Source: https://arxiv.org/abs/1905.13633, Table 1, whose times are quoted at second hand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple, final

from eqprop import pictures
from eqprop.figures.figure import Figure, Table, trained_on
from eqprop.figures.run import PlannedRun, Run, length_said, machines
from eqprop.registries import DATASETS
from eqprop.settings.fields import Allowed, Settings, different, seeds, setting, whole
from eqprop.settings.presets import PRESETS

__all__ = ["SPEED", "Speed", "SpeedSettings"]

_Recipe = Literal["published", "own"]

_DYNAMICS = {"eb": "real time", "p": "prototypical"}

_PUBLISHED = {1: "5.5", 2: "8.3"}
"""Published times of EB over those of P: 1 h 33 over 0 h 17, 16 h 04 over 1 h 56."""

_COLUMNS = {
    "hidden layers": "hidden_layers",
    "dynamics": "dynamics",
    "recipe": "recipe",
    "last error (%)": "last_error",
    "s an epoch": "seconds_an_epoch",
    "E (%)": "error",
    "epochs to E": "epochs_to_error",
    "s to E": "seconds_to_error",
    "times as fast": "factor",
}

_DETAILS = {"± s to E": "spread_of_seconds", "n": "n", "machine": "machine"}


class _Network(NamedTuple):
    """A network by a recipe, and its runs."""

    hidden_layers: int
    dynamics: str
    recipe: str
    runs: tuple[PlannedRun, ...]


@final
@dataclass(frozen=True, kw_only=True)
class SpeedSettings(Settings):
    """What to compare.

    Raises:
        ConfigurationError: a setting outside what is allowed.
    """

    recipe: tuple[_Recipe, ...] = setting(
        ("published", "own"),
        "the published settings, our own for the same networks, or both",
        allowed=different("published, own or both", lambda _: True, lambda n: n > 0),
    )
    hidden_layers: tuple[int, ...] = setting(
        (1,),
        "of the networks: 1, 2 or both; the published real-time one with 2 takes hours",
        allowed=different("1, 2 or both", lambda n: n in _PUBLISHED, lambda n: n > 0),
    )
    error: float | None = setting(
        None,
        "E, the test error to come to, in %",
        allowed=Allowed(lambda e: e is None or 0 < e < 100, "a number between 0 and 100"),
        shown="the lowest that all of a depth come to",
    )
    seeds: tuple[int, ...] = setting(
        (0,),
        "of the initial weights and the order of the data, a run each",
        allowed=seeds(),
    )
    epochs: int | None = setting(
        None,
        "passes over the training data",
        allowed=whole(1),
        shown="as in the recipe; 2 with --quick",
    )
    dataset: str = setting("mnist", "what to learn", choices=DATASETS, shown="mnist, as published")
    quick: bool = setting(False, "two epochs: some minutes")


@final
class Speed(Figure[SpeedSettings]):
    """Real-time and prototypical networks, by the time to equal test error."""

    description = """\
Prototypical networks come to the same test error 5 to 8 times sooner than real-time ones, it was
published. Here both are trained, with the published settings and by our own recipes, and the time
to equal test error is what counts.

  eqprop reproduce speed --quick              two epochs, some minutes
  eqprop reproduce speed --workers 1          one hidden layer, one run at a time
  eqprop reproduce speed --hidden-layers 1 2  both depths; see --dry-run first
"""
    epilog = """\
E is the lowest test error that all networks of a depth come to, or --error. Seconds are those of
training and testing up to the first epoch at or below E, on one thread; let nothing else run, and
train one at a time (--workers 1), to quote them.
"""
    settings = SpeedSettings

    def runs(self, settings: SpeedSettings) -> list[PlannedRun]:
        return [run for network in _networks(settings) for run in network.runs]

    def result(self, settings: SpeedSettings, runs: Sequence[Run]) -> dict[str, Any]:
        by_name = {run.name: run for run in runs}
        rows = [
            _row(network, [by_name[run.name] for run in network.runs])
            for network in _networks(settings)
        ]
        for layers in settings.hidden_layers:
            _set_beside([row for row in rows if row["hidden_layers"] == layers], settings.error)
        return {"rows": rows}

    def tables(self, result: Mapping[str, Any]) -> list[Table]:
        rows = result["rows"]
        depths = {
            layers: f"{layers} hidden layer{'s' * (layers > 1)}"
            for layers in dict.fromkeys(row["hidden_layers"] for row in rows)
        }
        factors = (f"{_PUBLISHED[layers]} with {said}" for layers, said in depths.items())
        note = [
            "Times as fast as the first real-time network of the same depth. Published, at equal "
            f"epochs: {', '.join(factors)}."
        ]
        said = " ".join(filter(None, (*note, trained_on(rows))))
        return [Table(rows, _COLUMNS, keys=3, note=said, details=_DETAILS)]

    def draw(self, settings: SpeedSettings, result: Mapping[str, Any], folder: Path) -> None:
        """Test error against seconds, a panel per depth."""
        rows = [row for row in result["rows"] if any(row["curves"])]
        if not rows:
            return
        from matplotlib.figure import Figure as Picture

        depths = list(dict.fromkeys(row["hidden_layers"] for row in rows))
        picture = Picture(figsize=(1.2 + 5.4 * len(depths), 4.6), layout="constrained")
        for axes, layers in zip(picture.subplots(1, len(depths), squeeze=False)[0], depths,
                                strict=True):  # fmt: skip
            of = [row for row in rows if row["hidden_layers"] == layers]
            for index, row in enumerate(of):
                look: dict[str, Any] = {
                    "color": pictures.COLOURS[list(_DYNAMICS.values()).index(row["dynamics"])],
                    "linestyle": "-" if row["recipe"] == "published" else "--",
                    "marker": pictures.MARKERS[index],
                    "markersize": 4,
                }
                for number, curve in enumerate(row["curves"]):
                    label = f"{row['dynamics']}, {row['recipe']}" if number == 0 else None
                    axes.plot(curve["seconds"], curve["test_errors"], label=label, **look)
            if (error := of[0]["error"]) is not None:
                axes.axhline(
                    error, color="0.4", linewidth=1, linestyle=":", label=f"E = {error:g} %"
                )
            errors = [e for row in of for curve in row["curves"] for e in curve["test_errors"]]
            pictures.error_axis(axes, errors)
            axes.set_xscale("log")
            axes.set_xlabel("seconds of training and testing, one thread")
            axes.set_ylabel("test error (%)")
            axes.set_title(f"{layers} hidden layer{'s' * (layers > 1)}", fontsize="medium")
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
        title = f"Test error against time: {settings.dataset}"
        pictures.write_picture(picture, folder / "speed", title)


SPEED = Speed()
"""The comparison."""


def _networks(settings: SpeedSettings) -> list[_Network]:
    """Of every depth, by every recipe, in both dynamics."""
    epochs = settings.epochs or (2 if settings.quick else None)
    found = []
    for layers in settings.hidden_layers:
        for recipe in settings.recipe:
            for kind, dynamics in _DYNAMICS.items():
                name = f"{kind}-{layers}h" + ("-fast" if recipe == "own" else "")
                of = PRESETS[name].experiment
                said = name + length_said(epochs, of.epochs, of.schedule)
                changes = {"dataset": settings.dataset, "epochs": epochs or of.epochs}
                runs = tuple(
                    PlannedRun(f"{said}-seed-{seed}", name, {**changes, "seed": seed})
                    for seed in settings.seeds
                )
                found.append(_Network(layers, dynamics, recipe, runs))
    return found


def _row(network: _Network, runs: Sequence[Run]) -> dict[str, Any]:
    """What there is of a network, before it is compared with others."""
    curves = [
        {
            "seed": run.planned.experiment.seed,
            "seconds": list(accumulate(epoch["seconds"] for epoch in run.history)),
            "test_errors": [epoch["test_error"] for epoch in run.history],
        }
        for run in runs
        if run.history
    ]
    done = [run for run in runs if run.finished]
    whole = len(done) == len(runs)
    return {
        "hidden_layers": network.hidden_layers,
        "dynamics": network.dynamics,
        "recipe": network.recipe,
        "n": len(done),
        "epochs": runs[0].wanted,
        "last_error": fmean(run.history[-1]["test_error"] for run in done) if whole else None,
        "lowest_error": max(min(of["test_errors"]) for of in curves) if whole else None,
        "seconds_an_epoch": (
            fmean(of["seconds"][-1] / len(of["seconds"]) for of in curves) if whole else None
        ),
        "curves": curves,
        "error": None,
        "epochs_to_error": None,
        "seconds_to_error": None,
        "spread_of_seconds": None,
        "factor": None,
        "machine": machines(done),
    }


def _set_beside(rows: Sequence[dict[str, Any]], error: float | None) -> None:
    """Fill in when each comes to E, and how many times as fast as the first real-time one."""
    if error is None:
        lowest = [row["lowest_error"] for row in rows]
        if None in lowest:
            return
        error = max(lowest)
    for row in rows:
        row["error"] = error
        reached = [
            next((n for n, e in enumerate(of["test_errors"]) if e <= error), None)
            for of in row["curves"]
        ]
        if None in reached or row["lowest_error"] is None:
            continue
        seconds = [of["seconds"][n] for of, n in zip(row["curves"], reached, strict=True)]
        row["epochs_to_error"] = fmean(n + 1 for n in reached if n is not None)
        row["seconds_to_error"] = fmean(seconds)
        row["spread_of_seconds"] = stdev(seconds) if len(seconds) > 1 else None
    slow = next((row for row in rows if row["dynamics"] == "real time"), None)
    for row in rows:
        if slow and slow["seconds_to_error"] and row["seconds_to_error"]:
            row["factor"] = slow["seconds_to_error"] / row["seconds_to_error"]
