"""The embedded digits: 1797 images of 8×8 pixels that come with scikit-learn, for quick checks."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from eqprop.data.archives import DataError
from eqprop.data.dataset import Source

__all__ = ["DIGITS"]

DIGITS_TRAIN = 1437
"""Training images: four fifths of all; the other 360 are the test images."""


def _load(
    data_dir: str | Path | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Grey levels 0 to 16 and labels: training images and labels, test images and labels."""
    try:
        # Importing scikit-learn takes seconds: only those who ask for its data pay for it.
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            f"data set digits: expected scikit-learn, which ships it, found none ({error}): "
            "pip install scikit-learn"
        ) from error

    pixels, labels = load_digits(return_X_y=True)
    images = np.asarray(pixels, np.uint8).reshape(-1, 8, 8)
    # Labels come nearly in cycles, and writers in blocks: a regular pattern would give a skewed
    # split.  RandomState is frozen by NumPy's policy, so this permutation never changes.
    order = np.random.RandomState(0).permutation(len(images))
    train, test = order[:DIGITS_TRAIN], order[DIGITS_TRAIN:]
    return images[train], labels[train], images[test], labels[test]


def _at_hand(_: str | Path | None) -> bool:
    return find_spec("sklearn") is not None


DIGITS = Source(input_shape=(1, 8, 8), classes=10, brightest=16, load=_load, at_hand=_at_hand)
