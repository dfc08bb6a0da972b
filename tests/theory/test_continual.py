"""Continual EP: what the mathematics says of weights that move with the neurons."""

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eqprop.core.costs import SquaredError
from eqprop.core.models import ConvergentModel, State
from eqprop.core.nudging import Nudge
from eqprop.core.phases import relax
from eqprop.core.stepping import NonFiniteError
from eqprop.data.dataset import Dataset, Split
from eqprop.estimators.bptt import BPTT
from eqprop.estimators.continual import ContinualEP
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.estimator import Estimator
from eqprop.networks.connections.chains import dense, untied
from eqprop.networks.layered import LayeredNetwork
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from eqprop.training.loop import train
from measuring import peak_states, slope
from zoo import RHOS, Batch, UserField, UserPhi, chains, shared


class StepByStep(torch.optim.SGD):
    """Gradient descent that is not known to be plain, so that every update is really made."""


class Summing(torch.optim.SGD):
    """Freezes the weights, and sums the gradients it is given."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.0)
        self.total: dict[int, Tensor] = {}
        self.steps = 0

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.steps += 1
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.total[id(p)] = self.total.get(id(p), 0) + p.grad


def parameters(model: ConvergentModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def gradients(model: ConvergentModel, batch: Batch, estimator: Estimator) -> dict[str, Tensor]:
    model.zero_grad()
    estimator(model, *batch)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Over all parameters."""
    apart = torch.stack([(found[name] - value).norm() for name, value in expected.items()]).norm()
    return (apart / torch.stack([value.norm() for value in expected.values()]).norm()).item()


@pytest.mark.parametrize("beta", [0.3, -0.3])
def test_with_frozen_weights_it_telescopes_to_one_sided_ep(
    exact: ConvergentModel, batch: Batch, beta: float
) -> None:
    optimizer = Summing(exact.parameters())
    ContinualEP(optimizer, 9, 4, beta)(exact, *batch)
    found = {name: optimizer.total[id(p)] for name, p in exact.named_parameters()}
    expected = gradients(exact, batch, EquilibriumPropagation(9, 4, beta))
    assert optimizer.steps == 4
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12)


def test_with_frozen_weights_a_vector_field_comes_to_its_ep_as_beta_vanishes(batch: Batch) -> None:
    """Its rule is taken at s_t, not at s_*: the sums agree to first order alone."""
    torch.manual_seed(3)
    model = UserField().double()
    betas, errors = [1e-3, 1e-2, 1e-1], []
    for beta in betas:
        optimizer = Summing(model.parameters())
        ContinualEP(optimizer, 100, 8, beta)(model, *batch)
        found = {name: optimizer.total[id(p)] for name, p in model.named_parameters()}
        expected = gradients(model, batch, EquilibriumPropagation(100, 8, beta))
        errors.append(relative_error(found, expected))
    assert slope(betas, errors) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("kind", [torch.optim.SGD, StepByStep], ids=["plain", "step-by-step"])
def test_with_tiny_rates_it_reproduces_ep_and_the_error_falls_as_eta(
    exact: ConvergentModel, batch: Batch, kind: type[torch.optim.SGD]
) -> None:
    """The debugging procedure: learn at η·1e-5, read off the change, and undo it."""
    before = copy.deepcopy(exact.state_dict())
    expected = gradients(exact, batch, EquilibriumPropagation(30, 6, 0.2))
    etas, errors = [1e-5, 1e-4, 1e-3], []
    for eta in etas:
        ContinualEP(kind(exact.parameters(), lr=eta), 30, 6, 0.2)(exact, *batch)
        moved = {name: (before[name] - p.detach()) / eta for name, p in exact.named_parameters()}
        exact.load_state_dict(before)
        errors.append(relative_error(moved, expected))
    assert errors[0] < 1e-3
    assert slope(etas, errors) == pytest.approx(1, abs=0.1)


def by_hand(
    model: ConvergentModel, batch: Batch, t: int, k: int, beta: float, optimizer: Any
) -> State:
    """The rule as it is written, by autograd of the contrast of single steps."""
    x, y = batch
    force = Nudge(SquaredError(), y, beta)
    with torch.no_grad():
        state = relax(model, x, t).state
    for _ in range(k):
        with torch.no_grad():
            after = model.step(model.drive(x), state, force(state))
        optimizer.zero_grad()
        (-model.contrast(x, state, after, state).mean() / beta).backward()
        optimizer.step()
        state = after
    optimizer.zero_grad()
    return state


def shared_from_the_input() -> LayeredNetwork:
    """The connection from the static input is used again above."""
    first, last = dense(4, 4, 3)
    return PrototypicalNetwork([first, first, last])


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "decay": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1),
    "ascent": lambda p: torch.optim.SGD(p, lr=0.05, maximize=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-3),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "model",
    [
        UserPhi,
        UserField,
        shared,
        shared_from_the_input,
        lambda: PrototypicalNetwork(dense(4, 6, 5, 3)),
        lambda: PrototypicalNetwork(untied(dense(4, 6, 3), 45.0)),
        lambda: RealTimeNetwork(untied(dense(4, 6, 3), 45.0), "tanh", epsilon=0.8),
    ],
    ids=["phi", "field", "shared", "shared-from-the-input", "dense", "untied", "untied-real-time"],
)
def test_any_optimizer_steps_after_every_transition(
    model: Any, optimizer: str, batch: Batch
) -> None:
    torch.manual_seed(1)
    found = model().double()
    expected = copy.deepcopy(found)
    estimator = ContinualEP(OPTIMIZERS[optimizer](found.parameters()), 12, 5, 0.2)
    estimate = estimator(found, *batch)
    state = by_hand(expected, batch, 12, 5, 0.2, OPTIMIZERS[optimizer](expected.parameters()))
    for a, b in zip(estimate.nudged[0].state, state, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(parameter, expected.get_parameter(name), rtol=0, atol=1e-11)


@given(
    chains(),
    st.sampled_from(RHOS),
    st.booleans(),
    st.sampled_from([None, 0.0, 120.0]),
    st.sampled_from(["synchronous", "alternating"]),
    st.integers(0, 10**6),
)
@settings(max_examples=80)
def test_updates_that_wait_for_the_end_are_those_of_every_step(
    drawn: tuple, rho: Any, real_time: bool, angle: float | None, updates: Any, seed: int
) -> None:
    shape, connections = drawn
    torch.manual_seed(seed)
    chain = connections if angle is None else untied(connections, angle)
    model: LayeredNetwork
    if real_time:
        model = RealTimeNetwork(chain, rho, epsilon=0.5, updates=updates).double()
    else:
        model = PrototypicalNetwork(chain, rho, updates=updates).double()
    batch = torch.randn(3, *shape, dtype=torch.float64), torch.rand(3, *model.shapes[-1]).double()
    other = copy.deepcopy(model)
    rates = torch.rand(len(chain)).mul(0.1).tolist()
    found = ContinualEP(torch.optim.SGD(model.parameter_groups(rates)), 4, 3, 0.3)
    expected = ContinualEP(StepByStep(other.parameter_groups(rates)), 4, 3, 0.3)
    states = [estimator(m, *batch).nudged[0].state
              for estimator, m in ((found, model), (expected, other))]  # fmt: skip
    for a, b in zip(*states, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, other.get_parameter(name), rtol=0, atol=1e-9)


def test_the_weights_from_a_static_input_are_updated_once_the_others_in_every_step(
    batch: Batch,
) -> None:
    torch.manual_seed(0)
    model = PrototypicalNetwork(dense(4, 6, 3)).double()
    seen: list[dict[str, Tensor]] = []
    true_step = model.step

    def step(*arguments: Any) -> State:
        seen.append(parameters(model))
        return true_step(*arguments)

    model.step = step  # pyright: ignore[reportAttributeAccessIssue]
    optimizer = torch.optim.SGD(model.parameter_groups([0.1, 0.1]))
    ContinualEP(optimizer, 5, 4, 0.2)(model, *batch)
    seen.append(parameters(model))
    moved = [
        {name for name, p in then.items() if not torch.equal(p, later[name])}
        for then, later in pairwise(seen)
    ]
    above = {"connections.1.weight", "connections.1.bias"}
    at_the_end = above | {"connections.0.weight", "connections.0.bias"}
    assert moved == [set()] * 5 + [above] * 3 + [at_the_end]


@pytest.mark.parametrize("kind", [torch.optim.SGD, StepByStep], ids=["plain", "step-by-step"])
def test_only_what_the_optimizer_holds_learns(batch: Batch, kind: type[torch.optim.SGD]) -> None:
    torch.manual_seed(0)
    model = PrototypicalNetwork(dense(4, 6, 5, 3)).double()
    held = ["connections.0.weight", "connections.0.bias", "connections.1.weight"]
    model.get_parameter("connections.0.bias").requires_grad_(False)
    before = parameters(model)
    other = copy.deepcopy(model)
    ContinualEP(kind([model.get_parameter(name) for name in held], lr=0.1), 6, 4, 0.2)(
        model, *batch
    )
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"connections.0.weight", "connections.1.weight"}
    assert all(p.grad is None for p in model.parameters())
    # And the states see what has moved, no more.
    optimizer = torch.optim.SGD([other.get_parameter(name) for name in held], lr=0.1)
    by_hand(other, batch, 6, 4, 0.2, optimizer)
    for name in moved:
        torch.testing.assert_close(
            model.get_parameter(name), other.get_parameter(name), rtol=0, atol=1e-12
        )


def test_every_layer_learns_at_its_own_rate(batch: Batch) -> None:
    torch.manual_seed(0)
    model = PrototypicalNetwork(dense(4, 6, 5, 3)).double()
    for still in range(3):
        before = parameters(model)
        rates = [0.0 if index == still else 0.1 for index in range(3)]
        ContinualEP(torch.optim.SGD(model.parameter_groups(rates)), 6, 4, 0.2)(model, *batch)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name]) == (f"connections.{still}." in name)


def test_gradients_are_empty_afterwards_so_that_the_loop_has_nothing_left_to_do() -> None:
    torch.manual_seed(0)
    split = Split(torch.rand(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2]))
    data = Dataset("made up", split, split, 3)
    model = PrototypicalNetwork(dense(4, 5, 3))
    other = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameter_groups([0.1, 0.1]))
    estimator = ContinualEP(optimizer, 6, 4, 0.2, "random-sign")
    list(train(model, estimator, optimizer, data, epochs=1, batch_size=2))
    assert all(p.grad is None for p in model.parameters())

    alone = torch.optim.SGD(other.parameter_groups([0.1, 0.1]))
    estimator = ContinualEP(alone, 6, 4, 0.2, "random-sign")
    generator = torch.Generator().manual_seed(0)
    for x, labels in data.train.batches(2, generator):
        estimator(other, x, torch.eye(3)[labels], generator)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name))


@pytest.mark.parametrize("kind", [torch.optim.SGD, StepByStep], ids=["plain", "step-by-step"])
def test_gradients_left_over_from_elsewhere_are_not_learnt(
    batch: Batch, kind: type[torch.optim.SGD]
) -> None:
    torch.manual_seed(0)
    model = PrototypicalNetwork(dense(4, 6, 3)).double()
    other = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for m in (model, other):
        ContinualEP(kind(m.parameters(), lr=0.1), 6, 4, 0.2)(m, *batch)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name))


def test_the_sign_of_beta_is_drawn_for_every_mini_batch(batch: Batch) -> None:
    torch.manual_seed(0)
    model = PrototypicalNetwork(dense(4, 6, 3)).double()
    start = copy.deepcopy(model.state_dict())

    def learnt(seed: int | None, beta: float) -> Tensor:
        model.load_state_dict(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        nudging = "one-sided" if seed is None else "random-sign"
        ContinualEP(optimizer, 6, 4, beta, nudging)(model, *batch, generator)
        return torch.nn.utils.parameters_to_vector(model.parameters()).detach()

    plus, minus = learnt(None, 0.3), learnt(None, -0.3)
    assert not torch.equal(plus, minus)
    found = [learnt(seed, 0.3) for seed in range(64)]
    ups = sum(torch.equal(one, plus) for one in found)
    assert ups + sum(torch.equal(one, minus) for one in found) == 64
    assert abs(ups - 32) <= 4 * math.sqrt(64) / 2


@pytest.mark.parametrize("kind", [torch.optim.SGD, StepByStep], ids=["plain", "step-by-step"])
def test_memory_does_not_grow_with_the_steps_and_is_that_of_ep(
    kind: type[torch.optim.SGD],
) -> None:
    x, y = torch.rand(2, 4), torch.rand(2, 3)

    def peak(t: int, k: int, continual: bool = True) -> int:
        model = PrototypicalNetwork(dense(4, 5, 3))
        estimator: Estimator = EquilibriumPropagation(t, k, 0.1)
        if continual:
            estimator = ContinualEP(kind(model.parameters(), lr=0.1), t, k, 0.1)
        return peak_states(model, lambda: estimator(model, x, y))

    assert peak(5, 5) == peak(200, 5) == peak(5, 200) <= peak(5, 5, continual=False)


def test_the_updates_see_the_last_two_states_alone(batch: Batch) -> None:
    torch.manual_seed(0)
    model = UserPhi().double()
    seen: list[tuple[State, State, State]] = []
    true_rule = model.contrast_gradients

    def rule(x: Tensor, before: State, after: State, anchor: State, *rest: Any) -> Any:
        seen.append((before, after, anchor))
        return true_rule(x, before, after, anchor, *rest)

    model.contrast_gradients = rule  # pyright: ignore[reportAttributeAccessIssue]
    ContinualEP(torch.optim.SGD(model.parameters(), lr=0.1), 6, 4, 0.2)(model, *batch)
    assert len(seen) == 4
    for (before, after, anchor), (then, *_) in zip(seen, [*seen[1:], (None,)], strict=True):
        assert anchor is before
        assert then is None or then is after


def clip(parameters: Sequence[Tensor]) -> None:
    torch.nn.utils.clip_grad_norm_(parameters, 0.1)


HOOKS: dict[str, Any] = {
    "clipped-gradients": lambda optimizer, parameters: optimizer.register_step_pre_hook(
        lambda *_: clip(parameters)
    ),
    "clipped-weights": lambda optimizer, parameters: optimizer.register_step_post_hook(
        lambda *_: [p.detach().clamp_(-0.3, 0.3) for p in parameters]
    ),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_of_the_optimizer_run_after_every_step(hook: str, batch: Batch) -> None:
    torch.manual_seed(0)
    found = PrototypicalNetwork(dense(4, 6, 3)).double()
    expected = copy.deepcopy(found)
    optimizers = []
    for model in (found, expected):
        parameters = list(model.parameters())
        optimizers.append(torch.optim.SGD(parameters, lr=0.5))
        HOOKS[hook](optimizers[-1], parameters)
    ContinualEP(optimizers[0], 12, 5, 0.2)(found, *batch)
    by_hand(expected, batch, 12, 5, 0.2, optimizers[1])
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(parameter, expected.get_parameter(name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("updates", ["synchronous", "alternating"])
def test_a_single_linear_layer_whose_state_is_its_drive_learns_as_any_other(
    updates: Any, batch: Batch
) -> None:
    torch.manual_seed(0)
    found = PrototypicalNetwork(dense(4, 3), lambda s: s, updates=updates).double()
    expected = copy.deepcopy(found)
    with torch.no_grad():
        free = relax(found, batch[0], 12).state[0].clone()
    optimizer = torch.optim.SGD(found.parameters(), lr=0.1)
    estimate = ContinualEP(optimizer, 12, 5, 0.2)(found, *batch)
    by_hand(expected, batch, 12, 5, 0.2, torch.optim.SGD(expected.parameters(), lr=0.1))
    assert torch.equal(estimate.free.state[0], free)
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(parameter, expected.get_parameter(name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [torch.optim.SGD, StepByStep], ids=["plain", "step-by-step"])
def test_only_the_free_phase_settles_to_the_tolerance(
    kind: type[torch.optim.SGD], batch: Batch
) -> None:
    """All samples share the weights, so that every one of the K updates is for all of them."""
    torch.manual_seed(0)
    model = UserPhi().double()
    expected = copy.deepcopy(model)
    estimate = ContinualEP(kind(model.parameters(), lr=0.1), 500, 40, 0.1, tolerance=1e-13)(
        model, *batch
    )
    assert estimate.free.rests().all()
    assert estimate.free.steps.max() < 500
    assert estimate.nudged[0].steps.tolist() == [40] * 7
    assert estimate.nudged[0].limit is None
    by_hand(expected, batch, 500, 40, 0.1, torch.optim.SGD(expected.parameters(), lr=0.1))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, expected.get_parameter(name), rtol=0, atol=1e-11)


def test_rates_that_are_too_high_are_reported_with_their_phase() -> None:
    torch.manual_seed(0)
    model = RealTimeNetwork(dense(4, 5, 3), lambda s: s, epsilon=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e12)
    estimator = ContinualEP(optimizer, 3, 60, 0.5)
    with pytest.raises(NonFiniteError, match=r"nudged phase \(beta \+0.5\).*60 steps.*learning"):
        estimator(model, torch.rand(2, 4), torch.rand(2, 3))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("weighing", [False, True])
def test_frozen_and_symmetric_it_telescopes_to_symmetric_ep(
    exact: ConvergentModel, batch: Batch, weighing: bool
) -> None:
    optimizer = Summing(exact.parameters())
    of: list[Estimator] = [
        ContinualEP(optimizer, 9, 4, 0.3, "symmetric"),
        EquilibriumPropagation(9, 4, 0.3, "symmetric"),
    ]
    if weighing:
        weights = torch.linspace(0.5, 3, len(batch[0])).double()
        of = [estimator.weighing(weights) for estimator in of]
    estimate = of[0](exact, *batch)
    found = {name: optimizer.total[id(p)] for name, p in exact.named_parameters()}
    exact.zero_grad()
    symmetric = of[1](exact, *batch)
    assert optimizer.steps == 4
    for name, p in exact.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-10, atol=1e-12)
    for one, other in zip(estimate.nudged, symmetric.nudged, strict=True):
        torch.testing.assert_close(one.state, other.state)
        torch.testing.assert_close(one.moved, other.moved)
        torch.testing.assert_close(one.steps, other.steps)


@pytest.mark.parametrize("make", [lambda: UserPhi(), lambda: UserField()])
def test_frozen_and_symmetric_it_telescopes_for_any_model(make: Any) -> None:
    """A vector field is differentiated at the earlier state: equal at K = 1, where that is s_*."""
    torch.manual_seed(0)
    model = make().double()
    x, y = torch.rand(3, 4).double(), torch.rand(3, 3).double()
    steps = 1 if isinstance(model, UserField) else 5
    optimizer = Summing(model.parameters())
    ContinualEP(optimizer, 40, steps, 0.2, "symmetric")(model, x, y)
    expected = gradients(model, (x, y), EquilibriumPropagation(40, steps, 0.2, "symmetric"))
    for name, p in model.named_parameters():
        torch.testing.assert_close(optimizer.total[id(p)], expected[name])


@pytest.mark.parametrize("angle", [None, 60])
def test_symmetric_and_plain_it_is_what_single_steps_make(angle: float | None) -> None:
    """Updates of the connection from the input wait for the end, and are the same."""
    torch.manual_seed(0)
    chain = dense(6, 5, 4, 3)
    network = PrototypicalNetwork(chain if angle is None else untied(chain, angle)).double()
    other = copy.deepcopy(network)
    x, y = torch.rand(7, 6).double(), torch.rand(7, 3).double()
    for model, kind in ((network, torch.optim.SGD), (other, StepByStep)):
        optimizer = kind(model.parameters(), lr=0.3)
        ContinualEP(optimizer, 20, 6, 0.2, "symmetric")(model, x, y)
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_symmetric_the_error_falls_as_beta_squared_where_eta_falls_faster() -> None:
    torch.manual_seed(0)
    network = RealTimeNetwork(dense(6, 5, 3), "tanh", epsilon=0.3).double()
    x, y = torch.rand(4, 6).double(), torch.rand(4, 3).double()
    wanted = gradients(network, (x, y), BPTT(400, 10))
    start, errors = parameters(network), []
    betas = [0.2, 0.1, 0.05]
    for beta in betas:
        eta = 1e-2 * beta**3
        optimizer = torch.optim.SGD(network.parameters(), lr=eta)
        ContinualEP(optimizer, 400, 10, beta, "symmetric")(network, x, y)
        found = {name: (start[name] - p) / eta for name, p in parameters(network).items()}
        errors.append(relative_error(found, wanted))
        network.load_state_dict(start)
    assert slope(betas, errors) == pytest.approx(2, abs=0.15)


def test_symmetric_a_readout_learns_by_the_mean_of_both_ways() -> None:
    torch.manual_seed(0)
    readout = torch.nn.Linear(4, 3)
    network = PrototypicalNetwork(dense(6, 5, 4), readout=readout).double()
    x, y = torch.rand(5, 6).double(), torch.rand(5, 3).double()
    optimizer = Summing(network.parameters())
    ContinualEP(optimizer, 30, 6, 0.2, "symmetric")(network, x, y)
    expected = gradients(network, (x, y), EquilibriumPropagation(30, 6, 0.2, "symmetric"))
    for name, p in network.named_parameters():
        torch.testing.assert_close(optimizer.total[id(p)], expected[name])


def test_an_optimizer_of_another_model_is_refused(batch: Batch) -> None:
    optimizer = torch.optim.SGD(dense(4, 3)[0].parameters(), lr=0.1)
    with pytest.raises(ValueError, match="optimizer: .*the model's parameters"):
        ContinualEP(optimizer, 5, 3, 0.1)(UserPhi().double(), *batch)


REFUSED: Sequence[tuple[dict[str, Any], str]] = [
    ({"nudging": "up"}, "one-sided, random-sign, symmetric.*'up'"),
    ({"beta": 0.0}, "beta: .*other than 0"),
    ({"beta": math.inf}, "beta: .*finite"),
    ({"free_steps": 0}, "free_steps: .*at least 1"),
    ({"nudged_steps": 0}, "nudged_steps: .*at least 1"),
    ({"tolerance": -1.0}, "tolerance"),
]


@pytest.mark.parametrize(("settings_", "message"), REFUSED)
def test_continual_ep_that_cannot_be_is_refused(settings_: dict[str, Any], message: str) -> None:
    optimizer = torch.optim.SGD(dense(4, 3)[0].parameters(), lr=0.1)
    keywords = {"free_steps": 5, "nudged_steps": 3, "beta": 0.1} | settings_
    with pytest.raises(ValueError, match=message):
        ContinualEP(optimizer, **keywords)
