"""AsymEP: Theorem 1 step by step for any vector field, and what follows from it."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import eqprop
from eqprop.analysis.processes import bptt_process
from eqprop.core.linearised import Linearised
from eqprop.core.models import ConvergentModel, parameter_gradients
from eqprop.core.nudging import Nudge
from eqprop.core.stepping import transitions
from eqprop.estimators.asymmetric import AsymEP, Asymmetric
from eqprop.estimators.bptt import BPTT
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.recurrent_backprop import RecurrentBackprop
from fields import MODELS, K, Nudging, T, both, every_model, gradient, made

BETAS = (1e-2, 1e-3, 1e-4)


def moves(model: ConvergentModel, x: Tensor, y: Tensor, beta: float) -> Tensor:
    """(s_{t+1} − s_t) / β of the nudged phase, (K, B, units)."""
    with torch.no_grad():
        drive = model.drive(x)
        free = eqprop.relax(model, x, T, drive=drive).state
        corrected = Asymmetric(model, x, free)
        nudge = Nudge(eqprop.SquaredError(), y, beta, model)
        path = transitions(corrected, drive, free, K, nudge=nudge)
        steps = [torch.cat(after, 1) - torch.cat(before, 1) for before, after in path]
    return torch.stack(steps) / beta


def slopes(errors: list[float]) -> list[float]:
    return [math.log10(large / small) for large, small in pairwise(errors)]


@both
@pytest.mark.parametrize("name", [name for name in MODELS if name != "in turn"])
def test_theorem_1_holds_step_by_step_for_any_vector_field(name: str, nudging: Nudging) -> None:
    """In turn BPTT's gradient of a layer that moves first has what it does within the turn, too."""
    model, x, y = made(name)
    found = bptt_process(model, x, y, free_steps=T, nudged_steps=K)
    wanted = -torch.cat([layer.flatten(2) for layer in found.states], 2) * model.epsilon
    errors = []
    for beta in BETAS:
        steps = moves(model, x, y, beta)
        if nudging == "symmetric":
            steps = (steps + moves(model, x, y, -beta)) / 2
        errors.append(((steps - wanted).norm() / wanted.norm()).item())
    assert errors[0] < 0.2
    assert slopes(errors) == pytest.approx([1 if nudging == "one-sided" else 2] * 2, abs=0.1)


@both
@every_model
def test_the_total_is_the_gradient_of_bptt_through_as_many_steps(
    name: str, nudging: Nudging
) -> None:
    model, x, y = made(name)
    wanted = gradient(model, x, y, BPTT(T, K))
    errors = []
    for beta in BETAS:
        found = gradient(model, x, y, AsymEP(T, K, beta, nudging))
        errors.append(((found - wanted).norm() / wanted.norm()).item())
    assert slopes(errors) == pytest.approx([1 if nudging == "one-sided" else 2] * 2, abs=0.1)


@every_model
def test_settled_it_is_the_implicit_gradient(name: str) -> None:
    model, x, y = made(name)
    wanted = gradient(model, x, y, RecurrentBackprop(T, adjoint_tolerance=1e-13))
    found = gradient(model, x, y, AsymEP(T, 400, 1e-3, "symmetric"))
    assert (found - wanted).norm() / wanted.norm() < 1e-4


@pytest.mark.parametrize("psi", [45, 90, 135])
def test_equilibrium_propagation_itself_levels_off_there(psi: int) -> None:
    model, x, y = made(f"real time, {psi}°")
    wanted = gradient(model, x, y, BPTT(T, K))
    for beta in (1e-2, 1e-3):
        found = gradient(model, x, y, EquilibriumPropagation(T, K, beta, "symmetric"))
        assert (found - wanted).norm() / wanted.norm() > 0.1


@every_model
def test_products_with_the_jacobian_are_those_with_the_matrix(name: str) -> None:
    model, x, _ = made(name)
    x = x[:1]
    with torch.no_grad():
        drive = model.drive(x)
    sizes = [layer.shape[1] for layer in model.initial_state(x)]

    def step(flat: Tensor) -> Tensor:
        return torch.cat(model.step(drive, tuple(flat.split(sizes, 1))), 1)

    at = torch.rand(1, sum(sizes)).double()
    J = torch.autograd.functional.jacobian(step, at)
    assert isinstance(J, Tensor)
    J = J.reshape(sum(sizes), sum(sizes))
    around = Linearised(model, drive, tuple(at.split(sizes, 1)))
    v = torch.rand(1, sum(sizes)).double()
    for product, matrix in ((around.times, J), (around.transposed, J.T)):
        for _ in range(2):  # The graph is there for more than one.
            found = torch.cat(product(tuple(v.split(sizes, 1))), 1)
            torch.testing.assert_close(found[0], matrix @ v[0])


@both
def test_of_a_free_phase_cut_short_it_follows_the_linearisation_at_its_end(
    nudging: Nudging,
) -> None:
    """Else what is left of the free phase would lead it out of where the Jacobian holds."""
    model, x, y = made("real time, 90°")
    short, steps = 4, 12
    with torch.enable_grad():
        drive = model.drive(x)
    free = eqprop.relax(model, x, short).state
    around = Linearised(model, drive, free)
    (error,) = torch.autograd.grad(
        eqprop.SquaredError()(leaf := free[-1].detach().requires_grad_(), y).sum(), leaf
    )
    source = (*(torch.zeros_like(layer) for layer in free[:-1]), error)
    down = total = source
    for _ in range(steps - 1):
        down = around.transposed(down)
        total = tuple(a + b for a, b in zip(total, down, strict=True))
    shares = tuple(layer / len(x) for layer in total)
    wanted = parameter_gradients(model, around.after, shares)
    want = torch.cat([wanted[name].flatten() for name, _ in model.named_parameters()])
    errors = []
    for beta in BETAS:
        found = gradient(model, x, y, AsymEP(short, steps, beta, nudging))
        errors.append(((found - want).norm() / want.norm()).item())
    assert slopes(errors) == pytest.approx([1 if nudging == "one-sided" else 2] * 2, abs=0.1)


def test_convolutions_pooling_and_a_readout_follow_the_gradient_too() -> None:
    torch.manual_seed(0)
    chain = eqprop.convolutional((1, 8, 8), (3,), 7, kernel=3, padding=1, pool=2)
    readout = nn.Linear(7, 4)
    model = eqprop.PrototypicalNetwork(chain, "scaled-sigmoid", readout=readout).double()
    x, y = torch.rand(3, 1, 8, 8).double(), torch.rand(3, 4).double()
    wanted = gradient(model, x, y, BPTT(300, 10))
    errors = []
    for beta in (1e-2, 1e-3):
        found = gradient(model, x, y, AsymEP(300, 10, beta, "symmetric"))
        errors.append(((found - wanted).norm() / wanted.norm()).item())
    # The readout learns at the nudged states, BPTT's at the free one: equal as β → 0.
    assert errors[1] < 1e-3
    assert errors[1] < errors[0]


def test_two_hidden_layers_learn_at_180_degrees_as_at_0() -> None:
    digits = eqprop.load_dataset("digits")

    def error(psi: float, estimator: Any) -> float:
        torch.manual_seed(0)
        chain = eqprop.untied(eqprop.dense(64, 64, 64, 10), angle=psi)
        model = eqprop.PrototypicalNetwork(chain)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
        found = eqprop.train(model, estimator, optimizer, digits, epochs=3, batch_size=60)
        return [metrics.test_error for metrics in found][-1]

    asym = AsymEP(20, 8, 0.2, "symmetric")
    aligned, opposite = error(0, asym), error(180, asym)
    assert opposite < 20
    assert abs(opposite - aligned) < 8
    assert error(180, EquilibriumPropagation(20, 8, 0.2, "symmetric")) > 40
