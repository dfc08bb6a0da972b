"""The loop over epochs and the evaluation count what they say, on cases worked out by hand."""

from contextlib import suppress
from functools import partial
from math import inf
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    ExponentialLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from eqprop.core.costs import SquaredError
from eqprop.core.models import ConvergentModel, PrimitiveModel, State, VectorFieldModel
from eqprop.core.phases import relax
from eqprop.core.stepping import NonFiniteError
from eqprop.data.augmentation import random_shift
from eqprop.data.dataset import Dataset, Split
from eqprop.estimators.continual import ContinualEP
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.estimator import Estimate, Estimator
from eqprop.networks.connections.chains import dense
from eqprop.networks.connections.dense import Dense
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.training.checkpoint import Checkpoint
from eqprop.training.evaluation import evaluate, predict
from eqprop.training.fitting import require_trainable
from eqprop.training.loop import Running, train


class Echo(VectorFieldModel):
    """Its output is its input plus a bias, after one step and ever after."""

    def __init__(self) -> None:
        super().__init__([2])
        self.bias = nn.Parameter(torch.zeros(2))

    def field(self, drive: Tensor, state: State) -> State:
        return (drive.flatten(1) + self.bias,)


class Pushing(Estimator):
    """Pushes the bias towards class 1 by 10 in every mini-batch of rate 1, whatever the data."""

    free_steps = 1

    def __init__(self) -> None:
        self.batches: list[int] = []

    def estimate(
        self,
        model: ConvergentModel,
        x: Tensor,
        target: Tensor,
        generator: torch.Generator | None,
    ) -> Estimate:
        self.batches.append(len(x))
        with torch.no_grad():
            free = relax(model, x, self.free_steps)
        bias = model.get_parameter("bias")
        bias.grad = torch.tensor([0.0, -10.0])
        return Estimate(free)


def split(pixels: list[list[float]], labels: list[int]) -> Split:
    return Split(torch.tensor(pixels).view(-1, 1, 1, 2), torch.tensor(labels))


# Outputs (1, 0), (0, 1), (0.5, 0): classes 0, 1, 0. The last one is labelled 1.
THREE = split([[1, 0], [0, 1], [0.5, 0]], [0, 1, 1])
COSTS = [0, 0, 0.5 * (0.5**2 + 1**2)]


def test_images_are_changed_before_they_are_learnt_and_counted_but_not_when_tested() -> None:
    seen = []

    def swapped(images: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(generator)
        return images.flip(3)

    generator = torch.Generator().manual_seed(0)
    model = Echo()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    data = Dataset("three", THREE, THREE, 2)
    (plain,) = train(model, Pushing(), optimizer, data, epochs=1, batch_size=2)
    (found,) = train(
        model,
        Pushing(),
        optimizer,
        data,
        epochs=1,
        batch_size=2,
        generator=generator,
        augmentation=swapped,
    )
    # Flipped, outputs are (0, 1), (1, 0), (0, 0.5): the third alone is right.
    assert found.train_error == pytest.approx(200 / 3)
    assert found.test_error == plain.test_error == plain.train_error == pytest.approx(100 / 3)
    assert seen == [generator, generator]


def test_a_plateau_of_the_train_loss_lowers_the_learning_rate_after_an_epoch() -> None:
    """It is told the loss once an epoch; this one learns too slowly for it ever to fall."""
    model = Echo()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-30)
    scheduler = ReduceLROnPlateau(optimizer, patience=0, eps=0.0)
    data = Dataset("three", train=THREE, test=THREE, classes=2)
    rates = [
        optimizer.param_groups[0]["lr"]
        for _ in train(
            model, Pushing(), optimizer, data, epochs=3, batch_size=1, scheduler=scheduler
        )
    ]
    assert rates == pytest.approx([1e-30, 1e-31, 1e-32], rel=1e-9, abs=0)


def test_an_optimizer_that_wants_a_closure_is_refused_before_anything_is_learnt() -> None:
    model = Echo()
    optimizer = torch.optim.LBFGS(model.parameters())
    data = Dataset("three", train=THREE, test=THREE, classes=2)
    estimator = Pushing()
    with pytest.raises(TypeError, match="needs no closure, such as SGD or Adam, got LBFGS"):
        next(train(model, estimator, optimizer, data, epochs=1))
    assert estimator.batches == []
    with pytest.raises(TypeError, match="needs no closure, such as SGD or Adam, got LBFGS"):
        ContinualEP(optimizer, 5, 5, 0.1)


@pytest.mark.parametrize("rate", [0.5, torch.tensor(0.5)])
def test_a_learning_rate_may_be_a_tensor(rate: float | torch.Tensor) -> None:
    learnt = []
    for lr in (0.5, rate):
        torch.manual_seed(0)
        model = PrototypicalNetwork(dense(2, 3, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        for estimator in (
            EquilibriumPropagation(5, 5, 0.1, optimizer=optimizer),
            ContinualEP(optimizer, 5, 5, 0.1),
        ):
            estimator(model, torch.ones(1, 2), torch.ones(1, 2))
            optimizer.step()
        learnt.append([p.detach().clone() for p in model.parameters()])
    for one, other in zip(*learnt, strict=True):
        torch.testing.assert_close(one, other)


def test_a_scheduler_steps_after_every_mini_batch() -> None:
    model = Echo()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda batch: 0.1**batch)
    data = Dataset("three", THREE, THREE, 2)
    list(train(model, Pushing(), optimizer, data, epochs=1, batch_size=2, scheduler=scheduler))
    # Two mini-batches push by 10, at the rates 1 and 0.1.
    torch.testing.assert_close(model.bias.detach(), torch.tensor([0.0, 11.0]))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 500])
def test_the_evaluation_does_not_depend_on_how_the_samples_are_grouped(batch_size: int) -> None:
    found = evaluate(Echo(), THREE, 1, batch_size=batch_size)
    assert found.error == pytest.approx(100 / 3)
    assert found.loss == pytest.approx(sum(COSTS) / 3)
    assert found.samples == 3
    assert found.residual == (1.0,)


def test_the_class_predicted_is_the_largest_output() -> None:
    assert predict(Echo(), THREE.images, 1).tolist() == [0, 1, 0]


def test_the_residual_is_the_worst_over_all_samples() -> None:
    class Doubling(Echo):
        """s ← s + x: each step moves by x, of which the largest is 1, in the first two samples."""

        def field(self, drive: Tensor, state: State) -> State:
            return (state[0] + drive.flatten(1),)

    assert evaluate(Doubling(), THREE, 3, batch_size=1).residual == (1.0,)


def test_an_epoch_counts_every_sample_before_its_own_update_and_tests_after_it() -> None:
    model, estimator = Echo(), Pushing()
    data = Dataset("three", train=THREE, test=THREE, classes=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    seen = []
    epochs = list(
        train(
            model,
            estimator,
            optimizer,
            data,
            epochs=2,
            batch_size=2,
            on_batch=lambda r: seen.append((r.epoch, r.batch, r.batches, r.samples, r.tested)),
        )
    )
    assert estimator.batches == [2, 1, 2, 1]
    # The third time after the test of all three.
    assert seen[:3] == [(1, 1, 2, 2, 0), (1, 2, 2, 3, 0), (1, 2, 2, 3, 3)]
    assert seen[3:] == [(2, 1, 2, 2, 0), (2, 2, 2, 3, 0), (2, 2, 2, 3, 3)]
    assert [m.epoch for m in epochs] == [1, 2]
    # From the first update on everything is taken for class 1, so only sample 0 is wrong: by epoch
    # 2 wherever it comes, and in the test. In epoch 1 the first two samples are seen as they are.
    assert epochs[1].train_error == pytest.approx(100 / 3)
    assert epochs[0].test_error == pytest.approx(100 / 3)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(0)).tolist()
    wrong = (2 in order[:2]) + (order[2] == 0)
    assert epochs[0].train_error == pytest.approx(100 * wrong / 3)
    pushed = THREE.images.view(3, 2) + torch.tensor([0.0, 10.0])
    target = torch.eye(2)[THREE.labels]
    costs = [*SquaredError()(THREE.images.view(3, 2), target)[order[:2]]]
    costs.append(SquaredError()(pushed, target)[order[2]])
    assert epochs[0].train_loss == pytest.approx(sum(c.item() for c in costs) / 3)
    # after two updates of +10
    tested = SquaredError()(pushed + torch.tensor([0.0, 10.0]), target).mean().item()
    assert epochs[0].test_loss == pytest.approx(tested)


def test_the_estimators_tolerance_and_steps_are_those_of_the_evaluation() -> None:
    class Patient(Pushing):
        free_steps = 7
        tolerance = 0.0

    steps = []

    class Counting(Echo):
        def step(self, drive: Tensor, state: State, force: Tensor | None = None) -> State:
            steps.append(1)
            return super().step(drive, state, force)

    data = Dataset("three", train=THREE, test=THREE, classes=2)
    model = Counting()
    list(train(model, Patient(), torch.optim.SGD(model.parameters(), lr=0.0), data, epochs=1))
    assert len(steps) == 7 + 2  # one mini-batch, then one batch of test samples, at rest after two

    class Impatient(Patient):
        free_steps = 50

    steps.clear()
    list(train(model, Impatient(), torch.optim.SGD(model.parameters(), lr=0.0), data, epochs=1))
    # This estimator relaxes without its tolerance; in the evaluation all rest at the first look.
    assert len(steps) == 50 + 2


def test_a_parameter_that_stops_being_finite_is_named_with_its_update() -> None:
    class Ruining(Pushing):
        def estimate(self, model, x, target, generator) -> Estimate:
            estimate = super().estimate(model, x, target, generator)
            if len(self.batches) == 2:
                model.bias.grad = torch.tensor([0.0, float("nan")])
            return estimate

    model = Echo()
    data = Dataset("three", train=THREE, test=THREE, classes=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(NonFiniteError, match="parameter bias .* seen in mini-batch 3 of epoch 1"):
        list(train(model, Ruining(), optimizer, data, epochs=3, batch_size=1))
    model = Echo()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(NonFiniteError, match="parameter bias .* seen at the end of epoch 1"):
        list(train(model, Ruining(), optimizer, data, epochs=3, batch_size=2))


class LeftError(Exception):
    """Somebody pulled the plug."""


def eighteen() -> Dataset:
    """Samples of two classes, and four to test on; the fifth mini-batch of four is a short one."""
    images = torch.rand(20, 1, 2, 3, generator=torch.Generator().manual_seed(5))
    labels = (images.flatten(1).sum(1) > 3).long()
    return Dataset("eighteen", Split(images[:18], labels[:18]), Split(images[4:8], labels[4:8]), 2)


SCHEDULERS = {
    "constant": lambda optimizer: None,
    "one-cycle": lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=10),
    "steps": lambda optimizer: MultiStepLR(optimizer, [2, 7]),
    "plateau": lambda optimizer: ReduceLROnPlateau(optimizer, patience=0),
    "in-turn": lambda optimizer: SequentialLR(
        optimizer, [ConstantLR(optimizer, 0.5), ExponentialLR(optimizer, 0.9)], [3]
    ),
}
OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, 0.05),
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, torch.tensor(0.1), 0.9),
}


class Student:
    """A network and all that trains it, over two epochs."""

    def __init__(self, optimizer: str, scheduler: str, continual: bool) -> None:
        torch.manual_seed(0)
        self.model = PrototypicalNetwork(dense(6, 4, 2), "tanh")
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.scheduler = SCHEDULERS[scheduler](self.optimizer)
        self.generator = torch.Generator().manual_seed(3)
        self.estimator: Estimator = (
            ContinualEP(self.optimizer, 5, 3, 0.5)
            if continual
            else EquilibriumPropagation(5, 3, 0.5, nudging="random-sign", tolerance=0.1)
        )

    def learn(self, calls: float, begun: Checkpoint | None = None) -> list[dict[str, Any]]:
        """To the end, or until it has been called so often between two mini-batches."""
        self.history = [] if begun is None else list(begun.history)
        self.calls, self.left = calls, None
        with suppress(LeftError):
            for metrics in train(
                self.model,
                self.estimator,
                self.optimizer,
                eighteen(),
                epochs=2,
                batch_size=4,
                generator=self.generator,
                scheduler=self.scheduler,
                augmentation=partial(random_shift, pixels=1),
                done=len(self.history),
                unfinished=begun.unfinished if begun else None,
                on_batch=self.count,
            ):
                self.history.append({**vars(metrics), "seconds": 0.0, "weight_angles": []})
        return self.history

    def count(self, running: Running) -> None:
        self.calls -= 1
        if self.calls < 0:
            self.left = running.unfinished()
            raise LeftError

    def checkpoint(self) -> Checkpoint:
        return Checkpoint.capture(
            self.model,
            self.optimizer,
            self.generator,
            self.history,
            scheduler=self.scheduler,
            unfinished=self.left,
        )


@pytest.mark.parametrize(
    ("optimizer", "scheduler", "continual"),
    [
        ("sgd", "constant", True),
        ("sgd", "steps", False),
        ("adam", "one-cycle", False),
        ("adam", "in-turn", True),
        ("momentum", "plateau", False),
        ("momentum", "steps", True),
    ],
)
@pytest.mark.filterwarnings("error:.*did not move")
def test_an_epoch_that_was_left_between_any_two_mini_batches_goes_on_bit_for_bit(
    optimizer: str, scheduler: str, continual: bool, tmp_path: Path
) -> None:
    """Of five mini-batches and one of the test, in each of two epochs."""
    kind = optimizer, scheduler, continual
    whole = Student(*kind)
    expected = whole.learn(inf)
    for calls in range(12):
        left = Student(*kind)
        left.learn(calls)
        assert left.left is not None
        left.checkpoint().save(tmp_path / "left")
        gone_on = Student(*kind)
        checkpoint = Checkpoint.load(tmp_path / "left")
        checkpoint.restore(
            gone_on.model, gone_on.optimizer, gone_on.generator, scheduler=gone_on.scheduler
        )
        assert gone_on.learn(inf, checkpoint) == expected
        for a, b in zip(whole.model.parameters(), gone_on.model.parameters(), strict=True):
            assert torch.equal(a, b)


def test_an_epoch_that_was_left_elsewhere_is_refused() -> None:
    student = Student("sgd", "constant", False)
    student.learn(8)
    left = student.left
    assert left is not None
    assert (left.epoch, left.batch) == (2, 3)
    rest = student.model, student.estimator, student.optimizer, eighteen()
    with pytest.raises(ValueError, match=r"expected epoch 1 .* got epoch 2, left after .* 3"):
        train(*rest, epochs=2, batch_size=4, unfinished=left)
    with pytest.raises(ValueError, match=r"epoch 2 of at most 2 mini-batches"):
        train(*rest, epochs=2, batch_size=9, done=1, unfinished=left)


def test_a_captured_state_is_that_of_the_moment_whatever_is_learnt_later() -> None:
    student = Student("adam", "constant", False)
    student.learn(4)
    captured = student.checkpoint()
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    student.learn(inf)
    assert not torch.equal(
        student.model.state_dict()["connections.0.weight"], before["connections.0.weight"]
    )
    captured.restore_model(student.model)
    for name, value in student.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_training_that_nobody_iterates_over_says_that_nothing_is_learnt() -> None:
    model, data = Echo(), Dataset("three", train=THREE, test=THREE, classes=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.warns(RuntimeWarning, match="nobody iterated over .* for metrics in train"):
        train(model, Pushing(), optimizer, data, epochs=1)
    with catch_warnings(record=True) as said:
        simplefilter("always")
        next(train(model, Pushing(), optimizer, data, epochs=2))
    assert said == []


def test_whoever_looks_after_a_mini_batch_sees_its_estimate() -> None:
    model, data = Echo(), Dataset("three", train=THREE, test=THREE, classes=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    seen = []
    list(train(model, Pushing(), optimizer, data, epochs=1, batch_size=2, on_batch=seen.append))
    # The last is behind the test, which has no estimate.
    *learnt, tested = seen
    order = torch.randperm(3, generator=torch.Generator().manual_seed(0))
    outputs = torch.cat([running.estimate.free.state[-1] for running in learnt])
    torch.testing.assert_close(outputs, THREE.images.view(3, 2)[order])
    assert tested.estimate is None
    assert [running.tested for running in seen] == [0, 0, 3]


def test_training_starts_where_it_is_told_to() -> None:
    model = Echo()
    data = Dataset("three", train=THREE, test=THREE, classes=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    found = train(model, Pushing(), optimizer, data, epochs=5, done=3)
    assert [m.epoch for m in found] == [4, 5]


# What does not fit


def table(classes: int = 3) -> Dataset:
    """A table of 6 features; the class is which of the first is the largest."""
    x = np.random.RandomState(0).rand(300, 6)
    y = x[:, :classes].argmax(1)
    return Dataset.from_arrays(x[:200], y[:200], x[200:], y[200:], name="table")


def test_a_table_is_learnt_from_arrays() -> None:
    data = table()
    torch.manual_seed(0)
    model = PrototypicalNetwork(dense(data.input_shape, 16, data.classes))
    estimator = EquilibriumPropagation(20, 8, 0.5, nudging="symmetric")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    *_, last = train(model, estimator, optimizer, data, epochs=10)
    assert last.test_error < 15, "of 67 by chance"


def test_what_cannot_be_trained_is_refused_in_words() -> None:
    data, model = table(), PrototypicalNetwork(dense(6, 3))
    ep, sgd = EquilibriumPropagation(4, 2, 0.5), torch.optim.SGD(model.parameters(), 0.1)
    require_trainable(model, ep, sgd, data)
    require_trainable(torch.compile(model), ep, sgd, data)
    two, four = (PrototypicalNetwork(dense(6, units)) for units in (2, 4))
    others = torch.optim.SGD(two.parameters(), 0.1)
    for error, said, given in (
        (
            ValueError,
            "output layer of 3 units, one for every class of table, got one of 2",
            (two, ep, others, data),
        ),
        (ValueError, "output layer of 3 units, .* got one of 4", (four, ep, others, data)),
        (
            ValueError,
            "optimizer: expected one of the model's parameters",
            (model, ep, others, data),
        ),
        (
            TypeError,
            "images: expected torch.float64, as the",
            (PrototypicalNetwork(dense(6, 3)).double(), ep, sgd, data),
        ),
        (
            TypeError,
            "model: expected a ConvergentModel, got Linear",
            (nn.Linear(6, 3), ep, sgd, data),
        ),
        (TypeError, "estimator: .* got SGD; the order is model, est", (model, sgd, ep, data)),
        (TypeError, "estimator: .* got the class EquilibriumProp", (model, type(ep), sgd, data)),
        (TypeError, "optimizer: .* got Dataset", (model, ep, data, sgd)),
        (TypeError, "data: expected a Dataset, .* got Split", (model, ep, sgd, data.train)),
    ):
        with pytest.raises(error, match=said):
            require_trainable(*given)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ({"epochs": 1.5}, "epochs: expected a whole number of at least 0, got 1.5"),
        ({"epochs": -1}, "epochs: expected a whole number of at least 0, got -1"),
        ({"done": -1}, "done: expected a whole number of at least 0, got -1"),
        ({"generator": 0}, "generator: expected a torch.Generator, .* got int"),
        ({"scheduler": []}, "scheduler: expected a scheduler of .* got list"),
        ({"unfinished": {}}, "unfinished: expected what .* got dict"),
    ],
    ids=str,
)
def test_what_training_cannot_be_told_is_refused_in_words(change: Any, said: str) -> None:
    student = Student("sgd", "constant", False)
    rest = student.model, student.estimator, student.optimizer, eighteen()
    with pytest.raises((TypeError, ValueError), match=said):
        train(*rest, **{"epochs": 1, **change})


class Idle(PrimitiveModel):
    """Half of its parameters do nothing."""

    def __init__(self) -> None:
        super().__init__([3], activation="tanh")
        self.used, self.unused, self.detached = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)

    def phi(self, x: Tensor, state: State) -> Tensor:
        sent = self.used(x) + x @ self.detached.weight.detach().t()
        return (state[0] * sent).sum(1)


def idle_training(model: ConvergentModel) -> Any:
    x, y = torch.rand(6, 4), torch.tensor([0, 1, 2] * 2)
    estimator = EquilibriumPropagation(3, 3, 0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return train(model, estimator, optimizer, Dataset.from_arrays(x, y, x, y), epochs=2)


def test_parameters_that_nothing_moves_are_named_once() -> None:
    model = Idle()
    with pytest.warns(UserWarning, match="did not move") as warned:
        list(idle_training(model))
    (said,) = [str(warning.message) for warning in warned]
    assert said.startswith(
        "parameter unused.weight, parameter unused.bias, parameter detached.weight and 1 more did "
        "not move in epoch 1: does what the network does depend on it"
    )
    for idle in (model.unused, model.detached):
        idle.requires_grad_(False)
    with catch_warnings():
        simplefilter("error")
        list(idle_training(model))


@pytest.mark.parametrize(
    ("hidden", "said"),
    [
        (lambda: [nn.Linear(4, 3)], "in the list Idle.more, .* make it an nn.ModuleList"),
        (lambda: (nn.Parameter(torch.ones(3)),), "in the tuple Idle.more, .* an nn.ParameterList"),
        (lambda: {"a": nn.Linear(4, 3)}, "in the dict Idle.more, .* make it an nn.ModuleDict"),
    ],
    ids=["modules", "parameters", "by name"],
)
def test_parameters_that_torch_does_not_find_are_refused(hidden: Any, said: str) -> None:
    model: Any = Idle()
    model.more = hidden()
    with pytest.raises(ValueError, match=said):
        idle_training(model)
    model.more = [model.used, model.detached.weight]
    with pytest.warns(UserWarning, match="did not move"):
        list(idle_training(model))


def test_a_network_all_of_which_is_frozen_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a parameter of the model that learns, got fro"):
        idle_training(Idle().requires_grad_(False))


def test_an_optimizer_or_a_scheduler_that_would_do_nothing_is_refused() -> None:
    student, other = (Student("sgd", "constant", True) for _ in range(2))
    stranger = torch.optim.Adam(student.model.parameters())
    with pytest.raises(ValueError, match="optimizer: expected that of the estimator, a SGD"):
        train(student.model, student.estimator, stranger, eighteen(), epochs=1)
    scheduler = MultiStepLR(other.optimizer, [2])
    rest = student.model, student.estimator, student.optimizer, eighteen()
    with pytest.raises(ValueError, match="scheduler: expected one of the optimizer, got that of"):
        train(*rest, epochs=1, scheduler=scheduler)


def test_layers_replaced_after_the_optimizer_was_made_are_named() -> None:
    model = PrototypicalNetwork(dense(4, 5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.connections[0] = Dense(4, 5)
    x, y = torch.rand(6, 4), torch.tensor([0, 1, 2] * 2)
    data = Dataset.from_arrays(x, y, x, y)
    estimator = EquilibriumPropagation(5, 3, 0.5)
    with pytest.warns(UserWarning, match="holds the weight of hidden layer 1 .*were layers repl"):
        list(train(model, estimator, optimizer, data, epochs=1))
    model.connections[0].requires_grad_(False)
    with catch_warnings():
        simplefilter("error")
        list(train(model, estimator, optimizer, data, epochs=1))
