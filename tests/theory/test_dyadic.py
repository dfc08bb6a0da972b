"""Dyadic EP: the adjoint as a second state, exact without a β."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import eqprop
from eqprop.analysis.processes import bptt_process
from eqprop.core.models import ConvergentModel, State
from eqprop.core.nudging import Nudge
from eqprop.core.stepping import NonFiniteError, transitions
from eqprop.estimators.bptt import BPTT
from eqprop.estimators.continual import (
    ContinualEP,
    continual_asymmetric,
    continual_dyadic,
)
from eqprop.estimators.dyadic import Adjoint, DyadicEP
from eqprop.estimators.recurrent_backprop import RecurrentBackprop
from fields import MODELS, K, T, both, every_model, gradient, made


@every_model
def test_in_one_phase_it_is_the_implicit_gradient(name: str) -> None:
    model, x, y = made(name)
    wanted = gradient(model, x, y, RecurrentBackprop(T, adjoint_tolerance=1e-13))
    found = gradient(model, x, y, DyadicEP(T))
    assert (found - wanted).norm() / wanted.norm() < 1e-9


@every_model
def test_settling_to_a_tolerance_it_is_the_implicit_gradient_too(name: str) -> None:
    model, x, y = made(name)
    wanted = gradient(model, x, y, RecurrentBackprop(T, adjoint_tolerance=1e-13))
    model.zero_grad()
    estimate = DyadicEP(10 * T, tolerance=1e-10)(model, x, y)
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert (found - wanted).norm() / wanted.norm() < 1e-7
    assert estimate.free.rests().all()
    assert estimate.free.steps.max() < 10 * T


@pytest.mark.parametrize("name", [name for name in MODELS if name != "in turn"])
def test_from_rest_theorem_1_holds_step_by_step_whatever_beta(name: str) -> None:
    model, x, y = made(name)
    bptt = bptt_process(model, x, y, free_steps=T, nudged_steps=K)
    wanted = -torch.cat([layer.flatten(2) for layer in bptt.states], 2)
    with torch.no_grad():
        free = eqprop.relax(model, x, T).state
        dynamics = Adjoint(model, x, free)
        for beta in (1e-2, 10.0):
            nudge = dynamics.pulling(Nudge(eqprop.SquaredError(), y, beta, model))
            path = transitions(dynamics, model.drive(x), free, K, nudge=nudge)
            steps = [torch.cat(after, 1) - torch.cat(before, 1) for before, after in path]
            found = torch.stack(steps) / (beta * model.epsilon)
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_its_error_falls_as_both_states_come_to_rest() -> None:
    model, x, y = made("real time, 90°")
    wanted = gradient(model, x, y, RecurrentBackprop(T, adjoint_tolerance=1e-13))
    errors = []
    for steps in (20, 40, 60, 80):
        found = gradient(model, x, y, DyadicEP(steps))
        errors.append(((found - wanted).norm() / wanted.norm()).item())
    falls = [large / small for large, small in pairwise(errors)]
    assert min(falls) > 5
    assert math.log(falls[-1]) == pytest.approx(math.log(falls[-2]), rel=0.2)  # Geometrically.


def test_a_readout_learns_its_own_gradient() -> None:
    torch.manual_seed(0)
    chain = eqprop.untied(eqprop.dense(6, 5, 4), angle=90)
    model = eqprop.PrototypicalNetwork(chain, "tanh", readout=nn.Linear(4, 3)).double()
    x, y = torch.rand(5, 6).double(), torch.rand(5, 3).double()
    wanted = gradient(model, x, y, BPTT(400))
    found = gradient(model, x, y, DyadicEP(400))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


def test_samples_settle_alone_as_in_company() -> None:
    model, x, y = made("real time, 45°")
    with torch.no_grad():
        x[0] *= 20
    estimator = DyadicEP(5000, tolerance=1e-6)
    together = gradient(model, x, y, estimator)
    alone = torch.stack([gradient(model, x[i : i + 1], y[i : i + 1], estimator) for i in range(5)])
    torch.testing.assert_close(together, alone.mean(0), rtol=1e-12, atol=1e-15)


class Doubling(eqprop.VectorFieldModel):
    """At rest in 0, from where everything else runs away."""

    def __init__(self) -> None:
        super().__init__([3])
        self.scale = nn.Parameter(torch.tensor(2.0))

    def field(self, drive: Tensor, state: State) -> State:
        return (self.scale * state[0],)


def test_a_difference_that_grows_without_end_is_told_from_the_state() -> None:
    message = "output layer, its difference d, stopped being finite in the free phase at step 102"
    with pytest.raises(NonFiniteError, match=message):
        DyadicEP(2000)(Doubling().double(), torch.rand(2, 3).double(), torch.rand(2, 3).double())


def moved(model: ConvergentModel, x: Tensor, y: Tensor, estimator: Any, eta: float) -> Tensor:
    """(θ_after − θ_before) / η of an estimator that takes the steps itself; then put back."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    estimator(model, x, y)
    found = [(p.detach() - before[name]).flatten() / eta for name, p in model.named_parameters()]
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(before[name])
    return torch.cat(found)


@pytest.mark.parametrize("name", ["field", "real time, 90°", "prototypical, 180°", "inside"])
def test_continually_the_error_of_the_dyad_is_that_of_eta_alone(name: str) -> None:
    model, x, y = made(name)
    wanted = -gradient(model, x, y, BPTT(T, K))
    errors = []
    for eta in (1e-2, 1e-3, 1e-4):
        optimizer = torch.optim.SGD(model.parameters(), lr=eta)
        found = moved(model, x, y, continual_dyadic(optimizer, T, K), eta)
        errors.append(((found - wanted).norm() / wanted.norm()).item())
    assert [math.log10(a / b) for a, b in pairwise(errors)] == pytest.approx([1, 1], abs=0.1)


@both
@pytest.mark.parametrize("name", ["field", "real time, 90°", "prototypical, 180°", "inside"])
def test_continually_asym_ep_follows_the_gradient_as_beta_and_eta_fall(
    name: str, nudging: Any
) -> None:
    """η must fall faster: what the weights do to the states is divided by β."""
    model, x, y = made(name)
    wanted = -gradient(model, x, y, BPTT(T, K))
    errors = []
    for beta in (1e-1, 1e-2):
        eta = beta**2 / 10 if nudging == "one-sided" else beta**3 / 10
        optimizer = torch.optim.SGD(model.parameters(), lr=eta)
        estimator = continual_asymmetric(optimizer, T, K, beta, nudging)
        found = moved(model, x, y, estimator, eta)
        errors.append(((found - wanted).norm() / wanted.norm()).item())
    order = 1 if nudging == "one-sided" else 2
    assert math.log10(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_continually_ep_itself_levels_off_there() -> None:
    model, x, y = made("real time, 90°")
    wanted = -gradient(model, x, y, BPTT(T, K))
    for beta in (1e-2, 1e-3):
        optimizer = torch.optim.SGD(model.parameters(), lr=beta**2)
        found = moved(model, x, y, ContinualEP(optimizer, T, K, beta), beta**2)
        assert (found - wanted).norm() / wanted.norm() > 0.1
