"""A connection needs its coupling alone; the explicit formulas are what autograd makes of it."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from eqprop.core.models import ConvergentModel, parameter_gradients
from eqprop.estimators.bptt import BPTT
from eqprop.estimators.continual import ContinualEP
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.estimator import Estimator
from eqprop.estimators.recurrent_backprop import RecurrentBackprop
from eqprop.networks.connections.chains import dense
from eqprop.networks.connections.connection import Change, Connection, Ends, TiedConnection
from eqprop.networks.connections.dense import Dense
from eqprop.networks.connections.untied import Untied
from eqprop.networks.layered import Updates
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from zoo import Batch, chains, convolutional


class Gated(TiedConnection):
    """What a user would write: u · (tanh(W l) ⊙ g), and nothing else."""

    def __init__(self, lower: int, upper: int) -> None:
        super().__init__((lower,), (upper,))
        self.weight = nn.Parameter(0.5 * torch.randn(upper, lower))
        self.gate = nn.Parameter(torch.rand(upper))

    def coupling(self, ends: Ends) -> Tensor:
        lower, upper = ends
        return (upper * self.gate * (lower @ self.weight.t()).tanh()).sum(1)


def drawn_states(connection: Connection, seed: int) -> tuple[Tensor, ...]:
    source = torch.Generator().manual_seed(seed)
    shapes = (connection.lower_shape, connection.upper_shape) * 2
    return tuple(torch.randn(3, *n, generator=source, dtype=torch.float64) for n in shapes)


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@given(chains(), st.integers(0, 10**6))
def test_explicit_ways_and_gradients_are_those_of_the_coupling(drawn: tuple, seed: int) -> None:
    for connection in drawn[1]:
        connection.double()
        lower, upper, lower_after, upper_after = drawn_states(connection, seed)
        received, trace = connection.up(lower)
        assert_same(received, TiedConnection.up(connection, lower)[0])
        slow_trace = TiedConnection.trace(connection, lower)
        for onto in (None, lower_after):
            assert_same(
                connection.down(upper, trace, onto),
                TiedConnection.down(connection, upper, slow_trace, onto),
            )
        weight = torch.randn_like(connection.weight)
        other = nn.Module.__new__(type(connection))
        other.__dict__ = {**connection.__dict__, "_parameters": {**connection._parameters}}
        other.weight = nn.Parameter(weight)
        assert_same(connection.transposed(weight, upper, trace), other.down(upper, trace))
        ends = (lower, upper)
        for change in (
            Change(ends, (lower_after, upper_after), ends),
            Change(ends, (lower, upper_after), ends),  # the static input below
        ):
            fast = connection.contrast_gradients(change, 0.7)
            assert_same(fast, Connection.contrast_gradients(connection, change, 0.7))
        fast = connection.up_gradients(lower, upper)
        value = connection.coupling(ends).sum()
        assert_same(fast, parameter_gradients(connection, (value,)))
        # ⟨transposed(w, u), l⟩ is linear in w, with this gradient.
        product = (connection.transposed(weight, upper, trace) * lower_after).sum()
        gradient = connection.down_gradient(lower_after, upper, trace)
        assert_same((gradient * weight).sum(), product)


def test_the_ways_of_a_connection_are_the_derivatives_of_its_coupling() -> None:
    torch.manual_seed(0)
    connection = Gated(4, 3).double()
    lower, upper, *_ = drawn_states(connection, 1)
    slope = 1 - (lower @ connection.weight.t()).tanh().square()
    received, trace = connection.up(lower)
    assert_same(received, connection.gate * (lower @ connection.weight.t()).tanh())
    assert_same(
        connection.down(upper, trace, onto=lower),
        lower + (upper * connection.gate * slope) @ connection.weight,
    )


@pytest.mark.parametrize("updates", ["synchronous", "alternating"])
@pytest.mark.parametrize("untied", [False, True])
def test_a_connection_of_ones_own_learns_as_autograd_says(
    batch: Batch, untied: bool, updates: Updates
) -> None:
    torch.manual_seed(0)
    last: Connection = Gated(6, 3)
    if untied:
        last = Untied(Gated(6, 3), angle=90)
    network = RealTimeNetwork([*dense(4, 6), last], "tanh", epsilon=0.5, updates=updates).double()
    before, after = (
        tuple(torch.randn(7, *n, dtype=torch.float64) for n in network.shapes) for _ in range(2)
    )
    fast = network.contrast_gradients(batch[0], before, after, before)
    slow = ConvergentModel.contrast_gradients(network, batch[0], before, after, before)
    assert fast.keys() == slow.keys() == dict(network.named_parameters()).keys()
    assert_same(fast, slow)
    assert all(gradient.abs().max() > 0 for gradient in fast.values())


def test_every_estimator_takes_a_connection_of_ones_own(batch: Batch) -> None:
    expected = None
    for estimator in (
        EquilibriumPropagation(150, 150, 1e-4, "symmetric"),
        BPTT(300),
        RecurrentBackprop(150, adjoint_tolerance=1e-12),
    ):
        torch.manual_seed(0)
        network = RealTimeNetwork([*dense(4, 6), Gated(6, 3)], "tanh", epsilon=0.8).double()
        estimator(network, *batch)
        gate = network.get_parameter("connections.1.gate").grad
        assert gate is not None
        expected = gate if expected is None else expected
        torch.testing.assert_close(gate, expected, rtol=1e-4, atol=1e-7)
    network = PrototypicalNetwork([*dense(4, 6), Gated(6, 3)], "tanh").double()
    before = network.get_parameter("connections.1.gate").clone()
    ContinualEP(torch.optim.SGD(network.parameters(), 0.1), 20, 5, 0.5)(network, *batch)
    assert not torch.equal(network.get_parameter("connections.1.gate"), before)


def test_a_coupling_that_is_not_one_value_per_sample_is_refused() -> None:
    class Summed(Gated):
        def coupling(self, ends: Ends) -> Tensor:
            return super().coupling(ends).sum()

    with pytest.raises(ValueError, match=r"coupling: expected one value per sample, shape \(3,\)"):
        Summed(4, 3).up(torch.rand(3, 4))


def test_a_weight_made_of_other_parameters_learns_through_them(batch: Batch) -> None:
    torch.manual_seed(0)
    last = Dense(6, 3)
    parametrizations.weight_norm(last)
    network = PrototypicalNetwork([Dense(4, 6), last], "tanh").double()
    before, after = (
        tuple(torch.randn(7, *n, dtype=torch.float64) for n in network.shapes) for _ in range(2)
    )
    fast = network.contrast_gradients(batch[0], before, after, before)
    assert_same(fast, ConvergentModel.contrast_gradients(network, batch[0], before, after, before))
    assert any("parametrizations" in name for name in fast)


@pytest.mark.parametrize(
    "estimator",
    [
        EquilibriumPropagation(6, 4, beta=0.5, nudging="symmetric"),
        BPTT(6, 4),
        RecurrentBackprop(60),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_networks_that_pool_learn_where_all_must_be_deterministic(
    batch: Batch, estimator: Estimator
) -> None:
    x, target = batch
    torch.manual_seed(4)
    network = convolutional().double()

    def gradients() -> list[Tensor]:
        network.zero_grad()
        estimator(network, x, target)
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    expected = gradients()
    torch.use_deterministic_algorithms(True)
    try:
        found = gradients()
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(found) == len(expected) == 6
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


class Squared(TiedConnection):
    """u · W l + u²/100: not linear in u."""

    def __init__(self) -> None:
        super().__init__((3,), (4,))
        self.weight = nn.Parameter(torch.randn(4, 3))

    def coupling(self, ends: Ends) -> Tensor:
        lower, upper = ends
        return (upper * (lower @ self.weight.t()) + 0.01 * upper.square()).sum(1)


class Slipped(Gated):
    """Without the gate on the way down."""

    def down(self, upper: Tensor, trace: Any, onto: Tensor | None = None) -> Tensor:
        received = (upper * (1 - (trace @ self.weight.t()).tanh() ** 2)) @ self.weight
        return received if onto is None else onto + received


class Halved(Gated):
    """Half of the gate's gradient."""

    def contrast_gradients(self, change: Change, scale: float = 1.0) -> dict[str, Tensor]:
        found = super().contrast_gradients(change, scale)
        return {**found, "gate": found["gate"] / 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("connection", "named"),
    [
        (lambda: Squared(), r"Squared\.coupling: .* linear"),
        (lambda: Slipped(3, 4), r"Slipped\.down: .* derivative"),
        (lambda: Halved(3, 4), r"Halved\.contrast_gradients: .* for gate"),
        (lambda: Untied(Squared()), r"Squared\.coupling: .* linear"),
    ],
)
def test_a_connection_that_is_not_what_its_coupling_makes_of_it_is_refused(
    connection: Any, named: str, dtype: torch.dtype
) -> None:
    with pytest.raises(ValueError, match=named):
        PrototypicalNetwork([*dense(5, 3), connection().to(dtype)])


def test_looking_at_a_connection_of_ones_own_leaves_it_and_the_random_numbers_alone() -> None:
    connection = Gated(3, 4)
    connection.dropout = nn.Dropout()
    connection.dropout.train()
    kept = {name: p.clone() for name, p in connection.named_parameters()}
    first = dense(5, 3)
    torch.manual_seed(0)
    PrototypicalNetwork([*first, connection])
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert drawn == torch.rand(1)
    assert connection.training
    assert connection.dropout.training
    for name, p in connection.named_parameters():
        assert torch.equal(p, kept[name])
        assert p.grad is None
