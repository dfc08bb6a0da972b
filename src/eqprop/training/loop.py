"""The training loop: one pass over the data per turn, with the metrics of each.

It receives objects and hands back numbers; it reads no configuration and writes no file. Whoever
iterates over :func:`train` decides between two epochs what is stored, shown, or stopped.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from eqprop.core.models import ConvergentModel
from eqprop.core.stepping import NonFiniteError
from eqprop.data.augmentation import Augmentation
from eqprop.data.dataset import Dataset
from eqprop.estimators.descent import require_no_closure
from eqprop.estimators.estimator import Estimator
from eqprop.training.evaluation import evaluate
from eqprop.training.settled import Tally

__all__ = ["Metrics", "Running", "train"]


@final
@dataclass(frozen=True)
class Metrics:
    """One epoch.

    Attributes:
        epoch: from 1.
        train_error: misclassified training samples in %, each counted in the free phase of its own
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
        nudged_restless: the same of all nudged phases, to min(1, |β|) times that; a K that was
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
class Running:
    """How far an epoch has come."""

    epoch: int
    batch: int
    batches: int
    wrong: Tensor
    samples: int

    @property
    def train_error(self) -> float:
        """Misclassified so far, in %; waits for the device."""
        return 100 * self.wrong.item() / self.samples


def train(
    model: ConvergentModel,
    estimator: Estimator,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    *,
    epochs: int,
    batch_size: int = 20,
    generator: torch.Generator | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    augmentation: Augmentation | None = None,
    done: int = 0,
    on_batch: Callable[[Running], None] | None = None,
) -> Iterator[Metrics]:
    """Train, yielding the metrics of every epoch.

    Args:
        model, estimator, optimizer, data: whatever they are, they share a device and a dtype.
        epochs: how many in all.
        batch_size: samples per mini-batch; the last one may be shorter.
        generator: the only source of randomness: order of the data, sign of β, augmentation. Seeded
            with 0 if not given.
        scheduler: takes a step after every mini-batch; ``ReduceLROnPlateau`` after every epoch,
            with its train loss.
        augmentation: changes the training images of every mini-batch, see
            :mod:`eqprop.data.augmentation`; the train error is then that of the changed ones.
        done: how many of the epochs were completed earlier.
        on_batch: called after every mini-batch.

    Raises:
        TypeError: an optimizer whose ``step`` needs a closure, such as LBFGS.
        NonFiniteError: a state or a parameter stopped being finite; the model is then beyond
            rescue, and what was stored after the last epoch is the last good one.
    """
    require_no_closure(optimizer)
    if generator is None:
        generator = torch.Generator(data.train.images.device).manual_seed(0)
    images = data.train.images
    targets = torch.eye(data.classes, dtype=images.dtype, device=images.device)
    batches = -(-len(data.train) // batch_size)
    learns = True
    watching = isinstance(scheduler, ReduceLROnPlateau)
    for epoch in range(done + 1, epochs + 1):
        started = time.perf_counter()
        wrong = torch.zeros((), dtype=torch.int64, device=targets.device)
        loss = torch.zeros((), dtype=torch.float64, device=targets.device)
        samples = 0
        free = Tally(model.epsilon)
        nudged = Tally(model.epsilon, getattr(estimator, "beta", 1.0))
        for batch, (x, labels) in enumerate(data.train.batches(batch_size, generator), 1):
            if augmentation is not None:
                x = augmentation(x, generator)
            target = targets[labels]
            if learns:
                optimizer.zero_grad()
            try:
                estimate = estimator(model, x, target, generator)
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
                output = estimate.free.state[-1]
                wrong += (output.argmax(1) != labels).sum()
                loss += estimator.cost(output, target).sum()
            samples += len(labels)
            free.add(estimate.free)
            for phase in estimate.nudged:
                nudged.add(phase)
            if on_batch is not None:
                on_batch(Running(epoch, batch, batches, wrong, samples))
        _require_finite(model, f"at the end of epoch {epoch}")
        train_loss = loss.item() / samples
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(train_loss)
        test = evaluate(
            model,
            data.test,
            estimator.free_steps,
            tolerance=estimator.tolerance,
            cost=estimator.cost,
        )
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


def _require_finite(model: ConvergentModel, when: str) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.detach().isfinite().all():
            raise NonFiniteError(
                f"{model.parameter_name(name)} stopped being finite, as seen {when}; "
                "lower the learning rates, or choose a stronger nudge if beta is tiny"
            )
