"""What is said of how phases came to rest, on cases worked out by hand."""

import weakref
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from eqprop.core.models import State, VectorFieldModel
from eqprop.core.phases import relax
from eqprop.core.settling import Relaxation
from eqprop.data.dataset import Dataset, Split
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.recurrent_backprop import RecurrentBackprop
from eqprop.runs.doubts import guessing_warning, settling_doubts, settling_warning
from eqprop.settings.experiment import Experiment
from eqprop.training.evaluation import evaluate, guessing_error
from eqprop.training.loop import Metrics, train
from eqprop.training.settled import AT_REST, Settled, Tally


class Approaching(VectorFieldModel):
    """s ← r s + x with a rate r per sample, its first pixel: it moves by rᵗ⁻¹ x in step t."""

    def __init__(self) -> None:
        super().__init__([2])
        self.offset = nn.Parameter(torch.zeros(2))

    def drive(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def field(self, drive: Tensor, state: State) -> State:
        rate = drive[:, :1]
        return (rate * state[0] + torch.ones_like(state[0]) + self.offset,)


def split(rates: list[float]) -> Split:
    pixels = torch.tensor(rates, dtype=torch.float64).repeat_interleave(2).view(-1, 1, 1, 2)
    return Split(pixels, torch.zeros(len(rates), dtype=torch.int64))


def model() -> Approaching:
    return Approaching().double()


# At a rate of ½ step t moves by 2^(1−t): the first even t with at most 2^-6 is 8. At a rate of 0
# the first step arrives. At a rate of −1 the state goes from 0 to 1 and back for ever.
HALF, AT_ONCE, CYCLE, CRAWL = 0.5, 0.0, -1.0, 0.999


def test_an_evaluation_counts_steps_and_what_does_not_rest() -> None:
    found = evaluate(model(), split([HALF, AT_ONCE, CYCLE, CRAWL]), 20, tolerance=2**-6)
    assert found.steps == (8 + 2 + 20 + 20) / 4
    assert found.most_steps == 20
    assert found.restless == 50
    assert found.cycling == 25


def test_batches_of_an_evaluation_do_not_change_what_is_counted() -> None:
    of = split([HALF, AT_ONCE, CYCLE, CRAWL, HALF])
    found = [evaluate(model(), of, 20, tolerance=2**-6, batch_size=n) for n in (1, 2, 5)]
    assert [f.steps for f in found] == [(8 + 2 + 20 + 20 + 8) / 5] * 3
    assert [f.cycling for f in found] == [20] * 3


def test_what_rests_is_not_said_to_go_to_and_fro() -> None:
    # −1.05 moves by 1.05 in the second step, which is rest, though by more in the next; 1.2 by more
    # and more, and never back.
    found = evaluate(model(), split([-1.05, 1.2]), 6, tolerance=1.06)
    assert (found.steps, found.restless, found.cycling) == ((2 + 6) / 2, 50, 0)


def test_without_a_tolerance_all_take_all_steps_and_rest_is_judged_by_a_constant() -> None:
    # 2^(1−t) is at most 0.01 from t = 8 on.
    assert 2**-7 <= AT_REST < 2**-6
    for steps, restless in ((7, 50), (8, 0)):
        found = evaluate(model(), split([HALF, AT_ONCE]), steps)
        assert (found.steps, found.most_steps, found.restless) == (steps, steps, restless)


def test_a_tally_of_nothing_says_nothing() -> None:
    assert Tally().settled() is None


def test_a_tally_weighs_samples_not_mini_batches() -> None:
    tally, network = Tally(), model()
    for rates in ([HALF, HALF, HALF], [AT_ONCE]):
        x = split(rates).images
        tally.add(relax(network, x, 20, tolerance=2**-6))
    assert tally.settled() == Settled((3 * 8 + 2) / 4, 8, 0)


def test_a_sample_rests_when_all_of_its_layers_do() -> None:
    state = (torch.zeros(3, 4), torch.zeros(3, 2))
    moved = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    tally = Tally()
    tally.add(Relaxation(state, torch.tensor([5, 5, 5]), moved))
    assert tally.settled() == Settled(5, 5, 100 * 2 / 3)


def test_an_epoch_reports_the_steps_of_its_phases() -> None:
    data = Dataset("rates", split([HALF, AT_ONCE]), split([CYCLE, AT_ONCE]), 2)
    network = model()
    still = torch.optim.SGD(network.parameters(), lr=0.0)
    estimator = EquilibriumPropagation(20, 6, 0.5, "symmetric", tolerance=2**-6)
    (found,) = train(network, estimator, still, data, epochs=1, batch_size=2)
    assert (found.free_steps, found.most_free_steps) == ((8 + 2) / 2, 8)
    assert found.nudged_steps is not None
    assert 2 <= found.nudged_steps <= 6
    assert found.restless == 0
    assert (found.test_restless, found.test_cycling) == (50, 50)


def test_a_nudged_phase_rests_in_proportion_to_the_nudge() -> None:
    """At a rate of 0, s* = 1, and a unit whose target is 0 follows d ← −β (1 + d), d = s − s*.

    With β = ½ it moves by 2⁻ᵗ in step t; the other unit, whose target is 1, does not move.
    """
    at_once = split([AT_ONCE, AT_ONCE])
    data = Dataset("at once", at_once, at_once, 2)

    def epoch(nudged_steps: int, tolerance: float | None) -> Metrics:
        network = model()
        still = torch.optim.SGD(network.parameters(), lr=0.0)
        estimator = EquilibriumPropagation(4, nudged_steps, 0.5, tolerance=tolerance)
        return next(train(network, estimator, still, data, epochs=1))

    # To come to 2⁻⁶ β takes 7 steps; looked at in every other one, 8.
    found = epoch(20, 2**-6)
    assert (found.nudged_steps, found.most_nudged_steps, found.nudged_restless) == (8, 8, 0)
    found = epoch(6, 2**-6)
    assert (found.nudged_steps, found.most_nudged_steps, found.nudged_restless) == (6, 6, 100)
    # Without a tolerance likewise, to AT_REST β.
    assert 2**-8 <= AT_REST / 2 < 2**-7 <= AT_REST
    assert [epoch(K, None).nudged_restless for K in (7, 8)] == [100, 0]
    assert epoch(7, None).restless == 0


def test_an_estimator_without_nudged_phases_reports_none() -> None:
    data = Dataset("rates", split([HALF, AT_ONCE]), split([AT_ONCE]), 2)
    network = model()
    still = torch.optim.SGD(network.parameters(), lr=0.0)
    (found,) = train(network, RecurrentBackprop(12), still, data, epochs=1, batch_size=2)
    assert (found.free_steps, found.most_free_steps) == (12, 12)
    assert (found.nudged_steps, found.most_nudged_steps) == (None, None)
    assert found.nudged_restless is None


def metrics(restless: float, test_restless: float, test_cycling: float) -> Metrics:
    return Metrics(
        1,
        *(5.0, 0.1, 5.0, 0.1, 1.0),
        nudged_steps=8.0,
        restless=restless,
        test_restless=test_restless,
        test_cycling=test_cycling,
    )


CALM, UNREST, CYCLING = metrics(5, 5, 5), metrics(12, 11, 0), metrics(12, 11, 9)
ONE_SIDED = Experiment(nudging="one-sided")
SYMMETRIC = Experiment(nudging="symmetric")


def test_too_much_unrest_is_said_with_what_to_do() -> None:
    said = settling_warning(ONE_SIDED, UNREST)
    assert said.startswith(
        "12 % of the training samples did not come to rest within T = 20 steps (to 0.01 in a step)"
    )
    remedies = "--updates alternating, smaller learning rates or --free-steps beyond 20"
    assert said.endswith(f"; try {remedies}")
    assert "two-cycles" not in said
    assert "\n" not in said


def test_two_cycles_are_named_and_more_steps_are_no_remedy() -> None:
    said = settling_warning(ONE_SIDED, CYCLING)
    assert "; 9.0 % of the test samples go to and fro between two states (two-cycles); " in said
    assert said.endswith("; try --updates alternating or smaller learning rates")
    # Where only few of those that do not rest go to and fro, they are.
    assert "--free-steps" in settling_warning(ONE_SIDED, metrics(12, 11, 2))


def test_only_what_applies_is_advised() -> None:
    alternating = settling_warning(ONE_SIDED.override({"updates": "alternating"}), UNREST)
    assert "--updates" not in alternating
    assert "--epsilon" not in alternating
    in_real_time = ONE_SIDED.override({"network": "real-time", "epsilon": 0.5})
    said = settling_warning(in_real_time, UNREST)
    assert said.endswith(" or a larger --epsilon")
    assert "; try --updates newton, " in said
    # A step of ε = 0.5 moves half as far as a velocity says.
    assert "(to 0.005 in a step)" in said
    # What goes to and fro in real time overshoots: downhill in small enough steps nothing does.
    assert settling_warning(in_real_time, CYCLING).endswith(" or an --epsilon below 0.5")
    # Units that differ do not go by Newton's steps.
    said = settling_warning(in_real_time.override({"gain_spread": 0.1}), UNREST)
    assert "; try --updates alternating, " in said
    # Newton's steps have none.
    said = settling_warning(in_real_time.override({"updates": "newton"}), UNREST)
    assert said.endswith("; try smaller learning rates or --free-steps beyond 20")
    assert "(to 0.01 in a step)" in said


@pytest.mark.parametrize("metrics", [CALM, Metrics(1, 5.0, 0.1, 5.0, 0.1, 1.0)])
def test_rest_and_runs_of_earlier_versions_are_not_warned_of(metrics: Metrics) -> None:
    assert not settling_doubts(ONE_SIDED, metrics)
    assert not settling_warning(ONE_SIDED, metrics)


@pytest.mark.parametrize(
    ("experiment", "metrics", "doubts"),
    [
        (ONE_SIDED, UNREST, {"restless"}),
        (ONE_SIDED, CYCLING, {"restless", "cycling"}),
        (ONE_SIDED.override({"nudging": "random-sign"}), UNREST, {"restless"}),
        (SYMMETRIC, UNREST, set()),
        (SYMMETRIC, CYCLING, {"cycling"}),
        (ONE_SIDED.override({"estimator": "bptt"}), UNREST, set()),
        (ONE_SIDED.override({"estimator": "bptt"}), CYCLING, {"cycling"}),
        # Of opposite nudges each sample takes as many steps as it needs.
        (SYMMETRIC.override({"tolerance": 0.01}), UNREST, {"restless"}),
        # Recurrent backpropagation has no nudge that could be opposite.
        (
            SYMMETRIC.override({"estimator": "rbp"}),
            replace(UNREST, nudged_steps=None),
            {"restless"},
        ),
    ],
)
def test_unrest_is_doubtful_unless_it_cancels_and_cycles_always_are(
    experiment: Experiment, metrics: Metrics, doubts: set[str]
) -> None:
    assert settling_doubts(experiment, metrics) == doubts
    assert bool(settling_warning(experiment, metrics)) == bool(doubts)


def test_what_is_left_of_a_free_phase_cancels_between_opposite_nudges() -> None:
    """Why the one is warned of and the other is not: s ← r s + 1 + c, cut short after T steps.

    As β → 0 the gradient with respect to c is Σₖ rᴷ⁻¹⁻ᵏ (s_T₊ₖ − y), k from 0 to K − 1. One-sided,
    −(s_T₊ₖ − s_T) / β is in the estimate too.
    """
    T, K, beta, r = 6, 4, 1e-5, 0.9
    y = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    s = [(1 - r**t) / (1 - r) for t in range(T + K + 1)]
    expected = torch.stack([r ** (K - 1 - k) * (s[T + k] - y[0]) for k in range(K)]).sum(0)

    def gradient(nudging: Literal["one-sided", "symmetric"]) -> Tensor:
        network = model()
        EquilibriumPropagation(T, K, beta, nudging)(network, split([r]).images, y)
        assert network.offset.grad is not None
        return network.offset.grad

    torch.testing.assert_close(gradient("symmetric"), expected, rtol=1e-6, atol=0.0)
    left = (s[T + K] - s[T]) / beta
    torch.testing.assert_close(gradient("one-sided"), expected - left, rtol=1e-6, atol=0.0)
    assert left > 1000 * expected.max()


@pytest.mark.parametrize(
    ("epoch", "error", "says"),
    [
        # Of 400 guesses, each right with p = 0.1, 10 ± 1.5 % are: 85.5 % is three of these away.
        (2, 91.0, True),
        (2, 90.0, True),
        (5, 85.6, True),
        (5, 85.4, False),
        (5, 3.0, False),
        # A slow one may have learnt nothing yet.
        (1, 90.0, False),
    ],
)
def test_a_network_that_only_guesses_is_said_to(epoch: int, error: float, says: bool) -> None:
    found = Metrics(epoch, error, 0.5, error, 0.5, 1.0)
    said = guessing_warning(Experiment(beta=50.0, learning_rates=(5.0, 5.0)), found, 90.0, 400)
    assert bool(said) == says
    if says:
        assert f"{error:.2f} % is, but for chance, that of guessing (90.00 %)" in said
        assert "--learning-rates, mostly smaller ones than 5.0 5.0" in said
        assert "--beta than 50" in said


def test_a_run_of_one_epoch_says_it_at_once() -> None:
    found = Metrics(1, 90.0, 0.5, 90.0, 0.5, 1.0)
    assert guessing_warning(Experiment(epochs=1), found, 90.0, 400)


def test_guessing_is_to_answer_the_most_frequent_class_always() -> None:
    labels = torch.tensor([2, 2, 2, 0, 1])
    assert guessing_error(Split(torch.zeros(5, 1, 1, 1), labels)) == pytest.approx(40)


def test_a_tally_lets_go_of_what_it_has_counted() -> None:
    """An epoch has thousands of mini-batches; what is kept of them must not grow with it."""
    tally, kept = Tally(), []
    for number in range(200):
        steps = torch.full((3,), number)
        kept.append(weakref.ref(steps))
        tally.add(Relaxation((torch.zeros(3, 1),), steps, torch.zeros(3, 1), None))
        del steps
    assert sum(of() is not None for of in kept) < 50
    assert tally.settled() == Settled(99.5, 199, 0.0)


def test_of_states_with_noise_it_is_not_said_that_they_move() -> None:
    noisy = ONE_SIDED.override({"state_noise": 0.04})
    assert not settling_doubts(noisy, UNREST)
    assert not settling_warning(noisy, UNREST)
