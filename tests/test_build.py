"""Every setting of an experiment reaches the object it is about."""

import pytest
import torch

from eqprop.build import build_data, build_estimator, build_network, build_optimizer, torch_device
from eqprop.estimators import BPTT, EquilibriumPropagation, RecurrentBackprop
from eqprop.experiment import ConfigurationError, Experiment
from eqprop.networks import LayeredNetwork, PrototypicalNetwork, RealTimeNetwork


def experiment(**settings: object) -> Experiment:
    return Experiment().override(settings)


def network(**settings: object) -> LayeredNetwork:
    return build_network(experiment(**settings), (1, 3, 4), 4)


@pytest.mark.parametrize("nudging", ["one-sided", "random-sign", "symmetric"])
def test_equilibrium_propagation_has_the_settings(nudging: str) -> None:
    built = build_estimator(
        experiment(free_steps=7, nudged_steps=5, beta=-0.3, nudging=nudging, tolerance=1e-3)
    )
    assert built == EquilibriumPropagation(
        7,
        5,
        -0.3,
        nudging,  # pyright: ignore[reportArgumentType]
        1e-3,
        cost=built.cost,
    )


def test_the_other_estimators_have_the_settings() -> None:
    built = build_estimator(
        experiment(estimator="bptt", free_steps=7, nudged_steps=5, tolerance=0.1)
    )
    assert built == BPTT(7, 5, 0.1, cost=built.cost)
    built = build_estimator(experiment(estimator="rbp", free_steps=7, tolerance=0.1))
    assert built == RecurrentBackprop(7, tolerance=0.1, cost=built.cost)


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
