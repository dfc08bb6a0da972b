"""Every setting of an experiment reaches the object it is about."""

import math
from typing import Any

import pytest
import torch

from eqprop.core.costs import SquaredError
from eqprop.data.augmentation import random_flip, random_shift
from eqprop.errors import ConfigurationError, UsageError
from eqprop.estimators.bptt import BPTT
from eqprop.estimators.continual import ContinualEP
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.estimator import Estimator
from eqprop.estimators.homeostasis import Homeostatic
from eqprop.estimators.recurrent_backprop import RecurrentBackprop
from eqprop.hardware.writes import DeviceWrites
from eqprop.networks.connections.conv_pool import ConvPool
from eqprop.networks.connections.dense import Dense
from eqprop.networks.connections.feedback import Feedback
from eqprop.networks.connections.untied import Untied
from eqprop.networks.layered import LayeredNetwork
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from eqprop.runs.build import (
    build_augmentation,
    build_cost,
    build_data,
    build_estimator,
    build_network,
    build_optimizer,
    build_scheduler,
    torch_device,
)
from eqprop.runs.learner import build_learner
from eqprop.settings.experiment import Experiment


def experiment(**settings: object) -> Experiment:
    return Experiment().override(settings)


def estimator(**settings: object) -> Estimator:
    described = experiment(**settings)
    return build_estimator(described, build_optimizer(described, network()))


def network(**settings: object) -> LayeredNetwork:
    return build_network(experiment(**settings), (1, 3, 4), 4)


@pytest.mark.parametrize("nudging", ["one-sided", "random-sign", "symmetric"])
def test_equilibrium_propagation_has_the_settings_and_the_optimizer(nudging: str) -> None:
    settings = experiment(free_steps=7, nudged_steps=5, beta=-0.3, nudging=nudging, tolerance=1e-3)
    optimizer = build_optimizer(settings, network())
    built = build_estimator(settings, optimizer)
    assert built == EquilibriumPropagation(
        7,
        5,
        -0.3,
        nudging,  # pyright: ignore[reportArgumentType]
        1e-3,
        cost=built.cost,
        optimizer=optimizer,
    )


def test_the_other_estimators_have_the_settings() -> None:
    built = estimator(estimator="bptt", free_steps=7, nudged_steps=5, tolerance=0.1)
    assert built == BPTT(7, 5, 0.1, cost=built.cost)
    built = estimator(estimator="rbp", free_steps=7, tolerance=0.1)
    assert built == RecurrentBackprop(7, tolerance=0.1, cost=built.cost)


@pytest.mark.parametrize("nudging", ["one-sided", "random-sign"])
def test_continual_ep_has_the_settings_and_the_optimizer(nudging: str) -> None:
    settings = experiment(
        estimator="c-ep", free_steps=7, nudged_steps=5, beta=-0.3, nudging=nudging, tolerance=1e-3
    )
    optimizer = build_optimizer(settings, network())
    built = build_estimator(settings, optimizer)
    assert built == ContinualEP(
        optimizer,
        7,
        5,
        -0.3,
        nudging,  # pyright: ignore[reportArgumentType]
        1e-3,
        cost=built.cost,
    )


def test_homeostasis_is_wrapped_around_whatever_estimates() -> None:
    found = estimator(estimator="bptt", homeostasis=2.0)
    assert isinstance(found, Homeostatic)
    assert (found.strength, type(found.of)) == (2.0, BPTT)
    assert not isinstance(estimator(estimator="bptt"), Homeostatic)


def test_an_estimator_refuses_the_settings_it_cannot_follow() -> None:
    refused = experiment(estimator="bptt", free_steps=20, nudged_steps=21)
    with pytest.raises(UsageError, match=r"estimator = bptt: nudged_steps: .*free_steps = 20.*21"):
        build_learner(refused)
    # What one of them refuses is right for another.
    assert estimator(estimator="rbp", nudging="symmetric", nudged_steps=21).free_steps == 20


def test_the_estimator_has_the_cost_of_the_experiment() -> None:
    assert isinstance(build_cost(experiment()), SquaredError)
    for name in ("ep", "bptt", "rbp"):
        assert isinstance(estimator(estimator=name).cost, SquaredError)


def test_a_learner_knows_the_shapes_of_data_that_is_not_there() -> None:
    learner = build_learner(experiment(dataset="mnist", hidden=[12]))
    assert learner.network.shapes == ((12,), (10,))
    assert sum(p.numel() for p in learner.network.parameters()) == 785 * 12 + 13 * 10


def test_a_weight_angle_unties_all_connections_but_that_of_the_input() -> None:
    hidden = {"hidden": [40, 30], "learning_rates": [1, 2, 3]}
    first, *others = network(weight_angle=90, **hidden).chain
    assert isinstance(first, Dense)
    assert [type(connection) for connection in others] == [Untied, Untied]
    assert network(weight_angle=90, **hidden).weight_angles == pytest.approx((90, 90), abs=15)
    assert network(**hidden).weight_angles == ()
    assert network(weight_angle=0, **hidden).weight_angles == (0, 0)


def test_the_networks_have_the_settings() -> None:
    prototypical = network(hidden=[5, 6], learning_rates=[1, 2, 3], activation="tanh")
    assert isinstance(prototypical, PrototypicalNetwork)
    assert prototypical.shapes == ((5,), (6,), (4,))
    assert prototypical.activation is not None
    assert prototypical.activation.name == "tanh"
    real_time = network(network="real-time", epsilon=0.3, activation="hard-sigmoid")
    assert isinstance(real_time, RealTimeNetwork)
    assert (real_time.epsilon, real_time.clip, real_time.rho.name) == (0.3, (0, 1), "hard-sigmoid")
    assert network(network="real-time", clip=False).clip is None


def test_the_initial_weights_depend_on_the_seed_alone() -> None:
    def first(**settings: object) -> torch.Tensor:
        return next(network(**settings).parameters()).detach()

    before = torch.get_rng_state()
    assert torch.equal(first(seed=3), first(seed=3))
    assert torch.equal(first(seed=3), first(seed=3, dtype="float64").float())
    assert not torch.equal(first(seed=3), first(seed=4))
    assert torch.equal(torch.get_rng_state(), before), "the global generator was touched"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_network_and_data_have_the_dtype(dtype: str) -> None:
    expected = getattr(torch, dtype)
    assert {p.dtype for p in network(dtype=dtype).parameters()} == {expected}
    assert build_data(experiment(dtype=dtype)).train.images.dtype == expected


def test_backward_weights_learn_at_a_multiple_of_the_rate_of_their_layer() -> None:
    chosen = Experiment(
        hidden=(5, 4), weight_angle=30.0, learning_rates=(0.4, 0.2, 0.1), backward_rate=0.5
    )
    network = build_network(chosen, (1, 2, 2), 3)
    names = {id(p): name for name, p in network.named_parameters()}
    rates = {
        names[id(p)]: group["lr"]
        for group in build_optimizer(chosen, network).param_groups
        for p in group["params"]
    }
    layers = {"0": 0.4, "1": 0.2, "2": 0.1}
    assert rates == {
        name: layers[name.split(".")[1]] * (0.5 if "backward" in name else 1)
        for name in names.values()
    }


@pytest.mark.parametrize("weight_angle", [None, 30.0])
def test_the_biases_of_the_output_start_where_they_are_told(weight_angle: float | None) -> None:
    drawn = Experiment(hidden=(5,), weight_angle=weight_angle)
    told = drawn.override({"output_bias": 0.3})
    before, after = (build_network(e, (1, 2, 2), 3).state_dict() for e in (drawn, told))
    (name,) = (name for name in before if not torch.equal(before[name], after[name]))
    assert name == ("connections.1.bias" if weight_angle is None else "connections.1.upward.bias")
    assert after[name].tolist() == pytest.approx([0.3] * 3)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_the_optimizer_has_one_rate_per_layer(name: str, kind: type) -> None:
    chosen = experiment(optimizer=name, learning_rates=[0.3, 0.2])
    optimizer = build_optimizer(chosen, build_network(chosen, (1, 3, 4), 4))
    assert type(optimizer) is kind
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.2]
    assert all(group.get("momentum", 0) == 0 for group in optimizer.param_groups)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="device = cuda:98: expected cpu"):
        torch_device(experiment(device="cuda:98"))
    assert torch_device(experiment()).type == "cpu"


def conv(**settings: object) -> LayeredNetwork:
    layers = len(settings["channels"]) + 1  # pyright: ignore[reportArgumentType]
    chosen = experiment(hidden=[], learning_rates=[1] * layers, **settings)
    return build_network(chosen, (1, 12, 10), 4)


def test_convolutions_lie_below_the_dense_layers() -> None:
    chosen = experiment(channels=[2, 3], hidden=[7], learning_rates=[1, 1, 1, 1], kernel=[3])
    network = build_network(chosen, (1, 12, 10), 4)
    # 12 − 2 = 10, halved 5; 5 − 2 = 3, halved 1.
    assert network.shapes == ((2, 5, 4), (3, 1, 1), (7,), (4,))


def test_a_setting_of_convolutions_is_for_all_or_one_for_each() -> None:
    assert conv(channels=[2, 3], kernel=[3], padding=[1], pool=[1]).shapes[1] == (3, 12, 10)
    assert conv(channels=[2, 3], kernel=[3, 1], padding=[0, 1], pool=[2, 1]).shapes[:2] == (
        (2, 5, 4),
        (3, 7, 6),
    )
    assert conv(channels=[2], stride=[3], kernel=[4], pool=[1]).shapes[0] == (2, 3, 3)


def test_a_convolution_that_does_not_fit_says_where_and_what_would() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"channels = 2 3: expected .* hidden layer 2: .*at least 6×6.*got 4×3.*smaller",
    ):
        conv(channels=[2, 3])


def test_the_network_has_the_updates_and_the_pooling_of_the_experiment() -> None:
    for kind in ("prototypical", "real-time"):
        assert network(network=kind).updates == "synchronous"
        assert network(network=kind, updates="alternating").updates == "alternating"
    assert network(network="real-time", updates="newton").updates == "newton"
    for pooling in ("max", "average"):
        first = conv(channels=[2], pooling=pooling).chain[0]
        assert isinstance(first, ConvPool)
        assert first.pooling == pooling


def test_training_images_are_shifted_as_far_as_asked() -> None:
    images = torch.rand(9, 1, 5, 5)
    shift = build_augmentation(experiment(shift=2), (1, 5, 5))
    assert shift is not None
    here, there = (torch.Generator().manual_seed(3) for _ in range(2))
    assert torch.equal(shift(images, here), random_shift(images, there, pixels=2))
    assert build_augmentation(experiment(), (1, 5, 5)) is None
    with pytest.raises(ConfigurationError, match="shift = 5: expected less than the 5 pixels"):
        build_augmentation(experiment(shift=5), (1, 5, 5))
    assert build_augmentation(experiment(), (13,)) is None
    with pytest.raises(
        ConfigurationError, match=r"shift = 1: expected 0, .* \(13,\) are no images"
    ):
        build_augmentation(experiment(shift=1), (13,))


def test_a_cosine_takes_the_learning_rates_to_zero() -> None:
    chosen = experiment(schedule="cosine", epochs=2, batch_size=5)
    optimizer = build_optimizer(chosen, build_network(chosen, (1, 3, 4), 4))
    first = optimizer.param_groups[0]["lr"]
    scheduler = build_scheduler(chosen, optimizer, batches=3)
    assert scheduler is not None
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"] / first)
        optimizer.step()
        scheduler.step()
    expected = [0.5 * (1 + math.cos(math.pi * n / 6)) for n in range(6)]
    assert rates == pytest.approx(expected)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_constant_learning_rates_need_no_scheduler() -> None:
    chosen = experiment()
    optimizer = build_optimizer(chosen, build_network(chosen, (1, 3, 4), 4))
    assert build_scheduler(chosen, optimizer, batches=3) is None


def by_layer(chosen: Experiment) -> tuple[LayeredNetwork, list[list[torch.Tensor]]]:
    network = build_network(chosen, (1, 2, 2), 3)
    return network, [[p.detach() for p in c.parameters()] for c in network.chain]


@pytest.mark.parametrize("weight_angle", [None, 30.0])
@pytest.mark.parametrize(("gains", "each"), [((0.5,), (0.5, 0.5)), ((2.0, 0.25), (2.0, 0.25))])
def test_initial_weights_are_multiplied_by_the_gain_of_their_layer(
    gains: tuple[float, ...], each: tuple[float, ...], weight_angle: float | None
) -> None:
    drawn = Experiment(hidden=(5,), weight_angle=weight_angle)
    _, before = by_layer(drawn)
    _, after = by_layer(drawn.override({"gains": gains}))
    for gain, ones, others in zip(each, before, after, strict=True):
        for one, other in zip(ones, others, strict=True):
            assert torch.equal(gain * one, other)


@pytest.mark.parametrize("weight_angle", [None, 30.0])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("decay", "each"), [((0.5,), (0.5, 0.5)), ((0.0, 0.25), (0.0, 0.25))])
def test_without_a_gradient_weights_decay_by_the_rate_of_their_layer(
    decay: tuple[float, ...], each: tuple[float, ...], optimizer: str, weight_angle: float | None
) -> None:
    rates = (0.4, 0.2)
    chosen = Experiment(hidden=(5,), weight_angle=weight_angle, learning_rates=rates).override(
        {"optimizer": optimizer, "weight_decay": decay}
    )
    network, layers = by_layer(chosen)
    before = [[p.clone() for p in layer] for layer in layers]
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    build_optimizer(chosen, network).step()
    for rate, by, ones, others in zip(rates, each, before, layers, strict=True):
        for one, other in zip(ones, others, strict=True):
            torch.testing.assert_close(other, (1 - rate * by) * one)


def test_adam_decays_with_the_gradient_and_adamw_apart_from_it() -> None:
    moved = {}
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        chosen = experiment(hidden=[5], optimizer=name, weight_decay=[0.3])
        network, layers = by_layer(chosen)
        optimizer = build_optimizer(chosen, network)
        assert type(optimizer) is kind
        before = layers[0][0].clone()
        for p in network.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        moved[name] = (layers[0][0] - before) / chosen.learning_rates[0]
    # Adam's first step is that of the sign alone; what decays apart comes on top.
    torch.testing.assert_close(moved["adam"], -torch.ones_like(moved["adam"]))
    torch.testing.assert_close(moved["adamw"], -1 - 0.3 * before)


@pytest.mark.parametrize(
    ("nesterov", "moved"),
    # v ← 0.8 v + 1; each step is v, or, with Nesterov, 1 + 0.8 v.
    [(False, (1.0, 2.8)), (True, (1.8, 4.24))],
)
def test_momentum_takes_along_a_share_of_the_last_step(
    nesterov: bool, moved: tuple[float, float]
) -> None:
    chosen = Experiment(hidden=(5,), momentum=0.8, nesterov=nesterov)
    network, layers = by_layer(chosen)
    optimizer = build_optimizer(chosen, network)
    before = layers[1][0].clone()
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    for far in moved:
        optimizer.step()
        steps = (before - layers[1][0]) / chosen.learning_rates[1]
        torch.testing.assert_close(steps, torch.full_like(steps, far))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_gradients_are_shortened_to_the_norm_all_together(optimizer: str) -> None:
    for norm, expected in ((0.5, 0.5), (100.0, 2.0), (None, 2.0)):
        chosen = Experiment(hidden=(5,), max_norm=norm, optimizer=optimizer)  # pyright: ignore[reportArgumentType]
        network, _ = by_layer(chosen)
        parameters = list(network.parameters())
        count = sum(p.numel() for p in parameters)
        for p in parameters:
            p.grad = torch.full_like(p, 2.0 / math.sqrt(count))
        build_optimizer(chosen, network).step()
        found = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm()
        assert found.item() == pytest.approx(expected, rel=1e-4)


def rates_of(chosen: Experiment, batches: int, done: int = 0) -> list[float]:
    """The learning rates of all mini-batches from the ``done``-th on, relative to the first one."""
    optimizer = build_optimizer(chosen, build_network(chosen, (1, 3, 4), 4))
    scheduler = build_scheduler(chosen, optimizer, batches, done)
    assert scheduler is not None
    rates = []
    for _ in range(chosen.epochs * batches - done):
        rates.append(optimizer.param_groups[0]["lr"] / chosen.learning_rates[0])
        optimizer.step()
        scheduler.step()
    return rates


def test_a_warm_up_rises_in_proportion_and_the_cosine_falls_to_its_floor_and_stays() -> None:
    settings = {"epochs": 5, "warm_up": 1.5, "schedule_floor": 0.1, "schedule_epochs": 4}
    rates = rates_of(experiment(schedule="cosine", **settings), batches=4)
    # 6 mini-batches of warm-up, 10 of the cosine, 4 at the floor.
    assert rates[:6] == pytest.approx([n / 6 for n in range(1, 7)])
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * n / 10)) / 2 for n in range(10)]
    assert rates[6:16] == pytest.approx(cosine)
    assert rates[16:] == pytest.approx([0.1] * 4)


def test_a_warm_up_alone_stays_at_the_learning_rates() -> None:
    rates = rates_of(experiment(epochs=2, warm_up=0.5), batches=4)
    assert rates == pytest.approx([0.5, 1.0] + [1.0] * 6)


def test_a_cosine_of_epochs_is_the_same_within_each() -> None:
    rates = rates_of(experiment(schedule="cosine", schedule_step="epoch", epochs=4), batches=3)
    assert rates == pytest.approx(
        [(1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4) for _ in range(3)]
    )


@pytest.mark.parametrize("done", [1, 5, 6, 11, 17])
def test_a_schedule_goes_on_where_it_was(done: int) -> None:
    chosen = experiment(schedule="cosine", epochs=5, warm_up=1.5, schedule_floor=0.1)
    assert rates_of(chosen, 4, done) == pytest.approx(rates_of(chosen, 4)[done:])


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"gains": [1, 2, 3]}, "gains"),
        ({"gains": [0]}, "gains"),
        ({"weight_decay": [0.1, 0.1, 0.1]}, "weight_decay"),
        ({"weight_decay": [-1]}, "weight_decay"),
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": 0.9, "optimizer": "adam"}, "momentum"),
        ({"nesterov": True}, "nesterov"),
        ({"max_norm": 0.0}, "max_norm"),
        ({"schedule_floor": 0.1}, "schedule_floor"),
        ({"schedule_step": "epoch"}, "schedule_step"),
        ({"schedule": "cosine", "epochs": 3, "schedule_epochs": 4}, "schedule_epochs"),
        ({"epochs": 3, "warm_up": 4}, "warm_up"),
        ({"schedule": "cosine", "epochs": 3, "schedule_epochs": 2, "warm_up": 2.5}, "warm_up"),
    ],
    ids=str,
)
def test_settings_of_the_optimisation_that_cannot_be_are_named(
    settings: dict[str, object], refused: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{refused} = "):
        experiment(**settings)


def test_training_images_are_mirrored_and_moved_one_after_the_other() -> None:
    images = torch.rand(30, 3, 8, 8)
    both = build_augmentation(experiment(flip=True, shift=2, shift_fill="edge"), (3, 8, 8))
    assert both is not None
    here, there = (torch.Generator().manual_seed(0) for _ in range(2))
    expected = random_shift(random_flip(images, there), there, pixels=2, fill="edge")
    assert torch.equal(both(images, here), expected)
    with pytest.raises(
        ConfigurationError, match=r"flip = True: expected false, .* \(13,\) are no images"
    ):
        build_augmentation(experiment(flip=True), (13,))


def test_inputs_are_normalised_by_the_samples_that_are_learnt() -> None:
    data = build_data(experiment(normalize=2.0, validation_share=0.3))
    images = data.train.images
    assert float(images.mean()) == pytest.approx(0, abs=1e-5)
    assert float(images.std(correction=0)) == pytest.approx(0.5, abs=1e-5)
    assert float(data.test.images.mean()) != pytest.approx(0, abs=1e-5)
    assert float(build_data(experiment()).train.images.min()) == 0


@pytest.mark.parametrize(
    ("changes", "readout", "cost"),
    [
        ({}, None, "SquaredError()"),
        ({"cost": "cross-entropy"}, None, "CrossEntropy(scale=10)"),
        ({"cost": "cross-entropy", "output_scale": 3.0}, None, "CrossEntropy(scale=3)"),
        ({"readout": "linear"}, "Linear", "SquaredError()"),
        ({"readout": "softmax"}, "Sequential", "SquaredError()"),
        # Which takes the softmax itself.
        ({"readout": "softmax", "cost": "cross-entropy"}, "Linear", "CrossEntropy(scale=1)"),
        ({"class_weights": (1.0, 2.0)}, None, "Weighted(SquaredError(), (1.0, 2.0))"),
    ],
)
def test_readout_and_cost_are_those_asked_for(
    changes: dict[str, Any], readout: str | None, cost: str
) -> None:
    of = experiment(**changes)
    network = build_network(of, (64,), 10)
    assert (type(network.readout).__name__ if network.has_readout else None) == readout
    assert repr(build_cost(of)) == cost
    assert network.output_shape == (10,)


def test_a_readout_takes_the_place_of_the_output_layer_with_its_weights_and_settings() -> None:
    changes: dict[str, Any] = {
        "gains": (1.0, 0.5),
        "learning_rates": (0.3, 0.2),
        "weight_decay": (0.0, 1e-3),
    }
    plain, read = experiment(**changes), experiment(**changes, readout="linear")
    network, other = build_network(plain, (64,), 10), build_network(read, (64,), 10)
    assert len(other.shapes) == len(network.shapes) - 1
    for p, q in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    groups = [
        [(group["lr"], group["weight_decay"]) for group in build_optimizer(of, made).param_groups]
        for of, made in ((plain, network), (read, other))
    ]
    assert groups[0] == groups[1] == [(0.3, 0.0), (0.2, 1e-3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"readout": "linear", "hidden": (), "learning_rates": (0.1,)},
            "readout = linear: expected none in a network without hidden layers",
        ),
        ({"output_scale": 2.0}, "output_scale = 2.0: expected none, unless cost = cross-entropy"),
        (
            {"nudge": "inside", "network": "real-time"},
            "nudge = inside: expected outside in a real-time network",
        ),
    ],
)
def test_readouts_and_nudges_that_cannot_be_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        experiment(**changes)


def test_links_are_connections_besides_those_of_the_chain() -> None:
    changes: dict[str, Any] = {
        "hidden": (7, 6),
        "links": ("0-2", "1-1", "1-3"),
        "learning_rates": (0.6, 0.5, 0.4, 0.3, 0.2, 0.1),
        "gains": (1.0, 1.0, 1.0, 2.0, 1.0, 1.0),
    }
    of = experiment(**changes)
    network = build_network(of, (64,), 10)
    ends = [(-1, 0), (0, 1), (1, 2), (-1, 1), (0, 0), (0, 2)]
    assert network.graph.ends == tuple(ends)
    assert network.layer_name(0) == "layer 1"
    groups = build_optimizer(of, network).param_groups
    assert [group["lr"] for group in groups] == list(of.learning_rates)
    for connection, group in zip(network.chain, groups, strict=True):
        assert [*connection.parameters()] == group["params"]
    # The chain is drawn first, so that its weights are those of the network without links.
    plain = build_network(experiment(hidden=(7, 6), learning_rates=(0.1,) * 3), (64,), 10)
    for one, other in zip(plain.chain, network.chain, strict=False):
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)
    drawn = build_network(experiment(**{**changes, "gains": (1.0,)}), (64,), 10)
    torch.testing.assert_close(
        network.get_parameter("connections.3.weight"),
        2 * drawn.get_parameter("connections.3.weight"),
    )


def test_links_of_a_network_with_a_readout_keep_their_own_rates() -> None:
    of = experiment(
        hidden=(7, 6),
        links=("0-2",),
        readout="linear",
        learning_rates=(0.4, 0.3, 0.2, 0.1),
        weight_decay=(0.0, 0.0, 1e-3, 1e-4),
    )
    network = build_network(of, (64,), 10)
    rates = {
        id(p): (group["lr"], group["weight_decay"])
        for group in build_optimizer(of, network).param_groups
        for p in group["params"]
    }
    assert rates[id(network.get_parameter("readout.weight"))] == (0.2, 1e-3)
    assert rates[id(network.get_parameter("connections.2.weight"))] == (0.1, 1e-4)


def test_links_of_untied_networks_are_untied_but_from_the_input() -> None:
    of = experiment(
        hidden=(7, 6), links=("0-2", "1-3"), learning_rates=(0.1,) * 5, weight_angle=45.0
    )
    network = build_network(of, (64,), 10)
    assert [type(c).__name__ for c in network.chain] == [
        "Dense", "Untied", "Untied", "Dense", "Untied",
    ]  # fmt: skip


@pytest.mark.parametrize("link", ["0-3", "2-1", "1-0", "x", "1", "-1-2", "1-2-3"])
def test_links_between_layers_that_are_not_there_are_refused(link: str) -> None:
    with pytest.raises(ConfigurationError, match=f"links = {link}: expected "):
        experiment(links=(link,), learning_rates=(0.1,) * 3)


def test_there_is_a_weight_for_each_class_or_none() -> None:
    with pytest.raises(ConfigurationError, match="class_weights = 1.0 2.0: expected 10 numbers"):
        build_learner(experiment(class_weights=(1.0, 2.0)))


def test_ways_down_are_scaled_and_differ_and_what_is_learnt_makes_up_for_the_scale() -> None:
    built = network(
        hidden=[12, 11], learning_rates=[0.1], feedback=0.5, synapse_spread=0.1,
        links=["0-2", "2-2"],
    )  # fmt: skip
    found = {
        built.graph.ends[i]: (c.scale, c.share, c.keeps_phi)
        for i, c in enumerate(built.chain)
        if isinstance(c, Feedback)
    }
    # From and to which layer, −1 the input: what comes down by so many layers is scaled so often.
    assert found == {
        (-1, 0): (0.5, 4.0, True),
        (0, 1): (0.5, 2.0, False),
        (1, 2): (0.5, 1.0, False),
        (-1, 1): (0.25, 2.0, True),
        (1, 1): (1.0, 2.0, False),
    }
    assert not any(isinstance(c, Feedback) for c in network(hidden=[12]).chain)


def test_a_device_is_built_around_the_same_network() -> None:
    plain = network(hidden=[12])
    built = network(hidden=[12], gain_spread=0.1, offset_spread=0.2, state_noise=0.3)
    assert (built.gain_spread, built.offset_spread, built.state_noise) == (0.1, 0.2, 0.3)
    for one, other in zip(plain.parameters(), built.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not hasattr(plain, "state_noise")


def test_weights_are_written_as_the_settings_say() -> None:
    settings = experiment(weight_bits=3, weight_span=2.0, write_nonlinearity=1.0)
    built = build_network(settings, (1, 8, 8), 10)
    build_optimizer(settings, built)
    weight = built.get_parameter("connections.0.weight")
    values = DeviceWrites(3, 2.0).values(weight)
    assert len(values) == 7
    assert torch.isin(weight, values).all()
    settings = experiment(flip_threshold=0.1)
    built = build_network(settings, (1, 8, 8), 10)
    build_optimizer(settings, built)
    assert len(built.get_parameter("connections.0.weight").abs().unique()) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"feedback": 0.5, "weight_angle": 0.0}, "feedback = 0.5: expected 1 where weights"),
        ({"synapse_spread": 0.5, "weight_angle": 0.0}, "synapse_spread = 0.5: expected 0 where"),
        ({"flip_threshold": 0.1, "weight_bits": 4}, "flip_threshold = 0.1: expected none with"),
        ({"weight_bits": 1}, "weight_bits = 1: expected a whole number from 2 to 16"),
        ({"state_noise": -0.1}, "state_noise = -0.1: expected a finite number >= 0"),
    ],
)
def test_faults_that_do_not_go_together_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        experiment(**settings)
