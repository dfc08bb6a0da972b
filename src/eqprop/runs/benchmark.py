"""Benchmark: what one training mini-batch costs, and which part of it what.

A mini-batch runs from the free phase to the update of the weights. Where samples settle, its time
depends on how far the network has learnt and on what it sees. So it is the mean over many different
mini-batches, and after a short training: of the data set where that lies on this machine, else of
random pixels, on which an untrained network is measured. Meanwhile the learning rates are 10⁻¹² of
what they were: the work is the same, but the network stays what it is. (With none at all products
would be left out.)

The time is also given in *u*, the time of one 20×512 by 512×512 float32 matrix product on the same
device and threads, so that figures carry over from one machine to another; and the operations a
second as a share of those of one large matrix product, which is about what the machine has to give.

A step of a layered network is also set beside its *bare* products: the same matrix products and
convolutions, one up and one down for every connection but the input's, with nothing around them.

Every row is measured in a process of its own, so that its peak memory is its own and no row warms
up, or fragments, what the next one uses.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, final, get_args

import torch
from torch import Tensor

from eqprop.core.phases import relax
from eqprop.core.stepping import transitions
from eqprop.estimators.estimator import Estimate
from eqprop.runs.bare_products import bare_products
from eqprop.runs.build import torch_device, torch_dtype
from eqprop.runs.learner import Learner, build_learner
from eqprop.runs.memory import peak_mib
from eqprop.runs.mini_batches import Samples, random_samples
from eqprop.runs.operations import large_product_rate, operation_counter
from eqprop.runs.out_of_memory import enough_for
from eqprop.runs.own_process import in_own_process
from eqprop.runs.parts import Part, Parts, watched
from eqprop.runs.timing import clock, median_seconds
from eqprop.settings.experiment import Experiment
from eqprop.training.settled import Settled, Tally

__all__ = ["MEASURED_BATCHES", "time_batch", "time_batch_here"]

MEASURED_BATCHES = 50
"""How many different mini-batches are measured, unless they take long: then at least five."""

_LEAST_BATCHES = 5

_STEPS = 20
"""Transitions that are timed together: what is done once for all of them must not count."""

_PASSES = 7
"""How often the parts of all mini-batches are timed."""

_Batch = tuple[Tensor, Tensor]


def time_batch(
    preset: str,
    experiment: Experiment,
    samples: Samples | None = None,
    train_batches: int = 0,
    tick: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """:func:`time_batch_here`, in a new process.

    Raises:
        Failure: the process was killed, or the memory was too small.
        NonFiniteError: a state stopped being finite.
    """
    given = preset, experiment, samples, train_batches
    return in_own_process(preset, time_batch_here, *given, tick=tick)


def time_batch_here(
    preset: str,
    experiment: Experiment,
    samples: Samples | None = None,
    train_batches: int = 0,
    tick: Callable[[str], None] = lambda _: None,
    seconds: float = 0.5,
) -> dict[str, Any]:
    """Time, operations and memory of one mini-batch of an experiment.

    Args:
        preset: what to call it.
        experiment: what to measure.
        samples: what to train on, and to measure; random ones if not given.
        train_batches: how many mini-batches to train before; none if the samples are random.
        tick: called after every one of them with what is done.
        seconds: the time that a repeat, and the warm-up, take at least.

    Returns:
        ``preset``, ``estimator``, ``device``, ``threads``, ``dtype``; ``data``, the name of the
        data set, or ``random``; ``train_batches`` that it was trained on; ``batches`` measured;
        ``ms_per_batch``, the mean over them in milliseconds, the median of the repeats; ``u``, the
        same in units of ``u_microseconds``; ``spread_percent``, from the fastest to the slowest
        repeat; ``free_steps`` and ``nudged_steps`` (none without a nudged phase), each with the
        ``mean`` and the ``most`` of a sample; ``restless``, how many free phases did not come to
        rest, in %; ``gflop``, 10⁹ floating-point operations of the products and convolutions of a
        mini-batch, ``gflop_per_second``, and ``share_of_peak``, this relative to that of a large
        matrix product, ``peak_gflop_per_second``; ``parts``, by name (see
        :mod:`eqprop.runs.parts`) ``ms``, ``gflop`` and ``share_of_peak``; ``step_ms``, the time of
        one step of the free phase of a whole mini-batch; ``bare_ms``, that of its bare products;
        ``peak_mib``, the peak memory in MiB: of the device, or on the CPU of the whole process,
        torch included.

    Raises:
        Failure: the memory is too small.
        NonFiniteError: a state stopped being finite.
    """
    torch.set_num_threads(experiment.threads)
    device = torch_device(experiment)
    now = clock(device)
    unit, _ = median_seconds(_unit(device), now, seconds)
    with enough_for(experiment):
        learner = build_learner(experiment)
        samples = random_samples(experiment) if samples is None else samples
        trained = 0 if samples.random else train_batches
        training = _Training(learner)
        drawn = torch.Generator().manual_seed(experiment.seed)
        for _ in range(trained):
            training.learn(_drawn(learner, samples, drawn))
            tick("training")
        for group in learner.optimizer.param_groups:
            group["lr"] *= 1e-12
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        batches, free, nudged = _measurable(learner, training, samples, drawn, now, 4 * seconds)
        a_pass, spread = median_seconds(lambda: training.learn(*batches), now, seconds)
        step, bare = _step_and_bare(learner, batches[0][0], now, seconds)
        # The memory is that of training, not of what follows.
        peak = peak_mib(device)
        total = a_pass / len(batches)
        parts, operations = _parts(learner, training, batches, now, total)
        rate = large_product_rate(device, torch_dtype(experiment), now)
    counted = sum(operations.values())
    return {
        "preset": preset,
        "estimator": experiment.estimator,
        "device": experiment.device,
        "threads": experiment.threads,
        "dtype": experiment.dtype,
        "data": samples.name,
        "train_batches": trained,
        "batches": len(batches),
        "ms_per_batch": total * 1e3,
        "u": total / unit,
        "u_microseconds": unit * 1e6,
        "spread_percent": 100 * spread,
        "free_steps": {"mean": free.steps, "most": free.most},
        "nudged_steps": nudged and {"mean": nudged.steps, "most": nudged.most},
        "restless": free.restless,
        "gflop": counted / 1e9,
        "gflop_per_second": counted / total / 1e9,
        "share_of_peak": counted / total / rate,
        "peak_gflop_per_second": rate / 1e9,
        "parts": {
            part: {
                "ms": taken * 1e3,
                "gflop": operations.get(part, 0.0) / 1e9,
                "share_of_peak": operations.get(part, 0.0) / taken / rate if taken else 0.0,
            }
            for part, taken in parts.items()
        },
        "step_ms": step * 1e3,
        "bare_ms": bare * 1e3,
        "peak_mib": peak,
    }


@final
class _Training:
    """Learns mini-batches as :func:`eqprop.training.loop.train` does."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._learns = True

    def learn(self, *batches: _Batch, parts: Parts | None = None) -> Estimate:
        """What was estimated from the last of them."""
        learner = self._learner
        estimate: Estimate | None = None
        for x, target in batches:
            if parts is not None:
                parts.begin()
            if self._learns:
                learner.optimizer.zero_grad()
            estimate = learner.estimator(learner.network, x, target, learner.generator)
            # Where the estimator has taken the step itself, there is nothing left to do.
            self._learns = any(p.grad is not None for p in learner.network.parameters())
            if self._learns:
                learner.optimizer.step()
        assert estimate is not None
        return estimate


def _drawn(learner: Learner, samples: Samples, drawn: torch.Generator) -> _Batch:
    experiment = learner.experiment
    device, dtype = torch_device(experiment), torch_dtype(experiment)
    x, target = samples.draw(experiment.batch_size, drawn, device, dtype)
    if learner.augmentation is not None:
        x = learner.augmentation(x, learner.generator)
    return x, target


def _measurable(
    learner: Learner,
    training: _Training,
    samples: Samples,
    drawn: torch.Generator,
    now: Callable[[], float],
    seconds: float,
) -> tuple[list[_Batch], Settled, Settled | None]:
    """As many mini-batches as there is time for, and how their phases came to rest."""
    epsilon = learner.network.epsilon
    free, nudged = Tally(epsilon), Tally(epsilon)
    batches: list[_Batch] = []
    started = now()
    while len(batches) < MEASURED_BATCHES:
        if len(batches) >= _LEAST_BATCHES and now() - started > seconds:
            break
        batches.append(_drawn(learner, samples, drawn))
        estimate = training.learn(batches[-1])
        free.add(estimate.free)
        for phase in estimate.nudged:
            nudged.add(phase)
    freely = free.settled()
    assert freely is not None
    return batches, freely, nudged.settled()


def _parts(
    learner: Learner,
    training: _Training,
    batches: Sequence[_Batch],
    now: Callable[[], float],
    total: float,
) -> tuple[dict[Part, float], dict[Part, float]]:
    """Seconds and operations of a mini-batch, by part; the seconds are ``total`` together."""

    def split(meter: Callable[[], float]) -> dict[Part, float]:
        with watched(learner.network, learner.optimizer, meter) as parts:
            training.learn(*batches, parts=parts)
        return parts.taken

    # To watch takes time, too, and whatever else the machine does takes it now and then: a part's
    # share of a watched pass is what holds.
    passes = [split(now) for _ in range(_PASSES)]
    shares: dict[Part, float] = {
        part: statistics.median(found[part] / sum(found.values()) for found in passes)
        for part in get_args(Part)
        if part in passes[0]
    }
    seconds: dict[Part, float] = {
        part: total * share / sum(shares.values()) for part, share in shares.items()
    }
    with operation_counter() as counter:
        operations = split(counter.get_total_flops)
    return seconds, {part: counted / len(batches) for part, counted in operations.items()}


@torch.no_grad()
def _step_and_bare(
    learner: Learner, x: Tensor, now: Callable[[], float], seconds: float
) -> tuple[float, float]:
    """Seconds of a step, and of its bare products."""
    network = learner.network
    drive = network.drive(x)
    state = relax(network, x, 3, drive=drive).state
    bare = bare_products(network, state)

    def steps() -> None:
        for _ in transitions(network, drive, state, _STEPS):
            pass

    def products() -> None:
        for product in bare:
            product()

    step = median_seconds(steps, now, seconds)[0] / _STEPS
    return step, median_seconds(products, now, seconds)[0] if bare else 0.0


def _unit(device: torch.device) -> Callable[[], object]:
    a = torch.randn(20, 512, device=device)
    b = torch.randn(512, 512, device=device)
    return lambda: a @ b
