"""Data sets held whole, as tensors, on the device that trains on them.

The images of these sets fit into the memory of any device (MNIST in float32 is 0.2 GB), so there
are no worker processes and no per-sample transforms: a mini-batch is one index into a tensor. What
does not fit is a `Stream` instead, see `eqprop.data.stream`.
Pixels lie in [0, 1] and labels are class numbers; `one_hot` turns labels into the targets of the
squared error. Data of your own need not be images: a table does as well, see `Dataset.from_arrays`.

`digits` (8 x 8 pixels, 1797 images, shipped with scikit-learn) needs no download and serves quick
checks.  The others are the archives of `eqprop.data.archives`: 28 x 28 pixels, 60000 training and
10000 test images, in their published split.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from eqprop.data.inputs import Inputs
from eqprop.registries import DATASETS
from eqprop.summary import summary

__all__ = [
    "Dataset",
    "Examples",
    "Source",
    "Split",
    "class_numbers",
    "load_dataset",
    "numbers_of",
    "one_hot",
    "order_of",
    "regression_targets",
    "require_batching",
    "require_floating",
    "require_learnable",
    "require_real",
    "require_values",
    "sample_weights",
]

Given = Any
"""Tensors, and all that numpy makes an array of: arrays, lists, columns and tables of pandas."""


class Examples(ABC):
    """One part, training or test, of a data set: static inputs, and what each is to come to.

    Held whole it is a :class:`Split`, read while it is learnt from a
    :class:`~eqprop.data.stream.Stream`.
    """

    @property
    @abstractmethod
    def regression(self) -> bool:
        """Whether the labels are targets instead of class numbers."""

    @property
    @abstractmethod
    def first(self) -> tuple[Tensor, Tensor]:
        """The first input, (1, …), and its label: shape, dtype and device of all of them."""

    @property
    @abstractmethod
    def variance(self) -> float:
        """Of the targets of a regression: the mean of ‖y − ȳ‖², ȳ their mean."""

    @property
    @abstractmethod
    def largest_weight(self) -> float | None:
        """Of all samples, if they have weights and it is known."""

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are.

        Raises:
            TypeError: nobody knows, as they come in mini-batches of their own.
        """

    @abstractmethod
    def count(self, batch_size: int) -> int | None:
        """How many mini-batches there are, if that is known."""

    @abstractmethod
    def batches(
        self, batch_size: int, generator: torch.Generator | None = None, *, start: int = 0
    ) -> Iterator[tuple[Tensor, ...]]:
        """Mini-batches that together hold every sample exactly once.

        Args:
            batch_size: samples per mini-batch; the last one may be shorter.
            generator: draws the order of the samples, at the time of this call.  It may live on the
                data's device or on the CPU; a CPU generator gives the same order on every device.
                Without it the samples come in their stored order.
            start: how many mini-batches to leave out, at the begin.

        Returns:
            An iterator over (inputs, labels) of shapes (B, …) and (B,), or over (inputs, labels,
            weights) where the samples have weights, (B,).

        Raises:
            ValueError: `batch_size` is less than 1.
            TypeError: it is no whole number, or the generator is none.
        """

    @abstractmethod
    def require_learnable(self, classes: int, name: str) -> None:
        """Refuse what nothing can be learnt from, see the function of this name.

        Raises:
            ValueError: says what is wrong, and with which sample.
        """

    def missed(self, output: Tensor, labels: Tensor) -> Tensor:
        """How many samples are misclassified; of a regression Σ ‖ŷ − y‖² ÷ the variance."""
        if self.regression:
            return (output - labels).double().square().sum() / self.variance
        return (output.argmax(1) != labels).sum()

    def targets(self, labels: Tensor, classes: int) -> Tensor:
        """What the output is to come to, (B, …): of class numbers their one-hot vectors."""
        if self.regression:
            return labels
        return one_hot(labels, classes, self.first[0].dtype)


@final
@dataclass(frozen=True, eq=False, init=False)
class Split(Examples):
    """One part, training or test, of a data set: static inputs, and the class of each.

    Both may be given as tensors, or as whatever numpy makes an array of: arrays, lists, columns of
    pandas. Floating point tensors stay as they are. All other numbers, those of numpy in float64
    too, become :func:`torch.get_default_dtype`, as which a network is made as well; but not uint8,
    the type of grey levels, which are first to be divided by the brightest one. Labels of any type
    of whole numbers become int64, and false and true the classes 0 and 1.

    Attributes:
        images: the static inputs, (N, …) of any shape, one sample after the other: a table
            (N, features), images (N, C, H, W). Floating point.
        labels: class numbers from 0, (N,), int64, on the device of the inputs; of a *regression*
            targets (N, …) of any shape, of the type of the inputs.
        weights: by what the cost of each sample is multiplied, (N,); none if all count alike. A
            loss is then a mean of what was multiplied; the error counts every sample once.

    Args:
        regression: the labels are targets, numbers that the output is to come to.

    Raises:
        ValueError: inputs that are no numbers, or grey levels; labels that are no class numbers,
            such as one-hot vectors, names or fractions; not as many of the one as of the other;
            weights that are negative, not finite, or all 0.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor | None = field(repr=False)

    __repr__ = summary

    def __init__(
        self,
        images: Given,
        labels: Given,
        *,
        regression: bool = False,
        weights: Given | None = None,
    ) -> None:
        images, labels = _inputs(images), numbers_of("labels", labels)
        if images.dim() < 2:
            swapped = labels.dim() > 1
            raise ValueError(
                f"images: expected a row for every sample, (N, …), got {tuple(images.shape)}; "
                + ("they come first, then the labels" if swapped else "of one number each, (N, 1)")
            )
        if not math.prod(images.shape[1:]):
            raise ValueError(
                "images: expected at least one number for every sample, got none, "
                f"{tuple(images.shape)}"
            )
        labels = (
            regression_targets(labels, images.dtype)
            if regression
            else class_numbers(labels, len(images))
        )
        if len(labels) != len(images):
            turned = images.dim() == 2 and images.shape[1] == len(labels)
            raise ValueError(
                f"labels: expected as many as there are samples, {len(images)} in images of shape "
                f"{tuple(images.shape)}, got {len(labels)}"
                + ("; samples are rows: give images.T" if turned else "")
            )
        if weights is not None:
            weights = sample_weights(numbers_of("weights", weights), images)
            if not weights.any():
                raise ValueError("weights: expected one above 0, got none")
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels.to(images.device))
        object.__setattr__(self, "weights", weights)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def regression(self) -> bool:
        return self.labels.is_floating_point()

    @property
    def first(self) -> tuple[Tensor, Tensor]:
        return self.images[:1], self.labels[:1]

    @property
    def largest_weight(self) -> float | None:
        return None if self.weights is None else float(self.weights.max())

    @property
    def variance(self) -> float:
        return self._variance

    @cached_property
    def _variance(self) -> float:
        return float((self.labels - self.labels.mean(0)).square().flatten(1).sum(1).mean())

    def count(self, batch_size: int) -> int:
        return -(-len(self) // batch_size)

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None, *, start: int = 0
    ) -> Iterator[tuple[Tensor, ...]]:
        """See :meth:`Examples.batches`; without a generator they are views of the data: do not
        write into them."""
        # Checked here and not in the generator below, which runs only when iterated over.
        require_batching(batch_size, generator, start)
        order = None if generator is None else order_of(len(self), generator)
        return self._parts(
            batch_size, start, order if order is None else order.to(self.images.device)
        )

    def _parts(
        self, batch_size: int, start: int, order: Tensor | None
    ) -> Iterator[tuple[Tensor, ...]]:
        held = [self.images, self.labels, *([] if self.weights is None else [self.weights])]
        for begin in range(start * batch_size, len(self), batch_size):
            batch = slice(begin, begin + batch_size)
            rows = batch if order is None else order[batch]
            yield tuple(each[rows] for each in held)

    def require_learnable(self, classes: int, name: str) -> None:
        if self.images.is_meta:
            return
        if len(self) == 0:
            raise ValueError(f"{name}: expected at least one sample, got none")
        require_values(self.images, self.labels, classes, name)
        if self.regression and not self.variance:
            raise ValueError(f"{name}: expected targets that differ, got {len(self)} alike")


def require_batching(batch_size: object, generator: object, start: int = 0) -> None:
    """Refuse sizes of mini-batches, and sources of randomness, that are none.

    Raises:
        TypeError: no whole number, or no generator. ValueError: less than 1, or a start below 0.
    """
    if not isinstance(batch_size, Integral):
        raise TypeError(f"batch_size: expected a whole number, got {batch_size!r}")
    if not isinstance(generator, torch.Generator | None):
        raise TypeError(
            "generator: expected one of torch, as torch.Generator().manual_seed(0) makes, got "
            f"{type(generator).__name__}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    if start < 0:
        raise ValueError(f"start: expected at least 0, got {start}")


def order_of(samples: int, generator: torch.Generator) -> Tensor:
    """The order of so many samples in one epoch, on the device of the generator."""
    return torch.randperm(samples, generator=generator, device=generator.device)


def numbers_of(name: str, given: Given) -> Tensor:
    """What was given as a tensor, of whatever type its numbers are.

    Raises:
        ValueError: it is none, as rows are of different lengths, or it holds what is no number.
    """
    if isinstance(given, Tensor):
        for is_so, kind, dense in (
            (given.is_nested, "nested", "to_padded_tensor(0)"),
            (given.is_quantized, "quantized", "dequantize()"),
            (given.layout != torch.strided, "sparse", "to_dense()"),
        ):
            if is_so:
                raise ValueError(f"{name}: expected a dense tensor, got a {kind} one; take {dense}")
        return given
    if isinstance(given, list | tuple) and given and all(isinstance(t, Tensor) for t in given):
        given = [t.detach().numpy(force=True) for t in given]
    if np.ma.is_masked(given):
        raise ValueError(
            f"{name}: expected a number everywhere, got a masked array that leaves some out; fill "
            "them, or leave out their samples"
        )
    try:
        array = np.asarray(given)
    except ValueError:
        raise ValueError(f"{name}: expected rows of one length, got rows of several") from None
    if array.dtype.kind not in "biuf":
        first = array.flat[0] if array.size else None
        kind = "text" if isinstance(first, str | bytes) else str(array.dtype)
        advice = "turn what is no number into one, or leave it out"
        if name == "labels":
            advice = "number the classes, before data are split, by "
            advice += "names, labels = numpy.unique(labels, return_inverse=True)"
        raise ValueError(f"{name}: expected numbers, got {kind} ({str(first)!r}, …); {advice}")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)  # torch knows no longer one
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: expected numbers of at most 2^63 − 1, got {array.max()}")
    # A copy: nobody is surprised by what they later write into an array, and torch takes no array
    # that is read-only, turned round, or in the byte order of another machine.
    return torch.tensor(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))


def require_floating(dtype: torch.dtype) -> None:
    """Refuse a dtype that inputs cannot have.

    Raises:
        TypeError: it is none. ValueError: it is one of whole or complex numbers.
    """
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype: expected one of torch, such as torch.float64, got {dtype!r}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype: expected a floating point type, got {dtype}")


def _inputs(given: Given, dtype: torch.dtype | None = None) -> Tensor:
    """Static inputs, floating point: of this type, or if not given of their own or the default."""
    inputs = numbers_of("images", given)
    require_real(inputs, "images / 255")
    if dtype is None and isinstance(given, Tensor) and given.is_floating_point():
        return given
    return inputs.to(dtype or torch.get_default_dtype())


def require_real(inputs: Tensor, divided: str) -> None:
    """Refuse grey levels, which are bytes, and complex numbers.

    Args:
        divided: how the former are made what they should be.

    Raises:
        ValueError: says which.
    """
    if inputs.dtype == torch.uint8:
        raise ValueError(
            "images: expected floating point numbers, got torch.uint8; divide grey levels by the "
            f"brightest one, as in {divided}"
        )
    if inputs.is_complex():
        raise ValueError(f"images: expected real numbers, got {inputs.dtype}")


def sample_weights(weights: Tensor, images: Tensor) -> Tensor:
    """Weights of samples, one for each of these inputs, in their type.

    Raises:
        ValueError: not one for each, or some that are negative or not finite.
    """
    if weights.shape != (len(images),):
        raise ValueError(
            f"weights: expected one for every sample, ({len(images)},), got {tuple(weights.shape)}"
        )
    if weights.is_complex() or not weights.isfinite().all() or (weights < 0).any():
        raise ValueError("weights: expected finite numbers of at least 0, got others")
    return weights.to(images)


def regression_targets(targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Of a regression, (N, …)."""
    if targets.is_complex() or targets.dim() == 0:
        raise ValueError(
            f"labels: expected real targets, one or more for every sample, got {targets.dtype} of "
            f"shape {tuple(targets.shape)}"
        )
    targets = targets.to(dtype)
    return targets[:, None] if targets.dim() == 1 else targets


def class_numbers(labels: Tensor, samples: int) -> Tensor:
    """Labels as int64.

    Raises:
        ValueError: they are no class numbers.
    """
    numbers = f"labels: expected class numbers from 0, ({samples},)"
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dim() != 1:
        one_hot = labels.dim() == 2 and bool((labels != 0).sum(1).eq(1).all())
        raise ValueError(
            f"{numbers}, got {labels.dtype} of shape {tuple(labels.shape)}; "
            + ("of one-hot vectors give labels.argmax(1)" if one_hot else "inputs come before them")
        )
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"{numbers}, got {labels.dtype}; if they are class numbers, make them whole numbers, "
            "as by labels.astype(int); of targets that are no classes (regression) give "
            "Split(x, targets, regression=True), or Dataset.from_arrays(…, classes=0)"
        )
    return labels.to(torch.int64)


if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Part = TypeVar("Part", bound=Examples, default=Split, covariant=True)
else:
    Part = TypeVar("Part")


@final
@dataclass(frozen=True, eq=False)
class Dataset(Generic[Part]):
    """A data set with its published (or, for `digits`, fixed) split.

    A ``Dataset`` is held whole; a ``Dataset[Examples]`` may be read while it is learnt from.

    Attributes:
        name: one of :data:`~eqprop.registries.DATASETS`, or a name of your own.
        train: the samples to learn from, a :class:`Split` or a
            :class:`~eqprop.data.stream.Stream`.
        test: the samples to measure the test error on.
        classes: the number of classes; labels are 0 to classes - 1. 0 of a regression.
        inputs: how the inputs came to be what they are, if that is known.

    Raises:
        TypeError: what is no name, split or number, as when they come in another order.
        ValueError: a split that nothing can be learnt from, see :func:`require_learnable`, or two
            that do not have the same shape, dtype and device of images.
    """

    name: str
    train: Part
    test: Part
    classes: int
    inputs: Inputs | None = field(default=None, repr=False)

    __repr__ = summary

    def __post_init__(self) -> None:
        kinds = {"name": str, "train": Examples, "test": Examples, "classes": Integral}
        for name, kind in kinds.items():
            given = getattr(self, name)
            if not isinstance(given, kind) or isinstance(given, bool):
                expected = {str: "text", Integral: "a whole number"}.get(
                    kind, "a Split, or a Stream"
                )
                raise TypeError(
                    f"{name}: expected {expected}, got {type(given).__name__}; write "
                    "Dataset(name, train, test, classes), or Dataset.from_arrays"
                )
        object.__setattr__(self, "classes", int(self.classes))
        for name, split in (("train", self.train), ("test", self.test)):
            require_learnable(split, self.classes, f"{self.name}, {name}")
        ours, theirs = (
            f"{x.dtype} of shape {tuple(x.shape[1:])} on {x.device}"
            for x in (self.train.first[0], self.test.first[0])
        )
        if ours != theirs:
            raise ValueError(
                f"{self.name}, test: expected images as in train, {ours}, got {theirs}"
            )

    @classmethod
    def from_arrays(
        cls,
        x_train: Given,
        y_train: Given,
        x_test: Given,
        y_test: Given,
        *,
        name: str = "data",
        classes: int | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        w_train: Given | None = None,
        w_test: Given | None = None,
    ) -> "Dataset[Split]":
        """A data set of your own, from arrays, lists or tensors.

        For instance a table of 13 features, as scikit-learn has one::

            x, y = sklearn.datasets.load_wine(return_X_y=True)
            x = (x - x.mean(0)) / x.std(0)
            data = eqprop.Dataset.from_arrays(x[::2], y[::2], x[1::2], y[1::2], name="wine")
            model = eqprop.PrototypicalNetwork(eqprop.dense(13, 32, data.classes))

        Args:
            x_train, x_test: the static inputs, (N, …) of any shape, see :class:`Split`.
            y_train, y_test: class numbers from 0, (N,).
            name: what messages call it.
            classes: how many there are; if not given, as many as there are different labels. 0 of
                a regression, whose y are targets (N,) or (N, …).
            device: where the tensors are to live; where they are if not given.
            dtype: of the inputs; as :class:`Split` has it if not given.
            w_train, w_test: by what the cost of each sample is multiplied, (N,), see
                :class:`Split`; 1 if not given.

        Raises:
            ValueError: as for :class:`Split` and :class:`Dataset`; or labels, and no ``classes``,
                that leave out some of 0 to their largest.
        """

        if dtype is not None:
            require_floating(dtype)

        def split(part: str, x: Given, y: Given, weights: Given | None) -> Split:
            try:
                inputs = _inputs(x, dtype).to(device)
                return Split(inputs, y, regression=classes == 0, weights=weights)
            except ValueError as error:
                raise ValueError(f"{name}, {part}: {error}") from None

        train = split("train", x_train, y_train, w_train)
        test = split("test", x_test, y_test, w_test)
        if classes is None:
            classes = _classes_of(name, torch.cat([train.labels, test.labels]))
        return Dataset(name, train, test, classes)

    def normalized(self, deviations: float = 1.0) -> Self:
        """The same with x ← (x − μ) / (deviations · σ).

        μ and σ are mean and standard deviation of the training inputs, of each channel of images
        and of each column of a table; what does not vary becomes 0. Test inputs are treated with
        the same numbers.

        Args:
            deviations: how many standard deviations become 1.

        Raises:
            TypeError: of a stream, whose mean nobody knows before it was read to its end.
            ValueError: not above 0.
        """
        if not isinstance(deviations, Real) or not 0 < deviations < math.inf:
            raise ValueError(f"deviations: expected a finite number > 0, got {deviations!r}")
        if not isinstance(self.train, Split) or not isinstance(self.test, Split):
            raise TypeError(
                "normalized: expected data held whole, got a stream; subtract a mean that you know "
                "by Stream(…, prepare=lambda x: (x - mean) / deviation)"
            )
        train = self.train.images
        over = (0, *range(2, train.dim())) if train.dim() > 2 else 0
        mean, deviation = train.mean(over, keepdim=True), train.std(over, False, keepdim=True)
        # Of numbers that are all the same the mean, and so the deviation, is off by rounding.
        varies = deviation > 16 * torch.finfo(train.dtype).eps * mean.abs()
        scale = torch.where(varies, 1 / (float(deviations) * deviation), 0.0)
        splits = {
            name: Split(
                (split.images - mean) * scale,
                split.labels,
                regression=split.regression,
                weights=split.weights,
            )
            for name, split in (("train", self.train), ("test", self.test))
        }
        known = self.inputs or Inputs(self.input_shape, self.classes)
        if known.mean:
            # Normalised before: (x − m₁) k₁ is what has been normalised again.
            first, by = (mean.new_tensor(of).view_as(mean) for of in (known.mean, known.scale))
            # What did not vary then is 0, whatever it was before.
            mean, scale = first + torch.where(by == 0, 0.0, mean / by), by * scale
        inputs = replace(
            known,
            mean=tuple(mean.flatten().tolist()),
            scale=tuple(scale.flatten().tolist()),
        )
        return replace(self, train=splits["train"], test=splits["test"], inputs=inputs)

    @property
    def units(self) -> int:
        """How many output units a network of it needs: one for every class, or target."""
        return self.classes or math.prod(self.train.first[1].shape[1:])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input: (features,) of a table, (C, H, W) of images."""
        return tuple(self.train.first[0].shape[1:])


def _classes_of(name: str, labels: Tensor) -> int:
    """How many classes there are, if the labels are 0 … and leave none out."""
    found = labels.unique().tolist()
    if found and found[0] < 0:
        return found[-1] + 1  # Whoever looks for what can be learnt will say which sample it is.
    if found != list(range(len(found))):
        missing = next(number for number, label in enumerate(found) if label != number)
        raise ValueError(
            f"{name}: expected labels from 0 to {max(found)}, each of them somewhere, got none of "
            f"class {missing}; number the classes from 0 by names, labels = numpy.unique(labels, "
            "return_inverse=True), or say how many there are by classes"
        )
    return len(found)


@final
@dataclass(frozen=True)
class Source:
    """Where a data set comes from, and what is known of it before it is there.

    Attributes:
        input_shape: of one input: (C, H, W) of images, (features,) of a table.
        classes: how many; labels are 0 to classes − 1.
        brightest: the grey level, or other number, that becomes 1.
        load: from the folder of all data sets (none: the default one) to training images, training
            labels, test images and test labels: grey levels, or other numbers, (N, H, W),
            (N, C, H, W) or (N, features), and class numbers (N,). No test samples, of the same
            shapes, if it has none.
        at_hand: from the same folder to whether ``load`` would find it all on this machine; always,
            unless said otherwise.
        class_names: what the classes are called, if they have more than numbers.
        targets: of a regression, whose ``classes`` are 0, how many numbers a sample is to come to;
            the labels are these then, (N, targets).
    """

    input_shape: tuple[int, ...]
    classes: int
    brightest: float
    load: Callable[[str | Path | None], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
    at_hand: Callable[[str | Path | None], bool] = lambda _: True
    class_names: tuple[str, ...] = ()
    targets: int = 0

    @property
    def units(self) -> int:
        """How many output units it needs: one for every class, or target."""
        return self.classes or self.targets


def require_learnable(split: Examples, classes: int, name: str = "split") -> None:
    """Refuse a split without samples, labels that are none of the classes, and unreal inputs.

    Of a stream they are refused when they are read.

    Args:
        classes: how many there are; labels are 0 to classes − 1. 0 of a regression.
        name: what messages call the split.

    Raises:
        TypeError: it is no split.
        ValueError: says what is wrong, and with which sample.
    """
    if not isinstance(split, Examples):
        hint = "; a data set has two, its train and its test" * isinstance(split, Dataset)
        raise TypeError(f"{name}: expected a Split, got {type(split).__name__}{hint}")
    if split.regression != (classes == 0):
        kinds = ("class numbers", "the targets of a regression")
        wanted, got = kinds if classes else reversed(kinds)
        raise ValueError(f"{name}: expected {wanted}, as classes = {classes} says, got {got}")
    split.require_learnable(classes, name)


def require_values(
    inputs: Tensor,
    labels: Tensor,
    classes: int,
    name: str,
    called: Callable[[int], object] = lambda number: number,
) -> None:
    """Refuse labels that are none of the classes, and numbers that are not finite.

    Args:
        called: what messages call a sample, from its place among these.

    Raises:
        ValueError: says what is wrong, and with which sample.
    """
    if not classes:
        unreal = ~labels.isfinite().flatten(1).all(1)
        if unreal.any():
            sample = called(int(unreal.nonzero()[0]))
            raise ValueError(
                f"{name}: expected finite targets, got some that are not in sample {sample}"
            )
    wrong = (labels < 0) | (labels >= classes)
    if classes and wrong.any():
        sample = int(wrong.nonzero()[0])
        from_one = int(labels.min()) == 1 and int(labels.max()) == classes
        raise ValueError(
            f"{name}: expected labels from 0 to {classes - 1}, got {int(labels[sample])} "
            f"for sample {called(sample)}" + "; they count from 1: take labels - 1" * from_one
        )
    # A sum is far cheaper to look at than every number, and is finite only if all of them are.
    if not math.isfinite(inputs.sum().item()):
        unreal = ~inputs.isfinite().flatten(1).all(1)
        if unreal.any():
            sample = called(int(unreal.nonzero()[0]))
            raise ValueError(
                f"{name}: expected finite inputs, got some that are not in sample {sample}; leave "
                "such samples out, or give what they lack a value"
            )


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    test_share: float = 0.2,
    validation_share: float = 0.0,
    seed: int = 0,
    normalize: float | None = None,
) -> Dataset:
    """Load a data set, downloading its archives the first time.

    Args:
        name: one of :data:`~eqprop.registries.DATASETS`, such as ``mnist`` or ``npz:my.npz``.
        data_dir: holds one folder of archives per data set;
            :func:`~eqprop.data.archives.default_data_dir` if not given. ``digits`` does not use it.
        device: where the tensors are to live.
        dtype: of the images.
        test_share: of data without test samples of its own, the share of the samples to test on.
        validation_share: the share of the training samples to test on, instead of the test samples.
        seed: which samples these are.
        normalize: see :meth:`Dataset.normalized`; none leaves the numbers as they are.

    Returns:
        The whole data set: images (N, C, H, W) in [0, 1], unless normalised, labels (N,) int64, or
        of a regression targets (N, …).

    Raises:
        ValueError: the name is unknown, ``dtype`` is not a floating point type, or a share leaves
            nothing to learn from or to test on.
        DataError: an archive can neither be read nor downloaded, is not the published one, or
            scikit-learn is missing (``digits``).
    """
    source: Source = DATASETS.load(name)
    require_floating(dtype)

    def split(images: np.ndarray, labels: np.ndarray) -> Split:
        # The grey levels travel as bytes and are converted where they are to stay.
        pixels = numbers_of("images", images).to(device).to(dtype).div_(source.brightest)
        pixels = pixels.view(len(pixels), *source.input_shape)
        if not source.classes:
            return Split(pixels, labels, regression=True)
        return Split(pixels, numbers_of("labels", labels).to(device).to(torch.int64))

    train_images, train_labels, test_images, test_labels = source.load(data_dir)
    shares = {"test_share": 0.0 if len(test_images) else test_share}
    for share, part in {**shares, "validation_share": validation_share}.items():
        if part:
            test, train = _drawn(len(train_images), part, seed, f"{name}, {share}")
            test_images, test_labels = train_images[test], train_labels[test]
            train_images, train_labels = train_images[train], train_labels[train]
    data = Dataset(
        name=name,
        train=split(train_images, train_labels),
        test=split(test_images, test_labels),
        classes=source.classes,
        inputs=Inputs(
            source.input_shape,
            source.classes,
            source.brightest,
            names=source.class_names,
            targets=source.targets,
        ),
    )
    return data if normalize is None else data.normalized(normalize)


def _drawn(samples: int, share: float, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of this share of the samples, and those of the others, each in their order."""
    count = round(share * samples)
    if not 0 < count < samples:
        raise ValueError(
            f"{name} = {share:g}: expected a share that leaves samples to learn from and to test "
            f"on, got {count} of {samples} to test on"
        )
    order = np.random.default_rng(seed).permutation(samples)
    return np.sort(order[:count]), np.sort(order[count:])


def one_hot(labels: Given, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Targets of the squared error: 1 at the label's class, 0 elsewhere.

    Args:
        labels: shape (B,), in 0 to classes - 1, as :class:`Split` takes them.
        classes: the number of classes.
        dtype: of the result.

    Returns:
        Shape (B, classes), on the device of the labels.

    Raises:
        ValueError: they are no class numbers, or there is no class.
        RuntimeError: a label lies outside of the classes (from PyTorch).
    """
    numbers = numbers_of("labels", labels)
    numbers = class_numbers(numbers, len(numbers) if numbers.dim() else 1)
    if not isinstance(classes, Integral) or classes < 1:
        raise ValueError(f"classes: expected a whole number of at least 1, got {classes!r}")
    return torch.nn.functional.one_hot(numbers, classes).to(dtype)
