"""A network and what trains it, made from the settings of an experiment."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch

from eqprop.data.augmentation import Augmentation
from eqprop.data.dataset import Dataset, Source
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
from eqprop.runs.out_of_memory import enough_for
from eqprop.settings.experiment import Experiment
from eqprop.summary import summary
from eqprop.training.checkpoint import Checkpoint
from eqprop.training.loop import Metrics, Running, train

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
        checkpoint.restore(self.network, self.optimizer, self.generator)

    def train(
        self,
        data: Dataset,
        history: Sequence[dict[str, Any]] = (),
        on_batch: Callable[[Running], None] | None = None,
    ) -> Iterator[tuple[Metrics, Checkpoint]]:
        """Train to the last epoch of the experiment; every epoch gives its metrics and its state.

        It sets the number of CPU threads to that of the experiment.

        Args:
            history: the metrics of epochs completed earlier.
            on_batch: called after every mini-batch.

        Raises:
            NonFiniteError: a state or a parameter stopped being finite.
            Failure: the memory was too small.
        """
        experiment, done = self.experiment, len(history)
        history = list(history)
        samples = len(data.train)
        torch.set_num_threads(experiment.threads)
        with enough_for(experiment):
            for metrics in train(
                self.network,
                self.estimator,
                self.optimizer,
                data,
                epochs=experiment.epochs,
                batch_size=experiment.batch_size,
                generator=self.generator,
                scheduler=build_scheduler(experiment, self.optimizer, samples, done),
                augmentation=self.augmentation,
                done=done,
                on_batch=on_batch,
            ):
                history.append(asdict(metrics))
                yield (
                    metrics,
                    Checkpoint.capture(
                        self.network,
                        self.optimizer,
                        self.generator,
                        history,
                        experiment.to_json(),
                    ),
                )


def build_learner(experiment: Experiment) -> Learner:
    """The learner of an experiment, before any training.

    It needs no data, only what is known of the data set before it is there: settings that do not go
    together are refused before anything is downloaded.

    Raises:
        ConfigurationError: a device that is not there, a convolution that does not fit, a shift
            that is too large.
        UsageError: the estimator refuses a setting.
        Failure: the memory is too small.
    """
    source: Source = DATASETS.load(experiment.dataset)
    network = build_network(experiment, source.input_shape, source.classes)
    optimizer = build_optimizer(experiment, network)
    return Learner(
        experiment,
        network,
        optimizer,
        build_estimator(experiment, optimizer),
        build_augmentation(experiment, source.input_shape),
        torch.Generator(torch_device(experiment)).manual_seed(experiment.seed),
    )
