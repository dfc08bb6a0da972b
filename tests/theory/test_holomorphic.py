"""Holomorphic EP: exact at a β that is not small, by Cauchy's formula."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import eqprop
from eqprop.analysis.agreement import compare
from eqprop.analysis.processes import bptt_process, ep_process, points_of
from eqprop.core.activations import as_activation
from eqprop.core.costs import CrossEntropy, SquaredError
from eqprop.core.derivative import derivative
from eqprop.core.models import ConvergentModel
from eqprop.estimators.asymmetric import AsymEP
from eqprop.estimators.bptt import BPTT
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.estimator import Estimate
from eqprop.estimators.holomorphic import HolomorphicEP, NotHolomorphicError, circle
from fields import gradient
from zoo import UserField, UserPhi

T, K = 500, 150


def real_time(**others: Any) -> ConvergentModel:
    return eqprop.RealTimeNetwork(eqprop.dense(6, 5, 4, 3), "tanh", epsilon=0.3, **others)


MODELS: dict[str, Callable[[], ConvergentModel]] = {
    "real time": real_time,
    "in turn": lambda: real_time(updates="alternating"),
    "by Newton's steps": lambda: real_time(updates="newton"),
    "scaled sigmoid": lambda: eqprop.RealTimeNetwork(eqprop.dense(6, 5, 4, 3), epsilon=0.3),
    "inside": lambda: eqprop.PrototypicalNetwork(eqprop.dense(6, 5, 4, 3), "tanh", nudge="inside"),
    "convolutional": lambda: eqprop.PrototypicalNetwork(
        eqprop.convolutional((1, 7, 6), (2,), 3, kernel=2, pool=2, pooling="average"),
        "tanh",
        nudge="inside",
    ),
    "readout": lambda: eqprop.RealTimeNetwork(
        eqprop.dense(6, 5, 4), "tanh", epsilon=0.3, readout=nn.Linear(4, 3)
    ),
    "a Φ of one's own": UserPhi,
    "a field of one's own": UserField,
}
every_model = pytest.mark.parametrize("name", MODELS)


def made(name: str) -> tuple[ConvergentModel, Tensor, Tensor]:
    torch.manual_seed(0)
    model = MODELS[name]().double()
    inputs = {"convolutional": (1, 7, 6)}.get(name, (4,) if "own" in name else (6,))
    return model, torch.rand(5, *inputs).double(), torch.rand(5, 3).double()


def errors(name: str, at: list[tuple[float, int]]) -> list[float]:
    """Of each (β, N), relative to the gradient of BPTT."""
    model, x, y = made(name)
    wanted = gradient(model, x, y, BPTT(T, K))
    found = [gradient(model, x, y, HolomorphicEP(T, K, beta, points)) for beta, points in at]
    return [((g - wanted).norm() / wanted.norm()).item() for g in found]


@every_model
def test_the_error_falls_exponentially_in_the_number_of_points(name: str) -> None:
    found = errors(name, [(0.02, points) for points in (2, 4, 6)])
    # As (β/R)^N does, R where the steady state is holomorphic no more: by (R/β)² of each two more.
    assert all(large > 100 * small for large, small in pairwise(found))


@pytest.mark.parametrize("points", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("name", ["real time", "inside", "a Φ of one's own"])
def test_the_error_is_of_the_order_of_beta_to_the_number_of_points(name: str, points: int) -> None:
    large, small = errors(name, [(0.1, points), (0.05, points)])
    assert math.log2(large / small) == pytest.approx(points, abs=0.5)


# Theorem 1

STEPS: dict[str, Any] = {"free_steps": T, "nudged_steps": 12}


@pytest.mark.parametrize("points", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["real time", "scaled sigmoid", "readout", "a Φ of one's own"])
def test_at_every_step_the_error_is_of_that_order_too(name: str, points: int) -> None:
    """As every state of the nudged phase is a holomorphic function of β, not only the last."""
    model, x, y = made(name)
    bptt = bptt_process(model, x, y, **STEPS)
    # The more points, the larger: the least errors are to be above rounding.
    at = 0.05 * points
    large, small = (
        compare(ep_process(model, x, y, beta=beta, nudging=points, **STEPS), bptt)
        for beta in (at, at / 2)
    )
    for what in ("states", "parameters"):
        of, half = getattr(large, what).at, getattr(small, what).at
        # What the force itself does is linear in it, as is what a Φ may make of that.
        for t in range(2, 12):
            order = math.log2(of[t].relative_error / half[t].relative_error)
            assert order == pytest.approx(points, abs=0.2), (what, t)


def test_the_process_sums_to_the_update() -> None:
    model, x, y = made("readout")
    at: dict[str, Any] = {"free_steps": 30, "nudged_steps": 9}
    process = ep_process(model, x, y, beta=0.2, nudging=5, **at)
    HolomorphicEP(30, 9, 0.2, 5)(model, x, y)
    for name, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(process.total[name], -p.grad, rtol=1e-9, atol=1e-12)


def test_two_points_are_symmetric_and_one_is_one_sided() -> None:
    model, x, y = made("real time")
    at: dict[str, Any] = {"free_steps": 30, "nudged_steps": 9, "beta": 0.2}
    same: list[tuple[Any, int]] = [("one-sided", 1), ("symmetric", 2)]
    for nudging, points in same:
        assert points_of(nudging) == points
        wanted = ep_process(model, x, y, nudging=nudging, **at)
        found = ep_process(model, x, y, nudging=points, **at)
        for one, other in zip(wanted.states, found.states, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("real time", {"nudging": 0}, "how many points of the circle of β, at least 1, got 0"),
        ("real time", {"nudging": "both"}, "expected one-sided, symmetric or how many.*'both'"),
        ("real time", {"nudging": 3, "eta": 1e-3}, "eta: expected none.*got 0.001"),
        ("real time", {"nudging": 3, "dynamics": AsymEP(9, 9, 0.1).dynamics}, "EP's own .Local."),
        ("clipped", {"nudging": 3}, "states that are not clipped"),
    ],
)
def test_a_circle_of_what_cannot_be_is_refused(
    name: str, given: dict[str, Any], message: str
) -> None:
    model, x, y = made("real time")
    model = real_time(clip=(0.0, 1.0)).double() if name == "clipped" else model
    with pytest.raises(ValueError, match=message):
        ep_process(model, x, y, **{"beta": 0.1, "free_steps": 9, "nudged_steps": 3, **given})


# Where it is of use


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("name", ["scaled-sigmoid", "tanh"])
def test_a_unit_that_is_far_from_its_threshold_is_a_number(name: str, dtype: torch.dtype) -> None:
    """Units of trained networks are: their currents are tens."""
    rho = as_activation(name)
    at = torch.tensor([-1000.0, -100.0, -30.0, -1.0, 0.5, 2.0, 30.0, 1000.0]).to(dtype)
    torch.testing.assert_close(rho(at).real, rho(at.real))
    assert rho(at + 0.1j).isfinite().all()
    one = torch.tensor([0.2 + 0.1j], dtype=dtype)
    assert torch.allclose(rho(one), torch.sigmoid(4 * one - 2) if "sig" in name else one.tanh())


def test_at_three_times_the_beta_it_is_nearer_than_symmetric_nudging() -> None:
    """So noise, which is divided by β, matters three times less."""
    model, x, y = made("in turn")
    wanted = gradient(model, x, y, BPTT(T, K))
    symmetric = gradient(model, x, y, EquilibriumPropagation(T, K, 0.1, "symmetric"))
    found = gradient(model, x, y, HolomorphicEP(T, K, 0.3, 8))
    assert (found - wanted).norm() < (symmetric - wanted).norm()


@every_model
def test_two_points_are_symmetric_nudging(name: str) -> None:
    model, x, y = made(name)
    expected = gradient(model, x, y, EquilibriumPropagation(T, K, 0.2, "symmetric"))
    found = gradient(model, x, y, HolomorphicEP(T, K, 0.2, 2))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("points", [1, 2, 3, 4, 5, 8])
def test_half_of_the_circle_stands_for_the_whole(points: int) -> None:
    half = circle(0.3, points)
    assert sum(share for _, share in half) == pytest.approx(1)
    assert all(abs(abs(beta) - 0.3) < 1e-12 and beta.imag >= 0 for beta, _ in half)
    whole = {beta for beta, _ in half} | {beta.conjugate() for beta, _ in half if beta.imag}
    assert all(share == (2 if beta.imag else 1) / points for beta, share in half)
    assert len(whole) == points
    for power in range(1, points):
        assert abs(sum(beta**power for beta in whole)) < 1e-12


def test_phases_are_those_of_half_the_circle() -> None:
    model, x, y = made("real time")
    estimate = HolomorphicEP(60, 20, 0.2, 5)(model, x, y)
    assert isinstance(estimate, Estimate)
    assert [phase.state[-1].is_complex() for phase in estimate.nudged] == [False, True, True]
    assert not estimate.free.state[-1].is_complex()
    assert all(not p.is_complex() for p in model.parameters())


def test_the_cross_entropy_of_a_readout_is_followed_as_exactly() -> None:
    model, x, _ = made("readout")
    y = eqprop.one_hot(torch.tensor([0, 1, 2, 1, 0]), 3).double()
    cost = CrossEntropy()
    wanted = gradient(model, x, y, BPTT(T, K, cost=cost))
    apart = []
    for points in (2, 4, 6):
        found = gradient(model, x, y, HolomorphicEP(T, K, 0.05, points, cost=cost))
        apart.append(((found - wanted).norm() / wanted.norm()).item())
    assert all(large > 5 * small for large, small in pairwise(apart))


@pytest.mark.parametrize("cost", [SquaredError(), CrossEntropy(2.0)])
def test_the_gradient_of_a_cost_goes_on_into_the_complex_plane(cost: eqprop.Cost) -> None:
    """Its slope along the imaginary axis is i times that along the real one."""
    torch.manual_seed(0)
    at, y = (
        torch.rand(4, 3).to(torch.complex128),
        eqprop.one_hot(torch.tensor([0, 1, 2, 1]), 3).double(),
    )
    along = torch.rand(4, 3).double()
    torch.testing.assert_close(cost.gradient(at, y).real, cost.gradient(at.real, y))
    h = 1e-6
    real = (cost.gradient(at + h * along, y) - cost.gradient(at - h * along, y)) / (2 * h)
    imaginary = cost.gradient(at + 1j * h * along, y) - cost.gradient(at - 1j * h * along, y)
    torch.testing.assert_close(imaginary / (2 * h), 1j * real, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_derivative_of_a_holomorphic_function_is_not_conjugate(weighted: bool) -> None:
    z = torch.tensor([0.3 + 0.4j, -0.2 + 0.1j], dtype=torch.complex128)
    weights = torch.tensor([1.0 - 2.0j, 0.5j], dtype=torch.complex128) if weighted else None
    (found,) = derivative(torch.sin, (z,), weights)
    torch.testing.assert_close(found, z.cos() * (1 if weights is None else weights))


def test_weights_of_samples_count() -> None:
    model, x, y = made("real time")
    weights = torch.linspace(0.5, 2, 5).double()
    wanted = gradient(model, x, y, BPTT(T, K).weighing(weights))
    found = gradient(model, x, y, HolomorphicEP(T, K, 0.05, 8).weighing(weights))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)


def test_what_does_not_learn_has_no_gradient() -> None:
    model, x, y = made("real time")
    first = next(iter(model.parameters()))
    first.requires_grad_(False)
    HolomorphicEP(60, 20, 0.2)(model, x, y)
    assert first.grad is None
    assert all(p.grad is not None for p in list(model.parameters())[1:])


REFUSED: list[tuple[Callable[[], ConvergentModel], str]] = [
    (
        lambda: eqprop.PrototypicalNetwork(eqprop.dense(6, 5, 3), "hard-sigmoid"),
        "an activation that is a holomorphic function.*got hard-sigmoid",
    ),
    (
        lambda: eqprop.PrototypicalNetwork(eqprop.dense(6, 5, 3), torch.relu),
        "an activation that is a holomorphic function.*got relu",
    ),
    (
        lambda: eqprop.PrototypicalNetwork(eqprop.dense(6, 5, 3), lambda s: s / (1 + s.abs())),
        "an activation that is a holomorphic function",
    ),
    (lambda: real_time(clip=(0.0, 1.0)), r"states that are not clipped, got a clip of \[0, 1\]"),
    (
        lambda: eqprop.PrototypicalNetwork(
            eqprop.convolutional((1, 3, 2), (2,), 3, kernel=2, pool=2, padding=1), "tanh"
        ),
        "a transition of PrototypicalNetwork .*that are holomorphic.*max_pool",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_is_not_holomorphic_is_refused(
    make: Callable[[], ConvergentModel], message: str
) -> None:
    model = make().double()
    x, y = torch.rand(2, 6).double(), torch.rand(2, 3).double()
    with pytest.raises(
        NotHolomorphicError,
        match=f"holomorphic EP: expected {message}",
    ):
        HolomorphicEP(20, 5, 0.2)(model, x.view(2, 1, 3, 2) if "Conv" in str(model) else x, y)
    assert all(p.grad is None and not p.is_complex() for p in model.parameters())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((20, 5, 0.2, 1), "points: expected at least 2, got 1"),
        ((20, 5, 0.0), "beta: expected a finite number other than 0"),
        ((0, 5, 0.2), "free_steps"),
        ((20, 5, 0.2, 4, -1.0), "tolerance"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HolomorphicEP(*given)


def test_digits_are_learnt_with_a_large_beta() -> None:
    digits = eqprop.load_dataset("digits")
    torch.manual_seed(0)
    network = eqprop.PrototypicalNetwork(eqprop.dense(64, 64, 10), nudge="inside")
    optimizer = torch.optim.Adam(network.parameters(), lr=0.005)
    found = eqprop.train(
        network, HolomorphicEP(20, 8, 0.4, 4), optimizer, digits, epochs=2, batch_size=60
    )
    assert [metrics.test_error for metrics in found][-1] < 12
