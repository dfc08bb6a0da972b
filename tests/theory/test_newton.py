"""Newton's steps: where they lead, how fast, and that nothing else is changed by them."""

from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import eqprop
from eqprop.analysis.kind import model_kind
from eqprop.analysis.processes import bptt_process, ep_process
from eqprop.core.activations import Activation, as_activation
from eqprop.core.models import State
from eqprop.core.phases import relax
from eqprop.estimators.homeostasis import asymmetry
from eqprop.networks.real_time import RealTimeNetwork, RealTimeUpdates
from zoo import RHOS, chains, softened

LEAST = 0.01
"""The least curvature by which a step is divided."""

SHARPEST: dict[Any, float] = {
    "scaled-sigmoid": 8,
    "tanh": 2,
    "hard-sigmoid": 0,
    "half-hard-sigmoid": 0,
    softened: 6,
}
"""sup |ρ‴|: in the middle of each, 64/4 (1 − 6/4), −2, and −6, of s − s³ + …."""


def made(sizes: list[int], rho: Any, clip: tuple[float, float] | None, **others: Any) -> Any:
    torch.manual_seed(0)
    network = RealTimeNetwork(eqprop.dense(*sizes), rho, clip=clip, updates="newton", **others)
    return network.double()


def newtons(network: RealTimeNetwork, x: Tensor, state: State, force: Tensor | None) -> State:
    """The layers of even number, then the others, each to the minimum of its cubic bound."""
    layers = list(state)
    sharpest = network.rho.sharpest(*(network.clip or (-10, 10)))
    for first in (1, 0):
        moved = list(layers)
        for layer in range(first, len(layers), 2):
            s = layers[layer].clone().requires_grad_()
            at = tuple(s if other == layer else layers[other] for other in range(len(layers)))
            total = network.energy(x, at).sum()
            if force is not None and layer == len(layers) - 1:
                total = total - (force * s).sum()
            (slope,) = torch.autograd.grad(total, s, create_graph=True)
            # The units of a layer are not coupled: the sums of the rows are the diagonal.
            (bent,) = torch.autograd.grad(slope.sum(), s)
            below, weights = (x, *layers)[layer], [c.get_parameter("weight") for c in network.chain]
            current = network.rho(below) @ weights[layer].t()
            current = current + network.chain[layer].get_parameter("bias")
            if layer + 1 < len(layers):
                current = current + network.rho(layers[layer + 1]) @ weights[layer + 1]
            reach = (bent**2 + 2 * sharpest * current.abs() * slope.abs()).sqrt()
            after = s - 2 * slope / (bent + reach).clamp(min=2 * LEAST)
            moved[layer] = (after if network.clip is None else after.clamp(*network.clip)).detach()
        layers = moved
    return tuple(layers)


@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=5),
    st.sampled_from(RHOS),
    st.sampled_from([None, (0.0, 1.0), (-1.0, 1.0)]),
    st.integers(0, 10**6),
)
@settings(max_examples=100)
def test_a_step_goes_to_the_minimum_of_a_cubic_bound_of_the_energy(
    sizes: list[int], rho: Any, clip: tuple[float, float] | None, seed: int
) -> None:
    network = made(sizes, rho, clip)
    torch.manual_seed(seed)
    x = torch.randn(3, sizes[0]).double()
    with torch.no_grad():
        # Currents large enough for some units to be where the energy is concave.
        for parameter in network.parameters():
            parameter.mul_(6)
    state = tuple(torch.rand(3, *shape).double().mul(3).sub(1) for shape in network.shapes)
    pull = torch.randn_like(state[-1])
    for force in (None, pull):
        with torch.no_grad():
            found = network.step(network.drive(x), state, force)
        for one, other in zip(found, newtons(network, x, state, force), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rho", RHOS, ids=lambda rho: getattr(rho, "__name__", rho))
def test_the_second_derivative_of_an_activation_is_the_slope_of_its_derivative(rho: Any) -> None:
    activation = as_activation(rho)
    s = torch.linspace(-3, 3, 101, dtype=torch.float64) + 1e-3  # off the corners
    h = 1e-6
    ends = [activation.derivative(at, activation(at)) for at in (s + h, s - h)]
    second = (ends[0] - ends[1]) / (2 * h)
    v = torch.linspace(1, 2, 101, dtype=torch.float64)
    found = activation.times_second(
        s, activation(s), v, activation.derivative(s, activation(s)) * v
    )
    second = second * v
    torch.testing.assert_close(found, second, rtol=0, atol=1e-8)


@pytest.mark.parametrize("rho", RHOS, ids=lambda rho: getattr(rho, "__name__", rho))
def test_how_sharply_an_activation_bends_is_measured(rho: Any) -> None:
    assert as_activation(rho).sharpest(-10, 10) == pytest.approx(SHARPEST[rho], rel=1e-5)


@given(
    chains(),
    st.sampled_from(["scaled-sigmoid", "tanh", softened]),
    st.sampled_from([None, (0.0, 1.0), (-1.0, 1.0)]),
    st.floats(0.1, 30),
    st.integers(0, 10**6),
)
@settings(max_examples=150)
def test_no_step_raises_the_energy(
    drawn: Any, rho: Any, clip: tuple[float, float] | None, strength: float, seed: int
) -> None:
    """With max-pooling, of ρ ≥ 0 alone: beneath it the coupling is convex only then."""
    shape, connections = drawn
    if rho != "scaled-sigmoid":
        for connection in connections:
            if isinstance(connection, eqprop.ConvPool):
                connection.pooling = "average"
    network = RealTimeNetwork(connections, rho, clip=clip, updates="newton").double()
    torch.manual_seed(seed)
    x = torch.randn(3, *shape).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(strength)
        state = tuple(torch.rand(3, *shape).double() for shape in network.shapes)
        force = torch.randn_like(state[-1])
        drive, energies = network.drive(x), []
        for _ in range(12):
            pulled = (force * state[-1]).flatten(1).sum(1)
            energies.append(network.energy(x, state) - pulled)
            state = network.step(drive, state, force)
    found = torch.stack(energies)
    assert (found.diff(dim=0) <= 1e-9 * (1 + found[:-1].abs())).all()


def test_a_unit_that_would_overshoot_by_newton_s_own_step_settles() -> None:
    """One unit in the current 2: from 0.45 Newton's own step leads to 1.65, and from there back."""
    network = RealTimeNetwork(eqprop.dense(1, 1), updates="newton").double()
    with torch.no_grad():
        network.chain[0].get_parameter("weight").fill_(0)
        network.chain[0].get_parameter("bias").fill_(2)
    x = torch.zeros(1, 1).double()
    relaxed = relax(network, x, 30, tolerance=1e-10)
    assert relaxed.rests().all()
    (s,) = relaxed.state
    r = 1 / (1 + (2 - 4 * s).exp())
    torch.testing.assert_close(s, 2 * 4 * r * (1 - r), rtol=0, atol=1e-9)


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_the_error_of_units_that_are_not_coupled_falls_quadratically(clip: Any) -> None:
    """Newton's method: the error after a step is in proportion to the square of that before."""
    network = made([4, 12], "scaled-sigmoid", clip)
    x = torch.rand(5, 4).double()
    with torch.no_grad():
        network.chain[0].get_parameter("bias").add_(0.5)
        drive = network.drive(x)
        (rest,) = relax(network, x, 200).state
        inside = (rest > 0.05) & (rest < 0.95)
        assert inside.sum() > 9
        before = torch.tensor([1e-2, 1e-3, 1e-4]).double()
        after = [network.step(drive, (rest + d,))[0].sub(rest)[inside].abs().max() for d in before]
    slope = torch.stack(after).log().diff() / before.log().diff()
    torch.testing.assert_close(slope, torch.full_like(slope, 2.0), rtol=0, atol=0.05)


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
@pytest.mark.parametrize("kind", ["chain", "graph", "untied"])
def test_it_rests_where_euler_s_steps_do(clip: Any, kind: str) -> None:
    torch.manual_seed(1)
    edges: Any = eqprop.dense(6, 5, 4, 3)
    if kind == "graph":
        sizes = {"x": 6, "a": 5, "b": 4, "y": 3}
        pairs = ["xa", "ab", "ay", "by", "xb"]
        edges = [(low, eqprop.Dense(sizes[low], sizes[up]), up) for low, up in pairs]
    if kind == "untied":
        edges = eqprop.untied(edges, 60.0)
    x = torch.rand(8, 6).double()
    found = []
    for updates in get_args(RealTimeUpdates):
        network = RealTimeNetwork(edges, epsilon=0.3, clip=clip, updates=updates).double()
        relaxed = relax(network, x, 3000, tolerance=1e-13)
        assert relaxed.rests().all()
        found.append(relaxed.state)
    for state in found[1:]:
        for one, other in zip(state, found[0], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_units_of_differing_curvature_rest_sooner_than_with_any_one_time_step() -> None:
    """Euler's ε is too large for some where it is small for others: e″ goes from 0.5 to 4."""
    torch.manual_seed(0)
    connections = eqprop.dense(20, 100, 10)
    with torch.no_grad():
        connections[0].get_parameter("weight").mul_(4)
    x = torch.rand(50, 20).double()
    clip = (0.0, 1.0)
    network = RealTimeNetwork(connections, clip=clip, updates="newton").double()
    newton = relax(network, x, 1000, tolerance=1e-6)
    assert newton.rests().all()
    for epsilon in (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0):
        network = RealTimeNetwork(connections, clip=clip, epsilon=epsilon, updates="alternating")
        euler = relax(network.double(), x, 1000, tolerance=1e-6)
        assert euler.steps.double().mean() > 3 * newton.steps.double().mean()


def test_no_time_step_stands_beside_newton_s() -> None:
    one, other = (made([5, 4, 3], "tanh", None, epsilon=epsilon) for epsilon in (0.2, 0.9))
    assert one.epsilon == other.epsilon == 1
    x = torch.rand(3, 5).double()
    for a, b in zip(relax(one, x, 3).state, relax(other, x, 3).state, strict=True):
        assert torch.equal(a, b)


def test_only_real_time_networks_have_them() -> None:
    with pytest.raises(ValueError, match="updates: expected one of synchronous, alternating, got"):
        eqprop.PrototypicalNetwork(eqprop.dense(3, 2), updates="newton")  # type: ignore[arg-type]
    with pytest.raises(eqprop.ConfigurationError, match=r"updates = newton: expected alternating"):
        eqprop.Experiment(updates="newton")


def test_a_rho_whose_second_derivative_is_not_to_be_had_is_refused() -> None:
    straight = Activation("straight", lambda s: 2 * s, lambda s, _: torch.full_like(s, 2.0))
    RealTimeNetwork(eqprop.dense(3, 2), straight, updates="alternating")
    with pytest.raises(ValueError, match=r"rho: expected a second derivative.*straight.*its bend"):
        RealTimeNetwork(eqprop.dense(3, 2), straight, updates="newton")
    second = Activation(
        "straight",
        straight.function,
        straight.derivative,
        bend=lambda s, _: torch.zeros_like(s),
    )
    RealTimeNetwork(eqprop.dense(3, 2), second, updates="newton")
    with pytest.raises(TypeError, match="Activation: expected"):
        Activation("bad", torch.sin, lambda s, _: s.cos(), bend=1)  # type: ignore[arg-type]


def test_theorem_1_holds_for_totals_and_for_states_but_for_the_time_step_of_each_unit() -> None:
    """A force moves a unit by f / e″ in a step; BPTT knows nothing of that division."""
    network = made([6, 5, 4, 3], "tanh", None)
    kind = model_kind(network)
    assert kind.said == "exact, F = ∂Φ/∂s, in a metric of its own, layers updated in turn"
    assert "in parameters" in kind.expected(2)
    x, y = torch.rand(4, 6).double(), torch.rand(4, 3).double()
    ep = ep_process(network, x, y, free_steps=200, nudged_steps=100, beta=1e-6)
    bptt = bptt_process(network, x, y, free_steps=200, nudged_steps=100)
    for name, total in ep.total.items():
        torch.testing.assert_close(total, -bptt.total[name], rtol=1e-4, atol=1e-7)
    rest = [layer.clone().requires_grad_() for layer in ep.free.state]
    slopes = torch.autograd.grad(network.energy(x, tuple(rest)).sum(), rest, create_graph=True)
    for layer, slope, moved, back in zip(rest, slopes, ep.states, bptt.states, strict=True):
        (bent,) = torch.autograd.grad(slope.sum(), layer, retain_graph=True)
        torch.testing.assert_close(bent * moved.sum(0), -back.sum(0), rtol=1e-4, atol=1e-7)


def test_a_rho_is_looked_at_where_the_clip_lets_states_be() -> None:
    """log(1 + s) has a pole at −1."""
    network = made([6, 8, 3], torch.log1p, (0.0, 1.0))
    x = torch.rand(4, 6).double()
    euler = RealTimeNetwork(list(network.chain), torch.log1p, clip=(0.0, 1.0)).double()
    found, wanted = (relax(of, x, 500, tolerance=1e-12).state for of in (network, euler))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    with pytest.raises(
        ValueError, match=r"rho: expected a third derivative that is bounded.*log1p"
    ):
        made([6, 8, 3], torch.log1p, None)


def test_a_network_is_made_for_newton_s_steps_and_stays_so() -> None:
    network = made([3, 2], "tanh", None)
    with pytest.raises(ValueError, match=r"updates: expected newton, as the network was made"):
        network.updates = "alternating"
    network.updates = "newton"
    other = RealTimeNetwork(eqprop.dense(3, 2), updates="synchronous")
    other.updates = "alternating"
    assert other.in_turn
    for wrong in ("newton", "random"):
        with pytest.raises(ValueError, match=r"expected one of synchronous, alternating, as"):
            other.updates = wrong
    with pytest.raises(ValueError, match="epsilon"):
        RealTimeNetwork(eqprop.dense(3, 2), epsilon=-3.0, updates="newton")


@pytest.mark.parametrize("name", ["gain_spread", "offset_spread", "homeostasis"])
def test_what_presumes_one_time_step_for_all_units_is_refused(name: str) -> None:
    with pytest.raises(eqprop.ConfigurationError, match=rf"{name} = 0.1: expected 0 with updates"):
        eqprop.Experiment(network="real-time", updates="newton").override({name: 0.1})
    with pytest.raises(ValueError, match="network: expected synchronous or alternating"):
        eqprop.mismatched(made([3, 2], "tanh", None), 0.1)
    network, x = made([3, 2], "tanh", None), torch.rand(2, 3).double()
    with pytest.raises(ValueError, match="model: expected one time step for all units"):
        asymmetry(network, x, relax(network, x, 9).state)


def test_the_gradient_through_a_step_is_finite_where_a_unit_has_no_curvature() -> None:
    """With ρ = s + s²/2 and the current 1 the energy is straight: e″ = 1 − 1."""
    rho = Activation("bowl", lambda s: s + s * s / 2, lambda s, _: 1 + s)
    network = made([1, 1], rho, None)
    s, current = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
    s.requires_grad_()
    current.requires_grad_()
    moved = network.move_in_turn(0, s, network.rho(s), current, None)
    found = torch.autograd.grad(moved.sum(), [s, current])
    assert all(g.isfinite().all() for g in found)


@pytest.mark.parametrize(("beta", "settles"), [(0.4, True), (0.8, False)])
def test_the_nudge_must_bend_less_than_the_units(beta: float, settles: bool) -> None:
    """One unit in the current 0.3, where e″ is about 0.55: the output contracts by β / e″."""
    network = RealTimeNetwork(eqprop.dense(1, 1), updates="newton").double()
    with torch.no_grad():
        network.chain[0].get_parameter("weight").fill_(0)
        network.chain[0].get_parameter("bias").fill_(0.3)
    x, y = torch.zeros(1, 1).double(), torch.zeros(1, 1).double()
    free = relax(network, x, 100).state
    nudge = eqprop.Nudge(eqprop.SquaredError(), y, beta)
    nudged = eqprop.nudged_phase(network, x, 200, nudge, free)
    assert bool(nudged.moved.max() < 1e-6) is settles
