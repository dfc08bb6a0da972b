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
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eqprop.build import (
    build_estimator,
    build_network,
    build_optimizer,
    torch_device,
    torch_dtype,
)
from eqprop.connections import ConvPool, Dense, Untied
from eqprop.experiment import Experiment
from eqprop.networks import LayeredNetwork
from eqprop.relaxation import relax

__all__ = ["measure", "measure_here"]

_REPEATS = 7


def measure(preset: str, experiment: Experiment) -> dict[str, Any]:
    """:func:`measure_here`, in a new process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(measure_here, (preset, experiment))


def measure_here(preset: str, experiment: Experiment, seconds: float = 0.5) -> dict[str, Any]:
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
    """
    torch.set_num_threads(experiment.threads)
    device = torch_device(experiment)
    unit, _ = _time(_unit(device), device, seconds)

    side = 8 if experiment.dataset == "digits" else 28
    network = build_network(experiment, (1, side, side), 10)
    optimizer = build_optimizer(experiment, network)
    estimator = build_estimator(experiment, optimizer)
    source = torch.Generator().manual_seed(0)
    # A fifth of the pixels bright, as in handwritten digits: the time does not depend on it, but a
    # network driven into saturation might behave unlike a real one.
    shape = (experiment.batch_size, 1, side, side)
    pixels = torch.rand(shape, generator=source) * (torch.rand(shape, generator=source) < 0.2)
    labels = torch.randint(10, (experiment.batch_size,), generator=source)
    x = pixels.to(device, torch_dtype(experiment))
    target = torch.eye(10, dtype=x.dtype)[labels].to(device)
    generator = torch.Generator(device).manual_seed(0)
    for group in optimizer.param_groups:
        # The same batch again and again would soon be learnt by heart; steps of zero cost the same.
        group["lr"] = 0.0

    def train_one() -> None:
        optimizer.zero_grad()
        estimator(network, x, target, generator)
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


@torch.no_grad()
def _step_and_bare(
    network: LayeredNetwork, x: Tensor, device: torch.device, seconds: float
) -> tuple[float, float]:
    """Seconds of a step, and of its bare products on tensors of the same shapes and layouts."""
    drive = network.drive(x)
    state = relax(network, x, 3, drive=drive).state
    bare: list[Callable[[], object]] = []
    for connection, lower, upper in zip(network.chain[1:], state, state[1:], strict=False):
        forward = connection.upward if isinstance(connection, Untied) else connection
        weight = forward.get_parameter("weight")
        back = connection.backward_weight if isinstance(connection, Untied) else weight
        if isinstance(forward, ConvPool):
            bare += _convolutions(forward, back, lower)
        elif isinstance(forward, Dense):
            flat = lower.flatten(1).contiguous()
            bare += [partial(torch.mm, flat, weight.t()), partial(torch.mm, upper, back)]

    def products() -> None:
        for product in bare:
            product()

    step, _ = _time(lambda: network.step(drive, state), device, seconds)
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
