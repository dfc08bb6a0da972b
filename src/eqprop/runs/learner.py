"""A network and what trains it, made from the settings of an experiment."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, final

import torch

from eqprop.data.augmentation import Augmentation
from eqprop.data.dataset import Dataset, Source
from eqprop.distributed.ranks import Ranks
from eqprop.errors import ConfigurationError
from eqprop.estimators.estimator import Estimator
from eqprop.networks.layered import LayeredNetwork
from eqprop.registries import DATASETS
from eqprop.runs.build import (
    build_augmentation,
    build_estimator,
    build_network,
    build_optimizer,
    build_scheduler,
    torch_device,
)
from eqprop.runs.machine import threads_each
from eqprop.runs.out_of_memory import enough_for
from eqprop.settings.experiment import Experiment
from eqprop.summary import summary
from eqprop.training.checkpoint import Checkpoint
from eqprop.training.loop import Metrics, Running, Unfinished, train

__all__ = ["Learner", "build_learner"]


@final
@dataclass(frozen=True, eq=False)
class Learner:
    """All that an experiment describes, but its data."""

    experiment: Experiment
    network: LayeredNetwork
    optimizer: torch.optim.Optimizer
    estimator: Estimator
    augmentation: Augmentation | None
    generator: torch.Generator

    __repr__ = summary

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: it belongs to another run.
        """
        # What the learning rates are is decided by how many mini-batches are done.
        replace(checkpoint, scheduler=None).restore(self.network, self.optimizer, self.generator)

    def train(
        self,
        data: Dataset,
        begun: Checkpoint | None = None,
        on_batch: Callable[[Running], None] = lambda _: None,
        ranks: Ranks | None = None,
    ) -> Iterator[Metrics]:
        """Train to the last epoch of the experiment.

        It sets the number of CPU threads to that of the experiment; to fewer where the processes of
        this machine would have more than it has cores.

        Args:
            begun: what the learner was restored from, if it was.
            on_batch: called after every mini-batch, and after each of the test.
            ranks: the processes that share every mini-batch.

        Raises:
            NonFiniteError: a state or a parameter stopped being finite.
            Failure: the memory was too small; or, a RankError, another process has gone.
        """
        experiment = self.experiment
        done = 0 if begun is None else len(begun.history)
        left = None if begun is None else begun.unfinished
        batches = -(-len(data.train) // experiment.batch_size)
        batch = done * batches + (0 if left is None else left.batch)
        torch.set_num_threads(threads_each(experiment.threads, 1 if ranks is None else ranks.here))
        with enough_for(experiment):
            yield from train(
                self.network,
                self.estimator,
                self.optimizer,
                data,
                epochs=experiment.epochs,
                batch_size=experiment.batch_size,
                generator=self.generator,
                scheduler=build_scheduler(experiment, self.optimizer, batches, batch),
                augmentation=self.augmentation,
                done=done,
                unfinished=left,
                on_batch=on_batch,
                ranks=ranks,
            )

    def checkpoint(
        self, history: list[dict[str, Any]], unfinished: Unfinished | None = None
    ) -> Checkpoint:
        """The state now: after the epochs of ``history``, or within the next one."""
        return Checkpoint.capture(
            self.network,
            self.optimizer,
            self.generator,
            history,
            self.experiment.to_json(),
            unfinished=unfinished,
        )


def build_learner(experiment: Experiment) -> Learner:
    """The learner of an experiment, before any training.

    It needs no data, only what is known of the data set before it is there: settings that do not go
    together are refused before anything is downloaded.

    Raises:
        ConfigurationError: a device that is not there, a convolution that does not fit, a shift
            that is too large, not one weight for each class.
        UsageError: the estimator refuses a setting.
        Failure: the memory is too small.
    """
    source: Source = DATASETS.load(experiment.dataset)
    if experiment.class_weights and len(experiment.class_weights) != source.classes:
        expected = f"{source.classes} numbers, one for each class of {experiment.dataset}"
        if not source.classes:
            expected = f"none, as {experiment.dataset} has targets that are no classes"
        raise ConfigurationError("class_weights", experiment.class_weights, expected)
    if not source.classes and experiment.cost == "cross-entropy":
        raise ConfigurationError(
            "cost",
            experiment.cost,
            f"squared-error, as {experiment.dataset} has targets that are no classes",
        )
    if not source.classes and experiment.readout == "softmax":
        raise ConfigurationError(
            "readout",
            experiment.readout,
            f"linear or none, as {experiment.dataset} has targets that are no classes",
        )
    network = build_network(experiment, source.input_shape, source.units)
    optimizer = build_optimizer(experiment, network)
    return Learner(
        experiment,
        network,
        optimizer,
        build_estimator(experiment, optimizer),
        build_augmentation(experiment, source.input_shape),
        torch.Generator(torch_device(experiment)).manual_seed(experiment.seed),
    )
