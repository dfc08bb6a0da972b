"""The Jacobian of a layered network's step, written out, beside that of autograd."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import eqprop
from eqprop.core.activations import Activation
from eqprop.core.linearised import Linearised
from eqprop.networks.connections.connection import TiedConnection
from eqprop.networks.layered import LayeredNetwork


def dense() -> list[Any]:
    return eqprop.dense(6, 5, 4, 3)


def images(**others: Any) -> list[Any]:
    return eqprop.convolutional((1, 9, 8), (2, 3), 4, kernel=3, padding=1, pool=2, **others)


def graph() -> list[Any]:
    """With a layer connected with itself, a connection over one layer, and two outputs."""
    Dense = eqprop.Dense
    return [
        ("x", Dense(6, 5), "a"),
        ("a", Dense(5, 5), "a"),
        ("a", Dense(5, 4), "b"),
        ("x", Dense(6, 3), "y"),
        ("a", eqprop.Untied(Dense(5, 3), 90.0), "y"),
        ("b", Dense(4, 3), "y"),
        ("b", Dense(4, 2), "z"),
    ]


def upwards() -> list[Any]:
    """Convolutions that enlarge."""
    first = eqprop.ConvTranspose((1, 3, 3), 2, kernel=2, stride=2)
    return [first, eqprop.ConvTranspose(first.upper_shape, 1, kernel=3)]


def sin() -> Activation:
    """Of which nobody has tried the derivative."""
    return Activation("sin", torch.sin, lambda s, _: 7 * s.cos())


P, R = eqprop.PrototypicalNetwork, eqprop.RealTimeNetwork
NETWORKS: dict[str, Callable[[], LayeredNetwork]] = {
    "prototypical": lambda: P(dense()),
    "in turn": lambda: P(dense(), "tanh", updates="alternating"),
    "inside": lambda: P(dense(), nudge="inside"),
    "hard": lambda: P(dense(), "hard-sigmoid"),
    "half hard, in turn": lambda: P(dense(), "half-hard-sigmoid", updates="alternating"),
    "own activation": lambda: P(dense(), sin()),
    "one layer": lambda: P(eqprop.dense(6, 3)),
    "untied": lambda: P(eqprop.untied(dense(), 60.0)),
    "untied, in turn": lambda: R(eqprop.untied(dense(), 120.0), updates="alternating"),
    "real time": lambda: R(dense(), "tanh"),
    "clipped": lambda: R(dense(), "hard-sigmoid", clip=(0.0, 1.0), epsilon=0.5),
    "real time, in turn": lambda: R(dense(), updates="alternating", epsilon=0.5),
    "by Newton's steps": lambda: R(dense(), "tanh", updates="newton"),
    "graph, by Newton's steps": lambda: R(graph(), updates="newton", clip=(0.0, 1.0)),
    "feedback": lambda: P(eqprop.feedback(dense(), 0.5)),
    "synapses that differ": lambda: R(eqprop.feedback(dense(), 0.5, 0.4)),
    "convolutional": lambda: P(images()),
    "convolutional, in turn": lambda: P(images(), "tanh", updates="alternating"),
    "convolutional, untied": lambda: R(eqprop.untied(images(), 90.0)),
    "averages": lambda: P(images(pooling="average"), "tanh"),
    "enlarging": lambda: P(upwards(), "tanh"),
    "graph": lambda: P(graph(), "tanh"),
    "graph, in turn": lambda: R(graph(), "tanh", updates="alternating"),
    "readout": lambda: P(dense(), readout=nn.Linear(3, 2)),
}


def at(network: LayeredNetwork) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A drive, and a state far from rest."""
    inputs = network.chain[0].lower_shape
    x = torch.rand(2, *inputs).double()
    state = tuple(torch.rand_like(s) * 1.4 - 0.2 for s in network.initial_state(x))
    return network.drive(x), state


@pytest.mark.parametrize("name", NETWORKS)
def test_its_products_are_those_with_the_matrix(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().double()
    drive, state = at(network)
    written = network.jacobian(drive, state)
    assert written is not None
    for found, wanted in zip(written.after, network.step(drive, state), strict=True):
        torch.testing.assert_close(found, wanted)

    def step(*layers: Tensor) -> tuple[Tensor, ...]:
        return network.step(drive, layers)

    v = tuple(torch.randn_like(s) for s in state)
    _, across = torch.autograd.functional.jvp(step, state, v)
    _, down = torch.autograd.functional.vjp(step, state, v)
    around = Linearised(network, drive, state)
    for found, wanted in ((around.times(v), across), (around.transposed(v), down)):
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)
            assert not one.requires_grad


class Gated(TiedConnection):
    """Not a product with a weight."""

    def __init__(self) -> None:
        super().__init__((5,), (5,))
        self.gate = nn.Parameter(torch.rand(5))

    def coupling(self, ends: tuple[Tensor, Tensor]) -> Tensor:
        lower, upper = ends
        return (upper * self.gate * lower.square()).sum(1)


class Mixing(eqprop.PrototypicalNetwork):  # pyright: ignore[reportGeneralTypeIssues]
    """Whose units see each other besides."""

    def layer_field(self, s: Tensor, rate: Tensor, current: Tensor) -> Tensor:
        return current - s.mean(1, keepdim=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: P([eqprop.Dense(6, 5), Gated()]),
        lambda: P([eqprop.Dense(6, 5), eqprop.Identity(5)]),
        lambda: eqprop.noisy(P(dense()), 0.1),
        lambda: Mixing(dense()),
    ],
)
def test_of_what_is_not_made_of_weights_autograd_finds_it(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    network = make().double()
    drive, state = at(network)
    assert network.jacobian(drive, state) is None
    v = tuple(torch.randn_like(s) for s in state)
    for product in (
        Linearised(network, drive, state).times,
        Linearised(network, drive, state).transposed,
    ):
        assert all(layer.isfinite().all() for layer in product(v))


def test_the_parameters_are_led_to_all_the_same() -> None:
    torch.manual_seed(0)
    network = P(eqprop.untied(dense(), 90.0)).double()
    drive, state = at(network)
    around = Linearised(network, drive, state)
    assert not any(layer.requires_grad for layer in around.reached)
    assert all(layer.requires_grad for layer in around.after)
    for one, other in zip(around.after, around.reached, strict=True):
        torch.testing.assert_close(one, other)
