"""With how many CPU threads an experiment trains fastest: found by trying.

Threads wait for each other at the end of every product. Whether that is less than what they save
depends on the sizes of the layers and of the mini-batch, and on the machine; so 1, 2, 4 … threads
train a few mini-batches each, and more of them are taken only while they are faster.
"""

import time
from itertools import islice

import torch

from eqprop.core.stepping import NonFiniteError
from eqprop.data.dataset import Dataset
from eqprop.runs.learner import build_learner
from eqprop.runs.out_of_memory import enough_for
from eqprop.settings.experiment import Experiment
from eqprop.settings.work import available_cores

__all__ = ["fastest_threads", "seconds_per_batch"]

_SECONDS = 0.5
"""About how long every number of threads is tried."""

_LEAST_BATCHES = 3

_MOST_BATCHES = 100

_GAIN = 0.95
"""A larger number must need at most this share of the time of the smaller one."""


def fastest_threads(experiment: Experiment, data: Dataset) -> int:
    """The number of CPU threads with which a mini-batch of the experiment takes the least time.

    Of 1, 2, 4 … and the number of cores this process may use, the last before one that is not at
    least 5 % faster. A learner made for it learns meanwhile, and is thrown away. Torch's number of
    threads is afterwards what it was.

    Args:
        experiment: whose own number of threads does not matter.
        data: what is to be learnt.

    Raises:
        ConfigurationError, UsageError, Failure: as :func:`~eqprop.runs.learner.build_learner`.
    """
    before = torch.get_num_threads()
    fastest, least = 1, float("inf")
    try:
        for threads in _numbers(available_cores()):
            torch.set_num_threads(threads)
            seconds = seconds_per_batch(experiment, data)
            if seconds > _GAIN * least:
                break
            fastest, least = threads, seconds
    finally:
        torch.set_num_threads(before)
    return fastest


def _numbers(cores: int) -> list[int]:
    """1, 2, 4 … and the number of cores."""
    return [*(2**n for n in range(cores.bit_length()) if 2**n < cores), cores]


def seconds_per_batch(experiment: Experiment, data: Dataset) -> float:
    """How long a training mini-batch takes, with torch's number of threads as it is.

    The least of several, as whatever else the machine does can only add to it. Of an untrained
    network: where samples settle, a trained one may take longer.

    Raises:
        ConfigurationError, UsageError, Failure: as :func:`~eqprop.runs.learner.build_learner`.
    """
    learner = build_learner(experiment)
    found: list[float] = []
    batches = data.train.batches(experiment.batch_size, learner.generator)
    with enough_for(experiment):
        for x, labels in islice(batches, 1 + _MOST_BATCHES):
            started = time.perf_counter()
            target = data.train.targets(labels, data.classes)
            learner.optimizer.zero_grad()
            try:
                learner.estimator(learner.network, x, target, learner.generator)
            except NonFiniteError:
                # Training will come to it again, and say so.
                break
            learner.optimizer.step()
            found.append(time.perf_counter() - started)
            if len(found) > _LEAST_BATCHES and sum(found) > _SECONDS:
                break
    # The first one warms up.
    return min(found[1:] or found, default=0.0)
