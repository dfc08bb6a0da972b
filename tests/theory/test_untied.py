"""Untied networks: forward and backward weights of their own, and the rule of vector fields."""

import copy
import math
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import grad

from eqprop.analysis.processes import bptt_process, ep_process
from eqprop.core.models import ConvergentModel, State, VectorFieldModel
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.networks.connections.chains import convolutional, dense, untied
from eqprop.networks.connections.connection import TiedConnection
from eqprop.networks.connections.conv_pool import ConvPool
from eqprop.networks.connections.dense import Dense
from eqprop.networks.connections.untied import Untied
from eqprop.networks.layered import LayeredNetwork, Updates
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from eqprop.runs.build import build_network
from eqprop.settings.experiment import Experiment
from measuring import slope
from zoo import RHOS, chains


def pooled(connection: TiedConnection, weight: Tensor, lower: Tensor, chosen: Any) -> Tensor:
    """P(weight ⋆ lower) with the places of the largest values given, with no bias."""
    if isinstance(connection, Dense):
        return lower.flatten(1) @ weight.t()
    assert isinstance(connection, ConvPool)
    image = F.conv2d(lower, weight, None, connection.stride, connection.padding)
    if chosen is not None:
        return image.flatten(2).gather(2, chosen.flatten(2)).view_as(chosen)
    return F.avg_pool2d(image, connection.pool)


class Obvious(VectorFieldModel):
    """The same network, as a field that knows of ways up, and of autograd for the ways down."""

    def __init__(self, network: LayeredNetwork) -> None:
        super().__init__(
            network.shapes,
            activation=network.activation,
            epsilon=network.epsilon,
            clip=network.clip,
        )
        self.network = network

    def field(self, drive: Tensor, state: State) -> State:
        network = self.network
        rates = [network.rate(layer) for layer in state]
        currents = [network.drive(drive)]
        for connection, lower, upper in zip(network.chain[1:], rates, rates[1:], strict=False):
            assert isinstance(connection, Untied)
            received, chosen = connection.up(lower)
            with torch.enable_grad():
                # Of the lower layer, but not through it: what comes down is a field of its own.
                probe = lower.detach().requires_grad_()
                weight = connection.backward_weight
                sent = pooled(connection.upward, weight, probe, chosen)
                down = grad((upper * sent).sum(), probe, create_graph=True)[0]
            currents[-1] = currents[-1] + down
            currents.append(received)
        if isinstance(network, PrototypicalNetwork):
            return tuple(currents)
        fields = []
        for layer, current in zip(state, currents, strict=True):
            with torch.enable_grad():
                probe = layer if layer.requires_grad else layer.detach().requires_grad_()
                rate = network.rate(probe)
                of_rate = grad(rate.sum(), probe, create_graph=True)[0]
            fields.append((1 - network.epsilon) * layer + network.epsilon * of_rate * current)
        return tuple(fields)


networks = st.tuples(
    chains(),
    st.sampled_from(RHOS),
    st.floats(0.01, 1.5),
    st.sampled_from([None, (0.0, 1.0)]),
    st.sampled_from(["prototypical", "real-time"]),
    st.floats(0, 180),
    st.integers(0, 10**6),
)


def make(drawn: tuple, updates: Updates = "synchronous") -> tuple[Any, ...]:
    """A network, the obvious one, an input and three states."""
    (shape, connections), rho, epsilon, clip, kind, angle, seed = drawn
    torch.manual_seed(seed)
    chain = untied(connections, angle)
    network: LayeredNetwork
    if kind == "prototypical":
        network = PrototypicalNetwork(chain, rho, updates=updates)
    else:
        network = RealTimeNetwork(chain, rho, epsilon=epsilon, clip=clip, updates=updates)
    network.double()
    samples = 1 + seed % 4
    x = torch.randn(samples, *shape, dtype=torch.float64)
    states = [
        tuple(torch.rand(samples, *n, dtype=torch.float64) for n in network.shapes)
        for _ in range(3)
    ]
    return network, Obvious(network), x, *states


@given(networks)
@settings(max_examples=100)
def test_the_explicit_step_goes_up_by_one_weight_and_down_by_the_other(drawn: tuple) -> None:
    network, obvious, x, state, *_ = make(drawn)
    force = torch.randn_like(state[-1])
    with torch.no_grad():
        fast = network.step(network.drive(x), state, force)
        slow = obvious.step(x, state, force)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@given(networks)
@settings(max_examples=50)
def test_untied_layers_may_be_updated_in_turn(drawn: tuple) -> None:
    network, obvious, x, state, *_ = make(drawn, "alternating")
    expected = list(state)
    for first in (1, 0):
        with torch.no_grad():
            expected[first::2] = obvious.step(x, tuple(expected))[first::2]
    with torch.no_grad():
        found = network.step(network.drive(x), state)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@given(networks)
@settings(max_examples=100)
def test_the_learning_rule_of_untied_weights_is_that_of_vector_fields(drawn: tuple) -> None:
    network, obvious, x, before, after, anchor = make(drawn)
    fast = network.contrast_gradients(x, before, after, anchor, scale=-2.5)
    slow = obvious.contrast_gradients(x, before, after, anchor, scale=-2.5)
    assert {f"network.{name}" for name in fast} == set(slow)
    for name, gradient in fast.items():
        if name.startswith("connections.0.") and isinstance(network, RealTimeNetwork):
            # From the input nothing comes back: its connection is that of a coupling,
            # ρ(after) − ρ(before) in place of ρ′(anchor) ⊙ (after − before).
            continue
        torch.testing.assert_close(gradient, slow[f"network.{name}"], rtol=0, atol=1e-10)


@given(networks)
@settings(max_examples=100)
def test_the_explicit_rule_of_untied_weights_is_the_gradient_of_the_contrast(drawn: tuple) -> None:
    network, _, x, before, after, anchor = make(drawn)
    fast = network.contrast_gradients(x, before, after, anchor, scale=-2.5)
    slow = VectorFieldModel.contrast_gradients(network, x, before, after, anchor, scale=-2.5)
    assert fast.keys() == slow.keys() == dict(network.named_parameters()).keys()
    for name, gradient in fast.items():
        torch.testing.assert_close(gradient, slow[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "connections",
    [dense(4, 3, 2), convolutional((1, 9, 9), (2, 3), 2, kernel=2)],
    ids=["dense", "convolutional"],
)
@pytest.mark.parametrize("angle", [0.0, 60.0, 90.0, 135.0, 180.0])
def test_backward_weights_are_the_forward_ones_with_some_signs_flipped(
    connections: list[TiedConnection], angle: float
) -> None:
    torch.manual_seed(0)
    for connection in untied(connections, angle)[1:]:
        assert isinstance(connection, Untied)
        forward, backward = connection.upward.weight, connection.backward_weight
        assert torch.equal(forward.abs(), backward.abs())
        assert forward.data_ptr() != backward.data_ptr()
        if angle in (0.0, 180.0):
            assert torch.equal(backward, forward if angle == 0 else -forward)


@pytest.mark.parametrize("angle", [0.0, 22.5, 60.0, 90.0, 135.0, 180.0])
def test_each_sign_is_flipped_with_half_of_one_minus_the_cosine(angle: float) -> None:
    torch.manual_seed(0)
    (connection,) = untied(dense(1, 400, 300), angle)[1:]
    assert isinstance(connection, Untied)
    flipped = (connection.upward.weight * connection.backward_weight < 0).double().mean().item()
    probability = (1 - math.cos(math.radians(angle))) / 2
    deviation = math.sqrt(probability * (1 - probability) / (400 * 300))
    assert flipped == pytest.approx(probability, abs=4 * deviation + 1e-12)
    assert connection.weight_angle == pytest.approx(angle, abs=1.0)


def test_the_weight_angle_is_that_between_all_weights_of_a_connection_as_one_vector() -> None:
    connection = Untied(Dense(2, 1))
    with torch.no_grad():
        connection.upward.weight.copy_(torch.tensor([[3.0, 0.0]]))
        for backward, angle in (([2.0, 0.0], 0.0), ([1.0, 1.0], 45.0), ([-1.0, 0.0], 180.0)):
            connection.backward_weight.copy_(torch.tensor([backward]))
            assert connection.weight_angle == pytest.approx(angle, abs=1e-3)


def test_a_small_weight_angle_keeps_its_digits() -> None:
    connection = Untied(Dense(2, 1)).double()
    with torch.no_grad():
        connection.upward.weight.copy_(torch.tensor([[1.0, 0.0]]))
        connection.backward_weight.copy_(torch.tensor([[1.0, 1e-9]]))
    assert connection.weight_angle == pytest.approx(math.degrees(1e-9), rel=1e-6)


def test_a_weight_of_zero_is_at_right_angles_to_all_others() -> None:
    connection = Untied(Dense(2, 1))
    torch.nn.init.zeros_(connection.backward_weight)
    assert connection.weight_angle == 90


def test_a_weight_that_is_forward_and_backward_learns_from_both_its_ways() -> None:
    torch.manual_seed(0)
    network = PrototypicalNetwork(untied(dense(4, 5, 3))).double()
    connection = network.chain[1]
    assert isinstance(connection, Untied)
    connection.backward_weight = connection.upward.weight
    x = torch.rand(2, 4, dtype=torch.float64)
    before, after = (
        tuple(torch.rand(2, *n, dtype=torch.float64) for n in network.shapes) for _ in range(2)
    )
    fast = network.contrast_gradients(x, before, after, before)
    slow = ConvergentModel.contrast_gradients(network, x, before, after, before)
    assert fast.keys() == slow.keys()
    for name, gradient in fast.items():
        torch.testing.assert_close(gradient, slow[name], rtol=0, atol=1e-10)


def test_the_angles_of_a_network_are_listed_input_side_first() -> None:
    first, *others = dense(4, 5, 6, 3)
    network = PrototypicalNetwork([first, Untied(others[0], 180.0), Untied(others[1], 0.0)])
    assert network.weight_angles == pytest.approx((180.0, 0.0), abs=0.1)
    assert PrototypicalNetwork(dense(4, 5, 3)).weight_angles == ()


def test_forward_weights_are_those_of_the_tied_network_of_the_same_seed() -> None:
    tied, other = (
        build_network(Experiment(hidden=(6, 5), learning_rates=(1.0,) * 3, weight_angle=angle),
                      (1, 8, 8), 10)
        for angle in (None, 90.0)
    )  # fmt: skip
    for index, connection in enumerate(tied.chain):
        untied_one = other.chain[index]
        forward = untied_one.upward if isinstance(untied_one, Untied) else untied_one
        for name, parameter in connection.named_parameters():
            assert torch.equal(parameter, forward.get_parameter(name))


def exact_pair(angle: float = 0.0) -> tuple[RealTimeNetwork, RealTimeNetwork]:
    """A tied network, and the same with untied weights."""
    torch.manual_seed(1)
    connections = dense(4, 6, 5, 3)
    tied = RealTimeNetwork(connections, "tanh", epsilon=0.8).double()
    others = untied(copy.deepcopy(connections), angle)
    other = RealTimeNetwork(others, "tanh", epsilon=0.8).double()
    return tied, other


def test_at_0_degrees_the_dynamics_are_those_of_tied_weights() -> None:
    tied, other = exact_pair()
    x = torch.randn(7, 4, dtype=torch.float64)
    states = [network.initial_state(x) for network in (tied, other)]
    with torch.no_grad():
        for _ in range(20):
            states = [
                network.step(network.drive(x), state)
                for network, state in zip((tied, other), states, strict=True)
            ]
    for a, b in zip(*states, strict=True):
        assert torch.equal(a, b)


def test_at_0_degrees_forward_and_backward_updates_sum_to_that_of_ep_as_beta_vanishes() -> None:
    tied, other = exact_pair()
    source = torch.Generator().manual_seed(2)
    x = torch.randn(7, 4, generator=source, dtype=torch.float64)
    y = torch.rand(7, 3, generator=source, dtype=torch.float64)
    betas, errors = [1e-4, 1e-3, 1e-2], []
    for beta in betas:
        for network in (tied, other):
            network.zero_grad()
            EquilibriumPropagation(150, 150, beta)(network, x, y)
        expected = tied.chain[1].get_parameter("weight").grad
        untied_one = other.chain[1]
        forward = untied_one.get_parameter("upward.weight").grad
        backward = untied_one.get_parameter("backward_weight").grad
        assert expected is not None
        assert forward is not None
        assert backward is not None
        errors.append(((forward + backward - expected).norm() / expected.norm()).item())
    assert slope(betas, errors) == pytest.approx(1, abs=0.05)


def errors_against_bptt(network: LayeredNetwork, betas: list[float]) -> dict[str, list[float]]:
    """Relative error of the process of every parameter, by β."""
    source = torch.Generator().manual_seed(2)
    x = torch.randn(7, 4, generator=source, dtype=torch.float64)
    y = torch.rand(7, 3, generator=source, dtype=torch.float64)
    bptt = bptt_process(network, x, y, free_steps=300, nudged_steps=20)
    errors: dict[str, list[float]] = {name: [] for name in bptt.parameters}
    for beta in betas:
        ep = ep_process(network, x, y, free_steps=300, nudged_steps=20, beta=beta)
        for name, gradients in bptt.parameters.items():
            error = (ep.parameters[name] + gradients).norm() / gradients.norm()
            errors[name].append(error.item())
    return errors


def test_theorem_1_holds_for_each_of_the_untied_weights_at_0_degrees() -> None:
    """Forward and backward weights each follow their own gradient, with an error of O(β)."""
    betas = [1e-5, 1e-4, 1e-3]
    errors = errors_against_bptt(exact_pair()[1], betas)
    assert len(errors) == 8
    for name, of_name in errors.items():
        assert slope(betas, of_name) == pytest.approx(1, abs=0.05), name


def test_theorem_1_fails_away_from_0_degrees_but_at_the_output() -> None:
    """Backpropagation goes down by the forward weights, the nudge by the backward ones.

    The last way up ends at the output, whose error needs no way down.
    """
    errors = errors_against_bptt(exact_pair(90.0)[1], [1e-5, 1e-4])
    for name in ("connections.0.weight", "connections.1.upward.weight"):
        first, second = errors[name]
        assert first > 0.3, name
        assert first == pytest.approx(second, rel=0.01), name


def test_untied_weights_have_no_primitive_function() -> None:
    _, network = exact_pair()
    x = torch.ones(1, 4, dtype=torch.float64)
    with pytest.raises(TypeError, match="untied.*contrast"):
        network.phi(x, network.initial_state(x))


def test_a_layer_learns_both_its_weights_at_its_rate_and_messages_name_them() -> None:
    _, network = exact_pair()
    groups = network.parameter_groups([0.3, 0.2, 0.1])
    assert [(group["lr"], len(group["params"])) for group in groups] == [
        (0.3, 2),
        (0.2, 3),
        (0.1, 3),
    ]
    name = "connections.2.backward_weight"
    assert network.parameter_label(name) == "backward weight of output layer"
    assert network.parameter_name(name) == f"the backward weight of output layer ({name})"
    assert network.parameter_label("connections.1.upward.bias") == "bias of hidden layer 2"


@pytest.mark.parametrize(
    ("make_it", "error", "message"),
    [
        (lambda: Untied(Dense(2, 3), -1), ValueError, "angle.*0 to 180.*-1"),
        (lambda: Untied(Dense(2, 3), 180.5), ValueError, "angle.*180.5"),
        (lambda: Untied(Dense(2, 3), math.nan), ValueError, "angle.*nan"),
        (lambda: Untied(Untied(Dense(2, 3))), TypeError, "tied.*Untied"),  # pyright: ignore[reportArgumentType]
        (lambda: PrototypicalNetwork([Untied(Dense(2, 3))]), ValueError, "tied.*input"),
        (lambda: untied([]), ValueError, "at least one"),
    ],
)
def test_untied_weights_that_cannot_be_are_refused(
    make_it: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_it()


@pytest.mark.parametrize("updates", get_args(Updates))
def test_a_network_may_be_untied_in_part(updates: Updates) -> None:
    """Tied connections learn by their coupling, untied ones by their fields."""
    torch.manual_seed(0)
    first, second, third = dense(4, 5, 6, 3)
    network = PrototypicalNetwork([first, second, Untied(third, 90.0)], updates=updates).double()
    x = torch.rand(2, 4, dtype=torch.float64)
    before, after = (
        tuple(torch.rand(2, *n, dtype=torch.float64) for n in network.shapes) for _ in range(2)
    )
    found = network.contrast_gradients(x, before, after, before)
    tied = (after[1].t() @ after[0] - before[1].t() @ before[0]) / 2
    torch.testing.assert_close(found["connections.1.weight"], tied)
    forward = (after[2] - before[2]).t() @ before[1] / 2
    torch.testing.assert_close(found["connections.2.upward.weight"], forward)
    backward = before[2].t() @ (after[1] - before[1]) / 2
    torch.testing.assert_close(found["connections.2.backward_weight"], backward)
