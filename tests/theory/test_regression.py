"""Targets that are no classes: any shape, learnt and measured by what stays unexplained."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from eqprop.core.phases import relax
from eqprop.data.dataset import Dataset, Split
from eqprop.estimators.bptt import BPTT
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.networks.connections.chains import dense
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.training.evaluation import evaluate, guessing_error
from eqprop.training.loop import Running, Unfinished, train


def made(samples: int = 60, shape: tuple[int, ...] = (1,), seed: int = 0) -> Dataset:
    """Targets that are linear in the inputs, and some noise."""
    torch.manual_seed(seed)
    x = torch.randn(samples, 4, dtype=torch.float64)
    weight = torch.randn(4, *shape, dtype=torch.float64)
    y = torch.tensordot(x, weight, 1) + 0.1 * torch.randn(samples, *shape, dtype=torch.float64)
    half = samples // 2
    return Dataset.from_arrays(x[:half], y[:half], x[half:], y[half:], classes=0)


def network(outputs: int, seed: int = 0) -> PrototypicalNetwork:
    torch.manual_seed(seed)
    readout = nn.Linear(12, outputs)
    return PrototypicalNetwork(dense(4, 12), "tanh", readout=readout).double()


def learnt(data: Dataset, model: Any, epochs: int = 30, **options: Any) -> list[Any]:
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    estimator = EquilibriumPropagation(10, 5, 0.5, "symmetric")
    generator = torch.Generator().manual_seed(0)
    return list(
        train(model, estimator, optimizer, data, epochs=epochs, generator=generator, **options)
    )


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_regression_is_learnt_from_arrays(outputs: int) -> None:
    history = learnt(made(200, (outputs,)), network(outputs))
    assert history[-1].test_error < 30 < history[0].test_error


def test_the_error_is_the_share_of_the_variance_that_is_not_explained() -> None:
    data, model = made(), network(1)
    found = evaluate(model, data.test, 10)
    output = model.prediction(relax(model, data.test.images, 10).state).detach()
    y = data.test.labels
    expected = 100 * ((output - y) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert found.error == pytest.approx(float(expected))
    assert found.loss == pytest.approx(float(((output - y) ** 2).sum() / 2 / len(y)))
    assert guessing_error(data.test) == 100.0


def test_whoever_says_the_mean_of_all_has_an_error_of_100() -> None:
    data = made(shape=(2,))
    model = network(2)
    with torch.no_grad():
        model.readout.weight.zero_()  # pyright: ignore[reportCallIssue]
        model.get_parameter("readout.bias").copy_(data.test.labels.mean(0))
    assert evaluate(model, data.test, 5).error == pytest.approx(100)


def test_the_train_error_is_that_of_the_outputs_before_each_update() -> None:
    data, model = made(), network(1)
    running: list[Running] = []
    (metrics,) = learnt(data, model, 1, batch_size=7, on_batch=running.append)
    seen = [one for one in running if one.estimate is not None]
    assert metrics.train_error == pytest.approx(seen[-1].train_error)
    assert sum(len(one.estimate.free.state[0]) for one in seen if one.estimate) == len(data.train)


def test_an_epoch_of_a_regression_that_was_left_goes_on_as_if_it_had_not_been() -> None:
    data = made()
    whole = learnt(data, network(1), 1, batch_size=7)

    class LeftError(Exception):
        pass

    kept: list[Unfinished] = []
    model, generator = network(1), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    estimator = EquilibriumPropagation(10, 5, 0.5, "symmetric")

    def leave(running: Running) -> None:
        if running.batch == 2:
            kept.append(running.unfinished())
            raise LeftError

    with pytest.raises(LeftError):
        next(
            train(
                model, estimator, optimizer, data,
                epochs=1, batch_size=7, generator=generator, on_batch=leave,
            )
        )  # fmt: skip
    rest = next(
        train(
            model, estimator, optimizer, data,
            epochs=1, batch_size=7, generator=generator, unfinished=kept[0],
        )
    )  # fmt: skip
    assert rest.train_error == pytest.approx(whole[0].train_error, rel=1e-12)
    assert rest.test_error == whole[0].test_error


def test_targets_may_have_any_shape_that_the_output_has() -> None:
    data = made(shape=(2, 3))
    torch.manual_seed(0)
    readout = nn.Sequential(nn.Linear(12, 6), nn.Unflatten(1, (2, 3)))
    model = PrototypicalNetwork(dense(4, 12), "tanh", readout=readout).double()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for estimator in (EquilibriumPropagation(10, 5, 0.5), BPTT(10)):
        metrics = next(train(model, estimator, optimizer, data, epochs=1))
        assert metrics.test_error > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Split(np.ones((3, 2)), [0.5, 1.0, 2.0]),
            r"labels: .*of targets that are no classes \(regression\) give Split\(x, targets, reg",
        ),
        (
            lambda: Dataset(
                "mine",
                Split(np.ones((3, 2)), [0.5, 1.0, 2.0], regression=True),
                Split(np.ones((3, 2)), [0.5, 1.0, 2.0], regression=True),
                3,
            ),
            "mine, train: expected class numbers, as classes = 3 says, got the targets",
        ),
        (
            lambda: Dataset(
                "mine", Split(np.ones((3, 2)), [0, 1, 2]), Split(np.ones((3, 2)), [0, 1, 2]), 0
            ),
            "mine, train: expected the targets of a regression, as classes = 0 says",
        ),
        (
            lambda: Dataset.from_arrays(*[np.ones((3, 2)), [1.0, np.nan, 2.0]] * 2, classes=0),
            "data, train: expected finite targets, got some that are not in sample 1",
        ),
        (
            lambda: Dataset.from_arrays(*[np.ones((3, 2)), [1.0, 1.0, 1.0]] * 2, classes=0),
            "data, train: expected targets that differ, got 3 alike",
        ),
    ],
)
def test_targets_that_cannot_be_learnt_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_targets_of_another_shape_than_the_output_are_refused_before_the_first_step() -> None:
    with pytest.raises(ValueError, match=r"the shape of the targets of data, \(2,\), got \(1,\)"):
        learnt(made(shape=(2,)), network(1), 1)
    with pytest.raises(ValueError, match=r"targets of the shape of the output, \(1,\), got \(2,\)"):
        evaluate(network(1), made(shape=(2,)).test, 5)
