"""``eqprop explore``: one HTML file on which one watches a trained network settle."""

from __future__ import annotations

import argparse
import json
import os
import sys
import webbrowser
from pathlib import Path
from typing import Any

from eqprop import core, explorer, runs
from eqprop.cli.options import add_options, add_usual, given, place
from eqprop.errors import Failure, UsageError
from eqprop.files import write_atomically
from eqprop.settings import Experiment

__all__ = ["add", "run"]

_SUMMARY = "watch a trained network settle, on a page of one file"

_DETAILS = """\
Write one HTML file in which the network of a run settles, step by step, and open it. Choose a test
image or draw a digit; play, pause, step; nudge the output towards a class and see how far every
layer moves, ÷ β, beside the gradient of backpropagation through time. T, K, β and the order of
updates can be changed. The file needs no server and no network, and can be sent to others.

  eqprop explore runs/mine                      writes runs/mine/explore.html, and opens it
  eqprop explore runs/mine --no-open --out mine.html
"""

_IMAGES = 100
_NUMBERS = 200_000
"""How many test images, and how many pixels in all: the file is to be small enough for a mail."""

_MAIL = 5_000_000


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "explore",
        help=_SUMMARY,
        description=_DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("folder", type=place, metavar="DIR", help="folder of a run")
    parser.add_argument(
        "--out", type=place, metavar="FILE", help="the file (default: DIR/explore.html)"
    )
    parser.add_argument(
        "--open",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="open it in a browser, where there is a screen (default: yes)",
    )
    add_usual(parser, json="where it is")
    add_options(
        parser,
        Experiment,
        only=("free_steps", "nudged_steps", "beta"),
        default="default: as in the run",
    )


def run(options: argparse.Namespace) -> int:
    """Write it, and open it."""
    opened = runs.open_run(options.folder, given(options, Experiment), data_dir=options.data_dir)
    experiment, data = opened.experiment, opened.data
    if not data.classes:
        raise UsageError(
            f"{options.folder}: expected a network that tells classes apart, towards one of which "
            "it can be nudged, found a regression; look at it with eqprop show"
        )
    pixels = data.test.images[0].numel()
    count = max(1, min(_IMAGES, _NUMBERS // pixels, len(data.test)))
    trained = ""
    if opened.checkpoint is not None and opened.checkpoint.history:
        last = opened.checkpoint.history[-1]
        epochs = core.counted(last["epoch"], "epoch")
        trained = f", after {epochs}, {experiment.tested_on} error {last['test_error']:.2f} %"
    page = explorer.explorer_page(
        opened.network,
        data.test.images[:count],
        data.test.labels[:count].tolist(),
        classes=[opened.inputs.name(c) for c in range(data.classes)],
        cost=runs.build_cost(experiment),
        free_steps=experiment.free_steps,
        nudged_steps=experiment.nudged_steps,
        beta=experiment.beta,
        title=f"{data.name}: how a network settles",
        subtitle=f"{Path(options.folder).name}{trained}",
    )
    path = Path(options.out or Path(options.folder) / "explore.html")
    if path.is_dir():
        raise Failure(f"{path}: expected a file to write, found a folder; name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    written = page.encode()
    write_atomically(path, written)
    if options.json:
        print(json.dumps({"file": str(path), "bytes": len(written)}))
    else:
        large = ", more than some mail takes" if len(written) > _MAIL else ""
        print(f"{path} ({len(written) / 1e6:.1f} MB{large}); open it in any browser")
    if options.open and _has_screen():
        webbrowser.open(path.resolve().as_uri())
    return 0


def _has_screen() -> bool:
    # Without one Python would take a browser for terminals, which nobody has asked for.
    if not sys.stdout.isatty():
        return False
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, screens))
