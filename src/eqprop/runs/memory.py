"""Memory: the peak of this process, and what one mini-batch adds to what was there before it.

On the CPU it is that of the whole process, torch included, as the system counts it; on another
device what torch has allocated there.
"""

import resource
import sys
from pathlib import Path
from typing import Any

import torch

from eqprop.runs.build import torch_device, torch_dtype
from eqprop.runs.learner import build_learner
from eqprop.runs.mini_batches import random_samples
from eqprop.runs.out_of_memory import enough_for
from eqprop.runs.own_process import in_own_process
from eqprop.settings.experiment import Experiment

__all__ = ["batch_memory", "batch_memory_here", "peak_mib"]


def batch_memory(preset: str, experiment: Experiment) -> dict[str, Any]:
    """:func:`batch_memory_here`, in a new process.

    Raises:
        Failure: the process was killed, or the memory was too small.
    """
    return in_own_process(preset, batch_memory_here, preset, experiment)


def batch_memory_here(preset: str, experiment: Experiment) -> dict[str, Any]:
    """What one mini-batch of an experiment takes at most, in a process that has done nothing else.

    The mini-batch has random pixels. With a fixed number of steps the memory does not depend on
    them.

    Returns:
        ``preset``, ``estimator``, ``device``, ``threads``, ``free_steps``, ``nudged_steps``;
        ``peak_mib``, the peak in MiB, and ``extra_mib``, by how much it is more than what there was
        before the mini-batch, the network and its data included. The first mini-batch of a process
        also sets up what products need, some MiB whatever the estimator.

    Raises:
        Failure: the memory is too small.
    """
    torch.set_num_threads(experiment.threads)
    device = torch_device(experiment)
    with enough_for(experiment):
        drawn = torch.Generator().manual_seed(experiment.seed)
        samples = random_samples(experiment)
        x, target = samples.draw(experiment.batch_size, drawn, device, torch_dtype(experiment))
        learner = build_learner(experiment)
        before = _held_mib(device)
        learner.estimator(learner.network, x, target, learner.generator)
        learner.optimizer.step()
    peak = peak_mib(device)
    return {
        "preset": preset,
        "estimator": experiment.estimator,
        "device": experiment.device,
        "threads": experiment.threads,
        "free_steps": experiment.free_steps,
        "nudged_steps": experiment.nudged_steps,
        "peak_mib": peak,
        "extra_mib": max(0.0, peak - before),
    }


def peak_mib(device: torch.device) -> float:
    """The most that has been held so far."""
    if device.type != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Where there is one: the other also has what the process that started this one held.
    return _status("VmHWM") or _largest_resident()


def _held_mib(device: torch.device) -> float:
    """What is held now, or the most so far where the system does not say."""
    if device.type != "cpu":
        return torch.cuda.memory_allocated(device) / 2**20
    return _status("VmRSS") or _largest_resident()


def _status(name: str) -> float | None:
    """A line of what Linux says of this process, in MiB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith(name)), None)


def _largest_resident() -> float:
    # Kibibytes, but on macOS bytes.
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
