"""Settling, against slow references and what the mathematics says of contractions."""

import gc
import math
import weakref
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from eqprop.core.costs import SquaredError
from eqprop.core.models import ConvergentModel, State, VectorFieldModel
from eqprop.core.nudging import Nudge, Nudging
from eqprop.core.phases import nudged_phase, relax
from eqprop.core.settling import Relaxation, two_cycles
from eqprop.core.stepping import NonFiniteError, trajectory
from eqprop.estimators.bptt import BPTT
from eqprop.estimators.continual import ContinualEP
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.estimator import Estimator
from eqprop.estimators.recurrent_backprop import RecurrentBackprop
from eqprop.networks.connections.chains import dense, untied
from eqprop.networks.connections.conv_pool import ConvPool
from eqprop.networks.connections.dense import Dense
from eqprop.networks.layered import LayeredNetwork, Updates
from eqprop.networks.prototypical import PrototypicalNetwork
from measuring import peak_states, slope
from zoo import EXACT, Batch, Contracting, UserField, UserPhi, chains, to_and_fro

SAMPLES, LONGEST, BETA = 8, 120, 0.3


# Alone or in any company

MODELS: dict[str, Callable[[], Any]] = {
    **EXACT,
    "field": UserField,
    "alternating prototypical": lambda: PrototypicalNetwork(
        dense(4, 6, 5, 3), "tanh", updates="alternating"
    ),
    "untied": lambda: PrototypicalNetwork(untied(dense(4, 6, 3), 45.0)),
}
NUDGES = ["none", "divisible", "of one's own"]


class Alone(NamedTuple):
    """Samples and, for each by itself, all of its states and how far every step went."""

    model: ConvergentModel
    x: Tensor
    target: Tensor
    start: State
    paths: list[list[State]]
    moved: list[list[float]]

    def limits(self, of: int, tolerance: float, ahead: bool) -> list[float]:
        """What a sample may move by in every step: ε · tolerance, and of what a nudge will do."""
        pulls = [
            self.model.pull_back(s, self.model.prediction(s) - self.target[of])
            for s in self.paths[of][1:]
        ]
        missed = [float(pull.abs().max()) for pull in pulls]
        effects = [0.1 * min(1.0, BETA * max(0.01, e)) if ahead else 1.0 for e in missed]
        return [tolerance * self.model.epsilon * effect for effect in effects]


@cache
def alone(name: str, nudged: bool) -> Alone:
    """Samples that start at distances 1, 1/10, 1/100, … and so come to rest one after another."""
    torch.manual_seed(1)
    model = MODELS[name]().double()
    x = torch.randn(SAMPLES, 4, dtype=torch.float64)
    target = torch.rand(SAMPLES, 3, dtype=torch.float64)
    with torch.no_grad():
        nudge = Nudge(SquaredError(), target, BETA) if nudged else None
        start = relax(model, x, 200, nudge=nudge).state
        away = torch.logspace(0, 1 - SAMPLES, SAMPLES, dtype=torch.float64)
        start = tuple(s + away.view(-1, *[1] * (s.dim() - 1)) * torch.rand_like(s) for s in start)
        paths, moved = [], []
        for of in range(SAMPLES):
            path = [tuple(s[of : of + 1] for s in start)]
            for _ in range(LONGEST):
                s = path[-1]
                missed = model.prediction(s) - target[of : of + 1]
                force = -BETA * model.pull_back(s, missed) if nudged else None
                path.append(model.step(model.drive(x[of : of + 1]), s, force))
            paths.append(path)
            moved.append(
                [
                    max(float((a - b).abs().max()) for b, a in zip(*two, strict=True))
                    for two in pairwise(path)
                ]
            )
    return Alone(model, x, target, start, paths, moved)


def end(moved: list[float], limits: list[float], most: int, least: int, check_every: int) -> int:
    """The first check, after ``least`` steps or more, at which the sample rests; or the last."""
    for taken in range(1, most):
        rests = moved[taken - 1] <= limits[taken - 1]
        if taken >= least and taken % check_every == 0 and rests:
            return taken
    return most


@given(
    st.sampled_from(list(MODELS)),
    st.lists(st.integers(0, SAMPLES - 1), min_size=1, max_size=2 * SAMPLES),
    st.sampled_from(NUDGES),
    st.sampled_from([1e-1, 1e-5, 1e-9, 0.0]),
    st.integers(1, LONGEST),
    st.integers(1, 12),
    st.integers(1, 7),
    st.booleans(),
)
@settings(max_examples=200)
def test_alone_or_in_any_company_a_sample_ends_at_the_first_check_at_which_it_rests(
    name: str,
    order: list[int],
    nudge: str,
    tolerance: float,
    most: int,
    least: int,
    check_every: int,
    ahead: bool,
) -> None:
    known = alone(name, nudge != "none")
    model, target = known.model, known.target[order]
    limits = [known.limits(of, tolerance, ahead) for of in range(SAMPLES)]
    expected = [end(known.moved[of], limits[of], most, least, check_every) for of in order]
    # What rounding may decide proves nothing: in a batch, products are summed in another order.
    assume(
        not any(
            abs(known.moved[of][taken] - limits[of][taken]) < 1e-13
            for of in set(order)
            for taken in range(most)
        )
    )
    force: dict[str, Any] = {
        "none": None,
        "divisible": Nudge(SquaredError(), target, BETA),
        "of one's own": lambda state: (
            -BETA * model.pull_back(state, model.prediction(state) - target)
        ),
    }
    found = relax(
        model,
        known.x[order],
        most,
        state=tuple(s[order] for s in known.start),
        nudge=force[nudge],
        tolerance=tolerance,
        ahead=Nudge(SquaredError(), target, BETA) if ahead else None,
        least=least,
        check_every=check_every,
    )
    assert found.steps.tolist() == expected
    limit, moved = (
        torch.tensor(
            [each[of][taken - 1] for of, taken in zip(order, expected, strict=True)],
            dtype=torch.float64,
        )
        for each in (limits, known.moved)
    )
    torch.testing.assert_close(found.limit, limit, rtol=1e-6, atol=1e-13)
    assert found.rests().tolist() == (moved <= limit).tolist()
    torch.testing.assert_close(found.moved.amax(1), moved, rtol=0, atol=1e-12)
    for index, (of, taken) in enumerate(zip(order, expected, strict=True)):
        for layer, own in zip(found.state, known.paths[of][taken], strict=True):
            torch.testing.assert_close(layer[index], own[0], rtol=0, atol=1e-12)


def sizes_of_batches(model: ConvergentModel, run: Callable[[], Any]) -> list[int]:
    """How many samples took part in every step."""
    sizes: list[int] = []
    true_step = model.step

    def step(drive: Any, state: State, force: Tensor | None = None) -> State:
        sizes.append(len(state[0]))
        return true_step(drive, state, force)

    model.step = step
    try:
        run()
    finally:
        del model.step
    return sizes


@pytest.mark.parametrize("nudged", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_samples_that_rest_leave_several_times_over(name: str, nudged: bool) -> None:
    """So that the claim above is one of batches that shrink."""
    known = alone(name, nudged)
    nudge = Nudge(SquaredError(), known.target, BETA) if nudged else None

    def run() -> Relaxation:
        return relax(known.model, known.x, LONGEST, state=known.start, nudge=nudge, tolerance=1e-7)

    sizes = sizes_of_batches(known.model, run)
    assert sizes == sorted(sizes, reverse=True)
    # A model that brings all to rest at once, whatever they begin with, has nothing to shrink for.
    steps = run().steps
    assert len(set(sizes)) >= (3 if len(steps.unique()) > 3 else 1)
    # Never twice the work that is needed, but for what lies between two checks.
    assert sum(sizes) <= 2 * (steps.sum() + 2 * SAMPLES)


def test_under_a_nudge_that_cannot_be_divided_none_leaves() -> None:
    known = alone("layered", True)

    def pull(state: State) -> Tensor:
        return -BETA * (state[-1] - known.target)

    found = relax(known.model, known.x, LONGEST, state=known.start, nudge=pull, tolerance=1e-5)
    sizes = sizes_of_batches(
        known.model,
        lambda: relax(known.model, known.x, LONGEST, state=known.start, nudge=pull, tolerance=1e-5),
    )
    assert sizes == [SAMPLES] * int(found.steps.max())
    assert found.steps.min() < found.steps.max()


# How far from the steady state

RATES = st.one_of(st.floats(-0.95, 0.95), st.just(0.0))


@given(st.lists(RATES, min_size=1, max_size=12), st.floats(1e-10, 1e-1), st.integers(1, 5))
def test_a_contraction_of_known_rate_ends_as_near_as_its_tolerance_promises(
    rates: list[float], tolerance: float, check_every: int
) -> None:
    """|s_t − s_*| = |λ|/|1 − λ| · |s_t − s_{t−1}|."""
    rate = torch.tensor(rates, dtype=torch.float64).view(-1, 1)
    goal = torch.linspace(-1, 1, 3 * len(rates), dtype=torch.float64).view(-1, 3)
    found = relax(
        Contracting(),
        torch.cat((rate, goal), 1),
        3000,
        tolerance=tolerance,
        check_every=check_every,
    )
    assert found.rests().all()
    left = (torch.cat(found.state, 1) - goal).abs().amax(1)
    share = (rate.abs() / (1 - rate)).flatten()
    assert (left <= tolerance * share + 1e-14).all()
    torch.testing.assert_close(left, share * found.moved.amax(1), rtol=1e-4, atol=1e-14)
    # Nor did it go on for longer than it must: some steps before, it did still move.
    early = found.steps - check_every
    before = (1 - rate).flatten() * rate.abs().flatten() ** (early - 1) * goal.abs().amax(1)
    assert ((before > tolerance * (1 - 1e-6)) | (early < 1)).all()


@pytest.mark.parametrize("updates", get_args(Updates))
@pytest.mark.parametrize("most_per_unit", [0.3, 0.9])
def test_a_network_whose_rows_sum_to_less_than_one_ends_as_near(
    most_per_unit: float, updates: Updates, batch: Batch
) -> None:
    """tanh has slopes of at most 1: in the largest norm a step contracts by the largest row."""
    torch.manual_seed(0)
    model = PrototypicalNetwork(dense(4, 6, 5, 3), "tanh", updates=updates).double()
    first, *others = (c.get_parameter("weight") for c in model.chain)
    with torch.no_grad():
        pull = [torch.zeros(n, dtype=torch.float64) for n in (6, 5, 3)]
        for index, weight in enumerate(others):
            pull[index] += weight.abs().sum(0)
            pull[index + 1] += weight.abs().sum(1)
        for weight in others:
            weight.mul_(most_per_unit / torch.cat(pull).max())
        assert first.abs().max() > 0
        truth = relax(model, batch[0], 2000).state
    for tolerance in (1e-2, 1e-5, 1e-9):
        found = relax(model, batch[0], 2000, tolerance=tolerance)
        left = max(float((a - b).abs().max()) for a, b in zip(found.state, truth, strict=True))
        assert found.rests().all()
        assert left <= tolerance * most_per_unit / (1 - most_per_unit) + 1e-14


# What it means for gradients


def estimate(model: ConvergentModel, batch: Batch, estimator: Estimator) -> Tensor:
    model.zero_grad()
    estimator(model, *batch)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def relative_error(found: Tensor, truth: Tensor) -> float:
    return ((found - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("nudging", ["one-sided", "symmetric"])
def test_the_error_of_the_gradient_falls_with_the_tolerance_in_proportion(
    exact: ConvergentModel, batch: Batch, nudging: Nudging
) -> None:
    truth = estimate(exact, batch, EquilibriumPropagation(600, 600, 0.1, nudging))
    tolerances = [10 ** (-power / 2) for power in range(8, 19)]
    errors = [
        relative_error(
            estimate(exact, batch, EquilibriumPropagation(600, 600, 0.1, nudging, tolerance)), truth
        )
        for tolerance in tolerances
    ]
    assert slope(tolerances, errors) == pytest.approx(1, abs=0.12)


def one_sided(model: ConvergentModel) -> Estimator:
    return EquilibriumPropagation(2000, 1, 0.1, tolerance=1e-2)


def continual(model: ConvergentModel) -> Estimator:
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    return ContinualEP(still, 2000, 1, 0.1, tolerance=1e-2)


@pytest.mark.parametrize("estimator", [one_sided, continual])
def test_what_is_left_of_a_free_phase_is_small_against_what_the_nudge_does_however_little(
    exact: ConvergentModel, batch: Batch, estimator: Callable[[ConvergentModel], Estimator]
) -> None:
    """A nudge does less the nearer an output is to its target; both are in the difference."""
    x, _ = batch
    with torch.no_grad():
        free = relax(exact, x, 2000, tolerance=1e-14).state
    output = exact.prediction(free)
    away = torch.randn_like(output)
    misses = [1.0, 0.3, 0.1, 0.03]
    shares = []
    for miss in misses:
        target = output + miss * away / away.abs().amax(1, keepdim=True)
        with torch.no_grad():
            nudge = Nudge(SquaredError(), target, 0.1)
            nudged = nudged_phase(exact, x, 2000, nudge, free, tolerance=1e-12).state
        found = estimator(exact)(exact, x, target).free.state
        left, done = (
            torch.cat([(a - b).flatten() for a, b in zip(state, free, strict=True)]).norm()
            for state in (found, nudged)
        )
        shares.append(float(left / done))
    assert max(shares) < 0.1
    assert abs(slope(misses, shares)) < 0.3


@pytest.mark.parametrize(
    "estimator",
    [
        EquilibriumPropagation(2000, 2000, 1e-4, tolerance=1e-10),
        EquilibriumPropagation(2000, 2000, 1e-2, "symmetric", tolerance=1e-8),
        BPTT(2000, 150, tolerance=1e-8),
        RecurrentBackprop(2000, tolerance=1e-8),
    ],
    ids=lambda e: f"{type(e).__name__}-{getattr(e, 'nudging', '')}",
)
def test_settled_all_estimators_agree(
    exact: ConvergentModel, batch: Batch, estimator: Estimator
) -> None:
    truth = estimate(exact, batch, RecurrentBackprop(1000, adjoint_tolerance=1e-13))
    assert relative_error(estimate(exact, batch, estimator), truth) < 1e-3


def test_settled_continual_ep_comes_to_the_gradient_as_eta_vanishes(
    exact: ConvergentModel, batch: Batch
) -> None:
    truth = estimate(exact, batch, RecurrentBackprop(1000, adjoint_tolerance=1e-13))
    eta, before = 1e-8, torch.nn.utils.parameters_to_vector(exact.parameters()).detach().clone()
    optimizer = torch.optim.SGD(exact.parameters(), lr=eta)
    ContinualEP(optimizer, 2000, 150, 1e-4, tolerance=1e-10)(exact, *batch)
    after = torch.nn.utils.parameters_to_vector(exact.parameters()).detach()
    assert relative_error((before - after) / eta, truth) < 1e-2


def test_settled_a_vector_field_agrees_with_its_phi(batch: Batch) -> None:
    torch.manual_seed(4)
    primitive, field = UserPhi().double(), UserField().double()
    field.load_state_dict(primitive.state_dict())
    truth = estimate(primitive, batch, RecurrentBackprop(1000, adjoint_tolerance=1e-13))
    found = estimate(field, batch, EquilibriumPropagation(2000, 2000, 1e-4, tolerance=1e-10))
    assert relative_error(found, truth) < 1e-3


def test_the_second_of_two_opposite_nudges_begins_at_the_mirror_image_of_the_first(
    exact: ConvergentModel, batch: Batch
) -> None:
    """The same states, but for the tolerance, and sooner."""
    x, y = batch
    beta, tolerance = 0.01, 1e-7
    estimator = EquilibriumPropagation(1000, 1000, beta, "symmetric", tolerance)
    found = estimator(exact, x, y)
    with torch.no_grad():
        from_free = [
            nudged_phase(
                exact, x, 1000, Nudge(SquaredError(), y, b), found.free.state, tolerance=tolerance
            )
            for b in (-beta, beta)
        ]
    assert torch.equal(found.nudged[0].steps, from_free[0].steps)
    assert (found.nudged[1].steps <= from_free[1].steps).all()
    assert found.nudged[1].steps.sum() < from_free[1].steps.sum()
    for ours, theirs in zip(found.nudged[1].state, from_free[1].state, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=100 * tolerance * beta)


@pytest.mark.parametrize("updates", get_args(Updates))
@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5])
def test_no_sample_rests_before_the_nudge_has_come_to_every_layer(
    layers: int, updates: Updates, batch: Batch
) -> None:
    """A nudge goes down by a layer a step, or by two where they move in turn."""
    torch.manual_seed(0)
    model = PrototypicalNetwork(dense(4, *[5] * (layers - 1), 3), "tanh", updates=updates).double()
    x, y = batch
    nudge = Nudge(SquaredError(), y, 0.1)
    with torch.no_grad():
        free = relax(model, x, 500).state
    found = nudged_phase(model, x, 500, nudge, free, tolerance=1e3, check_every=1)
    for nudged, at in zip(found.state, free, strict=True):
        assert ((nudged - at).flatten(1).abs().amax(1) > 1e-9).all()
    assert (found.steps <= (layers if updates == "synchronous" else layers // 2 + 1)).all()


# Energies that do not rise, and states that go to and fro


def hopfield_energy(model: LayeredNetwork, x: Tensor, state: State) -> Tensor:
    """Σ G(s) − coupling with G′ = ρ⁻¹: of ρ(c), the minimum of G(s) − s c."""
    assert model.activation is not None
    log = torch.xlogy
    integral: dict[str, Callable[[Tensor], Tensor]] = {
        "hard-sigmoid": lambda s: 0.5 * s.square(),
        # ρ⁻¹(s) = ½ + ¼ ln(s / (1 − s))
        "scaled-sigmoid": lambda s: 0.5 * s + 0.25 * (log(s, s) + log(1 - s, 1 - s)),
        # ρ⁻¹(s) = ½ ln((1 + s) / (1 − s))
        "tanh": lambda s: 0.5 * (log(1 + s, 1 + s) + log(1 - s, 1 - s)),
    }
    inner = torch.stack([integral[model.activation.name](s).flatten(1).sum(1) for s in state])
    return inner.sum(0) - model.coupling(x, state)


@given(
    chains(),
    st.sampled_from(["hard-sigmoid", "scaled-sigmoid"]),
    st.floats(0.1, 30),
    st.integers(0, 10**6),
)
@settings(max_examples=100)
def test_alternating_updates_never_raise_the_energy(
    drawn: tuple, rho: str, strength: float, seed: int
) -> None:
    """Convolutions with max-pooling, and dense layers, however strong their weights."""
    shape, connections = drawn
    never_rises(PrototypicalNetwork(connections, rho, updates="alternating"), shape, strength, seed)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=5), st.floats(0.1, 30), st.integers(0, 99))
def test_alternating_updates_never_raise_the_energy_of_signed_states(
    sizes: list[int], strength: float, seed: int
) -> None:
    torch.manual_seed(seed)
    network = PrototypicalNetwork(dense(*sizes), "tanh", updates="alternating")
    never_rises(network, (sizes[0],), strength, seed)


@torch.no_grad()
def never_rises(
    network: PrototypicalNetwork, shape: tuple[int, ...], strength: float, seed: int
) -> None:
    torch.manual_seed(seed)
    model = network.double()
    for p in model.parameters():
        p.mul_(strength)
    x = torch.randn(4, *shape, dtype=torch.float64)
    energies = torch.stack([hopfield_energy(model, x, s) for s in trajectory(model, x, 12)])
    scale = 1 + energies.abs().max()
    assert (energies.diff(dim=0) <= 1e-12 * scale).all()


@torch.no_grad()
def test_updates_at_once_may_raise_the_energy_and_never_settle() -> None:
    """E = ½h² + ½o² − h − o + 2 h o: 0 at (0, 0), 1 at (1, 1)."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    model = to_and_fro()
    path = trajectory(model, x, 3)
    assert [(h.item(), o.item()) for h, o in path] == [(0, 0), (1, 1), (0, 0), (1, 1)]
    assert [hopfield_energy(model, x, s).item() for s in path] == [0, 1, 0, 1]
    assert not relax(model, x, 100, tolerance=1e-3).rests()
    in_turn = relax(to_and_fro("alternating"), x, 100, tolerance=1e-3)
    assert in_turn.rests()
    assert [s.item() for s in in_turn.state] == [0, 1]


def test_a_two_cycle_is_named_and_neither_rest_nor_slowness() -> None:
    # |s_{t+2} − s_t| = |1 + λ| |s_{t+1} − s_t|: at most half of it from λ = −1 to −½.
    rates = [-1.0, -0.9, -0.6, -0.4, 0.5, 0.999, 0.0]
    expected = [True, True, True, False, False, False, False]
    x = torch.tensor([[rate, 1.0, 2.0, 3.0] for rate in rates], dtype=torch.float64)
    model = Contracting()
    # One step from 0: λ is left, so that whatever does not rest still moves.
    relaxed = relax(model, x, 1)
    assert two_cycles(model, x, relaxed, 1e-6).tolist() == expected
    # At rest, none goes to and fro; and of −0.6, −0.9 but for the tolerance, only −1 is left.
    relaxed = relax(model, x, 400, tolerance=1e-9)
    assert two_cycles(model, x, relaxed, 1e-9).tolist() == [True] + [False] * 6
    assert relaxed.rests().tolist() == [False, True, True, True, True, False, True]


def test_what_only_rounding_moves_to_and_fro_is_no_two_cycle() -> None:
    # λ = −1: a state that misses the fixed point by δ moves by 2δ, there and back.
    x = torch.tensor([[-1.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    for delta, expected in ((1e-15, False), (1e-12, True)):
        state = x[:, 1:3] * (1 + delta), x[:, 3:] * (1 + delta)
        there = Relaxation(state, torch.ones(1), torch.zeros(1, 2))
        assert two_cycles(Contracting(), x, there, 0.0).tolist() == [expected]


def test_a_network_that_goes_to_and_fro_under_a_nudge_is_named() -> None:
    model, x = to_and_fro(), torch.zeros(2, 1, dtype=torch.float64)
    drive = model.drive(x)
    with torch.no_grad():
        free = relax(model, x, 51, tolerance=1e-3)
        assert two_cycles(model, drive, free, 1e-3).tolist() == [True, True]
        # h and o agree from the beginning; pulled to ½ with all strength, o stays in between.
        nudge = Nudge(SquaredError(), torch.full((2, 1), 0.5, dtype=torch.float64), 1.0)
        nudged = nudged_phase(model, x, 51, nudge, free.state, tolerance=1e-3)
        expected = [
            bool(value)
            for value in _returns(model, drive, nudged.state, nudge) & ~nudged.rests(1e-3)
        ]
        assert two_cycles(model, drive, nudged, 1e-3, nudge).tolist() == expected
        in_turn = to_and_fro("alternating")
        settled = relax(in_turn, x, 50, tolerance=1e-3)
        assert two_cycles(in_turn, drive, settled, 1e-3).tolist() == [False, False]


def _returns(model: ConvergentModel, drive: Any, state: State, nudge: Nudge) -> Tensor:
    once = model.step(drive, state, nudge(state))
    twice = model.step(drive, once, nudge(once))
    away, back = (
        torch.cat([(a - b).flatten(1) for a, b in zip(end, state, strict=True)], 1).abs().amax(1)
        for end in (once, twice)
    )
    return back <= away / 2


# Memory, and whose it is


@pytest.mark.parametrize("nudging", ["one-sided", "symmetric"])
def test_memory_does_not_grow_with_the_steps_that_are_taken(nudging: Nudging) -> None:
    x = torch.tensor([[0.99, 1.0, 1.0, 1.0], [0.5, 1.0, 1.0, 1.0]])

    def peak(most: int, estimator: Callable[[int], Estimator]) -> int:
        model = Contracting()
        return peak_states(model, lambda: estimator(most)(model, x, torch.ones(2, 1)))

    def ep(most: int) -> Estimator:
        return EquilibriumPropagation(most, most, 0.005, nudging, 1e-6)

    assert peak(40, ep) == peak(400, ep) < 9


def test_memory_of_backpropagation_through_time_grows_by_one_state_a_step(batch: Batch) -> None:
    """Of those that it differentiates; the steps in which it settles cost nothing."""
    torch.manual_seed(0)

    def peak(most: int, truncation: int | None) -> int:
        model = UserPhi().double()
        estimator = BPTT(most, truncation, tolerance=0.0)
        return peak_states(model, lambda: estimator(model, *batch))

    assert peak(60, None) - peak(20, None) == 40
    assert peak(60, 10) == peak(30, 10) < peak(60, 20)


class Resting(VectorFieldModel):
    """s ← s: gives back what it was given."""

    def __init__(self) -> None:
        super().__init__([5, 3])

    def field(self, drive: Tensor, state: State) -> State:
        return state


def linear() -> LayeredNetwork:
    """Its state is its drive."""
    return PrototypicalNetwork(dense(4, 3), lambda s: s).double()


@pytest.mark.parametrize("make", [*MODELS.values(), Resting, linear], ids=[*MODELS, "rest", "lin"])
def test_nothing_of_the_callers_is_changed(make: Callable[[], Any], batch: Batch) -> None:
    torch.manual_seed(0)
    model = make().double()
    x, y = batch
    # As samples rest at different times, some of the batch are kept while others go on.
    with torch.no_grad():
        away = torch.logspace(0, -6, 7, dtype=torch.float64)
        state = tuple(
            s + away.view(-1, *[1] * (s.dim() - 1)) * torch.rand_like(s)
            for s in relax(model, x, 100).state
        )
    drive = model.drive(x).detach().clone()
    theirs = [x, y, drive, *state, *model.parameters()]
    before = [t.detach().clone() for t in theirs]
    for nudge in (None, Nudge(SquaredError(), y, 0.2)):
        relaxed = relax(
            model, x, 60, state=state, drive=drive, nudge=nudge, tolerance=1e-7, least=2
        )
        two_cycles(model, drive, relaxed, 1e-7, nudge)
    EquilibriumPropagation(60, 60, 0.2, "symmetric", 1e-7)(model, x, y)
    assert all(torch.equal(a, b) for a, b in zip(theirs, before, strict=True))


@pytest.mark.parametrize("make", [*MODELS.values(), Resting, linear], ids=[*MODELS, "rest", "lin"])
def test_no_graph_hangs_on_what_has_settled(make: Callable[[], Any], batch: Batch) -> None:
    torch.manual_seed(0)
    model = make().double()
    x, _ = batch
    start = tuple(s.requires_grad_() for s in model.initial_state(x))
    with torch.enable_grad():
        found = relax(model, x, 9, state=start, tolerance=1e-3)
    for tensor in (*found.state, found.moved):
        assert not tensor.requires_grad
        assert tensor.grad_fn is None


def test_of_a_relaxation_only_its_last_states_live_on() -> None:
    known = alone("layered", False)
    model, seen = known.model, list[weakref.ref]()
    true_step = model.step

    def step(*arguments: Any) -> State:
        state = true_step(*arguments)
        seen.extend(weakref.ref(layer) for layer in state)
        return state

    model.step = step  # pyright: ignore[reportAttributeAccessIssue]
    try:
        found = relax(model, known.x, LONGEST, state=known.start, tolerance=1e-7)
    finally:
        del model.step
    gc.collect()
    assert sum(reference() is not None for reference in seen) <= len(found.state)


# What goes wrong


class Exploding(VectorFieldModel):
    """s ← λ s + 1: at a large λ beyond all numbers soon."""

    def __init__(self) -> None:
        super().__init__([1, 1])

    def field(self, drive: Tensor, state: State) -> State:
        return tuple(drive * s + 1 for s in state)


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.7, 0.9]), max_size=8),
    st.floats(10.0, 1e200),
    st.integers(0, 8),
    st.integers(1, 6),
)
def test_the_step_in_which_a_sample_stopped_being_finite_is_named_whoever_has_left(
    rates: list[float], rate: float, at: int, check_every: int
) -> None:
    value, step = 0.0, 0
    while math.isfinite(value):
        value, step = rate * value + 1, step + 1
    x = torch.tensor([*rates[:at], rate, *rates[at:]], dtype=torch.float64).view(-1, 1)
    with pytest.raises(
        NonFiniteError, match=f"hidden layer 1 .* in the free phase at step {step} of 400;"
    ):
        relax(Exploding(), x, 400, tolerance=1e-3, check_every=check_every)


def test_a_tolerance_where_parameters_move_is_refused(batch: Batch) -> None:
    x, y = batch
    model = UserPhi().double()
    with pytest.raises(ValueError, match="tolerance: expected none where parameters are updated"):
        relax(model, x, 9, tolerance=0.1, update=lambda *_: x)
    nudge = Nudge(SquaredError(), y, 0.1)
    with pytest.raises(ValueError, match="tolerance: expected none where parameters are updated"):
        nudged_phase(model, x, 9, nudge, model.initial_state(x), tolerance=0.1, update=lambda *_: x)


# At the edges


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_all_may_rest_at_once_or_none(samples: int) -> None:
    x = torch.tensor([[0.5, 1.0, 1.0, 1.0]]).expand(samples, 4)
    found = relax(Contracting(), x, 50, tolerance=2**-6)
    # Step t moves by 2^-t.
    assert found.steps.tolist() == [6] * samples
    none = relax(Contracting(), x, 5, tolerance=2**-6)
    assert none.steps.tolist() == [5] * samples
    assert none.rests().tolist() == [False] * samples


@pytest.mark.parametrize("least", [1, 3, 9])
@pytest.mark.parametrize("check_every", [1, 2, 7, 100])
def test_the_last_step_is_looked_at_whatever_the_checks(check_every: int, least: int) -> None:
    x = torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.5, 1.0, 1.0, 1.0]])
    found = relax(Contracting(), x, 5, tolerance=1e-9, least=least, check_every=check_every)
    first = next((t for t in range(2, 5) if t >= least and t % check_every == 0), 5)
    assert found.steps.tolist() == [first, 5]
    assert found.rests().tolist() == [True, False]


def test_a_batch_of_no_samples_settles() -> None:
    found = relax(Contracting(), torch.zeros(0, 4), 5, tolerance=1e-3)
    assert [layer.shape for layer in found.state] == [(0, 2), (0, 1)]
    assert found.steps.shape == found.rests().shape == (0,)


@torch.no_grad()
def test_images_whose_channels_lie_last_settle_to_the_same() -> None:
    torch.manual_seed(0)
    first = ConvPool((2, 8, 8), 3, kernel=3, padding=1, pool=2)
    model = PrototypicalNetwork([first, Dense(first.upper_shape, 3)], "hard-sigmoid").double()
    x = torch.rand(6, 2, 8, 8, dtype=torch.float64) * torch.logspace(0, 1, 6).view(-1, 1, 1, 1)
    plain = tuple(torch.rand_like(s) for s in model.initial_state(x))
    found = [
        relax(
            model,
            x.contiguous(memory_format=order),
            200,
            state=(plain[0].contiguous(memory_format=order), plain[1]),
            tolerance=1e-9,
        )
        for order in (torch.contiguous_format, torch.channels_last)
    ]
    assert torch.equal(found[0].steps, found[1].steps)
    for one, other in zip(found[0].state, found[1].state, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("nudging", ["one-sided", "random-sign"])
def test_a_weak_one_sided_nudge_does_not_magnify_what_is_left_of_the_free_phase(
    nudging: Literal["one-sided", "random-sign"],
) -> None:
    """The free phase counts 1/β times: settled to tolerance · β, its share does not depend on β."""
    torch.manual_seed(0)
    model = PrototypicalNetwork(dense(4, 6, 5, 3)).double()
    x, target = torch.randn(7, 4).double(), torch.rand(7, 3).double()
    errors = []
    for beta in (1e-1, 1e-3):
        found = []
        for tolerance in (1e-13, 1e-4):
            model.zero_grad()
            generator = torch.Generator().manual_seed(0)
            estimator = EquilibriumPropagation(500, 500, beta, nudging, tolerance)
            estimator(model, x, target, generator)
            found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # pyright: ignore
        errors.append(float((found[1] - found[0]).norm() / found[0].norm()))
    assert errors[1] < 3 * errors[0]
