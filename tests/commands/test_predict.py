"""A trained network, in another process and without its data, says what it sees."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eqprop
from eqprop.data.dataset import Dataset, Split, load_dataset
from eqprop.data.inputs import Inputs
from eqprop.runs.folder import RunError

WORDS = (
    "--epochs", 3, "--channels", 4, "--kernel", 3, "--padding", 1, "--hidden",
    "--learning-rates", 0.02, 0.02, "--optimizer", "adam", "--free-steps", 5, "--nudged-steps", 2,
    "--activation", "hard-sigmoid", "--updates", "alternating", "--normalize", 1,
)  # fmt: skip


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of two colours, with noise."""
    source = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 4)):
        for name in ("blue", "red"):
            place = tmp_path / "zoo" / part / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = source.integers(0, 120, (6, 5, 3)).astype(np.uint8)
                pixels[:, :, 2 if name == "blue" else 0] += 120
                Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path / "zoo"


def test_images_are_classified_by_name_without_the_data(run: Run, folder: Path) -> None:
    assert run("train", "--dataset", f"folder:{folder}", *WORDS, "--out", "r")[0] == 0
    shutil.move(folder / "test", "seen")
    shutil.rmtree(folder)
    status, out, _ = run("predict", "r", "seen/red/0.png", "seen/blue/1.png", "--json")
    assert status == 0
    found = json.loads(out)
    assert [row["class"] for row in found] == ["red", "blue"]
    assert [row["next"] for row in found] == ["blue", "red"]
    assert [row["number"] for row in found] == [1, 0]
    status, out, _ = run("predict", "r", "seen/red/0.png")
    assert out.split()[5:7] == ["seen/red/0.png", "red"]
    status, out, _ = run("predict", "r", "seen/red", "seen/blue/1.png", "--json")
    assert status == 0
    assert [row["file"] for row in json.loads(out)] == [
        *(f"seen/red/{number}.png" for number in range(4)),
        "seen/blue/1.png",
    ]
    Path("nothing").mkdir()
    status, _, err = run("predict", "r", "nothing")
    assert (status, err.count("\n")) == (1, 1)
    assert "nothing: expected images *.png or *.jpg in the folder, found none" in err


def test_raw_images_are_scaled_as_those_of_the_run_were(run: Run, folder: Path) -> None:
    assert run("train", "--dataset", f"folder:{folder}", *WORDS, "--out", "r")[0] == 0
    opened = eqprop.open_run("r")
    files = sorted((folder / "test").glob("*/*.png"))
    raw = np.stack([np.asarray(Image.open(file)).transpose(2, 0, 1) for file in files])
    torch.testing.assert_close(
        opened.inputs.prepared(torch.as_tensor(raw)), opened.data.test.images
    )
    expected = eqprop.evaluate(opened.network, opened.data.test, opened.experiment.free_steps)
    wrong = (opened.predict(raw) != opened.data.test.labels).double().mean()
    assert 100 * float(wrong) == expected.error
    with pytest.raises(ValueError, match=r"inputs: expected samples of shape \(3, 6, 5\)"):
        opened.predict(raw[:, :1])
    with pytest.raises(ValueError, match=r"got one alone; make it a mini-batch of one: x\[None\]"):
        opened.predict(raw[0])


def test_images_that_are_scaled_already_are_told_from_raw_ones() -> None:
    inputs = Inputs((1, 2, 2), 2, brightest=16.0)
    raw = torch.tensor([[[0.0, 16.0], [8.0, 4.0]]])
    # Grey, without the axis of their only channel.
    assert inputs.prepared(raw).tolist() == [[[[0.0, 1.0], [0.5, 0.25]]]]
    assert torch.equal(inputs.prepared(raw[None]), inputs.prepared(raw))
    with pytest.warns(UserWarning, match="expected raw numbers, which go up to 16"):
        inputs.prepared(raw / 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inputs.prepared(torch.zeros(1, 1, 2, 2))
        inputs.prepared(torch.ones(1, 1, 2, 2, dtype=torch.uint8))
        Inputs((4,), 2).prepared(torch.rand(1, 4))


def test_data_whose_classes_have_changed_is_refused(run: Run, folder: Path) -> None:
    assert run("train", "--dataset", f"folder:{folder}", *WORDS, "--out", "r")[0] == 0
    for part in ("train", "test"):
        (folder / part / "red").rename(folder / part / "apple")
    before = Path("r/config.json").read_bytes()
    for words in (["evaluate", "r"], ["train", "--resume", "r", "--epochs", 4]):
        status, _, err = run(*words)
        assert status == 1
        assert err.splitlines()[-1] == (
            "eqprop: error: r: expected the data that it has learnt from, the classes blue, red, "
            "found apple, blue; bring that back, or train a new run"
        )
    assert Path("r/config.json").read_bytes() == before


def test_what_a_network_cannot_look_at_is_refused_in_a_line(run: Run, folder: Path) -> None:
    assert (
        run("train", "--dataset", f"folder:{folder}", *WORDS, "--epochs", 1, "--out", "r")[0] == 0
    )
    Image.new("RGB", (7, 7)).save("large.png")
    Path("words.png").write_text("no image")
    for file, said in (
        ("large.png", "large.png: expected 5×6 pixels, as the data of the run has, found 7×7"),
        ("words.png", "words.png: expected an image, found something else"),
        ("none.png", "none.png: expected data there, found nothing of that name"),
    ):
        status, _, err = run("predict", "r", file)
        assert status == 1
        assert said in err
        assert err.count("\n") == 1


def test_a_run_that_knows_nothing_of_its_inputs_looks_at_its_data(run: Run) -> None:
    assert run("train", "--epochs", 1, "--hidden", 8, "--out", "r")[0] == 0
    Path("r/inputs.json").unlink()
    assert eqprop.open_run("r").inputs.shape == (1, 8, 8)
    Path("r/inputs.json").write_text('{"shape": 3}')
    with pytest.raises(RunError, match="inputs.json: expected shape, classes and scale"):
        eqprop.open_run("r")


def test_a_model_says_the_class_of_every_sample() -> None:
    torch.manual_seed(0)
    model = eqprop.PrototypicalNetwork(eqprop.dense(4, 6, 3))
    x = torch.rand(5, 4)
    assert torch.equal(model.predict(x), model(x).argmax(1))


@pytest.mark.parametrize("deviations", [None, 1.0, 3.0])
def test_what_is_stored_of_inputs_makes_raw_ones_those_of_the_data(
    deviations: float | None,
) -> None:
    data = load_dataset("digits", normalize=deviations)
    raw = load_dataset("digits").test.images * 16
    assert data.inputs is not None
    stored = Inputs.stored(json.loads(json.dumps(data.inputs.to_json())))
    assert stored == data.inputs
    torch.testing.assert_close(stored.prepared(raw), data.test.images)
    # Again, and with columns that do not vary: the corners of the digits are empty.
    table = Dataset(
        "table",
        *(Split(split.images.flatten(1), split.labels) for split in (data.train, data.test)),
        classes=10,
    )
    for of, shown in ((data, raw), (table, data.test.images.flatten(1))):
        again = of.normalized(2.0).normalized(0.5)
        assert again.inputs is not None
        # Float32, magnified where a pixel hardly varies.
        torch.testing.assert_close(
            again.inputs.prepared(shown), again.test.images, rtol=1e-3, atol=1e-4
        )


def test_a_run_with_validation_samples_is_tested_on_what_it_has_never_seen(
    run: Run, folder: Path
) -> None:
    words = ("train", "--dataset", f"folder:{folder}", *WORDS)
    assert run(*words, "--validation-share", 0.25, "--out", "r")[0] == 0
    opened = eqprop.open_run("r")
    assert (len(opened.data.train), len(opened.data.test), len(opened.test)) == (30, 10, 8)
    found = {}
    for split in ("train", "validation", "test"):
        status, out, _ = run("evaluate", "r", "--split", split, "--json")
        assert status == 0
        found[split] = json.loads(out)
    assert [found[split]["samples"] for split in found] == [30, 10, 8]
    last = json.loads(Path("r/metrics.jsonl").read_text().splitlines()[-1])
    assert found["validation"]["loss"] == pytest.approx(last["test_loss"])
    # Scaled as what was learnt from was, not as all that could have been.
    files = sorted((folder / "test").glob("*/*.png"))
    raw = np.stack([np.asarray(Image.open(file)).transpose(2, 0, 1) for file in files])
    torch.testing.assert_close(opened.inputs.prepared(torch.as_tensor(raw)), opened.test.images)
    assert run(*words, "--out", "whole")[0] == 0
    status, _, err = run("evaluate", "whole", "--split", "validation")
    assert status == 2
    assert "expected a run with validation samples, found whole without any" in err


def test_numbers_are_learnt_and_said_on_the_command_line(run: Run, tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    x = drawn.integers(0, 256, (210, 1, 4, 4)).astype(np.uint8)
    y = (x.reshape(210, 16) / 255 - 0.5) @ drawn.normal(size=(16, 2))
    np.savez(
        tmp_path / "some.npz", x_train=x[:200], y_train=y[:200], x_test=x[200:], y_test=y[200:]
    )
    words = (
        "train", "--dataset", "regression:some.npz", "--epochs", 15, "--hidden", 12,
        "--activation", "tanh", "--readout", "linear", "--optimizer", "adam",
        "--learning-rates", 0.01, 0.01, "--batch-size", 10,
    )  # fmt: skip
    status, out, _ = run(*words, "--out", "r")
    assert status == 0
    assert "% of the variance, which is not explained, after 15 epochs" in out
    opened = eqprop.open_run("r")
    said = opened.predict(x[200:])
    assert said.shape == (10, 2)
    unexplained = 100 * ((said - torch.tensor(y[200:])) ** 2).sum(1).mean() / y[200:].var(0).sum()
    status, out, _ = run("evaluate", "r", "--json")
    found = json.loads(out)
    assert found["error"] == pytest.approx(float(unexplained), rel=1e-4)
    assert found["error"] < 60
    assert "% of the variance of 10 samples" in run("evaluate", "r")[1]
    for number in range(2):
        Image.fromarray(x[200 + number, 0]).save(f"{number}.png")
    status, out, _ = run("predict", "r", "0.png", "1.png", "--json")
    outputs = [row["outputs"] for row in json.loads(out)]
    torch.testing.assert_close(torch.tensor(outputs), said[:2])
    status, out, _ = run("predict", "r", "0.png")
    assert out.split()[:5] == ["image", "output", "1", "output", "2"]
    for command in (["show", "r", "--out", "seen"], ["theorem", "r", "--out", "how"]):
        assert run(*command)[0] == 0
    assert json.loads(Path("seen/show.json").read_text())["states"]["label"] is None


def test_settings_that_are_of_classes_are_refused_where_there_are_none(
    run: Run, tmp_path: Path
) -> None:
    x, y = np.random.default_rng(0).random((2, 12, 3))
    np.savez(tmp_path / "some.npz", x_train=x, y_train=y * 4 - 2)
    train = ("train", "--dataset", "regression:some.npz", "--epochs", 1)
    softmax = ["--readout", "softmax", "--hidden", 8]
    for setting in (["--cost", "cross-entropy"], ["--class-weights", 1, 2, 3], softmax):
        status, _, err = run(*train, *setting)
        assert status == 2
        assert "has targets that are no classes" in err
    with pytest.warns(UserWarning, match=r"outputs can come to, which are kept in \[0, 1\], got -"):
        assert run(*train, "--hidden", 5, "--out", "r")[0] == 0
    np.savez(tmp_path / "large.npz", x_train=x, y_train=200 * y)
    with pytest.warns(UserWarning, match=r"about the size of 1, got .* scale them to mean 0"):
        run(*train[:2], "regression:large.npz", *train[3:], "--readout", "linear", "--hidden", 5)
    assert run("predict", "r", "some.png")[0] == 2
    np.savez(tmp_path / "weighted.npz", x_train=x, y_train=y, w_train=y)
    status, _, err = run("train", "--dataset", "regression:weighted.npz")
    assert status == 1
    assert "found w_train; learn with them in Python" in err
    status, _, err = run("train", "--dataset", "npz:some.npz")
    assert status == 1
    assert "y_train (N,), one class number for every sample" in err


def test_pictures_of_a_network_with_a_readout_say_what_the_readout_says(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--epochs", 1, "--hidden", 24, "--readout", "softmax", "--learning-rates", 0.1, 0.1)
    assert run("train", "digits", *words, "--out", "r")[0] == 0
    opened = eqprop.open_run("r")
    x, labels = opened.data.test.images, opened.data.test.labels
    answers = eqprop.predict(opened.network, x, opened.experiment.free_steps)
    (wrong, *_), (right, *_) = ((answers != labels).nonzero(), (answers == labels).nonzero())
    drawn: list[tuple[str, object]] = []
    monkeypatch.setattr(
        "eqprop.pictures.draw_phases", lambda *of, label: drawn.append((of[3], label))
    )
    for sample in (int(wrong), int(right)):
        assert run("show", "r", "--sample", sample, "--out", f"seen{sample}")[0] == 0
    said = f"test sample {int(wrong)}, class {int(labels[wrong])}, taken for {int(answers[wrong])}"
    assert said in drawn[0][0]
    assert "taken for" not in drawn[1][0]
    # None of the units that are shown is that of a class.
    assert [label for _, label in drawn] == [None, None]


def test_images_are_not_guessed_at_where_other_numbers_were_learnt(
    run: Run, tmp_path: Path
) -> None:
    x, y = np.random.default_rng(0).random((12, 1, 4, 4)), np.arange(12) % 2
    np.savez(tmp_path / "some.npz", x_train=x, y_train=y)
    assert run("train", "--dataset", "npz:some.npz", "--epochs", 1, "--out", "r")[0] == 0
    Image.new("L", (4, 4)).save("one.png")
    status, _, err = run("predict", "r", "one.png")
    assert status == 2
    assert "nobody knows which of them a grey level is; classify in Python" in err
