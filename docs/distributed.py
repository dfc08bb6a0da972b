"""How long a mini-batch takes in several processes, against one: the numbers of distributed.md.

::

    python docs/distributed.py p-2h-fast p-conv-fast
    torchrun --nproc-per-node 2 docs/distributed.py p-2h-fast p-conv-fast

In several processes it says too how long the mean gradient takes of it: the same buffer, summed
over and over. Times are medians; each process computes with one thread.
"""

import statistics
import sys
import time
from contextlib import suppress

import torch

import eqprop
from eqprop.runs.build import build_data
from eqprop.runs.learner import build_learner
from eqprop.settings.presets import preset

BATCHES, WARM_UP = 200, 20


def main() -> None:
    """Measure, and let the first process print."""
    ranks = eqprop.distributed.start("cpu")
    for name in sys.argv[1:] or ["p-2h-fast", "p-conv-fast"]:
        experiment = preset(name).override({"threads": 1})
        learner, data = build_learner(experiment), build_data(experiment)
        taken: list[float] = []
        last = time.perf_counter()

        def on_batch(running: eqprop.Running, taken: list[float] = taken) -> None:
            nonlocal last
            taken.append(time.perf_counter() - last)
            last = time.perf_counter()
            if len(taken) == WARM_UP + BATCHES:
                raise InterruptedError

        with suppress(InterruptedError):
            list(learner.train(data, on_batch=on_batch, ranks=ranks))
        size = sum(p.numel() for p in learner.network.parameters())
        buffer, summing = torch.ones(size), []
        for _ in range(BATCHES if ranks.count > 1 else 0):
            ranks.wait()
            begin = time.perf_counter()
            torch.distributed.all_reduce(buffer.fill_(1.0))
            summing.append(time.perf_counter() - begin)
        if ranks.first:
            batch = 1e3 * statistics.median(taken[WARM_UP:])
            said = f"{name}: {ranks.count} processes, {batch:.2f} ms per mini-batch"
            if summing:
                said += f", of which {1e3 * statistics.median(summing):.2f} ms to sum {size} floats"
            print(said, flush=True)
    ranks.end()


if __name__ == "__main__":
    main()
