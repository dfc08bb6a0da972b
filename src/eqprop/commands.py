"""What the commands of the command line do, once their arguments are known to be good."""

import json
import math
import sys
import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from eqprop.archives import DataError
from eqprop.build import (
    build_data,
    build_estimator,
    build_network,
    build_optimizer,
    torch_device,
)
from eqprop.checkpoint import Checkpoint, CheckpointError
from eqprop.cli import Failure, UsageError
from eqprop.data import Dataset
from eqprop.display import Display
from eqprop.estimators import AdjointError
from eqprop.evaluation import evaluate as evaluate_split
from eqprop.experiment import ConfigurationError, Experiment
from eqprop.networks import LayeredNetwork
from eqprop.relaxation import NonFiniteError
from eqprop.run_folder import RunError, RunFolder, environment
from eqprop.training import train as train_epochs

__all__ = ["bench", "evaluate", "resume", "train"]


def train(
    preset: str,
    experiment: Experiment,
    *,
    out: Path | None,
    data_dir: str | None,
    as_json: bool,
    tensorboard: bool,
) -> int:
    """Train from the start, in a new folder."""
    folder = RunFolder(out or Path("runs") / f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        folder.require_new()
    except RunError as error:
        raise UsageError(str(error)) from None
    torch_device(experiment)
    if tensorboard:
        _require_tensorboard()
    # Nothing is written before the data is there: a run that cannot start leaves no folder.
    data = _data(experiment, data_dir)
    folder.write_config(preset, experiment, environment(experiment.threads, _device(experiment)))
    return _run(folder, experiment, data, None, as_json=as_json, tensorboard=tensorboard)


def resume(
    path: Path, epochs: int | None, *, data_dir: str | None, as_json: bool, tensorboard: bool
) -> int:
    """Go on with a run, to the end of its epochs or to another number of them."""
    folder = RunFolder(path)
    try:
        preset, experiment, surroundings = folder.read_config()
        # Killed in its first epoch, a run has neither a checkpoint nor metrics: it starts anew.
        fresh = not folder.checkpoint.exists() and not folder.metrics.exists()
        checkpoint = None if fresh else Checkpoint.load(folder.checkpoint)
    except (RunError, CheckpointError) as error:
        raise Failure(str(error)) from None
    done = len(checkpoint.history) if checkpoint else 0
    if epochs is not None and epochs != experiment.epochs:
        if epochs < done:
            raise ConfigurationError("epochs", epochs, f"at least the {done} the run has done")
        experiment = replace(experiment, epochs=epochs)
    torch_device(experiment)
    if tensorboard:
        _require_tensorboard()
    data = _data(experiment, data_dir)
    return _run(
        folder,
        experiment,
        data,
        checkpoint,
        as_json=as_json,
        tensorboard=tensorboard,
        config=(preset, surroundings),
    )


def _run(
    folder: RunFolder,
    experiment: Experiment,
    data: Dataset,
    checkpoint: Checkpoint | None,
    *,
    as_json: bool,
    tensorboard: bool,
    config: tuple[str, dict[str, Any]] | None = None,
) -> int:
    torch.set_num_threads(experiment.threads)
    network = build_network(experiment, math.prod(data.input_shape), data.classes)
    estimator = build_estimator(experiment)
    optimizer = build_optimizer(experiment, network)
    generator = torch.Generator(torch_device(experiment)).manual_seed(experiment.seed)
    history: list[dict[str, Any]] = []
    if checkpoint is not None:
        try:
            checkpoint.restore(network, optimizer, generator)
        except CheckpointError as error:
            raise Failure(f"{folder.checkpoint}: {error}") from None
        history = list(checkpoint.history)
    if config is not None:
        # Only now that everything fits: a run that cannot be resumed keeps its files as they were.
        folder.write_config(config[0], experiment, config[1])
        folder.rewrite_metrics(history)

    events = _events(folder) if tensorboard else None
    epochs = train_epochs(
        network,
        estimator,
        optimizer,
        data,
        epochs=experiment.epochs,
        batch_size=experiment.batch_size,
        generator=generator,
        done=len(history),
        on_batch=(display := Display(experiment.epochs, len(history))).batch,
    )
    try:
        with closing(display):
            for metrics in epochs:
                history.append(asdict(metrics))
                folder.store(Checkpoint.capture(network, optimizer, generator, history))
                display.epoch(metrics)
                if events is not None:
                    for name in ("train_error", "test_error", "train_loss", "test_loss"):
                        events.add_scalar(name, history[-1][name], metrics.epoch)
    except torch.OutOfMemoryError:
        raise Failure(
            f"{experiment.device}: expected room for mini-batches of {experiment.batch_size}, "
            "found too little memory; lower batch_size or hidden"
        ) from None
    except (NonFiniteError, AdjointError) as error:
        kept = (
            f"the state after epoch {len(history)} is kept in {folder.checkpoint}"
            if history
            else "there is no earlier state to keep"
        )
        raise Failure(f"epoch {len(history) + 1}: {error} ({kept})") from None
    except KeyboardInterrupt:
        raise Failure(
            f"stopped in epoch {len(history) + 1} of {experiment.epochs}; "
            f"go on with: eqprop train --resume {folder.path}"
        ) from None
    finally:
        if events is not None:
            events.close()
        if history:
            _draw(folder, history)
    if as_json:
        print(json.dumps(history[-1]))
    else:
        print(
            f"test error {history[-1]['test_error']:.2f} % after {len(history)} epochs "
            f"({sum(entry['seconds'] for entry in history):.0f} s); everything is in {folder.path}"
        )
    return 0


def evaluate(
    path: Path, *, split: str, overrides: dict[str, Any], data_dir: str | None, as_json: bool
) -> int:
    """Measure the error of a trained network."""
    folder = RunFolder(path)
    try:
        _, experiment, _ = folder.read_config()
        checkpoint = Checkpoint.load(folder.checkpoint)
    except (RunError, CheckpointError) as error:
        raise Failure(str(error)) from None
    experiment = experiment.override(overrides)
    torch_device(experiment)
    torch.set_num_threads(experiment.threads)
    data = _data(experiment, data_dir)
    network = build_network(experiment, math.prod(data.input_shape), data.classes)
    try:
        checkpoint.restore_model(network)
        found = evaluate_split(
            network,
            data.train if split == "train" else data.test,
            experiment.free_steps,
            tolerance=experiment.tolerance,
            residual=True,
        )
    except (CheckpointError, NonFiniteError) as error:
        raise Failure(f"{folder.checkpoint}: {error}") from None
    if as_json:
        print(json.dumps({"epoch": len(checkpoint.history), "split": split, **asdict(found)}))
    else:
        print(
            f"{split} error {found.error:.2f} % of {found.samples} samples, loss {found.loss:.4f}, "
            f"after {len(checkpoint.history)} epochs\n"
            f"residual of the free phase after {experiment.free_steps} steps: "
            + _residuals(network, found.residual)
        )
    return 0


def bench(experiments: list[tuple[str, Experiment]], *, as_json: bool) -> int:
    """Measure the time of a training mini-batch of each experiment."""
    from eqprop.benchmark import measure

    rows = []
    for name, experiment in experiments:
        torch_device(experiment)
        if sys.stderr.isatty():
            print(f"measuring {name} …", end="\r", file=sys.stderr, flush=True)
        rows.append(measure(name, experiment))
        if not as_json:
            if len(rows) == 1:
                print("preset    estimator  device  threads  ms/batch        u  peak MiB")
            row = rows[-1]
            print(
                f"{row['preset']:<9} {row['estimator']:<10} {row['device']:<7} "
                f"{row['threads']:>7} {row['ms_per_batch']:>9.2f} {row['u']:>8.1f} "
                f"{row['peak_mib']:>9.0f}",
                flush=True,
            )
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print(f"u = {rows[-1]['u_microseconds']:.0f} µs")
    return 0


def _data(experiment: Experiment, data_dir: str | None) -> Dataset:
    try:
        return build_data(experiment, data_dir)
    except DataError as error:
        raise Failure(str(error)) from None


def _device(experiment: Experiment) -> str:
    device = torch_device(experiment)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _residuals(network: LayeredNetwork, residual: tuple[float, ...]) -> str:
    return ", ".join(
        f"{network.layer_name(index)} {value:.1e}" for index, value in enumerate(residual)
    )


def _draw(folder: RunFolder, history: list[dict[str, Any]]) -> None:
    from eqprop.plots import draw_curves

    draw_curves(history, folder.curves)


def _require_tensorboard() -> None:
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise UsageError(
            "--tensorboard: expected the tensorboard package, found none; "
            "install it with: pip install 'eqprop[tensorboard]'"
        ) from None


def _events(folder: RunFolder) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder.path / "tensorboard"))
