"""Makes the objects that an :class:`~eqprop.experiment.Experiment` describes."""

import torch

from eqprop.connections import dense
from eqprop.data import Dataset, load_dataset
from eqprop.estimators import BPTT, EquilibriumPropagation, Estimator, RecurrentBackprop
from eqprop.experiment import ConfigurationError, Experiment
from eqprop.networks import LayeredNetwork, PrototypicalNetwork, RealTimeNetwork

__all__ = [
    "build_data",
    "build_estimator",
    "build_network",
    "build_optimizer",
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


def build_network(experiment: Experiment, input_size: int, classes: int) -> LayeredNetwork:
    """The network on the device, its initial weights drawn from the seed alone.

    They are drawn on the CPU in float32, so that they are the same for every device and dtype.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        connections = dense(input_size, *experiment.hidden, classes)
    network: LayeredNetwork
    if experiment.network == "prototypical":
        network = PrototypicalNetwork(connections, experiment.activation)
    else:
        network = RealTimeNetwork(
            connections,
            experiment.activation,
            epsilon=experiment.epsilon,
            clip=(0.0, 1.0) if experiment.clip else None,
        )
    return network.to(torch_device(experiment), torch_dtype(experiment))


def build_estimator(experiment: Experiment) -> Estimator:
    """The estimator of the gradients."""
    if experiment.estimator == "bptt":
        return BPTT(experiment.free_steps, experiment.nudged_steps, experiment.tolerance)
    if experiment.estimator == "rbp":
        return RecurrentBackprop(experiment.free_steps, tolerance=experiment.tolerance)
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
