"""Jacobian homeostasis: what draws a Jacobian towards symmetry, and what it is good for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop.core.models import ConvergentModel, State
from eqprop.estimators.bptt import BPTT
from eqprop.estimators.continual import ContinualEP
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.estimator import Estimate, Estimator
from eqprop.estimators.homeostasis import Homeostatic, asymmetry
from fields import every_model, gradient, made


def jacobian(model: ConvergentModel, x: Tensor, state: State) -> Tensor:
    """Of the velocity, (units, units), of one sample."""
    sizes = [layer.shape[1] for layer in state]
    with torch.no_grad():
        drive = model.drive(x)

    def velocity(flat: Tensor) -> Tensor:
        after = torch.cat(model.step(drive, tuple(flat.split(sizes, 1))), 1)
        return (after - flat) / model.epsilon

    found = torch.autograd.functional.jacobian(velocity, torch.cat(state, 1))
    assert isinstance(found, Tensor)
    return found.reshape(sum(sizes), sum(sizes))


@every_model
def test_it_is_what_its_directions_say_of_the_jacobian(name: str) -> None:
    model, x, _ = made(name)
    state = tuple(torch.rand(1, size).double() * 0.05 for (size,) in model.shapes)
    found = asymmetry(model, x[:1], state, 3, torch.Generator().manual_seed(5))
    J, generator = jacobian(model, x[:1], state), torch.Generator().manual_seed(5)
    expected = 0.0
    for _ in range(3):
        draws = [
            torch.randn(1, n, generator=generator, dtype=torch.float64) for (n,) in model.shapes
        ]
        xi = torch.cat(draws, 1)[0]
        expected += ((J @ xi) @ (J @ xi) - xi @ J @ J @ xi) / len(xi) / 3
    torch.testing.assert_close(found, torch.as_tensor(expected))


def test_on_average_it_is_the_square_of_what_is_asymmetric() -> None:
    model, x, _ = made("real time, 90°")
    state = tuple(torch.rand(1, size).double() for (size,) in model.shapes)
    J = jacobian(model, x[:1], state)
    expected = (J - J.T).square().sum() / (2 * len(J))
    draws = torch.stack([asymmetry(model, x[:1], state, 1).detach() for _ in range(3000)])
    apart = (draws.mean() - expected).abs()
    assert apart < 4 * draws.std() / 3000**0.5
    assert expected > 10 * draws.std() / 3000**0.5


@every_model
def test_its_gradient_is_that_of_finite_differences(name: str) -> None:
    model, x, _ = made(name)
    state = tuple(torch.rand(len(x), size).double() * 0.05 for (size,) in model.shapes)

    def h() -> Tensor:
        return asymmetry(model, x, state, 2, torch.Generator().manual_seed(1))

    parameters = [p for p in model.parameters() if p.dim() == 2]
    found = torch.autograd.grad(h(), parameters, materialize_grads=True)
    for p, g in zip(parameters, found, strict=True):
        direction = torch.randn_like(p)
        with torch.no_grad():
            p.add_(direction, alpha=1e-5)
            above = h().detach()
            p.add_(direction, alpha=-2e-5)
            below = h().detach()
            p.add_(direction, alpha=1e-5)
        torch.testing.assert_close(
            (above - below) / 2e-5, (g * direction).sum(), rtol=1e-5, atol=1e-9
        )


def test_of_a_primitive_function_nothing_is_asymmetric() -> None:
    torch.manual_seed(0)
    model = eqprop.RealTimeNetwork(eqprop.dense(6, 5, 4, 3), "tanh", epsilon=0.3).double()
    x = torch.rand(4, 6).double()
    state = eqprop.relax(model, x, 200).state
    assert asymmetry(model, x, state, 4).abs() < 1e-12


def test_alone_it_turns_backward_weights_towards_the_forward_ones() -> None:
    torch.manual_seed(0)
    chain = eqprop.untied(eqprop.dense(6, 8, 7, 5), angle=90)
    model = eqprop.RealTimeNetwork(chain, "tanh", epsilon=0.3)
    before = model.weight_angles
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        x = torch.rand(20, 6)
        optimizer.zero_grad()
        with torch.no_grad():
            free = eqprop.relax(model, x, 60).state
        asymmetry(model, x, free).backward()
        optimizer.step()
    assert all(angle > 60 for angle in before)
    assert all(angle < 20 for angle in model.weight_angles)


MADE: list[Callable[[ConvergentModel], Estimator]] = [
    lambda _: EquilibriumPropagation(40, 8, 0.1, "symmetric"),
    lambda _: BPTT(40, 8),
]


@pytest.mark.parametrize("of", MADE, ids=["ep", "bptt"])
def test_it_is_added_to_what_an_estimator_finds(of: Any) -> None:
    model, x, y = made("real time, 90°")
    alone = gradient(model, x, y, of(model))
    without = gradient(model, x, y, Homeostatic(of(model), 0.0))
    torch.testing.assert_close(without, alone, rtol=0, atol=0)
    model.zero_grad()
    found = Homeostatic(of(model), 2.0)(model, x, y, torch.Generator().manual_seed(3))
    both = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    h = asymmetry(model, x, found.free.state, 1, torch.Generator().manual_seed(3))
    grads = torch.autograd.grad(h, list(model.parameters()), materialize_grads=True)
    torch.testing.assert_close(both - alone, 2 * torch.cat([g.flatten() for g in grads]))


def test_beside_continual_updates_it_is_left_for_the_next_step_of_the_optimizer() -> None:
    model, x, y = made("real time, 90°")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = Homeostatic(ContinualEP(optimizer, 40, 4, 0.2), 1.0)(model, x, y)
    assert isinstance(found, Estimate)
    weights = [p for name, p in model.named_parameters() if "weight" in name]
    assert all(p.grad is not None for p in weights)


def test_weights_of_samples_reach_the_estimator_within() -> None:
    model, x, y = made("real time, 90°")
    weights = torch.linspace(0.5, 2, len(x)).double()
    of = EquilibriumPropagation(40, 8, 0.1)
    expected = gradient(model, x, y, of.weighing(weights))
    found = gradient(model, x, y, Homeostatic(of, 0.0).weighing(weights))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (("ep", 1.0), TypeError, "of: expected an estimator, such as"),
        ((BPTT(5), -1.0), ValueError, "strength: expected a finite number >= 0, got -1"),
        ((BPTT(5), float("nan")), ValueError, "strength: expected"),
        ((BPTT(5), 1.0, 0), ValueError, "directions: expected at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(given: tuple[Any, ...], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        Homeostatic(*given)


def test_trained_with_it_ep_keeps_to_the_gradient_where_it_would_lose_it() -> None:
    """Digits, two hidden layers, weights that begin 90° apart: how far the updates of the first
    layer are from those of BPTT at the end of training, and the test error."""
    digits = eqprop.load_dataset("digits")

    def trained(strength: float) -> tuple[float, float]:
        torch.manual_seed(1)
        chain = eqprop.untied(eqprop.dense(64, 32, 32, 10), angle=90)
        model = eqprop.RealTimeNetwork(chain, epsilon=0.5)
        of = EquilibriumPropagation(60, 10, 0.2, "symmetric")
        estimator = Homeostatic(of, strength)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
        found = eqprop.train(model, estimator, optimizer, digits, epochs=4, batch_size=60)
        error = [metrics.test_error for metrics in found][-1]
        x, labels = next(iter(digits.train.batches(60, torch.Generator().manual_seed(0))))
        target = digits.train.targets(labels, digits.classes)
        ep, bptt = gradient(model, x, target, of), gradient(model, x, target, BPTT(60, 10))
        first = 64 * 32
        cosine = torch.cosine_similarity(ep[:first], bptt[:first], 0)
        return torch.rad2deg(torch.arccos(cosine)).item(), error

    (angle, error), (angle_without, error_without) = trained(3.0), trained(0.0)
    assert angle < 0.5 * angle_without
    assert error < error_without - 10
