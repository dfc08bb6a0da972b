"""Makes the objects that an :class:`~eqprop.settings.experiment.Experiment` describes."""

import math
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from inspect import Parameter, signature
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from eqprop.core.costs import Cost, Weighted
from eqprop.core.models import ConvergentModel
from eqprop.data.augmentation import Augmentation, random_flip, random_shift
from eqprop.data.dataset import Dataset, load_dataset
from eqprop.errors import ConfigurationError, Failure, UsageError
from eqprop.estimators.dynamics import NudgedDynamics
from eqprop.estimators.estimator import Estimator
from eqprop.estimators.homeostasis import Homeostatic
from eqprop.hardware.binary import BinaryWeights
from eqprop.hardware.mismatch import mismatched
from eqprop.hardware.noise import noisy
from eqprop.hardware.writes import DeviceWrites
from eqprop.networks.connections.chains import convolutional, untied
from eqprop.networks.connections.connection import Connection
from eqprop.networks.connections.dense import Dense
from eqprop.networks.connections.feedback import feedback
from eqprop.networks.connections.untied import Untied
from eqprop.networks.graph import Edges
from eqprop.networks.layered import LayeredNetwork, Updates
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from eqprop.registries import COSTS, ESTIMATORS
from eqprop.runs.out_of_memory import enough_for
from eqprop.settings.experiment import Experiment

__all__ = [
    "build_augmentation",
    "build_cost",
    "build_data",
    "build_estimator",
    "build_network",
    "build_optimizer",
    "build_scheduler",
    "nudged_dynamics",
    "torch_device",
    "torch_dtype",
]


_REST = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


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
    """The data set, whole, on the device; see :func:`~eqprop.data.dataset.load_dataset`.

    Raises:
        ConfigurationError: torch has no such device.
        DataError: it is not to be had.
        Failure: nothing can be learnt from it, or the memory is too small.
    """
    device = torch_device(experiment)
    try:
        with enough_for(experiment):
            return load_dataset(
                experiment.dataset,
                data_dir,
                device,
                torch_dtype(experiment),
                test_share=experiment.test_share,
                validation_share=experiment.validation_share,
                seed=experiment.seed,
                normalize=experiment.normalize,
            )
    except ValueError as error:
        raise Failure(str(error)) from None


def build_network(experiment: Experiment, input_shape: Sequence[int], units: int) -> LayeredNetwork:
    """The network on the device, its initial weights drawn from the seed alone.

    They are drawn on the CPU in float32, so that they are the same for every device and dtype.

    Args:
        input_shape: of one input; (C, H, W) where there are convolutions.
        units: of the output layer, one for every class or target.

    Raises:
        ConfigurationError: a convolution that does not fit on what lies below it.
        UsageError: an activation that the network refuses.
        Failure: the memory is too small.
    """
    with enough_for(experiment), torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        chain = [*_connections(experiment, input_shape, units)]
        links = _links(experiment, chain)
        readout = None if experiment.readout == "none" else _readout(experiment, chain.pop())
        layers: list[nn.Module] = [*chain, *([] if readout is None else [readout]), *links]
        for layer, gain in zip(layers, _per_layer(experiment.gains, len(layers)), strict=True):
            for parameter in layer.parameters():
                parameter.data.mul_(gain)
        if experiment.output_bias is not None:
            _bias(chain[-1]).data.fill_(experiment.output_bias)
        ends = _ends(experiment, len(chain))
        connections = [*chain, *links]
        if experiment.feedback != 1 or experiment.synapse_spread:
            connections = feedback(
                connections, experiment.feedback, experiment.synapse_spread, levels=ends
            )
        network = _network(
            experiment, connections if not links else _edges(connections, ends), readout
        )
        network = _as_built(experiment, network)
        return network.to(torch_device(experiment), torch_dtype(experiment))


def _links(experiment: Experiment, chain: Sequence[Connection]) -> list[Connection]:
    """The connections besides those of the chain."""
    shapes = [chain[0].lower_shape, *(connection.upper_shape for connection in chain)]
    links: list[Connection] = []
    for link in experiment.links:
        low, high = map(int, link.split("-"))
        connection = Dense(shapes[low], math.prod(shapes[high]))
        tied = low == 0 or experiment.weight_angle is None
        links.append(connection if tied else Untied(connection, experiment.weight_angle or 0.0))
    return links


def _ends(experiment: Experiment, layers: int) -> list[tuple[int, int]]:
    """Of the connections of the chain, then of the links, 0 the input."""
    links = [link.split("-") for link in experiment.links]
    return [*((i, i + 1) for i in range(layers)), *((int(low), int(high)) for low, high in links)]


def _edges(connections: Sequence[Connection], ends: Sequence[tuple[int, int]]) -> Edges:
    """A graph of layers that have their numbers."""
    return [
        (str(low) if low else "input", connection, str(high))
        for connection, (low, high) in zip(connections, ends, strict=True)
    ]


def _as_built(experiment: Experiment, network: LayeredNetwork) -> LayeredNetwork:
    """The network with what its devices add."""
    found: ConvergentModel = network
    if experiment.gain_spread or experiment.offset_spread:
        found = mismatched(
            found, experiment.gain_spread, experiment.offset_spread, seed=experiment.seed
        )
    if experiment.state_noise:
        found = noisy(found, experiment.state_noise, seed=experiment.seed)
    assert isinstance(found, LayeredNetwork)
    return found


def _readout(experiment: Experiment, last: Connection) -> nn.Module:
    """What reads the last hidden layer, with the weights that the output layer would have had."""
    dense = last.upward if isinstance(last, Untied) else last
    weights = dict(dense.named_parameters())
    linear = nn.Linear(math.prod(last.lower_shape), math.prod(last.upper_shape))
    for name, parameter in linear.named_parameters():
        parameter.data.copy_(weights[name].data)
    if experiment.readout == "softmax" and experiment.cost != "cross-entropy":
        return nn.Sequential(linear, nn.Softmax(1))
    return linear


def _network(
    experiment: Experiment, connections: Edges, readout: nn.Module | None
) -> LayeredNetwork:
    try:
        if experiment.network == "prototypical":
            return PrototypicalNetwork(
                connections,
                experiment.activation,
                # The experiment has refused Newton's steps.
                updates=cast("Updates", experiment.updates),
                readout=readout,
                nudge=experiment.nudge,
            )
        return RealTimeNetwork(
            connections,
            experiment.activation,
            epsilon=experiment.epsilon,
            clip=(0.0, 1.0) if experiment.clip else None,
            updates=experiment.updates,
            readout=readout,
        )
    except ValueError as error:
        # An activation that another package has brought.
        raise UsageError(f"activation = {experiment.activation}: {error}") from None


def _connections(
    experiment: Experiment, input_shape: Sequence[int], units: int
) -> Sequence[Connection]:
    try:
        connections = convolutional(
            input_shape,
            experiment.channels,
            *experiment.hidden,
            units,
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
    if experiment.weight_angle is None:
        return connections
    # Once all forward weights are drawn, so that they are those of the tied network.
    return untied(connections, experiment.weight_angle)


def _bias(connection: Connection) -> Tensor:
    """Of the way up."""
    (bias,) = (p for name, p in connection.named_parameters() if name.split(".")[-1] == "bias")
    return bias


def build_cost(experiment: Experiment) -> Cost:
    """ℓ."""
    factory = COSTS.load(experiment.cost)
    if experiment.cost == "cross-entropy":
        scale = experiment.output_scale or (10.0 if experiment.readout == "none" else 1.0)
        factory = partial(factory, scale)
    return Weighted(factory(), experiment.class_weights) if experiment.class_weights else factory()


def build_estimator(experiment: Experiment, optimizer: torch.optim.Optimizer) -> Estimator:
    """The estimator of the gradients: what is registered, called with the settings it asks for.

    Args:
        optimizer: for those that take its steps themselves (continual updates).

    Raises:
        UsageError: the estimator refuses a setting, or asks for what is none.
    """
    factory = ESTIMATORS.load(experiment.estimator)
    offered = {
        **{of.name: getattr(experiment, of.name) for of in fields(experiment)},
        "optimizer": optimizer,
        "cost": build_cost(experiment),
    }
    asked = signature(factory).parameters
    for name, parameter in asked.items():
        needed = parameter.default is parameter.empty and parameter.kind not in _REST
        if needed and name not in offered:
            raise UsageError(
                f"estimator = {experiment.estimator}: expected one that is made of settings, "
                f"optimizer and cost, got one that asks for {name}; give it a default"
            )
    try:
        found = factory(**{name: offered[name] for name in asked if name in offered})
        return Homeostatic(found, experiment.homeostasis) if experiment.homeostasis else found
    except ValueError as error:
        raise UsageError(f"estimator = {experiment.estimator}: {error}") from None


def nudged_dynamics(estimator: str) -> type[NudgedDynamics] | None:
    """How the nudged phase of a registered estimator goes; nothing if it cannot be looked at."""
    no_model = torch.optim.SGD([torch.zeros(())], lr=0.0)
    return build_estimator(Experiment(estimator=estimator), no_model).dynamics


def build_optimizer(experiment: Experiment, network: LayeredNetwork) -> torch.optim.Optimizer:
    """The optimizer, with one learning rate and one weight decay per layer."""
    layers: list[nn.Module] = [*network.chain, *([network.readout] if network.has_readout else [])]
    # A network has its readout last, settings have the links last.
    count = len(layers) - len(experiment.links) - network.has_readout
    order = [*range(count), *range(count + network.has_readout, len(layers))]
    order += [count] if network.has_readout else []
    rates = _per_layer(experiment.learning_rates, len(layers))
    rates = [rates[i] for i in order]
    groups = network.parameter_groups(rates, backward=experiment.backward_rate)
    decays = _per_layer(experiment.weight_decay, len(layers))
    decays = [decays[i] for i in order]
    decay_of = {
        id(p): decay
        for layer, decay in zip(layers, decays, strict=True)
        for p in layer.parameters()
    }
    for group in groups:
        group["weight_decay"] = decay_of[id(group["params"][0])]
    if experiment.optimizer == "sgd":
        nesterov = experiment.nesterov
        optimizer = torch.optim.SGD(groups, momentum=experiment.momentum, nesterov=nesterov)
    else:
        kind = torch.optim.Adam if experiment.optimizer == "adam" else torch.optim.AdamW
        # Fused: one pass over the weights instead of a dozen.
        optimizer = kind(groups, fused=True)
    if experiment.max_norm is not None:
        optimizer.register_step_pre_hook(partial(_clip, max_norm=experiment.max_norm))
    _write_into_devices(experiment, optimizer)
    return optimizer


def _write_into_devices(experiment: Experiment, optimizer: torch.optim.Optimizer) -> None:
    if experiment.flip_threshold is not None:
        BinaryWeights(experiment.flip_threshold, experiment.flip_rate).attach(optimizer)
    bits, span = experiment.weight_bits, experiment.weight_span
    if bits is not None or span is not None or experiment.write_nonlinearity:
        writes = DeviceWrites(bits, span or 4.0, experiment.write_nonlinearity, experiment.seed)
        writes.attach(optimizer)


def _per_layer(values: Sequence[float], layers: int) -> Sequence[float]:
    """One for each, of one for all or one for each."""
    return values if len(values) == layers else [*values] * layers


def _clip(optimizer: torch.optim.Optimizer, *_: object, max_norm: float) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, max_norm)


def build_scheduler(
    experiment: Experiment, optimizer: torch.optim.Optimizer, batches: int, done: int = 0
) -> LambdaLR | None:
    """What sets the learning rates after every mini-batch, if they change.

    In the warm-up they are multiplied by t/w, t = 1 … w the number of the mini-batch. Then
    ``cosine`` multiplies them by f + (1 − f) ½ (1 + cos πp), f the floor, p from 0 to 1 from the
    end of the warm-up to that of the schedule; where it goes on with the epochs, p is that of the
    beginning of the epoch.

    Args:
        batches: mini-batches of an epoch.
        done: how many were done earlier, in all epochs.
    """
    if experiment.schedule == "constant" and not experiment.warm_up:
        return None
    for group in optimizer.param_groups:
        # Where the optimizer comes from a checkpoint, "lr" is what it was then.
        group.setdefault("initial_lr", group["lr"])
    factor = partial(_factor, experiment=experiment, batches=batches)
    return LambdaLR(optimizer, factor, last_epoch=done - 1)


def _factor(batch: int, experiment: Experiment, batches: int) -> float:
    """By what the learning rates are multiplied at this mini-batch, from 0."""
    warm_up = round(experiment.warm_up * batches)
    if batch < warm_up:
        return (batch + 1) / warm_up
    if experiment.schedule == "constant":
        return 1.0
    if experiment.schedule_step == "epoch":
        batch = max(warm_up, batch // batches * batches)
    total = (experiment.schedule_epochs or experiment.epochs) * batches
    share = min((batch - warm_up) / max(1, total - warm_up), 1)
    floor = experiment.schedule_floor
    return floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2


def build_augmentation(experiment: Experiment, input_shape: Sequence[int]) -> Augmentation | None:
    """What happens to training images (C, H, W) before they are learnt, if anything.

    Raises:
        ConfigurationError: it is for images, and the inputs are none; or it can move one out of
            itself.
    """
    for name in ("shift", "flip"):
        if getattr(experiment, name) and len(input_shape) != 3:
            raise ConfigurationError(
                name,
                getattr(experiment, name),
                f"{'0' if name == 'shift' else 'false'}, as inputs of shape {tuple(input_shape)} "
                "are no images, whose pixels have a place",
            )
    if experiment.shift and experiment.shift >= min(input_shape[1:]):
        raise ConfigurationError(
            "shift",
            experiment.shift,
            f"less than the {min(input_shape[1:])} pixels of the images' side",
        )
    parts: list[Augmentation] = []
    if experiment.flip:
        parts.append(random_flip)
    if experiment.shift:
        parts.append(partial(random_shift, pixels=experiment.shift, fill=experiment.shift_fill))
    return partial(_augmented, parts=parts) if parts else None


def _augmented(images: Tensor, generator: torch.Generator, parts: Sequence[Augmentation]) -> Tensor:
    for part in parts:
        images = part(images, generator)
    return images
