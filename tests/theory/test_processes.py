"""Theorem 1: the updates of EP against the gradients of BPTT, step by step."""

import copy
import dataclasses
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eqprop.analysis.agreement import average, compare
from eqprop.analysis.kind import model_kind
from eqprop.analysis.processes import FreePhase, Process, bptt_process, ep_process, free_phase
from eqprop.core.costs import Cost
from eqprop.core.models import ConvergentModel, PrimitiveModel, State, VectorFieldModel
from eqprop.core.nudging import Nudge
from eqprop.core.phases import relax
from eqprop.core.stepping import NonFiniteError, trajectory, transitions
from eqprop.estimators.bptt import BPTT
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.networks.connections.chains import dense
from eqprop.networks.connections.conv_pool import ConvPool
from eqprop.networks.connections.dense import Dense
from eqprop.networks.layered import LayeredNetwork
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork, RealTimeUpdates
from eqprop.networks.toy import ToyModel

GOLDEN = Path(__file__).parents[1] / "published" / "golden"
BETAS = (1e-2, 1e-3, 1e-4, 1e-5)
T, K = 600, 24
STEPS: dict[str, Any] = {"free_steps": T, "nudged_steps": K}


class MyPhi(PrimitiveModel):
    """Φ = Σ log cosh(W s + U x), with F = ∂Φ/∂s = Wᵀ tanh(W s + U x), a contraction."""

    def __init__(self) -> None:
        super().__init__([8, 3])
        self.among = nn.Parameter(0.25 * torch.randn(11, 11) / 11**0.5 + 0.6 * torch.eye(11))
        self.onto = nn.Parameter(torch.randn(11, 6) / 6**0.5)

    def phi(self, x: Tensor, state: State) -> Tensor:
        return torch.log(torch.cosh(self.inner(x, state))).sum(1)

    def inner(self, x: Tensor, state: State) -> Tensor:
        return torch.cat(state, 1) @ self.among.t() + x @ self.onto.t()


class MyField(VectorFieldModel):
    """The same F, but given as a vector field: nothing says that it is a gradient."""

    def __init__(self, asymmetry: float = 0.0) -> None:
        super().__init__([8, 3])
        like = MyPhi()
        self.among, self.onto = like.among, like.onto
        self.register_buffer("skew", asymmetry * torch.randn(11, 11) / 11**0.5)

    def field(self, drive: Tensor, state: State) -> State:
        inner = torch.cat(state, 1) @ self.among.t() + drive @ self.onto.t()
        after = torch.tanh(inner) @ (self.among + self.get_buffer("skew"))
        return after[:, :8], after[:, 8:]


def real_time() -> ConvergentModel:
    return RealTimeNetwork(dense(6, 8, 3), "tanh", epsilon=0.2)


def toy() -> ConvergentModel:
    return ToyModel(6, 8, 3, epsilon=0.2)


def prototypical() -> ConvergentModel:
    return PrototypicalNetwork(dense(6, 8, 3))


def convolutional() -> ConvergentModel:
    """Vectors of 6 as images of 2×3."""
    first = ConvPool((1, 2, 3), 4, kernel=2, padding=1, pool=1)
    second = ConvPool(first.upper_shape, 3, kernel=2, pool=2)
    connections = [first, second, Dense(second.upper_shape, 3)]
    return RealTimeNetwork(connections, "scaled-sigmoid", epsilon=0.4)


def shared() -> ConvergentModel:
    """One connection used twice."""
    first, middle, last = dense(6, 4, 4, 3)
    return RealTimeNetwork([first, middle, middle, last], "tanh", epsilon=0.3)


EXACT = {
    "real-time": real_time,
    "convolutional": convolutional,
    "shared": shared,
    "toy": toy,
    "my-phi": MyPhi,
    "my-field": MyField,
}
ALL = {**EXACT, "prototypical": prototypical, "no-gradient": lambda: MyField(asymmetry=0.3)}


def make(kind: str) -> tuple[Any, Tensor, Tensor]:
    """A model in float64, an input and a target."""
    torch.manual_seed(0)
    model = ALL[kind]().double()
    return (
        model,
        torch.rand(4, 6, dtype=torch.float64),
        torch.nn.functional.one_hot(torch.tensor([0, 2, 1, 2]), 3).double(),
    )


def golden(case: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The arrays of a case computed with the published code, and its arguments."""
    with np.load(GOLDEN / f"{case}.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "meta"}
        words = json.loads(str(file["meta"]))["argv"].split()
    at = {word: index for index, word in enumerate(words)}
    return arrays, {name: words[at[name] + 1] for name in ("--T", "--Kmax", "--beta")}


def published_network(arrays: dict[str, Tensor], rho: str) -> LayeredNetwork:
    depth = sum(name.startswith("free") for name in arrays)
    sizes = [arrays["x"].shape[1], *(arrays[f"free{index}"].shape[1] for index in range(depth))]
    network = PrototypicalNetwork(dense(*sizes), rho).double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(arrays[name.replace("connections.", "up")])
    return network


def slope(errors: list[float], betas: tuple[float, ...] = BETAS) -> float:
    return float(np.polyfit(np.log(betas), np.log(errors), 1)[0])


# The published implementations


@pytest.mark.parametrize(
    ("case", "rho"), [("prototypical-1h", "scaled-sigmoid"), ("prototypical-2h", "tanh")]
)
def test_the_processes_are_those_of_the_published_code(case: str, rho: str) -> None:
    arrays, arguments = golden(case)
    network = published_network(arrays, rho)
    steps: dict[str, Any] = {
        "free_steps": int(arguments["--T"]),
        "nudged_steps": int(arguments["--Kmax"]),
    }
    x, y, beta = arrays["x"], arrays["y"], float(arguments["--beta"])
    ep = ep_process(network, x, y, beta=beta, **steps)
    bptt = bptt_process(network, x, y, **steps)
    depth = len(ep.states)
    for layer in range(depth):
        # Theirs of the states are batch means (bptt: sums of gradients of the mean); and they set
        # EP's to zero where the nudge cannot have come yet.
        reached = depth - 1 - layer
        theirs = arrays[f"ep.state{layer}"][reached:]
        torch.testing.assert_close(ep.states[layer].mean(1)[reached:], theirs, rtol=0, atol=1e-10)
        theirs = arrays[f"bptt.state{layer}"]
        torch.testing.assert_close(bptt.states[layer].mean(1), theirs, rtol=0, atol=1e-10)
        for process, method in ((ep, "ep"), (bptt, "bptt")):
            # Their entry t = 0 is not filled in.
            ours = process.parameters[f"connections.{layer}.weight"][1:]
            theirs = arrays[f"{method}.up{layer}.weight"][1:]
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_continual_updates_end_at_the_weights_of_the_published_code() -> None:
    arrays, arguments = golden("continual-1h")
    network = published_network(arrays, "scaled-sigmoid")
    rates = (0.04, 0.02)
    ep = ep_process(
        network,
        arrays["x"],
        arrays["y"],
        free_steps=int(arguments["--T"]),
        nudged_steps=int(arguments["--Kmax"]),
        beta=float(arguments["--beta"]),
        eta=rates,
    )
    for name, update in ep.total.items():
        after = network.get_parameter(name) + rates[int(name.split(".")[1])] * update
        theirs = arrays[f"after.{name.replace('connections.', 'up')}"]
        torch.testing.assert_close(after, theirs, rtol=0, atol=1e-12)


def test_continual_updates_of_a_vector_field_end_at_the_weights_of_the_published_code() -> None:
    class Untied(VectorFieldModel):
        def __init__(self) -> None:
            super().__init__([5, 3], activation="scaled-sigmoid")
            self.up0, self.up1 = nn.Linear(6, 5), nn.Linear(5, 3)
            self.down1 = nn.Linear(3, 5, bias=False)

        def field(self, drive: Tensor, state: State) -> State:
            hidden, output = state
            return self.up0(drive) + self.down1(output), self.up1(hidden)

    arrays, arguments = golden("continual-vf-1h")
    model = Untied().double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(arrays[name])
    rates = {name: 0.04 if "0" in name else 0.02 for name, _ in model.named_parameters()}
    ep = ep_process(
        model,
        arrays["x"],
        arrays["y"],
        free_steps=int(arguments["--T"]),
        nudged_steps=int(arguments["--Kmax"]),
        beta=float(arguments["--beta"]),
        eta={name: rate for name, rate in rates.items() if name != "up0.bias"},
    )
    for name, update in ep.total.items():
        # The published code never updates the first bias in this case.
        if name != "up0.bias":
            after = model.get_parameter(name) + rates[name] * update
            torch.testing.assert_close(after, arrays[f"after.{name}"], rtol=0, atol=1e-12)


# Theorem 1


@pytest.mark.parametrize("kind", EXACT)
def test_the_error_falls_in_proportion_to_beta_at_every_step_and_overall(kind: str) -> None:
    model, x, y = make(kind)
    bptt = bptt_process(model, x, y, **STEPS)
    found = [compare(ep_process(model, x, y, beta=beta, **STEPS), bptt) for beta in BETAS]
    for what in ("states", "parameters"):
        of = [getattr(comparison, what) for comparison in found]
        assert slope([a.overall.relative_error for a in of]) == pytest.approx(1, abs=0.05)
        # The very first step in the states is the force itself, and what a vector field makes of
        # it is linear in it: exact for every β.
        exact = what == "states" or kind == "my-field"
        for t in range(1 if exact else 0, K):
            assert slope([a.at[t].relative_error for a in of]) == pytest.approx(1, abs=0.05), t
        for a, beta in zip(of, BETAS, strict=True):
            assert a.overall.relative_error < 3 * beta
    for comparison in found[1:]:
        assert comparison.premise.holds
        for a in (*comparison.by_layer.values(), *comparison.by_parameter.values()):
            assert a.overall.relative_error < 0.05
        assert comparison.total_update_angle < 1


@pytest.mark.parametrize("kind", EXACT)
def test_the_error_of_symmetric_nudging_falls_with_the_square_of_beta(kind: str) -> None:
    model, x, y = make(kind)
    betas = (1e-2, 3e-3, 1e-3, 3e-4)
    bptt = bptt_process(model, x, y, **STEPS)
    found = [
        compare(ep_process(model, x, y, beta=beta, nudging="symmetric", **STEPS), bptt)
        for beta in betas
    ]
    for what in ("states", "parameters"):
        errors = [getattr(comparison, what).overall.relative_error for comparison in found]
        assert slope(errors, betas) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("kind", EXACT)
def test_the_distance_of_continual_updates_from_eta_0_is_linear_in_eta(kind: str) -> None:
    model, x, y = make(kind)
    plain = ep_process(model, x, y, beta=1e-2, eta=0.0, **STEPS)
    etas = (1e-5, 1e-6, 1e-7)
    states, parameters = [], []
    for eta in etas:
        moving = ep_process(model, x, y, beta=1e-2, eta=eta, **STEPS)
        states.append(_distance(moving.states, plain.states))
        parameters.append(
            _distance(tuple(moving.parameters.values()), tuple(plain.parameters.values()))
        )
    assert slope(states, etas) == pytest.approx(1, abs=0.05)
    assert slope(parameters, etas) == pytest.approx(1, abs=0.05)


def test_continual_updates_visibly_part_from_bptt_as_eta_grows() -> None:
    model, x, y = make("real-time")
    bptt = bptt_process(model, x, y, **STEPS)
    errors = [
        compare(
            ep_process(model, x, y, beta=0.005, eta=2e-5 * factor, **STEPS), bptt
        ).states.overall.relative_error
        for factor in (0, 1, 10, 100, 1000)
    ]
    assert errors == sorted(errors)
    assert errors[1] < 0.02
    assert errors[3] > 0.1


def test_prototypical_processes_only_approximate_but_the_total_update_points_the_right_way() -> (
    None
):
    torch.manual_seed(0)
    model = PrototypicalNetwork(dense(6, 16, 3), "tanh").double()
    x, y = torch.rand(8, 6).double(), torch.eye(3).double()[torch.randint(3, (8,))]
    bptt = bptt_process(model, x, y, **STEPS)
    found = [compare(ep_process(model, x, y, beta=beta, **STEPS), bptt) for beta in BETAS]
    errors = [comparison.states.overall.relative_error for comparison in found]
    assert all(0.01 < error < 0.5 for error in errors)
    assert abs(slope(errors)) < 0.2
    assert math.cos(math.radians(found[1].total_update_angle)) > 0.95


def _distance(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    squares = [(a - b).square().sum() for a, b in zip(ours, theirs, strict=True)]
    return float(torch.stack(squares).sum().sqrt())


# What a process is


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("nudging", ["one-sided", "symmetric"])
@pytest.mark.parametrize("beta", [0.1, -0.1])
def test_the_ep_process_sums_to_the_update_of_ep(kind: str, nudging: Any, beta: float) -> None:
    model, x, y = make(kind)
    process = ep_process(model, x, y, free_steps=9, nudged_steps=5, beta=beta, nudging=nudging)
    EquilibriumPropagation(9, 5, beta, nudging)(model, x, y)
    for name, update in process.total.items():
        gradient = model.get_parameter(name).grad
        torch.testing.assert_close(update, -gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ALL)
def test_the_bptt_process_sums_to_the_gradient_of_bptt(kind: str) -> None:
    model, x, y = make(kind)
    process = bptt_process(model, x, y, free_steps=9, nudged_steps=5)
    BPTT(9, 5)(model, x, y)
    for name, gradient in process.total.items():
        torch.testing.assert_close(gradient, model.get_parameter(name).grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ALL)
def test_every_gradient_of_bptt_is_that_of_its_own_step_alone(kind: str) -> None:
    model, x, y = make(kind)
    process = bptt_process(model, x, y, free_steps=9, nudged_steps=5)
    names = [name for name, _ in model.named_parameters()]
    for t in range(5):
        with torch.no_grad():
            # s_{T−t−1}; the transition from there to s_{T−t} is the one with the copy θ_{T−t}.
            before = relax(model, x, 9 - t - 1).state
        after = model.step(model.drive(x), before)
        at = tuple(layer.detach().requires_grad_() for layer in after)
        end = relax(model, x, t, state=at).state if t else at
        # The later transitions have a θ of their own, so that of this one acts through s_{T−t}.
        cost = 0.5 * (end[-1] - y).square().sum()
        by_state = torch.autograd.grad(cost, at, materialize_grads=True)
        by_parameter = torch.autograd.grad(
            after, list(model.parameters()), [g / len(x) for g in by_state], materialize_grads=True
        )
        for layer, gradient in enumerate(by_state):
            torch.testing.assert_close(process.states[layer][t], gradient, rtol=1e-12, atol=1e-14)
        for name, gradient in zip(names, by_parameter, strict=True):
            ours = process.parameters[name][t]
            torch.testing.assert_close(ours, gradient, rtol=1e-12, atol=1e-14)


def test_all_gradients_of_bptt_come_from_one_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = make("real-time")
    calls = []
    true_grad = torch.autograd.grad

    def counting(*arguments: Any, **keywords: Any) -> Any:
        calls.append(arguments)
        return true_grad(*arguments, **keywords)

    monkeypatch.setattr(torch.autograd, "grad", counting)
    bptt_process(model, x, y, **STEPS)
    assert len(calls) == 1


@pytest.mark.parametrize("kind", ["real-time", "my-phi", "prototypical"])
def test_continual_updates_move_the_parameters_after_every_step(kind: str) -> None:
    """Against a plain loop over a model whose parameters really move."""
    model, x, y = make(kind)
    beta, eta = 0.2, 0.01
    process = ep_process(model, x, y, free_steps=20, nudged_steps=6, beta=beta, eta=eta)
    moving = copy.deepcopy(model)
    with torch.no_grad():
        state = relax(moving, x, 20).state
    for t in range(6):
        with torch.no_grad():
            force = Nudge(_Squared(), y, beta)(state)
            after = moving.step(moving.drive(x), state, force)
        value = (moving.phi(x, after) - moving.phi(x, state)).mean() / moving.epsilon / beta
        updates = torch.autograd.grad(value, list(moving.parameters()))
        for layer, (old, new) in enumerate(zip(state, after, strict=True)):
            expected = (new - old) / (beta * moving.epsilon)
            torch.testing.assert_close(process.states[layer][t], expected, rtol=1e-9, atol=1e-11)
        with torch.no_grad():
            for (name, parameter), update in zip(moving.named_parameters(), updates, strict=True):
                ours = process.parameters[name][t]
                torch.testing.assert_close(ours, update, rtol=1e-9, atol=1e-11)
                parameter += eta * update
        state = after


@pytest.mark.parametrize("kind", ALL)
def test_the_model_is_left_as_it_was(kind: str) -> None:
    model, x, y = make(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objects = dict(model.named_parameters())
    bptt_process(model, x, y, free_steps=9, nudged_steps=5)
    ep_process(model, x, y, free_steps=9, nudged_steps=5, beta=0.1, eta=0.1)
    assert dict(model.named_parameters()).items() == objects.items()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    for parameter in model.parameters():
        assert parameter.grad is None
        assert parameter.requires_grad


@pytest.mark.parametrize("kind", ["real-time", "toy", "my-phi", "prototypical"])
def test_for_a_primitive_function_continual_updates_of_rate_0_are_ep(kind: str) -> None:
    model, x, y = make(kind)
    ep = ep_process(model, x, y, free_steps=9, nudged_steps=5, beta=0.1)
    frozen = ep_process(model, x, y, free_steps=9, nudged_steps=5, beta=0.1, eta=0)
    for ours, theirs in zip(ep.states, frozen.states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    for name, ours in ep.parameters.items():
        torch.testing.assert_close(ours, frozen.parameters[name], rtol=0, atol=1e-13)


def test_continual_updates_differentiate_a_vector_field_at_the_present_state() -> None:
    model, x, y = make("no-gradient")
    at: dict[str, Any] = {"free_steps": 9, "nudged_steps": 5, "beta": 0.5}
    ep = ep_process(model, x, y, **at)
    frozen = ep_process(model, x, y, eta=0.0, **at)
    with torch.no_grad():
        nudge = Nudge(_Squared(), y, 0.5)
        path = list(transitions(model, model.drive(x), ep.free.state, 5, nudge=nudge))
    for t, (before, after) in enumerate(path):
        for process, anchor in ((ep, ep.free.state), (frozen, before)):
            field = model.field(x, anchor)
            value = torch.stack(
                [(f * (b - a)).sum() for f, a, b in zip(field, before, after, strict=True)]
            ).sum()
            gradients = torch.autograd.grad(value / (0.5 * len(x)), list(model.parameters()))
            for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
                ours = process.parameters[name][t]
                torch.testing.assert_close(ours, gradient, rtol=1e-9, atol=1e-11)


def test_rates_may_be_given_for_all_per_layer_and_by_name() -> None:
    model, x, y = make("real-time")
    at: dict[str, Any] = {"free_steps": 9, "nudged_steps": 5, "beta": 0.1}
    everywhere = ep_process(model, x, y, eta=0.01, **at)
    by_layer = ep_process(model, x, y, eta=(0.01, 0.01), **at)
    only_upper = ep_process(model, x, y, eta=(0.0, 0.01), **at)
    upper = {"connections.1.weight": 0.01, "connections.1.bias": 0.01}
    by_name = ep_process(model, x, y, eta=upper, **at)
    assert torch.equal(everywhere.states[0], by_layer.states[0])
    assert torch.equal(only_upper.states[0], by_name.states[0])
    assert not torch.equal(everywhere.states[0], only_upper.states[0])


@pytest.mark.parametrize("epsilon", [0.05, 0.3])
@pytest.mark.parametrize("beta", [0.5, -0.01])
def test_the_first_step_of_the_output_is_minus_the_error(epsilon: float, beta: float) -> None:
    torch.manual_seed(0)
    model = RealTimeNetwork(dense(6, 8, 3), "tanh", epsilon=epsilon).double()
    x, y = torch.rand(4, 6).double(), torch.rand(4, 3).double()
    steps: dict[str, Any] = {"free_steps": 2000, "nudged_steps": 3}
    ep, bptt = ep_process(model, x, y, beta=beta, **steps), bptt_process(model, x, y, **steps)
    error = bptt.free.state[-1] - y
    torch.testing.assert_close(ep.states[-1][0], -error, rtol=0, atol=1e-10)
    torch.testing.assert_close(bptt.states[-1][0], error, rtol=0, atol=1e-14)


def test_states_are_those_of_each_sample_and_parameters_the_mean_over_the_batch() -> None:
    model, x, y = make("real-time")
    at: dict[str, Any] = {"free_steps": 30, "nudged_steps": 5}
    for process in (
        lambda x, y: ep_process(model, x, y, beta=0.1, **at),
        lambda x, y: bptt_process(model, x, y, **at),
    ):
        whole = process(x, y)
        alone = [process(x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
        states = torch.cat([one.states[0] for one in alone], 1)
        torch.testing.assert_close(whole.states[0], states, rtol=0, atol=1e-12)
        for name, mean in whole.parameters.items():
            expected = torch.stack([one.parameters[name] for one in alone]).mean(0)
            torch.testing.assert_close(mean, expected, rtol=0, atol=1e-12)


def test_a_layer_has_no_gradient_before_the_error_can_have_reached_it() -> None:
    torch.manual_seed(0)
    model = PrototypicalNetwork(dense(6, 5, 4, 3)).double()
    x, y = torch.rand(4, 6).double(), torch.rand(4, 3).double()
    bptt = bptt_process(model, x, y, free_steps=9, nudged_steps=5)
    assert not bptt.states[0][:2].any()
    assert bptt.states[0][2].any()
    assert not bptt.states[1][:1].any()
    assert bptt.states[1][1].any()


def test_frozen_parameters_are_left_out() -> None:
    model, x, y = make("real-time")
    model.get_parameter("connections.0.weight").requires_grad_(False)
    ep = ep_process(model, x, y, free_steps=9, nudged_steps=5, beta=0.1, eta=0.1)
    bptt = bptt_process(model, x, y, free_steps=9, nudged_steps=5)
    assert "connections.0.weight" not in ep.parameters
    assert ep.parameters.keys() == bptt.parameters.keys()


def test_a_layer_that_no_parameter_leads_to_has_gradients_too() -> None:
    class Relay(VectorFieldModel):
        def __init__(self) -> None:
            super().__init__([6, 3])
            self.up = nn.Linear(6, 3)

        def field(self, drive: Tensor, state: State) -> State:
            return torch.tanh(drive), self.up(state[0])

    torch.manual_seed(0)
    model = Relay().double()
    x, y = torch.rand(4, 6).double(), torch.rand(4, 3).double()
    bptt = bptt_process(model, x, y, free_steps=5, nudged_steps=3)
    error = bptt.free.state[-1] - y
    torch.testing.assert_close(bptt.states[0][1], error @ model.up.weight)


def test_a_cost_of_ones_own_is_followed() -> None:
    model, x, y = make("real-time")
    cost = _Quartic()
    bptt = bptt_process(model, x, y, cost=cost, **STEPS)
    right = compare(ep_process(model, x, y, beta=1e-3, cost=cost, **STEPS), bptt)
    wrong = compare(ep_process(model, x, y, beta=1e-3, **STEPS), bptt)
    assert right.parameters.overall.relative_error < 0.01
    assert wrong.parameters.overall.relative_error > 0.1


def test_a_free_phase_can_be_shared() -> None:
    model, x, y = make("real-time")
    free = free_phase(model, x, 30, 5)
    steps: dict[str, Any] = {"free_steps": 30, "nudged_steps": 5}
    alone, shared = (
        bptt_process(model, x, y, **steps),
        bptt_process(model, x, y, free=free, **steps),
    )
    assert torch.equal(alone.states[0], shared.states[0])
    alone = ep_process(model, x, y, beta=0.1, **steps)
    shared = ep_process(model, x, y, beta=0.1, free=free, **steps)
    assert torch.equal(alone.states[0], shared.states[0])
    with pytest.raises(ValueError, match="expected a free phase of T = 31 and K = 5, got one of T"):
        bptt_process(model, x, y, free_steps=31, nudged_steps=5, free=free)


class _Squared(Cost):
    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (output - target).square().sum(1)


class _Quartic(Cost):
    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).pow(4).sum(1)


# Comparing


def process(states: Tensor, weight: Tensor, beta: float, bias: Tensor | None = None) -> Process:
    """A process of one layer and one weight, of a steady free phase."""
    zero = (torch.zeros(states.shape[1:]),)
    free = FreePhase(zero, zero, 100, len(states), (0.0,), (0.0,), oscillating=False, in_turn=False)
    parameters = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    return Process((states,), parameters, free, ("layer",), beta, 1.0)


def pair(factor: float) -> tuple[Process, Process]:
    """A process of EP that is ``factor`` times what it should be, and that of BPTT."""
    torch.manual_seed(0)
    states, weight = torch.randn(3, 2, 4).double(), torch.randn(3, 4, 5).double()
    return process(-factor * states, -factor * weight, 0.1), process(states, weight, 0.0)


@pytest.mark.parametrize(
    ("factor", "error", "cosine", "signs"),
    [(1, 0, 1, 1), (-1, 2, -1, 0), (2, 1, 1, 1), (0.5, 0.5, 1, 1), (0, 1, math.nan, 0)],
)
def test_figures_tell_a_wrong_sign_and_a_wrong_factor(
    factor: float, error: float, cosine: float, signs: float
) -> None:
    comparison = compare(*pair(factor))
    for found in (
        comparison.states,
        comparison.parameters,
        *comparison.by_layer.values(),
        *comparison.by_parameter.values(),
    ):
        for agreement in (found.overall, *found.at):
            assert agreement.relative_error == pytest.approx(error, abs=1e-12)
            assert agreement.cosine == pytest.approx(cosine, nan_ok=True)
            assert agreement.sign_agreement == signs
    angle = math.degrees(math.acos(cosine)) if math.isfinite(cosine) else math.nan
    assert comparison.total_update_angle == pytest.approx(angle, abs=1e-5, nan_ok=True)


def test_a_small_angle_keeps_its_digits() -> None:
    small = 1e-9
    u, v = torch.tensor([[[1.0, small]]]).double(), torch.tensor([[[1.0, 0.0]]]).double()
    comparison = compare(process(u, u, 0.1), process(-v, -v, 0.0))
    assert comparison.states.overall.angle == pytest.approx(math.degrees(small), rel=1e-6)


@pytest.mark.parametrize("factor", [1e-22, 1e-4, 1e4, 1e22])
@pytest.mark.parametrize("cosine", [-0.6, 0.0, 0.6, 0.96])
def test_the_angle_is_that_of_the_cosine_however_far_apart_the_norms_are(
    factor: float, cosine: float
) -> None:
    sine = math.sqrt(1 - cosine**2)
    u, v = torch.tensor([[[cosine, sine]]]).double(), torch.tensor([[[1.0, 0.0]]]).double()
    comparison = compare(process(factor * u, factor * u, 0.1), process(-v, -v, 0.0))
    assert comparison.states.overall.cosine == pytest.approx(cosine)
    assert comparison.states.overall.angle == pytest.approx(math.degrees(math.acos(cosine)))


def test_entries_without_a_gradient_have_no_sign_to_agree_with_but_count_as_error() -> None:
    ep = torch.tensor([[[1.0, -2.0, 0.0, 3.0]]])
    bptt = torch.tensor([[[-1.0, -2.0, -2.0, 0.0]]])
    found = compare(process(ep, ep, 0.1), process(bptt, bptt, 0.0)).states.overall
    assert found.sign_agreement == pytest.approx(1 / 3)
    assert found.relative_error == pytest.approx(math.sqrt((0 + 16 + 4 + 9) / 9))


def test_where_bptt_is_0_throughout_the_error_is_0_or_infinite() -> None:
    zero, one = torch.zeros(1, 1, 2), torch.ones(1, 1, 2)
    none = compare(process(zero, zero, 0.1), process(zero, zero, 0.0)).states.overall
    assert none.relative_error == 0
    assert math.isnan(none.sign_agreement)
    some = compare(process(one, one, 0.1), process(zero, zero, 0.0)).states.overall
    assert some.relative_error == math.inf
    assert math.isnan(some.cosine)


def test_figures_at_t_are_those_of_step_t_alone() -> None:
    states = torch.ones(2, 1, 2)
    ep = torch.stack([-torch.ones(1, 2), -3 * torch.ones(1, 2)])
    found = compare(process(ep, ep, 0.1), process(states, states, 0.0)).states
    assert [a.relative_error for a in found.at] == [0, 2]
    assert found.overall.relative_error == pytest.approx(math.sqrt(2))


def test_the_total_update_is_summed_over_time_and_of_weights_alone() -> None:
    # Two steps that cancel in one weight, in EP alone: the sum is at right angles, no step is.
    weight = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    turned = torch.tensor([[[-1.0, 0.0]], [[1.0, -1.0]]])
    bias = torch.tensor([[1.0], [1.0]])
    states = torch.ones(2, 1, 1)
    comparison = compare(process(-states, turned, 0.1, bias), process(states, weight, 0.0, bias))
    assert comparison.total_update_angle == pytest.approx(45)


def test_an_average_has_the_mean_and_the_spread_of_every_figure() -> None:
    found = average([compare(*pair(factor)) for factor in (1.0, 1.5, 2.0)])
    for mean, spread in (
        (found.mean.states.overall, found.spread.states.overall),
        (found.mean.by_parameter["weight"].at[1], found.spread.by_parameter["weight"].at[1]),
    ):
        assert mean.relative_error == pytest.approx(0.5)
        assert spread.relative_error == pytest.approx(0.5)
        assert mean.cosine == pytest.approx(1)
    assert found.batches == 3
    alone = average([compare(*pair(1.5))])
    assert alone.mean.states.overall.relative_error == pytest.approx(0.5)
    assert math.isnan(alone.spread.states.overall.relative_error)
    with pytest.raises(ValueError, match="expected at least one"):
        average([])


def test_only_a_process_of_ep_is_compared_with_one_of_bptt_of_the_same_shape() -> None:
    ep, bptt = pair(1)
    with pytest.raises(ValueError, match="expected a process of EP, then one of BPTT"):
        compare(bptt, ep)
    with pytest.raises(ValueError, match="expected a process of EP, then one of BPTT"):
        compare(ep, ep)
    shorter = process(bptt.states[0][:2], bptt.parameters["weight"][:2], 0.0)
    with pytest.raises(ValueError, match="layers: expected processes of the same shapes"):
        compare(ep, shorter)


# The premise


def test_the_residual_and_the_moves_of_the_free_phase_are_those_of_its_last_steps() -> None:
    model, x, _ = make("real-time")
    with torch.no_grad():
        path = trajectory(model, x, 20)
    free = free_phase(model, x, 20, 5)
    for layer in range(2):
        moves = [float((path[20][layer] - path[20 - k][layer]).abs().max()) for k in range(1, 6)]
        assert free.residual[layer] == moves[0]
        assert free.moved[layer] == max(moves)
    assert torch.equal(free.start[0], path[15][0])
    assert torch.equal(free.state[0], path[20][0])


def test_the_premise_holds_only_if_the_free_phase_settled() -> None:
    model, x, y = make("real-time")
    for steps, settled in ((15, False), (600, True)):
        ep = ep_process(model, x, y, free_steps=steps, nudged_steps=10, beta=0.01)
        bptt = bptt_process(model, x, y, free_steps=steps, nudged_steps=10)
        premise = compare(ep, bptt).premise
        assert premise.holds is settled
        assert len(premise.problems) == (0 if settled else 2)
        if not settled:
            converged, moved = premise.problems
            assert "the free phase has not converged: hidden layer 1 by" in converged
            assert "allow more free steps" in converged
            assert "moved during its last K steps: hidden layer 1 by" in moved


@pytest.mark.parametrize(
    ("beta", "share", "holds"),
    [(0.5, 0.009, True), (0.5, 0.011, False), (-1e-3, 9e-4, True), (-1e-3, 1.1e-3, False)],
)
def test_the_free_phase_may_move_by_a_hundredth_or_by_beta_of_what_the_nudge_does(
    beta: float, share: float, holds: bool
) -> None:
    ones = torch.ones(3, 1, 2).double()
    ep = process(ones, ones, beta)
    # A step of Δ_s = 1 moves by |β|, all three by 3 |β|.
    step = abs(beta)
    for moves in ({"residual": (share * step,)}, {"moved": (3 * share * step,)}):
        free = dataclasses.replace(ep.free, **moves)
        premise = compare(dataclasses.replace(ep, free=free), process(ones, ones, 0.0)).premise
        assert premise.holds is holds
        assert len(premise.problems) == (0 if holds else 1)


def test_a_free_phase_that_goes_to_and_fro_is_said_to_oscillate() -> None:
    model = PrototypicalNetwork(dense(2, 2, 2), "tanh").double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.get_parameter("connections.1.weight").copy_(3 * torch.eye(2))
        model.get_parameter("connections.0.bias").fill_(0.1)
    x, y = torch.ones(1, 2).double(), torch.zeros(1, 2).double()
    # With s₀ = 0 the layers, updated at once, follow each other about without ever meeting.
    with torch.no_grad():
        model.get_parameter("connections.1.weight").mul_(-1)
    start = (torch.full((1, 2), 0.9).double(), torch.full((1, 2), 0.9).double())
    with torch.no_grad():
        path = [after for _, after in transitions(model, model.drive(x), start, 400)]
    assert (path[-1][0] - path[-2][0]).abs().max() > 1
    assert (path[-1][0] - path[-3][0]).abs().max() < 1e-9
    model.initial_state = lambda x: start  # pyright: ignore[reportAttributeAccessIssue]
    premise = compare(
        ep_process(model, x, y, free_steps=400, nudged_steps=4, beta=0.01),
        bptt_process(model, x, y, free_steps=400, nudged_steps=4),
    ).premise
    assert not premise.holds
    assert premise.oscillating
    assert "oscillates between two states" in premise.problems[0]


def test_layers_updated_in_turn_agree_in_their_totals_alone() -> None:
    torch.manual_seed(0)
    connections = dense(5, 6, 4, 3)
    models = {
        updates: RealTimeNetwork(connections, "tanh", epsilon=0.5, updates=updates).double()
        for updates in get_args(RealTimeUpdates)
    }
    x, y = torch.rand(4, 5).double(), torch.rand(4, 3).double()
    errors = {}
    for updates, model in models.items():
        steps: dict[str, Any] = {"free_steps": 900, "nudged_steps": 200}
        ep = ep_process(model, x, y, beta=1e-6, **steps)
        bptt = bptt_process(model, x, y, **steps)
        found = compare(ep, bptt)
        errors[updates] = found.parameters.overall.relative_error
        for name, total in ep.total.items():
            torch.testing.assert_close(total, -bptt.total[name], rtol=1e-4, atol=1e-7)
        assert found.premise.holds
        assert found.premise.in_turn is (updates != "synchronous")
    assert errors.pop("synchronous") < 1e-4 < 0.1 < min(errors.values())


@pytest.mark.parametrize("nudge", ["inside", "outside"])
def test_in_turn_the_total_follows_the_gradient_if_the_output_is_nudged_inside_of_rho(
    nudge: Literal["inside", "outside"],
) -> None:
    torch.manual_seed(0)
    model = PrototypicalNetwork(
        dense(5, 6, 4, 3), "tanh", updates="alternating", nudge=nudge
    ).double()
    x, y = torch.rand(4, 5).double(), torch.rand(4, 3).double()
    steps: dict[str, Any] = {"free_steps": 900, "nudged_steps": 200}
    bptt = bptt_process(model, x, y, **steps)
    wanted = -torch.cat([total.flatten() for total in bptt.total.values()])
    errors = []
    for beta in (1e-2, 1e-3, 1e-4):
        total = ep_process(model, x, y, beta=beta, **steps).total
        found = torch.cat([total[name].flatten() for name in bptt.total])
        errors.append(((found - wanted).norm() / wanted.norm()).item())
    slopes = [math.log10(large / small) for large, small in pairwise(errors)]
    assert slopes == pytest.approx([1, 1] if nudge == "inside" else [0, 0], abs=0.1)
    kind = model_kind(model)
    assert kind.in_turn
    assert ("falls" if nudge == "inside" else "levels off") in kind.expected()


def test_the_premise_of_an_average_is_the_worst() -> None:
    model, x, y = make("real-time")
    found = [
        compare(
            ep_process(model, x, y, free_steps=steps, nudged_steps=10, beta=0.01),
            bptt_process(model, x, y, free_steps=steps, nudged_steps=10),
        )
        for steps in (600, 15, 600)
    ]
    assert not average(found).mean.premise.holds
    assert average([found[0], found[2]]).mean.premise.holds


# What is refused


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"nudged_steps": 0}, "nudged_steps: expected 1 to free_steps = 9"),
        ({"nudged_steps": 10}, "nudged_steps: expected 1 to free_steps = 9"),
        ({"beta": 0.0}, "beta: expected a finite number other than 0"),
        ({"beta": math.inf}, "beta: expected a finite number other than 0"),
        ({"nudging": "random-sign"}, "nudging: expected one-sided, symmetric or how many"),
        ({"eta": (0.1,)}, "learning_rates: expected 2"),
        ({"eta": {"weight": 0.1}}, "eta: expected names among connections.0.weight"),
    ],
)
def test_settings_that_cannot_be_are_refused(keywords: dict[str, Any], message: str) -> None:
    model, x, y = make("real-time")
    settings: dict[str, Any] = {"free_steps": 9, "nudged_steps": 5, "beta": 0.1, **keywords}
    with pytest.raises(ValueError, match=message):
        ep_process(model, x, y, **settings)


def test_rates_per_layer_need_a_model_that_knows_its_layers() -> None:
    model, x, y = make("my-phi")
    with pytest.raises(ValueError, match="MyPhi does not say which layer a parameter belongs to"):
        ep_process(model, x, y, free_steps=9, nudged_steps=5, beta=0.1, eta=(0.1, 0.1))


def test_a_state_that_stops_being_finite_is_reported_with_its_step() -> None:
    _, x, y = make("real-time")
    model = PrototypicalNetwork(dense(6, 8, 3), lambda s: s * s).double()
    with pytest.raises(NonFiniteError, match=r"nudged phase \(beta \+0.1\) at step \d"):
        ep_process(model, x, y, free_steps=30, nudged_steps=20, beta=0.1, eta=1e200)


def test_processes_are_immutable() -> None:
    ep, _ = pair(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ep.beta = 1.0  # pyright: ignore[reportAttributeAccessIssue]
