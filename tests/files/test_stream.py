"""Data read while it is learnt from is learnt from as data held whole."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from eqprop.core.models import ConvergentModel
from eqprop.data.dataset import Dataset, Examples, Split
from eqprop.data.stream import Stream
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.networks.connections.chains import dense
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.training.evaluation import evaluate
from eqprop.training.loop import Metrics, train


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def arrays(samples: int = 25, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(seed)
    return drawn.random((samples, 4), np.float32), drawn.integers(0, 3, samples)


class Pairs(torch.utils.data.Dataset[Any]):
    """A data set of torch, as people write it: one sample after the other."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        return self.x[number], int(self.y[number])


class Watched:
    """An array that remembers which of its rows were looked at, and by which thread."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.looked_at: list[int] = []
        self.threads: set[str] = set()

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        self.looked_at += rows.tolist()
        self.threads.add(threading.current_thread().name)
        return self.array[rows]


class Shards(IterableDataset[Any]):
    """Mini-batches in an order and of sizes of their own."""

    def __init__(self, x: np.ndarray, y: np.ndarray, sizes: list[int]) -> None:
        self.ends, self.x, self.y = np.cumsum(sizes), x, y

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for begin, end in zip([0, *self.ends], self.ends, strict=False):
            yield self.x[begin:end], self.y[begin:end]


class Bare:
    """Mini-batches that are no pairs."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def alike(one: Examples, other: Examples, batch_size: int, seed: int | None, start: int) -> bool:
    first, second = (
        list(part.batches(batch_size, None if seed is None else seeded(seed), start=start))
        for part in (one, other)
    )
    return len(first) == len(second) and all(
        len(a) == len(b) and all(map(torch.equal, a, b)) for a, b in zip(first, second, strict=True)
    )


Training = Callable[..., Iterator[Metrics]]


def training(train_on: Examples) -> tuple[ConvergentModel, Training]:
    """A network, and what trains it for two epochs."""
    torch.manual_seed(0)
    model = PrototypicalNetwork(dense(4, 5, 3))
    optimizer = torch.optim.SGD(model.parameter_groups([0.1, 0.1]))
    estimator = EquilibriumPropagation(8, 4, 0.5, optimizer=optimizer)
    data = Dataset("some", train_on, Split(*arrays(9, 1)), 3)
    common = {"epochs": 2, "batch_size": 4, "generator": seeded()}
    return model, partial(train, model, estimator, optimizer, data, **common)


def learnt(train_on: Examples) -> tuple[ConvergentModel, list[Metrics]]:
    model, train_it = training(train_on)
    return model, list(train_it())


def same(one: ConvergentModel, other: ConvergentModel) -> bool:
    return all(map(torch.equal, one.parameters(), other.parameters()))


@given(
    st.integers(1, 30),
    st.integers(1, 12),
    st.one_of(st.none(), st.integers(0, 99)),
    st.integers(0, 4),
)
def test_a_stream_gives_the_mini_batches_of_the_same_data_held_whole(
    samples: int, batch_size: int, seed: int | None, start: int
) -> None:
    x, y = arrays(samples)
    whole = Split(x, y)
    assert alike(Stream((x, y), classes=3), whole, batch_size, seed, start)
    assert alike(Stream(Pairs(x, y), classes=3), whole, batch_size, seed, start)
    weights = np.arange(1, samples + 1) / samples
    weighted = Split(x, y, weights=weights)
    assert alike(Stream((x, y, weights), classes=3), weighted, batch_size, seed, start)
    assert len(Stream((x, y), classes=3)) == samples
    assert Stream((x, y), classes=3).count(batch_size) == whole.count(batch_size)


def test_a_network_learns_from_a_stream_what_it_learns_from_the_same_data_held_whole(
    tmp_path: Path,
) -> None:
    x, y = arrays()
    for name, array in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", array)
    mapped = tuple(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy")
    model, metrics = learnt(Split(x, y))
    for source in (mapped, Pairs(x, y), TensorDataset(torch.tensor(x), torch.tensor(y))):
        other, found = learnt(Stream(source, classes=3))
        assert same(model, other)
        assert [(m.train_error, m.train_loss) for m in found] == [
            (m.train_error, m.train_loss) for m in metrics
        ]


def test_several_workers_read_what_one_reads() -> None:
    x, y = arrays()
    state = torch.get_rng_state()
    assert alike(Stream(Pairs(x, y), classes=3, workers=2), Split(x, y), 4, 7, 1)
    assert torch.equal(state, torch.get_rng_state())


def test_mini_batches_of_sizes_of_their_own_are_learnt_from_as_they_come() -> None:
    x, y = arrays()
    sizes = [7, 1, 12, 5]
    stream = Stream(Shards(x, y, sizes), classes=3)
    assert stream.count(4) is None
    assert [len(labels) for _, labels in stream.batches(4, seeded())] == sizes
    _, metrics = learnt(stream)
    assert len(metrics) == 2
    loader = DataLoader(TensorDataset(torch.tensor(x), torch.tensor(y)), batch_size=6)
    assert Stream(loader, classes=3).count(4) == 5
    assert [len(labels) for _, labels in Stream(loader, classes=3).batches(4)] == [6, 6, 6, 6, 1]
    model = PrototypicalNetwork(dense(4, 5, 3))
    found = evaluate(model, Stream(loader, classes=3), 10)
    whole = evaluate(model, Split(x, y), 10)
    assert (found.samples, found.error) == (25, whole.error)
    assert found.loss == pytest.approx(whole.loss)


@pytest.mark.parametrize("kind", ["arrays", "mini-batches"])
def test_an_epoch_of_a_stream_that_was_left_goes_on_bit_for_bit(kind: str) -> None:
    x, y = arrays()

    def stream() -> Stream:
        return Stream((x, y) if kind == "arrays" else Shards(x, y, [9, 9, 7]), classes=3)

    whole, _ = learnt(stream())
    model, train_it = training(stream())
    left = []

    def leave(running: Any) -> None:
        if running.batch == 2:
            left.append(running.unfinished())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(train_it(on_batch=leave))
    list(train_it(unfinished=left[0]))
    assert same(model, whole)


def test_no_more_is_read_than_what_is_learnt_next_and_what_was_asked_for_beforehand() -> None:
    x, y = arrays(60)
    watched = Watched(x)
    stream = Stream((watched, y), classes=3, ahead=2)
    batches = stream.batches(5, seeded())
    assert watched.looked_at == []
    next(batches)
    next(batches)
    # The first two, and no more than two that wait.
    assert 10 <= len(watched.looked_at) <= 20
    assert threading.current_thread().name not in watched.threads
    rest = list(batches)
    assert len(rest) == 10
    assert sorted(watched.looked_at) == list(range(60))


def test_reading_ends_when_nobody_wants_more() -> None:
    x, y = arrays(60)
    watched = Watched(x)
    batches = Stream((watched, y), classes=3).batches(5)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    read = len(watched.looked_at)
    assert read <= 15
    assert not [t for t in threading.enumerate() if t.name.startswith("eqprop-stream")]
    assert len(watched.looked_at) == read


def test_inputs_are_prepared_mini_batch_by_mini_batch() -> None:
    x, y = np.arange(24, dtype=np.uint8).reshape(6, 4), np.arange(6) % 3
    stream = Stream((x, y), classes=3, prepare=lambda levels: levels / 255, dtype=torch.float64)
    inputs = torch.cat([inputs for inputs, _ in stream.batches(4)])
    assert inputs.dtype == torch.float64
    assert torch.allclose(inputs, torch.tensor(x / 255), atol=1e-8)
    with pytest.raises(ValueError, match=r"uint8.*prepare=lambda x: x / 255"):
        _ = Stream((x, y), classes=3).first


@given(st.integers(2, 40), st.floats(-1e6, 1e6))
def test_the_variance_of_streamed_targets_is_that_of_the_whole(samples: int, far: float) -> None:
    x, _ = arrays(samples)
    y = np.random.default_rng(samples).normal(far, 1.0, (samples, 2))
    stream = Stream((x, y), classes=0, dtype=torch.float64)
    assert stream.regression
    whole = Split(torch.tensor(x).double(), y, regression=True)
    assert stream.variance == pytest.approx(whole.variance, rel=1e-6)


def test_what_cannot_be_learnt_is_refused_when_it_is_read_naming_the_sample() -> None:
    x, y = arrays(12)
    wrong, unreal = y.copy(), x.copy()
    wrong[6], unreal[9, 2] = 3, np.nan

    def read(*source: Any, **settings: Any) -> list[Any]:
        return list(Stream(source, classes=3, **settings).batches(4))

    with pytest.raises(ValueError, match="labels from 0 to 2, got 3 for sample 6"):
        read(x, wrong)
    with pytest.raises(ValueError, match="got 3 for sample 6"):
        list(Stream((x, wrong), classes=3).batches(4, seeded(1)))
    with pytest.raises(ValueError, match="got 3 for sample 6"):
        list(Stream(Pairs(x, wrong), classes=3).batches(4, seeded(1)))
    with pytest.raises(ValueError, match="got 3 for sample 2 of mini-batch 1"):
        list(Stream([(x[:4], y[:4]), (x[4:8], wrong[4:8])], classes=3).batches(1))
    with pytest.raises(ValueError, match="finite inputs.* sample 9;"):
        read(unreal, y)
    with pytest.raises(ValueError, match="finite inputs.* sample 1 of mini-batch 2;"):
        list(Stream(Shards(unreal, y, [4, 4, 4]), classes=3).batches(4, start=1))
    with pytest.raises(ValueError, match="targets that differ, got 12 alike"):
        _ = Stream((x, np.full(12, 3.0)), classes=0).variance
    with pytest.raises(ValueError, match="class numbers"):
        read(x, y + 0.5)
    with pytest.raises(ValueError, match="weights: expected finite numbers of at least 0"):
        read(x, y, -np.ones(12))
    with pytest.raises(ValueError, match="a row for every sample"):
        read(y.astype(np.float32), y)
    with pytest.raises(ValueError, match="as many labels as inputs"):
        list(Stream([(x[:3], y[:2])], classes=3).batches(1))
    with pytest.raises(ValueError, match=r"expected \(inputs, labels\).*got a ndarray"):
        list(Stream(Bare(x), classes=3).batches(1))
    pairs = Pairs(x, y)
    pairs.x = x.tolist()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"inputs of a mini-batch as one array, got a list of 4"):
        list(Stream(pairs, classes=3).batches(4))
    with pytest.raises(TypeError, match="prepare: expected a function that returns a tensor, got"):
        read(x, y, prepare=lambda x: x.numpy())
    with pytest.raises(ValueError, match="at least one mini-batch"):
        _ = Stream([], classes=3).first


def test_what_is_no_stream_is_refused_at_once() -> None:
    x, y = arrays(12)
    with pytest.raises(TypeError, match="generator, which can be iterated over only once"):
        Stream(((a, b) for a, b in [(x, y)]), classes=3)

    class Once:
        def __init__(self) -> None:
            self.left = iter([(x, y)])

        def __iter__(self) -> Iterator[Any]:
            return self.left

    with pytest.raises(TypeError, match="got a Once that goes on where it was left"):
        Stream(Once(), classes=3)
    with pytest.raises(TypeError, match="expected arrays"):
        Stream(3, classes=3)
    for wrong in ([x, y], (x,), ("x.npy", "y.npy"), (x, y.tolist()), {"x": x, "y": y}):
        with pytest.raises(TypeError, match=r"arrays as a tuple \(inputs, labels\)"):
            Stream(wrong, classes=3)
    with pytest.raises(TypeError, match="prepare: expected a function of inputs"):
        Stream((x, y), classes=3, prepare=255)  # type: ignore[arg-type]
    loader = DataLoader(TensorDataset(torch.tensor(x), torch.tensor(y)), 4, shuffle=True)
    with pytest.raises(ValueError, match="give its data set instead of the loader"):
        Stream(loader, classes=3).batches(4, start=1)
    with pytest.raises(TypeError, match="workers: expected 0"):
        Stream((x, y), classes=3, workers=2)
    with pytest.raises(ValueError, match="as many rows each, at least one, got 12 and 11"):
        Stream((x, y[1:]), classes=3)
    with pytest.raises(ValueError, match="weights: expected one above 0, got none"):
        Stream((x, y, np.zeros(12)), classes=3)
    with pytest.raises(ValueError, match="ahead: expected a whole number of at least 1"):
        Stream((x, y), classes=3, ahead=0)
    with pytest.raises(ValueError, match="expected 4 classes, got a stream of 3"):
        Dataset("some", Stream((x, y), classes=3), Stream((x, y), classes=3), 4)
    with pytest.raises(TypeError, match="normalized: expected data held whole"):
        Dataset("some", Stream((x, y), classes=3), Stream((x, y), classes=3), 3).normalized()
    with pytest.raises(TypeError, match="samples are known"):
        len(Stream(Shards(x, y, [12]), classes=3))


def test_what_the_data_set_itself_raises_comes_to_whoever_trains() -> None:
    class Broken(Pairs):
        def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
            if number == 7:
                raise OSError("the disk is gone")
            return super().__getitem__(number)

    with pytest.raises(OSError, match="the disk is gone"):
        learnt(Stream(Broken(*arrays()), classes=3))


def test_what_prepares_in_place_changes_nothing_that_comes_again() -> None:
    x, y = (torch.as_tensor(of) for of in arrays(6))
    kept = x.clone()
    stream = Stream([(x, y)], classes=3, prepare=lambda inputs: inputs.mul_(2))
    for _ in range(2):
        ((found, _),) = stream.batches(6)
        assert torch.equal(found, 2 * kept)
    assert torch.equal(x, kept)


def test_an_epoch_without_a_mini_batch_says_so() -> None:
    source = Bare(arrays(8))
    epochs = training(Stream(source, classes=3))[1]()
    assert next(epochs).epoch == 1
    source.batches = ()
    with pytest.raises(ValueError, match="come again in every epoch, got none in epoch 2"):
        next(epochs)
