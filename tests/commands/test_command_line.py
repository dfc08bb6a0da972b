"""The command line, as a person meets it."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import eqprop
from eqprop import runs
from eqprop.cli import train
from eqprop.cli.main import main
from eqprop.data.archives import DataError
from eqprop.registries import ESTIMATORS
from eqprop.runs.folder import RunFolder, new_folder
from eqprop.settings.experiment import Experiment
from eqprop.settings.presets import PRESETS
from eqprop.training.checkpoint import Checkpoint
from eqprop.training.loop import Running

QUICK = ["--epochs", "2", "--hidden", "8", "--free-steps", "5", "--nudged-steps", "3"]
Run = Callable[..., tuple[int, str, str]]
Quick = Callable[[str], Path]


@pytest.fixture(scope="module")
def quickly_trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quick") / "run"
    assert main(["train", *QUICK, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def quick(run: Run, quickly_trained: Path) -> Quick:
    """Put a finished run of two epochs into a new folder."""
    return lambda name: Path(shutil.copytree(quickly_trained, name))


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_seconds(entries: list[dict]) -> list[dict]:
    return [{key: value for key, value in e.items() if key != "seconds"} for e in entries]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_training_leaves_the_promised_files(run: Run) -> None:
    status, out, err = run("train", *QUICK, "--out", "r", "--json")
    assert status == 0
    entries = metrics(Path("r"))
    assert json.loads(out) == entries[-1]
    assert [entry["epoch"] for entry in entries] == [1, 2]
    for entry in entries:
        assert {"train_error", "test_error", "train_loss", "seconds"} <= set(entry)
        assert 0 <= entry["test_error"] <= 100
    config = json.loads(Path("r/config.json").read_text())
    assert config["preset"] == "digits"
    assert config["experiment"]["hidden"] == [8]
    assert {"torch", "processor", "threads"} <= set(config["environment"])
    assert Path("r/curves.png").read_bytes().startswith(b"\x89PNG")
    assert Path("r/checkpoint").is_dir()
    # A line per epoch, as this is no terminal.
    assert [line.split()[1] for line in err.splitlines() if line.startswith("epoch")] == [
        "1/2",
        "2/2",
    ]


def test_the_embedded_digits_are_learnt_by_default(run: Run) -> None:
    status, out, _ = run("train", "--json", "--epochs", 12)
    assert status == 0
    assert json.loads(out)["test_error"] <= 4
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("digits-")


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name not in ("ep", "c-ep")])
@pytest.mark.parametrize(
    "network", ["prototypical", pytest.param("real-time", marks=pytest.mark.exhaustive)]
)
def test_every_estimator_learns_with_every_network(run: Run, estimator: str, network: str) -> None:
    words = ["--estimator", estimator, "--network", network, "--epochs", 3, "--free-steps", 40]
    # A clip is not holomorphic, nor does β = 0.5 leave a network in real time far from a pole.
    words += ["--no-clip", "--beta", 0.1] if estimator == "holomorphic-ep" else []
    status, out, err = run("train", *words, "--json")
    assert status == 0, err
    assert json.loads(out)["test_error"] < 50  # chance: 90


def test_the_same_seed_gives_the_same_run_and_another_one_another(run: Run) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("train", *QUICK, "--seed", seed, "--out", name)[0] == 0
    a, b, c = (without_seconds(metrics(Path(name))) for name in "abc")
    assert a == b != c
    a, b, c = (Checkpoint.load(RunFolder(Path(name)).checkpoint).generator for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c), "the order of the data must depend on the seed too"


def test_settings_come_from_preset_then_file_then_command_line(run: Run) -> None:
    Path("my.toml").write_text(
        'preset = "p-2h"\ndataset = "digits"\nhidden = [8, 8]\nepochs = 3\nbeta = 1\n'
        "free_steps = 5\nnudged_steps = 3\n"
    )
    assert run("train", "--config", "my.toml", "--epochs", 1, "--out", "r")[0] == 0
    config = json.loads(Path("r/config.json").read_text())
    experiment = config["experiment"]
    assert config["preset"] == "p-2h"
    assert experiment["learning_rates"] == [0.2, 0.05, 0.005]  # of the preset
    assert experiment["beta"] == 1.0  # of the file
    assert experiment["epochs"] == 1  # of the command line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--free-steps", "0"], ["free_steps", "0", "at least 1"]),
        (["--nudged-steps", "-1"], ["nudged_steps", "-1", "at least 1"]),
        (["--beta", "0"], ["beta", "0", "other than 0"]),
        (["--beta", "strong"], ["beta", "strong", "a number"]),
        (
            ["--learning-rates", "0.1", "0.1", "0.1"],
            ["learning_rates", "one number, or 2, one per layer"],
        ),
        (["--hidden", "8", "8"], ["learning_rates", "one number, or 3, one per layer"]),
        (["p-9h"], ["preset", "p-9h", "eqprop presets lists", "did you mean p-3h?"]),
        (["nothing"], ["preset", "nothing", *PRESETS]),
        (["--bta", "1"], ["--bta", "did you mean --beta?"]),
        (["--epochs"], ["--epochs", "expected one argument"]),
        (["--device", "cuda:77"], ["device", "cuda:77", "cpu"]),
        (["--device", "abacus"], ["device", "abacus", "cuda:N"]),
        (["--config", "none.toml"], ["none.toml", "expected a file"]),
        (["--config", "bad.toml"], ["bad.toml", "expected TOML"]),
        (["--config", "field.toml"], ["--config field.toml: bta", "did you mean beta?"]),
        (["--config", "preset.toml"], ["--config preset.toml: preset", "5", "p-1h"]),
        (["--config", "steps.toml"], ["--config steps.toml: free_steps = 0", "at least 1"]),
        (["--config", "steps.toml", "--free-steps", "-2"], ["error: free_steps = -2"]),
        (["--config", "good.toml", "--free-steps", "-2"], ["error: free_steps = -2"]),
        (["--out", "taken"], ["taken", "new or empty folder", "--out"]),
        (["--out", "bad.toml"], ["bad.toml", "expected a folder"]),
        (["--out", "bad.toml/r"], ["bad.toml", "is a file"]),
        ([""], ["preset", "p-1h"]),
        (["--ouput", "r"], ["--ouput", "did you mean --out"]),
        (["--beta", "-1e-3x"], ["--beta"]),
        (["--estimator", "bptt", "--nudged-steps", "21"], ["bptt", "nudged_steps", "20", "21"]),
        (["--cost", "hinge"], ["cost = hinge", "squared-error"]),
        (["--hidden", "1" + 24 * "0"], ["hidden", "1 to 1000000"]),
        (["--threads", "99999999999"], ["threads", "1024"]),
        (["--device", "cuda:007"], ["device", "cuda:N"]),
        (["--device", "cuda:٣"], ["device", "cuda:N"]),
        (["--config", "huge.toml"], ["beta", "a number"]),
        (["--config", "."], ["--config", "expected a file"]),
        (["--config", "broken.json"], ["broken.json", "config.json of a run"]),
        (["--resume", "taken", "p-1h"], ["PRESET", "--resume"]),
        (["--resume", "taken", "--beta", "1"], ["--beta", "--epochs"]),
    ],
    ids=" ".join,
)
def test_bad_usage_is_one_line_and_writes_nothing(run: Run, words: list[str], says: list) -> None:
    Path("bad.toml").write_text("beta = = 1")
    Path("field.toml").write_text("bta = 1")
    Path("preset.toml").write_text("preset = 5")
    Path("steps.toml").write_text("free_steps = 0")
    Path("good.toml").write_text("beta = 0.2")
    Path("huge.toml").write_text("beta = 1" + 400 * "0")
    Path("broken.json").write_text("[]")
    Path("taken").mkdir()
    Path("taken/thesis.txt").write_text("mine")
    before = files(Path())
    status, out, err = run("train", *words)
    assert (status, out) == (2, "")
    assert err.startswith("eqprop: error: ")
    assert err.count("\n") == 1
    for word in says:
        assert word in err
    assert files(Path()) == before
    assert not Path("runs").exists()


def test_a_negative_beta_may_be_written_with_an_exponent(run: Run) -> None:
    words = ["--nudging", "one-sided", "--beta", "-5e-1", "--out", "r", "--tolerance", "1e-9"]
    assert run("train", *QUICK, *words)[0] == 0
    assert json.loads(Path("r/config.json").read_text())["experiment"]["beta"] == -0.5


def test_the_settings_of_a_run_make_another_one(run: Run) -> None:
    run("train", *QUICK, "--seed", 5, "--out", "a")
    assert run("train", "--config", "a/config.json", "--out", "b")[0] == 0
    assert_same_run(Path("a"), Path("b"))


def test_a_network_beyond_memory_is_one_line_and_leaves_no_run(run: Run) -> None:
    words = ["--hidden", 1000000, 1000000, "--learning-rates", 0, 0, 0, "--dtype", "float64"]
    status, _, err = run("train", *words)
    assert (status, err.count("\n")) == (1, 1)
    assert "1000000" in err
    assert "memory" in err
    assert not Path("runs").exists()


def test_two_runs_that_start_at_once_do_not_share_a_folder(run: Run) -> None:
    words = [sys.executable, "-m", "eqprop", "train", *QUICK]
    started = [subprocess.Popen(words, stderr=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    folders = list(Path("runs").iterdir())
    assert len(folders) == 3
    for folder in folders:
        assert [entry["epoch"] for entry in metrics(folder)] == [1, 2]


def test_a_run_that_another_process_works_on_is_left_alone(run: Run, quick: Quick) -> None:
    quick("r")
    before = files(Path("r"))
    with RunFolder(Path("r")).claimed():
        status, _, err = run("train", "--resume", "r", "--epochs", 5)
    assert (status, err.count("\n")) == (1, 1)
    assert "another process" in err
    assert files(Path("r")) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda config: [],
        lambda config: None,
        lambda config: config | {"experiment": []},
        lambda config: config | {"experiment": {}},
        lambda config: config | {"data_dir": 5},
        lambda config: config | {"environment": None},
        lambda config: {},
        lambda config: config | {"experiment": config["experiment"] | {"beta": "x"}},
        lambda config: config | {"experiment": config["experiment"] | {"learning_rates": [9, 9]}},
        lambda config: config | {"experiment": config["experiment"] | {"optimizer": "adam"}},
    ],
)
def test_a_config_that_was_changed_by_hand_is_refused(
    run: Run, quick: Quick, change: Callable
) -> None:
    quick("r")
    path = Path("r/config.json")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    before = files(Path("r"))
    for command in (
        ["train", "--resume", "r", "--epochs", 5],
        ["evaluate", "r"],
        ["theorem", "r", "--out", "t"],
    ):
        status, out, err = run(*command)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert "r/config.json" in err
    assert not Path("t").exists()
    assert files(Path("r")) == before


def test_where_the_data_lies_is_remembered(run: Run) -> None:
    run("train", *QUICK, "--out", "r", "--data-dir", "here")
    assert json.loads(Path("r/config.json").read_text())["data_dir"] == str(Path("here").absolute())
    assert RunFolder(Path("r")).read_config().data_dir == str(Path("here").absolute())


def test_a_tilde_is_remembered_as_the_folder_it_means(run: Run) -> None:
    run("train", *QUICK, "--out", "r", "--data-dir=~/nowhere")
    stored = RunFolder(Path("r")).read_config().data_dir
    assert stored == str(Path("~/nowhere").expanduser())
    assert run("train", "--config", "r/config.json", "--out", "s")[0] == 0
    assert RunFolder(Path("s")).read_config().data_dir == stored


@pytest.mark.parametrize("missing", ["settings", "history", "optimizer"])
def test_a_checkpoint_that_lacks_something_is_refused(run: Run, quick: Quick, missing: str) -> None:
    from safetensors.torch import load_file, save_file

    from eqprop.training import checkpoint

    quick("r")
    path = RunFolder(Path("r")).checkpoint
    tensors = load_file(path)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    state = json.loads(header["state"])
    del state[missing]
    header["state"] = json.dumps(state)
    header["sha256"] = checkpoint._digest(tensors, header["state"])
    save_file(tensors, path, header)
    status, _, err = run("evaluate", "r")
    assert (status, err.count("\n")) == (1, 1)
    assert missing in err


def test_a_closed_standard_error_leaves_the_results_alone(tmp_path: Path) -> None:
    command = " ".join([sys.executable, "-m", "eqprop", "train", *QUICK, "--out r --json 2>&-"])
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, stdout=subprocess.PIPE, check=True)
    assert json.loads(done.stdout)["epoch"] == 2


def test_a_terminal_without_greek_letters_is_no_obstacle() -> None:
    subprocess.run(
        [sys.executable, "-m", "eqprop", "train", "--help"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=True,
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("words", [[], ["dance"], ["evaluate"], ["bench", "p-9h"]], ids=str)
def test_a_command_that_cannot_be_is_one_line(run: Run, words: list[str]) -> None:
    status, out, err = run(*words)
    assert (status, out, err.count("\n")) == (2, "", 1)


def test_data_that_is_not_to_be_had_is_one_line_and_leaves_no_run(run: Run) -> None:
    Path("data/mnist").mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        Path(f"data/mnist/{name}-ubyte.gz").write_bytes(b"not this")
    status, _, err = run("train", "p-1h", "--data-dir", "data")
    assert (status, err.count("eqprop: error")) == (1, 1)
    assert "train-images-idx3-ubyte.gz" in err
    assert not Path("runs").exists()


def test_a_state_that_stops_being_finite_ends_the_run(run: Run) -> None:
    words = ["--network", "real-time", "--no-clip", "--activation", "tanh"]
    words += ["--epsilon", "5", "--free-steps", "200"]
    status, out, err = run("train", *words, "--out", "r")
    assert (status, out) == (1, "")
    said = err.splitlines()[-1]
    for word in ("layer", "free phase", "at step", "of 200", "epoch 1"):
        assert word in said


def test_a_run_that_diverges_later_keeps_its_last_good_checkpoint(run: Run) -> None:
    assert run("train", *QUICK, "--out", "r", "--optimizer", "adam")[0] == 0
    folder = RunFolder(Path("r"))
    checkpoint = Checkpoint.load(folder.checkpoint)
    for group in checkpoint.optimizer["param_groups"]:
        group["lr"] = math.inf
    checkpoint.save(folder.checkpoint)
    before = folder.checkpoint.read_bytes()
    status, out, err = run("train", "--resume", "r", "--epochs", 3)
    assert (status, out) == (1, "")
    assert "stopped being finite" in err
    assert "hidden layer 1" in err or "output layer" in err
    assert "epoch 3" in err
    assert "after 2 epochs is kept" in err
    assert folder.checkpoint.read_bytes() == before
    assert len(metrics(Path("r"))) == 2


def test_evaluate_measures_what_training_reported(run: Run, quick: Quick) -> None:
    quick("r")
    status, out, _ = run("evaluate", "r", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["error"] == metrics(Path("r"))[-1]["test_error"]
    assert (found["samples"], found["split"], found["epoch"]) == (360, "test", 2)
    assert len(found["residual"]) == 2
    status, out, _ = run("evaluate", "r", "--split", "train")
    assert status == 0
    assert "1437 samples" in out
    residual = {}
    for steps in (1, 50):
        out = run("evaluate", "r", "--free-steps", steps, "--json")[1]
        residual[steps] = max(json.loads(out)["residual"])
    assert residual[50] < 1e-3 < residual[1], "more steps must come closer to the steady state"
    assert run("evaluate", "r", "--device", "cuda:99")[0] == 2
    assert run("evaluate", "r", "--free-steps", 0)[0] == 2


@pytest.mark.parametrize("command", [["evaluate"], ["train", "--resume"]], ids=str)
def test_a_folder_that_is_no_run_is_refused(run: Run, command: list[str]) -> None:
    status, out, err = run(*command, "nowhere")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "nowhere" in err
    assert not Path("nowhere").exists()


def test_a_folder_without_a_name_of_nobody_or_behind_a_dead_link_is_refused(run: Run) -> None:
    Path("link").symlink_to("gone")
    for words, said in (
        (["train", "--out", ""], "argument --out: expected the name of a file or folder, got noth"),
        (["train", "--resume", " "], "argument --resume: expected the name of a file or folder"),
        (["show", "~nobody-here/r"], "~nobody-here/r: expected the home of somebody who has one"),
        (["train", "--out", "link"], "link: expected a folder, but link is a link to gone, which"),
        (["train", "--out", "link/below"], "link/below: expected a folder, but "),
        (["theorem", "--out", "link"], "link: expected a folder, but link is a link to gone, whic"),
    ):
        status, out, err = run(*words)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert said in err


def test_the_home_is_found_where_no_shell_has_looked_for_it(
    run: Run, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd() / "home"))
    assert run("train", *QUICK, "--out", "~/r")[0] == 0
    assert RunFolder(Path("home/r")).checkpoint.exists()
    assert run("evaluate", "~/r")[0] == 0


def test_a_warning_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def warned(_: object) -> int:
        sys.stderr.write(warnings.formatwarning(UserWarning("rather\nslow"), UserWarning, "f", 3))
        return 0

    as_before = warnings.formatwarning
    monkeypatch.setattr("eqprop.cli.presets.run", warned)
    assert run("presets") == (0, "", "eqprop: warning: rather slow\n")
    assert warnings.formatwarning is as_before


@pytest.mark.parametrize("damage", ["checkpoint", "config", "no checkpoint"])
def test_a_damaged_run_is_refused_and_left_as_it_is(run: Run, quick: Quick, damage: str) -> None:
    quick("r")
    folder = RunFolder(Path("r"))
    if damage == "no checkpoint":
        folder.checkpoint.unlink()
    else:
        path = getattr(folder, damage)
        path.write_bytes(path.read_bytes()[:-10])
    before = files(Path("r"))
    for command in (["train", "--resume", "r", "--epochs", 5], ["evaluate", "r"]):
        status, out, err = run(*command)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert "r/" in err
    assert files(Path("r")) == before


def test_a_resumed_run_cannot_end_before_it_is(run: Run, quick: Quick) -> None:
    quick("r")
    status, _, err = run("train", "--resume", "r", "--epochs", 1)
    assert status == 2
    assert "epochs = 1: expected at least the 2" in err


def test_a_finished_run_can_be_given_more_epochs(run: Run, quick: Quick) -> None:
    quick("r")
    assert run("train", "--resume", "r", "--epochs", 4)[0] == 0
    run("train", *QUICK, "--epochs", 4, "--out", "whole")
    assert_same_run(Path("r"), Path("whole"))


def test_a_run_whose_learning_rates_fall_to_0_cannot_be_given_more_epochs(run: Run) -> None:
    run("train", *QUICK, "--schedule", "cosine", "--out", "r")
    before = files(Path("r"))
    status, _, err = run("train", "--resume", "r", "--epochs", 4)
    assert status == 2
    assert "epochs = 4: expected 2, over which" in err
    assert files(Path("r")) == before
    assert run("train", "--resume", "r", "--epochs", 2)[0] == 0


def test_a_run_older_than_some_settings_is_what_their_defaults_make_it(
    run: Run, quick: Quick
) -> None:
    quick("r")
    run("train", *QUICK, "--epochs", 3, "--out", "whole")
    folder = RunFolder(Path("r"))
    config = json.loads(folder.config.read_text())
    checkpoint = Checkpoint.load(folder.checkpoint)
    later = {of.name for of in fields(Experiment) if of.metadata["since"] is not None}
    assert {"cost", "channels", "weight_angle"} <= later
    for name in later:
        del config["experiment"][name]
    folder.config.write_text(json.dumps(config))
    settings = {n: v for n, v in checkpoint.settings.items() if n not in later}
    replace(checkpoint, settings=settings).save(folder.checkpoint)
    assert run("evaluate", "r")[0] == 0
    assert run("train", "--resume", "r", "--epochs", 3)[0] == 0
    assert_same_run(Path("r"), Path("whole"))


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit: weights, optimizer, generator and metrics (but for the time they took)."""
    a, b = (Checkpoint.load(RunFolder(path).checkpoint) for path in (one, other))
    assert a.model.keys() == b.model.keys()
    for name, value in a.model.items():
        assert torch.equal(value, b.model[name])
    assert a.optimizer["param_groups"] == b.optimizer["param_groups"]
    assert a.optimizer["state"].keys() == b.optimizer["state"].keys()
    for index, state in a.optimizer["state"].items():
        for key, value in state.items():
            assert torch.equal(value, b.optimizer["state"][index][key])
    assert torch.equal(a.generator, b.generator)
    assert without_seconds(a.history) == without_seconds(b.history)
    assert without_seconds(metrics(one)) == without_seconds(metrics(other))
    assert without_seconds(metrics(one)) == without_seconds(a.history)


@pytest.mark.parametrize(
    "words",
    [
        "--optimizer adam --learning-rates 0.01 0.01 --nudging random-sign --hidden 64",
        *(
            pytest.param(words, marks=pytest.mark.exhaustive)
            for words in (
                "--optimizer sgd --learning-rates 0.01 0.01 --nudging random-sign --hidden 64 "
                "--momentum 0.9 --nesterov --weight-decay 1e-3 0 --max-norm 1 --schedule cosine "
                "--schedule-floor 0.1 --warm-up 1.5",
                "digits-conv --channels 4 6 --schedule cosine --shift 2",
                "digits-c-vf --optimizer adam --learning-rates 0.001 0.001 --hidden 64",
            )
        ),
    ],
    ids=["adam", "sgd", "conv", "continual"],
)
def test_a_killed_run_resumes_bit_for_bit(run: Run, words: str) -> None:
    command = ["train", *words.split(), "--epochs", "6"]
    assert run(*command, "--out", "whole")[0] == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "eqprop", *command, "--out", "killed"],
        stderr=subprocess.DEVNULL,
    )
    path, deadline = Path("killed/metrics.jsonl"), time.monotonic() + 120
    while not path.exists() or len(path.read_text().splitlines()) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(metrics(Path("killed"))) < 6, "it was to be killed before its end"
    assert run("train", "--resume", "killed")[0] == 0
    assert_same_run(Path("killed"), Path("whole"))


def test_a_kill_between_checkpoint_and_metrics_loses_no_line(run: Run) -> None:
    run("train", *QUICK, "--epochs", 3, "--out", "r")
    expected = metrics(Path("r"))
    path = Path("r/metrics.jsonl")
    path.write_text("\n".join(path.read_text().splitlines()[:2]) + '\n{"epoch": 3, "tr')
    assert run("train", "--resume", "r")[0] == 0
    assert metrics(Path("r")) == expected


def test_a_run_killed_in_its_first_epoch_starts_anew(run: Run, quick: Quick) -> None:
    quick("whole")
    Path("r").mkdir()
    Path("r/config.json").write_bytes(Path("whole/config.json").read_bytes())
    assert run("train", "--resume", "r")[0] == 0
    assert_same_run(Path("r"), Path("whole"))


def test_a_run_killed_twice_in_its_first_epoch_still_starts_anew(run: Run, quick: Quick) -> None:
    quick("whole")
    Path("r").mkdir()
    Path("r/config.json").write_bytes(Path("whole/config.json").read_bytes())
    Path("r/metrics.jsonl").touch()  # as a resumed run leaves it, before its first epoch ends
    assert run("train", "--resume", "r")[0] == 0
    assert_same_run(Path("r"), Path("whole"))


def begin(*words: object) -> subprocess.Popen[str]:
    """A training in a process of its own, which has come to its first mini-batches."""
    # Whoever runs the tests in the background ignores Ctrl-C, or by nohup the end of the terminal,
    # and the child would inherit that.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from eqprop.cli import train\n"
        "told = train.Display.batch\n"
        "def batch(self, running):\n"
        "    print(running.batch, file=sys.stderr, flush=True)\n"
        "    told(self, running)\n"
        "train.Display.batch = batch\n"
        "from eqprop.cli.main import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "train", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip() == "12":
            break
    return process


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
    ids=["ctrl-c", "sigterm", "sighup"],
)
def test_a_run_that_is_stopped_within_an_epoch_loses_nothing(
    run: Run, number: signal.Signals
) -> None:
    words = "--schedule", "cosine", "--shift", 1, "--optimizer", "adam", "--hidden", 64
    few = *words, "--learning-rates", 0.01, 0.01, "--epochs", 3
    assert run("train", *few, "--out", "whole")[0] == 0
    process = begin(*few, "--out", "r")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    last = err.splitlines()[-1]
    assert "error" not in last
    found = re.fullmatch(
        r"eqprop: stopped in epoch 1 of 3 after (\d+) of 72 mini-batches, and all of it is kept; "
        r"go on with: eqprop train --resume r",
        last,
    )
    assert found
    kept = Checkpoint.load("r")
    assert kept.history == []
    assert kept.unfinished is not None
    assert kept.unfinished.batch == int(found[1])
    status, _, err = run("train", "--resume", "r", "--epochs", 0)
    assert status == 2
    assert run("train", "--resume", "r")[0] == 0
    assert_same_run(Path("r"), Path("whole"))


@pytest.mark.parametrize("drawing", [False, True])
def test_an_impatient_second_ctrl_c_says_what_was_kept(
    run: Run, quick: Quick, drawing: bool
) -> None:
    quick("r")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Display, "batch", interrupted)
        if drawing:
            patch.setattr(train.pictures, "draw_curves", interrupted)
        status, _, err = run("train", "--resume", "r", "--epochs", 5)
    assert status == 130
    assert err.splitlines()[-1] == (
        "eqprop: stopped at once in epoch 3 of 5; the state after 2 epochs is kept in "
        "r/checkpoint/last.safetensors; go on with: eqprop train --resume r"
    )


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_before_anything_is_loaded_it_says_what_it_will_do(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What differs from the preset, and what is being loaded; then where it goes."""
    loaded = []

    def load(*_: object) -> None:
        loaded.append(sys.stderr)
        raise DataError("no such data")

    monkeypatch.setattr(runs, "build_data", load)
    status, _, err = run("train", "p-1h", "--epochs", 5, "--hidden", 8, "--threads", 1)
    assert status == 1
    assert loaded
    assert err.splitlines()[0] == (
        "p-1h with hidden = 8 (not 512), epochs = 5 (not 30); loading mnist"
    )
    assert not Path("runs").exists()


def test_a_run_is_named_after_what_is_different_in_it(run: Run) -> None:
    assert run("train", *QUICK, "--seed", 3, "--threads", 2)[0] == 0
    (folder,) = Path("runs").iterdir()
    name = "digits-hidden-8-free-steps-5-nudged-steps-3-epochs-2-seed-3"
    assert re.fullmatch(rf"{name}-\d{{8}}-\d{{6}}", folder.name)


def test_a_name_stays_legible_whatever_is_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    many = {"hidden": (512,) * 30, "seed": 1}
    assert new_folder("p-1h", many).name.startswith("p-1h-and-more-2")
    assert new_folder("p-1h", {"seed": 1, "activation": "../mine"}).name.startswith(
        "p-1h-seed-1-and-more-2"
    )


def test_training_that_comes_to_nothing_says_so(run: Run) -> None:
    words = "--beta", 50, "--learning-rates", 5, 5, "--epochs", 3, "--hidden", 8
    status, _, err = run("train", *words, "--out", "r")
    assert status == 0
    assert err.count("that of guessing") == 1
    status, _, err = run("train", "--epochs", 3, "--out", "fine")
    assert "guessing" not in err


def test_a_trained_run_can_be_had_in_python(quick: Quick) -> None:
    quick("r")
    run = eqprop.open_run("r")
    found = eqprop.evaluate(run.network, run.data.test, run.experiment.free_steps)
    assert found.error == metrics(Path("r"))[-1]["test_error"]
    assert (run.epochs, run.trained) == (2, "2 epochs")


def test_a_long_epoch_is_kept_within_it(run: Run) -> None:
    """Where every mini-batch takes as long as it may, each is kept; a kill then loses none."""
    batches = []

    def killed(_: object, running: Running) -> None:
        batches.append(running.batch)
        if len(batches) == 100:
            raise MemoryError

    assert run("train", *QUICK, "--out", "whole")[0] == 0
    with pytest.MonkeyPatch.context() as patch, suppress(MemoryError):
        patch.setattr(train, "_STORE_EVERY", -1.0)
        patch.setattr(train.Display, "batch", killed)
        run("train", *QUICK, "--out", "r")
    kept = Checkpoint.load("r")
    assert kept.unfinished is not None
    assert len(kept.history) * len(set(batches)) + kept.unfinished.batch >= 98
    assert run("train", "--resume", "r")[0] == 0
    assert_same_run(Path("r"), Path("whole"))


def test_tensorboard_events_are_written_on_request(run: Run) -> None:
    pytest.importorskip("tensorboard", reason="needs eqprop[tensorboard]")
    assert run("train", *QUICK, "--out", "r", "--tensorboard")[0] == 0
    assert list(Path("r/tensorboard").glob("events.out.*"))


def test_a_missing_tensorboard_is_said_before_anything_is_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    status, _, err = run("train", *QUICK, "--out", "r", "--tensorboard")
    assert (status, err.count("\n")) == (2, 1)
    assert err.endswith("install it with: pip install tensorboard\n")
    assert not Path("r").exists()


def test_presets_are_listed_with_the_published_results(run: Run) -> None:
    status, out, _ = run("presets")
    assert status == 0
    for name in PRESETS:
        assert out.count(f"\n{name} ") == 2, "once with its results, once with its settings"
    assert "2.00 ± 0.13 (0.20)" in out
    assert max(map(len, out.splitlines())) <= 80
    status, out, _ = run("presets", "--json")
    assert set(json.loads(out)) == set(PRESETS)


HELP = [["--help"], ["--version"], ["presets"]]
HELP += [
    [name, "--help"]
    for name in ["train", "evaluate", "show", "presets", "theorem", "reproduce", "bench"]
]


def test_help_and_version_need_no_torch() -> None:
    code = (
        "import sys; from eqprop.cli.main import main\n"
        f"for words in {HELP}:\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "assert not {'torch', 'matplotlib', 'numpy', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_help_shows_every_setting_with_its_default(run: Run) -> None:
    status, out, _ = run("train", "--help")
    assert status == 0
    for option in ("--free-steps", "--beta", "--resume", "--data-dir", "--dtype"):
        assert option in out
    assert "(digits: 0.1 0.05)" in " ".join(out.split())


def test_a_file_may_name_settings_as_options_and_have_none_as_text(run: Run) -> None:
    Path("a.toml").write_text('settle = 0.05\noutput_bias = "none"\nweight_angle = "none"\n')
    assert run("train", "--config", "a.toml", *QUICK, "--out", "r")[0] == 0
    written = json.loads(Path("r/config.json").read_text())["experiment"]
    assert (written["tolerance"], written["output_bias"]) == (0.05, None)


def test_a_file_with_two_names_of_one_setting_is_refused(run: Run) -> None:
    Path("a.toml").write_text("settle = 0.05\ntolerance = 0.1\n")
    status, _, err = run("train", "--config", "a.toml", "--out", "r")
    assert (status, err.count("\n")) == (2, 1)
    assert "settle and tolerance are two names of one setting" in err
    assert not Path("r").exists()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_nudge_that_rounding_hides_is_refused_before_anything_is_made(
    run: Run, dtype: str
) -> None:
    words = ["--dtype", dtype, "--beta", "1e-20", "--out", "r"]
    status, _, err = run("train", *QUICK, *words)
    assert (status, err.count("\n")) == (2, 1)
    assert f"below which rounding in {dtype} hides what the nudge does" in err
    assert not Path("r").exists()


def test_spaces_of_a_folders_name_stay_in_messages(run: Run) -> None:
    _, _, err = run("evaluate", "two  spaces")
    assert "two  spaces: expected the folder of a run, found no such folder" in err
