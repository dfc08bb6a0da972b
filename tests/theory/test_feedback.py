"""Ways down that are scaled, and exact all the same; or of synapses that differ, and not."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop.analysis.kind import model_kind
from eqprop.core.models import ConvergentModel
from eqprop.networks.connections.connection import Change, Connection
from eqprop.networks.connections.feedback import Feedback, feedback
from fields import Nudging, T, both, gradient

K = 12
BETAS = (1e-2, 1e-3)
STRENGTHS = pytest.mark.parametrize("c", [0.3, 0.7, 1.8])


def made(c: float = 1.0, spread: float = 0.0, share: float | None = None) -> ConvergentModel:
    """A network in real time, whose transition is the derivative of a Φ if its ways are tied."""
    torch.manual_seed(0)
    chain = feedback(eqprop.dense(6, 5, 4, 3), c, spread)
    if share is not None:
        for connection in chain:
            assert isinstance(connection, Feedback)
            connection.share = share
    model = eqprop.RealTimeNetwork(chain, "tanh", epsilon=0.3).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.7)
    return model


def batch() -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(1)
    return (
        torch.rand(5, 6, generator=source).double(),
        torch.rand(5, 3, generator=source).double(),
    )


def errors(model: ConvergentModel, nudging: Nudging, kind: Any = None) -> list[float]:
    """Of the gradient, relative, for every β."""
    kind = kind or eqprop.EquilibriumPropagation
    x, y = batch()
    wanted = gradient(model, x, y, eqprop.BPTT(T, K))
    found = [gradient(model, x, y, kind(T, K, beta, nudging)) for beta in BETAS]
    return [((one - wanted).norm() / wanted.norm()).item() for one in found]


@both
@STRENGTHS
def test_ep_stays_exact_however_ways_down_are_scaled(c: float, nudging: Nudging) -> None:
    large, small = errors(made(c), nudging)
    order = 1 if nudging == "one-sided" else 2
    assert math.log10(large / small) == pytest.approx(order, abs=0.1)


@STRENGTHS
def test_without_its_share_a_layer_learns_by_what_is_left_of_the_nudge(c: float) -> None:
    x, y = batch()
    model = made(c, share=1.0)
    estimates = []
    for estimator in (
        eqprop.BPTT(T, K),
        eqprop.EquilibriumPropagation(T, K, 1e-4, "symmetric"),
    ):
        gradient(model, x, y, estimator)
        estimates.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for index, (exact, found) in enumerate(zip(*estimates, strict=True)):
        # Two parameters of every connection; below layer l of 3, c^(3 − l).
        left = c ** (2 - index // 2)
        torch.testing.assert_close(found, exact * left, rtol=1e-5, atol=1e-9)


@STRENGTHS
def test_the_jacobian_falls_with_the_root_of_the_scale(c: float) -> None:
    """In a chain it leads from layers of even number to those of odd and back: J² ∝ c."""

    def radius(scale: float) -> float:
        torch.manual_seed(0)
        chain = feedback(eqprop.dense(6, 5, 4, 3), scale)
        model = eqprop.PrototypicalNetwork(chain, "tanh").double()
        # At a state of 0 the slopes of all units are the same, whatever c.
        x, sizes = torch.zeros(1, 6).double(), [5, 4, 3]
        drive = model.drive(x).detach()

        def step(flat: Tensor) -> Tensor:
            return torch.cat(model.step(drive, tuple(flat.split(sizes, 1))), 1)

        J = torch.autograd.functional.jacobian(step, torch.zeros(1, 12).double())
        assert isinstance(J, Tensor)
        return torch.linalg.eigvals(J.reshape(12, 12)).abs().max().item()

    assert radius(c) == pytest.approx(radius(1.0) * math.sqrt(c), rel=1e-9)


def test_synapses_that_differ_turn_ep_away_but_not_asym_ep() -> None:
    model = made(0.7, spread=0.5)
    large, small = errors(model, "symmetric")
    assert small == pytest.approx(large, rel=0.1)
    assert small > 0.05
    large, small = errors(model, "symmetric", eqprop.AsymEP)
    assert math.log10(large / small) == pytest.approx(2, abs=0.1)


def test_the_way_down_goes_by_the_weight_that_is_said() -> None:
    torch.manual_seed(0)
    connection = Feedback(eqprop.Dense(4, 3), 0.6, 0.5).double()
    u = torch.rand(2, 3).double()
    down = connection.down(u, None)
    torch.testing.assert_close(down, u @ connection.backward_weight)
    spread = (connection.backward_weight / connection.upward.weight / 0.6 - 1).detach()
    assert 0.2 < spread.std() < 1.0
    # It is there for good, and follows the weight.
    with torch.no_grad():
        connection.upward.weight.mul_(2)
    torch.testing.assert_close(connection.down(u, None), 2 * down)


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_its_rules_are_those_of_its_contrast(spread: float) -> None:
    torch.manual_seed(0)
    connection = Feedback(eqprop.Dense(4, 3), 0.6, spread, share=1.7).double()
    before, after = ((torch.rand(2, 4).double(), torch.rand(2, 3).double()) for _ in range(2))
    change = Change(before, after, before)
    slow = Connection.contrast_gradients(connection, change, 0.3)
    fast = connection.contrast_gradients(change, 0.3)
    assert fast.keys() == slow.keys() == {"upward.weight", "upward.bias"}
    rates = {"upward.weight": 0.5, "upward.bias": 0.25}
    moved = {name: p + rates[name] * slow[name] for name, p in connection.named_parameters()}
    connection.requires_grad_(False).learn(change, 0.3, rates)
    for name, parameter in connection.named_parameters():
        torch.testing.assert_close(fast[name], slow[name])
        torch.testing.assert_close(parameter, moved[name])


def test_continual_updates_come_to_those_at_the_end_as_eta_falls() -> None:
    x, y = batch()
    found = []
    for eta in (1e-3, 1e-4):
        model = made(0.6)
        estimator = eqprop.EquilibriumPropagation(T, K, 0.1)
        wanted = gradient(model, x, y, estimator)
        model.zero_grad(set_to_none=True)
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        optimizer = torch.optim.SGD(model.parameters(), lr=eta)
        eqprop.ContinualEP(optimizer, T, K, 0.1)(model, x, y)
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        found.append(((before - after) / eta - wanted).norm().item())
    assert math.log10(found[0] / found[1]) == pytest.approx(1, abs=0.1)


def test_the_drive_follows_weights_that_are_written_once_at_the_end() -> None:
    """As where a hook asks for a step of the optimizer, and a drive computed anew, every time."""
    x, y = batch()
    after = []
    for hooked in (False, True):
        model = made(0.6)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if hooked:
            optimizer.register_step_post_hook(lambda *_: None)
        eqprop.ContinualEP(optimizer, 50, K, 0.5)(model, x, y)
        after.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*after, rtol=1e-9, atol=1e-12)


def test_a_network_is_told_to_have_a_phi_as_long_as_its_synapses_do_not_differ() -> None:
    assert model_kind(made(0.5)).name == "exact"
    assert model_kind(made(0.5, spread=0.1)).name == "vector field"


@pytest.mark.parametrize("device", ["scaled", "gains"])
def test_in_a_metric_parameters_agree_as_beta_falls_and_states_are_off_by_a_factor(
    device: str,
) -> None:
    model = made(0.5) if device == "scaled" else eqprop.mismatched(made(), gain=0.3)
    phases: dict[str, Any] = {"free_steps": T, "nudged_steps": K}
    parameters, states = [], []
    for beta in BETAS:
        found = eqprop.diagnose(model, [batch()], beta=beta, **phases)
        parameters.append(found.by_eta[0].mean.parameters.overall.relative_error)
        states.append(found.by_eta[0].mean.states.overall.relative_error)
    assert math.log10(parameters[0] / parameters[1]) == pytest.approx(1, abs=0.1)
    assert states[1] == pytest.approx(states[0], rel=0.1)
    assert states[1] > 0.05
    kind = model_kind(model)
    assert kind.said == "exact, F = ∂Φ/∂s, in a metric of its own"
    assert kind.expected() == (
        "the error falls in proportion to β in parameters, and levels off in states, each off by a "
        "factor"
    )


def test_convolutions_and_pooling_are_scaled_too() -> None:
    torch.manual_seed(0)
    chain = feedback(eqprop.convolutional((1, 6, 6), (3,), 7, 3, kernel=3, padding=1), 0.5)
    model = eqprop.RealTimeNetwork(chain, "tanh", epsilon=0.3).double()
    source = torch.Generator().manual_seed(1)
    x = torch.rand(4, 1, 6, 6, generator=source).double()
    y = torch.rand(4, 3, generator=source).double()
    wanted = gradient(model, x, y, eqprop.BPTT(T, K))
    apart = []
    for beta in BETAS:
        found = gradient(model, x, y, eqprop.EquilibriumPropagation(T, K, beta))
        apart.append((found - wanted).norm() / wanted.norm())
    assert math.log10(apart[0] / apart[1]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"scale": 0.0}, "scale: expected a finite number > 0, got 0.0"),
        ({"scale": math.inf}, "scale: expected a finite number > 0"),
        ({"share": -1.0}, "share: expected a finite number > 0"),
        ({"spread": -0.1}, "spread: expected a finite number >= 0"),
    ],
)
def test_bad_numbers_are_refused(arguments: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Feedback(eqprop.Dense(4, 3), **arguments)


def test_what_has_no_one_weight_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a tied connection, got Untied"):
        Feedback(eqprop.Untied(eqprop.Dense(4, 3)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"spread: expected 0 for a connection without .* Pool"):
        Feedback(eqprop.Pool((1, 4, 4)), spread=0.1)
    assert Feedback(eqprop.Pool((1, 4, 4)), 0.5).keeps_phi
