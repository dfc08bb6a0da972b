"""What the theory says of the estimators, on exact models and in float64.

The expectations are mathematics: all estimators agree as β → 0, and the error of one-sided nudging
falls as β, that of symmetric nudging as β².
"""

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from eqprop.core.costs import Cost, SquaredError
from eqprop.core.models import ConvergentModel, State, half_square_norm
from eqprop.core.nudging import Nudge, Nudging
from eqprop.core.phases import nudged_phase, relax
from eqprop.estimators.bptt import BPTT
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.estimator import Estimator
from eqprop.estimators.recurrent_backprop import AdjointError, RecurrentBackprop
from eqprop.networks.connections.chains import dense
from eqprop.networks.connections.conv_pool import ConvPool
from eqprop.networks.connections.dense import Dense
from eqprop.networks.layered import Updates
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from measuring import slope
from zoo import Batch, UserEnergy, UserField, UserPhi

T = 150  # enough for every model here to settle to rounding error


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
        return SquaredError()(model.prediction(relax(model, x, T).state), y).mean()

    slopes = [(loss(start + h * d) - loss(start - h * d)) / (2 * h) for d in directions]
    torch.nn.utils.vector_to_parameters(start, model.parameters())
    return torch.stack(slopes)


def relative_error(estimate: Tensor, truth: Tensor) -> float:
    return ((estimate - truth).norm() / truth.norm()).item()


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


@pytest.mark.parametrize("updates", get_args(Updates))
def test_prototypical_hard_sigmoids_follow_the_gradient_while_no_output_is_clipped(
    updates: Updates,
) -> None:
    """clip(∂Φ/∂s) has the slope 1 or 0, and what is clipped passes on nothing, in EP as in BPTT."""
    torch.manual_seed(4)
    first = ConvPool((1, 10, 9), 4, kernel=3)
    second = ConvPool(first.upper_shape, 6, kernel=2)
    model = PrototypicalNetwork(
        [first, second, Dense(second.upper_shape, 3)], "hard-sigmoid", updates=updates
    ).double()
    source = torch.Generator().manual_seed(5)
    x = torch.rand(7, 1, 10, 9, generator=source, dtype=torch.float64)
    y = torch.rand(7, 3, generator=source, dtype=torch.float64)
    with torch.no_grad():
        model.connections[-1].get_parameter("bias").fill_(0.5)
        *hidden, output = relax(model, x, T).state
    assert all(((s == 0) | (s == 1)).any() for s in hidden), "something is to be clipped"
    assert ((output > 0) & (output < 1)).all(), "but no output"
    truth = implicit(model, (x, y))
    orders: dict[Nudging, int] = {"one-sided": 1, "symmetric": 2}
    for nudging, order in orders.items():
        betas = [1e-2, 3e-3, 1e-3]
        errors = [
            relative_error(gradient(model, (x, y), EquilibriumPropagation(T, T, b, nudging)), truth)
            for b in betas
        ]
        assert slope(betas, errors) == pytest.approx(order, abs=0.05 * order)


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


@pytest.mark.parametrize("steps", [1, 3])
def test_steps_that_are_differentiated_are_the_steps_that_are_taken(
    exact: ConvergentModel, batch: Batch, steps: int
) -> None:
    x, _ = batch
    differentiated = relax(exact, x, steps).state
    with torch.no_grad():
        taken = relax(exact, x, steps).state
    for a, b in zip(differentiated, taken, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_every_gradient_has_memory_of_its_own(batch: Batch) -> None:
    class Sum(UserPhi):
        """p and q enter as p + q only, z as its sum only: autograd may share their gradients."""

        def __init__(self) -> None:
            super().__init__()
            self.p, self.q = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(5))
            self.z = nn.Parameter(torch.zeros(4))

        def phi(self, x: Tensor, state: State) -> Tensor:
            extra = ((self.p + self.q + self.z.sum()) * state[0]).sum(1)
            return super().phi(x, state) + 0.1 * extra

    model = Sum().double()
    for estimator in (EquilibriumPropagation(T, 10, 0.1), BPTT(T, 1), RecurrentBackprop(T)):
        gradient(model, batch, estimator)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert len({g.data_ptr() for g in gradients}) == len(list(model.parameters()))
        for g in gradients:
            g.add_(1)  # an expanded tensor would refuse


@pytest.mark.parametrize(
    "estimator",
    [EquilibriumPropagation(5, 5, 0.1), BPTT(5), RecurrentBackprop(200)],
    ids=lambda e: type(e).__name__,
)
def test_a_model_with_nothing_to_train_is_left_in_peace(
    exact: ConvergentModel, batch: Batch, estimator: Estimator
) -> None:
    exact.requires_grad_(False)
    estimator(exact, *batch)
    assert all(p.grad is None for p in exact.parameters())


def test_the_tolerance_of_a_nudged_phase_is_in_proportion_to_beta(batch: Batch) -> None:
    """So that a weak nudge is followed as far, relative to its effect, as a strong one."""
    torch.manual_seed(9)
    model = RealTimeNetwork(dense(4, 6, 3), "tanh", epsilon=0.2).double()
    x, y = batch
    free = relax(model, x, 2000).state
    weak, strong = (
        nudged_phase(model, x, 2000, Nudge(SquaredError(), y, beta), free, tolerance=1e-4)
        for beta in (1e-7, -1e-5)
    )
    assert torch.equal(weak.steps, strong.steps)
    assert 10 < weak.steps.min() < weak.steps.max() < 2000
    effects = [
        torch.cat([(n - f) / beta for n, f in zip(phase.state, free, strict=True)], 1)
        for phase, beta in ((weak, 1e-7), (strong, -1e-5))
    ]
    torch.testing.assert_close(*effects, rtol=0, atol=1e-4)


def test_bptt_says_how_many_steps_it_took_and_hands_out_plain_states(
    exact: ConvergentModel, batch: Batch
) -> None:
    free = BPTT(30, 5)(exact, *batch).free
    assert free.steps.tolist() == [30] * 7
    assert not any(layer.requires_grad for layer in free.state)
    # At a tolerance of 10 all rest at the first look, after two steps; five are differentiated.
    free = BPTT(T, 5, tolerance=10.0)(exact, *batch).free
    assert free.steps.tolist() == [2 + 5] * 7
    assert free.rests().all()


def test_an_unstable_steady_state_has_no_implicit_gradient(batch: Batch) -> None:
    """At rest, s ← 2 s leaves 0 wherever it is pushed."""

    class Unstable(UserPhi):
        def phi(self, x: Tensor, state: State) -> Tensor:
            return super().phi(0 * x, state) * 0 + half_square_norm(state) * 2

    with pytest.raises(AdjointError, match="stable"):
        RecurrentBackprop(5)(Unstable().double(), *batch)


@pytest.mark.parametrize(
    "make",
    [
        lambda: EquilibriumPropagation(0, 1, 0.1),
        lambda: EquilibriumPropagation(1, 0, 0.1),
        lambda: EquilibriumPropagation(1, 1, 0.0),
        lambda: EquilibriumPropagation(1, 1, float("nan")),
        lambda: EquilibriumPropagation(1, 1, 0.1, "sideways"),  # pyright: ignore
        lambda: EquilibriumPropagation(1, 1, 0.1, tolerance=-1),
        lambda: BPTT(0),
        lambda: BPTT(3, 4),
        lambda: BPTT(3, 0),
        lambda: BPTT(3, tolerance=float("nan")),
        lambda: RecurrentBackprop(0),
        lambda: RecurrentBackprop(3, adjoint_tolerance=0),
        lambda: RecurrentBackprop(3, tolerance=-1),
    ],
)
def test_an_estimator_that_cannot_be_is_refused(make) -> None:
    with pytest.raises(ValueError, match=r": expected .*, got "):
        make()


def test_a_cost_that_is_not_one_value_per_sample_says_so(batch: Batch) -> None:
    class Mean(Cost):
        def __call__(self, output: Tensor, target: Tensor) -> Tensor:
            return (output - target).square().mean()

    for estimator in (
        EquilibriumPropagation(5, 5, 0.1, cost=Mean()),
        BPTT(5, cost=Mean()),
        RecurrentBackprop(50, cost=Mean()),
    ):
        with pytest.raises(ValueError, match=r"cost: expected one value per sample, shape \(7,\)"):
            estimator(UserPhi().double(), *batch)


def test_a_target_of_another_shape_than_the_output_is_refused(batch: Batch) -> None:
    x, y = batch
    for estimator in (EquilibriumPropagation(5, 5, 0.1), BPTT(5), RecurrentBackprop(50)):
        with pytest.raises(ValueError, match=r"target: expected .*\(7, 3\), got \(7, 1\)"):
            estimator(UserPhi().double(), x, y[:, :1])


def test_an_energy_that_is_summed_over_the_batch_says_so(batch: Batch) -> None:
    class Summed(UserEnergy):
        def energy(self, x: Tensor, state: State) -> Tensor:
            return super().energy(x, state).sum()

    with pytest.raises(ValueError, match="energy: expected one value per sample"):
        EquilibriumPropagation(5, 5, 0.1)(Summed().double(), *batch)


def test_a_frozen_parameter_receives_no_gradient(exact: ConvergentModel, batch: Batch) -> None:
    frozen = next(exact.parameters()).requires_grad_(False)
    for estimator in (EquilibriumPropagation(T, 10, 0.1), BPTT(T, 10), RecurrentBackprop(T)):
        exact.zero_grad()
        estimator(exact, *batch)
        assert frozen.grad is None
        assert all(p.grad is not None for p in exact.parameters() if p is not frozen)
