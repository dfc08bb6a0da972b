"""What a benchmark learns: samples of the data set where it lies on this machine, else random ones.

Nothing is downloaded. The samples travel to the process that measures, which never holds the data
set whole: its peak memory would be that of reading it.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from eqprop.data.dataset import Source, one_hot
from eqprop.registries import DATASETS
from eqprop.settings.experiment import Experiment
from eqprop.summary import summary

__all__ = ["Samples", "random_samples", "samples_at_hand"]

_RANDOM = 1000


@final
@dataclass(frozen=True, eq=False)
class Samples:
    """Images and labels to draw mini-batches from.

    Attributes:
        name: of the data set, or ``random``.
        pixels: grey levels, or other numbers, (N, …). labels: (N,).
        brightest: the grey level that becomes 1.
        classes: how many there are; 0 of a regression, whose labels are targets, (N, targets).
    """

    name: str
    pixels: np.ndarray
    labels: np.ndarray
    brightest: float
    classes: int

    __repr__ = summary

    @property
    def random(self) -> bool:
        """Whether they mean nothing."""
        return self.name == "random"

    def draw(
        self, size: int, generator: torch.Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """A mini-batch x (B, …) and its targets (B, classes), every sample as likely."""
        rows = torch.randint(len(self.labels), (size,), generator=generator).numpy()
        pixels = torch.as_tensor(self.pixels[rows], device=device).to(dtype).div_(self.brightest)
        labels = torch.as_tensor(self.labels[rows], device=device)
        if not self.classes:
            return pixels, labels.to(dtype)
        return pixels, one_hot(labels.long(), self.classes, dtype)


def samples_at_hand(
    experiment: Experiment, most: int, data_dir: str | None = None
) -> Samples | None:
    """Training samples of the experiment's data set, drawn with its seed; none if it is not there.

    Args:
        most: how many are enough.
        data_dir: where data sets lie.

    Raises:
        DataError: it is there and cannot be read.
    """
    source: Source = DATASETS.load(experiment.dataset)
    if not source.at_hand(data_dir):
        return None
    pixels, labels, _, _ = source.load(data_dir)
    rows = np.random.default_rng(experiment.seed).permutation(len(labels))[:most]
    shaped = pixels[rows].reshape(len(rows), *source.input_shape)
    return Samples(experiment.dataset, shaped, labels[rows], source.brightest, source.classes)


def random_samples(experiment: Experiment) -> Samples:
    """Random pixels of the shape of the data set's images, and random labels."""
    source: Source = DATASETS.load(experiment.dataset)
    drawn = np.random.default_rng(experiment.seed)
    # A fifth of the pixels bright, as in handwritten digits: a network driven into saturation
    # might behave unlike a real one.
    shape = (_RANDOM, *source.input_shape)
    pixels = drawn.random(shape, np.float32) * (drawn.random(shape, np.float32) < 0.2)
    labels = drawn.random((_RANDOM, source.targets))
    if source.classes:
        labels = drawn.integers(source.classes, size=_RANDOM)
    return Samples("random", pixels, labels, 1.0, source.classes)
