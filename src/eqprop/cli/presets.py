"""``eqprop presets``: list the presets, with the published results."""

import argparse
import json
from typing import Any

from eqprop.cli.options import add_usual
from eqprop.cli.tables import print_table
from eqprop.settings import PRESETS

__all__ = ["add", "run"]

_SUMMARY = "list the presets, with the published results"


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("presets", help=_SUMMARY, description=_SUMMARY)
    parser.set_defaults(run=run)
    add_usual(parser, data=False, json="them")


def run(options: argparse.Namespace) -> int:
    """List them."""
    if options.json:
        listed = {
            name: {**vars(entry), "experiment": entry.experiment.to_json()}
            for name, entry in PRESETS.items()
        }
        print(json.dumps(listed, indent=2))
        return 0
    # Side by side they would be wider than most terminals.
    published = [
        (name, entry.description, entry.published_ep or "–", entry.published_bptt or "–")
        for name, entry in PRESETS.items()
    ]
    print_table(("preset", "network", "EP", "BPTT"), published, text=2)
    print(
        "EP, BPTT: published test error in % on MNIST, mean ± standard deviation of\n"
        "5 trials (train error)\n"
    )
    headers = "preset", "optimizer", "learning rates", "T", "K", "settle", "β", "batch", "epochs"
    chosen = [
        (
            name,
            e.optimizer if e.schedule == "constant" else f"{e.optimizer}, cos",
            " ".join(f"{rate:g}" for rate in e.learning_rates),
            str(e.free_steps),
            str(e.nudged_steps),
            "–" if e.tolerance is None else f"{e.tolerance:g}",
            f"{e.beta:g}",
            str(e.batch_size),
            str(e.epochs),
        )
        for name, entry in PRESETS.items()
        for e in [entry.experiment]
    ]
    print_table(headers, chosen, text=3)
    print(
        "cos: learning rates fall like half a cosine. They are listed input side first.\n"
        "settle: every sample ends a phase where it rests, in at most T or K steps.\n"
        "Train one with: eqprop train PRESET"
    )
    return 0
