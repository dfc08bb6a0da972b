"""What the theory says of the estimators, on exact models and in float64.

The expectations are mathematics: all estimators agree as β → 0, and the error of one-sided nudging
falls as β, that of symmetric nudging as β².
"""

import math

import pytest
import torch
from torch import Tensor

from conftest import UserField, UserPhi
from eqprop.connections import dense
from eqprop.costs import SquaredError
from eqprop.estimators import BPTT, EquilibriumPropagation, Estimator, RecurrentBackprop
from eqprop.models import ConvergentModel
from eqprop.networks import PrototypicalNetwork, RealTimeNetwork
from eqprop.relaxation import relax

T = 150  # enough for every model here to settle to rounding error
Batch = tuple[Tensor, Tensor]


def gradient(model: ConvergentModel, batch: Batch, estimator: Estimator, seed: int = 0) -> Tensor:
    """The estimate, as one vector."""
    model.zero_grad()
    estimator(model, *batch, torch.Generator().manual_seed(seed))
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def implicit(model: ConvergentModel, batch: Batch) -> Tensor:
    return gradient(model, batch, RecurrentBackprop(T, adjoint_tolerance=1e-13))


def slopes_of_the_loss(model: ConvergentModel, batch: Batch, directions: Tensor) -> Tensor:
    """⟨∂L/∂θ, direction⟩ by central differences of the loss at the steady state: no theory."""
    x, y = batch
    h = 1e-5
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach()

    @torch.no_grad()
    def loss(at: Tensor) -> Tensor:
        torch.nn.utils.vector_to_parameters(at, model.parameters())
        return SquaredError()(relax(model, x, T).state[-1], y).mean()

    slopes = [(loss(start + h * d) - loss(start - h * d)) / (2 * h) for d in directions]
    torch.nn.utils.vector_to_parameters(start, model.parameters())
    return torch.stack(slopes)


def relative_error(estimate: Tensor, truth: Tensor) -> float:
    return ((estimate - truth).norm() / truth.norm()).item()


def slope(betas: list[float], errors: list[float]) -> float:
    """Of log error against log β, by least squares."""
    u = [math.log(b) for b in betas]
    v = [math.log(e) for e in errors]
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    rise = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True))
    return rise / sum((a - mean_u) ** 2 for a in u)


def test_the_implicit_gradient_is_the_slope_of_the_loss(
    exact: ConvergentModel, batch: Batch
) -> None:
    truth = implicit(exact, batch)
    source = torch.Generator().manual_seed(0)
    directions = torch.randn(8, len(truth), generator=source, dtype=torch.float64)
    found = slopes_of_the_loss(exact, batch, directions)
    assert relative_error(directions @ truth, found) < 1e-7


def test_bptt_over_all_steps_is_the_implicit_gradient_once_settled(
    exact: ConvergentModel, batch: Batch
) -> None:
    assert relative_error(gradient(exact, batch, BPTT(T)), implicit(exact, batch)) < 1e-10


def test_truncated_bptt_comes_to_the_implicit_gradient_as_k_grows(
    exact: ConvergentModel, batch: Batch
) -> None:
    truth = implicit(exact, batch)
    errors = [relative_error(gradient(exact, batch, BPTT(T, k)), truth) for k in (1, 10, 100)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


def test_bptt_truncated_to_k_at_a_steady_state_is_k_iterations_of_the_adjoint(
    batch: Batch,
) -> None:
    """Directly: the k-th truncation sums (∂F/∂θ)ᵀ (Jᵀ)^j ∂L/∂s over j < k."""
    torch.manual_seed(3)
    model = UserPhi().double()
    x, y = batch
    with torch.no_grad():
        steady = relax(model, x, T).state
    leaves = tuple(s.detach().requires_grad_() for s in steady)
    after = model.step(x, leaves)
    pulled = (torch.zeros_like(steady[0]), (steady[1] - y) / len(y))
    total = 0
    for _ in range(4):
        terms = torch.autograd.grad(
            after, list(model.parameters()), pulled, retain_graph=True, materialize_grads=True
        )
        total = total + torch.cat([t.flatten() for t in terms])
        pulled = torch.autograd.grad(
            after, leaves, pulled, retain_graph=True, materialize_grads=True
        )
    assert isinstance(total, Tensor)
    assert relative_error(gradient(model, batch, BPTT(T, 4)), total) < 1e-10


@pytest.mark.parametrize(
    "estimator",
    [
        EquilibriumPropagation(T, T, 1e-4),
        EquilibriumPropagation(T, T, -1e-4),
        EquilibriumPropagation(T, T, 1e-4, "random-sign"),
        EquilibriumPropagation(T, T, 1e-2, "symmetric"),
        BPTT(T),
        BPTT(T, 100),
        RecurrentBackprop(T),
    ],
    ids=lambda e: f"{type(e).__name__}-{getattr(e, 'nudging', '')}",
)
def test_all_estimators_agree_on_an_exact_model(
    exact: ConvergentModel, batch: Batch, estimator: Estimator
) -> None:
    estimate, truth = gradient(exact, batch, estimator), implicit(exact, batch)
    assert torch.cosine_similarity(estimate, truth, dim=0) > 0.999
    assert relative_error(estimate, truth) < 1e-2


@pytest.mark.parametrize("sign", [1, -1])
def test_the_error_of_one_sided_nudging_falls_as_beta(
    exact: ConvergentModel, batch: Batch, sign: int
) -> None:
    truth = implicit(exact, batch)
    betas = [1e-2, 1e-3, 1e-4]
    errors = [
        relative_error(gradient(exact, batch, EquilibriumPropagation(T, T, sign * b)), truth)
        for b in betas
    ]
    assert slope(betas, errors) == pytest.approx(1, abs=0.05)


def test_the_error_of_symmetric_nudging_falls_as_beta_squared(
    exact: ConvergentModel, batch: Batch
) -> None:
    truth = implicit(exact, batch)
    betas = [1e-1, 3e-2, 1e-2]
    errors = [
        relative_error(gradient(exact, batch, EquilibriumPropagation(T, T, b, "symmetric")), truth)
        for b in betas
    ]
    assert slope(betas, errors) == pytest.approx(2, abs=0.1)


def test_a_random_sign_is_sometimes_one_and_sometimes_the_other_and_its_mean_is_symmetric(
    exact: ConvergentModel, batch: Batch
) -> None:
    drawn = EquilibriumPropagation(T, T, 0.1, "random-sign")
    estimates = [gradient(exact, batch, drawn, seed) for seed in range(12)]
    above = gradient(exact, batch, EquilibriumPropagation(T, T, 0.1))
    below = gradient(exact, batch, EquilibriumPropagation(T, T, -0.1))
    matches = [
        [bool(torch.equal(estimate, one)) for one in (above, below)] for estimate in estimates
    ]
    assert all(sum(match) == 1 for match in matches)
    assert 0 < sum(match[0] for match in matches) < 12
    symmetric = gradient(exact, batch, EquilibriumPropagation(T, T, 0.1, "symmetric"))
    torch.testing.assert_close((above + below) / 2, symmetric)


def test_a_field_that_is_a_gradient_learns_like_its_phi_as_beta_vanishes(batch: Batch) -> None:
    torch.manual_seed(4)
    primitive = UserPhi().double()
    field = UserField().double()
    field.load_state_dict(primitive.state_dict())
    truth = implicit(primitive, batch)
    betas = [1e-2, 1e-3, 1e-4]
    errors = [
        relative_error(gradient(field, batch, EquilibriumPropagation(T, T, b)), truth)
        for b in betas
    ]
    assert slope(betas, errors) == pytest.approx(1, abs=0.05)


def test_the_time_step_does_not_change_the_gradient_of_real_time_dynamics(batch: Batch) -> None:
    """The steady state, and the nudged one, do not depend on ε; so neither does the estimate."""
    estimates = []
    for epsilon in (0.5, 0.1):
        torch.manual_seed(5)
        model = RealTimeNetwork(dense(4, 6, 3), "tanh", epsilon=epsilon).double()
        estimates.append(gradient(model, batch, EquilibriumPropagation(1500, 1500, 0.05)))
    assert relative_error(estimates[0], estimates[1]) < 1e-9


def test_clipped_states_stay_inside_and_unclipped_steps_are_unchanged(batch: Batch) -> None:
    torch.manual_seed(6)
    free = RealTimeNetwork(dense(4, 6, 3), "hard-sigmoid", epsilon=0.5).double()
    clipped = RealTimeNetwork(dense(4, 6, 3), "hard-sigmoid", epsilon=0.5, clip=(0, 1)).double()
    clipped.load_state_dict(free.state_dict())
    x, _ = batch
    state = tuple(torch.rand(7, n, dtype=torch.float64) for n in (6, 3))
    drive = free.drive(3 * x)
    force = torch.full((7, 3), 4.0, dtype=torch.float64)
    unbounded = free.step(drive, state, force)
    assert any((s < 0).any() or (s > 1).any() for s in unbounded)
    for bounded, without in zip(clipped.step(drive, state, force), unbounded, strict=True):
        torch.testing.assert_close(bounded, without.clamp(0, 1))


def test_the_nudge_is_added_outside_the_activation(batch: Batch) -> None:
    torch.manual_seed(7)
    model = PrototypicalNetwork(dense(4, 6, 3)).double()
    x, _ = batch
    drive, state = model.drive(x), model.initial_state(x)
    force = torch.full((7, 3), 5.0, dtype=torch.float64)
    plain, nudged = model.step(drive, state), model.step(drive, state, force)
    torch.testing.assert_close(nudged[-1], plain[-1] + 5)
    torch.testing.assert_close(nudged[0], plain[0])


def test_a_prototypical_network_points_roughly_along_the_gradient(batch: Batch) -> None:
    """Its Φ is only approximately what it descends: no more is promised."""
    torch.manual_seed(8)
    model = PrototypicalNetwork(dense(4, 6, 3), "tanh").double()
    estimate = gradient(model, batch, EquilibriumPropagation(T, 30, 1e-3))
    assert torch.cosine_similarity(estimate, implicit(model, batch), dim=0) > 0.9


def test_gradients_accumulate_as_those_of_backward_do(exact: ConvergentModel, batch: Batch) -> None:
    for estimator in (EquilibriumPropagation(T, 10, 0.1), BPTT(T, 10), RecurrentBackprop(T)):
        once = gradient(exact, batch, estimator)
        estimator(exact, *batch)
        twice = torch.cat([p.grad.flatten() for p in exact.parameters() if p.grad is not None])
        torch.testing.assert_close(twice, 2 * once)


def test_a_frozen_parameter_receives_no_gradient(exact: ConvergentModel, batch: Batch) -> None:
    frozen = next(exact.parameters()).requires_grad_(False)
    for estimator in (EquilibriumPropagation(T, 10, 0.1), BPTT(T, 10), RecurrentBackprop(T)):
        exact.zero_grad()
        estimator(exact, *batch)
        assert frozen.grad is None
        assert all(p.grad is not None for p in exact.parameters() if p is not frozen)
