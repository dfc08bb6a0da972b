"""What several processes are to learn as one does; and a process that learns it with others.

::

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… python rank_cases.py FOLDER

runs every case whose name it is told, one to a line; the first process says of each, in a line of
its own, into which file it has written what the case came to.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau

import eqprop
from eqprop.core.costs import CrossEntropy, SquaredError, Weighted
from eqprop.core.models import ConvergentModel
from eqprop.data.augmentation import random_shift
from eqprop.data.dataset import Dataset, Examples, Split
from eqprop.distributed.group import RankError
from eqprop.distributed.ranks import Ranks
from eqprop.estimators.bptt import BPTT
from eqprop.estimators.continual import ContinualEP
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.estimator import Estimate, Estimator
from eqprop.estimators.recurrent_backprop import RecurrentBackprop
from eqprop.networks.connections.chains import convolutional, dense, untied
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.training.checkpoint import Checkpoint
from eqprop.training.loop import Metrics, Running, train

BATCH = 5
"""Of 16 samples: the last mini-batch has one, fewer than there are processes."""

Found = dict[str, Tensor]
Case = Callable[[Ranks, Path], Found]


def images(weights: bool = False, regression: bool = False) -> Dataset:
    """16 to learn, 7 to test, 3 × 4 pixels, of three classes or with two targets."""
    source = torch.Generator().manual_seed(5)
    x = torch.rand(23, 1, 3, 4, generator=source, dtype=torch.float64)
    y = x.flatten(1)[:, :3].argmax(1)
    if regression:
        y = x.flatten(1)[:, :2] * torch.tensor([0.5, -0.25], dtype=torch.float64) + 0.25
    w = torch.rand(23, generator=source, dtype=torch.float64) + 0.5 if weights else None
    train, test = (
        Split(x[s], y[s], regression=regression, weights=None if w is None else w[s])
        for s in (slice(16), slice(16, 23))
    )
    return Dataset("images", train, test, 0 if regression else 3)


def network(outputs: int = 3, **how: Any) -> PrototypicalNetwork:
    torch.manual_seed(0)
    return PrototypicalNetwork(dense((1, 3, 4), 6, outputs), "tanh", **how).double()


def with_readout() -> PrototypicalNetwork:
    torch.manual_seed(0)
    return PrototypicalNetwork(dense((1, 3, 4), 6), "tanh", readout=nn.Linear(6, 3)).double()


def vector_field() -> PrototypicalNetwork:
    torch.manual_seed(0)
    return PrototypicalNetwork(untied(dense((1, 3, 4), 6, 3), 30.0), "tanh").double()


def convolution() -> PrototypicalNetwork:
    torch.manual_seed(0)
    layers = convolutional((1, 3, 4), [3], 3, kernel=2, pool=2)
    return PrototypicalNetwork(layers, "hard-sigmoid").double()


SGD = partial(torch.optim.SGD, lr=0.2)
MOMENTUM = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-2)
ADAM = partial(torch.optim.Adam, lr=0.02)


def clipped(parameters: Any) -> torch.optim.Optimizer:
    """Its hook, which is there before the processes share it, must see the mean gradient."""
    optimizer = SGD(parameters, lr=1.0)
    held = [p for group in optimizer.param_groups for p in group["params"]]

    def clip(*_: object) -> None:
        nn.utils.clip_grad_norm_(held, 0.02)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def ep(optimizer: Any, nudging: Any = "one-sided", **how: Any) -> Estimator:
    # Given the optimizer it would take the steps of plain descent itself.
    return EquilibriumPropagation(12, 6, 0.2, nudging, optimizer=optimizer, **how)


def continual(optimizer: Any, nudging: Any = "one-sided", **how: Any) -> Estimator:
    return ContinualEP(optimizer, 12, 6, 0.2, nudging, **how)


class Learning:
    """A network and what trains it, in two epochs."""

    def __init__(
        self,
        model: Callable[[], ConvergentModel] = network,
        estimator: Callable[..., Estimator] = ep,
        optimizer: Callable[..., torch.optim.Optimizer] = SGD,
        scheduler: Callable[..., Any] | None = None,
        data: Callable[[], Dataset[Examples]] = images,
        augmentation: Any = None,
        batch_size: int = BATCH,
    ) -> None:
        self.batch_size = batch_size
        self.model = model()
        self.optimizer = optimizer(self.model.parameters())
        self.estimator = estimator(self.optimizer)
        self.scheduler = None if scheduler is None else scheduler(self.optimizer)
        self.generator = torch.Generator().manual_seed(3)
        self.data, self.augmentation = data(), augmentation
        self.history: list[Metrics] = []
        self.left: Any = None

    def learn(self, ranks: Ranks | None, begun: Checkpoint | None = None, calls: int = 99) -> Found:
        """To the end, or until so many mini-batches are done."""
        done = 0
        if begun is not None:
            begun.restore(self.model, self.optimizer, self.generator, scheduler=self.scheduler)
            self.history = [Metrics(**of) for of in begun.history]

        def on_batch(running: Running) -> None:
            nonlocal done
            done += 1
            if done == calls:
                self.left = running.unfinished()
                raise InterruptedError

        with suppress(InterruptedError):
            self.history += train(
                self.model,
                self.estimator,
                self.optimizer,
                self.data,
                epochs=2,
                batch_size=self.batch_size,
                generator=self.generator,
                scheduler=self.scheduler,
                augmentation=self.augmentation,
                done=len(self.history),
                unfinished=None if begun is None else begun.unfinished,
                on_batch=on_batch,
                ranks=ranks,
            )
        return self.found()

    def found(self) -> Found:
        found = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        for metrics in self.history:
            numbers = {**vars(metrics), "seconds": 0.0, "weight_angles": 0.0}
            found |= {
                f"epoch {metrics.epoch}, {name}": torch.tensor(float(number or 0.0))
                for name, number in numbers.items()
            }
        return found

    def checkpoint(self) -> Checkpoint:
        return Checkpoint.capture(
            self.model,
            self.optimizer,
            self.generator,
            self.history,
            scheduler=self.scheduler,
            unfinished=self.left,
        )


def streamed() -> Dataset[eqprop.Stream]:
    """The same samples, of whose weights nobody knows the largest beforehand."""
    whole = images(weights=True)
    batches = [tuple(part.numpy() for part in batch) for batch in whole.train.batches(BATCH)]
    stream = eqprop.Stream(batches, classes=3, dtype=torch.float64)
    test = eqprop.Stream([(whole.test.images, whole.test.labels)], classes=3, dtype=torch.float64)
    return Dataset("stream", stream, test, 3)


BPTT_ = lambda _: BPTT(12, 6)  # noqa: E731 - as short as the others
IMPLICIT = lambda _: RecurrentBackprop(40, adjoint_tolerance=1e-13)  # noqa: E731
BY_CLASS = Weighted(SquaredError(), [1.0, 3.0, 0.5])

LEARNING: dict[str, Callable[[], Learning]] = {
    "one-sided": Learning,
    "an even last mini-batch": partial(Learning, batch_size=8),
    "random sign": partial(Learning, estimator=partial(ep, nudging="random-sign")),
    "symmetric": partial(Learning, estimator=partial(ep, nudging="symmetric")),
    "adam": partial(Learning, estimator=partial(ep, nudging="random-sign"), optimizer=ADAM),
    "momentum and decay": partial(Learning, optimizer=MOMENTUM),
    "clipped": partial(Learning, optimizer=clipped),
    "tolerance": partial(Learning, estimator=partial(ep, tolerance=1e-3)),
    "tolerance, symmetric": partial(
        Learning, estimator=partial(ep, nudging="symmetric", tolerance=1e-3)
    ),
    "augmented": partial(Learning, augmentation=partial(random_shift, pixels=1)),
    "class weights": partial(Learning, estimator=partial(ep, cost=BY_CLASS)),
    "sample weights": partial(Learning, data=partial(images, weights=True)),
    "weights of a stream": partial(Learning, data=streamed),
    "readout": partial(Learning, with_readout, partial(ep, cost=CrossEntropy())),
    "regression": partial(
        Learning, partial(network, outputs=2), data=partial(images, regression=True)
    ),
    "convolution": partial(Learning, convolution),
    "vector field": partial(Learning, vector_field),
    "bptt": partial(Learning, estimator=BPTT_),
    "implicit gradient": partial(Learning, estimator=IMPLICIT),
    "schedule": partial(Learning, scheduler=partial(ExponentialLR, gamma=0.9)),
    "plateau": partial(Learning, scheduler=partial(ReduceLROnPlateau, patience=0)),
    "continual": partial(Learning, estimator=continual),
    "continual, random sign, adam": partial(
        Learning, estimator=partial(continual, nudging="random-sign"), optimizer=ADAM
    ),
    "continual, vector field": partial(Learning, vector_field, continual),
    "continual, readout": partial(Learning, with_readout, partial(continual, cost=CrossEntropy())),
    "continual, schedule": partial(
        Learning, estimator=continual, scheduler=partial(ExponentialLR, gamma=0.9)
    ),
}
"""What eqprop.train learns."""

RESUMED = ("adam", "continual", "plateau")
LEFT = (2, 5, 7)
"""After how many calls an epoch is left: within it, in its test, and within the second."""


def own_loop(ranks: Ranks, optimizer: Callable[..., Any] = MOMENTUM, **how: Any) -> Found:
    """As the documentation has it."""
    model = network(**how)
    learning = optimizer(model.parameters())
    estimator = ep(learning, "random-sign")
    ranks.share(learning)
    generator, loss, samples = torch.Generator().manual_seed(3), 0.0, 0.0
    for x, labels in images().train.batches(BATCH, generator):
        y = eqprop.one_hot(labels, 3, torch.float64)
        x, y = ranks.part(x, y)
        learning.zero_grad()
        estimate = estimator(model, x, y, generator)
        learning.step()
        if ranks.samples:
            loss += float(SquaredError()(model.prediction(estimate.free.state), y).sum())
            samples += ranks.samples
    total = torch.tensor(ranks.total(loss, samples), dtype=torch.float64)
    return {**{n: p.detach().clone() for n, p in model.named_parameters()}, "loss": total}


def followed(ranks: Ranks) -> Found:
    """Processes that begin from different weights begin from those of the first."""
    torch.manual_seed(ranks.rank)
    linear, other = nn.Linear(3, 2), nn.Linear(3, 2)
    # Neither is in memory as it is written: what was sent must come back to where it was.
    for module in (linear, other):
        module.weight = nn.Parameter(module.weight.detach().t().contiguous().t())
    other.register_buffer("mask", torch.randint(2, (4,)).bool())
    ranks.share(SGD([linear.weight]), nn.ModuleList([linear, other]))
    return {**linear.state_dict(), **{f"other {n}": p for n, p in other.state_dict().items()}}


def gradients(ranks: Ranks) -> Found:
    """Of three parameters: one that all have a gradient of, one that one has, one that none has."""
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    optimizer = SGD(parameters, lr=1.0)
    ranks.share(optimizer)
    ranks.share(optimizer)  # Once is enough: they are averaged once.
    # A sample each, and one more for the last: n_r / n.
    count = ranks.count + 1
    (numbers,) = ranks.part(torch.arange(1.0, count + 1))
    parameters[0].grad = numbers.mean().expand(2).clone()
    if ranks.first:
        parameters[1].grad = torch.full((2,), 1.0)
    optimizer.step()
    share = torch.tensor(len(numbers) / count)
    assert parameters[2].grad is None
    return {
        "all": parameters[0].detach() + (count + 1) / 2,
        "one": parameters[1].detach() + torch.tensor(ranks.total(float(share) * ranks.first)),
        "averaged": parameters[0].grad - (count + 1) / 2,
    }


def nothing_of_a_stand_in(ranks: Ranks) -> Found:
    """Not even what is not finite."""
    weight = nn.Parameter(torch.zeros(2))
    optimizer = SGD([weight], lr=1.0)
    ranks.share(optimizer)
    ranks.part(torch.zeros(1, 3))
    weight.grad = torch.full((2,), 2.0 if ranks.samples else float("nan"))
    optimizer.step()
    return {"weight": weight.detach() + 2.0}


class Drawing(Estimator):
    """Draws for every sample of its share."""

    free_steps = 2

    def estimate(self, model: Any, x: Tensor, target: Tensor, generator: Any) -> Estimate:
        torch.rand(len(x), generator=generator)
        return EquilibriumPropagation(2, 2, 0.2)(model, x, target)


class Moving(Estimator):
    """Moves a weight itself, each process as its samples say."""

    free_steps = 2

    @torch.no_grad()
    def estimate(self, model: Any, x: Tensor, target: Tensor, generator: Any) -> Estimate:
        model.connections[0].weight += x.mean()
        return EquilibriumPropagation(2, 2, 0.2)(model, x, target)


def refusal(ranks: Ranks, learn: Callable[[], Any]) -> Found:
    """The text of what is said, as numbers; nothing if nothing is."""
    try:
        learn()
    except (RankError, TypeError, ValueError) as error:
        return {"said": torch.tensor(list(str(error).encode()))}
    return {}


def closure(ranks: Ranks) -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = SGD([weight])
    ranks.share(optimizer)
    optimizer.step(lambda: 0.0)


def going_on(of: str, calls: int, from_one: bool) -> Case:
    """From where an epoch was left after so many mini-batches: by one process, or by as many."""

    def case(ranks: Ranks, folder: Path) -> Found:
        left = folder / f"{1 if from_one else ranks.count}-{of}-{calls}"
        if not from_one:
            learning = LEARNING[of]()
            learning.learn(ranks, calls=calls)
            if ranks.first:
                learning.checkpoint().save(left)
            ranks.wait()
        return LEARNING[of]().learn(ranks, Checkpoint.load(left))

    return case


def cases() -> dict[str, Case]:
    """Everything that several processes can be told to do."""
    found: dict[str, Case] = {
        name: lambda ranks, _, make=make: make().learn(ranks) for name, make in LEARNING.items()
    }
    for name in RESUMED:
        for calls in LEFT:
            found[f"{name}, from one, {calls}"] = going_on(name, calls, True)
            found[f"{name}, from as many, {calls}"] = going_on(name, calls, False)
    for name, estimator in (("drawing", Drawing), ("moving", Moving)):
        found[name] = lambda ranks, _, of=estimator: refusal(
            ranks, partial(Learning(estimator=lambda _: of()).learn, ranks)
        )
    return found | {
        "own loop": lambda ranks, _: own_loop(ranks),
        "own loop, descent": lambda ranks, _: own_loop(ranks, SGD),
        "followed": lambda ranks, _: followed(ranks),
        "gradients": lambda ranks, _: gradients(ranks),
        "stand-in": lambda ranks, _: nothing_of_a_stand_in(ranks),
        "closure": lambda ranks, _: refusal(ranks, partial(closure, ranks)),
        "nothing": lambda ranks, _: refusal(ranks, ranks.part),
        "uneven": lambda ranks, _: refusal(
            ranks, lambda: ranks.part(torch.zeros(2), torch.zeros(3))
        ),
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = eqprop.distributed.start()
    of = cases()
    for line in sys.stdin:
        name = line.strip()
        found = of[name](ranks, folder)
        # All processes have come to the same, bit for bit.
        came_to = [value.reshape(-1).view(torch.uint8) for value in found.values()]
        ranks.require_alike(name, torch.cat(came_to), "why?")
        if ranks.first:
            path = folder / f"found-{ranks.count}-{list(of).index(name)}"
            torch.save(found, path)
            print(path, flush=True)
    ranks.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
