"""Every parameter a model has learns, or is refused in words: none is passed over in silence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eqprop.analysis.processes import ep_process
from eqprop.core.models import PrimitiveModel, State
from eqprop.core.phases import relax
from eqprop.core.stand_in import standing_in
from eqprop.estimators.continual import ContinualEP
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.estimator import Estimator
from eqprop.estimators.recurrent_backprop import RecurrentBackprop
from eqprop.networks.connections.chains import dense, untied
from eqprop.networks.connections.untied import Untied
from eqprop.networks.layered import LayeredNetwork
from eqprop.networks.prototypical import PrototypicalNetwork
from measuring import slope
from zoo import Batch


class Gain(LayeredNetwork):
    """r(s) = tanh(g s), Φ = ½‖s‖² − ε (½‖s‖² − coupling), with a gain g of its own."""

    def __init__(self, connections: Any = None) -> None:
        super().__init__(connections or dense(4, 6, 3), epsilon=0.7)
        self.gain = nn.Parameter(torch.tensor(0.8))

    def rate(self, s: Tensor) -> Tensor:
        return (self.gain * s).tanh()

    def layer_field(self, s: Tensor, rate: Tensor, current: Tensor) -> Tensor:
        return torch.lerp(s, self.gain * (1 - rate.square()) * current, self.epsilon)


class Leaky(Gain):
    """A leak that the coupling does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.leak = nn.Parameter(torch.tensor(0.9))

    def layer_field(self, s: Tensor, rate: Tensor, current: Tensor) -> Tensor:
        return super().layer_field(self.leak * s, rate, current)


def gradients(model: nn.Module, batch: Batch, estimator: Estimator) -> dict[str, Tensor]:
    model.zero_grad()
    estimator(model, *batch)  # pyright: ignore[reportArgumentType]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_gain_in_what_layers_send_learns_by_the_gradient(batch: Batch) -> None:
    """Its error falls as β², as that of every other parameter of an exact model does."""
    torch.manual_seed(0)
    model = Gain().double()
    truth = gradients(model, batch, RecurrentBackprop(300, adjoint_tolerance=1e-13))
    betas = [0.02, 0.05, 0.1]
    found = [
        gradients(model, batch, EquilibriumPropagation(300, 300, beta, "symmetric"))
        for beta in betas
    ]
    assert truth["gain"].abs() > 1e-3
    for name in truth:
        errors = [((of[name] - truth[name]).norm() / truth[name].norm()).item() for of in found]
        assert slope(betas, errors) == pytest.approx(2, abs=0.1), name


def test_the_first_order_effect_of_a_gain_is_the_same_where_weights_are_untied(
    batch: Batch,
) -> None:
    """At 0° the rule of vector fields is that of Φ, as β → 0."""
    rules = []
    for connections in (dense(4, 6, 3), untied(dense(4, 6, 3), 0.0)):
        torch.manual_seed(0)
        model = Gain(connections).double()
        with torch.no_grad():
            for p in model.connections.parameters():
                p.copy_(torch.linspace(-0.5, 0.5, p.numel(), dtype=p.dtype).view_as(p))
        rules.append(
            gradients(model, batch, EquilibriumPropagation(300, 300, 1e-4, "symmetric"))["gain"]
        )
    torch.testing.assert_close(rules[0], rules[1], rtol=1e-5, atol=1e-10)


def test_the_response_is_the_derivative_of_what_a_layer_sends() -> None:
    model = Gain().double()
    s, moved = (torch.randn(5, 6, dtype=torch.float64) for _ in range(2))
    expected = model.gain * (1 - (model.gain * s).tanh().square()) * moved
    torch.testing.assert_close(model.response(s, moved), expected)


def test_a_parameter_that_the_learning_rule_would_pass_over_is_refused(batch: Batch) -> None:
    model = Leaky().double()
    with pytest.raises(ValueError, match=r"^parameter leak: expected one .* freeze it"):
        EquilibriumPropagation(10, 10, 0.1)(model, *batch)
    model.leak.requires_grad_(False)
    EquilibriumPropagation(10, 10, 0.1)(model, *batch)
    assert model.gain.grad is not None
    assert model.leak.grad is None


def test_a_connection_that_has_another_name_in_the_network_too_learns_once(batch: Batch) -> None:
    torch.manual_seed(0)
    model, plain = Gain().double(), Gain().double()
    plain.load_state_dict(model.state_dict())
    model.first = model.chain[0]
    estimator = EquilibriumPropagation(50, 50, 0.1)
    ours, theirs = gradients(model, batch, estimator), gradients(plain, batch, estimator)
    assert set(ours) == set(theirs)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name])


class Driven(PrimitiveModel):
    """Overrides the drive alone: phi receives what it made of x."""

    def __init__(self, *, driven: bool) -> None:
        super().__init__([5, 3])
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
        self.driven = driven
        self.calls = 0

    def drive(self, x: Tensor) -> Tensor:
        return self.from_input(x) if self.driven else x

    def from_input(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.a(x).tanh()

    def phi(self, x: Tensor, state: State) -> Tensor:
        h, o = state
        current = x if self.driven else self.from_input(x)
        return 0.5 * ((h * current).sum(1) + (o * self.b(h).tanh()).sum(1))


@pytest.mark.parametrize(
    "estimator",
    [EquilibriumPropagation(100, 100, 0.1), RecurrentBackprop(100, adjoint_tolerance=1e-12)],
    ids=["ep", "rbp"],
)
def test_a_drive_of_ones_own_changes_nothing_but_how_often_it_is_computed(
    batch: Batch, estimator: Estimator
) -> None:
    found, calls = [], []
    for driven in (True, False):
        torch.manual_seed(0)
        model = Driven(driven=driven).double()
        found.append(gradients(model, batch, estimator))
        calls.append(model.calls)
    assert found[0].keys() == {"a.weight", "a.bias", "b.weight", "b.bias"}
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name])
    assert calls[0] <= 2 < 100 < calls[1]


def test_where_the_drive_is_phis_own_the_steady_state_is_the_same(batch: Batch) -> None:
    states = []
    for driven in (True, False):
        torch.manual_seed(0)
        with torch.no_grad():
            states.append(relax(Driven(driven=driven).double(), batch[0], 50).state)
    for one, other in zip(*states, strict=True):
        torch.testing.assert_close(one, other)


def learnt(model: LayeredNetwork, batch: Batch, *, deferring: bool) -> dict[str, Tensor]:
    """The parameters after a mini-batch of C-EP, with or without updates that may wait."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    if not deferring:
        optimizer.register_step_post_hook(lambda *_: None)
    ContinualEP(optimizer, 20, 10, 0.5)(model, *batch)
    return {name: p.detach() for name, p in model.named_parameters()}


def normed() -> LayeredNetwork:
    first, last = dense(4, 6, 3)
    torch.nn.utils.parametrizations.weight_norm(first)
    return PrototypicalNetwork([first, last], "tanh")


@pytest.mark.parametrize("make", [Gain, normed])
def test_what_the_drive_depends_on_besides_a_plain_weight_moves_in_every_step(
    batch: Batch, make: Callable[[], LayeredNetwork]
) -> None:
    found = []
    for deferring in (True, False):
        torch.manual_seed(0)
        found.append(learnt(make().double(), batch, deferring=deferring))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("eta", [None, 0.01, [0.01, 0.02, 0.03]])
def test_the_process_of_a_parameter_of_its_own_sums_to_its_update(batch: Batch, eta: Any) -> None:
    torch.manual_seed(0)
    model, x, y = Gain().double(), *batch
    process = ep_process(model, x, y, free_steps=60, nudged_steps=20, beta=0.1, eta=eta)
    if eta is None:
        update = gradients(model, batch, EquilibriumPropagation(60, 20, 0.1))["gain"]
        torch.testing.assert_close(process.total["gain"], -update)
    assert process.parameters["gain"].abs().max() > 0


def test_a_parameter_of_its_own_has_a_learning_rate_of_its_own() -> None:
    model = Gain()
    groups = model.parameter_groups([0.1, 0.2, 0.3])
    assert [group["lr"] for group in groups] == [0.1, 0.2, 0.3]
    assert groups[-1]["params"] == [model.gain]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    with pytest.raises(ValueError, match="expected 3, one per layer.*then one for the network's"):
        model.parameter_groups([0.1, 0.2])


def test_a_model_is_left_as_it_was_when_looking_at_it_fails() -> None:
    model = Gain()
    before = dict(model.named_parameters())

    def fail() -> None:
        with standing_in(model, {"gain": torch.zeros(())}):
            assert model.gain is not before["gain"]
            raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        fail()
    assert all(p is before[name] for name, p in model.named_parameters())
    with (
        pytest.raises(ValueError, match="expected names among gain, .* got weight"),
        standing_in(model, {"weight": torch.zeros(())}),
    ):
        pass


def test_a_weight_made_of_other_parameters_cannot_be_untied() -> None:
    connection = dense(4, 3)[0]
    torch.nn.utils.parametrizations.weight_norm(connection)
    with pytest.raises(ValueError, match="expected a connection with a parameter called weight"):
        Untied(connection)
