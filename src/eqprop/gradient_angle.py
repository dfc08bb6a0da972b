"""How well EP follows the gradient before training: one angle, and whether it can be trusted.

The angle lies between Σ_t Δ_θ(t) of EP and −Σ_t ∇_θ(t) of backpropagation through time, over all
weights put end to end, see :mod:`eqprop.agreement`. It is that of the network which training starts
from, in float64, on one mini-batch, with the T, K, β (of positive sign) and, where updates are
continual, the learning rates of the training.

The published figure sums over t = 1 … K−1. In the step t = 0 nothing but the output layer moves, by
its error: Δ_θ(0) and −∇_θ(0) are those of the last way up alone, the same whatever comes down, and
before training large beside what follows. So both are measured: without that step, as published,
and the whole sum.

Source: Ernoult et al., https://arxiv.org/abs/2005.04168, section 4.3 and figure 5a, and the code
published with it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self, final

import torch

from eqprop.agreement import compare
from eqprop.build import build_network
from eqprop.checkpoint import write_atomically
from eqprop.data import Dataset, one_hot
from eqprop.experiment import Experiment
from eqprop.processes import Process, bptt_process, ep_process, free_phase

__all__ = ["GradientAngle", "measure"]

_SEED = 0
"""Of the order of the data: the same mini-batch for all networks."""

_IRRELEVANT = ("epochs", "threads")
"""Settings that nothing before training depends on."""


@final
@dataclass(frozen=True)
class GradientAngle:
    """What was measured.

    Attributes:
        degrees: the angle over t = 1 … K−1, 0 to 180; None if one of the two updates is 0.
        whole_degrees: the same over t = 0 … K−1.
        premise_holds: whether the free phase was steady, as Theorem 1 supposes.
    """

    degrees: float | None
    whole_degrees: float | None
    premise_holds: bool

    @classmethod
    def stored(cls, path: Path, experiment: Experiment) -> Self | None:
        """What was stored there for these settings; None if nothing was, or it cannot be read."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["experiment"] != _settings(experiment):
                return None
            degrees = found["degrees"], found["whole_degrees"]
            holds = found["premise_holds"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        right = all(d is None or (isinstance(d, float) and 0 <= d <= 180) for d in degrees)
        return cls(*degrees, holds) if right and isinstance(holds, bool) else None

    def store(self, path: Path, experiment: Experiment) -> None:
        """Store it, with the settings it belongs to."""
        written = {**asdict(self), "experiment": _settings(experiment)}
        write_atomically(path, (json.dumps(written, indent=2) + "\n").encode())


def measure(experiment: Experiment, data: Dataset) -> GradientAngle:
    """Measure the angle before training.

    Args:
        experiment: of the training.
        data: its data, in any precision.

    Raises:
        NonFiniteError: a state stopped being finite.
    """
    network = build_network(replace(experiment, dtype="float64"), data.input_shape, data.classes)
    generator = torch.Generator().manual_seed(_SEED)
    x, labels = next(data.train.batches(experiment.batch_size, generator))
    x, y = x.double(), one_hot(labels, data.classes, torch.float64)
    T, K = experiment.free_steps, experiment.nudged_steps
    free = free_phase(network, x, T, K)
    bptt = bptt_process(network, x, y, free_steps=T, nudged_steps=K, free=free)

    eta = experiment.learning_rates if experiment.estimator == "c-ep" else None
    beta = abs(experiment.beta)
    ep = ep_process(network, x, y, free_steps=T, nudged_steps=K, beta=beta, eta=eta, free=free)
    whole = compare(ep, bptt)
    return GradientAngle(
        _defined(compare(_later(ep), _later(bptt)).total_update_angle) if K > 1 else None,
        _defined(whole.total_update_angle),
        whole.premise.holds,
    )


def _later(process: Process) -> Process:
    """The process without its step t = 0."""
    return replace(
        process,
        states=tuple(steps[1:] for steps in process.states),
        parameters={name: steps[1:] for name, steps in process.parameters.items()},
    )


def _defined(angle: float) -> float | None:
    return angle if math.isfinite(angle) else None


def _settings(experiment: Experiment) -> Mapping[str, Any]:
    # As JSON has them: lists for tuples.
    settings = json.loads(json.dumps(experiment.to_json()))
    return {name: value for name, value in settings.items() if name not in _IRRELEVANT}
