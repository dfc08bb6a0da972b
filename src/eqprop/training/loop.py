"""The training loop: one pass over the data per turn, with the metrics of each.

It receives objects and hands back numbers; it reads no configuration and writes no file. Whoever
iterates over :func:`train` decides between two epochs what is stored, shown, or stopped, and by
``on_batch`` between two mini-batches: an epoch that was left there is an :class:`Unfinished` one,
from which :func:`train` goes on bit for bit.

Several processes may share the mini-batches, see :mod:`eqprop.distributed.ranks`: what is drawn is
drawn for the whole mini-batch before it is split, and what is counted is summed over all of them.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from numbers import Integral
from typing import Any, Self, final

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from eqprop.core.models import ConvergentModel
from eqprop.core.stepping import NonFiniteError
from eqprop.data.augmentation import Augmentation
from eqprop.data.dataset import Dataset, Examples
from eqprop.distributed.ranks import Ranks
from eqprop.estimators.descent import require_no_closure
from eqprop.estimators.estimator import Estimate, Estimator
from eqprop.summary import summary
from eqprop.training.evaluation import evaluate
from eqprop.training.fitting import learnt_by, require_trainable, warn_of_unmoved
from eqprop.training.settled import Tally
from eqprop.training.sharing import require_in_step, summed

__all__ = ["Metrics", "Running", "Unfinished", "train"]


@final
@dataclass(frozen=True)
class Metrics:
    """One epoch.

    Attributes:
        epoch: from 1.
        train_error: misclassified training samples in %, or of a regression the share of the
            variance of its targets that is not explained, each counted in the free phase of its own
            mini-batch, before the update (and after augmentation, if there is any).
        train_loss: mean cost in the same phases.
        test_error: misclassified test samples in %, after the epoch.
        test_loss: mean cost on the test samples, after the epoch.
        seconds: wall-clock time of the epoch, its evaluation included.
        weight_angles: Ψ between the forward and the backward weights after the epoch, in degrees,
            one per untied connection, input side first.
        free_steps: the mean number of transitions the training samples took in their free phases.
        most_free_steps: the largest.
        nudged_steps: the mean number of those of all nudged phases; none without any.
        most_nudged_steps: the largest.
        restless: training samples whose free phase did not come to rest, in %; without a
            tolerance, to :data:`~eqprop.training.settled.AT_REST`.
        nudged_restless: the same of all nudged phases, to min(1, ``|β|``) times that; a K that was
            chosen to cut them short leaves many. None without any.
        test_restless: the same of the test samples, after the epoch.
        test_cycling: test samples that go to and fro between two states instead, in %.
    """

    epoch: int
    train_error: float
    train_loss: float
    test_error: float
    test_loss: float
    seconds: float
    weight_angles: tuple[float, ...] = ()
    free_steps: float | None = None
    most_free_steps: int | None = None
    nudged_steps: float | None = None
    most_nudged_steps: int | None = None
    restless: float | None = None
    nudged_restless: float | None = None
    test_restless: float | None = None
    test_cycling: float | None = None


@final
@dataclass(frozen=True)
class Unfinished:
    """An epoch that was left between two mini-batches: all that the rest of it needs.

    Attributes:
        epoch: from 1.
        batch: how many of its mini-batches are done.
        began: the state of the random generator at its begin, from which the order of its samples
            was drawn.
        wrong: how many samples were misclassified so far; see
            :meth:`~eqprop.data.dataset.Examples.missed`.
        loss: the sum of their costs.
        samples: how many there were.
        seconds: how long they took.
        free: the :meth:`~eqprop.training.settled.Tally.sums` of the free phases.
        nudged: those of the nudged phases.
    """

    epoch: int
    batch: int
    began: Tensor
    wrong: float
    loss: float
    samples: int
    seconds: float
    free: Mapping[str, int]
    nudged: Mapping[str, int]

    __repr__ = summary

    def plain(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        return {**asdict(self), "began": self.began}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """From :meth:`plain`."""
        return cls(**plain)


@final
@dataclass(frozen=True)
class Running:
    """How far an epoch has come, after one of its mini-batches.

    Attributes:
        epoch: from 1.
        batch: how many mini-batches are done.
        batches: how many there are, if that is known.
        wrong: misclassified samples so far, a count on the device.
        loss: the sum of their costs, there too.
        samples: how many samples there were so far.
        began: the state of the random generator when the epoch began.
        started: when that was, by ``time.perf_counter``.
        free: how the free phases came to rest so far.
        nudged: how the nudged ones did.
        estimate: of this mini-batch, or of this process's share of it: its states, steps and
            whether they rest. None once all are done and the test samples are looked at.
        tested: how many of these were, so far.
    """

    epoch: int
    batch: int
    batches: int | None
    wrong: Tensor
    loss: Tensor
    samples: int
    began: Tensor
    started: float
    free: Tally
    nudged: Tally
    estimate: Estimate | None
    tested: int = 0

    __repr__ = summary

    @property
    def train_error(self) -> float:
        """Misclassified, or of a regression unexplained, so far, in %; waits for the device."""
        return 100 * self.wrong.item() / self.samples

    def unfinished(self) -> Unfinished:
        """What :func:`train` needs to go on from here, besides the model, the optimizer, the
        generator and the scheduler as they are now."""
        return Unfinished(
            epoch=self.epoch,
            batch=self.batch,
            began=self.began,
            wrong=self.wrong.item(),
            loss=self.loss.item(),
            samples=self.samples,
            seconds=time.perf_counter() - self.started,
            free=self.free.sums(),
            nudged=self.nudged.sums(),
        )


def train(
    model: ConvergentModel,
    estimator: Estimator,
    optimizer: torch.optim.Optimizer,
    data: Dataset[Examples],
    *,
    epochs: int,
    batch_size: int = 20,
    generator: torch.Generator | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    augmentation: Augmentation | None = None,
    done: int = 0,
    unfinished: Unfinished | None = None,
    on_batch: Callable[[Running], None] | None = None,
    ranks: Ranks | None = None,
) -> Iterator[Metrics]:
    """Train, yielding the metrics of every epoch.

    Nothing is learnt until somebody iterates: ``for metrics in train(…): print(metrics)``.

    Args:
        model, estimator, optimizer, data: whatever they are, they share a device and a dtype.
        epochs: how many in all.
        batch_size: samples per mini-batch; the last one may be shorter. Mini-batches of a stream
            that come in sizes of their own keep them.
        generator: the only source of randomness: order of the data, sign of β, augmentation. Seeded
            with 0 if not given.
        scheduler: takes a step after every mini-batch; ``ReduceLROnPlateau`` after every epoch,
            with its train loss.
        augmentation: changes the training images of every mini-batch, see
            :mod:`eqprop.data.augmentation`; the train error is then that of the changed ones.
        done: how many of the epochs were completed earlier.
        unfinished: the epoch after them, if it was begun earlier; ``generator`` is in the state
            that it had when it was left, as are the model, the optimizer and the scheduler.
        on_batch: called after every mini-batch, and after each of the test. An exception of it
            ends the training; nothing is changed between two calls but by the mini-batch.
        ranks: the processes that share every mini-batch, see
            :func:`eqprop.distributed.start`; all train with the same arguments, and get the same
            metrics, but for the seconds. Alone if not given.

    Raises:
        TypeError: an optimizer whose ``step`` needs a closure, such as LBFGS; what is no model,
            estimator, optimizer, data set, scheduler or generator; another dtype or device.
        ValueError: an output layer that has not one unit for every class; an optimizer that is not
            the estimator's, or a scheduler of another one; numbers that cannot be; an unfinished
            epoch that does not follow on those that are done, or is longer than these data.
        NonFiniteError: a state or a parameter stopped being finite; the model is then beyond
            rescue, and what was stored after the last epoch is the last good one.
        RankError: another process has gone, or does something else.

    Warns:
        RuntimeWarning: nobody has iterated over what it returned.
        UserWarning: parameters that the first epoch did not move.
    """
    require_trainable(model, estimator, optimizer, data)
    require_no_closure(optimizer)
    for name, given, method in (("scheduler", scheduler, "step"), ("generator", generator, "seed")):
        if given is not None and not hasattr(given, method):
            such = (
                "a scheduler of torch.optim.lr_scheduler"
                if name == "scheduler"
                else ("a torch.Generator, such as torch.Generator().manual_seed(0)")
            )
            raise TypeError(f"{name}: expected {such}, got {type(given).__name__}")
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ValueError(
            "scheduler: expected one of the optimizer, got that of another one, whose learning "
            "rates it would change instead"
        )
    for name, number, least in (
        ("epochs", epochs, 0),
        ("batch_size", batch_size, 1),
        ("done", done, 0),
    ):
        if not isinstance(number, Integral) or number < least:
            raise ValueError(f"{name}: expected a whole number of at least {least}, got {number!r}")
    if not isinstance(unfinished, Unfinished | None):
        raise TypeError(
            "unfinished: expected what running.unfinished() or a checkpoint gave, got "
            f"{type(unfinished).__name__}"
        )
    if not isinstance(ranks, Ranks | None):
        raise TypeError(
            f"ranks: expected what eqprop.distributed.start() gives, got {type(ranks).__name__}"
        )
    if generator is None:
        generator = torch.Generator(data.train.first[0].device).manual_seed(0)
    batches = data.train.count(batch_size)
    most = math.inf if batches is None else batches
    if unfinished is not None and (unfinished.epoch != done + 1 or unfinished.batch > most):
        raise ValueError(
            f"unfinished: expected epoch {done + 1} of at most {most} mini-batches, as {done} "
            f"are done, got epoch {unfinished.epoch}, left after mini-batch {unfinished.batch}"
        )
    return _Training(
        _epochs(
            model,
            estimator,
            optimizer,
            data,
            range(done + 1, epochs + 1),
            batch_size,
            generator,
            scheduler,
            augmentation,
            unfinished,
            on_batch or (lambda _: None),
            ranks or Ranks(),
        )
    )


@final
class _Training(Iterator[Metrics]):
    """Says so if nobody ever iterates: the call alone looks as if it trained."""

    def __init__(self, epochs: Iterator[Metrics]) -> None:
        self._epochs, self._begun = epochs, False

    def __next__(self) -> Metrics:
        self._begun = True
        return next(self._epochs)

    def __del__(self) -> None:
        if not self._begun:
            warnings.warn(
                "train() was called, but nobody iterated over what it returned, so nothing was "
                "learnt; write: for metrics in train(…): print(metrics)",
                RuntimeWarning,
                stacklevel=2,
            )


def _epochs(
    model: ConvergentModel,
    estimator: Estimator,
    optimizer: torch.optim.Optimizer,
    data: Dataset[Examples],
    epochs: range,
    batch_size: int,
    generator: torch.Generator,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None,
    augmentation: Augmentation | None,
    unfinished: Unfinished | None,
    on_batch: Callable[[Running], None],
    ranks: Ranks,
) -> Iterator[Metrics]:
    ranks.share(optimizer, model)
    images = data.train.first[0]
    eye = torch.eye(data.classes, dtype=images.dtype, device=images.device)
    batches = data.train.count(batch_size)
    learns = True
    watching = isinstance(scheduler, ReduceLROnPlateau)
    beta = getattr(estimator, "beta", 1.0)
    before, largest = learnt_by(model, optimizer), data.train.largest_weight
    for epoch in epochs:
        left = unfinished if unfinished is not None and unfinished.epoch == epoch else None
        require_in_step(ranks, model, generator)
        began, parts = _order(data.train, batch_size, generator, left)
        started = time.perf_counter() - (left.seconds if left else 0.0)
        kind = torch.float64 if data.train.regression else torch.int64
        wrong = torch.tensor(left.wrong if left else 0, dtype=kind, device=eye.device)
        loss = torch.tensor(left.loss if left else 0.0, dtype=torch.float64, device=wrong.device)
        samples, earlier = (left.samples, left.batch) if left else (0, 0)
        free = Tally(model.epsilon, earlier=left.free if left else None)
        nudged = Tally(model.epsilon, beta, left.nudged if left else None)
        now = Running(
            epoch, earlier, batches, wrong, loss, samples, began, started, free, nudged, None
        )
        for batch, (x, labels, *weights) in enumerate(parts, earlier + 1):
            # Of the whole mini-batch, so that all processes nudge alike and draw alike.
            most = float(weights[0].max()) or 1.0 if weights and largest is None else largest
            if augmentation is not None:
                x = augmentation(x, generator)
            x, labels, *weights = ranks.part(x, labels, *weights)
            weighing = estimator.weighing(weights[0], most) if weights else estimator
            target = labels if data.train.regression else eye[labels]
            if learns:
                optimizer.zero_grad()
            try:
                estimate = weighing(model, x, target, generator)
            except NonFiniteError:
                # A parameter that is not finite shows in the states of the next mini-batch; with
                # continual updates in those of its own.
                _require_finite(model, f"in mini-batch {batch} of epoch {epoch}")
                raise
            # Where the estimator has taken the step itself, there is nothing left to do.
            held = (p for group in optimizer.param_groups for p in group["params"])
            learns = scheduler is not None or any(p.grad is not None for p in held)
            if learns:
                optimizer.step()
            if scheduler is not None and not watching:
                scheduler.step()
            with torch.no_grad():
                output = model.prediction(estimate.free.state)
                missed = data.train.missed(output, labels)
                cost, count = weighing.cost(output, target).sum(), len(labels)
            if ranks.count == 1:
                free.add(estimate.free)
                for phase in estimate.nudged:
                    nudged.add(phase)
            else:
                phases = (free, [estimate.free]), (nudged, estimate.nudged)
                of_all = summed(ranks, (missed, cost, count), phases)
                missed, cost = wrong.new_tensor(of_all[0]), loss.new_tensor(of_all[1])
                count = int(of_all[2])
            wrong = wrong + missed
            loss += cost
            samples += count
            now = replace(now, wrong=wrong, batch=batch, samples=samples, estimate=estimate)
            on_batch(now)
        if not samples:
            raise ValueError(
                f"data: expected mini-batches that come again in every epoch, got none in epoch "
                f"{epoch}"
            )
        _require_finite(model, f"at the end of epoch {epoch}")
        if now.estimate is not None:  # An epoch that was left in its test has no mini-batch more.
            warn_of_unmoved(model, before, f"in epoch {epoch}")
            before = {}  # Later a gradient of exactly 0 may be well earned.
        test = evaluate(
            model,
            data.test,
            estimator.free_steps,
            tolerance=estimator.tolerance,
            cost=estimator.cost,
            on_batch=partial(_tested, on_batch, now),
            ranks=ranks,
        )
        train_loss = loss.item() / samples
        # Only now, as an epoch may be left within its test.
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(train_loss)
        freely, pulled = free.settled(), nudged.settled()
        yield Metrics(
            epoch=epoch,
            train_error=100 * wrong.item() / samples,
            train_loss=train_loss,
            test_error=test.error,
            test_loss=test.loss,
            seconds=time.perf_counter() - started,
            weight_angles=tuple(getattr(model, "weight_angles", ())),
            free_steps=freely and freely.steps,
            most_free_steps=freely and freely.most,
            nudged_steps=pulled and pulled.steps,
            most_nudged_steps=pulled and pulled.most,
            restless=freely and freely.restless,
            nudged_restless=pulled and pulled.restless,
            test_restless=test.restless,
            test_cycling=test.cycling,
        )


def _order(
    split: Examples, batch_size: int, generator: torch.Generator, left: Unfinished | None
) -> tuple[Tensor, Iterator[tuple[Tensor, ...]]]:
    """What is left of an epoch, and the state of the generator when it began."""
    if left is None:
        return generator.get_state(), split.batches(batch_size, generator)
    # The same order is drawn anew; then all goes on as it was when the epoch was left.
    now = generator.get_state()
    generator.set_state(left.began)
    parts = split.batches(batch_size, generator, start=left.batch)
    generator.set_state(now)
    return left.began, parts


def _tested(on_batch: Callable[[Running], None], now: Running, tested: int) -> None:
    on_batch(replace(now, estimate=None, tested=tested))


def _require_finite(model: ConvergentModel, when: str) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.detach().isfinite().all():
            raise NonFiniteError(
                f"{model.parameter_name(name)} stopped being finite, as seen {when}; "
                "lower the learning rates, or choose a stronger nudge if beta is tiny"
            )
