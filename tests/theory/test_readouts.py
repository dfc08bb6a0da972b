"""Any readout and any cost: what is read off the network, and nudges where they act."""

import copy
import math
import warnings
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from eqprop.analysis.processes import bptt_process, ep_process
from eqprop.core.costs import Cost, CrossEntropy, SampleWeighted, SquaredError, Weighted
from eqprop.core.models import NudgePlace
from eqprop.core.nudging import Nudge, Nudging
from eqprop.core.phases import relax
from eqprop.data.dataset import Dataset, Split, load_dataset
from eqprop.estimators.bptt import BPTT
from eqprop.estimators.continual import ContinualEP
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.recurrent_backprop import RecurrentBackprop
from eqprop.networks.connections.chains import convolutional, dense
from eqprop.networks.layered import LayeredNetwork, Updates
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from eqprop.training.loop import train
from measuring import slope
from zoo import Batch, UserPhi

T = 150


class Logits(nn.Module):
    """The same as a linear readout, which nobody knows to be one."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, units: Tensor) -> Tensor:
        return self.linear(units)


def network(readout: nn.Module | None = None, classes: int = 3) -> LayeredNetwork:
    torch.manual_seed(0)
    made = dense(4, 6, 5) if readout is not None else dense(4, 6, classes)
    return RealTimeNetwork(made, "tanh", epsilon=0.8, readout=readout).double()


READOUTS = {
    "none": lambda: None,
    "linear": lambda: nn.Linear(5, 3),
    "softmax": lambda: nn.Sequential(nn.Linear(5, 3), nn.Softmax(1)),
    "two layers": lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)),
}
COSTS: dict[str, Cost] = {
    "squared error": SquaredError(),
    "cross-entropy": CrossEntropy(2.0),
    "weighted": Weighted(CrossEntropy(), [0.5, 2.0, 1.0]),
    "samples weighted": SampleWeighted(
        SquaredError(), torch.tensor([0.5, 1.5, 0.0, 1.0, 1.2, 0.8], dtype=torch.float64)
    ),
}
pairs = [(r, c) for r in READOUTS for c in COSTS]


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(3)
    labels = torch.tensor([0, 1, 2, 2, 0, 1])
    return torch.randn(6, 4, dtype=torch.float64), nn.functional.one_hot(labels, 3).double()


def estimate(model: Any, batch: Batch, estimator: Any) -> Tensor:
    model.zero_grad()
    estimator(model, *batch)
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def relative_error(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


@pytest.mark.parametrize(("readout", "cost"), pairs)
def test_the_error_falls_as_beta_and_as_beta_squared_with_any_readout_and_cost(
    readout: str, cost: str, batch: Batch
) -> None:
    model = network(READOUTS[readout]())
    truth = estimate(model, batch, RecurrentBackprop(T, adjoint_tolerance=1e-13, cost=COSTS[cost]))
    one, two = [1e-2, 1e-3, 1e-4], [1e-1, 3e-2, 1e-2]
    errors = [
        relative_error(
            estimate(model, batch, EquilibriumPropagation(T, T, b, cost=COSTS[cost])), truth
        )
        for b in one
    ]
    assert slope(one, errors) == pytest.approx(1, abs=0.05)
    errors = [
        relative_error(
            estimate(model, batch, EquilibriumPropagation(T, T, b, "symmetric", cost=COSTS[cost])),
            truth,
        )
        for b in two
    ]
    assert slope(two, errors) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(("readout", "cost"), pairs)
def test_the_implicit_gradient_is_that_of_backpropagation_through_all_steps(
    readout: str, cost: str, batch: Batch
) -> None:
    model = network(READOUTS[readout]())
    found = [
        estimate(model, batch, estimator)
        for estimator in (
            RecurrentBackprop(T, adjoint_tolerance=1e-13, cost=COSTS[cost]),
            BPTT(T, cost=COSTS[cost]),
        )
    ]
    assert relative_error(*found) < 1e-9


ESTIMATORS = {
    "BPTT": BPTT(T),
    "implicit gradient": RecurrentBackprop(T, adjoint_tolerance=1e-13),
    "EP": EquilibriumPropagation(T, 20, 0.5),
    "EP, settling": EquilibriumPropagation(T, 20, 0.5, tolerance=1e-12),
    "symmetric EP, settling": EquilibriumPropagation(T, 20, 0.5, "symmetric", tolerance=1e-12),
}


@pytest.mark.parametrize("name", ["BPTT", "implicit gradient"])
def test_a_sample_of_weight_two_counts_as_two_of_it(name: str, batch: Batch) -> None:
    model, (x, target) = network(), batch
    rows = [0, 1, 1, 2, 3, 3, 3, 4, 5]
    weights = torch.tensor([1, 2, 1, 3, 1, 1], dtype=torch.float64)
    weighing = ESTIMATORS[name].weighing(weights)
    found = 6 * estimate(model, batch, weighing)
    truth = 9 * estimate(model, (x[rows], target[rows]), ESTIMATORS[name])
    assert relative_error(found, truth) < 1e-10
    assert isinstance(ESTIMATORS[name].cost, SquaredError)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_sample_of_weight_zero_teaches_nothing(name: str, batch: Batch) -> None:
    model, (x, target) = network(), batch
    keep = [0, 2, 3, 5]
    weights = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.float64)
    found = 6 * estimate(model, batch, ESTIMATORS[name].weighing(weights))
    truth = 4 * estimate(model, (x[keep], target[keep]), ESTIMATORS[name])
    assert relative_error(found, truth) < 1e-9


@pytest.mark.parametrize("name", ["EP", "EP, settling", "symmetric EP, settling"])
def test_what_a_weighted_sample_teaches_does_not_depend_on_its_company(
    name: str, batch: Batch
) -> None:
    model, (x, target) = network(), batch
    weights = torch.tensor([0.1, 2.0, 5.0, 1.0, 0.3, 1.0], dtype=torch.float64)
    together = 6 * estimate(model, batch, ESTIMATORS[name].weighing(weights))
    alone = [
        estimate(model, (x[[i]], target[[i]]), ESTIMATORS[name].weighing(weights[[i]], 5.0))
        for i in range(6)
    ]
    assert relative_error(together, torch.stack(alone).sum(0)) < 1e-9


@pytest.mark.parametrize("name", ESTIMATORS)
def test_weights_do_not_change_how_strongly_the_network_is_nudged(name: str, batch: Batch) -> None:
    model = network()
    plain = estimate(model, batch, ESTIMATORS[name])
    for weight in (0.01, 1.0, 40.0):
        weights = torch.full((6,), weight, dtype=torch.float64)
        found = estimate(model, batch, ESTIMATORS[name].weighing(weights))
        assert relative_error(found, weight * plain) < 1e-9
        by_class = replace(ESTIMATORS[name], cost=Weighted(SquaredError(), [weight] * 3))
        assert relative_error(estimate(model, batch, by_class), weight * plain) < 1e-9


def test_continual_updates_are_as_large_as_the_weights_say(batch: Batch) -> None:
    moved = []
    for weight in (1.0, 40.0):
        model = network()
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-9 / weight)
        weights = torch.full((6,), weight, dtype=torch.float64)
        ContinualEP(optimizer, T, 10, 0.3).weighing(weights)(model, *batch)
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        moved.append(after - before)
    assert relative_error(moved[1], moved[0]) < 1e-5


def test_weights_that_are_not_one_for_each_sample_are_refused(batch: Batch) -> None:
    with pytest.raises(ValueError, match=r"weights: expected one value per sample, shape \(6,\)"):
        estimate(network(), batch, ESTIMATORS["EP"].weighing(torch.ones(5).double()))


@pytest.mark.parametrize("readout", READOUTS)
def test_theorem_1_holds_step_by_step_with_a_readout(readout: str, batch: Batch) -> None:
    model = network(READOUTS[readout]())
    cost, betas, errors = CrossEntropy(), [1e-2, 1e-3, 1e-4], []
    truth = bptt_process(model, *batch, free_steps=T, nudged_steps=8, cost=cost)
    for beta in betas:
        found = ep_process(model, *batch, free_steps=T, nudged_steps=8, beta=beta, cost=cost)
        apart = [
            (found.parameters[name] + truth.parameters[name]).flatten() for name in found.parameters
        ]
        apart += [(a + b).flatten() for a, b in zip(found.states, truth.states, strict=True)]
        errors.append(float(torch.cat(apart).norm()))
    assert slope(betas, errors) == pytest.approx(1, abs=0.1)
    for name, steps in truth.parameters.items():
        if name.startswith("readout."):
            # The last copy alone is seen by the cost.
            assert steps[0].any()
            assert not steps[1:].any()


def test_a_readout_learns_by_the_mean_of_the_gradients_at_both_nudged_states(
    batch: Batch,
) -> None:
    x, y = batch
    model, cost = network(nn.Linear(5, 3)), CrossEntropy()
    both: tuple[Nudging, ...] = ("symmetric", "one-sided")
    for nudging in both:
        model.zero_grad()
        found = EquilibriumPropagation(T, 20, 0.5, nudging, cost=cost)(model, x, y)
        expected = torch.zeros(3, 5, dtype=torch.float64)
        for phase in found.nudged:
            p = model.readout(phase.state[-1]).softmax(1)
            expected += (p - y).t() @ phase.state[-1] / len(x) / len(found.nudged)
        weight = model.get_parameter("readout.weight")
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, expected)


def test_the_output_layer_is_nudged_by_what_the_readout_hands_back(batch: Batch) -> None:
    """β Wᵀ (y − softmax(W s)), whoever computes it."""
    x, y = batch
    linear = nn.Linear(5, 3).double()
    model, other = network(linear), network(Logits(linear).double())
    state = relax(model, x, 20).state
    expected = 0.3 * (y - linear(state[-1]).softmax(1)) @ linear.weight
    for of in (model, other):
        force = Nudge(CrossEntropy(), y, 0.3, of)(state)
        torch.testing.assert_close(force, expected)


def test_continual_updates_of_frozen_weights_sum_to_those_of_ep_with_a_readout(
    batch: Batch,
) -> None:
    model = network(nn.Linear(5, 3))
    eta, cost = 1e-9, CrossEntropy()
    for make in (
        lambda p: torch.optim.SGD(p, eta),
        lambda p: torch.optim.SGD(p, eta, momentum=1e-12),  # not the plain rule
    ):
        ep, continual = copy.deepcopy(model), copy.deepcopy(model)
        EquilibriumPropagation(T, 15, 0.3, cost=cost)(ep, *batch)
        ContinualEP(make(continual.parameters()), T, 15, 0.3, cost=cost)(continual, *batch)
        for old, new, of in zip(
            model.parameters(), continual.parameters(), ep.parameters(), strict=True
        ):
            assert of.grad is not None
            torch.testing.assert_close((old - new) / eta, of.grad, rtol=1e-3, atol=1e-5)


def test_plain_descent_moves_a_readout_as_an_optimizer_would(batch: Batch) -> None:
    one, other = network(nn.Linear(5, 3)), network(nn.Linear(5, 3))
    other.load_state_dict(one.state_dict())
    cost = CrossEntropy()
    rates = [0.1, 0.2, 0.3]
    direct = torch.optim.SGD(one.parameter_groups(rates))
    EquilibriumPropagation(30, 10, 0.3, "symmetric", cost=cost, optimizer=direct)(one, *batch)
    optimizer = torch.optim.SGD(other.parameter_groups(rates))
    EquilibriumPropagation(30, 10, 0.3, "symmetric", cost=cost)(other, *batch)
    optimizer.step()
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_a_nudge_inside_is_added_to_what_rho_is_given(batch: Batch) -> None:
    x, y = batch
    for updates in get_args(Updates):
        model = PrototypicalNetwork(dense(4, 6, 3), "tanh", updates=updates, nudge="inside")
        model.double()
        state = relax(model, x, 30).state
        drive, force = model.drive(x), Nudge(SquaredError(), y, 0.4)(state)
        # Of two layers the output goes first, and sees the hidden one where it was.
        expected = (model.chain[1].up(state[0])[0] + force).tanh()
        torch.testing.assert_close(model.step(drive, state, force)[-1], expected)


def test_a_user_s_own_model_has_a_readout_too(batch: Batch) -> None:
    class Read(UserPhi):
        def __init__(self) -> None:
            super().__init__()
            super(UserPhi, self).__init__([5, 3], readout=nn.Linear(3, 3))
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

    torch.manual_seed(0)
    model, cost = Read().double(), CrossEntropy()
    truth = estimate(model, batch, RecurrentBackprop(T, adjoint_tolerance=1e-13, cost=cost))
    found = estimate(model, batch, EquilibriumPropagation(T, T, 1e-3, "symmetric", cost=cost))
    assert relative_error(found, truth) < 1e-5
    assert model.architecture["readout"].startswith("Linear")


def test_a_module_called_readout_by_a_user_is_left_alone(batch: Batch) -> None:
    model = UserPhi().double()
    model.add_module("readout", nn.Linear(3, 3).double())
    state = relax(model, batch[0], 20).state
    assert torch.equal(model.prediction(state), state[-1])
    assert model.output_shape == (3,)


def test_images_of_the_last_layer_are_read_in_one_row() -> None:
    chain = convolutional((1, 8, 8), (3,), kernel=3, padding=1)
    model = PrototypicalNetwork(chain, "hard-sigmoid", readout=nn.Linear(48, 10))
    x, y = torch.rand(5, 1, 8, 8), torch.eye(10)[:5]
    found = EquilibriumPropagation(4, 2, 0.5, cost=CrossEntropy())(model, x, y)
    assert model.prediction(found.free.state).shape == (5, 10)
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    ("readout", "error", "message"),
    [
        (nn.Linear(4, 3), ValueError, "readout: expected one that takes the 5 units"),
        ("softmax", TypeError, r"readout: expected a module such as nn.Linear\(5, 10\), got str"),
        (nn.Flatten(0), ValueError, "readout: expected what it says of every sample"),
        (
            nn.Sequential(nn.Linear(5, 3), nn.Softmax(0)),
            ValueError,
            "readout: expected one that looks at every sample alone",
        ),
        (nn.LazyLinear(3), ValueError, "readout: expected one that knows its sizes"),
    ],
)
def test_a_readout_that_does_not_fit_is_refused(
    readout: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        network(readout)


@given(
    st.lists(st.floats(-20, 20), min_size=2, max_size=6),
    st.lists(st.floats(0, 1), min_size=6, max_size=6),
    st.floats(0.1, 30),
)
def test_the_cross_entropy_is_that_of_a_softmax_and_its_gradient_that_of_autograd(
    outputs: list[float], targets: list[float], scale: float
) -> None:
    output = torch.tensor([outputs, outputs[::-1]], dtype=torch.float64)
    target = torch.tensor([targets[: len(outputs)], targets[-len(outputs) :]], dtype=torch.float64)
    cost = CrossEntropy(scale)
    torch.testing.assert_close(cost.gradient(output, target), Cost.gradient(cost, output, target))
    exponentials = (scale * (output - output.amax(1, keepdim=True))).exp()
    logs = scale * (output - output.amax(1, keepdim=True)) - exponentials.sum(1, True).log()
    torch.testing.assert_close(cost(output, target), -(target * logs).sum(1) / scale)


def test_the_weight_of_a_sample_is_that_of_its_class() -> None:
    output, target = torch.rand(3, 3), torch.eye(3)
    cost = Weighted(SquaredError(), [1.0, 0.0, 5.0])
    plain = SquaredError()(output, target)
    torch.testing.assert_close(cost(output, target), plain * torch.tensor([1.0, 0.0, 5.0]))
    torch.testing.assert_close(cost.gradient(output, target), Cost.gradient(cost, output, target))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: CrossEntropy(0), ValueError, "scale: expected a finite number > 0, got 0"),
        (lambda: CrossEntropy(math.inf), ValueError, "scale: expected a finite number > 0"),
        (lambda: Weighted(SquaredError(), []), ValueError, "weights: expected finite numbers"),
        (lambda: Weighted(SquaredError(), [-1.0]), ValueError, "weights: expected finite numbers"),
        (
            lambda: Weighted(SquaredError(), [1.0])(torch.rand(2, 3), torch.rand(2, 3)),
            ValueError,
            "target: expected 1 classes, as there are weights, got",
        ),
        (
            lambda: CrossEntropy()(torch.rand(2, 3), torch.rand(2, 4)),
            ValueError,
            "target: expected the shape of the output",
        ),
    ],
)
def test_a_cost_that_cannot_be_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("kind", [nn.Dropout(), nn.BatchNorm1d(5)], ids=str)
def test_a_readout_that_changes_in_training_mode_is_refused_as_such_a_network_is(
    kind: nn.Module, batch: Batch
) -> None:
    model = network(nn.Sequential(kind, nn.Linear(5, 3)))
    assert kind.training
    with pytest.raises(ValueError, match=r"in training mode, .*put it into evaluation mode"):
        EquilibriumPropagation(5, 2, 0.5)(model, *batch)
    kind.eval()
    EquilibriumPropagation(5, 2, 0.5)(model, *batch)


@pytest.mark.parametrize(
    "cost", [CrossEntropy(), Weighted(SquaredError(), [1.0, 1.0, 2.0])], ids=str
)
def test_targets_that_are_no_classes_are_refused_by_costs_of_classes(
    cost: Cost, batch: Batch
) -> None:
    x, y = batch
    estimator = EquilibriumPropagation(5, 2, 0.5, cost=cost)
    for target in (y - 0.5, 2 * y, y * 0):
        with pytest.raises(
            ValueError, match=r"expected one-hot vectors, or probabilities that sum"
        ):
            estimator(network(), x, target)
    estimator(network(), x, 0.5 * y + 0.5 / 3)


def test_the_softmax_of_one_output_is_refused(batch: Batch) -> None:
    estimator = EquilibriumPropagation(5, 2, 0.5, cost=CrossEntropy())
    target = torch.ones(6, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="expected at least two outputs, one for each class"):
        estimator(network(classes=1), batch[0], target)


def test_weights_may_be_a_tensor_but_not_all_zero() -> None:
    assert Weighted(SquaredError(), torch.tensor([1.0, 2.0])).weights == (1.0, 2.0)
    with pytest.raises(ValueError, match="not all of them 0"):
        Weighted(SquaredError(), [0.0, 0.0])


def test_a_checkpoint_knows_where_a_nudge_acts() -> None:
    one, other = (
        PrototypicalNetwork(dense(4, 3), nudge=place).architecture for place in get_args(NudgePlace)
    )
    assert (one["nudge"], other["nudge"]) == ("outside", "inside")


def trained(model: LayeredNetwork, cost: Cost) -> list[str]:
    """What is said when the training begins."""
    data = load_dataset("digits")
    small = Dataset("few", Split(data.train.images[:20], data.train.labels[:20]), data.test, 10)
    layers = len(model.chain) + model.has_readout
    optimizer = torch.optim.SGD(model.parameter_groups([0.1] * layers))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        next(train(model, EquilibriumPropagation(5, 2, 0.5, cost=cost), optimizer, small, epochs=1))
    return [str(one.message) for one in said if "softmax" in str(one.message)]


def test_a_softmax_of_outputs_that_are_kept_too_close_together_is_said_to_be_one() -> None:
    def chain(**options: Any) -> LayeredNetwork:
        return PrototypicalNetwork(dense(64, 8, 10), "scaled-sigmoid", **options)

    # e / (e + 9) of ten classes
    (said,) = trained(chain(), CrossEntropy())
    assert "kept in an interval of width 1, of which it comes to 0.23 at most" in said
    assert "CrossEntropy(scale=10)" in said
    assert trained(chain(), Weighted(CrossEntropy(), [1.0] * 10))
    assert not trained(chain(), CrossEntropy(10.0))
    assert not trained(chain(), SquaredError())
    assert not trained(chain(readout=nn.Linear(10, 10)), CrossEntropy())
    clipped = RealTimeNetwork(dense(64, 8, 10), clip=(0.0, 1.0))
    assert trained(clipped, CrossEntropy())
    assert not trained(RealTimeNetwork(dense(64, 8, 10)), CrossEntropy())
