"""When nothing is learnt, or samples do not settle: what that means, and what to do."""

import math

from eqprop.settings.experiment import Experiment
from eqprop.training.loop import Metrics
from eqprop.training.settled import AT_REST

__all__ = ["guessing_warning", "settling_doubts", "settling_warning"]

_MANY = 5.0
"""In %: beyond it, what does not settle is no longer a matter of single samples."""


_PATIENCE = 2
"""Epochs after which a network that learns has learnt something, however slowly."""


def guessing_warning(experiment: Experiment, metrics: Metrics, guessing: float, tested: int) -> str:
    """A line where the network answers no better than one that always says the same; or nothing.

    Args:
        guessing: the test error in % of the most frequent class as the only answer.
        tested: how many test samples there are. That many guesses may be right more often by
            chance: three standard deviations of their error count as chance too.
    """
    if metrics.epoch < min(_PATIENCE, experiment.epochs):
        return ""
    chance = math.sqrt(guessing * (100 - guessing) / tested)
    if metrics.test_error < guessing - 3 * chance:
        return ""
    rates = " ".join(map(str, experiment.learning_rates))
    return (
        f"after {metrics.epoch} epochs the {experiment.tested_on} error of "
        f"{metrics.test_error:.2f} % is, but for chance, that of guessing ({guessing:.2f} %): "
        f"nothing is learnt; try other --learning-rates, mostly smaller ones than {rates}, or "
        f"another --beta than {experiment.beta:g}, and look with "
        "`eqprop theorem` whether the updates follow the gradient"
    )


def settling_doubts(experiment: Experiment, metrics: Metrics) -> frozenset[str]:
    """What makes the gradient of an epoch doubtful: ``restless`` samples, or ``cycling`` ones.

    Learning rules take the difference of the nudged and the free state for an effect of the nudge.
    Where the free phase has not ended, the rest of it is in that difference too, for more than a
    few training samples: ``restless``. It cancels between two opposite nudges of the same number of
    steps, and backpropagation through time is exact for the steps taken.

    States that go to and fro, of more than a few test samples, are nobody's steady state, whatever
    the estimator: ``cycling``.

    States with noise never rest, and more steps would not make them: of those nothing is said.
    """
    if experiment.state_noise:
        return frozenset()
    # Opposite nudges are those of estimators that have any: others take no notice of the setting.
    nudged = metrics.nudged_steps is not None
    opposite = experiment.nudging == "symmetric" and nudged and experiment.tolerance is None
    found = set[str]()
    if (metrics.restless or 0.0) > _MANY and not opposite and experiment.estimator != "bptt":
        found.add("restless")
    if (metrics.test_cycling or 0.0) > _MANY:
        found.add("cycling")
    return frozenset(found)


def settling_warning(experiment: Experiment, metrics: Metrics) -> str:
    """A line about the doubts of an epoch, and what to do; nothing where there are none."""
    doubts = settling_doubts(experiment, metrics)
    if not doubts:
        return ""
    cycling, unrest = metrics.test_cycling or 0.0, metrics.test_restless or 0.0
    # Newton's steps have a time step of their own, for every unit.
    with_epsilon = experiment.network == "real-time" and experiment.updates != "newton"
    # They are refused with these.
    uneven = experiment.gain_spread or experiment.offset_spread or experiment.homeostasis
    said = []
    if "restless" in doubts:
        tolerance = AT_REST if experiment.tolerance is None else experiment.tolerance
        epsilon = experiment.epsilon if with_epsilon else 1.0
        to = f"{tolerance * epsilon:g}"
        nudged = metrics.nudged_steps is not None
        if experiment.tolerance is not None and nudged and experiment.nudging != "symmetric":
            to += " of what the nudge does"
        said.append(
            f"{metrics.restless:.0f} % of the training samples did not come to rest within T = "
            f"{experiment.free_steps} steps (to {to} in a step), and what is left of their free "
            "phase spoils the gradient"
        )
    if cycling:
        said.append(
            f"{cycling:.1f} % of the test samples go to and fro between two states (two-cycles)"
        )
    remedies = ["smaller learning rates"]
    if with_epsilon and not uneven:
        remedies.insert(0, "--updates newton")
    elif experiment.updates == "synchronous":
        remedies.insert(0, "--updates alternating")
    # More steps are of no use to what only goes to and fro; in real time it may overshoot.
    if with_epsilon and 2 * cycling > unrest:
        remedies.append(f"an --epsilon below {experiment.epsilon:g}")
    if 2 * cycling <= unrest:
        remedies.append(f"--free-steps beyond {experiment.free_steps}")
        if with_epsilon:
            remedies.append("a larger --epsilon")
    *others, last = remedies
    return f"{'; '.join(said)}; try {' or '.join(filter(None, (', '.join(others), last)))}"
