"""What the commands of the command line do, once their arguments are known to be good."""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import torch

from eqprop.build import (
    build_augmentation,
    build_data,
    build_estimator,
    build_network,
    build_optimizer,
    build_scheduler,
    torch_device,
)
from eqprop.checkpoint import Checkpoint, CheckpointError
from eqprop.display import Display
from eqprop.estimators import AdjointError
from eqprop.evaluation import evaluate as evaluate_split
from eqprop.experiment import ConfigurationError, Experiment
from eqprop.failures import Failure, UsageError
from eqprop.memory import enough_memory
from eqprop.networks import LayeredNetwork
from eqprop.relaxation import NonFiniteError
from eqprop.run_folder import RunError, RunFolder, environment, new_folder
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
    if out is not None:
        _require_new(RunFolder(out))
    if tensorboard:
        _require_tensorboard()
    # Nothing is written before all is there: a run that cannot start leaves no folder.
    trainee = _Trainee(experiment, data_dir)
    folder = RunFolder(out or new_folder(preset))
    with folder.claimed():
        # Another run may have begun there meanwhile.
        _require_new(folder)
        folder.write_config(
            preset,
            experiment,
            environment(experiment.threads, _device(experiment)),
            _kept(data_dir),
        )
        return _run(folder, trainee, as_json=as_json, tensorboard=tensorboard)


def resume(
    path: Path, epochs: int | None, *, data_dir: str | None, as_json: bool, tensorboard: bool
) -> int:
    """Go on with a run, to the end of its epochs or to another number of them."""
    folder = RunFolder(path)
    config = folder.read_config()
    with folder.claimed():
        # Killed in its first epoch, a run has neither a checkpoint nor metrics: it starts anew.
        fresh = not folder.checkpoint.exists() and not folder.has_metrics
        checkpoint = None if fresh else folder.read_checkpoint(config)
        done = len(checkpoint.history) if checkpoint else 0
        experiment = config.experiment
        if epochs is not None:
            if epochs < done:
                raise ConfigurationError("epochs", epochs, f"at least the {done} the run has done")
            if experiment.schedule != "constant" and epochs != experiment.epochs:
                raise ConfigurationError(
                    "epochs",
                    epochs,
                    f"{experiment.epochs}, over which the learning rates of the run fall to 0 "
                    f"(schedule = {experiment.schedule}); start a new run for another number",
                )
            experiment = experiment.override({"epochs": epochs})
        if tensorboard:
            _require_tensorboard()
        trainee = _Trainee(experiment, data_dir or config.data_dir)
        history: list[dict[str, Any]] = []
        if checkpoint is not None:
            with _refusing_foreign(folder):
                checkpoint.restore(trainee.network, trainee.optimizer, trainee.generator)
            history = list(checkpoint.history)
        # Only now that everything fits: a run that cannot be resumed keeps its files as they were.
        folder.write_config(
            config.preset, experiment, config.environment, _kept(data_dir) or config.data_dir
        )
        folder.rewrite_metrics(history)
        return _run(folder, trainee, history, as_json=as_json, tensorboard=tensorboard)


@final
class _Trainee:
    """Everything an experiment needs to be trained."""

    def __init__(self, experiment: Experiment, data_dir: str | None) -> None:
        self.experiment = experiment
        device = torch_device(experiment)
        torch.set_num_threads(experiment.threads)
        with _enough_memory(experiment):
            self.data = build_data(experiment, data_dir)
            self.network = build_network(experiment, self.data.input_shape, self.data.classes)
        self.augmentation = build_augmentation(experiment, self.data.input_shape)
        self.optimizer = build_optimizer(experiment, self.network)
        self.estimator = build_estimator(experiment, self.optimizer)
        self.generator = torch.Generator(device).manual_seed(experiment.seed)


def _run(
    folder: RunFolder,
    trainee: _Trainee,
    history: list[dict[str, Any]] | None = None,
    *,
    as_json: bool,
    tensorboard: bool,
) -> int:
    experiment = trainee.experiment
    history = history or []
    settings = experiment.to_json()
    events = _events(folder) if tensorboard else None
    display = Display(experiment.epochs, len(history))
    try:
        with closing(display), _enough_memory(experiment):
            for metrics in train_epochs(
                trainee.network,
                trainee.estimator,
                trainee.optimizer,
                trainee.data,
                epochs=experiment.epochs,
                batch_size=experiment.batch_size,
                generator=trainee.generator,
                scheduler=build_scheduler(
                    experiment, trainee.optimizer, len(trainee.data.train), len(history)
                ),
                augmentation=trainee.augmentation,
                done=len(history),
                on_batch=display.batch,
            ):
                history.append(asdict(metrics))
                folder.store(
                    Checkpoint.capture(
                        trainee.network, trainee.optimizer, trainee.generator, history, settings
                    )
                )
                display.epoch(metrics)
                if events is not None:
                    for name in ("train_error", "test_error", "train_loss", "test_loss"):
                        events.add_scalar(name, history[-1][name], metrics.epoch)
                    for index, angle in enumerate(metrics.weight_angles, 1):
                        events.add_scalar(f"weight_angle/{index}", angle, metrics.epoch)
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
            f"go on with: eqprop train --resume {shlex.quote(str(folder.path))}"
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
    path: Path,
    *,
    split: str,
    free_steps: int | None,
    device: str | None,
    data_dir: str | None,
    as_json: bool,
) -> int:
    """Measure the error of a trained network."""
    folder = RunFolder(path)
    config = folder.read_config()
    checkpoint = folder.read_checkpoint(config)
    experiment = config.experiment.override({} if device is None else {"device": device})
    steps = free_steps or experiment.free_steps
    trainee = _Trainee(experiment, data_dir or config.data_dir)
    try:
        with _refusing_foreign(folder), _enough_memory(experiment):
            checkpoint.restore_model(trainee.network)
            found = evaluate_split(
                trainee.network,
                trainee.data.train if split == "train" else trainee.data.test,
                steps,
                tolerance=experiment.tolerance,
                residual=True,
            )
    except NonFiniteError as error:
        raise Failure(f"{folder.checkpoint}: {error}") from None
    if as_json:
        print(json.dumps({"epoch": len(checkpoint.history), "split": split, **asdict(found)}))
    else:
        print(
            f"{split} error {found.error:.2f} % of {found.samples} samples, loss {found.loss:.4f}, "
            f"after {len(checkpoint.history)} epochs\n"
            f"residual of the free phase after {steps} steps: "
            + _residuals(trainee.network, found.residual)
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
        with _enough_memory(experiment):
            rows.append(measure(name, experiment))
        if not as_json:
            if len(rows) == 1:
                print(
                    "preset       estimator  device  threads  ms/batch        u  step ÷ bare  "
                    "peak MiB"
                )
            row = rows[-1]
            print(
                f"{row['preset']:<12} {row['estimator']:<10} {row['device']:<7} "
                f"{row['threads']:>7} {row['ms_per_batch']:>9.2f} {row['u']:>8.1f} "
                f"{_ratio(row):>12} {row['peak_mib']:>9.0f}",
                flush=True,
            )
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print(
            f"u = {rows[-1]['u_microseconds']:.0f} µs; step ÷ bare: a step of the network relative "
            "to its matrix products and convolutions alone"
        )
    return 0


def _ratio(row: Mapping[str, Any]) -> str:
    return f"{row['step_ms'] / row['bare_ms']:.2f}" if row["bare_ms"] else "–"


def _kept(data_dir: str | None) -> str | None:
    """Where the data lies, as it is to be remembered."""
    return None if data_dir is None else str(Path(data_dir).expanduser().absolute())


def _require_new(folder: RunFolder) -> None:
    try:
        folder.require_new()
    except RunError as error:
        raise UsageError(str(error)) from None


@contextmanager
def _refusing_foreign(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise Failure(f"{folder.checkpoint}: {error}") from None


def _enough_memory(experiment: Experiment) -> AbstractContextManager[None]:
    sizes = {"channels": experiment.channels, "hidden": experiment.hidden}
    layers = "".join(f"{name} = {' '.join(map(str, n))}, " for name, n in sizes.items() if n)
    return enough_memory(
        f"{layers}batch_size = {experiment.batch_size}",
        experiment.device,
    )


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
