"""Whether many small networks settle sooner in one batched relaxation: numbers of distributed.md.

::

    python docs/many_networks.py

N networks of one shape, each with weights, images and targets of its own, take T = 8 free and
K = 3 nudged steps, updating their weights at each of the latter: with ``mm``, one network after the
other, and with ``bmm``, all in each operation. Both do the same arithmetic and nothing else; what
they differ in is what can be gained. Times are the best of several, a mini-batch of 20, one thread.
"""

import time
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

SHAPES = ((784, 512, 10), (784, 512, 512, 10), (64, 32, 10))
COUNTS = (1, 3, 9, 27)
FREE, NUDGED, BETA, RATE, SAMPLES = 8, 3, 0.2, 0.01, 20


def learn(x: Tensor, y: Tensor, weights: Sequence[Tensor]) -> None:
    """A mini-batch of prototypical networks by continual updates, or one of each of many."""
    product, add = (Tensor.bmm, Tensor.baddbmm_) if x.ndim == 3 else (Tensor.mm, Tensor.addmm_)
    drive = product(x, weights[0])
    state = [x.new_zeros(*x.shape[:-1], weight.shape[-1]) for weight in weights]
    top = len(state) - 1
    for step in range(FREE + NUDGED):
        for layer in range(len(state)):
            field = drive if layer == 0 else product(state[layer - 1], weights[layer])
            if layer < top:
                field = field + product(state[layer + 1], weights[layer + 1].mT)
            new = torch.sigmoid(4 * field - 2)
            if step >= FREE and layer == top:
                new += BETA * (y - state[layer])
            if step >= FREE and layer > 0:
                add(weights[layer], state[layer - 1].mT, RATE * (new - state[layer]))
            state[layer] = new
        if step >= FREE:
            # What it costs that the first weights move, though not what it comes to: the drive is
            # changed in place of them, which are written once at the end.
            drive = drive + RATE * drive
    add(weights[0], x.mT, RATE * state[0])


def seconds(count: int, shape: Sequence[int], together: bool) -> float:
    """Of one mini-batch, for each of so many networks."""
    source = torch.Generator().manual_seed(0)
    x = torch.rand(count, SAMPLES, shape[0], generator=source)
    y = torch.rand(count, SAMPLES, shape[-1], generator=source)
    weights = [0.02 * torch.randn(count, *pair, generator=source) for pair in pairwise(shape)]
    taken = []
    for _ in range(12):
        begin = time.perf_counter()
        if together:
            learn(x, y, weights)
        else:
            for n in range(count):
                learn(x[n], y[n], [weight[n] for weight in weights])
        taken.append(time.perf_counter() - begin)
    return min(taken) / count


def main() -> None:
    """Print what each network takes, alone and together with others."""
    torch.set_num_threads(1)
    for shape in SHAPES:
        for count in COUNTS:
            one, all_ = (1e3 * seconds(count, shape, together) for together in (False, True))
            name = "-".join(map(str, shape))
            print(
                f"{name} x {count}: one by one {one:.3f} ms a network, together {all_:.3f}, "
                f"{one / all_:.2f} times faster",
                flush=True,
            )


if __name__ == "__main__":
    main()
