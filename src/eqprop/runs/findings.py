"""What a trained network looks like and how it settles: all that ``eqprop show`` draws."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from eqprop.analysis.convergence import (
    ErrorByStep,
    Phases,
    ResidualByStep,
    error_by_step,
    output_by_step,
    phases,
    residual_by_step,
    step_counts,
)
from eqprop.analysis.images import WeightImages, weight_images
from eqprop.analysis.settling_steps import SettlingSteps, settling_steps
from eqprop.data.dataset import Split
from eqprop.errors import ConfigurationError
from eqprop.runs.build import build_cost
from eqprop.runs.out_of_memory import enough_memory
from eqprop.runs.trained import TrainedRun
from eqprop.summary import summary

__all__ = ["Findings", "look", "look_steps", "settle_samples", "settle_ticks"]

_WATCHED = 100
"""Samples of the mini-batch whose convergence is shown."""

_AT_ONCE = 500
"""Samples that settle at once, as many as where the error is measured."""

_SETTLED = 500
"""Test samples whose steps until rest are counted, so many at once as take the caches well."""
_SETTLED_AT_ONCE = 100


@final
@dataclass(frozen=True, eq=False)
class Findings:
    """What was found.

    Attributes:
        images: what the connections have learned.
        x, label: the test sample, (1, …), and its class, if it has one.
        phases: its two steady states.
        outputs: (3T + 1, classes), the output units in every step of its free phase, s₀ first.
        residual: how the first test samples come to rest.
        by_step: the error, had the free phase been shorter or longer.
        settling: how many steps the samples take to come to rest.
    """

    images: tuple[WeightImages, ...]
    x: Tensor
    label: int | None
    phases: Phases
    outputs: Tensor
    residual: ResidualByStep
    by_step: ErrorByStep
    settling: SettlingSteps

    __repr__ = summary

    def to_json(self) -> dict[str, Any]:
        """Of the weights and of the states of hidden layers the scale alone.

        The checkpoint has the weights, and they the states.
        """
        states = zip(self.phases.free, self.phases.nudged, self.phases.difference, strict=True)
        return {
            "kernels": [
                {
                    "layer": images.layer,
                    "upper": list(images.upper),
                    "lower": list(images.lower),
                    "size": list(images.size),
                    "kernel": list(images.images.shape[2:]),
                    "largest": _largest(images.images),
                }
                for images in self.images
            ],
            "states": {
                "label": self.label,
                "residual": self.phases.residual,
                "free": self.phases.free[-1][0].tolist(),
                "nudged": self.phases.nudged[-1][0].tolist(),
                "difference": self.phases.difference[-1][0].tolist(),
                "largest": {
                    name: dict(
                        zip(("free", "nudged", "difference"), map(_largest, layer), strict=True)
                    )
                    for name, layer in zip(self.residual.layers, states, strict=True)
                },
            },
            "convergence": {
                "samples": self.residual.samples,
                "residual": {
                    name: {"median": list(median), "worst": list(worst)}
                    for name, median, worst in zip(
                        self.residual.layers, self.residual.median, self.residual.worst, strict=True
                    )
                },
                "outputs": self.outputs.tolist(),
            },
            "steps": asdict(self.by_step),
            "settling": self.settling.to_json(),
        }


def settle_ticks(run: TrainedRun) -> int:
    """How often :func:`settle_samples` tells of its progress."""
    phases = 3 if run.experiment.nudging == "symmetric" else 2
    return phases * -(-min(_SETTLED, len(run.data.test)) // _SETTLED_AT_ONCE)


def settle_samples(
    run: TrainedRun, tolerance: float, most: int, tick: Callable[[str], None] = lambda _: None
) -> SettlingSteps:
    """Count the steps that the first 500 test samples take to come to rest.

    Args:
        run: the network, its data, and the β to look with.
        tolerance: at rest no unit moves by more than this, times ε, in one step.
        most: how many steps a sample may take in a phase.
        tick: called whenever a mini-batch took a phase, with what is being computed.

    Raises:
        NonFiniteError: a state stopped being finite.
        Failure: the memory is too small.
    """
    experiment, test = run.experiment, run.data.test
    x, labels = test.images[:_SETTLED], test.labels[:_SETTLED]
    with enough_memory(f"{len(x)} test samples", experiment.device):
        return settling_steps(
            run.network,
            x,
            test.targets(labels, run.data.classes),
            beta=experiment.beta,
            most=most,
            tolerance=tolerance,
            nudging=experiment.nudging,
            cost=build_cost(experiment),
            batch_size=_SETTLED_AT_ONCE,
            tick=tick,
        )


def look_steps(run: TrainedRun, test_samples: int) -> int:
    """How often :func:`look` tells of its progress."""
    return step_counts(run.experiment.free_steps)[-1] * (
        1 - (-_count(run, test_samples) // _AT_ONCE)
    )


@torch.no_grad()
def look(
    run: TrainedRun,
    sample: int,
    test_samples: int,
    settling: SettlingSteps,
    tick: Callable[[str], None] = lambda _: None,
) -> Findings:
    """Look at a trained network.

    Args:
        run: the network, its data, and the T, K and β to look with.
        sample: the number of the test sample to look at.
        test_samples: how many test samples to measure the error on; 0 means all.
        settling: what :func:`settle_samples` found, to be kept with the rest.
        tick: called whenever a mini-batch took a step, with what is being computed.

    Raises:
        ConfigurationError: there is no such sample.
        NonFiniteError: a state stopped being finite.
        Failure: the memory is too small.
    """
    experiment, network, test = run.experiment, run.network, run.data.test
    if sample >= len(test):
        expected = f"a number from 0 to {len(test) - 1}, as there are {len(test)} test samples"
        raise ConfigurationError("sample", sample, expected)
    cost, counts = build_cost(experiment), step_counts(experiment.free_steps)
    count = _count(run, test_samples)
    x, labels = test.images[sample : sample + 1], test.labels[sample : sample + 1]
    watched = test.images[:_WATCHED]
    taking = f"test_samples = {test_samples}, free_steps = {experiment.free_steps}"
    with enough_memory(taking, experiment.device):
        return Findings(
            weight_images(network, run.data.input_shape),
            x,
            None if test.regression else int(labels),
            phases(
                network,
                x,
                test.targets(labels, run.data.classes),
                free_steps=experiment.free_steps,
                nudged_steps=experiment.nudged_steps,
                beta=experiment.beta,
                nudging=experiment.nudging,
                cost=cost,
            ),
            output_by_step(network, x, counts[-1]),
            residual_by_step(network, watched, counts[-1], tick),
            error_by_step(
                network,
                Split(test.images[:count], test.labels[:count], regression=test.regression),
                counts,
                batch_size=_AT_ONCE,
                tick=tick,
            ),
            settling,
        )


def _count(run: TrainedRun, test_samples: int) -> int:
    return min(test_samples or len(run.data.test), len(run.data.test))


def _largest(layer: Tensor) -> float:
    return float(layer.abs().max())
