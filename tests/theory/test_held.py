"""Units at a bound of the clip, or where ρ is flat: what Theorem 1 still says, and of what.

The expectations are those of :mod:`eqprop.analysis.held`, worked out to first order in β; an error
of first order falls as β.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from eqprop.analysis.agreement import compare
from eqprop.analysis.held import held_units, holding
from eqprop.analysis.kind import model_kind
from eqprop.analysis.processes import Process, bptt_process, ep_process, free_phase
from eqprop.core.activations import SCALED_SIGMOID
from eqprop.core.costs import Cost
from eqprop.core.models import ConvergentModel, State
from eqprop.networks.connections.chains import dense, untied
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from eqprop.networks.toy import ToyModel
from measuring import slope
from zoo import UserEnergy, UserField, UserPhi

STEPS: dict[str, Any] = {"free_steps": 400, "nudged_steps": 20}
CLIP = (0.0, 1.0)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 6, dtype=torch.float64, generator=generator)
    return x, torch.eye(3, dtype=torch.float64)[[0, 2, 1, 2]]


def real_time(rho: str, clip: tuple[float, float] | None = CLIP) -> RealTimeNetwork:
    torch.manual_seed(0)
    return RealTimeNetwork(dense(6, 20, 3), rho, epsilon=0.3, clip=clip).double()


def processes(model: ConvergentModel, beta: float, cost: Cost | None = None) -> tuple[Process, ...]:
    x, y = batch()
    free = free_phase(model, x, **STEPS)
    ep = ep_process(model, x, y, beta=beta, free=free, **STEPS)
    return ep, bptt_process(model, x, y, free=free, cost=cost, **STEPS)


RHOS = pytest.mark.parametrize("rho", ["scaled-sigmoid", "tanh", "hard-sigmoid"])


@RHOS
def test_at_the_clip_parameters_agree_and_of_the_states_those_of_other_units(rho: str) -> None:
    model, betas = real_time(rho), [1e-3, 1e-4, 1e-5]
    found = [compare(*processes(model, beta)) for beta in betas]
    for errors in (
        [of.parameters.overall.relative_error for of in found],
        [of.unheld.overall.relative_error for of in found],
    ):
        assert slope(betas, errors) == pytest.approx(1, abs=0.05)
    # All states together never do.
    assert min(of.states.overall.relative_error for of in found) > 0.3


@RHOS
def test_ep_leaves_units_where_the_clip_holds_them_and_bptt_does_not(rho: str) -> None:
    ep, bptt = processes(real_time(rho), 1e-4)
    for name, state, held, u, v in zip(
        ep.layers, ep.free.state, ep.free.held, ep.states, bptt.states, strict=True
    ):
        assert torch.equal(held, (state == 0) | (state == 1)), name
        assert 0.1 < held.double().mean() < 0.9
        assert not u[:, held].any()
        assert v[:, held].any()


def test_the_premise_says_how_many_units_the_clip_holds() -> None:
    ep, bptt = processes(real_time("tanh"), 1e-4)
    premise = compare(ep, bptt).premise
    shares = [float(((s == 0) | (s == 1)).double().mean()) for s in ep.free.state]
    assert list(premise.held) == pytest.approx(shares)
    assert premise.steady
    assert not premise.holds
    (problem,) = premise.problems
    said = ", ".join(
        f"{100 * share:.2g} % of {layer}" for share, layer in zip(shares, ep.layers, strict=True)
    )
    assert problem.startswith(f"units rest at a bound of the clip, {said}: ")
    assert compare(*processes(real_time("tanh", None), 1e-4)).premise.holds


def test_a_unit_that_crosses_a_bound_is_counted_and_a_smaller_nudge_leads_none_across() -> None:
    model = real_time("scaled-sigmoid")
    strong, weak = (compare(*processes(model, beta)) for beta in (0.3, 1e-3))
    assert any(strong.premise.crossed)
    assert "cross a bound of the clip while nudged" in strong.premise.problems[-1]
    assert strong.parameters.overall.relative_error > 0.3
    assert not any(weak.premise.crossed)
    assert "cross" not in "".join(weak.premise.problems)


def test_crossing_is_counted_in_every_step_and_both_ways() -> None:
    """By hand: which units are at a bound in any state of either nudged phase, and were not."""
    from eqprop.core.costs import SquaredError
    from eqprop.core.nudging import Nudge
    from eqprop.core.stepping import transitions

    model, beta = real_time("scaled-sigmoid"), 0.3
    x, y = batch()
    ep = ep_process(model, x, y, beta=beta, nudging="symmetric", **STEPS)
    crossed = [torch.zeros_like(s, dtype=torch.bool) for s in ep.free.state]
    for strength in (beta, -beta):
        nudge = Nudge(SquaredError(), y, strength)
        for _, after in transitions(model, model.drive(x), ep.free.state, 20, nudge=nudge):
            for of, free, now in zip(crossed, ep.free.state, after, strict=True):
                of |= ((free == 0) | (free == 1)) != ((now == 0) | (now == 1))
    assert list(ep.crossed) == [float(of.double().mean()) for of in crossed]
    assert sum(ep.crossed) > 0


def test_flat_units_agree_as_long_as_none_crosses_the_kink() -> None:
    """Without a clip: beyond [0, 1] the slope of a hard sigmoid is 0, in F and in its Φ."""
    model = real_time("hard-sigmoid", None)
    # Units that are pushed below 0 decay back to the kink, and a nudge leads the outputs across.
    found = compare(*processes(model, 1e-4))
    assert any(found.premise.crossed)
    assert "cross a kink of ρ while nudged" in found.premise.problems[-1]
    assert "a smooth ρ such as tanh" in found.premise.problems[-1]
    # Outputs that are pulled up from within never come there.
    with torch.no_grad():
        model.get_parameter("connections.1.bias").fill_(0.6)
        model.get_parameter("connections.1.weight").mul_(0.1)
    found = compare(*processes(model, 1e-4))
    assert not any(found.premise.crossed)
    assert 0 < found.premise.held[0] < 1
    assert found.premise.holds
    assert found.states.overall.relative_error < 1e-3
    assert found.parameters.overall.relative_error < 1e-3


@pytest.mark.parametrize("rho", ["scaled-sigmoid", "tanh"])
def test_a_slope_that_rounds_to_0_is_no_kink(rho: str) -> None:
    model = real_time(rho, None)
    state = tuple(torch.full((1, *shape), 50.0, dtype=torch.float64) for shape in model.shapes)
    slope = model.rho.derivative(state[0], model.rho(state[0]))
    assert not slope.any()
    assert holding(model) == ""
    assert held_units(model, model.drive(batch()[0]), state, holding(model)) == ()
    # Strong as it is, the nudge leads no unit across anything.
    assert "cross" not in "".join(compare(*processes(model, 3.0)).premise.problems)


@pytest.mark.parametrize(
    ("rho", "expected"),
    [("hard-sigmoid", "activation"), (torch.relu, "activation"), (torch.sigmoid, ""), ("tanh", "")],
    ids=["hard", "relu", "sigmoid", "tanh"],
)
def test_a_rho_of_any_kind_holds_units_where_its_slope_jumps_to_0(rho: Any, expected: str) -> None:
    assert holding(PrototypicalNetwork(dense(6, 4, 3), rho)) == expected


class Linear(Cost):
    """⟨c, ŷ⟩, whose gradient is c."""

    def __init__(self, slope: Tensor) -> None:
        self._slope = slope

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return (self._slope * output).sum(1)


def test_a_prototypical_network_leaves_out_the_slope_of_the_output_alone() -> None:
    """It updates parameters as BPTT does for a cost whose gradient is g ÷ σ′ instead of g."""
    torch.manual_seed(0)
    model = PrototypicalNetwork(dense(6, 8, 3)).double()
    x, y = batch()
    state = free_phase(model, x, **STEPS).state
    with torch.no_grad():
        field = model.field(model.drive(x), state)[-1]
        sigma = SCALED_SIGMOID.derivative(field, SCALED_SIGMOID(field))
    instead, betas = Linear((state[-1] - y) / sigma), [1e-3, 1e-4, 1e-5]
    found = [compare(*processes(model, beta, instead)) for beta in betas]
    errors = [of.parameters.overall.relative_error for of in found]
    assert slope(betas, errors) == pytest.approx(1, abs=0.05)
    # Of the cost itself they are not.
    assert compare(*processes(model, 1e-5)).parameters.overall.relative_error > 0.1


@pytest.mark.parametrize("sizes", [(6, 8, 3), (6, 9, 8, 3)], ids=["one hidden", "two hidden"])
def test_nudged_inside_a_prototypical_network_follows_the_gradient_of_its_parameters(
    sizes: tuple[int, ...],
) -> None:
    """Δ_θ(t) = −∇_θ(t), and Δ_s(t) = −ρ′ ∇_s(t), ρ′ that of every unit at s_*."""
    torch.manual_seed(0)
    model = PrototypicalNetwork(dense(*sizes), nudge="inside").double()
    x, _ = batch()
    state = free_phase(model, x, **STEPS).state
    with torch.no_grad():
        fields = model.field(model.drive(x), state)
    slopes = [SCALED_SIGMOID.derivative(field, SCALED_SIGMOID(field)) for field in fields]
    betas, of_parameters, of_states = [1e-3, 1e-4, 1e-5], [], []
    for beta in betas:
        ep, bptt = processes(model, beta)
        through = replace(
            bptt, states=tuple(g * d for g, d in zip(bptt.states, slopes, strict=True))
        )
        found = compare(ep, through)
        of_parameters.append(found.parameters.overall.relative_error)
        of_states.append(found.states.overall.relative_error)
    assert slope(betas, of_parameters) == pytest.approx(1, abs=0.05)
    assert slope(betas, of_states) == pytest.approx(1, abs=0.05)
    # Outside it does not.
    model.nudge_place = "outside"
    assert compare(*processes(model, 1e-5)).parameters.overall.relative_error > 0.1


@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        (ToyModel, "exact", "exact, F = ∂Φ/∂s"),
        (UserPhi, "exact", "exact, F = ∂Φ/∂s"),
        (UserEnergy, "exact", "exact, F = ∂Φ/∂s"),
        (UserField, "vector field", "vector field, F = f(s) from no Φ"),
        (lambda: real_time("tanh", None), "exact", "exact, F = ∂Φ/∂s"),
        (lambda: real_time("tanh"), "exact", "exact but for its clip, F = clip(∂Φ/∂s)"),
        (
            lambda: PrototypicalNetwork(dense(6, 3)),
            "approximate",
            "approximate (prototypical), F = ρ(∂Φ/∂s)",
        ),
        (
            lambda: PrototypicalNetwork(dense(6, 3), nudge="inside"),
            "approximate",
            "approximate (prototypical), F = ρ(∂Φ/∂s), nudged inside of ρ",
        ),
        (
            lambda: RealTimeNetwork(untied(dense(6, 4, 3), 180), "tanh", updates="alternating"),
            "vector field",
            "vector field, F = f(s) from no Φ, weights 180° apart, layers updated in turn",
        ),
    ],
    ids=[
        "toy",
        "phi",
        "energy",
        "field",
        "real-time",
        "clipped",
        "prototypical",
        "inside",
        "untied",
    ],
)
def test_a_model_is_said_to_be_what_it_is(make: Any, name: str, said: str) -> None:
    kind = model_kind(make())
    assert (kind.name, kind.said) == (name, said)


def test_of_a_model_that_steps_by_itself_nothing_is_known_but_f() -> None:
    class Leaky(UserPhi):
        def step(self, drive: Any, state: State, force: Tensor | None = None) -> State:
            return tuple(0.9 * layer for layer in super().step(drive, state, force))

    assert model_kind(Leaky()).name == "vector field"
    assert model_kind(UserPhi()).name == "exact"


def test_what_is_expected_of_an_exact_model_is_of_first_or_second_order() -> None:
    kind = model_kind(ToyModel())
    assert kind.expected() == "the error falls in proportion to β"
    assert kind.expected(2) == "the error falls in proportion to β²"


def test_what_is_expected_of_a_nudge_inside_is_said_of_parameters() -> None:
    kind = model_kind(PrototypicalNetwork(dense(6, 3), nudge="inside"))
    assert kind.expected().startswith("the error falls in proportion to β in parameters")
