"""A training run, opened: its network with the weights of its checkpoint, and its data."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from eqprop.core.phases import relax
from eqprop.core.stepping import NonFiniteError
from eqprop.data.dataset import Dataset, Split
from eqprop.data.inputs import Inputs
from eqprop.errors import Failure, shown
from eqprop.networks.layered import LayeredNetwork
from eqprop.runs.build import build_data, build_network
from eqprop.runs.folder import RunConfig, RunError, RunFolder
from eqprop.settings.experiment import Experiment
from eqprop.training.checkpoint import Checkpoint

__all__ = ["TrainedRun", "open_run"]

_AT_ONCE = 500
"""Inputs that settle at once."""


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
        inputs: how its inputs are scaled, and what its classes are called.

    ``data``, that of the run, is loaded when it is first asked for.
    """

    folder: RunFolder
    config: RunConfig
    experiment: Experiment
    checkpoint: Checkpoint | None
    network: LayeredNetwork
    inputs: Inputs
    _load: Callable[[Experiment], Dataset]

    @cached_property
    def data(self) -> Dataset:
        """The data of the run; its ``test`` are the validation samples, if it has set some aside.

        Raises:
            Failure: it is not to be had, or the memory is too small.
        """
        return self._load(self.experiment)

    @cached_property
    def test(self) -> Split:
        """The test samples, which a run with validation samples has never looked at.

        Raises:
            Failure: they are not to be had, or the memory is too small.
        """
        if not self.experiment.validation_share:
            return self.data.test
        whole = self._load(self.experiment.override({"validation_share": 0.0, "normalize": None}))
        # Normalised by what was learnt from, which is not all that could have been.
        test = whole.test
        images = self.inputs.normalized(test.images)
        return Split(images, test.labels, regression=test.regression)

    @torch.no_grad()
    def outputs(self, raw: Any) -> Tensor:
        """ŷ of every raw input, (B, classes) or (B, targets), such as images (B, C, H, W) of bytes.

        They are scaled as the data of the run was, and settle as in its training. Images of a
        :class:`~eqprop.data.dataset.Dataset` are scaled already: for those see
        :func:`~eqprop.training.evaluation.predict`.

        Raises:
            ValueError: inputs of another shape than those of the run.

        Warns:
            UserWarning: inputs that have probably been scaled already.
        """
        like = next(self.network.parameters())
        x = self.inputs.prepared(torch.as_tensor(np.asarray(raw))).to(like)
        of = self.experiment
        found = []
        for part in x.split(_AT_ONCE):
            free = relax(self.network, part, of.free_steps, tolerance=of.tolerance)
            found.append(self.network.prediction(free.state))
        return torch.cat(found)

    def predict(self, raw: Any) -> Tensor:
        """The class of every raw input, (B,): the largest of :meth:`outputs`; of a regression these
        themselves, (B, targets)."""
        outputs = self.outputs(raw)
        return outputs.argmax(1) if self.inputs.classes else outputs

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

    The class of an image is ``run.predict(images)``, with images (B, C, H, W) of bytes; it needs
    no data.

    Args:
        path: the folder.
        changes: settings with other values than in the run, such as the device.
        data_dir: where data sets lie, if not where the run has found its own.
        before_training: with the weights that training began with; no checkpoint is needed.

    Raises:
        RunError: the folder is not that of a run, or has no checkpoint yet; or, once its data is
            asked for, that has other classes than it had.
        CheckpointError: its checkpoint is damaged, or that of another network.
        ConfigurationError: a change that is not allowed.
        Failure: of a run without ``inputs.json``, the data is not to be had; or the memory is too
            small.
    """
    folder = RunFolder(Path(path))
    config = folder.read_config()
    checkpoint = None if before_training else folder.read_checkpoint(config)
    experiment = config.experiment.override(changes or {})
    torch.set_num_threads(experiment.threads)

    @cache
    def load(of: Experiment) -> Dataset:
        found = build_data(of, data_dir or config.data_dir)
        if of.dataset == config.experiment.dataset:
            folder.require_same_inputs(found.inputs)
        return found

    inputs = folder.read_inputs() or load(experiment).inputs
    if inputs is None:
        raise RunError(
            f"{folder.path}: expected data whose inputs are known, got {experiment.dataset}"
        )
    network = build_network(experiment, inputs.shape, inputs.units)
    if checkpoint is not None:
        checkpoint.restore_model(network)
    return TrainedRun(folder, config, experiment, checkpoint, network, inputs, load)
