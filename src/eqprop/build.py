"""Makes the objects that an :class:`~eqprop.experiment.Experiment` describes."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

import torch
from torch.optim.lr_scheduler import LambdaLR

from eqprop.augmentation import Augmentation, random_shift
from eqprop.connections import convolutional, untied
from eqprop.data import Dataset, load_dataset
from eqprop.estimators import (
    BPTT,
    ContinualEP,
    EquilibriumPropagation,
    Estimator,
    RecurrentBackprop,
)
from eqprop.experiment import ConfigurationError, Experiment
from eqprop.networks import LayeredNetwork, PrototypicalNetwork, RealTimeNetwork

__all__ = [
    "build_augmentation",
    "build_data",
    "build_estimator",
    "build_network",
    "build_optimizer",
    "build_scheduler",
    "torch_device",
    "torch_dtype",
]


def torch_device(experiment: Experiment) -> torch.device:
    """The device to train on.

    Raises:
        ConfigurationError: torch has no such device.
    """
    device = torch.device(experiment.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(
            "device",
            experiment.device,
            f"cpu, or one of the {torch.cuda.device_count()} CUDA devices that torch finds",
        )
    return device


def torch_dtype(experiment: Experiment) -> torch.dtype:
    """The dtype to compute in."""
    return {"float32": torch.float32, "float64": torch.float64}[experiment.dtype]


def build_data(experiment: Experiment, data_dir: str | None = None) -> Dataset:
    """The data set, whole, on the device; see :func:`~eqprop.data.load_dataset`."""
    return load_dataset(
        experiment.dataset, data_dir, torch_device(experiment), torch_dtype(experiment)
    )


def build_network(
    experiment: Experiment, input_shape: Sequence[int], classes: int
) -> LayeredNetwork:
    """The network on the device, its initial weights drawn from the seed alone.

    They are drawn on the CPU in float32, so that they are the same for every device and dtype.

    Args:
        input_shape: (C, H, W).
        classes: units of the output layer.

    Raises:
        ConfigurationError: a convolution that does not fit on what lies below it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        try:
            connections = convolutional(
                input_shape,
                experiment.channels,
                *experiment.hidden,
                classes,
                kernel=experiment.kernel,
                stride=experiment.stride,
                padding=experiment.padding,
                pool=experiment.pool,
                pooling=experiment.pooling,
            )
        except ValueError as error:
            raise ConfigurationError(
                "channels",
                experiment.channels,
                f"convolutions that fit on each other; {error}; choose a smaller kernel or pool, "
                "more padding, or fewer layers",
            ) from None
        if experiment.weight_angle is not None:
            # Once all forward weights are drawn, so that they are those of the tied network.
            connections = untied(connections, experiment.weight_angle)
    network: LayeredNetwork
    if experiment.network == "prototypical":
        network = PrototypicalNetwork(
            connections, experiment.activation, updates=experiment.updates
        )
    else:
        network = RealTimeNetwork(
            connections,
            experiment.activation,
            epsilon=experiment.epsilon,
            clip=(0.0, 1.0) if experiment.clip else None,
            updates=experiment.updates,
        )
    return network.to(torch_device(experiment), torch_dtype(experiment))


def build_estimator(experiment: Experiment, optimizer: torch.optim.Optimizer) -> Estimator:
    """The estimator of the gradients; continual updates are the optimizer's."""
    if experiment.estimator == "bptt":
        return BPTT(experiment.free_steps, experiment.nudged_steps, experiment.tolerance)
    if experiment.estimator == "rbp":
        return RecurrentBackprop(experiment.free_steps, tolerance=experiment.tolerance)
    if experiment.estimator == "c-ep":
        return ContinualEP(
            optimizer,
            experiment.free_steps,
            experiment.nudged_steps,
            experiment.beta,
            # Experiment has refused the third.
            cast("Literal['one-sided', 'random-sign']", experiment.nudging),
            experiment.tolerance,
        )
    return EquilibriumPropagation(
        experiment.free_steps,
        experiment.nudged_steps,
        experiment.beta,
        experiment.nudging,
        experiment.tolerance,
    )


def build_optimizer(experiment: Experiment, network: LayeredNetwork) -> torch.optim.Optimizer:
    """The optimizer, with one learning rate per layer."""
    groups = network.parameter_groups(experiment.learning_rates)
    return torch.optim.Adam(groups) if experiment.optimizer == "adam" else torch.optim.SGD(groups)


def build_scheduler(
    experiment: Experiment, optimizer: torch.optim.Optimizer, samples: int, done: int = 0
) -> LambdaLR | None:
    """What sets the learning rates after every mini-batch, if they change.

    ``cosine`` multiplies them by ½ (1 + cos πp), p from 0 to 1 over all epochs.

    Args:
        samples: in the training data.
        done: epochs completed earlier.
    """
    if experiment.schedule == "constant":
        return None
    batches = -(-samples // experiment.batch_size)
    for group in optimizer.param_groups:
        # Where the optimizer comes from a checkpoint, "lr" is what it was then.
        group.setdefault("initial_lr", group["lr"])
    factor = partial(_cosine, total=experiment.epochs * batches)
    return LambdaLR(optimizer, factor, last_epoch=done * batches - 1)


def _cosine(batch: int, total: int) -> float:
    return (1 + math.cos(math.pi * min(batch / total, 1))) / 2


def build_augmentation(experiment: Experiment, input_shape: Sequence[int]) -> Augmentation | None:
    """What happens to training images (C, H, W) before they are learnt, if anything.

    Raises:
        ConfigurationError: a shift that can move an image out of itself.
    """
    if experiment.shift >= min(input_shape[1:]):
        raise ConfigurationError(
            "shift",
            experiment.shift,
            f"less than the {min(input_shape[1:])} pixels of the images' side",
        )
    return partial(random_shift, pixels=experiment.shift) if experiment.shift else None
