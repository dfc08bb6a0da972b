"""``eqprop bench``: measure the time of a training mini-batch."""

import argparse
import json
import sys
from dataclasses import dataclass
from typing import Any, final

from eqprop import runs
from eqprop.cli.options import add_options, add_usual, given
from eqprop.cli.progress import Progress
from eqprop.cli.tables import print_table
from eqprop.errors import UsageError
from eqprop.registries import ESTIMATORS
from eqprop.settings import PRESETS, Experiment, Settings, device, preset, setting, whole

__all__ = ["BenchSettings", "add", "run"]

_SUMMARY = "measure the time of a training mini-batch"

_DESCRIPTION = """\
Measure the time of one training mini-batch, from the free phase to the update of the weights,
on random pixels. u is the time of one 20×512 by 512×512 float32 matrix product on the same
device and threads, so that figures carry over between machines. Run nothing else meanwhile.
"""


@final
@dataclass(frozen=True, kw_only=True)
class BenchSettings(Settings):
    """What to measure presets with.

    Raises:
        ConfigurationError: a setting outside what is allowed.
    """

    estimator: tuple[str, ...] = setting(
        (), "each in a row of its own", choices=ESTIMATORS, shown="as in the preset"
    )
    device: str = setting("cpu", "cpu, cuda or cuda:N", allowed=device())
    threads: int = setting(1, "CPU threads", allowed=whole(1, 1024))

    def rows(self, presets: list[str]) -> list[tuple[str, Experiment]]:
        """The preset and the experiment of every row."""
        machine = {"device": self.device, "threads": self.threads}
        return [
            (name, preset(name).override({**machine, "estimator": estimator}))
            for name in presets
            for estimator in self.estimator or (preset(name).estimator,)
        ]


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("bench", help=_SUMMARY, description=_DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument("presets", metavar="PRESET", nargs="*", help="which presets (default: all)")
    add_options(parser, BenchSettings)
    add_usual(parser, data=False, json="the rows")


def run(options: argparse.Namespace) -> int:
    """Measure it."""
    rows = []
    settings = BenchSettings(**given(options, BenchSettings))
    for name, experiment in settings.rows(options.presets or list(PRESETS)):
        # What an estimator refuses is said now, not after minutes.
        try:
            runs.build_learner(experiment)
            rows.append((name, experiment))
        except UsageError as error:
            if options.presets:
                raise
            print(f"{name} left out: {error}", file=sys.stderr)
    found: list[dict[str, Any]] = []
    try:
        with Progress(len(rows), "row") as tick:
            for name, experiment in rows:
                found.append(runs.time_batch(name, experiment))
                tick(f"{name}, {experiment.estimator}")
    finally:
        # What was measured before something failed, or was interrupted, is not lost.
        if found:
            _print(found, as_json=options.json)
    return 0


def _print(found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=2))
        return
    headers = "preset", "estimator", "device", "threads", "ms/batch", "u", "step ÷ bare", "peak MiB"
    print_table(headers, [_cells(row) for row in found], text=3)
    print(
        f"u = {found[-1]['u_microseconds']:.0f} µs; step ÷ bare: a step of the network relative "
        "to its matrix products and convolutions alone"
    )


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["preset"],
        row["estimator"],
        row["device"],
        str(row["threads"]),
        f"{row['ms_per_batch']:.2f}",
        f"{row['u']:.1f}",
        f"{row['step_ms'] / row['bare_ms']:.2f}" if row["bare_ms"] else "–",
        f"{row['peak_mib']:.0f}",
    )
