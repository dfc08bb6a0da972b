"""``eqprop evaluate``: measure the error of a trained network."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from eqprop import runs, training
from eqprop.cli.options import add_options, add_usual, given, place
from eqprop.cli.progress import Progress
from eqprop.errors import UsageError
from eqprop.settings import Experiment

__all__ = ["add", "run"]

_AT_ONCE = 500

_SUMMARY = "measure the error of a trained network"


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("evaluate", help=_SUMMARY, description=_SUMMARY)
    parser.set_defaults(run=run)
    parser.add_argument("folder", type=place, metavar="DIR", help="folder of a run")
    parser.add_argument(
        "--split",
        choices=("test", "validation", "train"),
        default="test",
        help="which samples; validation: those that a run with --validation-share has set aside "
        "(default: test)",
    )
    add_usual(parser, json="it")
    add_options(
        parser,
        Experiment,
        only=("free_steps", "tolerance", "device"),
        default="default: as in the run",
    )


def run(options: argparse.Namespace) -> int:
    """Measure it."""
    opened = runs.open_run(options.folder, given(options, Experiment), data_dir=options.data_dir)
    experiment, network = opened.experiment, opened.network
    if options.split == "validation" and not experiment.validation_share:
        raise UsageError(
            f"--split validation: expected a run with validation samples, found {options.folder} "
            "without any; look at --split test"
        )
    splits = {"train": lambda: opened.data.train, "validation": lambda: opened.data.test}
    split = splits.get(options.split, lambda: opened.test)()
    batches = -(-len(split) // _AT_ONCE)
    with (
        opened.blamed(),
        runs.enough_for(experiment),
        Progress(batches, "mini-batch") as tick,
    ):
        found = training.evaluate(
            network,
            split,
            experiment.free_steps,
            tolerance=experiment.tolerance,
            cost=runs.build_cost(experiment),
            batch_size=_AT_ONCE,
            on_batch=lambda samples: tick(f"{samples} samples"),
        )
    if options.json:
        print(json.dumps({"epoch": opened.epochs, "split": options.split, **asdict(found)}))
        return 0
    residual = ", ".join(
        f"{network.layer_name(index)} {value:.1e}" for index, value in enumerate(found.residual)
    )
    tolerance = training.AT_REST if experiment.tolerance is None else experiment.tolerance
    of = f"{found.samples} samples"
    if split.regression:
        of = f"the variance of {of}, which is not explained"
    print(
        f"{options.split} error {found.error:.2f} % of {of}, "
        f"loss {found.loss:.4f}, after {opened.trained}\n"
        f"residual of the free phase: {residual}\n"
        f"steps of the free phase: {_steps(found)}\n{_rest(found, tolerance * network.epsilon)}"
    )
    return 0


def _steps(found: training.Evaluation) -> str:
    if found.steps == found.most_steps:
        return f"{found.most_steps} each"
    return f"{found.steps:.1f} on average, at most {found.most_steps}"


def _rest(found: training.Evaluation, limit: float) -> str:
    if found.restless == 0:
        return f"all samples came to rest (no unit moved by more than {limit:g} in the last step)"
    said = (
        f"{found.restless:.2f} % of the samples did not come to rest "
        f"(a unit moved by more than {limit:g} in the last step)"
    )
    if found.cycling:
        said += f"; {found.cycling:.2f} % go to and fro between two states (two-cycles)"
    return said
