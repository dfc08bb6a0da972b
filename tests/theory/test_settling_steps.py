"""How many steps the phases need: T and K from counting, on models that can be counted by hand."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eqprop.analysis.settling_steps import PhaseSteps, SettlingSteps, settling_steps
from eqprop.core.models import State, VectorFieldModel
from eqprop.core.stepping import trajectory
from eqprop.networks.connections.chains import dense
from eqprop.networks.prototypical import PrototypicalNetwork
from zoo import Batch


class Shrinking(VectorFieldModel):
    """s ← λ s + x: from 0 it moves by |x| λ^(t−1) in step t, to s_* = x / (1 − λ).

    A nudge turns λ into λ − εβ: from s_* it moves by εβ |y − s_*| (λ − εβ)^(t−1) in step t.
    """

    def __init__(self, rate: float, epsilon: float = 1.0) -> None:
        super().__init__([1], epsilon=epsilon)
        self.rate = rate
        self.offset = nn.Parameter(torch.zeros(1))

    def field(self, drive: Tensor, state: State) -> State:
        return (self.rate * state[0] + drive + self.offset,)


class Cascade(VectorFieldModel):
    """Each of three layers copies the one above it, and the last one copies x."""

    def __init__(self) -> None:
        super().__init__([1, 1, 1])
        self.offset = nn.Parameter(torch.zeros(1))

    def field(self, drive: Tensor, state: State) -> State:
        return state[1], state[2], drive + self.offset


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def counted(
    model: VectorFieldModel,
    x: Tensor,
    beta: float = 0.5,
    target: float | None = None,
    **settings: float | str,
) -> SettlingSteps:
    """One-sided unless it says otherwise; a free phase settles to the tolerance if symmetric."""
    y = torch.ones_like(x) if target is None else torch.full_like(x, target)
    return settling_steps(model.double(), x, y, beta=beta, **{"most": 200, **settings})  # type: ignore[arg-type]


# By hand


@pytest.mark.parametrize("rate", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("tolerance", [1e-2, 3e-5])
def test_t_is_what_the_rate_of_a_contraction_says(rate: float, tolerance: float) -> None:
    sizes = (1.0, 0.1, 7.0)
    settings = {"beta": 0.01, "tolerance": tolerance, "most": 1000, "nudging": "symmetric"}
    found = counted(Shrinking(rate), column(*sizes), **settings)
    expected = [1 + math.ceil(math.log(tolerance / size) / math.log(rate)) for size in sizes]
    assert found.free.steps.tolist() == expected
    assert found.free_steps == found.free.largest == max(expected)


def test_k_is_what_the_rate_under_the_nudge_says() -> None:
    # From s_* = 2 of rest to 0: the nudge of 0.1 moves it by 0.1 |y − 2| 0.4^(t−1), and rests
    # when that is at most 0.1 · 1e-3.
    found = counted(Shrinking(0.5), column(1.0), beta=0.1, tolerance=1e-3, target=5.0, most=200)
    assert found.nudged_steps == 1 + math.ceil(math.log(1e-3 / 3) / math.log(0.4))
    # Away from the target the rate is 0.6.
    both = counted(
        Shrinking(0.5), column(1.0), beta=0.1, tolerance=1e-3, target=5.0, nudging="symmetric"
    )
    assert [phase.phase for phase in both.nudged] == [
        "nudged phase (beta +0.1)",
        "nudged phase (beta -0.1)",
    ]
    slower = 1 + math.ceil(math.log(1e-3 / 3) / math.log(0.6))
    assert [phase.least(1) for phase in both.nudged] == [found.nudged_steps, slower]
    assert both.nudged_steps == slower


@pytest.mark.parametrize("beta", [0.25, -0.25, 2.0])
@pytest.mark.parametrize("missed", [1.0, 0.05, 0.0])
def test_a_symmetric_nudge_asks_less_of_the_free_phase(beta: float, missed: float) -> None:
    """What is left of it cancels between ±β; otherwise T grows as the nudge does less.

    That is a tenth of |β| times what the output misses the target by, at least a hundredth.
    """
    rates = {"tolerance": 2**-9, "beta": beta, "most": 40}
    one_sided, symmetric = (
        counted(Shrinking(0.5), column(1.0), target=2.0 + missed, nudging=way, **rates)
        for way in ("one-sided", "symmetric")
    )
    assert symmetric.free_steps == 10
    # Step t moves by 2^(1−t).
    effect = 0.1 * min(1.0, abs(beta) * max(0.01, missed))
    assert one_sided.free_steps == 1 + math.ceil(math.log2(2**9 / effect))


def test_in_real_time_it_is_the_velocity_that_must_be_small() -> None:
    one, fifth = (
        counted(Shrinking(0.5, epsilon=e), column(1.0), tolerance=2**-9 / e, nudging="symmetric")
        for e in (1.0, 0.2)
    )
    # Step t moves by 2^(1−t), and is to by no more than 2^-9.
    assert one.free_steps == fifth.free_steps == 10


def test_t_settles_the_share_and_one_step_less_does_not() -> None:
    # Sample n moves by 0.97 · 0.9^(t−1−n): to 1, it rests in step n + 1.
    x = column(*(0.97 * 0.9**-n for n in range(100)))
    found = counted(Shrinking(0.9), x, tolerance=1.0, share=0.99, nudging="symmetric")
    assert found.free.steps.tolist() == list(range(1, 101))
    assert (found.free.least(0.5), found.free.least(0.9), found.free_steps) == (50, 90, 99)
    assert (found.free.within(99), found.free.within(98)) == (0.99, 0.98)
    most = counted(Shrinking(0.9), x, tolerance=1.0, share=1.0, nudging="symmetric")
    assert most.free_steps == 100


def test_a_share_counts_samples_not_what_rounding_makes_of_them() -> None:
    steps = PhaseSteps("free phase", torch.arange(1, 101, dtype=torch.float64), 100, 0)
    for percent in range(1, 101):
        assert steps.least(percent / 100) == percent


# Where the nudge has to come


def test_k_lets_the_nudge_reach_the_lowest_layer() -> None:
    """From above it takes one step a layer; the lowest moves in the third step, then all rest."""
    found = counted(Cascade(), column(0.3), tolerance=1e-3)
    assert found.free_steps == 4, "three steps down, and one in which nothing moves"
    # The output, s ← x − β (s − y), moves by β^t |y − x| in step t from s_* = x.
    moves = [0.5**t * 0.7 for t in range(1, 60)]
    first = next(t for t, move in enumerate(moves, 1) if move <= 1e-3 * 0.5)
    # The lowest layer moves as the output did two steps before.
    assert found.nudged_steps == first + 2


@pytest.mark.parametrize(("updates", "least"), [("synchronous", 4), ("alternating", 3)])
def test_no_k_is_less_than_the_nudge_takes_to_come_everywhere(updates: str, least: int) -> None:
    """However large the tolerance: what has not been nudged yet is not at rest."""
    torch.manual_seed(0)
    network = PrototypicalNetwork(dense(4, 5, 5, 5, 3), "hard-sigmoid", updates=updates).double()  # type: ignore[arg-type]
    x, y = torch.rand(3, 4, dtype=torch.float64), torch.rand(3, 3, dtype=torch.float64)
    found = settling_steps(network, x, y, beta=0.1, tolerance=1e6, most=50)
    assert found.free_steps == 1
    assert found.nudged_steps == least
    assert found.nudged_within(least - 1) == 0


# What does not come to rest


def test_a_synchronous_two_cycle_is_named() -> None:
    """s ← x − s goes 0, x, 0, x, …"""
    found = counted(Shrinking(-1.0), column(*([1.0] * 3), *([0.0] * 97)), tolerance=1e-6, most=40)
    assert (found.free.restless, found.free.cycling, found.free_steps) == (3, 3, None)
    assert found.free.least(0.97) == 1
    assert found.said == (
        "no T settles 99 % of the 100 samples to 1e-06: in the free phase 97 % come to rest within "
        "40 steps, 3 % go to and fro between two states (a two-cycle); expected alternating "
        "updates (no two-cycles where ρ ≥ 0), a larger tolerance or more steps"
    )


def test_a_two_cycle_of_the_nudge_is_named_too() -> None:
    """s ← x + β (y − s) at β = 1 goes to and fro between s_* and y."""
    found = counted(Shrinking(0.0), column(0.25), beta=1.0, tolerance=1e-6, target=1.0)
    assert (found.free_steps, found.nudged_steps) == (2, None)
    (nudged,) = found.nudged
    assert (nudged.restless, nudged.cycling) == (1, 1)
    assert found.said.startswith(
        "T = 2 settles the one sample to 1e-06, but no K does: in the nudged phase (beta +1) 0 % "
        "come to rest within 200 steps, 100 % go to and fro between two states (a two-cycle)"
    )


def test_what_is_only_slow_is_no_two_cycle() -> None:
    found = counted(Shrinking(0.999), column(1.0), tolerance=1e-6, most=50)
    assert (found.free.restless, found.free.cycling, found.free.largest) == (1, 0, None)
    assert found.nudged == ()
    assert (found.nudged_steps, found.nudged_within(50)) == (None, 0)
    assert found.said.endswith(
        "in the free phase 0 % come to rest within 50 steps; expected a larger tolerance or more "
        "steps"
    )
    assert counted(Shrinking(0.999), column(1.0), tolerance=0.5, most=4000).free_steps is not None


def test_samples_that_do_not_rest_freely_are_not_nudged() -> None:
    # The first one never ends to go to and fro; at β = −1 the nudge of the other, s ← x + y, rests.
    found = counted(Shrinking(-1.0), column(1.0, 0.0), beta=-1.0, target=3.0, share=0.5)
    assert len(found.free.steps) == 2
    (nudged,) = found.nudged
    assert len(nudged.steps) == 1
    assert (found.free_steps, found.nudged_steps) == (1, 2)


# What is said


def test_the_sentence_says_t_k_the_share_and_the_tolerance() -> None:
    # Sample n moves by 2^(2−n−2t): five do by more than 2^-5 in step 1, and two samples in step 3.
    # β = ¼ undoes the rate; −¼ makes ½ of it, and from s_* it moves by ¼ |1 − s_*| 2^(1−t). That is
    # 2^-5 · ¼ in step 6; of the first two, which rest nearer to the target of 1, in step 5.
    x = column(*(2.0**-n for n in range(200)))
    found = counted(Shrinking(0.25), x, beta=0.25, tolerance=2**-5, nudging="symmetric")
    assert found.said == "T = 3 and K = 6 settle 99 % of the 200 samples to 0.03125"
    assert found.said_of(1, 5) == "T = 1 settles 97.5 %, K = 5 settles 1 %"
    assert found.said_of(nudged_steps=4) == "K = 4 settles 0 %"


def test_of_steps_beyond_those_looked_at_only_the_least_is_said() -> None:
    found = counted(
        Shrinking(0.5), column(1.0, 0.0, 2.0**40), tolerance=1.0, most=3, nudging="symmetric"
    )
    assert found.said_of(3) == "T = 3 settles 66.6 %"
    assert found.said_of(4) == "T = 4 settles at least 66.6 %"


def test_only_all_are_100_percent() -> None:
    steps = torch.tensor([1.0] * 9999 + [9.0], dtype=torch.float64)
    found = SettlingSteps(0.1, 0.99, PhaseSteps("free phase", steps, 9, 0), (), in_turn=False)
    assert found.said_of(1) == "T = 1 settles 99.9 %"
    assert found.said_of(9) == "T = 9 settles 100 %"


def test_the_numbers_of_a_file_are_those_of_the_samples() -> None:
    x = column(1.0, 0.0, 4.0)
    settings = {"tolerance": 1.0, "share": 1.0, "nudging": "symmetric"}
    numbers = counted(Shrinking(0.5), x, most=3, **settings).to_json()
    assert numbers["free_steps"] == 3
    assert numbers["free"]["steps"] == [1, 1, 3]
    assert numbers["free"]["median"] == 1
    assert numbers["free"]["restless"] == 0
    short = counted(Shrinking(0.5), x, most=2, **settings).to_json()
    assert short["free_steps"] is None
    assert short["free"]["steps"] == [1, 1, None]
    assert short["free"]["restless"] == pytest.approx(100 / 3)


# Of any network


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_sample_rests_in_the_first_step_in_which_nothing_moves_by_more(
    batch: Batch, symmetric: bool
) -> None:
    """Against a trajectory looked at step by step."""
    torch.manual_seed(2)
    x, y = batch
    network = PrototypicalNetwork(dense(4, 6, 3)).double()
    settings = {
        "beta": 0.5,
        "tolerance": 1e-7,
        "most": 300,
        "nudging": "symmetric" if symmetric else "one-sided",
    }
    found = settling_steps(network, x, y, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        path = trajectory(network, x, 300)
    for sample, steps in enumerate(found.free.steps.tolist()):
        moves = [
            max(float((b[sample] - a[sample]).abs().max()) for a, b in zip(*pair, strict=True))
            for pair in pairwise(path)
        ]
        limits = [
            1e-7 if symmetric else 1e-8 * min(1.0, 0.5 * float((y[sample] - out).abs().max()))
            for out in (state[-1][sample] for state in path[1:])
        ]
        rests = (t for t, (m, most) in enumerate(zip(moves, limits, strict=True)) if m <= most)
        assert steps == 1 + next(rests)


def test_the_steps_do_not_depend_on_the_company(batch: Batch) -> None:
    torch.manual_seed(2)
    network = PrototypicalNetwork(dense(4, 6, 3)).double()
    settings = {"beta": -0.3, "tolerance": 1e-7, "most": 300, "nudging": "symmetric"}
    whole, parts = (
        settling_steps(network, *batch, batch_size=size, **settings)  # type: ignore[arg-type]
        for size in (7, 2)
    )
    assert torch.equal(whole.free.steps, parts.free.steps)
    for one, other in zip(whole.nudged, parts.nudged, strict=True):
        assert torch.equal(one.steps, other.steps)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tolerance": -1.0}, "tolerance: expected a finite number >= 0, got -1"),
        ({"beta": 0.0}, "beta: expected a finite number other than 0"),
        ({"most": 0}, "most: expected at least 1 transition, got 0"),
        ({"nudging": "both"}, "nudging: expected one of one-sided, random-sign, symmetric, got"),
        ({"share": 0.0}, "share: expected a number above 0 and up to 1, got 0"),
        ({"share": 1.1}, "share: expected a number above 0 and up to 1, got 1.1"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        counted(Shrinking(0.5), column(1.0), **settings)
    with pytest.raises(ValueError, match="x: expected at least one sample"):
        counted(Shrinking(0.5), column())
