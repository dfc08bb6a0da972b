"""What a person brings in files of numpy, or as images, is learnt, or refused in a line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from eqprop.cli.main import main
from eqprop.data.archives import DataError
from eqprop.data.brought import read_image
from eqprop.data.dataset import Dataset, load_dataset
from eqprop.errors import ConfigurationError
from eqprop.runs.trained import open_run
from eqprop.settings.experiment import Experiment

Array = np.ndarray[Any, Any]
drawn = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def saved(**arrays: Any) -> str:
    np.savez("mine.npz", **arrays)
    return "npz:mine.npz"


def labels(count: int, classes: int = 3) -> Array:
    return np.arange(count) % classes


def table(count: int = 12) -> dict[str, Array]:
    return {"x_train": drawn.normal(size=(count, 5)), "y_train": labels(count)}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((6, 5), lambda x: x),
        ((6, 7, 5), lambda x: x[:, None]),
        ((6, 3, 7, 5), lambda x: x),
        ((6, 7, 5, 3), lambda x: x.transpose(0, 3, 1, 2)),
        ((6, 7, 5, 1), lambda x: x.transpose(0, 3, 1, 2)),
        # What could be either is as torch has it.
        ((6, 3, 5, 3), lambda x: x),
    ],
    ids=["table", "grey", "channels first", "channels last", "one channel last", "either"],
)
@pytest.mark.parametrize("kind", [np.uint8, np.float64, np.int32])
def test_arrays_of_numpy_are_learnt_from_as_they_are(
    shape: tuple[int, ...], expected: Callable[[Array], Array], kind: type
) -> None:
    x, x_test = (drawn.integers(0, 256, size=shape).astype(kind) for _ in range(2))
    name = saved(x_train=x, y_train=labels(6), x_test=x_test, y_test=labels(6)[::-1])
    data = load_dataset(name, dtype=torch.float64)
    # Bytes are grey levels; all other numbers are what they are.
    brightest = 255 if kind is np.uint8 else 1
    for split, given in ((data.train, x), (data.test, x_test)):
        wanted = torch.from_numpy(expected(given).astype(np.float64)) / brightest
        torch.testing.assert_close(split.images, wanted)
    assert data.train.labels.tolist() == labels(6).tolist()
    assert data.test.labels.tolist() == labels(6)[::-1].tolist()
    assert data.classes == 3
    assert data.input_shape == tuple(expected(x).shape[1:])


def rows(data: Dataset) -> tuple[set[float], set[float]]:
    """The samples of both splits, known by their first number."""
    train, test = (set(split.images[:, 0].tolist()) for split in (data.train, data.test))
    return train, test


def test_without_test_arrays_a_share_of_all_is_drawn_with_the_seed() -> None:
    arrays = table(50)
    name, everything = saved(**arrays), set(arrays["x_train"][:, 0].tolist())
    data = load_dataset(name, dtype=torch.float64, test_share=0.3, seed=1)
    train, test = rows(data)
    assert (len(train), len(test)) == (35, 15)
    assert train | test == everything
    firsts = arrays["x_train"][:, 0].tolist()
    order = [firsts.index(first) for first in data.train.images[:, 0].tolist()]
    assert data.train.labels.tolist() == arrays["y_train"][order].tolist()
    same = rows(load_dataset(name, dtype=torch.float64, test_share=0.3, seed=1))
    assert same == (train, test)
    assert rows(load_dataset(name, dtype=torch.float64, test_share=0.3, seed=2)) != (train, test)


def test_validation_samples_come_from_training_and_test_samples_are_not_looked_at() -> None:
    arrays = table(40)
    held = {"x_test": drawn.normal(size=(9, 5)), "y_test": labels(9)}
    whole = set(arrays["x_train"][:, 0].tolist())
    name = saved(**arrays, **held)
    train, validation = rows(load_dataset(name, dtype=torch.float64, validation_share=0.25))
    assert (len(train), len(validation)) == (30, 10)
    assert train | validation == whole
    # Without test samples it is what they leave of which a share is taken.
    name = saved(**arrays)
    _, test = rows(load_dataset(name, dtype=torch.float64, test_share=0.5))
    shares: dict[str, Any] = {"test_share": 0.5, "validation_share": 0.5}
    train, validation = rows(load_dataset(name, dtype=torch.float64, **shares))
    assert (len(train), len(validation)) == (10, 10)
    assert not test & (train | validation)


@pytest.mark.parametrize("targets", [(), (3,)])
def test_targets_of_a_regression_are_read_as_they_are(targets: tuple[int, ...]) -> None:
    y = drawn.normal(size=(12, *targets))
    name = saved(x_train=table()["x_train"], y_train=y, x_test=table()["x_train"][:5], y_test=y[:5])
    data = load_dataset(name.replace("npz:", "regression:"), dtype=torch.float64)
    assert data.train.regression
    assert data.units == (targets or (1,))[0]
    assert torch.equal(data.train.labels, torch.tensor(y.reshape(12, -1)))
    assert torch.equal(data.test.labels, data.train.labels[:5])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"y_train": np.ones((12, 2, 2))}, r"y_train \(N,\) or \(N, targets\), numbers for every"),
        (
            {"y_train": np.full(12, np.inf)},
            r"expected finite targets, found y_train\[0\] = \[inf\]",
        ),
        ({"y_test": np.ones((5, 2))}, "y_test as y_train, 1 numbers for every sample, found 2"),
    ],
)
def test_targets_that_nothing_can_come_to_are_refused(
    changed: dict[str, np.ndarray], said: str
) -> None:
    arrays = {"x_train": table()["x_train"], "y_train": drawn.normal(size=12)}
    arrays |= {"x_test": table()["x_train"][:5], "y_test": drawn.normal(size=5)}
    name = saved(**arrays | changed).replace("npz:", "regression:")
    with pytest.raises(DataError, match=said):
        load_dataset(name)


@pytest.mark.parametrize("share", ["test_share", "validation_share"])
def test_a_share_that_leaves_nothing_is_refused(share: str) -> None:
    name = saved(**table(12))
    with pytest.raises(ValueError, match=f"{share} = 0.01: expected a share that leaves samples"):
        load_dataset(name, **cast("dict[str, Any]", {share: 0.01}))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x_train": np.ones((3, 2))}, "expected the arrays x_train, y_train, found x_train"),
        ({"a": np.ones(3)}, "found a; write it by numpy.savez"),
        ({**table(), "x_test": np.ones((3, 5))}, "x_train, y_train, x_test, y_test, found"),
        ({**table(), "y_train": labels(11)}, r"found \(12, 5\) and \(11,\)"),
        (
            {**table(), "y_train": labels(12) + 1},
            "number the classes from 0 .* found int64 1, 2, 3",
        ),
        ({**table(), "y_train": labels(12).astype(float)}, r"found float64 0.0, 1.0.*astype\(int"),
        ({**table(), "y_train": np.array(["a"] * 12)}, "expected y_train as an array of numbers"),
        ({**table(), "x_train": np.array([{}] * 12)}, "damaged or holds something else"),
        ({**table(), "x_train": np.ones(12)}, "expected x_train"),
        ({**table(), "x_train": np.ones((12, 0))}, "expected x_train"),
        ({**table(), "y_train": np.zeros(12, int)}, "at least two classes, found 12 samples of 1"),
        ({"x_train": np.ones((0, 5)), "y_train": labels(0)}, "found 0 samples of 0"),
        ({**table(), "x_test": np.ones((2, 4)), "y_test": labels(2)}, "expected x_test as x_train"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_words(arrays: dict[str, Array], said: str) -> None:
    name = saved(**arrays)
    with pytest.raises(DataError, match=f"^mine.npz: .*{said}"):
        load_dataset(name)


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (None, "expected data there, found nothing of that name"),
        (b"", "damaged or holds something else"),
        (b"PK\x03\x04 and no more", "damaged or holds something else"),
        (b"hello, world", "damaged or holds something else"),
    ],
)
def test_a_file_that_holds_no_arrays_is_refused_in_words(contents: bytes | None, said: str) -> None:
    if contents is not None:
        Path("mine.npz").write_bytes(contents)
    with pytest.raises(DataError, match=f"^mine.npz: .*{said}"):
        load_dataset("npz:mine.npz")


def test_a_compressed_file_that_is_damaged_within_is_refused_in_words() -> None:
    x = drawn.integers(0, 9, size=(200, 30))
    np.savez_compressed("mine.npz", x_train=x, y_train=labels(200))
    whole = bytearray(Path("mine.npz").read_bytes())
    for start in (100, 400, 800):
        spoilt = bytes(whole[:start]) + b"\xff" * 40 + bytes(whole[start + 40 :])
        Path("mine.npz").write_bytes(spoilt)
        with pytest.raises(DataError, match="damaged or holds something else"):
            load_dataset("npz:mine.npz")


@pytest.mark.parametrize("kind", [">f8", ">i2", "uint16", "uint64", "float16", "longdouble"])
def test_numbers_of_any_type_and_byte_order_are_taken(kind: str) -> None:
    x = drawn.integers(0, 256, size=(6, 5))
    data = load_dataset(
        saved(x_train=x.astype(kind), y_train=labels(6), x_test=x.astype(kind), y_test=labels(6))
    )
    assert data.train.images.tolist() == x.tolist()


def test_a_folder_in_the_place_of_arrays_is_refused_in_words() -> None:
    Path("mine.npz").mkdir()
    with pytest.raises(DataError, match="mine.npz: expected a file, found a folder; .* folder:DIR"):
        load_dataset("npz:mine.npz")


def test_an_array_alone_is_refused_in_words() -> None:
    np.save("mine.npy", np.ones(3))
    with pytest.raises(DataError, match=r"mine.npy: expected the arrays .* found none by name"):
        load_dataset("npz:mine.npy")


def pictures(mode: str, part: str = "train", *, size: tuple[int, int] = (6, 4)) -> dict[str, Array]:
    """Two images for each of three classes, by their names; the classes are not in order."""
    found = {}
    for of_class in ("cat", "ant", "bee"):
        Path(f"zoo/{part}/{of_class}").mkdir(parents=True, exist_ok=True)
        for number in range(2):
            shape = (size[1], size[0], *(3,) * (mode == "RGB"))
            pixels = drawn.integers(0, 256, size=shape).astype(np.uint8)
            name = f"{of_class}/{number}.png"
            Image.fromarray(pixels).save(f"zoo/{part}/{name}")
            found[name] = pixels
    return found


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_in_folders_are_learnt_under_the_names_of_their_folders(mode: str) -> None:
    train, test = pictures(mode), pictures(mode, "test")
    Path("zoo/train/ant/notes.txt").write_text("not an image")
    Path("zoo/train/.hidden").mkdir()
    data = load_dataset("folder:zoo", dtype=torch.float64)
    assert data.input_shape == ((3 if mode == "RGB" else 1), 4, 6)
    for split, given in ((data.train, train), (data.test, test)):
        assert split.labels.tolist() == [0, 0, 1, 1, 2, 2]
        for image, name in zip(split.images, sorted(given), strict=True):
            pixels = given[name].transpose(2, 0, 1) if mode == "RGB" else given[name][None]
            torch.testing.assert_close(image, torch.from_numpy(pixels.astype(np.float64)) / 255)


def deep(name: str) -> Array:
    pixels = drawn.integers(0, 65536, size=(4, 6)).astype(np.uint16)
    Image.fromarray(pixels).save(f"zoo/train/{name}")
    return pixels


def test_grey_images_of_16_bits_keep_them_all() -> None:
    given = {name: deep(name) for name in pictures("L")}
    data = load_dataset("folder:zoo", dtype=torch.float64, test_share=0.5)
    assert data.input_shape == (1, 4, 6)
    assert data.inputs is not None
    found = torch.cat([data.train.images, data.test.images])
    wanted = torch.tensor(np.stack([*given.values()]).astype(np.float64))[:, None] / 65535
    assert sorted(found.sum((1, 2, 3)).tolist()) == pytest.approx(
        sorted(wanted.sum((1, 2, 3)).tolist())
    )
    raw = read_image(Path("zoo/train/ant/0.png"), (1, 4, 6), data.inputs.brightest)
    assert np.array_equal(raw[0], given["ant/0.png"])


def test_images_of_16_bits_among_others_are_refused_instead_of_cut_off() -> None:
    pictures("L")
    deep("bee/1.png")
    with pytest.raises(DataError, match=r"bee/1.png: expected 8 bits of each pixel, .* found 16"):
        load_dataset("folder:zoo")
    for name in pictures("L"):
        deep(name)
    Image.new("L", (6, 4)).save("zoo/train/bee/1.png")
    with pytest.raises(DataError, match=r"bee/1.png: expected 16 bits of each pixel, .* found 8"):
        load_dataset("folder:zoo")
    with pytest.raises(DataError, match="as the data of the run has, found 16 bits"):
        read_image(Path("zoo/train/ant/0.png"), (1, 4, 6))


def test_where_some_images_are_grey_all_are_in_colour() -> None:
    grey = pictures("L")
    Image.new("RGB", (6, 4), (255, 0, 0)).save("zoo/train/bee/0.png")
    data = load_dataset("folder:zoo", test_share=0.5)
    assert data.input_shape == (3, 4, 6)
    images = torch.cat([data.train.images, data.test.images])
    wanted = torch.from_numpy(grey["ant/0.png"].astype(np.float32)) / 255
    assert any(torch.allclose(image, wanted.expand(3, -1, -1)) for image in images)


def spoilt(how: str) -> None:
    pictures("L")
    if how == "one class":
        for name in ("ant", "bee"):
            Path(f"zoo/train/{name}").rename(f"zoo/{name}")
    elif how == "a larger one":
        Image.new("L", (7, 4)).save("zoo/train/cat/2.png")
    elif how == "a text":
        Path("zoo/train/cat/2.png").write_text("hello")
    elif how == "a half":
        whole = Path("zoo/train/cat/1.png").read_bytes()
        Path("zoo/train/cat/1.png").write_bytes(whole[: len(whole) // 2])
    elif how == "an unknown class":
        pictures("L", "test")
        Path("zoo/test/ant").rename("zoo/test/dog")
    elif how == "no train":
        Path("zoo/train").rename("zoo/training")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("one class", "zoo: expected images .* of at least two classes, found cat"),
        ("a larger one", r"cat.2.png: expected 6×4 pixels, as the first image has, found 7×4"),
        ("a text", "cat.2.png: expected an image, found something else"),
        ("a half", "cat.1.png: expected a whole image, found a damaged one"),
        ("an unknown class", r"classes of train \(ant, bee, cat\), found some of dog"),
        ("no train", "zoo.train: expected data there, found nothing of that name"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_words(how: str, said: str) -> None:
    spoilt(how)
    with pytest.raises(DataError, match=said):
        load_dataset("folder:zoo")


def test_a_name_without_a_file_is_none() -> None:
    for name in ("npz", "npz:", "folder:", "tar:x", ":x"):
        with pytest.raises(ConfigurationError, match=r"dataset = .*npz:FILE, .*folder:DIR"):
            Experiment(dataset=name)
        with pytest.raises(ValueError, match=r"data set: expected one of .*, folder:DIR"):
            load_dataset(name)


def blobs(count: int, spread: float = 0.1) -> dict[str, Array]:
    """Three classes around three points."""
    y = labels(count)
    return {"x_train": np.eye(3, 4)[y] + spread * drawn.normal(size=(count, 4)), "y_train": y}


def test_a_run_on_data_of_ones_own_learns_goes_on_and_is_looked_at_from_anywhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = saved(**blobs(300))
    words = ["--hidden", "16", "--epochs", "5", "--batch-size", "10", "--out", "r"]
    assert main(["train", "--dataset", name, *words]) == 0
    config = json.loads(Path("r/config.json").read_text())
    assert config["experiment"]["dataset"] == f"npz:{Path('mine.npz').absolute()}"
    Path("deeper").mkdir()
    monkeypatch.chdir("deeper")
    assert main(["train", "--resume", "../r", "--epochs", "6"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "../r", "--json"]) == 0
    # Points that far apart are told apart.
    assert json.loads(capsys.readouterr().out)["error"] < 5
    assert main(["show", "../r"]) == 0
    assert len(open_run("../r").data.test) == 60


def test_what_cannot_be_learnt_from_a_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    arrays = blobs(30)
    arrays["x_train"][7, 2] = np.nan
    assert main(["train", "--dataset", saved(**arrays), "--test-share", "0.1"]) == 1
    (*_, line) = capsys.readouterr().err.splitlines()
    assert "expected finite inputs" in line
    assert main(["train", "--dataset", "npz:none.npz"]) == 1
    (*_, line) = capsys.readouterr().err.splitlines()
    assert "none.npz: expected data there" in line
    assert [path.name for path in Path().iterdir()] == ["mine.npz"]
