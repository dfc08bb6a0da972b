"""The loop that settles a model."""

import pytest
import torch
from torch import Tensor, nn

from eqprop.core.costs import Cost, SquaredError
from eqprop.core.models import State, VectorFieldModel
from eqprop.core.nudging import Nudge
from eqprop.core.phases import relax
from eqprop.core.stepping import NonFiniteError, trajectory, transitions
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.recurrent_backprop import RecurrentBackprop
from eqprop.networks.connections.chains import dense
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from measuring import peak_states


class Halving(VectorFieldModel):
    """s ← s/2 + x: after t steps from 0, s = 2x (1 − 2⁻ᵗ); it moves by x 2⁻ᵗ⁺¹ in step t."""

    def __init__(self) -> None:
        super().__init__([1, 1])
        self.offset = nn.Parameter(torch.zeros(1))

    def field(self, drive: Tensor, state: State) -> State:
        return tuple(s / 2 + drive + self.offset for s in state)


ONE = torch.ones(1, 1)


def test_steps_are_taken_from_zero_as_many_as_asked() -> None:
    relaxed = relax(Halving(), torch.ones(3, 1), 3)
    assert relaxed.steps.tolist() == [3, 3, 3]
    assert relaxed.state[0].tolist() == [[2 * (1 - 2**-3)]] * 3
    assert relaxed.moved.tolist() == [[2**-2, 2**-2]] * 3
    assert relaxed.residual == (2**-2, 2**-2)


def test_the_residual_of_a_layer_is_its_largest_over_the_samples() -> None:
    relaxed = relax(Halving(), torch.tensor([[1.0], [-4.0], [2.0]]), 1)
    assert relaxed.moved.tolist() == [[1, 1], [4, 4], [2, 2]]
    assert relaxed.residual == (4, 4)


def test_whether_a_sample_rests_takes_a_limit() -> None:
    relaxed = relax(Halving(), torch.tensor([[1.0], [4.0]]), 3)
    assert relaxed.rests(0.25).tolist() == [True, False]
    with pytest.raises(ValueError, match="limit: expected one, .* got none"):
        relaxed.rests()


def test_a_relaxation_goes_on_where_it_is_told_to_start() -> None:
    half_way = relax(Halving(), ONE, 3).state
    assert torch.equal(
        relax(Halving(), ONE, 4, state=half_way).state[0], relax(Halving(), ONE, 7).state[0]
    )


def test_it_stops_at_the_first_check_within_the_tolerance() -> None:
    # Step t moves by 2^(1−t), so that step 7 is the first within 2^-6.
    for check_every, stop in {1: 7, 2: 8, 10: 10}.items():
        relaxed = relax(Halving(), ONE, 50, tolerance=2**-6, check_every=check_every)
        assert (relaxed.steps.item(), relaxed.rests().item()) == (stop, True)
        assert relaxed.residual == (2.0 ** (1 - stop), 2.0 ** (1 - stop))
    assert relax(Halving(), ONE, 50, tolerance=2**-6).steps == 8, "of two transitions each"


@pytest.mark.parametrize("most", [7, 9])
def test_the_last_step_is_checked_wherever_it_lies(most: int) -> None:
    relaxed = relax(Halving(), ONE, most, tolerance=2**-6, check_every=10)
    assert (relaxed.steps.item(), relaxed.rests().item()) == (most, True)


def test_a_fall_is_as_much_of_a_move_as_a_rise() -> None:
    assert relax(Halving(), -ONE, 3).residual == relax(Halving(), ONE, 3).residual


def test_it_says_what_did_not_come_to_rest_and_by_how_much() -> None:
    relaxed = relax(Halving(), ONE, 5, tolerance=2**-6)
    assert (relaxed.steps.item(), relaxed.rests().item()) == (5, False)
    assert relaxed.residual == (2**-4, 2**-4)


def test_a_tolerance_of_zero_stops_only_at_an_exact_fixed_point() -> None:
    relaxed = relax(Halving(), ONE, 1000, tolerance=0.0)
    assert relaxed.rests()
    assert relaxed.steps < 100
    assert relaxed.state[0].item() == 2


def test_what_is_not_a_number_is_not_at_rest() -> None:
    class Lost(Halving):
        def field(self, drive: Tensor, state: State) -> State:
            return state[0], state[1] * float("nan")

    with pytest.raises(NonFiniteError, match="output layer"):
        relax(Lost(), ONE, 20, tolerance=1e-3)


def test_a_trajectory_has_every_state() -> None:
    path = trajectory(Halving(), ONE, 3)
    assert [state[1].item() for state in path] == [0, 1, 1.5, 1.75]


def test_transitions_give_the_states_before_and_after_each_step() -> None:
    model = Halving()
    path = list(transitions(model, model.drive(ONE), model.initial_state(ONE), 3))
    assert [(b[0].item(), a[0].item()) for b, a in path] == [(0, 1), (1, 1.5), (1.5, 1.75)]


def test_states_whose_sum_overflows_are_finite() -> None:
    huge = tuple(torch.full((2, 1), 3e38) for _ in range(2))

    class Resting(Halving):
        def field(self, drive: Tensor, state: State) -> State:
            return state

    assert relax(Resting(), ONE, 2, state=huge).state[0].isfinite().all()


def test_the_drive_is_computed_once_per_relaxation() -> None:
    calls = []

    class Counting(Halving):
        def drive(self, x: Tensor) -> Tensor:
            calls.append(x)
            return x

    relax(Counting(), ONE, 9)
    assert len(calls) == 1
    EquilibriumPropagation(9, 9, 0.1, "symmetric")(Counting(), ONE, ONE)
    # once by the estimator, and once by the learning rule of a vector field
    assert len(calls) == 3
    RecurrentBackprop(9)(Counting(), ONE, ONE)
    assert len(calls) == 4


def test_the_nudge_pulls_the_output_against_the_gradient_of_the_cost() -> None:
    output, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 5.0]])
    force = Nudge(SquaredError(), target, 0.5)((torch.zeros(1, 3), output))
    assert force.tolist() == [[-0.5, 1.5]]


def test_a_cost_of_ones_own_needs_no_gradient_written() -> None:
    class Quartic(Cost):
        def __call__(self, output: Tensor, target: Tensor) -> Tensor:
            return (output - target).pow(4).sum(1)

    gradient = Quartic().gradient(torch.tensor([[3.0], [1.0]]), torch.ones(2, 1))
    assert gradient.tolist() == [[32.0], [0.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1 transition, got 0"),
        ({"steps": 3, "tolerance": -1.0}, "tolerance: expected a finite number >= 0, got -1"),
        ({"steps": 3, "tolerance": float("nan")}, "tolerance"),
        ({"steps": 3, "tolerance": float("inf")}, "tolerance: expected a finite number >= 0"),
        ({"steps": 3, "tolerance": 1.0, "least": 0}, "least: expected at least 1 transition"),
        ({"steps": 3, "check_every": 0}, "check_every"),
        ({"steps": 3.0}, "steps: expected whole numbers, got 3.0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        relax(Halving(), ONE, **arguments)


def test_a_state_that_stops_being_finite_is_named_with_its_phase_and_step() -> None:
    class Exploding(VectorFieldModel):
        """Hidden layer 1 stays 0; the output squares itself: 2, 4, 16, … 2^64 in step 7."""

        def __init__(self) -> None:
            super().__init__([1, 1])

        def field(self, drive: Tensor, state: State) -> State:
            return state[0], (state[1] + 2 * (state[1] == 0)).square()

    with pytest.raises(
        NonFiniteError, match="the state of output layer .* in the free phase at step 7 of 20"
    ):
        relax(Exploding(), ONE, 20)  # 2^(2^7) = 2^128 is beyond float32
    estimator = EquilibriumPropagation(2, 20, 0.1)
    with pytest.raises(NonFiniteError, match=r"in the nudged phase \(beta \+0.1\) at step"):
        estimator(Exploding(), ONE, ONE)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_input_that_is_not_finite_is_not_blamed_on_the_dynamics(value: float) -> None:
    network = PrototypicalNetwork(dense(3, 4, 2))
    x = torch.rand(2, 3)
    x[1, 2] = value
    with pytest.raises(NonFiniteError, match="what the input sends was not finite before the free"):
        relax(network, x, 5)


def test_an_unstable_time_step_is_reported_and_not_trained_on() -> None:
    torch.manual_seed(0)
    network = RealTimeNetwork(dense(3, 4, 2), "tanh", epsilon=5.0)
    with pytest.raises(NonFiniteError, match="hidden layer 1|output layer"):
        relax(network, torch.rand(2, 3), 500)


@pytest.mark.parametrize("nudging", ["one-sided", "symmetric"])
def test_the_memory_of_equilibrium_propagation_does_not_grow_with_its_steps(nudging: str) -> None:
    x, y = torch.rand(2, 4), torch.rand(2, 3)

    def peak(t: int, k: int) -> int:
        model = PrototypicalNetwork(dense(4, 5, 3))
        estimator = EquilibriumPropagation(t, k, 0.1, nudging)  # pyright: ignore[reportArgumentType]
        return peak_states(model, lambda: estimator(model, x, y))

    assert peak(5, 5) == peak(200, 5) == peak(5, 200) == peak(200, 200) < 9
