"""The explicit steps and learning rules are those that autograd of Φ gives."""

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eqprop.core.activations import Rho, as_activation
from eqprop.core.models import PrimitiveModel, State, half_square_norm
from eqprop.estimators.bptt import BPTT
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.networks.connections.chains import convolutional, dense, untied
from eqprop.networks.connections.connection import Connection
from eqprop.networks.connections.conv_pool import ConvPool
from eqprop.networks.connections.dense import Dense
from eqprop.networks.layered import Updates
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from eqprop.networks.toy import ToyModel
from zoo import RHOS, UserEnergy, UserPhi, chains


class Obvious(PrimitiveModel):
    """The same network, knowing nothing of it but Φ."""

    def __init__(self, network: PrototypicalNetwork | RealTimeNetwork) -> None:
        super().__init__(
            network.shapes,
            activation=network.activation,
            epsilon=network.epsilon,
            clip=network.clip,
        )
        self.network = network

    def phi(self, x: Tensor, state: State) -> Tensor:
        return self.network.phi(x, state)


networks = st.tuples(
    chains(),
    st.sampled_from(RHOS),
    st.floats(0.01, 1.5),
    st.sampled_from([None, (0.0, 1.0), (-1.0, 1.0)]),
    st.sampled_from(["prototypical", "real-time"]),
    st.integers(0, 10**6),
)


def make(drawn: tuple, updates: Updates = "synchronous") -> tuple[Any, ...]:
    """A network, the same knowing nothing but Φ, an input and two states."""
    (shape, connections), rho, epsilon, clip, kind, seed = drawn
    network: PrototypicalNetwork | RealTimeNetwork
    if kind == "prototypical":
        network = PrototypicalNetwork(connections, rho, updates=updates)
    else:
        network = RealTimeNetwork(connections, rho, epsilon=epsilon, clip=clip, updates=updates)
    network.double()
    torch.manual_seed(seed)
    samples = 1 + seed % 4
    x = torch.randn(samples, *shape, dtype=torch.float64)
    # Some units exactly on the edge, where the slope of a clipped function is a matter of care.
    one, other = (
        tuple(torch.rand(samples, *n, dtype=torch.float64).mul(3).sub(1) for n in network.shapes)
        for _ in range(2)
    )
    one = tuple(torch.where(s < -0.6, 0.0, torch.where(s > 1.6, 1.0, s)) for s in one)
    return network, Obvious(network), x, one, other


@given(networks)
@settings(max_examples=150)
def test_the_explicit_step_is_the_one_of_autograd(drawn: tuple) -> None:
    network, obvious, x, state, _ = make(drawn)
    force = torch.randn_like(state[-1])
    for pull in (None, force):
        with torch.no_grad():
            fast = network.step(network.drive(x), state, pull)
            slow = obvious.step(x, state, pull)
        for a, b in zip(fast, slow, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@given(networks)
@settings(max_examples=100)
def test_alternating_updates_move_the_layers_of_even_number_then_the_others(drawn: tuple) -> None:
    network, obvious, x, state, _ = make(drawn, "alternating")
    force = torch.randn_like(state[-1])
    for pull in (None, force):
        expected = list(state)
        for first in (1, 0):
            with torch.no_grad():
                after = obvious.step(x, tuple(expected), pull)
            expected[first::2] = after[first::2]
        with torch.no_grad():
            found = network.step(network.drive(x), state, pull)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@given(networks)
@settings(max_examples=100)
def test_the_explicit_learning_rule_is_the_one_of_autograd(drawn: tuple) -> None:
    network, obvious, x, before, after = make(drawn)
    fast = network.contrast_gradients(x, before, after, before, scale=-2.5)
    slow = obvious.contrast_gradients(x, before, after, before, scale=-2.5)
    assert {f"network.{name}" for name in fast} == set(slow)
    for name, gradient in fast.items():
        torch.testing.assert_close(gradient, slow[f"network.{name}"], rtol=0, atol=1e-10)


@given(networks)
@settings(max_examples=60)
def test_backpropagation_through_an_explicit_step_is_that_through_autograd(drawn: tuple) -> None:
    network, obvious, x, state, weights = make(drawn)
    found = []
    for model, drive in ((network, network.drive(x)), (obvious, x)):
        after = model.step(drive, model.step(drive, state))
        value = torch.stack([(a * w).sum() for a, w in zip(after, weights, strict=True)]).sum()
        found.append(torch.autograd.grad(value, list(network.parameters()), materialize_grads=True))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rho", RHOS, ids=lambda rho: getattr(rho, "__name__", rho))
def test_the_derivative_of_an_activation_is_its_slope(rho: Rho) -> None:
    activation = as_activation(rho)
    s = torch.linspace(-3, 3, 101, dtype=torch.float64) + 1e-3  # off the corners
    h = 1e-6
    slope = (activation(s + h) - activation(s - h)) / (2 * h)
    torch.testing.assert_close(activation.derivative(s, activation(s)), slope, rtol=0, atol=1e-8)


def test_the_scaled_sigmoid_is_sigmoid_of_four_x_minus_two() -> None:
    s = torch.linspace(-2, 3, 51, dtype=torch.float64)
    torch.testing.assert_close(as_activation("scaled-sigmoid")(s), 1 / (1 + torch.exp(2 - 4 * s)))


def test_the_input_goes_through_rho_in_real_time_and_as_it_is_otherwise() -> None:
    connections = dense(4, 3)
    weight, bias = connections[0].get_parameter("weight"), connections[0].get_parameter("bias")
    x = torch.randn(2, 4)
    for network, sent in (
        (RealTimeNetwork(connections, "tanh"), x.tanh()),
        (PrototypicalNetwork(connections, "tanh"), x),
    ):
        torch.testing.assert_close(network.drive(x), sent @ weight.t() + bias)


def test_images_are_flattened_at_the_input() -> None:
    network = PrototypicalNetwork(dense(12, 5, 3))
    images = torch.rand(2, 3, 2, 2)
    assert torch.equal(network.drive(images), network.drive(images.flatten(1)))


def test_vectors_are_images_to_a_convolution() -> None:
    network = PrototypicalNetwork([ConvPool((3, 4, 2), 5, kernel=2, pool=1)])
    images = torch.rand(2, 3, 4, 2)
    assert torch.equal(network.drive(images), network.drive(images.flatten(1)))


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 3), st.integers(1, 4))
def test_the_least_image_that_is_said_to_fit_does(
    kernel: int, stride: int, padding: int, pool: int
) -> None:
    said = set()
    fitting = []
    for side in range(1, 30):
        try:
            ConvPool((1, side, side), 2, kernel, stride=stride, padding=padding, pool=pool)
            fitting.append(side)
        except ValueError as error:
            said.add(str(error).split(",")[0])
    assert fitting == list(range(fitting[0], 30))
    if fitting[0] > 1:
        assert said == {f"ConvPool: expected an image of at least {fitting[0]}×{fitting[0]}"}


def test_pooling_leaves_out_what_fills_no_window() -> None:
    connection = ConvPool((1, 6, 5), 1, kernel=1, pool=2).double()
    lower = torch.rand(1, 1, 6, 5, dtype=torch.float64)
    received, switches = connection.up(lower)
    assert received.shape[1:] == connection.upper_shape == (1, 3, 2)
    down = connection.down(torch.ones_like(received), switches)
    assert (down[..., 4] == 0).all()
    assert (down != 0).sum() == 6


def test_states_of_convolutions_keep_their_channels_last_in_memory() -> None:
    first = ConvPool((1, 12, 12), 4, kernel=3)
    network = PrototypicalNetwork([first, ConvPool(first.upper_shape, 6, kernel=2)])
    for updates in get_args(Updates):
        network.updates = updates
        state = network.initial_state(x := torch.rand(3, 1, 12, 12))
        with torch.no_grad():
            drive = network.drive(x)
            for _ in range(2):
                state = network.step(drive, state)
        assert all(s.is_contiguous(memory_format=torch.channels_last) for s in (drive, *state))


def test_a_connection_used_twice_is_trained_once_at_its_first_rate() -> None:
    first, middle, last = dense(4, 5, 5, 3)
    network = PrototypicalNetwork([first, middle, middle, last])
    groups = network.parameter_groups([0.4, 0.3, 0.2, 0.1])
    assert [group["lr"] for group in groups] == [0.4, 0.3, 0.1]
    torch.optim.SGD(groups)
    before, after = (tuple(torch.rand(2, *shape) for shape in network.shapes) for _ in range(2))
    gradients = network.contrast_gradients(torch.rand(2, 4), before, after, before)
    assert gradients.keys() == dict(network.named_parameters()).keys()


def test_every_state_is_pooled_where_its_own_largest_values_are() -> None:
    torch.manual_seed(0)
    network = PrototypicalNetwork(convolutional((1, 12, 12), (4, 6), kernel=3)).double()
    x = torch.rand(3, 1, 12, 12, dtype=torch.float64)
    before, after = (
        tuple(torch.rand(3, *shape, dtype=torch.float64) for shape in network.shapes)
        for _ in range(2)
    )
    fast = network.contrast_gradients(x, before, after, before)
    slow = Obvious(network).contrast_gradients(x, before, after, before)
    for name, gradient in fast.items():
        torch.testing.assert_close(gradient, slow[f"network.{name}"], rtol=0, atol=1e-10)


def test_gradients_of_convolutions_are_contiguous_as_those_of_backward_are() -> None:
    network = PrototypicalNetwork(convolutional((1, 12, 12), (4, 6), kernel=3))
    before, after = (tuple(torch.rand(3, *shape) for shape in network.shapes) for _ in range(2))
    gradients = network.contrast_gradients(torch.rand(3, 1, 12, 12), before, after, before)
    assert all(gradient.is_contiguous() for gradient in gradients.values())


def test_learning_rates_go_to_their_layers_input_side_first() -> None:
    network = PrototypicalNetwork(dense(4, 5, 3))
    groups = network.parameter_groups([0.5, 0.25])
    assert [group["lr"] for group in groups] == [0.5, 0.25]
    assert [p.shape[0] for group in groups for p in group["params"]] == [5, 5, 3, 3]
    with pytest.raises(ValueError, match=r"learning_rates: expected 2.*got 1"):
        network.parameter_groups([0.5])


def test_weights_start_as_those_of_a_linear_layer_of_torch() -> None:
    torch.manual_seed(0)
    weight = dense(400, 300)[0].get_parameter("weight")
    assert weight.abs().max() <= 0.05
    assert weight.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.01)


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: dense(3), "at least|sizes"),
        (lambda: dense(3, 0), "at least 1"),
        (lambda: PrototypicalNetwork([]), "at least one"),
        (lambda: PrototypicalNetwork([*dense(3, 4), *dense(5, 2)]), r"\(4,\).*\(5,\)"),
        (lambda: PrototypicalNetwork(dense(3, 4), updates="random"), "synchronous.*'random'"),  # pyright: ignore[reportArgumentType]
        (lambda: PrototypicalNetwork([ConvPool((1, 8, 8), 2), *dense(8, 2)]), r"\(2, 2, 2\).*8"),
        (lambda: PrototypicalNetwork(dense(12, 2)).drive(torch.ones(5, 3, 3)), r"\(12,\).*3, 3"),
        (lambda: PrototypicalNetwork([ConvPool((1, 8, 8), 2)]).drive(torch.ones(5, 63)), "63"),
        (lambda: PrototypicalNetwork([ConvPool((2, 8, 8), 2)]).drive(torch.ones(5, 8, 8, 2)), "8"),
        (lambda: ConvPool((8, 8), 2), r"channels, height, width.*\(8, 8\)"),
        (lambda: ConvPool((1, 8, 0), 2), r"height.*\(1, 8, 0\)"),
        (lambda: ConvPool((1, 5, 8), 2), "at least 6×6.*got 5×8"),
        (lambda: ConvPool((1, 2, 2), 2, 5, padding=1, pool=1), "at least 3×3.*got 2×2"),
        (lambda: ConvPool((1, 8, 8), 2, stride=2, pool=3), "at least 9×9"),
        (lambda: ConvPool((1, 8, 8), 0), "at least 1.*got 0"),
        (lambda: ConvPool((1, 8, 8), 2, padding=-1), "padding.*-1"),
        (lambda: ConvPool((1, 8, 8), 2, pooling="min"), "max, average.*'min'"),  # pyright: ignore[reportArgumentType]
        (lambda: Dense((3, 0), 2), "at least 1"),
        (lambda: Dense(8.0, 4), "whole numbers.*8.0"),  # pyright: ignore[reportArgumentType]
        (lambda: Dense(8, True), "whole numbers.*True"),
        (lambda: dense(784), r"as in dense\(784, 512, 10\), got 784"),
        (lambda: dense([784, 512, 10]), r"as in dense\(784, 512, 10\), got \[784, 512, 10\]"),
        (lambda: PrototypicalNetwork(dense(3, 4)).parameter_groups(0.1), "expected 1, .*0.1 alone"),  # pyright: ignore[reportArgumentType]
        (lambda: ToyModel(hidden=2.5), "shapes: expected whole numbers, got 2.5"),  # pyright: ignore[reportArgumentType]
        (lambda: ConvPool(64, 4), "channels, height, width.*64"),  # pyright: ignore[reportArgumentType]
        (lambda: ConvPool((1, 8, 8), 2, (3, 3)), r"square.*\(3, 3\)"),  # pyright: ignore[reportArgumentType]
        (lambda: convolutional((1, 8, 8), (4, 4)), "hidden layer 2: .*at least 6×6.*got 2×2"),
        (lambda: convolutional((1, 8, 8), (4, 4), kernel=(3, 3, 3)), "kernel: .*or 2.*got 3"),
        (lambda: PrototypicalNetwork(dense(3, 4), "relu"), "scaled-sigmoid.*'relu'"),
        (lambda: RealTimeNetwork(dense(3, 4), epsilon=0), "epsilon.*> 0.*0"),
        (lambda: RealTimeNetwork(dense(3, 4), epsilon=float("nan")), "epsilon"),
        (lambda: RealTimeNetwork(dense(3, 4), epsilon=float("inf")), "epsilon"),
        (lambda: RealTimeNetwork(dense(3, 4), epsilon="0.5"), "epsilon: .* a number, got '0.5'"),  # pyright: ignore[reportArgumentType]
        (lambda: RealTimeNetwork(dense(3, 4), clip=(1, 0)), "low < high"),
        (lambda: RealTimeNetwork(dense(3, 4), clip=True), r"\(low, high\) .* got True"),  # pyright: ignore[reportArgumentType]
        (lambda: RealTimeNetwork(dense(3, 4), clip="01"), r"\(low, high\) .* got '01'"),  # pyright: ignore[reportArgumentType]
        (lambda: RealTimeNetwork(dense(3, 4), clip=(0, 1, 2)), r"\(low, high\) .* got \(0, 1, 2"),  # pyright: ignore[reportArgumentType]
        (lambda: RealTimeNetwork(dense(3, 4), clip=(0, "1")), "clip: expected a number, got '1'"),  # pyright: ignore[reportArgumentType]
        (
            lambda: PrototypicalNetwork(Dense(3, 4)),  # pyright: ignore[reportArgumentType]
            r"a list of them, .* got Dense; write \[Dense\(",
        ),
        (lambda: PrototypicalNetwork(784), "a list of them, .* got int$"),  # pyright: ignore[reportArgumentType]
        (lambda: untied(Dense(3, 4)), r"a list of them, .* got Dense; write \[Dense\("),  # pyright: ignore[reportArgumentType]
        (lambda: untied([]), "at least one, got none"),
        (lambda: untied(dense(3, 4, 2), "45"), "angle: expected a number, got '45'"),  # pyright: ignore[reportArgumentType]
        (lambda: PrototypicalNetwork(dense(3, 4)).parameter_groups([-0.1]), "at least 0, got -0.1"),
        (
            lambda: PrototypicalNetwork(dense(3, 4)).parameter_groups([math.nan]),
            "finite .* got nan",
        ),
        (lambda: PrototypicalNetwork(dense(3, 4)).parameter_groups(["x"]), "a number, got 'x'"),  # pyright: ignore[reportArgumentType]
        (lambda: EquilibriumPropagation(3, 3, "0.5"), "beta: expected a number, got '0.5'"),  # pyright: ignore[reportArgumentType]
        (lambda: EquilibriumPropagation(3, 3, 1j), "beta: expected a number, got 1j"),  # pyright: ignore[reportArgumentType]
        (lambda: EquilibriumPropagation(3, 3, True), "beta: expected a number, got True"),
        (lambda: BPTT(3, tolerance=True), "tolerance: expected a number, got True"),
    ],
)
def test_what_cannot_be_is_refused(make_it, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make_it()


def test_sizes_may_be_those_of_numpy_and_the_input_a_shape() -> None:
    labels = np.array([0, 1, 2])
    network = PrototypicalNetwork(dense((2, 3), np.int64(5), labels.max() + 1))  # pyright: ignore[reportArgumentType]
    assert network.shapes == ((5,), (3,))
    assert all(type(size) is int for shape in network.shapes for size in shape)
    assert network(torch.rand(4, 2, 3)).shape == (4, 3)
    chain = convolutional(np.array([1, 8, 8]).tolist(), [np.int64(4)], 3, kernel=np.int64(3))  # pyright: ignore[reportArgumentType]
    assert PrototypicalNetwork(chain).shapes == ((4, 3, 3), (3,))


def test_a_printed_model_says_its_layers_rho_epsilon_clip_and_updates() -> None:
    printed = {
        "layers=[5, 3], ρ=tanh, ε=1, clip=none, updates=synchronous": PrototypicalNetwork(
            dense(4, 5, 3), "tanh"
        ),
        "layers=[2×3×3, 3], ε=0.5, clip=[0, 1], updates=alternating, ρ=hard-sigmoid": (
            RealTimeNetwork(
                convolutional((1, 8, 8), (2,), 3, kernel=3),
                "hard-sigmoid",
                epsilon=0.5,
                clip=(0, 1),
                updates="alternating",
            )
        ),
        "layers=[5, 3], ε=1, clip=none": UserPhi(),
        "layers=[5, 3], ε=0.4, clip=none": UserEnergy(),
    }
    for said, model in printed.items():
        assert said in str(model).splitlines()[1].strip()


def test_something_that_is_no_activation_is_refused() -> None:
    with pytest.raises(TypeError, match="callable"):
        as_activation(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="parameters"):
        as_activation(torch.nn.PReLU())


def test_a_phi_that_is_not_one_value_per_sample_says_so() -> None:
    class Wrong(PrimitiveModel):
        def phi(self, x: Tensor, state: State) -> Tensor:
            return (x * state[0]).sum()

    model = Wrong([2])
    with pytest.raises(ValueError, match=r"phi: expected one value per sample, shape \(3,\)"):
        model.step(torch.ones(3, 2), (torch.ones(3, 2),))


@given(chains(), st.integers(0, 10**6))
@settings(max_examples=60)
def test_alternating_updates_never_raise_the_energy(
    drawn: tuple[tuple[int, ...], list[Connection]], seed: int
) -> None:
    """Hard sigmoids minimise ½s² − s · current over [0, 1], and max-pooling is convex."""
    shape, connections = drawn
    network = PrototypicalNetwork(connections, "hard-sigmoid", updates="alternating").double()
    torch.manual_seed(seed)
    x = 3 * torch.randn(2, *shape, dtype=torch.float64)
    state = tuple(torch.rand(2, *s, dtype=torch.float64) for s in network.shapes)
    with torch.no_grad():
        drive = network.drive(x)
        energy = half_square_norm(state) - network.phi(x, state)
        for _ in range(10):
            state = network.step(drive, state)
            before, energy = energy, half_square_norm(state) - network.phi(x, state)
            assert (energy <= before + 1e-12).all()
