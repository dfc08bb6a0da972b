"""Data sets are whole, fixed, in range, and shuffled by their seed alone."""

import gzip
import hashlib
import math
import os
import struct
import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

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
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64)),
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


# Data of one's own


LABELS = np.array([0, 1, 2, 1, 0, 2])
TABLE = np.random.RandomState(0).rand(6, 4)


class Column:
    """What pandas has: no array, but numpy makes one of it."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values if dtype is None else self.values.astype(dtype)


@pytest.mark.parametrize("shape", [(1,), (13,), (8, 8), (3, 4, 4), (2, 3, 4, 5)], ids=str)
def test_inputs_may_have_any_shape(shape: tuple[int, ...]) -> None:
    inputs = torch.rand(6, *shape)
    data = Dataset.from_arrays(inputs, LABELS, inputs, LABELS)
    assert data.input_shape == shape
    (x, labels), _ = data.train.batches(4)
    assert torch.equal(x, inputs[:4])
    assert labels.tolist() == LABELS[:4].tolist()


@pytest.mark.parametrize(
    "given",
    [TABLE, TABLE.astype(np.float32), TABLE.tolist(), Column(TABLE)],
    ids=lambda of: type(of).__name__,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_numbers_that_are_no_tensor_become_one_of_the_type_networks_are_made_of(
    given: Any, dtype: torch.dtype
) -> None:
    try:
        torch.set_default_dtype(dtype)
        split = Split(given, Column(LABELS))
    finally:
        torch.set_default_dtype(torch.float32)
    assert split.images.dtype == dtype
    torch.testing.assert_close(split.images.double(), torch.tensor(TABLE), rtol=1e-6, atol=0)
    assert split.labels.tolist() == LABELS.tolist()


def test_floating_point_tensors_stay_what_they_are() -> None:
    for dtype in (torch.float16, torch.float32, torch.float64):
        inputs = torch.tensor(TABLE, dtype=dtype)
        assert Split(inputs, LABELS).images is inputs


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint16", "int64", ">i4"])
def test_labels_may_be_whole_numbers_of_any_type(dtype: str) -> None:
    for labels in (LABELS.astype(dtype), LABELS.astype(dtype)[:, None]):
        split = Split(TABLE, labels)
        assert split.labels.dtype == torch.int64
        assert split.labels.tolist() == LABELS.tolist()


def test_false_and_true_are_two_classes() -> None:
    assert Split(TABLE, LABELS > 1).labels.tolist() == [0, 0, 1, 0, 0, 1]


def test_whole_numbers_and_truth_values_are_inputs_as_they_stand() -> None:
    for inputs in ([[0, 1], [1, 0]], np.eye(2, dtype=bool)[::-1], torch.tensor([[0, 1], [1, 0]])):
        split = Split(inputs, [0, 1])
        assert split.images.dtype == torch.float32
        assert split.images.tolist() == [[0, 1], [1, 0]]


def test_a_split_is_not_changed_by_what_is_later_written_into_the_arrays() -> None:
    table, labels = TABLE.astype(np.float32), LABELS.copy()
    split = Split(table, labels)
    table[:], labels[:] = 7, 7
    torch.testing.assert_close(split.images, torch.tensor(TABLE, dtype=torch.float32))
    assert split.labels.tolist() == LABELS.tolist()


@pytest.mark.filterwarnings("error")
def test_arrays_may_be_read_only_or_turned_round() -> None:
    table, labels = TABLE.copy(), LABELS.copy()
    table.flags.writeable = labels.flags.writeable = False
    split = Split(table[::-1], labels[::-1])
    assert split.images.double()[0] == pytest.approx(TABLE[5])
    assert split.labels.tolist() == LABELS[::-1].tolist()


GREY = np.zeros((6, 8, 8), np.uint8)
NAMES = np.array(["ant", "bee", "cat"])[LABELS]


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (GREY, LABELS, "images: expected floating .* got torch.uint8; .* as in images / 255"),
        (torch.tensor(GREY), LABELS, "images: expected floating .* got torch.uint8; .* / 255"),
        (TABLE.T, LABELS, r"labels: expected as many .* 4 .*\(4, 6\), got 6; .* give images.T"),
        (TABLE[:5], LABELS, "labels: expected as many as there are samples, 5 .*, got 6$"),
        (TABLE[:, 0], LABELS, r"images: .* \(N, …\), got \(6,\); of one number each, \(N, 1\)"),
        (LABELS, TABLE, "images: .*; they come first, then the labels"),
        (TABLE, np.eye(3)[LABELS], r"labels: .* of shape \(6, 3\); of one-hot .* labels.argmax"),
        (TABLE, TABLE, r"labels: .* got torch.float64 of shape \(6, 4\); inputs come before them"),
        (TABLE, LABELS / 2, "labels: .* class numbers .* got torch.float64; .*regression"),
        (TABLE, NAMES, r"labels: expected numbers, got text \('ant', …\); .* numpy.unique"),
        (TABLE, NAMES.astype(object), r"labels: expected numbers, got text \('ant', …\)"),
        ([[1, 2], [3]], [0, 1], "images: expected rows of one length"),
        ([["1", "2"]], [0], "images: expected numbers, got text .*'1'"),
        (TABLE.astype(complex), LABELS, "images: expected numbers, got complex128"),
        (None, LABELS, "images: expected numbers, got object"),
    ],
)  # fmt: skip
def test_what_is_no_input_or_no_class_is_refused_with_what_to_do(
    images: Any, labels: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        Split(images, labels)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("shape", [(13,), (3, 6, 5)], ids=str)
def test_normalised_inputs_have_the_mean_and_deviation_asked_for(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    channels = (1, -1, *[1] * (len(shape) - 1))
    size = torch.linspace(1, 9, shape[0], dtype=torch.float64).view(channels)
    train, test = (size + size * torch.randn(n, *shape, dtype=torch.float64) for n in (400, 100))
    labels = torch.arange(400) % 2
    data = Dataset("mine", Split(train, labels), Split(test, labels[:100]), 2)
    found = data.normalized(3.0)
    over = (0, *range(2, train.dim()))
    torch.testing.assert_close(
        found.train.images.mean(over), torch.zeros(shape[0], dtype=torch.float64)
    )
    torch.testing.assert_close(
        found.train.images.std(over, correction=0),
        torch.full((shape[0],), 1 / 3, dtype=torch.float64),
    )
    # The test inputs by the numbers of the training inputs, not by their own.
    mean, deviation = (
        of.view(channels) for of in (train.mean(over), train.std(over, correction=0))
    )
    torch.testing.assert_close(found.test.images, (test - mean) / (3 * deviation))
    assert torch.equal(data.train.images, train)


def test_what_does_not_vary_becomes_zero_where_inputs_are_normalised() -> None:
    x, labels = torch.rand(13, 2), [0, *[0, 1] * 6]
    x[:, 1] = 0.1
    found = Dataset("mine", Split(x, labels), Split(x, labels), 2).normalized()
    assert not found.train.images[:, 1].any()
    assert found.train.images[:, 0].std(correction=0) == pytest.approx(1)
    for value in (0.1, 0.3, 1.7):
        # The mean of these, and so their deviation, may be off by rounding.
        same = torch.full((13, 1), value)
        found = Dataset("mine", Split(same, labels), Split(same, labels), 2).normalized()
        assert found.inputs is not None
        assert found.inputs.scale == (0.0,)
    impossible: list[Any] = [0, -1.0, math.inf, "1"]
    for wrong in impossible:
        with pytest.raises(ValueError, match="deviations: expected a finite number > 0"):
            Dataset("mine", Split(x, labels), Split(x, labels), 2).normalized(wrong)


def test_classes_are_counted_in_both_splits() -> None:
    data = Dataset.from_arrays(TABLE, LABELS % 2, TABLE, LABELS, name="mine")
    assert (data.name, data.classes) == ("mine", 3)
    assert Dataset.from_arrays(TABLE, LABELS, TABLE, LABELS, classes=5).classes == 5


def test_arrays_become_a_data_set_of_the_type_asked_for_without_rounding() -> None:
    data = Dataset.from_arrays(TABLE, LABELS, TABLE, LABELS, dtype=torch.float64)
    assert torch.equal(data.test.images, torch.tensor(TABLE))
    data = Dataset.from_arrays(TABLE, LABELS, TABLE, LABELS, classes=3, device="meta")
    assert data.train.images.is_meta
    assert data.train.labels.is_meta
    with pytest.raises(ValueError, match="dtype: expected a floating point type"):
        Dataset.from_arrays(TABLE, LABELS, TABLE, LABELS, dtype=torch.int64)


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        (LABELS + 1, None, "from 0 to 3, .* none of class 0; .* numpy.unique"),
        (LABELS + 1, 3, "train: expected labels from 0 to 2, got 3 .*; they count from 1"),
        (2 * LABELS, None, "from 0 to 4, each of them somewhere, got none of class 1"),
        (LABELS - 1, None, "train: expected labels from 0 to 1, got -1 for sample 0$"),
        (LABELS, 2, "train: expected labels from 0 to 1, got 2 for sample 2$"),
        (LABELS / 2, None, "train: labels: expected class numbers"),
    ],
)
def test_labels_that_are_not_counted_from_0_are_refused(
    labels: np.ndarray, classes: int | None, said: str
) -> None:
    with pytest.raises(ValueError, match=f"^mine[:,] .*{said}"):
        Dataset.from_arrays(TABLE, labels, TABLE, labels, name="mine", classes=classes)


def test_a_data_set_made_in_another_order_is_refused_with_the_right_one() -> None:
    split = Split(TABLE, LABELS)
    wrong: list[tuple[Any, ...]] = [
        (split, split, 3, "mine"),
        ("mine", (TABLE, LABELS), (TABLE, LABELS), 3),
        ("mine", split, split, 3.0),
        ("mine", split, split, True),
    ]
    for arguments in wrong:
        with pytest.raises(TypeError, match=r"expected .*Dataset\(name, train, test, classes\)"):
            Dataset(*arguments)
    assert type(Dataset("mine", split, split, np.int64(3)).classes) is int  # pyright: ignore[reportArgumentType]
    # In the order in which scikit-learn splits.
    with pytest.raises(ValueError, match="data, train: labels: .*inputs come before them"):
        Dataset.from_arrays(TABLE, TABLE, LABELS, LABELS)


def test_mini_batches_of_what_is_no_number_are_refused_at_once() -> None:
    split: Any = Split(TABLE, LABELS)
    with pytest.raises(TypeError, match=r"batch_size: expected a whole number, got 2\.0"):
        split.batches(2.0)
    with pytest.raises(TypeError, match="generator: expected one of torch, .* got int"):
        split.batches(2, 0)


def test_a_data_set_is_not_taken_for_one_of_its_splits() -> None:
    data: Any = Dataset.from_arrays(TABLE, LABELS, TABLE, LABELS)
    model = PrototypicalNetwork(dense(4, 5, 3))
    with pytest.raises(TypeError, match="expected a Split, got Dataset; .* its train and its test"):
        evaluate(model, data, 3)
    with pytest.raises(TypeError, match="model: expected a ConvergentModel, got Split"):
        evaluate(data.test, model, 3)  # pyright: ignore[reportArgumentType]


def test_a_split_does_not_fit_a_network_of_fewer_outputs_or_of_another_type() -> None:
    split = Split(TABLE, LABELS)
    with pytest.raises(ValueError, match="for a network of 2 output units: .* got 2 for sample 2"):
        evaluate(PrototypicalNetwork(dense(4, 5, 2)), split, 3)
    with pytest.raises(TypeError, match="images: expected torch.float64, as the parameters are"):
        evaluate(PrototypicalNetwork(dense(4, 5, 3)).double(), split, 3)
    with pytest.raises(ValueError, match=r"x: expected samples of shape \(9,\), got \(4,\)"):
        evaluate(PrototypicalNetwork(dense(9, 5, 3)), split, 3)


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
        (0, with_pixel(float("nan")), "finite inputs, got some that are not in sample 5"),
        (0, with_pixel(float("inf")), "finite inputs, got some that are not in sample 5"),
        (0, with_pixel(float("-inf")), "finite inputs, got some that are not in sample 5"),
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
    assert tuple(DATASETS)[:4] == ("digits", "mnist", "fashion-mnist", "kmnist")
    assert tuple(DATASETS)[4:] == ("cifar-10", "cifar-100", "svhn")
    with pytest.raises(ValueError, match="svhn, npz:FILE, .*folder:DIR, got 'cifar'"):
        load_dataset("cifar")


def test_a_dtype_without_fractions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dtype: expected .*, got torch.int64"):
        load_dataset("digits", dtype=torch.int64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_target_is_one_at_the_label_and_zero_elsewhere(dtype: torch.dtype) -> None:
    for labels in (torch.tensor([2, 0]), np.array([2, 0], np.uint8), [2, 0]):
        targets = one_hot(labels, 4, dtype)
        assert targets.dtype == dtype
        assert targets.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]


def test_numbers_that_are_masked_or_too_large_are_refused_in_words() -> None:
    x = np.ones((2, 2))
    masked = np.ma.array(x, mask=[[False, True], [False, False]])
    with pytest.raises(ValueError, match="images: expected a number everywhere, got a masked"):
        Split(masked, np.array([0, 1]))
    with pytest.raises(ValueError, match="labels: expected a number everywhere, got a masked"):
        Split(x, np.ma.array([0, 1], mask=[False, True]))
    with pytest.raises(ValueError, match="labels: expected numbers of at most 2\\^63 − 1, got 92"):
        Split(x, np.full(2, 2**63 + 5, dtype=np.uint64))
    assert len(Split(np.ma.array(x), np.ma.array([0, 1]))) == 2


def test_tensors_that_are_not_dense_are_refused_in_words() -> None:
    x = torch.eye(2)
    quantized = torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)
    for tensor, said in (
        (x.to_sparse(), r"a sparse one; take to_dense\(\)"),
        (quantized, r"a quantized one; take dequantize\(\)"),
    ):
        with pytest.raises(ValueError, match=f"images: expected a dense tensor, got {said}"):
            Split(tensor, [0, 1])


def test_lists_of_tensors_and_long_numbers_are_arrays_too() -> None:
    rows = [torch.tensor([0.5, 1.0], requires_grad=True), torch.tensor([0.0, 2.0])]
    split = Split(rows, [torch.tensor(0), torch.tensor(1)])
    assert split.images.tolist() == [[0.5, 1.0], [0.0, 2.0]]
    assert split.labels.tolist() == [0, 1]
    assert Split(np.array([[0.5]], np.longdouble), [0]).images.tolist() == [[0.5]]


def test_inputs_without_a_number_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least one number for every sample, got none, \(2, 0"):
        Split(np.zeros((2, 0)), [0, 1])


def test_a_type_is_one_of_torch() -> None:
    x, y = np.zeros((2, 1)), np.array([0, 1])
    for dtype in ("float64", np.float64, float):
        with pytest.raises(TypeError, match="dtype: expected one of torch, such as torch.float64"):
            Dataset.from_arrays(x, y, x, y, dtype=cast("Any", dtype))


def test_targets_of_what_are_no_classes_are_refused_in_words() -> None:
    for classes in (0, "2", 2.0):
        with pytest.raises(ValueError, match="classes: expected a whole number of at least 1, got"):
            one_hot([0, 1], cast("Any", classes))
    with pytest.raises(ValueError, match=r"labels: expected class numbers from 0, \(1,\), got"):
        one_hot(torch.tensor(3), 10)
