"""Benchmark: what one training mini-batch costs.

A mini-batch runs from the free phase to the update of the weights. Its time is also given in *u*,
the time of one 20×512 by 512×512 float32 matrix product on the same device and threads, so that
figures carry over from one machine to another.

A step of a layered network is also set beside its *bare* products: the same matrix products and
convolutions, one up and one down for every connection but the input's, with nothing around them.

Every row is measured in a process of its own, so that its peak memory is its own and no row warms
up, or fragments, what the next one uses. Times are medians over repeats: a mean would count what
else the machine did.
"""

import multiprocessing
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eqprop.core.phases import relax
from eqprop.core.stepping import transitions
from eqprop.data.dataset import Source, one_hot
from eqprop.errors import Failure
from eqprop.networks.connections.conv_pool import ConvPool
from eqprop.networks.connections.dense import Dense
from eqprop.networks.connections.untied import Untied
from eqprop.networks.layered import LayeredNetwork
from eqprop.registries import DATASETS
from eqprop.runs.build import torch_device, torch_dtype
from eqprop.runs.learner import build_learner
from eqprop.runs.out_of_memory import enough_for
from eqprop.settings.experiment import Experiment

__all__ = ["time_batch", "time_batch_here"]

_REPEATS = 7

_STEPS = 20
"""Transitions that are timed together: what is done once for all of them must not count."""


def time_batch(preset: str, experiment: Experiment) -> dict[str, Any]:
    """:func:`time_batch_here`, in a new process.

    Raises:
        Failure: the process was killed, or the memory was too small.
    """
    context = multiprocessing.get_context("spawn")
    # Ctrl-C is for the command, which ends this process too.
    ignoring = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(1, context, signal.signal, ignoring) as pool:
        try:
            return pool.submit(time_batch_here, preset, experiment).result()
        except BrokenProcessPool:
            raise Failure(
                f"{preset}: expected the process that measures it to end well, but it was killed; "
                "was there enough memory?"
            ) from None


def time_batch_here(preset: str, experiment: Experiment, seconds: float = 0.5) -> dict[str, Any]:
    """Time and memory of one mini-batch of an experiment.

    Args:
        preset: what to call it.
        experiment: what to measure; its data set says only how large the images are.
        seconds: the time that a repeat, and the warm-up, take at least.

    Returns:
        ``preset``, ``estimator``, ``device``, ``threads``; ``ms_per_batch``, the median time in
        milliseconds; ``u``, the same in units of ``u_microseconds``; ``spread_percent``, from the
        fastest to the slowest repeat; ``step_ms``, the time of one step of the free phase;
        ``bare_ms``, that of its bare products; ``peak_mib``, the peak memory in MiB: of the device,
        or on the CPU of the whole process, torch included.

    Raises:
        Failure: the memory is too small.
    """
    torch.set_num_threads(experiment.threads)
    device = torch_device(experiment)
    unit, _ = _time(_unit(device), device, seconds)
    with enough_for(experiment):
        learner = build_learner(experiment)
        network, optimizer = learner.network, learner.optimizer
        x, target = _mini_batch(experiment, device)
        for group in optimizer.param_groups:
            # The same batch again and again would soon be learnt by heart; steps of zero cost the
            # same.
            group["lr"] = 0.0

        def train_one() -> None:
            optimizer.zero_grad()
            learner.estimator(network, x, target, learner.generator)
            optimizer.step()

        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        batch, spread = _time(train_one, device, seconds)
        step, bare = _step_and_bare(network, x, device, seconds)
    return {
        "preset": preset,
        "estimator": experiment.estimator,
        "device": experiment.device,
        "threads": experiment.threads,
        "ms_per_batch": batch * 1e3,
        "u": batch / unit,
        "u_microseconds": unit * 1e6,
        "spread_percent": 100 * spread,
        "step_ms": step * 1e3,
        "bare_ms": bare * 1e3,
        "peak_mib": _peak_mib(device),
    }


def _mini_batch(experiment: Experiment, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random pixels of the shape of the data set's images, and random targets."""
    source: Source = DATASETS.load(experiment.dataset)
    drawn = torch.Generator().manual_seed(0)
    # A fifth of the pixels bright, as in handwritten digits: the time does not depend on it, but a
    # network driven into saturation might behave unlike a real one.
    shape = (experiment.batch_size, *source.input_shape)
    pixels = torch.rand(shape, generator=drawn) * (torch.rand(shape, generator=drawn) < 0.2)
    labels = torch.randint(source.classes, (experiment.batch_size,), generator=drawn)
    x = pixels.to(device, torch_dtype(experiment))
    return x, one_hot(labels, source.classes, x.dtype).to(device)


@torch.no_grad()
def _step_and_bare(
    network: LayeredNetwork, x: Tensor, device: torch.device, seconds: float
) -> tuple[float, float]:
    """Seconds of a step, and of its bare products on tensors of the same shapes and layouts."""
    drive = network.drive(x)
    state = relax(network, x, 3, drive=drive).state
    bare: list[Callable[[], object]] = []
    for connection, lower, upper in zip(network.chain[1:], state, state[1:], strict=False):
        untied = isinstance(connection, Untied)
        forward = connection.upward if untied else connection
        if not isinstance(forward, ConvPool | Dense):
            continue
        back = connection.backward_weight if untied else forward.weight
        if isinstance(forward, ConvPool):
            bare += _convolutions(forward, back, lower)
        else:
            flat = lower.flatten(1).contiguous()
            bare += [partial(torch.mm, flat, forward.weight.t()), partial(torch.mm, upper, back)]

    def steps() -> None:
        for _ in transitions(network, drive, state, _STEPS):
            pass

    def products() -> None:
        for product in bare:
            product()

    step = _time(steps, device, seconds)[0] / _STEPS
    return step, _time(products, device, seconds)[0] if bare else 0.0


def _convolutions(connection: ConvPool, back: Tensor, lower: Tensor) -> list[Callable[[], object]]:
    weight, stride, padding = connection.weight, connection.stride, connection.padding
    image = F.conv2d(lower, weight, connection.bias, stride, padding)
    return [
        partial(F.conv2d, lower, weight, connection.bias, stride, padding),
        partial(F.conv_transpose2d, image, back, None, stride, padding),
    ]


def _unit(device: torch.device) -> Callable[[], object]:
    a = torch.randn(20, 512, device=device)
    b = torch.randn(512, 512, device=device)
    return lambda: a @ b


def _time(run: Callable[[], object], device: torch.device, least: float) -> tuple[float, float]:
    """Median seconds of one call, and the spread of the repeats relative to it."""

    def one_call(calls: int) -> float:
        _synchronise(device)
        started = time.perf_counter()
        for _ in range(calls):
            run()
        _synchronise(device)
        return (time.perf_counter() - started) / calls

    calls = 1
    while (once := one_call(calls)) * calls < least:
        calls *= 2
    calls = max(1, round(least / once))
    repeats = [one_call(calls) for _ in range(_REPEATS)]
    median = statistics.median(repeats)
    return median, (max(repeats) - min(repeats)) / median


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Kibibytes, but on macOS bytes.
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
