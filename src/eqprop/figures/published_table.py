"""``table-1`` and ``table-cep``: the published test errors, and those of the same networks here.

A row is a network and an algorithm. Beside the published mean and standard deviation stand ours
over the seeds: with the published settings, with our own for the same network where there are any,
or with both; what a run took, and what is to be known of the comparison::

    E of F epochs    training was cut short: no comparison
    better, worse    our mean lies more than two published standard deviations below, or above

Errors are those of the last epoch, in %, mean ± standard deviation (of n − 1); in brackets the
train error, counted in the free phases of the last epoch.

Source: https://arxiv.org/abs/1905.13633, Table 1; https://arxiv.org/abs/2005.04168, figure 4.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple, final

from eqprop import pictures
from eqprop.figures.figure import Figure, Table, trained_on
from eqprop.figures.run import PlannedRun, Run, length_said, machines
from eqprop.registries import DATASETS
from eqprop.settings.fields import Settings, different, seeds, setting, whole
from eqprop.settings.presets import PRESETS, preset

__all__ = [
    "TABLE_1",
    "TABLE_CEP",
    "PublishedTable",
    "Table1Settings",
    "TableCepSettings",
    "TableSettings",
]

_Recipe = Literal["published", "own"]

_OWN_BPTT: dict[str, dict[str, Any]] = {
    "p-1h": {},
    "p-2h": {},
    "p-3h": {},
    "p-conv": {
        "output_bias": 0.3,
        "optimizer": "sgd",
        "learning_rates": (0.15, 0.035, 0.002),
        "batch_size": 20,
        "epochs": 20,
    },
}
"""What our own recipes for EP lack where BPTT is to learn by them, by the published preset."""

_COLUMNS = {"network": "network", "by": "algorithm", "published": "published"}
_OF_RECIPES = {
    "published": {
        "as published": "here",
        "n": "n",
        "epochs": "epochs",
        "s a run": "seconds",
    },
    "own": {
        "own recipe": "here",
        "own n": "n",
        "own epochs": "epochs",
        "own s a run": "seconds",
    },
}
"""What of a line stands under which header, by its recipe."""


class _Line(NamedTuple):
    """What a network gives by a recipe: of which runs it is made, or why of none.

    Attributes:
        epochs: how many the recipe has.
    """

    network: str
    algorithm: str
    recipe: str
    published: str
    runs: tuple[PlannedRun, ...]
    epochs: int = 0
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class TableSettings(Settings):
    """How much of a table to make.

    Raises:
        ConfigurationError: a setting outside what is allowed.
    """

    recipe: tuple[_Recipe, ...] = setting(
        (),
        "the published settings, our own for the same network, or both",
        allowed=different("published, own or both", lambda _: True),
        shown="published; own with --quick",
    )
    seeds: tuple[int, ...] = setting(
        (0,),
        "of the initial weights and the order of the data, a run each",
        allowed=seeds(),
        shown="0; published: 5 trials",
    )
    epochs: int | None = setting(
        None,
        "passes over the training data, instead of those of the recipe",
        allowed=whole(1),
        shown="as in the recipe; 1 with --quick",
    )
    dataset: str = setting("mnist", "what to learn", choices=DATASETS, shown="mnist, as published")
    quick: bool = setting(False, "own recipes for one epoch: minutes on two cores, no comparison")

    @property
    def recipes(self) -> tuple[str, ...]:
        """Those asked for."""
        return self.recipe or (("own",) if self.quick else ("published",))

    @property
    def passes(self) -> int | None:
        """Epochs, if not those of the recipe."""
        return self.epochs or (1 if self.quick else None)


@final
@dataclass(frozen=True, kw_only=True)
class Table1Settings(TableSettings):
    """Those of Table 1."""

    rows: tuple[Literal["eb-1h", "eb-2h", "p-1h", "p-2h", "p-3h", "p-conv"], ...] = setting(
        ("eb-1h", "eb-2h", "p-1h", "p-2h", "p-3h", "p-conv"),
        "which networks",
        allowed=different("different networks", lambda _: True, lambda n: n > 0),
        shown="all",
    )
    estimators: tuple[Literal["ep", "bptt"], ...] = setting(
        ("ep", "bptt"),
        "equilibrium propagation, backpropagation through time, or both",
        allowed=different("ep, bptt or both", lambda _: True, lambda n: n > 0),
    )


@final
@dataclass(frozen=True, kw_only=True)
class TableCepSettings(TableSettings):
    """Those of the table of continual updates."""

    rows: tuple[Literal["p-1h", "p-2h", "c-ep-1h", "c-ep-2h", "c-vf-1h", "c-vf-2h"], ...] = setting(
        ("p-1h", "p-2h", "c-ep-1h", "c-ep-2h", "c-vf-1h", "c-vf-2h"),
        "which networks",
        allowed=different("different networks", lambda _: True, lambda n: n > 0),
        shown="all",
    )


@final
class PublishedTable(Figure[Any]):
    """Published test errors beside ours.

    Args:
        title: what it is.
        settings: its options.
    """

    def __init__(self, name: str, title: str, settings: type[TableSettings]) -> None:
        self.settings = settings
        self.description = f"""\
{title}

As published this takes days of one core; look at what it would take with --dry-run first, or
scale it down:

  eqprop reproduce {name} --quick               one epoch of our own recipes
  eqprop reproduce {name} --recipe own          our own recipes, to their ends
  eqprop reproduce {name} --rows p-1h --seeds 0 1 2 3 4
"""
        self.epilog = """\
Errors are those of the last epoch in %, mean ± standard deviation over the seeds, the train error
in brackets. A remark says where ours is better or worse by more than two published standard
deviations, or where training was cut short.
"""

    def runs(self, settings: TableSettings) -> list[PlannedRun]:
        return [run for line in _lines(settings) for run in line.runs]

    def result(self, settings: TableSettings, runs: Sequence[Run]) -> dict[str, Any]:
        by_name = {run.name: run for run in runs}
        return {
            "rows": [run.row for run in runs],
            "lines": [
                _line(settings, line, [by_name[run.name] for run in line.runs])
                for line in _lines(settings)
            ],
        }

    def tables(self, result: Mapping[str, Any]) -> list[Table]:
        """A row for every network and algorithm, with what either recipe gave."""
        recipes = list(dict.fromkeys(line["recipe"] for line in result["lines"]))
        columns, details = dict(_COLUMNS), {}
        for recipe in recipes:
            columns |= {header: f"{recipe} {what}" for header, what in _OF_RECIPES[recipe].items()}
            details[f"machine, {recipe} recipe"] = f"{recipe} machine"
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for line in result["lines"]:
            row = rows.setdefault((line["network"], line["algorithm"]), {**line, "remarks": {}})
            row |= {f"{line['recipe']} {what}": value for what, value in line.items()}
            row["remarks"].setdefault(line["remark"], []).append(line["recipe"])
        for row in rows.values():
            row["remark"] = "; ".join(
                remark if len(of) == len(recipes) else f"{' '.join(of)}: {remark}"
                for remark, of in row["remarks"].items()
                if remark
            )
        return [
            Table(
                list(rows.values()),
                {**columns, "": "remark"},
                keys=2,
                trailing=1,
                note=trained_on(result["lines"]),
                details=details,
            )
        ]

    def draw(self, settings: TableSettings, result: Mapping[str, Any], folder: Path) -> None:
        """Published and own test errors, a line each; nothing before the first run is done."""
        lines = [line for line in result["lines"] if line["test_errors"]]
        if not lines:
            return
        from matplotlib.figure import Figure as Picture

        picture = Picture(figsize=(7.2, 1.6 + 0.42 * len(lines)), layout="constrained")
        axes = picture.subplots()
        for at, line in enumerate(reversed(lines)):
            mean, spread = line["published_mean"], line["published_deviation"]
            if mean is not None:
                label = "published" if at == len(lines) - 1 else None
                axes.errorbar(
                    mean, at + 0.13, None, 2 * spread, fmt="s", color="0.45", capsize=3, label=label
                )
            errors = line["test_errors"]
            label = "here, a run each" if at == len(lines) - 1 else None
            axes.plot(
                errors, [at - 0.13] * len(errors), "o", color=pictures.COLOURS[0], label=label
            )
        names = [
            " ".join((line["network"], line["algorithm"], f"({line['recipe']})"))
            + (f"\n{line['remark']}" if "epochs" in line["remark"] else "")
            for line in reversed(lines)
        ]
        axes.set_yticks(range(len(lines)), names)
        axes.set_xlabel("test error (%); bars: two published standard deviations")
        axes.grid(axis="x", alpha=0.3)
        picture.legend(loc="outside lower center", ncols=2, frameon=False)
        pictures.write_picture(picture, folder / "errors")


TABLE_1 = PublishedTable(
    "table-1",
    "Test errors on MNIST of EP and of backpropagation through time: real-time (EB) and\n"
    "prototypical (P) networks with one to three hidden layers, and with convolutions.",
    Table1Settings,
)
"""Table 1 of 1905.13633."""

TABLE_CEP = PublishedTable(
    "table-cep",
    "Test errors on MNIST of EP, of EP with continual weight updates (C-EP), and of the same with\n"
    "forward and backward weights untied (C-VF), with one and two hidden layers.",
    TableCepSettings,
)
"""Figure 4 of 2005.04168."""


def _lines(settings: TableSettings) -> list[_Line]:
    """All lines of the table that is asked for."""
    rows: Sequence[str] = getattr(settings, "rows")  # noqa: B009 - of the two kinds of settings
    estimators: Sequence[str] = getattr(settings, "estimators", ("",))
    return [
        _planned(settings, row, estimator, recipe)
        for row in rows
        for estimator in estimators
        for recipe in settings.recipes
    ]


def _planned(settings: TableSettings, row: str, estimator: str, recipe: str) -> _Line:
    by_bptt = estimator == "bptt"
    kinds = {"c-ep": "C-EP", "c-vf": "C-VF"}
    algorithm = "BPTT" if by_bptt else kinds.get(row.rpartition("-")[0], "EP")
    of = PRESETS[row]
    published = of.published_bptt if by_bptt else of.published_ep
    name, changes = row, dict[str, Any]()
    why = ""
    if recipe == "own":
        name = f"{row}-fast"
        if by_bptt and row not in _OWN_BPTT:
            why = "there is no recipe of our own for BPTT"
        elif by_bptt:
            changes |= _OWN_BPTT[row]
    if why:
        return _Line(row, algorithm, recipe, published, (), why=why)
    if by_bptt:
        changes["estimator"] = "bptt"
    changes["dataset"] = settings.dataset
    said = f"{name}-bptt" if by_bptt else name
    whole = int(changes.get("epochs", preset(name).epochs))
    said += length_said(settings.passes, whole, preset(name).schedule)
    if settings.passes is not None:
        changes["epochs"] = settings.passes
    planned = tuple(
        PlannedRun(f"{said}-seed-{seed}", name, {**changes, "seed": seed})
        for seed in settings.seeds
    )
    return _Line(row, algorithm, recipe, published, planned, whole)


def _line(settings: TableSettings, line: _Line, runs: Sequence[Run]) -> dict[str, Any]:
    """Its numbers, as JSON has them, and as a person reads them."""
    done = [run for run in runs if run.finished]
    errors = [run.history[-1]["test_error"] for run in done]
    train = [run.history[-1]["train_error"] for run in done]
    mean, deviation = _numbers(line.published)
    found: dict[str, Any] = {
        "network": line.network,
        "algorithm": line.algorithm,
        "recipe": line.recipe,
        "published": line.published or None,
        "published_mean": mean,
        "published_deviation": deviation,
        "here": _said(errors, train),
        "test_errors": errors,
        "train_errors": train,
        "n": len(done),
        "epochs": runs[0].wanted if runs else None,
        "seconds": None,
        "machine": machines(done),
        "remark": line.why,
    }
    if done:
        found["seconds"] = round(fmean(run.row["seconds"] for run in done))
    if runs:
        found["remark"] = _remark(settings, line, runs, errors, mean, deviation)
    return found


def _remark(
    settings: TableSettings,
    line: _Line,
    runs: Sequence[Run],
    errors: Sequence[float],
    mean: float | None,
    deviation: float | None,
) -> str:
    """What is to be known of the comparison."""
    failed = [run for run in runs if run.failed]
    parts = [f"{len(failed)} of {len(runs)} runs failed"] if failed else []
    if settings.dataset != "mnist":
        parts.append(f"{settings.dataset}: no comparison")
    elif runs[0].wanted < line.epochs:
        parts.append(f"{runs[0].wanted} of {line.epochs} epochs")
    elif errors and mean is not None and deviation is not None:
        away = fmean(errors) - mean
        if abs(away) > 2 * deviation:
            parts.append("worse" if away > 0 else "better")
    return "; ".join(parts)


def _numbers(published: str) -> tuple[float, float] | tuple[None, None]:
    """Mean and standard deviation of ``2.00 ± 0.13 (0.20)``."""
    found = re.match(r"([\d.]+) ± ([\d.]+)", published)
    return (float(found[1]), float(found[2])) if found else (None, None)


def _said(errors: Sequence[float], train: Sequence[float]) -> str | None:
    """The same of ours, as it is published."""
    if not errors:
        return None
    spread = f" ± {stdev(errors):.2f}" if len(errors) > 1 else ""
    return f"{fmean(errors):.2f}{spread} ({fmean(train):.2f})"
