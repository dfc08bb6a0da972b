"""Data sets are whole, fixed, in range, and shuffled by their seed alone."""

import gzip
import hashlib
import os
import struct
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eqprop.data.archives import ARCHIVES, ArchiveFile, ArchiveSet, DataError, load_archives
from eqprop.data.dataset import Dataset, Source, Split, load_dataset, one_hot
from eqprop.networks.connections.chains import dense
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.registries import DATASETS
from eqprop.training.evaluation import evaluate


def numbered(samples: int) -> Split:
    """Image n is filled with n, and its label is n."""
    numbers = torch.arange(samples)
    return Split(numbers.float().reshape(-1, 1, 1, 1).expand(-1, 2, 3, 4), numbers)


def order(split: Split, batch_size: int, generator: torch.Generator | None = None) -> list[int]:
    return [n for _, labels in split.batches(batch_size, generator) for n in labels.tolist()]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Mini-batches


@given(st.integers(0, 40), st.integers(1, 45), st.booleans())
def test_every_sample_comes_exactly_once_per_epoch_with_its_own_label(
    samples: int, batch_size: int, shuffled: bool
) -> None:
    split = numbered(samples)
    batches = list(split.batches(batch_size, seeded(samples) if shuffled else None))
    full, rest = divmod(samples, batch_size)
    assert [len(labels) for _, labels in batches] == [batch_size] * full + [rest] * bool(rest)
    for images, labels in batches:
        assert images.shape == (len(labels), 2, 3, 4)
        assert torch.equal(images[:, 0, 0, 0], labels.float())
    assert sorted(n for _, labels in batches for n in labels.tolist()) == list(range(samples))


def test_samples_come_in_order_without_a_generator() -> None:
    assert order(numbered(50), 7) == list(range(50))


def test_shuffling_depends_on_the_seed_alone() -> None:
    split = numbered(50)
    torch.manual_seed(1)
    first = order(split, 7, seeded(3))
    torch.manual_seed(2)
    assert order(split, 7, seeded(3)) == first
    assert order(split, 9, seeded(3)) == first
    assert order(split, 7, seeded(4)) != first
    assert first != list(range(50))


def test_each_epoch_is_shuffled_differently() -> None:
    split, generator = numbered(50), seeded(3)
    assert order(split, 7, generator) != order(split, 7, generator)


def test_the_order_can_be_taken_up_again_from_the_state_of_the_generator() -> None:
    split, generator = numbered(50), seeded(3)
    order(split, 7, generator)
    state = generator.get_state()
    second = order(split, 7, generator)
    generator.set_state(state)
    assert order(split, 7, generator) == second


def test_shuffling_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    order(numbered(50), 7, seeded(3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cpu_generator_gives_the_same_order_on_every_device() -> None:
    split = numbered(50)
    moved = Split(split.images.cuda(), split.labels.cuda())
    assert order(moved, 7, seeded(3)) == order(split, 7, seeded(3))
    assert sorted(order(moved, 7, torch.Generator("cuda"))) == list(range(50))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused_at_once(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size: expected at least 1, got {batch_size}"):
        numbered(5).batches(batch_size)


def test_the_length_of_a_split_is_its_number_of_samples() -> None:
    assert len(numbered(5)) == 5


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(3, 4, 4), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(3, 1, 4, 4), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(3, 1, 4, 4), torch.zeros(3, 10, dtype=torch.int64)),
        (torch.zeros(3, 1, 4, 4), torch.zeros(3)),
    ],
)
def test_a_split_refuses_what_is_not_images_and_labels(
    images: torch.Tensor, labels: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match=r"expected .*, got "):
        Split(images, labels)


def whole(**changes: tuple[int, torch.Tensor]) -> Dataset:
    """Eight samples of four classes, and as many to test, but for what is changed."""
    images, labels = torch.rand(8, 1, 3, 4), torch.arange(8) % 4
    splits = {"train": [images, labels], "test": [images.clone(), labels.clone()]}
    for name, (part, value) in changes.items():
        splits[name][part] = value
    return Dataset("mine", Split(*splits["train"]), Split(*splits["test"]), 4)


def with_pixel(value: float) -> torch.Tensor:
    images = torch.rand(8, 1, 3, 4)
    images[5, 0, 2, 1] = value
    return images


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        (1, torch.tensor([0, 1, 2, -1, 0, 1, 2, -1]), "labels from 0 to 3, got -1 for sample 3"),
        (1, torch.tensor([0, 1, 2, 3, 0, 1, 4, 3]), "labels from 0 to 3, got 4 for sample 6"),
        (0, with_pixel(float("nan")), "finite pixels, got some that are not in sample 5"),
        (0, with_pixel(float("inf")), "finite pixels, got some that are not in sample 5"),
        (0, with_pixel(float("-inf")), "finite pixels, got some that are not in sample 5"),
    ],
)
def test_what_cannot_be_learnt_is_refused_with_its_split_and_sample(
    split: str, part: int, value: torch.Tensor, said: str
) -> None:
    with pytest.raises(ValueError, match=f"mine, {split}: expected {said}"):
        whole(**{split: (part, value)})
    # Large pixels are none of these, though their sum is not finite.
    assert whole(**{split: (0, torch.full((8, 1, 3, 4), 3e38))}).classes == 4


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_data_set_without_samples_is_refused(split: str) -> None:
    full, empty = numbered(4), numbered(0)
    splits = {"train": full, "test": full, split: empty}
    with pytest.raises(ValueError, match=f"mine, {split}: expected at least one sample, got none"):
        Dataset("mine", splits["train"], splits["test"], 4)


@pytest.mark.parametrize(
    "images", [torch.rand(8, 1, 4, 3), torch.rand(8, 3, 3, 4), torch.rand(8, 1, 3, 4).double()]
)
def test_test_images_unlike_the_training_images_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="mine, test: expected images as in train, torch.float32"):
        whole(test=(0, images))


@pytest.mark.parametrize("label", [-1, 3])
def test_a_split_alone_is_not_evaluated_with_labels_that_are_no_output(label: int) -> None:
    model = PrototypicalNetwork(dense(12, 5, 3))
    split = Split(torch.rand(2, 1, 3, 4), torch.tensor([0, label]))
    with pytest.raises(ValueError, match=f"from 0 to 2, got {label} for sample 1"):
        evaluate(model, split, 3)
    with pytest.raises(ValueError, match="at least one sample"):
        evaluate(model, Split(split.images[:0], split.labels[:0]), 3)


# digits


def test_digits_are_small_images_in_the_unit_interval() -> None:
    digits = load_dataset("digits")
    assert (digits.name, digits.classes, digits.input_shape) == ("digits", 10, (1, 8, 8))
    assert digits.train.images.shape == (1437, 1, 8, 8)
    assert digits.test.images.shape == (360, 1, 8, 8)
    for split in (digits.train, digits.test):
        assert split.images.dtype == torch.float32
        assert split.labels.dtype == torch.int64
        assert split.images.min() == 0
        assert split.images.max() == 1


def test_the_split_of_digits_is_disjoint_and_complete() -> None:
    from sklearn.datasets import load_digits

    digits = load_dataset("digits", dtype=torch.float64)
    images = torch.cat([digits.train.images, digits.test.images]).flatten(1) * 16
    labels = torch.cat([digits.train.labels, digits.test.labels])
    rows = torch.cat([images, labels[:, None]], dim=1)
    pixels, targets = load_digits(return_X_y=True)
    published = np.concatenate([np.asarray(pixels), np.asarray(targets)[:, None]], axis=1)
    assert sorted(rows.tolist()) == sorted(published.tolist())


def test_the_split_of_digits_is_the_same_whatever_the_seed() -> None:
    from sklearn.datasets import load_digits

    _, targets = load_digits(return_X_y=True)
    chosen = np.asarray(targets)[np.random.RandomState(0).permutation(1797)]
    for seed in (1, 2):
        np.random.seed(seed)
        torch.manual_seed(seed)
        digits = load_dataset("digits")
        assert digits.train.labels.tolist() == chosen[:1437].tolist()
        assert digits.test.labels.tolist() == chosen[1437:].tolist()


def test_each_class_has_its_share_of_both_parts_of_digits() -> None:
    digits = load_dataset("digits")
    for split in (digits.train, digits.test):
        share = split.labels.bincount(minlength=10) / len(split)
        assert share.shape == (10,)
        assert share.min() > 0.05
        assert share.max() < 0.15


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        load_dataset("digits")


# The archives


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a registered set: two training images, one test image, of 1 x 3 pixels."""
    arrays = {
        "train-images": np.array([[[0, 51, 255]], [[255, 0, 102]]], np.uint8),
        "train-labels": np.array([7, 3], np.uint8),
        "test-images": np.array([[[1, 2, 3]]], np.uint8),
        "test-labels": np.array([9], np.uint8),
    }
    (tmp_path / "tiny").mkdir()
    files = []
    for name, array in arrays.items():
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        raw = gzip.compress(header + array.tobytes())
        (tmp_path / "tiny" / name).write_bytes(raw)
        files.append(ArchiveFile(name, len(raw), hashlib.sha256(raw).hexdigest()))
    archives = ArchiveSet("tiny", (), tuple(files))
    source = Source((1, 1, 3), 10, 255, partial(load_archives, archives))
    monkeypatch.setattr(DATASETS, "_own", dict(DATASETS._own))
    DATASETS.add("tiny", source)
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_archives_become_images_in_the_unit_interval(tiny: Path, dtype: torch.dtype) -> None:
    loaded = load_dataset("tiny", tiny, dtype=dtype)
    assert loaded.input_shape == (1, 1, 3)
    expected = torch.tensor([[[[0, 51, 255]]], [[[255, 0, 102]]]], dtype=dtype) / 255
    assert loaded.train.images.dtype == dtype
    torch.testing.assert_close(loaded.train.images, expected)
    assert loaded.train.labels.dtype == torch.int64
    assert loaded.train.labels.tolist() == [7, 3]
    torch.testing.assert_close(loaded.test.images, torch.tensor([[[[1, 2, 3]]]], dtype=dtype) / 255)
    assert loaded.test.labels.tolist() == [9]


def test_a_data_set_is_loaded_onto_the_device_asked_for(tiny: Path) -> None:
    loaded = load_dataset("tiny", tiny, device="meta")
    for split in (loaded.train, loaded.test):
        assert split.images.device.type == "meta"
        assert split.labels.device.type == "meta"


def test_an_altered_archive_is_not_loaded(tiny: Path) -> None:
    path = tiny / "tiny" / "train-labels"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="train-labels"):
        load_dataset("tiny", tiny)


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    data_dir = Path(os.environ.get("EQPROP_DATA", "unset"))
    if not all((data_dir / "mnist" / file.name).is_file() for file in ARCHIVES["mnist"].files):
        pytest.skip(
            "needs the four files of MNIST in $EQPROP_DATA/mnist: set EQPROP_DATA and run "
            "python -c \"import eqprop; eqprop.load_dataset('mnist')\" with a network"
        )
    return load_dataset("mnist", data_dir)


def test_mnist_is_the_published_one(mnist: Dataset) -> None:
    assert (mnist.name, mnist.classes, mnist.input_shape) == ("mnist", 10, (1, 28, 28))
    assert mnist.train.images.shape == (60000, 1, 28, 28)
    assert mnist.test.images.shape == (10000, 1, 28, 28)
    assert mnist.train.images.min() == 0
    assert mnist.train.images.max() == 1
    assert mnist.train.labels.bincount()[0] == 5923
    assert mnist.test.labels.bincount()[0] == 980
    # The mean by which everybody normalises MNIST.
    assert mnist.train.images.mean().item() == pytest.approx(0.1307, abs=1e-4)


# Names and targets


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    assert tuple(DATASETS) == ("digits", "mnist", "fashion-mnist", "kmnist")
    with pytest.raises(ValueError, match="digits, mnist, fashion-mnist, kmnist, got 'cifar'"):
        load_dataset("cifar")


def test_a_dtype_without_fractions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dtype: expected .*, got torch.int64"):
        load_dataset("digits", dtype=torch.int64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_target_is_one_at_the_label_and_zero_elsewhere(dtype: torch.dtype) -> None:
    targets = one_hot(torch.tensor([2, 0]), 4, dtype)
    assert targets.dtype == dtype
    assert targets.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
