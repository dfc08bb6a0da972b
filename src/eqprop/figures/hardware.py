"""``hardware``: which estimator stands what of a device, and how much of it.

One network, prototypical with a hidden layer of 128 units, learns by every estimator on devices
with one fault at a time, at several strengths, see :mod:`eqprop.hardware` and
:mod:`eqprop.networks.connections.feedback`:

=========  ========================================================================================
fault      strength
=========  ========================================================================================
noise      σ of normal noise on every state in every step
bits       of a weight, rounded at random; of one bit, weights ±α that flip
units      standard deviation γ of their gains; that of their offsets is γ/2
synapses   standard deviation of way down over way up, in shares of the weight
writes     ν of writes that do less towards the bound
=========  ========================================================================================

Training and test are on the same device; its faults, the weights and the order of the data come
from the seed. Nothing is tuned to a fault: all have the settings of the preset ``digits``, but for
what makes the estimator; C-EP has the learning rates of ``digits-c-ep``, and on MNIST those of
``c-ep-1h`` in proportion to β.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple, final, get_args

from eqprop import pictures
from eqprop.figures.figure import Figure, Table, trained_on
from eqprop.figures.run import PlannedRun, Run, machines
from eqprop.registries import DATASETS
from eqprop.settings.fields import Settings, different, seeds, setting, whole

__all__ = ["HARDWARE", "Hardware", "HardwareSettings"]

_FaultName = Literal["noise", "bits", "units", "synapses", "writes"]
_RuleName = Literal["ep", "symmetric", "holomorphic", "c-ep", "bptt"]

_PRESET = "digits"


class _Fault(NamedTuple):
    """What a device has, at several strengths, which get worse."""

    said: str
    strengths: Mapping[str, Mapping[str, Any]]


_FAULTS: dict[str, _Fault] = {
    "noise": _Fault("noise on states, σ", {f"{s}": {"state_noise": s} for s in (0.02, 0.04, 0.1)}),
    "bits": _Fault(
        "bits of a weight",
        {
            **{f"{b}": {"weight_bits": b} for b in (8, 6, 4, 3)},
            "1": {"flip_threshold": 1e-4},
        },
    ),
    "units": _Fault(
        "spread of gains, of offsets half",
        {f"{g}": {"gain_spread": g, "offset_spread": g / 2} for g in (0.1, 0.3, 0.5)},
    ),
    "synapses": _Fault(
        "spread of synapses down and up", {f"{s}": {"synapse_spread": s} for s in (0.3, 1.0, 3.0)}
    ),
    "writes": _Fault(
        "writes not linear, ν", {f"{n}": {"write_nonlinearity": float(n)} for n in (1, 3)}
    ),
}

_RULES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "ep": ("EP, one-sided, β 0.1", {"nudging": "one-sided", "beta": 0.1}),
    "symmetric": ("EP, symmetric, β 0.5", {}),
    "holomorphic": ("holomorphic EP, β 0.5, N 4", {"estimator": "holomorphic-ep"}),
    "c-ep": (
        "C-EP, β ±0.5",
        {"estimator": "c-ep", "nudging": "random-sign", "learning_rates": (0.05, 0.025)},
    ),
    "bptt": ("BPTT", {"estimator": "bptt"}),
}

_RATES: dict[tuple[str, str], tuple[float, ...]] = {("c-ep", "mnist"): (0.014, 0.007)}
"""Learning rates of a rule on a dataset, where they cannot be those of the digits.

In every nudged step of C-EP the weights move the state on by about η ‖x‖² / β of what it has moved,
and an input of MNIST has six times the ‖x‖², 87 to 15 in the mean: these rates are as large beside
β as those published of ``c-ep-1h``.
"""


@final
@dataclass(frozen=True, kw_only=True)
class HardwareSettings(Settings):
    """How much of the table to make.

    Raises:
        ConfigurationError: a setting outside what is allowed.
    """

    dataset: str = setting("digits", "what to learn", choices=DATASETS)
    faults: tuple[_FaultName, ...] = setting(
        get_args(_FaultName),
        "of the device, one at a time",
        allowed=different("different faults", lambda _: True),
        shown="all",
    )
    rules: tuple[_RuleName, ...] = setting(
        get_args(_RuleName),
        "what is learnt by",
        allowed=different("different ones", lambda _: True, lambda n: n > 0),
        shown="all",
    )
    epochs: int | None = setting(
        None, "passes over the training data", allowed=whole(1), shown="10; 2 with --quick"
    )
    seeds: tuple[int, ...] | None = setting(
        None,
        "of the weights, the device and the order of the data, a run each",
        allowed=seeds(),
        shown="0 1 2; 0 with --quick",
    )
    quick: bool = setting(
        False, "one strength of every fault, one seed, two epochs: some minutes on two cores"
    )

    @property
    def trials(self) -> tuple[int, ...]:
        """The seeds."""
        return self.seeds or ((0,) if self.quick else (0, 1, 2))


class _Cell(NamedTuple):
    """A rule on a device: its runs, one for every seed."""

    fault: str
    strength: str
    rule: str
    runs: tuple[PlannedRun, ...]


@final
class Hardware(Figure[HardwareSettings]):
    """Test error against the faults of a device, for every estimator."""

    description = """\
Which estimator stands what of a device: noise on the states, weights of few bits, units and
synapses that differ, writes that are not linear. A network of one hidden layer learns by EP with
one nudge and with two, by holomorphic EP, C-EP and backpropagation through time.

  eqprop reproduce hardware --quick                     some minutes, no download
  eqprop reproduce hardware                             255 runs of 10 epochs on the digits
  eqprop reproduce hardware --faults bits --seeds 0     weights of few bits alone
  eqprop reproduce hardware --dataset mnist --epochs 3  the same on MNIST, in hours
"""
    epilog = """\
Errors are those of the last epoch in %, mean ± standard deviation over the seeds.
"""
    settings = HardwareSettings

    def runs(self, settings: HardwareSettings) -> list[PlannedRun]:
        return [run for cell in _cells(settings) for run in cell.runs]

    def result(self, settings: HardwareSettings, runs: Sequence[Run]) -> dict[str, Any]:
        by_name = {run.name: run for run in runs}
        return {
            "rows": [run.row for run in runs],
            "cells": [
                _cell(cell, [by_name[run.name] for run in cell.runs]) for cell in _cells(settings)
            ],
        }

    def tables(self, result: Mapping[str, Any]) -> list[Table]:
        cells = result["cells"]
        rules = list(dict.fromkeys(cell["rule"] for cell in cells))
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for cell in cells:
            where = cell["fault"], cell["strength"]
            row = rows.setdefault(where, {"fault": where[0], "strength": where[1]})
            row[cell["rule"]] = cell["said"]
        columns = {"fault": "fault", "": "strength", **{rule: rule for rule in rules}}
        counts = sorted({cell["n"] for cell in cells})
        n = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        epochs = max(row["epochs"] for row in result["rows"])
        said = f"{epochs} epoch{'s' * (epochs != 1)}"
        rule_said = "; ".join(f"{rule}: {_RULES[rule][0]}" for rule in rules)
        note = f"Test error in %, n = {n}, after {said}. {rule_said}. "
        return [Table(list(rows.values()), columns, keys=2, note=note + trained_on(cells))]

    def draw(self, settings: HardwareSettings, result: Mapping[str, Any], folder: Path) -> None:
        """A panel per fault, a line per estimator; a strength is drawn once some run is done."""
        cells = [cell for cell in result["cells"] if cell["test_errors"]]
        faults = [fault for fault in settings.faults if any(c["fault"] == fault for c in cells)]
        if not faults:
            return
        from matplotlib.figure import Figure as Picture

        picture = Picture(figsize=(1.0 + 2.9 * len(faults), 4.4), layout="constrained")
        grid = picture.subplots(1, len(faults), sharey=True, squeeze=False)[0]
        known = {(c["fault"], c["strength"], c["rule"]): c["test_errors"] for c in cells}
        for axes, fault in zip(grid, faults, strict=True):
            strengths = ["none", *_strengths(settings, fault)]
            for index, rule in enumerate(settings.rules):
                points = [
                    (at, known[where])
                    for at, strength in enumerate(strengths)
                    if (where := ("none" if strength == "none" else fault, strength, rule)) in known
                ]
                # Side by side, so that no bar hides another.
                x = [at + 0.07 * (index - (len(settings.rules) - 1) / 2) for at, _ in points]
                y = [fmean(errors) for _, errors in points]
                bars = [stdev(errors) if len(errors) > 1 else 0.0 for _, errors in points]
                look: dict[str, Any] = {
                    "color": pictures.COLOURS[index],
                    "marker": pictures.MARKERS[index],
                    "linestyle": pictures.STYLES[index],
                }
                axes.errorbar(x, y, bars, capsize=2, label=_RULES[rule][0], **look)
            axes.set_xticks(range(len(strengths)), strengths)
            axes.set_xlabel(_FAULTS[fault].said)
            axes.grid(alpha=0.3)
        pictures.error_axis(grid[0], [error for errors in known.values() for error in errors])
        grid[0].set_ylabel("test error (%)")
        handles, labels = grid[0].get_legend_handles_labels()
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "frameon": False}
        picture.legend(handles, labels, **place)
        counts = len(settings.trials)
        several = f", mean ± standard deviation of {counts} seeds" * (counts > 1)
        pictures.write_picture(
            picture,
            folder / "hardware",
            f"Who stands what of a device: {settings.dataset}{several}",
        )


HARDWARE = Hardware()
"""The table."""


def _strengths(settings: HardwareSettings, fault: str) -> Mapping[str, Mapping[str, Any]]:
    """All of a fault, or the one in their middle."""
    found = _FAULTS[fault].strengths
    middle = list(found)[len(found) // 2]
    return {middle: found[middle]} if settings.quick else found


def _cells(settings: HardwareSettings) -> list[_Cell]:
    devices: list[tuple[str, str, Mapping[str, Any]]] = [("none", "none", {})]
    devices += [
        (fault, strength, changes)
        for fault in settings.faults
        for strength, changes in _strengths(settings, fault).items()
    ]
    common = {
        "dataset": settings.dataset,
        "epochs": settings.epochs or (2 if settings.quick else 10),
    }
    found = []
    for fault, strength, device in devices:
        on = "ideal" if fault == "none" else f"{fault}-{strength}"
        for rule in settings.rules:
            changes = {**common, **_RULES[rule][1], **device}
            if rates := _RATES.get((rule, settings.dataset)):
                changes["learning_rates"] = rates
            runs = tuple(
                PlannedRun(f"{rule}-{on}-seed-{seed}", _PRESET, {**changes, "seed": seed})
                for seed in settings.trials
            )
            found.append(_Cell(fault, strength, rule, runs))
    return found


def _cell(cell: _Cell, runs: Sequence[Run]) -> dict[str, Any]:
    done = [run for run in runs if run.finished]
    errors = [run.history[-1]["test_error"] for run in done]
    spread = f" ± {stdev(errors):.2f}" if len(errors) > 1 else ""
    return {
        "fault": cell.fault,
        "strength": cell.strength,
        "rule": cell.rule,
        "test_errors": errors,
        "said": f"{fmean(errors):.2f}{spread}" if errors else None,
        "n": len(done),
        "machine": machines(done),
    }
