"""``eqprop predict``: what a trained network says of images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eqprop import data, runs
from eqprop.cli.options import add_options, add_usual, given, place
from eqprop.cli.tables import print_table
from eqprop.errors import UsageError
from eqprop.settings import Experiment

__all__ = ["add", "run"]

_SUMMARY = "classify images by a trained network"

_DETAILS = """\
Classify images, PNG or JPEG, by the network of a run. They are scaled as those were that it has
learnt from, and must have their size; of images in colour a network of grey ones sees the grey
levels. The training data is not needed. A network that has learnt numbers instead of classes
(regression:FILE) says these.

  eqprop predict runs/cifar-10-small cat.png dog.jpg
  eqprop predict runs/cifar-10-small photos          all images of a folder
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "predict",
        help=_SUMMARY,
        description=_DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("folder", type=place, metavar="DIR", help="folder of a run")
    parser.add_argument(
        "files", type=place, nargs="+", metavar="FILE", help="images, or folders of such"
    )
    add_usual(parser, json="it")
    add_options(
        parser,
        Experiment,
        only=("free_steps", "tolerance", "device"),
        default="default: as in the run",
    )


def run(options: argparse.Namespace) -> int:
    """Classify them."""
    opened = runs.open_run(options.folder, given(options, Experiment), data_dir=options.data_dir)
    shape = opened.inputs.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UsageError(
            f"{options.folder}: expected a network of images, found one of inputs of shape {shape};"
            " classify such inputs in Python, with open_run(DIR).predict(inputs)"
        )
    if opened.inputs.brightest < 255:
        raise UsageError(
            f"{options.folder}: expected a network that has learnt from the grey levels of images, "
            "found one that has learnt from other numbers, and nobody knows which of them a grey "
            "level is; classify in Python, with open_run(DIR).predict(inputs)"
        )
    files = [file for name in options.files for file in data.images_at(name)]
    images = [data.read_image(file, shape, opened.inputs.brightest) for file in files]
    with opened.blamed(), runs.enough_for(opened.experiment):
        outputs = opened.outputs(images).double().cpu()
    if not opened.inputs.classes:
        return _numbers(files, outputs.tolist(), as_json=options.json)
    rows: list[dict[str, Any]] = []
    for file, output in zip(files, outputs, strict=True):
        first, second = output.topk(2).indices.tolist()
        rows.append(
            {
                "file": str(file),
                "class": opened.inputs.name(first),
                "number": first,
                "next": opened.inputs.name(second),
                "outputs": output.tolist(),
            }
        )
    if options.json:
        print(json.dumps(rows))
        return 0
    print_table(
        ["image", "class", "output", "next", "output"],
        [
            [
                row["file"],
                row["class"],
                f"{max(row['outputs']):.3f}",
                row["next"],
                f"{sorted(row['outputs'])[-2]:.3f}",
            ]
            for row in rows
        ],
        text=1,
    )
    return 0


def _numbers(files: Sequence[Path], outputs: Sequence[Sequence[float]], *, as_json: bool) -> int:
    """What a network says that has learnt numbers instead of classes."""
    if as_json:
        rows = [{"file": str(f), "outputs": o} for f, o in zip(files, outputs, strict=True)]
        print(json.dumps(rows))
        return 0
    several = [""] if len(outputs[0]) == 1 else [f" {n + 1}" for n in range(len(outputs[0]))]
    print_table(
        ["image", *(f"output{number}" for number in several)],
        [
            [str(file), *(f"{value:.4g}" for value in of)]
            for file, of in zip(files, outputs, strict=True)
        ],
        text=1,
    )
    return 0
