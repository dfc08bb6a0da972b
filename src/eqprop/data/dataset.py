"""Data sets held whole, as tensors, on the device that trains on them.

The images of these sets fit into the memory of any device (MNIST in float32 is 0.2 GB), so there
are no worker processes and no per-sample transforms: a mini-batch is one index into a tensor.
Pixels lie in [0, 1] and labels are class numbers; `one_hot` turns labels into the targets of the
squared error.

`digits` (8 x 8 pixels, 1797 images, shipped with scikit-learn) needs no download and serves quick
checks.  The others are the archives of `eqprop.data.archives`: 28 x 28 pixels, 60000 training and
10000 test images, in their published split.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from eqprop.registries import DATASETS

__all__ = ["Dataset", "Source", "Split", "load_dataset", "one_hot", "require_learnable"]


@final
@dataclass(frozen=True, eq=False)
class Split:
    """One part, training or test, of a data set.

    Attributes:
        images: shape (N, C, H, W), floating point, in [0, 1].
        labels: shape (N,), int64, class numbers from 0.

    Raises:
        ValueError: the two shapes or dtypes are not as above.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or not self.images.is_floating_point():
            raise ValueError(
                "images: expected a floating point tensor of shape (N, C, H, W), "
                f"got {self.images.dtype} of shape {tuple(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels: expected int64 of shape ({len(self.images)},), "
                f"got {self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Mini-batches that together hold every sample exactly once.

        Args:
            batch_size: samples per mini-batch; the last one may be shorter.
            generator: draws the order of the samples, at the time of this call.  It may live on the
                data's device or on the CPU; a CPU generator gives the same order on every device.
                Without it the samples come in their stored order.

        Returns:
            An iterator over (images, labels) of shapes (B, C, H, W) and (B,).  Without a generator
            they are views of the data: do not write into them.

        Raises:
            ValueError: `batch_size` is less than 1.
        """
        # Checked here and not in the generator below, which runs only when iterated over.
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if generator is None:
            return self._in_order(batch_size)
        order = torch.randperm(len(self), generator=generator, device=generator.device)
        return self._shuffled(batch_size, order.to(self.images.device))

    def _in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self), batch_size):
            batch = slice(start, start + batch_size)
            yield self.images[batch], self.labels[batch]

    def _shuffled(self, batch_size: int, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self), batch_size):
            batch = order[start : start + batch_size]
            yield self.images[batch], self.labels[batch]


@final
@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with its published (or, for `digits`, fixed) split.

    Attributes:
        name: one of :data:`~eqprop.registries.DATASETS`, or a name of your own.
        train: the samples to learn from.
        test: the samples to measure the test error on.
        classes: the number of classes; labels are 0 to classes - 1.

    Raises:
        ValueError: a split that nothing can be learnt from, see :func:`require_learnable`, or two
            that do not have the same shape and dtype of images.
    """

    name: str
    train: Split
    test: Split
    classes: int

    def __post_init__(self) -> None:
        for name, split in (("train", self.train), ("test", self.test)):
            require_learnable(split, self.classes, f"{self.name}, {name}")
        shape, other = (split.images.shape[1:] for split in (self.train, self.test))
        if shape != other or self.train.images.dtype != self.test.images.dtype:
            raise ValueError(
                f"{self.name}, test: expected images as in train, {self.train.images.dtype} of "
                f"shape {tuple(shape)}, got {self.test.images.dtype} of shape {tuple(other)}"
            )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W): channels, height and width of one image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width


@final
@dataclass(frozen=True)
class Source:
    """Where a data set comes from, and what is known of it before it is there.

    Attributes:
        input_shape: (C, H, W) of its images.
        classes: how many; labels are 0 to classes − 1.
        brightest: the grey level that becomes 1.
        load: from the folder of all data sets (none: the default one) to training images, training
            labels, test images and test labels: grey levels (N, H, W) or (N, C, H, W), and class
            numbers (N,).
        at_hand: from the same folder to whether ``load`` would find it all on this machine; always,
            unless said otherwise.
    """

    input_shape: tuple[int, int, int]
    classes: int
    brightest: float
    load: Callable[[str | Path | None], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
    at_hand: Callable[[str | Path | None], bool] = lambda _: True


def require_learnable(split: Split, classes: int, name: str = "split") -> None:
    """Refuse a split without samples, labels that are none of the classes, and unreal pixels.

    Args:
        classes: how many there are; labels are 0 to classes − 1.
        name: what messages call the split.

    Raises:
        ValueError: says what is wrong, and with which sample.
    """
    if split.images.is_meta:
        return
    if len(split) == 0:
        raise ValueError(f"{name}: expected at least one sample, got none")
    wrong = (split.labels < 0) | (split.labels >= classes)
    if wrong.any():
        sample = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name}: expected labels from 0 to {classes - 1}, got {int(split.labels[sample])} "
            f"for sample {sample}"
        )
    # A sum is far cheaper to look at than every pixel, and is finite only if all of them are.
    if not math.isfinite(split.images.sum().item()):
        unreal = ~split.images.isfinite().flatten(1).all(1)
        if unreal.any():
            sample = int(unreal.nonzero()[0])
            raise ValueError(
                f"{name}: expected finite pixels, got some that are not in sample {sample}; leave "
                "such samples out, or give their pixels a value"
            )


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Load a data set, downloading its archives the first time.

    Args:
        name: one of :data:`~eqprop.registries.DATASETS`.
        data_dir: holds one folder of archives per data set;
            :func:`~eqprop.data.archives.default_data_dir` if not given. ``digits`` does not use it.
        device: where the tensors are to live.
        dtype: of the images.

    Returns:
        The whole data set: images (N, C, H, W) in [0, 1], labels (N,) int64.

    Raises:
        ValueError: the name is unknown, or ``dtype`` is not a floating point type.
        DataError: an archive can neither be read nor downloaded, is not the published one, or
            scikit-learn is missing (``digits``).
    """
    source: Source = DATASETS.load(name)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype: expected a floating point type, got {dtype}")

    def split(images: np.ndarray, labels: np.ndarray) -> Split:
        # The grey levels travel as bytes and are converted where they are to stay.
        pixels = torch.tensor(images, device=device).to(dtype).div_(source.brightest)
        pixels = pixels.view(len(pixels), *source.input_shape)
        return Split(pixels, torch.tensor(labels, device=device).to(torch.int64))

    train_images, train_labels, test_images, test_labels = source.load(data_dir)
    return Dataset(
        name=name,
        train=split(train_images, train_labels),
        test=split(test_images, test_labels),
        classes=source.classes,
    )


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Targets of the squared error: 1 at the label's class, 0 elsewhere.

    Args:
        labels: shape (B,), int64, in 0 to classes - 1.
        classes: the number of classes.
        dtype: of the result.

    Returns:
        Shape (B, classes), on the device of the labels.

    Raises:
        RuntimeError: a label lies outside of the classes (from PyTorch).
    """
    return torch.nn.functional.one_hot(labels, classes).to(dtype)
