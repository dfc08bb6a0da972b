"""The explicit steps and learning rules are those that autograd of Φ gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eqprop.activations import ACTIVATIONS, Rho, as_activation
from eqprop.connections import dense
from eqprop.models import PrimitiveModel, State
from eqprop.networks import LayeredNetwork, PrototypicalNetwork, RealTimeNetwork


def softened(s: Tensor) -> Tensor:
    return s / (1 + s.square())


RHOS: list[Rho] = [*ACTIVATIONS, softened]


class Obvious(PrimitiveModel):
    """The same network, knowing nothing of it but Φ."""

    def __init__(self, network: LayeredNetwork) -> None:
        super().__init__(
            network.shapes,
            activation=network.activation,
            epsilon=network.epsilon,
            clip=network.clip,
        )
        self.network = network

    def phi(self, x: Tensor, state: State) -> Tensor:
        return self.network.phi(x, state)


networks = st.builds(
    lambda sizes, rho, epsilon, clip, kind, seed: (sizes, rho, epsilon, clip, kind, seed),
    st.lists(st.integers(1, 6), min_size=2, max_size=5),
    st.sampled_from(RHOS),
    st.floats(0.01, 1.5),
    st.sampled_from([None, (0.0, 1.0), (-1.0, 1.0)]),
    st.sampled_from(["prototypical", "real-time"]),
    st.integers(0, 10**6),
)


def make(drawn: tuple) -> tuple[LayeredNetwork, Obvious, Tensor, State, State]:
    sizes, rho, epsilon, clip, kind, seed = drawn
    torch.manual_seed(seed)
    network: LayeredNetwork
    if kind == "prototypical":
        network = PrototypicalNetwork(dense(*sizes), rho)
    else:
        network = RealTimeNetwork(dense(*sizes), rho, epsilon=epsilon, clip=clip)
    network.double()
    samples = 1 + seed % 4
    x = torch.randn(samples, sizes[0], dtype=torch.float64)
    # Some units exactly on the edge, where the slope of a clipped function is a matter of care.
    one, other = (
        tuple(torch.rand(samples, n, dtype=torch.float64).mul(3).sub(1) for n in sizes[1:])
        for _ in range(2)
    )
    one = tuple(torch.where(s < -0.6, 0.0, torch.where(s > 1.6, 1.0, s)) for s in one)
    return network, Obvious(network), x, one, other


@given(networks)
@settings(max_examples=150, deadline=None)
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
@settings(max_examples=100, deadline=None)
def test_the_explicit_learning_rule_is_the_one_of_autograd(drawn: tuple) -> None:
    network, obvious, x, before, after = make(drawn)
    fast = network.contrast_gradients(x, before, after, before, scale=-2.5)
    slow = obvious.contrast_gradients(x, before, after, before, scale=-2.5)
    assert {f"network.{name}" for name in fast} == set(slow)
    for name, gradient in fast.items():
        torch.testing.assert_close(gradient, slow[f"network.{name}"], rtol=0, atol=1e-10)


@given(networks)
@settings(max_examples=60, deadline=None)
def test_backpropagation_through_an_explicit_step_is_that_through_autograd(drawn: tuple) -> None:
    network, obvious, x, state, weights = make(drawn)
    found = []
    for model, drive in ((network, network.drive(x)), (obvious, x)):
        after = model.step(drive, model.step(drive, state))
        value = torch.stack([(a * w).sum() for a, w in zip(after, weights, strict=True)]).sum()
        found.append(torch.autograd.grad(value, list(network.parameters()), materialize_grads=True))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rho", RHOS, ids=str)
def test_the_derivative_of_an_activation_is_its_slope(rho: Rho) -> None:
    activation = as_activation(rho)
    s = torch.linspace(-3, 3, 101, dtype=torch.float64) + 1e-3  # off the corners
    h = 1e-6
    slope = (activation(s + h) - activation(s - h)) / (2 * h)
    torch.testing.assert_close(activation.derivative(s, activation(s)), slope, rtol=0, atol=1e-8)


def test_the_scaled_sigmoid_is_sigmoid_of_four_x_minus_two() -> None:
    s = torch.linspace(-2, 3, 51, dtype=torch.float64)
    torch.testing.assert_close(as_activation("scaled-sigmoid")(s), 1 / (1 + torch.exp(2 - 4 * s)))


def test_images_are_flattened_at_the_input() -> None:
    network = PrototypicalNetwork(dense(12, 5, 3))
    images = torch.rand(2, 3, 2, 2)
    assert torch.equal(network.drive(images), network.drive(images.flatten(1)))


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
        (lambda: PrototypicalNetwork(dense(3, 4), "relu"), "scaled-sigmoid.*'relu'"),
        (lambda: RealTimeNetwork(dense(3, 4), epsilon=0), "epsilon.*> 0.*0"),
        (lambda: RealTimeNetwork(dense(3, 4), epsilon=float("nan")), "epsilon"),
        (lambda: RealTimeNetwork(dense(3, 4), clip=(1, 0)), "low < high"),
    ],
)
def test_a_network_that_cannot_be_is_refused(make_it, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_it()


def test_something_that_is_no_activation_is_refused() -> None:
    with pytest.raises(TypeError, match="callable"):
        as_activation(3)  # pyright: ignore[reportArgumentType]


def test_a_phi_that_is_not_one_value_per_sample_says_so() -> None:
    class Wrong(PrimitiveModel):
        def phi(self, x: Tensor, state: State) -> Tensor:
            return (x * state[0]).sum()

    model = Wrong([2])
    with pytest.raises(ValueError, match=r"phi: expected one value per sample, shape \(3,\)"):
        model.step(torch.ones(3, 2), (torch.ones(3, 2),))
