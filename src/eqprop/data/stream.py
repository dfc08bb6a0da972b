"""Data that do not fit into memory: mini-batches that are read while others are learnt from.

What is read may be arrays on disk, a data set of ``torch.utils.data``, or anything that can be
iterated over, mini-batch by mini-batch. A stream over arrays gives the mini-batches that a
:class:`~eqprop.data.dataset.Split` of the same arrays gives, bit for bit: what trains does not know
which of the two it has.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from numbers import Integral
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from eqprop.data.dataset import (
    Examples,
    class_numbers,
    numbers_of,
    order_of,
    regression_targets,
    require_batching,
    require_floating,
    require_real,
    require_values,
    sample_weights,
)

__all__ = ["Stream"]

_Found = tuple[Tensor | None, object]
"""The numbers of the samples of a mini-batch, if they are known, and the mini-batch."""

_AT_ONCE = 1000
"""Samples that are read at once where nothing is learnt from them."""


@final
class Stream(Examples):
    """One part, training or test, of a data set that is read while it is learnt from.

    For instance grey levels that lie in two files of numpy, of which no more than some mini-batches
    are in memory at a time::

        x, y = (numpy.load(file, mmap_mode="r") for file in ("x.npy", "y.npy"))
        train = eqprop.Stream((x, y), classes=1000, prepare=lambda x: x / 255)
        data = eqprop.Dataset("large", train, test, classes=1000)

    Args:
        source: one of these, with class numbers from 0, or targets of a regression, as labels:

            - arrays (inputs, labels), or (inputs, labels, weights), of as many rows each;
            - a data set of ``torch.utils.data`` with ``len`` whose samples are (input, label), or
              (input, label, weight);
            - mini-batches (inputs, labels), or with weights, such as a ``DataLoader`` or an
              ``IterableDataset`` of them: they come in its own order and sizes, whatever
              ``batch_size`` and the generator say, and have to come again in every epoch. A
              loader that shuffles draws from torch's own generator, so that an epoch that was left
              cannot be gone on with: better give its data set.
        classes: how many there are; 0 of a regression.
        prepare: from the inputs of a mini-batch, as a tensor, to those that the network sees; in
            the thread that reads.
        workers: how many processes read the samples of a data set of torch; 0: a thread of this
            one.
        ahead: how many mini-batches are read beforehand, by each of the workers.
        device: where mini-batches are put.
        dtype: of the inputs and targets; the default one if not given.

    Raises:
        TypeError: a source of another kind; one that can be iterated over only once, such as a
            generator; workers for what is no data set of torch.
        ValueError: arrays of different lengths, or numbers below 0. When it is read, whatever a
            :class:`~eqprop.data.dataset.Split` refuses, naming the sample.
    """

    def __init__(
        self,
        source: Any,
        *,
        classes: int,
        prepare: Callable[[Tensor], Tensor] | None = None,
        workers: int = 0,
        ahead: int = 2,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        for name, number, least in (
            ("classes", classes, 0),
            ("workers", workers, 0),
            ("ahead", ahead, 1),
        ):
            if not isinstance(number, Integral) or number < least:
                raise ValueError(
                    f"{name}: expected a whole number of at least {least}, got {number!r}"
                )
        self.classes, self.workers, self.ahead = int(classes), int(workers), int(ahead)
        if not (prepare is None or callable(prepare)):
            raise TypeError(
                "prepare: expected a function of inputs, such as lambda x: x / 255, got "
                f"{prepare!r}"
            )
        self.prepare = prepare
        self.device = torch.device(device)
        self.dtype = torch.get_default_dtype() if dtype is None else dtype
        require_floating(self.dtype)
        self._source = _source(source, self.workers, self.ahead)

    def __repr__(self) -> str:
        return f"Stream({self._source}, classes={self.classes}, {self.dtype}, {self.device})"

    @property
    def regression(self) -> bool:
        return self.classes == 0

    @property
    def first(self) -> tuple[Tensor, Tensor]:
        return self._first

    @property
    def variance(self) -> float:
        """As of every part of a data set; it is read once to its end for that."""
        return self._variance

    @cached_property
    def _first(self) -> tuple[Tensor, Tensor]:
        found = next(iter(self._source.batches(1, None, 0)), None)
        if found is None:
            raise ValueError("stream: expected at least one mini-batch, got none")
        x, labels, *_ = self._read(0, *found)
        return x[:1], labels[:1]

    @cached_property
    def _variance(self) -> float:
        count, sums, squares = 0, 0.0, 0.0
        near = self.first[1].double()  # Or squares of large numbers would leave nothing but noise.
        for _, targets, *_ in self.batches(_AT_ONCE):
            moved = targets.double() - near
            count += len(moved)
            sums = sums + moved.sum(0)
            squares += float(moved.square().sum())
        found = squares / count - float(torch.as_tensor(sums / count).square().sum())
        if found <= 0:
            raise ValueError(f"stream: expected targets that differ, got {count} alike")
        return found

    def __len__(self) -> int:
        return len(self._source)

    def count(self, batch_size: int) -> int | None:
        return self._source.count(batch_size)

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None, *, start: int = 0
    ) -> Iterator[tuple[Tensor, ...]]:
        require_batching(batch_size, generator, start)
        # The order is drawn now, not when the first mini-batch is asked for.
        source = self._source.batches(batch_size, generator, start)
        read = (self._read(number, *found) for number, found in enumerate(source, start))
        return read if self.workers else _read_ahead(read, self.ahead)

    @property
    def largest_weight(self) -> float | None:
        return self._source.largest_weight

    def require_learnable(self, classes: int, name: str) -> None:
        if classes != self.classes:
            raise ValueError(f"{name}: expected {classes} classes, got a stream of {self.classes}")

    def _read(self, number: int, rows: Tensor | None, batch: object) -> tuple[Tensor, ...]:
        """One mini-batch as the network sees it; ``rows`` are the numbers of its samples."""
        if not isinstance(batch, list | tuple) or not 2 <= len(batch) <= 3:
            raise ValueError(
                "stream: expected (inputs, labels) or (inputs, labels, weights) of every "
                f"mini-batch, got {_kind(batch)}"
            )
        if isinstance(batch[0], list | tuple | dict):
            raise ValueError(
                "stream: expected the inputs of a mini-batch as one array, got "
                f"{_kind(batch[0])}; give those of every sample as an array, numpy.array(…)"
            )
        x, labels = numbers_of("images", batch[0]), numbers_of("labels", batch[1])
        if self.prepare is not None:
            # A copy, as it may work in place, on what will come again.
            x = self.prepare(x.clone() if x is batch[0] else x)
            if not isinstance(x, Tensor):
                raise TypeError(
                    f"prepare: expected a function that returns a tensor, got {_kind(x)} from it"
                )
        require_real(x, "Stream(…, prepare=lambda x: x / 255)")
        if x.dim() < 2:
            raise ValueError(
                "stream: expected inputs (B, …) in every mini-batch, a row for every sample, got "
                f"{tuple(x.shape)}"
            )
        x = x.to(self.device, self.dtype, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        labels = (
            class_numbers(labels, len(x)) if self.classes else regression_targets(labels, x.dtype)
        )
        if len(labels) != len(x) or not len(x):
            raise ValueError(
                "stream: expected as many labels as inputs, at least one, in every mini-batch, got "
                f"{len(labels)} and {len(x)} in mini-batch {number}"
            )

        def called(sample: int) -> str:
            return f"{sample} of mini-batch {number}" if rows is None else str(int(rows[sample]))

        require_values(x, labels, self.classes, "stream", called)
        if len(batch) == 2:
            return x, labels
        return x, labels, sample_weights(numbers_of("weights", batch[2]), x)


def _source(source: Any, workers: int, ahead: int) -> "_Rows | _Samples | _Batches":
    """What is read, by its kind."""
    arrays = isinstance(source, tuple) and 2 <= len(source) <= 3 and all(map(_is_array, source))
    parts = source if isinstance(source, list | tuple) and not arrays else ()
    if isinstance(source, dict) or any(_is_array(of) or isinstance(of, str) for of in parts):
        raise TypeError(
            "source: expected arrays as a tuple (inputs, labels), or (inputs, labels, weights), "
            f"got {_kind(source)}"
        )
    sized = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    if arrays:
        found: _Rows | _Samples | _Batches = _Rows(source)
    elif sized and not _is_array(source) and not isinstance(source, list | tuple):
        found = _Samples(source, workers, ahead)
    elif isinstance(source, Iterator) or not isinstance(source, Iterable) or _is_array(source):
        again = ", which can be iterated over only once" * isinstance(source, Iterator)
        raise TypeError(
            "source: expected arrays (inputs, labels), a data set of torch.utils.data, or "
            f"mini-batches that come again in every epoch, got {_kind(source)}{again}"
        )
    else:
        found = _Batches(source)
    if workers and not isinstance(found, _Samples):
        raise TypeError(
            "workers: expected 0, as only the samples of a data set of torch.utils.data can be "
            f"read by several, got {workers} for {_kind(source)}"
        )
    return found


def _is_array(given: object) -> bool:
    """Of numpy or torch, or what is like one, such as a data set of an HDF5 file."""
    return all(hasattr(given, name) for name in ("shape", "dtype", "__getitem__"))


def _kind(given: object) -> str:
    if isinstance(given, list | tuple):
        return f"a {type(given).__name__} of {len(given)}"
    return f"a {type(given).__name__}"


@final
class _Rows:
    """Arrays, of which only the rows of a mini-batch are looked at."""

    def __init__(self, arrays: Sequence[Any]) -> None:
        lengths = [array.shape[0] if array.shape else 0 for array in arrays]
        if len({*lengths}) > 1 or not lengths[0]:
            raise ValueError(
                "source: expected arrays of as many rows each, at least one, got "
                f"{' and '.join(map(str, lengths))}"
            )
        self._arrays, self._length = arrays, lengths[0]
        self.largest_weight = float(np.max(arrays[2])) if len(arrays) == 3 else None
        if self.largest_weight == 0:
            raise ValueError("weights: expected one above 0, got none")

    def __repr__(self) -> str:
        return f"arrays of {self._length} rows"

    def __len__(self) -> int:
        return self._length

    def count(self, batch_size: int) -> int:
        return -(-self._length // batch_size)

    def batches(
        self, batch_size: int, generator: torch.Generator | None, start: int
    ) -> Iterator[_Found]:
        parts = _parts(self._length, batch_size, generator, start)
        return ((part, tuple(_rows(array, part) for array in self._arrays)) for part in parts)


def _rows(array: Any, numbers: Tensor) -> Any:
    if isinstance(array, Tensor):
        return array[numbers.to(array.device)]
    # In the order in which they lie on the disk, in which some files alone give them.
    rising, order = numbers.sort()
    found = np.asarray(array[rising.numpy()])
    rows = np.empty_like(found)
    rows[order.numpy()] = found
    return rows


def _parts(
    samples: int, batch_size: int, generator: torch.Generator | None, start: int
) -> Iterator[Tensor]:
    """The numbers of the samples of every mini-batch."""
    order = torch.arange(samples) if generator is None else order_of(samples, generator).cpu()
    return iter(
        order[start * batch_size :].split(batch_size) if start * batch_size < samples else ()
    )


@final
class _Samples:
    """A data set of torch, sample by sample."""

    largest_weight = None

    def __init__(self, samples: Any, workers: int, ahead: int) -> None:
        if not len(samples):
            raise ValueError("source: expected at least one sample, got none")
        self._samples, self._workers, self._ahead = samples, workers, ahead

    def __repr__(self) -> str:
        return f"{type(self._samples).__name__} of {len(self)} samples"

    def __len__(self) -> int:
        return len(self._samples)

    def count(self, batch_size: int) -> int:
        return -(-len(self._samples) // batch_size)

    def batches(
        self, batch_size: int, generator: torch.Generator | None, start: int
    ) -> Iterator[_Found]:
        parts = [*_parts(len(self._samples), batch_size, generator, start)]
        loader = DataLoader(
            self._samples,
            batch_sampler=[part.tolist() for part in parts],
            num_workers=self._workers,
            prefetch_factor=self._ahead if self._workers else None,
            # Of its own, or it would draw a seed for its workers from the one of all.
            generator=torch.Generator(),
        )
        return zip(parts, loader, strict=True)


@final
class _Batches:
    """Mini-batches in an order and of sizes of their own."""

    largest_weight = None

    def __init__(self, batches: Iterable[Any]) -> None:
        # A loader always begins anew, and to begin may start processes.
        if not isinstance(batches, DataLoader) and iter(batches) is iter(batches):
            raise TypeError(
                "source: expected mini-batches that come again in every epoch, got a "
                f"{type(batches).__name__} that goes on where it was left; let its __iter__ begin "
                "anew"
            )
        self._batches = batches

    def __repr__(self) -> str:
        return f"mini-batches of {type(self._batches).__name__}"

    def __len__(self) -> int:
        raise TypeError("stream: expected one whose samples are known, got mini-batches alone")

    def count(self, batch_size: int) -> int | None:
        try:
            return len(self._batches)  # type: ignore[arg-type]
        except TypeError:
            return None

    def batches(
        self, batch_size: int, generator: torch.Generator | None, start: int
    ) -> Iterator[_Found]:
        if start and isinstance(getattr(self._batches, "sampler", None), RandomSampler):
            raise ValueError(
                f"start: expected 0, as a DataLoader that shuffles draws another order every time, "
                f"got {start}; to go on within an epoch give its data set instead of the loader"
            )
        return ((None, batch) for batch in islice(iter(self._batches), start, None))


def _read_ahead(batches: Iterator[tuple[Tensor, ...]], ahead: int) -> Iterator[tuple[Tensor, ...]]:
    """The same, so many of them read beforehand by a thread."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="eqprop-stream")
    try:
        waiting = deque(pool.submit(next, batches, None) for _ in range(ahead))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, batches, None))
            yield batch
    finally:
        # Whoever leaves an epoch does not wait for what it would have learnt next.
        pool.shutdown(cancel_futures=True)
