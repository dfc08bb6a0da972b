"""What ``eqprop theorem`` does, once its arguments are known to be good.

It writes, into a new folder:

=====================================  =======================================================
``metrics.json``                       every figure, the settings, versions and hardware
``states.png``, ``parameters.png``     processes of a few neurons and synapses
``layers.png``                         error and signs per layer and parameter
``error-against-beta.png``             log-log, with the slope
``sweep.png``                          error over a grid of settings, if one was asked for
=====================================  =======================================================
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eqprop.agreement import Average, Comparison
from eqprop.build import build_data, build_network, torch_device
from eqprop.checkpoint import CheckpointError, write_atomically
from eqprop.data import one_hot
from eqprop.display import Progress
from eqprop.experiment import Experiment
from eqprop.failures import Failure, UsageError
from eqprop.memory import enough_memory
from eqprop.models import ConvergentModel
from eqprop.relaxation import NonFiniteError
from eqprop.run_folder import RunError, RunFolder, environment, new_folder
from eqprop.theorem import (
    Cell,
    Diagnosis,
    cell_to_json,
    diagnose,
    grid_points,
    sweep,
    ticks,
    to_json,
)
from eqprop.theorem_presets import TheoremSettings
from eqprop.toy import ToyModel

__all__ = ["theorem"]

_SYMBOLS = {"beta": "β", "free_steps": "T", "nudged_steps": "K"}

Batches = list[tuple[Tensor, Tensor]]


def theorem(
    name: str,
    experiment: Experiment | None,
    settings: TheoremSettings,
    *,
    run: Path | None,
    before_training: bool,
    grid: Mapping[str, Sequence[float]],
    out: Path | None,
    data_dir: str | None,
    as_json: bool,
) -> int:
    """Compare EP with BPTT on a network, print the figures and write them into a folder.

    Args:
        name: of the preset, or of the run.
        experiment: the network and its data; none for the toy model.
        settings: how to look.
        run: the folder of the run whose trained network to look at, if any.
        before_training: look at its initial network instead.
        grid: what to sweep, if anything.
        out: the folder to write into.
        data_dir: where the data sets lie.
        as_json: print JSON.
    """
    started = time.perf_counter()
    if out is not None:
        _require_new(out)
    if grid:
        # A point that cannot be is refused before anything is computed.
        list(grid_points(settings, grid))
    trained = run is not None and not before_training
    machine = replace(experiment or Experiment(), device=settings.device)
    device = torch_device(machine)
    torch.set_num_threads(settings.threads)
    with enough_memory(
        f"batches = {settings.batches}, batch_size = {settings.batch_size}", settings.device
    ):
        if experiment is None:
            model, batches = _toy(settings)
        else:
            model, batches = _network(
                replace(machine, dtype="float64", seed=experiment.seed if run else settings.seed),
                settings,
                run=run if trained else None,
                data_dir=data_dir,
            )
    # As early as what can fail for want of data is done: to find out later would waste minutes.
    folder = out or new_folder(f"theorem-{name}")
    with RunFolder(folder).claimed():
        # Something else may have begun there meanwhile.
        _require_new(folder)
        diagnosis, swept = _compute(model, batches, settings, grid)
        metrics = {
            # A folder's name may hold bytes that are no text.
            "of": name.encode(errors="replace").decode(),
            "trained": trained,
            "settings": settings.to_json(),
            "network": None if experiment is None else experiment.to_json(),
            **to_json(diagnosis),
            **({"sweep": [cell_to_json(cell) for cell in swept]} if grid else {}),
            "environment": environment(
                settings.threads,
                torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            ),
            "seconds": time.perf_counter() - started,
        }
        title = _title(metrics["of"], settings)
        _draw(diagnosis, swept, title, metrics["of"], folder)
        # Last: where it lies, everything else does.
        written = json.dumps(metrics, indent=2) + "\n"
        write_atomically(folder / "metrics.json", written.encode())
    if as_json:
        print(json.dumps(metrics))
        return 0
    _print(diagnosis, title)
    if swept:
        _print_sweep(swept)
    print(f"\neverything is in {folder}")
    return 0


def _compute(
    model: ConvergentModel,
    batches: Batches,
    settings: TheoremSettings,
    grid: Mapping[str, Sequence[float]],
) -> tuple[Diagnosis, list[Cell]]:
    cells = len(list(grid_points(settings, grid))) if grid else 0
    taking = f"nudged_steps = {settings.nudged_steps}, batch_size = {settings.batch_size}"
    try:
        with (
            Progress(ticks(settings, cells), "process") as tick,
            enough_memory(taking, settings.device),
        ):
            diagnosis = diagnose(model, batches, settings, tick)
            return diagnosis, sweep(model, batches, settings, grid, tick) if grid else []
    except NonFiniteError as error:
        raise Failure(str(error)) from None


def _require_new(folder: Path) -> None:
    try:
        RunFolder(folder).require_new()
    except RunError as error:
        raise UsageError(str(error)) from None


def _toy(settings: TheoremSettings) -> tuple[ConvergentModel, Batches]:
    """The toy model, its weights, inputs in [0, 1] and one-hot targets drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = ToyModel().to(settings.device, torch.float64)
        batches = [
            (
                torch.rand(settings.batch_size, 10, dtype=torch.float64).to(settings.device),
                one_hot(torch.randint(5, (settings.batch_size,)), 5, torch.float64).to(
                    settings.device
                ),
            )
            for _ in range(settings.batches)
        ]
    return model, batches


def _network(
    experiment: Experiment, settings: TheoremSettings, *, run: Path | None, data_dir: str | None
) -> tuple[ConvergentModel, Batches]:
    """The network, with the weights of a run or those before training, and its mini-batches."""
    checkpoint = None
    if run is not None:
        folder = RunFolder(run)
        checkpoint = folder.read_checkpoint(folder.read_config())
    # Only the mini-batches are needed in float64: the whole set would take twice its memory.
    data = build_data(replace(experiment, dtype="float32"), data_dir)
    network = build_network(experiment, data.input_shape, data.classes)
    if checkpoint is not None:
        try:
            checkpoint.restore_model(network)
        except CheckpointError as error:
            raise Failure(f"{run}: {error}") from None
    wanted = settings.batches * settings.batch_size
    if wanted > len(data.train):
        raise UsageError(
            f"--batches {settings.batches} --batch-size {settings.batch_size}: expected at most "
            f"the {len(data.train)} training samples in all, got {wanted}"
        )
    generator = torch.Generator().manual_seed(settings.seed)
    source = data.train.batches(settings.batch_size, generator)
    batches = [
        (x.to(torch.float64), one_hot(labels, data.classes, torch.float64))
        for _, (x, labels) in zip(range(settings.batches), source, strict=False)
    ]
    return network, batches


def _title(name: str, settings: TheoremSettings) -> str:
    return (
        f"{name}: T = {settings.free_steps}, K = {settings.nudged_steps}, β = {settings.beta:g}"
        f"{', symmetric' if settings.nudging == 'symmetric' else ''}"
    )


def _draw(diagnosis: Diagnosis, swept: Sequence[Cell], title: str, name: str, folder: Path) -> None:
    from eqprop.theorem_plots import (
        draw_error_against_beta,
        draw_layers,
        draw_processes,
        draw_sweep,
    )

    for what in ("states", "parameters"):
        if getattr(diagnosis, what):
            draw_processes(diagnosis, what, title, folder / f"{what}.png")
    draw_layers(diagnosis, title, folder / "layers.png")
    settings = diagnosis.settings
    fixed = f"{name}: T = {settings.free_steps}, K = {settings.nudged_steps}"
    draw_error_against_beta(diagnosis, fixed, folder / "error-against-beta.png")
    if swept:
        others = ", ".join(
            f"{symbol} = {getattr(settings, setting):g}"
            for setting, symbol in _SYMBOLS.items()
            if setting not in swept[0].settings
        )
        draw_sweep(swept, f"{name}: {others}" if others else name, folder / "sweep.png")


def _print(diagnosis: Diagnosis, title: str) -> None:
    settings = diagnosis.settings
    print(
        f"{title}, {settings.batches} mini-batch{'es' * (settings.batches > 1)} of "
        f"{settings.batch_size}, float64"
    )
    for eta, found in zip(diagnosis.etas, diagnosis.by_eta, strict=True):
        print(f"\n{f'η = {eta:g}':<32}  relative error    cosine       angle  equal signs")
        for label, mean, spread in _lines(found):
            error, signs = f"{mean.relative_error:.3g}", f"{100 * mean.sign_agreement:.2f} %"
            if found.batches > 1:
                error += f" ± {spread.relative_error:.1g}"
            print(
                f"{label:<32}  {error:>14}  {mean.cosine:>8.5f}  {mean.angle:>9.3g}°  {signs:>11}"
            )
        spread = f" ± {found.spread.total_update_angle:.1g}" if found.batches > 1 else ""
        print(
            "angle between the total update of EP and minus the total gradient of BPTT, weights: "
            f"{found.mean.total_update_angle:.3g}{spread}°"
        )
    _print_slope(diagnosis)
    premise = diagnosis.premise
    residual = ", ".join(
        f"{layer} {value:.1e}"
        for layer, value in zip(premise.layers, premise.residual, strict=True)
    )
    print(f"residual of the free phase: {residual}")
    if premise.holds:
        print("premise: holds, the free phase was steady")
    for problem in premise.problems:
        print(f"PREMISE FAILS: {problem}")


def _print_slope(diagnosis: Diagnosis) -> None:
    curve = diagnosis.curve
    held = [beta for beta, holds in zip(curve.beta, curve.holds, strict=True) if holds]
    if len(held) < 2:
        print("\nerror against β: no slope, as the premise fails")
        return
    print(
        f"\nerror ∝ β^slope for β from {held[0]:g} to {held[-1]:g}: "
        f"slope {curve.slope(curve.states):.2f} for states, "
        f"{curve.slope(curve.parameters):.2f} for parameters"
    )


def _lines(found: Average) -> list[tuple[str, Any, Any]]:
    def of(comparison: Comparison) -> dict[str, Any]:
        return {
            "states": comparison.states.overall,
            **{f"  {name}": a.overall for name, a in comparison.by_layer.items()},
            "parameters": comparison.parameters.overall,
            **{f"  {name}": a.overall for name, a in comparison.by_parameter.items()},
        }

    mean, spread = of(found.mean), of(found.spread)
    return [(label, mean[label], spread[label]) for label in mean]


def _print_sweep(cells: Sequence[Cell]) -> None:
    names = list(cells[0].settings)
    rows = [
        (
            *(_SYMBOLS[name] for name in names),
            "error states",
            "error parameters",
            "signs states",
            "signs parameters",
            "angle of total",
            "residual",
            "premise",
        )
    ]
    for cell in cells:
        mean = cell.average.mean
        states, parameters = mean.states.overall, mean.parameters.overall
        rows.append(
            (
                *(f"{cell.settings[name]:g}" for name in names),
                f"{states.relative_error:.3g}",
                f"{parameters.relative_error:.3g}",
                f"{100 * states.sign_agreement:.2f} %",
                f"{100 * parameters.sign_agreement:.2f} %",
                f"{mean.total_update_angle:.3g}°",
                f"{max(mean.premise.residual):.1e}",
                "holds" if mean.premise.holds else "FAILS",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for row in rows:
        print("  ".join(word.rjust(width) for word, width in zip(row, widths, strict=True)))
