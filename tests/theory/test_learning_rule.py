"""A learning rule that moves the weights itself moves them as plain gradient descent would."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from eqprop.core.models import ConvergentModel, State
from eqprop.core.nudging import Nudging
from eqprop.estimators.descent import is_plain_descent, learning_rates
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.networks.connections.chains import dense, untied
from eqprop.networks.connections.connection import Ends, TiedConnection
from eqprop.networks.connections.conv_pool import ConvPool
from eqprop.networks.connections.dense import Dense
from eqprop.networks.layered import LayeredNetwork
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from zoo import EXACT, RHOS, Batch, UserField, chains


class Gated(TiedConnection):
    """A coupling and nothing else: autograd does the rest."""

    def __init__(self, size: int) -> None:
        super().__init__((size,), (size,))
        self.gate = nn.Parameter(torch.rand(size))

    def coupling(self, ends: Ends) -> Tensor:
        lower, upper = ends
        return (upper * self.gate * lower).sum(1)


class Gain(LayeredNetwork):
    """tanh(gain s) is what its layers send, with a gain that learns too."""

    def __init__(self) -> None:
        super().__init__(dense(4, 6, 3))
        self.gain = nn.Parameter(torch.ones(()))

    def rate(self, s: Tensor) -> Tensor:
        return (self.gain * s).tanh()

    def layer_field(self, s: Tensor, rate: Tensor, current: Tensor) -> Tensor:
        return self.gain * (1 - rate.square()) * current


def network_of(*chain: Any) -> LayeredNetwork:
    return PrototypicalNetwork(list(chain), "tanh")


def shared_from_the_input() -> LayeredNetwork:
    first, last = dense(4, 4, 3)
    return network_of(first, first, last)


def one_weight_of_two() -> LayeredNetwork:
    """Two connections, of which only the weights are one."""
    first, second, last = dense(4, 4, 4, 3)
    assert isinstance(first, Dense)
    second.weight = first.weight  # pyright: ignore[reportAttributeAccessIssue]
    return network_of(first, second, last)


def normed() -> LayeredNetwork:
    """Weights that are made of other parameters."""
    chain = dense(4, 6, 5, 3)
    for connection in chain[:2]:
        nn.utils.parametrizations.weight_norm(connection)
    return network_of(*chain)


def pooling_chain(pooling: Any) -> list[TiedConnection]:
    first = ConvPool((1, 2, 2), 4, kernel=2, padding=1, pool=1)
    second = ConvPool(first.upper_shape, 3, kernel=2, pool=2, pooling=pooling)
    return [first, second, Dense((3, 1, 1), 3)]


def pooled(pooling: Any) -> LayeredNetwork:
    return network_of(*pooling_chain(pooling))


MODELS: dict[str, Callable[[], Any]] = {
    **EXACT,
    "field": UserField,
    "prototypical": lambda: PrototypicalNetwork(dense(4, 6, 5, 3)),
    "single": lambda: PrototypicalNetwork(dense(4, 3)),
    "untied": lambda: PrototypicalNetwork(untied(dense(4, 6, 5, 3), 45.0)),
    "untied real-time": lambda: RealTimeNetwork(untied(dense(4, 6, 3), 45.0), "tanh"),
    "untied convolutions": lambda: network_of(*untied(pooling_chain("max"), 30.0)),
    "max-pooling": lambda: pooled("max"),
    "average pooling": lambda: pooled("average"),
    "coupling alone": lambda: network_of(*dense(4, 6), Gated(6), Dense(6, 3)),
    "gain": Gain,
    "shared from the input": shared_from_the_input,
    "one weight of two": one_weight_of_two,
    "weight norm": normed,
}


@pytest.fixture(params=MODELS, ids=lambda name: name.replace(" ", "-"))
def model(request: pytest.FixtureRequest) -> ConvergentModel:
    torch.manual_seed(1)
    return MODELS[request.param]().double()


def values(model: ConvergentModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def drawn_states(model: ConvergentModel, x: Tensor) -> tuple[State, State, State]:
    before, after, anchor = (
        tuple(torch.rand_like(layer) for layer in model.initial_state(x)) for _ in range(3)
    )
    return before, after, anchor


def by_optimizer(
    model: ConvergentModel, x: Tensor, states: Sequence[State], scale: float, rates: dict[str, Any]
) -> None:
    """A step of SGD down −scale · the gradient of the contrast, by autograd of its definition."""
    parameters = dict(model.named_parameters())
    groups = [{"params": [parameters[name]], "lr": rate} for name, rate in rates.items()]
    model.zero_grad()
    (-model.contrast(x, *states).mean() * scale).backward()
    torch.optim.SGD(groups).step()
    model.zero_grad()


def agree(found: ConvergentModel, expected: ConvergentModel, atol: float = 1e-12) -> None:
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(parameter, expected.get_parameter(name), rtol=0, atol=atol)


def moved(model: ConvergentModel, before: dict[str, Tensor]) -> set[str]:
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def in_the_dynamics(names: Iterable[str]) -> set[str]:
    """All but those of a readout, on which no contrast depends."""
    return {name for name in names if not name.startswith("readout.")}


@pytest.mark.parametrize("scale", [1.0, -3.0])
def test_it_moves_every_parameter_at_its_rate_along_the_gradient_of_the_contrast(
    model: ConvergentModel, batch: Batch, scale: float
) -> None:
    x, _ = batch
    expected = copy.deepcopy(model)
    rates = {name: 0.1 * (n + 1) for n, (name, _) in enumerate(model.named_parameters())}
    states, before = drawn_states(model, x), values(model)
    model.learning_rule(x, rates)(*states, scale)
    by_optimizer(expected, x, states, scale, rates)
    agree(model, expected)
    assert moved(model, before) == in_the_dynamics(rates), "or the claim is empty"
    assert all(p.grad is None for p in model.parameters())


def test_it_leaves_alone_what_has_no_rate_or_is_frozen(
    model: ConvergentModel, batch: Batch
) -> None:
    x, _ = batch
    names = [name for name, _ in model.named_parameters()]
    for left_out in names:
        others = {name: 0.2 for name in names if name != left_out}
        # Frozen is frozen, whatever the rates say.
        for rates, frozen in ((others, False), (others | {left_out: 0.2}, True)):
            trained, expected = copy.deepcopy(model), copy.deepcopy(model)
            before, states = values(model), drawn_states(model, x)
            trained.get_parameter(left_out).requires_grad_(not frozen)
            trained.learning_rule(x, rates)(*states, 0.7)
            by_optimizer(expected, x, states, 0.7, others)
            agree(trained, expected)
            assert moved(trained, before) == in_the_dynamics(others)


@given(
    chains(),
    st.sampled_from(RHOS),
    st.booleans(),
    st.sampled_from([None, 60.0]),
    st.floats(0.1, 10),
    st.integers(0, 10**6),
)
@settings(max_examples=60)
def test_it_moves_any_chain_as_gradient_descent_would(
    drawn: tuple, rho: Any, real_time: bool, angle: float | None, scale: float, seed: int
) -> None:
    shape, connections = drawn
    torch.manual_seed(seed)
    chain = connections if angle is None else untied(connections, angle)
    kind = RealTimeNetwork if real_time else PrototypicalNetwork
    found = kind(chain, rho).double()
    expected = copy.deepcopy(found)
    x = torch.randn(3, *shape, dtype=torch.float64)
    states = drawn_states(found, x)
    rates = {name: 0.01 + 0.1 * torch.rand(()).item() for name, _ in found.named_parameters()}
    found.learning_rule(x, rates)(*states, scale)
    by_optimizer(expected, x, states, scale, rates)
    agree(found, expected, atol=1e-9)


@pytest.mark.parametrize("tolerance", [None, 1e-6])
@pytest.mark.parametrize("nudging", get_args(Nudging))
def test_ep_that_has_the_optimizer_is_ep_and_a_step_of_it(
    model: ConvergentModel, batch: Batch, nudging: Nudging, tolerance: float | None
) -> None:
    expected, before = copy.deepcopy(model), values(model)
    estimates = []
    for network, inside in ((model, True), (expected, False)):
        groups = [{"params": [p], "lr": 0.05 * (n + 1)} for n, p in enumerate(network.parameters())]
        optimizer = torch.optim.SGD(groups)
        estimator = EquilibriumPropagation(
            30, 10, 0.2, nudging, tolerance, optimizer=optimizer if inside else None
        )
        generator = torch.Generator().manual_seed(3)
        estimates.append(estimator(network, *batch, generator))
        assert all((p.grad is None) == inside for p in network.parameters())
        optimizer.step()  # as a training loop does: inside, there is nothing left to do
    agree(model, expected)
    assert moved(model, before) == set(before)
    for one, other in zip(estimates[0].free.state, estimates[1].free.state, strict=True):
        assert torch.equal(one, other)


def decayed(p: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(p, lr=0.1, weight_decay=0.1)


def hooked(p: Any) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(p, lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: None)
    return optimizer


def hooked_after(p: Any) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(p, lr=0.1)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


class Own(torch.optim.SGD):
    """Whatever it does in its step."""


OTHERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "decay": decayed,
    "ascent": lambda p: torch.optim.SGD(p, lr=0.1, maximize=True),
    "before": hooked,
    "after": hooked_after,
    "own": Own,
    "adam": torch.optim.Adam,
    "one group of two": lambda p: torch.optim.SGD(
        [{"params": [next(p)], "momentum": 0.5}, {"params": list(p)}], lr=0.1
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_optimizers_find_the_gradient_and_take_their_step_themselves(
    other: str, batch: Batch
) -> None:
    torch.manual_seed(0)
    model = PrototypicalNetwork(dense(4, 6, 3)).double()
    before = values(model)
    optimizer = OTHERS[other](model.parameters())
    assert not is_plain_descent(optimizer)
    EquilibriumPropagation(30, 10, 0.2, optimizer=optimizer)(model, *batch)
    assert not moved(model, before)
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    EquilibriumPropagation(30, 10, 0.2)(model, *batch)
    for name, p in model.named_parameters():
        gradient = found[name]
        assert gradient is not None
        assert p.grad is not None
        assert torch.equal(gradient, p.grad)


def test_a_learning_rate_that_a_schedule_lowers_is_the_one_of_the_step(batch: Batch) -> None:
    torch.manual_seed(0)
    model = PrototypicalNetwork(dense(4, 6, 3)).double()
    expected = copy.deepcopy(model)
    inside, outside = (torch.optim.SGD(m.parameters(), lr=1.0) for m in (model, expected))
    ours, theirs = (torch.optim.lr_scheduler.StepLR(o, 1, 0.1) for o in (inside, outside))
    for _ in range(3):
        EquilibriumPropagation(30, 10, 0.2, optimizer=inside)(model, *batch)
        inside.step()
        ours.step()
        outside.zero_grad()
        EquilibriumPropagation(30, 10, 0.2)(expected, *batch)
        outside.step()
        theirs.step()
    agree(model, expected)


def test_rates_are_of_what_learns_and_the_optimizer_holds() -> None:
    model = PrototypicalNetwork(dense(4, 6, 3))
    first, last = model.parameter_groups([0.1, 0.2])
    frozen = model.get_parameter("connections.1.bias").requires_grad_(False)
    optimizer = torch.optim.SGD([first, last])
    assert learning_rates(model, optimizer) == {
        "connections.0.weight": 0.1,
        "connections.0.bias": 0.1,
        "connections.1.weight": 0.2,
    }
    assert learning_rates(model, torch.optim.SGD([last])) == {"connections.1.weight": 0.2}
    assert frozen.grad is None


def test_an_optimizer_of_another_model_is_refused(batch: Batch) -> None:
    model, other = (PrototypicalNetwork(dense(4, 3)).double() for _ in range(2))
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="optimizer: expected one of the model's parameters"):
        EquilibriumPropagation(5, 5, 0.1, optimizer=optimizer)(model, *batch)
