"""What ``eqprop show`` does, once its arguments are known to be good.

It writes, into the folder ``pictures`` of a run, or into another one:

=====================================  =======================================================
``kernels.png``, ``kernels-2.png`` …   what the first connection learned, and the convolutions
                                       above it
``states.png``                         one test sample, layer by layer: s_*, s_*^β and their
                                       difference ÷ β
``convergence.png``                    the free phase step by step
``steps.png``                          test error and residual against the steps of the free phase
``show.json``                          the numbers behind them
=====================================  =======================================================

Of the weights and of the states of hidden layers ``show.json`` has the scale alone: the checkpoint
has the weights, and they the states.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from eqprop.build import build_data, build_network, torch_device
from eqprop.checkpoint import CheckpointError, write_atomically
from eqprop.data import Dataset, Split, one_hot
from eqprop.display import Progress
from eqprop.experiment import Experiment
from eqprop.failures import Failure, UsageError
from eqprop.kernels import Kernels, learned_kernels
from eqprop.memory import enough_memory
from eqprop.networks import LayeredNetwork
from eqprop.relaxation import NonFiniteError, relax
from eqprop.run_folder import RunFolder
from eqprop.settling import (
    Convergence,
    ErrorByStep,
    Phases,
    convergence,
    error_by_step,
    phases,
    step_counts,
)

__all__ = ["show"]

_WATCHED = 100
"""Samples of the mini-batch whose convergence is shown."""

_PICTURES = ("states.png", "convergence.png", "steps.png")

_AT_ONCE = 500
"""Samples that settle at once, as many as where the error is measured."""


@final
@dataclass(frozen=True, eq=False)
class _Findings:
    """All that is drawn."""

    kernels: tuple[Kernels, ...]
    x: Tensor
    label: int
    phases: Phases
    outputs: Tensor
    convergence: Convergence
    watched: int
    by_step: ErrorByStep


def show(
    path: Path,
    *,
    out: Path | None,
    sample: int,
    test_samples: int,
    overrides: Mapping[str, Any],
    device: str | None,
    data_dir: str | None,
    as_json: bool,
) -> int:
    """Draw what a trained network has learned and how it settles.

    Args:
        path: the folder of a run.
        out: where to put the pictures; the folder ``pictures`` of the run if not given.
        sample: the number of the test sample to look at.
        test_samples: how many test samples to measure the error on; 0 means all.
        overrides: T, K and β where they are not to be those of the run; known to be good.
        device: where to compute, if not where the run did.
        data_dir: where the data sets lie.
        as_json: print JSON.
    """
    run = RunFolder(path)
    config = run.read_config()
    checkpoint = run.read_checkpoint(config)
    # T and K of one estimator may not fit another; none is used here.
    experiment = replace(config.experiment, estimator="ep").override(
        {**overrides, **({} if device is None else {"device": device})}
    )
    folder = out or path / "pictures"
    _require_folder(folder, chosen=out is not None)
    torch_device(experiment)
    torch.set_num_threads(experiment.threads)
    memory = f"test_samples = {test_samples}, free_steps = {experiment.free_steps}"
    with enough_memory(memory, experiment.device):
        data = build_data(experiment, data_dir or config.data_dir)
        if sample >= len(data.test):
            raise UsageError(
                f"--sample {sample}: expected a number from 0 to {len(data.test) - 1}, as there "
                f"are {len(data.test)} test samples"
            )
        network = build_network(experiment, data.input_shape, data.classes)
        try:
            checkpoint.restore_model(network)
            found = _look(network, data, experiment, sample, test_samples)
        except (CheckpointError, NonFiniteError) as error:
            raise Failure(f"{run.checkpoint}: {error}") from None
    # A folder's name may hold bytes that are no text.
    name = path.resolve().name.encode(errors="replace").decode()
    epochs = len(checkpoint.history)
    with RunFolder(folder).claimed():
        pictures = _draw(
            found, experiment, f"{name} after {epochs} epoch{'s' * (epochs != 1)}", sample, folder
        )
        numbers = {
            "of": name,
            "epoch": epochs,
            "sample": sample,
            "free_steps": experiment.free_steps,
            "nudged_steps": experiment.nudged_steps,
            "beta": experiment.beta,
            "nudging": "symmetric" if found.phases.symmetric else "one-sided",
            "pictures": pictures,
            **_to_json(found, network),
        }
        # Last: where it lies, everything else does.
        write_atomically(folder / "show.json", (json.dumps(numbers, indent=2) + "\n").encode())
    print(
        json.dumps(numbers) if as_json else f"{', '.join(pictures)} and show.json are in {folder}"
    )
    return 0


def _earlier(folder: Path) -> list[str]:
    """The pictures that lie there as this command's own."""
    try:
        listed = json.loads((folder / "show.json").read_text())["pictures"]
        return [name for name in listed if re.fullmatch(r"[a-z]+(-\d+)?\.png", name)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _require_folder(folder: Path, *, chosen: bool) -> None:
    """Refuse a file, and a folder of the user's choice that has other pictures of these names."""
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise UsageError(
            f"{folder}: expected a folder for the pictures, but {nearest} is a file; choose "
            "another --out"
        )
    if chosen and folder.is_dir():
        mine = _earlier(folder)
        for name in ("kernels.png", *_PICTURES):
            if (folder / name).exists() and name not in mine:
                raise UsageError(
                    f"{folder}: expected a folder without other pictures of these names, found "
                    f"{name}; choose another --out"
                )


@torch.no_grad()
def _look(
    network: LayeredNetwork, data: Dataset, experiment: Experiment, sample: int, test_samples: int
) -> _Findings:
    counts = step_counts(experiment.free_steps)
    horizon = counts[-1]
    count = min(test_samples or len(data.test), len(data.test))
    split = Split(data.test.images[:count], data.test.labels[:count])
    x = data.test.images[sample : sample + 1]
    labels = data.test.labels[sample : sample + 1]
    watched = data.test.images[:_WATCHED]
    with Progress(horizon * (1 - (-count // _AT_ONCE)), "step") as tick:
        return _Findings(
            learned_kernels(network, data.input_shape),
            x,
            int(labels),
            phases(
                network,
                x,
                one_hot(labels, data.classes, x.dtype),
                free_steps=experiment.free_steps,
                nudged_steps=experiment.nudged_steps,
                beta=experiment.beta,
                symmetric=experiment.nudging == "symmetric",
            ),
            torch.cat([s[-1] for s in relax(network, x, horizon, record=True).trajectory]),
            convergence(network, watched, horizon, tick),
            len(watched),
            error_by_step(network, split, counts, batch_size=_AT_ONCE, tick=tick),
        )


def _draw(
    found: _Findings, experiment: Experiment, title: str, sample: int, folder: Path
) -> list[str]:
    """Draw everything; the names of the files."""
    earlier = _earlier(folder)
    from eqprop.pictures import draw_convergence, draw_error_by_step, draw_kernels, draw_phases

    steps = experiment.free_steps
    names = []
    for index, kernels in enumerate(found.kernels, 1):
        names.append("kernels.png" if index == 1 else f"kernels-{index}.png")
        draw_kernels(kernels, title, folder / names[-1])
    for stale in earlier:
        # Of a network with more convolutions, drawn here earlier.
        if stale not in names and stale.startswith("kernels"):
            (folder / stale).unlink(missing_ok=True)
    taken = int(found.phases.free[-1].argmax())
    answer = "" if taken == found.label else f", taken for {taken}"
    draw_phases(
        found.phases,
        found.x,
        found.label,
        f"{title}: test sample {sample}{answer}\n"
        f"T = {steps}, K = {experiment.nudged_steps}, β = {experiment.beta:g}; "
        f"residual after T steps: {found.phases.residual:.1g}",
        folder / "states.png",
    )
    draw_convergence(
        found.convergence,
        found.watched,
        found.outputs,
        found.label,
        steps,
        (f"{title}: free phase", f"test sample {sample}, class {found.label}{answer}"),
        folder / "convergence.png",
    )
    by_step = found.by_step
    at = by_step.error[by_step.steps.index(steps)]
    draw_error_by_step(
        by_step,
        steps,
        f"{title}: {by_step.samples} test samples\n"
        f"test error {at:.2f} % after T = {steps} steps, {by_step.error[-1]:.2f} % after "
        f"{by_step.steps[-1]}",
        folder / "steps.png",
    )
    return [*names, *_PICTURES]


def _to_json(found: _Findings, network: LayeredNetwork) -> dict[str, Any]:
    def largest(layer: Tensor) -> float:
        return float(layer.abs().max())

    traces = found.convergence
    states = zip(found.phases.free, found.phases.nudged, found.phases.difference, strict=True)
    return {
        "kernels": [
            {
                "layer": kernels.layer,
                "upper": list(kernels.upper),
                "lower": list(kernels.lower),
                "size": list(kernels.size),
                "kernel": list(kernels.images.shape[2:]),
                "largest": largest(kernels.images),
            }
            for kernels in found.kernels
        ],
        "states": {
            "label": found.label,
            "residual": found.phases.residual,
            "free": found.phases.free[-1][0].tolist(),
            "nudged": found.phases.nudged[-1][0].tolist(),
            "difference": found.phases.difference[-1][0].tolist(),
            "largest": {
                network.layer_name(index): dict(
                    zip(("free", "nudged", "difference"), map(largest, layer), strict=True)
                )
                for index, layer in enumerate(states)
            },
        },
        "convergence": {
            "samples": found.watched,
            "residual": {
                layer: {"median": list(traces.median[index]), "worst": list(traces.worst[index])}
                for index, layer in enumerate(traces.layers)
            },
            "outputs": found.outputs.tolist(),
        },
        "steps": asdict(found.by_step),
    }
