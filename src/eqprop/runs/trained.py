"""A training run, opened: its network with the weights of its checkpoint, and its data."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from eqprop.core.stepping import NonFiniteError
from eqprop.data.dataset import Dataset
from eqprop.errors import Failure, shown
from eqprop.networks.layered import LayeredNetwork
from eqprop.runs.build import build_data, build_network
from eqprop.runs.folder import RunConfig, RunFolder
from eqprop.settings.experiment import Experiment
from eqprop.training.checkpoint import Checkpoint

__all__ = ["TrainedRun", "open_run"]


@final
@dataclass(frozen=True, eq=False)
class TrainedRun:
    """What a run has left, ready to be looked at.

    Attributes:
        folder: where it lies.
        config: what it was trained with.
        experiment: the same with what was changed since, to look at it.
        checkpoint: its last one; none of a network as it began.
        network: with the weights of the checkpoint.
        data: of the run.
    """

    folder: RunFolder
    config: RunConfig
    experiment: Experiment
    checkpoint: Checkpoint | None
    network: LayeredNetwork
    data: Dataset

    @property
    def epochs(self) -> int:
        """How many the network has trained to their end."""
        return 0 if self.checkpoint is None else len(self.checkpoint.history)

    @property
    def trained(self) -> str:
        """How long it has trained, in words."""
        return "0 epochs" if self.checkpoint is None else self.checkpoint.place

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Within it, a state that stops being finite is the checkpoint's, or that of what was
        changed since; messages name both.

        Raises:
            Failure: one did.
        """
        try:
            yield
        except NonFiniteError as error:
            changed = self.experiment.differences(self.config.experiment)
            said = ", ".join(f"{name} = {shown(value)}" for name, value in changed.items())
            of = f"{self.folder.checkpoint}{said and f' with {said}'}"
            raise Failure(f"{of}: {error}") from None


def open_run(
    path: str | Path,
    changes: Mapping[str, Any] | None = None,
    *,
    data_dir: str | None = None,
    before_training: bool = False,
) -> TrainedRun:
    """Open the folder of a run, which may go on with its training meanwhile.

    It sets the number of CPU threads to that of the experiment.

    Example: to measure the error of a trained network, and to look at one of its states::

        run = eqprop.open_run("runs/p-1h-20260101-120000")
        T = run.experiment.free_steps
        print(run.network, eqprop.evaluate(run.network, run.data.test, T).error)
        free = eqprop.relax(run.network, run.data.test.images[:20], T)

    Args:
        path: the folder.
        changes: settings with other values than in the run, such as the device.
        data_dir: where data sets lie, if not where the run has found its own.
        before_training: with the weights that training began with; no checkpoint is needed.

    Raises:
        RunError: the folder is not that of a run, or has no checkpoint yet.
        CheckpointError: its checkpoint is damaged, or that of another network.
        ConfigurationError: a change that is not allowed.
        Failure: the data is not to be had, or the memory is too small.
    """
    folder = RunFolder(Path(path))
    config = folder.read_config()
    checkpoint = None if before_training else folder.read_checkpoint(config)
    experiment = config.experiment.override(changes or {})
    torch.set_num_threads(experiment.threads)
    data = build_data(experiment, data_dir or config.data_dir)
    network = build_network(experiment, data.input_shape, data.classes)
    if checkpoint is not None:
        checkpoint.restore_model(network)
    return TrainedRun(folder, config, experiment, checkpoint, network, data)
