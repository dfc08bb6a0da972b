"""``eqprop bench``: measure the time of a training mini-batch, and where it goes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from eqprop import core, runs
from eqprop.cli.bench_settings import OVERRIDES, BenchSettings
from eqprop.cli.options import add_options, given
from eqprop.cli.progress import Progress
from eqprop.cli.tables import print_table
from eqprop.errors import UsageError
from eqprop.settings import PRESETS, Experiment

__all__ = ["add", "run"]

_SUMMARY = "measure the time of a training mini-batch, and where it goes"

_DESCRIPTION = """\
Measure the time of one training mini-batch, from the free phase to the update of the weights:
the mean over 50 different ones (fewer where they take long), after a short training, of the data
set where it is found on this machine; nothing is downloaded. Else, or with --random, an untrained
network sees random pixels. One preset is split into its parts: drive (what the static input alone
decides), phases, gradient and optimizer.

u is the time of one 20×512 by 512×512 float32 matrix product on the same device and threads, so
that figures carry over between machines. Run nothing else meanwhile.
"""

_PARTS = {
    "drive": "drive",
    "free_phase": "free phase",
    "nudged_phase": "nudged phase",
    "differentiated_phase": "differentiated phase",
    "gradient": "gradient",
    "optimizer": "optimizer",
    "other": "other",
}


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("bench", help=_SUMMARY, description=_DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument("presets", metavar="PRESET", nargs="*", help="which presets (default: all)")
    parser.add_argument("--random", action="store_true", help="random pixels, no training")
    parser.add_argument("--parts", action="store_true", help="split every row into its parts")
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="where data sets lie (default: $EQPROP_DATA, else your cache folder)",
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    add_options(parser, BenchSettings)
    add_options(parser, Experiment, only=OVERRIDES, default="default: as in the preset")


def run(options: argparse.Namespace) -> int:
    """Measure it."""
    rows: list[tuple[str, Experiment]] = []
    settings = BenchSettings(**given(options, BenchSettings))
    # Of the settings of both, those above are meant.
    named = {name: value for name, value in vars(options).items() if name in OVERRIDES}
    changes = given(argparse.Namespace(**named), Experiment)
    presets = options.presets
    if not presets:
        # What is made for a GPU takes hours on anything else.
        elsewhere = [
            name
            for name, preset in PRESETS.items()
            if settings.device == "cpu" and preset.experiment.device != "cpu"
        ]
        for name in elsewhere:
            print(f"{name} left out: device = cpu: expected a GPU, or its name", file=sys.stderr)
        presets = [name for name in PRESETS if name not in elsewhere]
    for name, experiment in settings.rows(presets, changes):
        # What an estimator refuses is said now, not after minutes.
        try:
            runs.build_learner(experiment)
            rows.append((name, experiment))
        except UsageError as error:
            if options.presets:
                raise
            print(f"{name} left out: {error}", file=sys.stderr)
    found: list[dict[str, Any]] = []
    samples = _Samples(options, settings.train_batches)
    batches = [0 if samples.of(e) is None else settings.train_batches for _, e in rows]
    try:
        # A row counts as one more: what is measured once it has been trained.
        with Progress(len(rows) + sum(batches), "mini-batch") as tick:
            for (name, experiment), count in zip(rows, batches, strict=True):
                what = f"{name}, {experiment.estimator}"

                def training(doing: str, what: str = what) -> None:
                    tick(f"{what}, {doing}")

                found.append(
                    runs.time_batch(name, experiment, samples.of(experiment), count, training)
                )
                tick(f"{what}, measured")
    finally:
        # What was measured before something failed, or was interrupted, is not lost.
        if found:
            _print(found, as_json=options.json, parts=options.parts or len(rows) == 1)
    return 0


class _Samples:
    """What is found of the data sets, each read once; none where it is to be random pixels."""

    def __init__(self, options: argparse.Namespace, train_batches: int) -> None:
        self._options, self._train_batches = options, train_batches
        self._found: dict[tuple[str, int, int], runs.Samples | None] = {}

    def of(self, experiment: Experiment) -> runs.Samples | None:
        """Those of an experiment."""
        if self._options.random:
            return None
        most = experiment.batch_size * (self._train_batches + runs.MEASURED_BATCHES)
        key = experiment.dataset, experiment.seed, most
        if key not in self._found:
            self._found[key] = runs.samples_at_hand(experiment, most, self._options.data_dir)
        return self._found[key]


def _print(found: Sequence[Mapping[str, Any]], *, as_json: bool, parts: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=2))
        return
    headers = "preset", "estimator", "device", "threads", "ms/batch", "u", "T", "K", "GFLOP/s"
    headers = *headers, "of peak", "step ÷ bare", "peak MiB"
    print_table(headers, [_cells(row) for row in found], text=3, keys=4)
    for line in _notes(found):
        print(line)
    for row in found if parts else ():
        print(f"\n{row['preset']}, {row['estimator']}, {_threads(row)}: the mean mini-batch")
        headers = "part", "ms", "share", "GFLOP", "GFLOP/s", "of peak"
        print_table(headers, list(_part_cells(row)))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["preset"],
        row["estimator"],
        row["device"],
        str(row["threads"]),
        f"{row['ms_per_batch']:.2f}",
        f"{row['u']:.1f}",
        _steps(row["free_steps"]),
        "–" if row["nudged_steps"] is None else _steps(row["nudged_steps"]),
        f"{row['gflop_per_second']:.1f}",
        f"{100 * row['share_of_peak']:.0f} %",
        f"{row['step_ms'] / row['bare_ms']:.2f}" if row["bare_ms"] else "–",
        f"{row['peak_mib']:.0f}",
    )


def _steps(steps: Mapping[str, Any]) -> str:
    """The mean, and the most where samples differ."""
    mean, most = steps["mean"], steps["most"]
    return str(most) if mean == most else f"{mean:.1f} ≤ {most}"


def _part_cells(row: Mapping[str, Any]) -> list[tuple[str, ...]]:
    whole = {"ms": row["ms_per_batch"], **{name: row[name] for name in ("gflop", "share_of_peak")}}
    named = {words: row["parts"][part] for part, words in _PARTS.items() if part in row["parts"]}
    return [
        (
            words,
            f"{part['ms']:.3f}",
            f"{100 * part['ms'] / whole['ms']:.0f} %",
            f"{part['gflop']:.4f}" if part["gflop"] else "–",
            f"{1e3 * part['gflop'] / part['ms']:.1f}" if part["gflop"] and part["ms"] else "–",
            f"{100 * part['share_of_peak']:.0f} %" if part["gflop"] and part["ms"] else "–",
        )
        for words, part in [*named.items(), ("all", whole)]
    ]


def _notes(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the columns mean, and what was measured."""
    last = found[-1]
    notes = []
    for data in dict.fromkeys(row["data"] for row in found):
        rows = [row for row in found if row["data"] == data]
        names = ", ".join(dict.fromkeys(row["preset"] for row in rows))
        where = f"{names}: " if len(rows) < len(found) else ""
        if data == "random":
            notes.append(
                f"{where}random pixels, an untrained network: where samples settle, what is "
                "learnt takes other steps"
            )
        else:
            count = rows[0]["train_batches"]
            notes.append(f"{where}{data}, after training on {core.counted(count, 'mini-batch')}")
    for row in found:
        if row["restless"] >= 0.05:
            notes.append(
                f"{row['preset']}, {row['estimator']}: {row['restless']:.1f} % of the samples "
                "did not come to rest in the free phase"
            )
    peaks = dict.fromkeys((row["threads"], round(row["peak_gflop_per_second"])) for row in found)
    said = dict[int, str]()
    for threads, rate in peaks:
        said.setdefault(threads, f"{rate} GFLOP/s")
    of = " or ".join(
        f"{rate} ({core.counted(threads, 'thread')})" if len(said) > 1 else rate
        for threads, rate in said.items()
    )
    return [
        *notes,
        f"u = {last['u_microseconds']:.0f} µs; peak: a product of 2048×2048 matrices, {of}",
        "T, K: steps of a sample, mean ≤ most; step ÷ bare: a step of the network relative to its "
        "products alone",
    ]


def _threads(row: Mapping[str, Any]) -> str:
    return core.counted(row["threads"], "thread")
