"""``eqprop reproduce``: what it starts, keeps, measures, draws and refuses."""

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console

from eqprop.analysis import bptt_process, ep_process
from eqprop.cli.board import RunBoard
from eqprop.cli.main import main
from eqprop.core import NonFiniteError
from eqprop.data import Dataset, one_hot
from eqprop.errors import Failure, Stopped, UsageError
from eqprop.estimators import BPTT, ContinualEP, EquilibriumPropagation
from eqprop.figures import (
    FIGURE_1C,
    TABLE_CEP,
    Figure,
    Figure1c,
    Figure1cSettings,
    PlannedRun,
    Reproduction,
    TableCepSettings,
    Work,
)
from eqprop.registries import FIGURES
from eqprop.runs import Job, RunFolder, build_data, build_network, work_off
from eqprop.settings import PRESETS
from eqprop.settings.fields import Settings, setting

PNG = b"\x89PNG\r\n\x1a\n"
SMALL: dict[str, Any] = {"dataset": "digits", "hidden_layers": (1,)}
NAMES = ["c-vf-1h-angle-0-seed-0", "c-vf-1h-angle-90-seed-0", "c-ep-1h-seed-0", "p-1h-seed-0"]

Reproduce = Callable[..., dict[str, Any]]


def measured(first: float, second: float) -> dict[str, Any]:
    """What is measured before training: the angle as published, and the whole one."""
    return {"degrees": first, "whole_degrees": second, "premise_holds": True}


@pytest.fixture
def reproduce(
    tmp_path: Path, trainer: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> Reproduce:
    """Make the figure with a trainer that learns nothing; the JSON that was written."""
    monkeypatch.setattr(Figure1c, "measure", lambda *_: measured(5.0, 6.0))
    monkeypatch.setattr(Figure1c, "draw", lambda *_: None)

    def command(workers: int = 1, device: str = "cpu", **settings: Any) -> dict[str, Any]:
        reproduction = Reproduction(
            "fig-1c",
            Figure1cSettings(**{**SMALL, "angles": (0.0, 90.0), "epochs": (2,), **settings}),
            Work(workers=workers, device=device),
            folder=tmp_path / "out",
            trainer=trainer,
        )
        written = reproduction.make(RunBoard())
        reproduction.require_whole()
        assert json.loads((tmp_path / "out" / "fig-1c.json").read_text()) == written
        return written

    return command


def calls(folder: Path) -> list[dict[str, Any]]:
    """What the trainer was asked for since the last look."""
    path = folder / "calls"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def names(found: list[dict[str, Any]]) -> list[str]:
    return sorted(call["name"] for call in found)


# Which runs


def test_the_default_is_what_was_published() -> None:
    runs = FIGURE_1C.runs(Figure1cSettings())
    assert len(runs) == 2 * (9 + 2)
    for run in runs:
        published = PRESETS[run.preset].experiment
        assert run.experiment.dataset == "mnist"
        angle = run.experiment.weight_angle
        assert run.experiment == replace(published, weight_angle=angle, threads=1)
        assert (angle is None) == (not run.preset.startswith("c-vf"))
    angles = {run.experiment.weight_angle for run in runs if run.preset == "c-vf-2h"}
    assert angles == {0, 22.5, 45, 67.5, 90, 112.5, 135, 157.5, 180}


def test_by_asym_ep_there_is_a_network_at_every_angle_as_by_c_vf() -> None:
    settings = Figure1cSettings(asym_ep=True, angles=(0.0, 45.0), seeds=(0, 1))
    added = [run for run in FIGURE_1C.runs(settings) if run.name.startswith("asym-ep-")]
    assert len(added) == 2 * 2 * 2
    for run in added:
        of = PRESETS[run.preset].experiment
        turned = {"weight_angle": run.experiment.weight_angle, "seed": run.experiment.seed}
        assert run.experiment == of.override({**turned, "estimator": "asym-ep", "threads": 1})
        assert run.preset in ("p-1h", "p-2h")
    assert {run.experiment.weight_angle for run in added} == {0, 45}
    assert len({run.name for run in FIGURE_1C.runs(settings)}) == len(added) + 2 * 2 * (2 + 2)
    without = FIGURE_1C.runs(replace(settings, asym_ep=False))
    assert not any(run.experiment.estimator == "asym-ep" for run in without)


def test_the_angle_of_asym_ep_is_that_of_its_own_nudged_phase() -> None:
    """Small at 135°, where that of EP with the same weights is large."""
    settings = Figure1cSettings(
        asym_ep=True, dataset="digits", angles=(135.0,), hidden_layers=(2,), recipe="own"
    )
    digits = build_data(FIGURE_1C.runs(settings)[0].experiment)
    (asym,) = (run for run in FIGURE_1C.runs(settings) if run.name.startswith("asym-ep"))
    assert asym.experiment.beta == PRESETS["asym-ep-2h"].experiment.beta
    own = PlannedRun("ep", asym.preset, {**asym.changes, "estimator": "ep"})
    found = [FIGURE_1C.measure(run, digits)["whole_degrees"] for run in (asym, own)]
    assert found[0] < 2
    assert found[1] > 20


def test_two_numbers_of_epochs_are_for_one_and_two_hidden_layers() -> None:
    for run in FIGURE_1C.runs(Figure1cSettings(epochs=(3, 7))):
        assert run.experiment.epochs == (3 if len(run.experiment.hidden) == 1 else 7)
    runs = FIGURE_1C.runs(Figure1cSettings(epochs=(4,)))
    assert {run.experiment.epochs for run in runs} == {4}


def test_runs_by_our_own_recipe_are_those_of_the_tables() -> None:
    tables = TABLE_CEP.runs(TableCepSettings(recipe=("own",), rows=("c-ep-1h", "p-2h"), epochs=3))
    own = FIGURE_1C.runs(Figure1cSettings(recipe="own", epochs=(3,)))
    assert {run.name for run in tables} <= {run.name for run in own}
    assert {run.experiment for run in tables} <= {run.experiment for run in own}
    quick = FIGURE_1C.runs(Figure1cSettings(quick=True))
    assert {run.experiment.epochs for run in quick} == {1}
    assert all(run.preset.endswith("-fast") for run in quick)


def test_every_run_has_a_name_of_its_own() -> None:
    angles = (0.0, 1e-5, 22.5, 22.500001)
    runs = FIGURE_1C.runs(Figure1cSettings(seeds=(0, 1, 2), angles=angles))
    assert len({run.name for run in runs}) == len(runs) == 2 * 3 * (4 + 2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["fig-2"],
            "fig-2: expected a figure first, one of: table-1, table-cep, fig-1b, fig-1c, speed",
        ),
        (["fig-1c", "--angles", "180.5"], "angles = 180.5: expected different degrees from 0 to"),
        (["fig-1c", "--angles", "-1"], "angles = -1.0"),
        (["fig-1c", "--angles", "nan"], "angles = nan"),
        (["fig-1c", "--angles", "90", "90.0"], "angles = 90.0 90.0: expected different"),
        (["fig-1c", "--angles", "x"], "angles = x"),
        (["fig-1c", "--seeds", "1", "1"], "seeds = 1 1: expected different"),
        (["fig-1c", "--seeds", "-1"], "seeds = -1"),
        (["fig-1c", "--epochs", "0"], "epochs = 0"),
        (["fig-1c", "--epochs", "1", "2", "3"], "epochs = 1 2 3"),
        (["fig-1c", "--hidden-layers", "1", "--epochs", "1", "2"], "epochs = 1 2"),
        (["fig-1c", "--hidden-layers", "3"], "hidden_layers = 3: expected 1, 2 or both"),
        (["fig-1c", "--hidden-layers", "2", "2"], "hidden_layers = 2 2"),
        (["fig-1c", "--angles"], "angles = (nothing): expected at least one"),
        (["fig-1c", "--workers", "0"], "workers = 0: expected a whole number from 1"),
        (["fig-1c", "--dataset", "imagenet"], "dataset = imagenet: expected one of digits, mnist"),
        (["--workers", "2"], "expected a figure first"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_one_line_and_writes_nothing(
    words: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("eqprop: error: ")
    assert says in line
    assert not any(tmp_path.iterdir())


def test_without_a_figure_it_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce"]) == 0
    assert re.search(r"fig-1c +test error against", capsys.readouterr().out)


# What is started, and what is not


def test_every_run_is_trained_once_and_the_longest_begin(
    reproduce: Reproduce, tmp_path: Path
) -> None:
    result = reproduce(epochs=(2,))
    assert [row["name"] for row in result["rows"]] == NAMES
    asked = calls(tmp_path)
    assert names(asked) == sorted(NAMES)
    # The same number of epochs each, but those of EP are the shortest.
    assert asked[-1]["name"] == "p-1h-seed-0"
    assert [row["epochs"] for row in result["rows"]] == [2] * 4
    assert [row["test_error"] for row in result["rows"]] == [18, 108, 18, 18]
    assert [row["gradient_angle"] for row in result["rows"]] == [5.0] * 4
    assert all(row["failed"] is None for row in result["rows"])


def test_a_finished_run_is_not_trained_again(reproduce: Reproduce, tmp_path: Path) -> None:
    first = reproduce()
    calls(tmp_path)
    assert reproduce()["rows"] == first["rows"]
    assert calls(tmp_path) == []


def test_more_epochs_train_a_finished_run_on(reproduce: Reproduce, tmp_path: Path) -> None:
    reproduce(epochs=(2,))
    calls(tmp_path)
    result = reproduce(epochs=(3,))
    assert [row["epochs"] for row in result["rows"]] == [3] * 4
    for call in calls(tmp_path):
        run = tmp_path / "out" / "runs" / call["name"]
        assert call["words"] == ["train", f"--resume={run}", "--epochs=3"]


def test_of_a_run_that_went_on_the_epoch_asked_for_counts(
    reproduce: Reproduce, tmp_path: Path
) -> None:
    reproduce(epochs=(5,))
    calls(tmp_path)
    result = reproduce(epochs=(2,))
    assert calls(tmp_path) == []
    assert [row["epochs"] for row in result["rows"]] == [2] * 4
    # The trainer's test error falls by 1 per epoch.
    assert result["rows"][0]["test_error"] == 18
    assert result["rows"][0]["seconds"] == 2


def test_a_run_stopped_midway_is_resumed_and_the_others_are_left_alone(
    reproduce: Reproduce, tmp_path: Path
) -> None:
    reproduce(epochs=(3,))
    calls(tmp_path)
    metrics = tmp_path / "out" / "runs" / NAMES[1] / "metrics.jsonl"
    # A kill may leave a line torn.
    metrics.write_text(metrics.read_text()[:-20])
    reproduce(epochs=(3,))
    (call,) = calls(tmp_path)
    assert call["name"] == NAMES[1]
    assert call["words"][1].startswith("--resume=")


def test_runs_are_trained_where_it_is_asked_for_and_count_wherever_that_was(
    reproduce: Reproduce, tmp_path: Path
) -> None:
    first = reproduce(device="cuda")
    found = calls(tmp_path)
    assert len(found) == len(first["rows"])
    assert all("--device=cuda" in call["words"] for call in found)
    reproduce(device="cpu")
    assert calls(tmp_path) == []
    reproduce(device="cpu", seeds=(0, 1))
    assert not any("--device" in word for call in calls(tmp_path) for word in call["words"])


def test_new_angles_join_those_there_are(reproduce: Reproduce, tmp_path: Path) -> None:
    reproduce(angles=(0.0, 90.0))
    calls(tmp_path)
    result = reproduce(angles=(45.0, 90.0))
    assert names(calls(tmp_path)) == ["c-vf-1h-angle-45-seed-0"]
    angles = [row["weight_angle"] for row in result["rows"] if row["algorithm"] == "C-VF"]
    assert angles == [45, 90]


def test_one_failed_run_does_not_lose_the_others(
    reproduce: Reproduce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", NAMES[0])
    with pytest.raises(Failure, match=f"1 of 4 runs failed .{NAMES[0]}: epoch 1: a state is not"):
        reproduce()
    assert names(calls(tmp_path)) == sorted(NAMES)
    rows = json.loads((tmp_path / "out" / "fig-1c.json").read_text())["rows"]
    assert rows[0]["failed"] == "epoch 1: a state is not finite"
    assert rows[0]["test_error"] is None
    assert [row["test_error"] for row in rows[1:]] == [108, 18, 18]
    # The next time it is tried again, and it alone.
    monkeypatch.delenv("FAILS")
    assert reproduce()["rows"][0]["failed"] is None
    assert names(calls(tmp_path)) == NAMES[:1]


def test_one_failed_measurement_does_not_lose_the_others(
    reproduce: Reproduce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: Any, run: PlannedRun, __: Dataset) -> dict[str, Any]:
        if run.experiment.weight_angle == 90:
            raise NonFiniteError("hidden layer 1", "free phase", 3)
        return measured(5.0, 6.0)

    monkeypatch.setattr(Figure1c, "measure", failing)
    with pytest.raises(Failure, match=f"1 of 4 runs failed .{NAMES[1]}: gradient angle: "):
        reproduce()
    rows = json.loads((tmp_path / "out" / "fig-1c.json").read_text())["rows"]
    assert [row["gradient_angle"] for row in rows] == [5.0, None, 5.0, 5.0]
    assert [row["epochs"] for row in rows] == [2] * 4


def test_the_angle_is_measured_once(
    reproduce: Reproduce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reproduce()
    monkeypatch.setattr(Figure1c, "measure", lambda *_: measured(7.0, 8.0))
    damaged = tmp_path / "out" / "gradient-angles" / f"{NAMES[2]}.json"
    damaged.write_text(damaged.read_text()[:10])
    angles = [row["gradient_angle"] for row in reproduce(epochs=(3,))["rows"]]
    assert angles == [5.0, 5.0, 7.0, 5.0]


@pytest.mark.parametrize("change", [{"degrees": "x"}, {"degrees": 200.0}, {"premise_holds": None}])
def test_what_is_no_angle_is_measured_again(
    reproduce: Reproduce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    reproduce()
    monkeypatch.setattr(Figure1c, "measure", lambda *_: measured(7.0, 8.0))
    damaged = tmp_path / "out" / "gradient-angles" / f"{NAMES[2]}.json"
    damaged.write_text(json.dumps(json.loads(damaged.read_text()) | change))
    angles = [row["gradient_angle"] for row in reproduce()["rows"]]
    assert angles == [5.0, 5.0, 7.0, 5.0]


def test_what_was_measured_before_a_setting_existed_counts(
    reproduce: Reproduce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reproduce()
    monkeypatch.setattr(Figure1c, "measure", lambda *_: measured(7.0, 8.0))
    younger, other = (tmp_path / "out" / "gradient-angles" / f"{name}.json" for name in NAMES[:2])
    stored = json.loads(younger.read_text())
    del stored["experiment"]["cost"]
    younger.write_text(json.dumps(stored))
    other.write_text(other.read_text().replace('"seed": 0', '"seed": 1'))
    angles = [row["gradient_angle"] for row in reproduce()["rows"]]
    assert angles == [5.0, 7.0, 5.0, 5.0]


def test_the_figure_is_brought_up_to_date_after_every_run(
    reproduce: Reproduce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def started(*_: object) -> None:
        rows = json.loads((tmp_path / "out" / "fig-1c.json").read_text())["rows"]
        written.append(sum(row["test_error"] is not None for row in rows))

    monkeypatch.setattr(RunBoard, "started", started)
    reproduce()
    # A run does not wait for the pictures of the one before.
    assert written == [0, 0, 1, 2]


def test_a_run_of_other_settings_is_refused_before_anything_is_started(
    reproduce: Reproduce, tmp_path: Path
) -> None:
    reproduce()
    calls(tmp_path)
    config = tmp_path / "out" / "runs" / NAMES[3] / "config.json"
    config.write_text(config.read_text().replace('"beta": 0.1', '"beta": 0.3'))
    with pytest.raises(UsageError, match=f"{NAMES[3]}: beta = 0.3: expected 0.1"):
        reproduce(epochs=(4,))
    assert calls(tmp_path) == []


def test_a_folder_of_something_else_is_refused(reproduce: Reproduce, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="expected a new or empty folder"):
        reproduce()
    (tmp_path / "out" / "thesis.tex").unlink()
    stranger = tmp_path / "out" / "runs" / NAMES[0] / "notes"
    stranger.mkdir(parents=True)
    (tmp_path / "out" / "gradient-angles").mkdir()
    with pytest.raises(UsageError, match=f"{NAMES[0]}: expected a new or empty folder"):
        reproduce()
    assert calls(tmp_path) == []


def test_the_beginning_of_a_file_that_a_kill_left_is_no_obstacle(
    reproduce: Reproduce, tmp_path: Path
) -> None:
    (tmp_path / "out" / "gradient-angles").mkdir(parents=True)
    for name in NAMES:
        run = tmp_path / "out" / "runs" / name
        run.mkdir(parents=True)
        (run / ".config.json.part").write_text("{")
    reproduce()
    assert names(calls(tmp_path)) == sorted(NAMES)


def test_what_fails_after_the_last_epoch_leaves_a_run_whole(
    reproduce: Reproduce, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS_AT_THE_END", NAMES[0])
    rows = reproduce()["rows"]
    assert [row["failed"] for row in rows] == [None] * 4


def test_a_folder_is_worked_on_by_one_command_at_a_time(
    reproduce: Reproduce, tmp_path: Path
) -> None:
    with (
        RunFolder(tmp_path / "out").claimed(),
        pytest.raises(Failure, match="another process does"),
    ):
        reproduce()
    assert calls(tmp_path) == []


def test_a_stopped_command_says_how_to_go_on_and_leaves_no_process(
    reproduce: Reproduce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS_PER_EPOCH", "60")

    def stop() -> None:
        while not (tmp_path / "calls").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop).start()
    began = time.monotonic()
    with pytest.raises(Stopped, match="stopped with 0 of 4 runs done.*same command again"):
        reproduce()
    assert time.monotonic() - began < 30
    assert signal.getsignal(signal.SIGTERM) == handler
    assert len(calls(tmp_path)) == 1
    monkeypatch.setenv("SECONDS_PER_EPOCH", "0")
    assert [row["epochs"] for row in reproduce()["rows"]] == [2] * 4


# Side by side


def run_jobs(folder: Path, codes: list[str], workers: int, **hooks: Any) -> dict[str, str | None]:
    """Run Python code side by side; the reasons for which jobs failed."""
    reasons: dict[str, str | None] = {}
    work_off(
        [
            Job(str(n), [sys.executable, "-c", code], folder / f"{n}.log")
            for n, code in enumerate(codes)
        ],
        workers,
        started=hooks.get("started", lambda _: None),
        ended=lambda job, reason: reasons.update({job.name: reason}),
        tick=hooks.get("tick", lambda: None),
        interval=0.02,
    )
    return reasons


def test_never_more_runs_at_once_than_workers(tmp_path: Path) -> None:
    code = "import time; print(time.monotonic()); time.sleep(0.3); print(time.monotonic())"
    assert run_jobs(tmp_path, [code] * 5, 2) == dict.fromkeys("01234")
    spans = [tuple(map(float, (tmp_path / f"{n}.log").read_text().split())) for n in range(5)]
    at_once = [sum(start <= moment < end for start, end in spans) for moment, _ in spans]
    assert max(at_once) <= 2
    begun = [start for start, _ in spans]
    # Started in their order, though the two that begin together may overtake each other.
    assert max(begun[:2]) < min(begun[2:4])
    assert max(begun[2:4]) < begun[4]


def test_a_job_that_fails_says_why_in_its_last_line(tmp_path: Path) -> None:
    codes = [
        "import sys; print('noise'); sys.exit('eqprop: error: epoch 3: not finite\\n\\n')",
        "pass",
        "import os; print('fine'); os.kill(os.getpid(), 9)",
        "import sys; sys.exit(3)",
    ]
    assert run_jobs(tmp_path, codes, 2) == {
        "0": "epoch 3: not finite",
        "1": None,
        "2": "ended by signal SIGKILL; was there enough memory?",
        "3": "ended with status 3, saying nothing",
    }
    # What a log says of an earlier time is no reason.
    again = run_jobs(tmp_path, ["import sys; sys.exit(3)"], 1)
    assert again == {"0": "ended with status 3, saying nothing"}
    assert "noise" in (tmp_path / "0.log").read_text()


def test_no_job_outlives_the_call(tmp_path: Path) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    logs = [tmp_path / "0.log", tmp_path / "1.log"]

    def tick() -> None:
        if all(log.exists() and log.read_text().endswith("\n") for log in logs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(tmp_path, [code, code], 2, tick=tick)
    for log in logs:
        with pytest.raises(ProcessLookupError):
            os.kill(int(log.read_text()), 0)


def test_a_leashed_command_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    pipe = tmp_path / "settings.toml"
    # The command waits for somebody to write there, which nobody does.
    os.mkfifo(pipe)
    words = ["-m", "eqprop.cli.worker", "train", "--config", str(pipe)]
    process = subprocess.Popen([sys.executable, *words], stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.stdin.close()
        assert process.wait(20) == 1
    finally:
        process.kill()


def test_a_leashed_command_is_the_command(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "eqprop.cli.worker", "presets", "--json"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.load(process.stdout).keys() == PRESETS.keys()
        assert process.wait(20) == 0


# What is measured


def weights_angle(update: dict[str, torch.Tensor], gradient: dict[str, torch.Tensor]) -> float:
    """Degrees between an update and minus a gradient, all matrices put end to end."""
    chosen = [name for name, value in gradient.items() if value.dim() > 1]
    u = torch.cat([update[name].flatten() for name in chosen])
    v = torch.cat([-gradient[name].flatten() for name in chosen])
    return math.degrees(math.acos(float(u @ v / (u.norm() * v.norm()))))


@pytest.mark.parametrize("recipe", ["published", "own"])
@pytest.mark.parametrize("index", range(4), ids=NAMES)
def test_the_gradient_angle_is_that_of_the_first_step_of_training(index: int, recipe: Any) -> None:
    """The estimators that train, on the network that training starts from, agree with it."""
    settings = Figure1cSettings(**SMALL, angles=(0.0, 90.0), seeds=(3,), recipe=recipe)
    run = FIGURE_1C.runs(settings)[index]
    run = replace(run, changes={**run.changes, "hidden": (32,)})
    experiment = run.experiment
    data = build_data(experiment)
    found = FIGURE_1C.measure(run, data)

    size = experiment.batch_size
    x, labels = next(data.train.batches(size, torch.Generator().manual_seed(0)))
    x, y = x.double(), one_hot(labels, 10, torch.float64)
    T, K, beta = experiment.free_steps, experiment.nudged_steps, experiment.beta
    nudging = "symmetric" if experiment.nudging == "symmetric" else "one-sided"
    network = build_network(experiment, data.input_shape, 10).double()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    BPTT(T, K)(network, x, y)
    gradient = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    groups = network.parameter_groups(experiment.learning_rates)
    optimizer = torch.optim.SGD(groups)
    optimizer.zero_grad()
    if experiment.estimator == "ep":
        EquilibriumPropagation(T, K, beta, nudging)(network, x, y)
        optimizer.step()
    else:
        ContinualEP(optimizer, T, K, beta)(network, x, y)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    update = {
        name: (p.detach() - before[name]) / rate[id(p)] for name, p in network.named_parameters()
    }
    assert found["whole_degrees"] == pytest.approx(weights_angle(update, gradient), abs=1e-4)


def test_as_published_the_angle_leaves_out_the_first_step_and_the_whole_one_does_not() -> None:
    run = FIGURE_1C.runs(Figure1cSettings(**SMALL, angles=(90.0,)))[0]
    data = build_data(run.experiment)
    found = FIGURE_1C.measure(run, data)
    settings = replace(run.experiment, dtype="float64")
    network = build_network(settings, data.input_shape, data.classes)
    x, labels = next(data.train.batches(20, torch.Generator().manual_seed(0)))
    batch = x.double(), one_hot(labels, 10, torch.float64)
    T, K = settings.free_steps, settings.nudged_steps
    bptt = bptt_process(network, *batch, free_steps=T, nudged_steps=K)
    ep = ep_process(
        network, *batch, free_steps=T, nudged_steps=K, beta=settings.beta,
        eta=settings.learning_rates,
    )  # fmt: skip
    for first, angle in ((0, found["whole_degrees"]), (1, found["degrees"])):
        sums = [
            {name: steps[first:].sum(0) for name, steps in process.parameters.items()}
            for process in (ep, bptt)
        ]
        assert angle == pytest.approx(weights_angle(*sums), abs=1e-4)


# What is written


def test_the_correlation_is_that_of_ranks(reproduce: Reproduce, monkeypatch: Any) -> None:
    angles = {0.0: 10.0, 45.0: 30.0, 90.0: 20.0, 180.0: 40.0, None: 1.0}
    monkeypatch.setattr(
        Figure1c, "measure", lambda _, run, __: measured(angles[run.experiment.weight_angle], 3.0)
    )
    result = reproduce(angles=(0.0, 45.0, 90.0, 180.0))
    of_c_vf, of_all = result["correlations"]
    # Test errors rise with Ψ, and two neighbours of four are exchanged: 1 − 6·2 / (4·15).
    assert of_c_vf["spearman"] == pytest.approx(0.8)
    assert (of_c_vf["points"], of_c_vf["n"], of_c_vf["hidden_layers"]) == ("C-VF", 4, 1)
    assert (of_all["points"], of_all["n"]) == ("all", 6)
    # An angle that never changes has no rank.
    assert of_c_vf["spearman_whole"] is None
    assert reproduce(angles=(0.0,))["correlations"][0]["spearman"] is None


def test_every_depth_has_its_own_correlation_of_at_least_three_points(
    reproduce: Reproduce,
) -> None:
    found = reproduce(hidden_layers=(1, 2), angles=(90.0,), epochs=(1,), workers=4)["correlations"]
    kinds = [(f["hidden_layers"], f["points"], f["n"]) for f in found]
    assert kinds == [(1, "C-VF", 1), (1, "all", 3), (2, "C-VF", 1), (2, "all", 3)]
    assert found[0]["spearman"] is None


def test_trials_count_as_their_mean(reproduce: Reproduce) -> None:
    found = reproduce(angles=(0.0, 90.0, 180.0), seeds=(0, 1), epochs=(1,))["correlations"]
    assert [f["n"] for f in found] == [3, 5]


def point(**changes: Any) -> dict[str, Any]:
    row = {"algorithm": "C-VF", "hidden_layers": 1, "weight_angle": 90.0, "test_error": 10.0}
    row |= {"gradient_angle": 30.0, "whole_angle": 20.0, "premise_holds": True}
    return {**row, **changes}


@pytest.mark.parametrize(("error", "drawn"), [(10.0, False), (60.0, True)])
def test_chance_is_drawn_where_some_network_comes_near_it(
    error: float, drawn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    monkeypatch.setattr(
        "eqprop.pictures.write_picture",
        lambda picture, *_: found.append(len(picture.axes[0].get_legend_handles_labels()[1])),
    )
    result = {
        "rows": [point(), point(weight_angle=0.0, test_error=error)],
        "correlations": [
            {"hidden_layers": 1, "points": "C-VF", "spearman": 1.0, "spearman_whole": 1.0, "n": 2}
        ],
    }
    FIGURE_1C.draw(Figure1cSettings(**SMALL), result, tmp_path)
    assert found == [1 + drawn] * 2, "beside C-VF"


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [point()],
        [point(), point(test_error=11.0), point(test_error=0.0, weight_angle=0.0)],
        [point(algorithm="EP", weight_angle=None, test_error=0.5, hidden_layers=2), point()],
    ],
    ids=["nothing", "one", "several seeds and an error of 0", "more than a decade"],
)
def test_whatever_there_is_can_be_drawn(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    correlations = [
        {"hidden_layers": n, "points": "C-VF", "spearman": rho, "spearman_whole": rho, "n": 1}
        for n, rho in ((1, None), (2, 0.5))
    ]
    result = {"rows": rows, "correlations": correlations}
    FIGURE_1C.draw(Figure1cSettings(), result, tmp_path)
    for name in ("fig-1c.png", "fig-1c-whole.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)
    assert not (tmp_path / "fig-1c-angle.png").exists()


def test_test_error_is_drawn_against_the_angle_where_there_is_asym_ep(tmp_path: Path) -> None:
    rows = [
        point(weight_angle=psi, algorithm=algorithm)
        for psi in (0.0, 90.0, 180.0)
        for algorithm in ("C-VF", "AsymEP")
    ]
    correlations = [
        {"hidden_layers": 1, "points": "C-VF", "spearman": 1.0, "spearman_whole": 1.0, "n": 3}
    ]
    settings = Figure1cSettings(hidden_layers=(1,))
    FIGURE_1C.draw(settings, {"rows": rows, "correlations": correlations}, tmp_path)
    written = ElementTree.parse(tmp_path / "fig-1c-angle.svg").getroot()
    said = " ".join("".join(written.itertext()).split())
    for word in ("C-VF", "AsymEP", "Ψ before training (°)", "one hidden layer"):
        assert word in said


def test_the_figure_is_printed_as_tables_of_what_there_is(
    reproduce: Reproduce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", NAMES[0])
    with pytest.raises(Failure):
        reproduce()
    runs, correlations = FIGURE_1C.tables(json.loads((tmp_path / "out/fig-1c.json").read_text()))
    assert list(runs.columns)[:3] == ["run", "gradient angle (°)", "t = 0 too (°)"]
    assert runs.words[0] == [NAMES[0], "5.00", "6.00", "yes", "0", "–", "–"]
    assert runs.words[1] == [NAMES[1], "5.00", "6.00", "yes", "2", "1.00", "108.00"]
    assert correlations.words[0] == ["C-VF", "1", "–", "–", "1"]


# A figure of somebody else


@final
@dataclass(frozen=True, kw_only=True)
class MineSettings(Settings):
    """Those of the figure below."""

    dataset: str = setting("digits", "what to learn")
    betas: tuple[float, ...] = setting((0.5,), "strengths of the nudge")
    epochs: int = setting(1, "passes over the training data")


@final
class Mine(Figure[MineSettings]):
    """Test error against β."""

    description = "Test error against β."
    settings = MineSettings

    def runs(self, settings: MineSettings) -> list[PlannedRun]:
        common = {"dataset": settings.dataset, "epochs": settings.epochs}
        common |= {"hidden": (8, 8), "learning_rates": (0.1, 0.1, 0.1)}
        return [
            PlannedRun(f"beta-{beta}", "digits", {**common, "beta": beta})
            for beta in settings.betas
        ]


@pytest.fixture
def mine(trainer: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    defaults: Any = Reproduction.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "trainer", trainer)
    before = dict(FIGURES._own)
    FIGURES.add("mine", Mine(), "test error against β")
    yield "mine"
    FIGURES._own = before


def test_a_figure_takes_a_class_and_a_line(
    mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce"]) == 0
    assert re.search(r"mine +test error against β", capsys.readouterr().out)
    words = ["reproduce", mine, "--betas", "0.1", "0.3", "--workers", "2"]
    assert main([*words, "--epochs", "x"]) == 2
    assert "epochs = x: expected a whole number" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert main(words) == 0
    captured = capsys.readouterr()
    assert re.search(r"beta-0.1 +1 +1.00 +19.00\n", captured.out)
    assert "everything is in runs/mine-digits" in captured.out
    for beta in (0.1, 0.3):
        found = RunFolder(tmp_path / "runs" / "mine-digits" / "runs" / f"beta-{beta}").read_config()
        assert (found.experiment.beta, found.experiment.hidden) == (beta, (8, 8))
    # The same command goes on.
    assert main([*words, "--epochs", "2", "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads((tmp_path / "runs" / "mine-digits" / "mine.json").read_text())
    assert json.loads(captured.out) == result
    assert result["settings"] == {
        "dataset": "digits", "betas": [0.1, 0.3], "epochs": 2, "workers": 2, "device": "cpu"
    }  # fmt: skip
    assert [row["epochs"] for row in result["rows"]] == [2, 2]
    assert "beta-0.1: started, from epoch 2" in captured.err
    # Its folder is that of no other figure.
    out = ["--out", "runs/mine-digits"]
    assert main(["reproduce", "fig-1c", "--dataset", "digits", *out]) == 2
    assert "or that of this figure begun before" in capsys.readouterr().err


# What a person sees


def standing(name: str, state: str, epochs: int, left: float | None) -> Any:
    """What the board looks at of a run of ten epochs."""
    history = [{"test_error": 2.5}] * epochs
    seen = {"name": name, "state": state, "history": history, "left": left, "wanted": 10}
    return SimpleNamespace(**seen, running=state == "running", untrained=None)


RUNS = [
    standing("a", "running", 3, 70.0),
    standing("b", "done", 10, 0.0),
    *(standing(f"w{n}", "waiting", 0, None) for n in range(50)),
]


def screen(output: str) -> list[str]:
    """What a terminal shows in the end."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\n|\r|[^\x1b\r\n]+", output):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith(("\x1b", "\r")):
            lines[row] += part
    return [line.rstrip() for line in lines if line.strip()]


def test_the_board_never_grows_beyond_the_terminal() -> None:
    console = Console(file=(file := io.StringIO()), width=60, height=12)
    board = RunBoard(console)
    board.show(RUNS, 3700.0)
    console.print(board)
    shown = file.getvalue().splitlines()
    assert len(shown) <= 11
    assert all(len(line) <= 60 for line in shown)
    assert " ".join(shown[1].split()) == "a running 3/10 2.50 % 1:10"
    assert "… and " in shown[-2]
    assert shown[-1] == "1 of 52 runs done, about 1:01:40 left"


def test_the_board_leaves_nothing_but_what_was_said() -> None:
    file = io.StringIO()
    board = RunBoard(Console(file=file, force_terminal=True, width=60, height=12))
    board.show(RUNS, 3700.0)
    board.ended(RUNS[1])
    board.show(RUNS, 3600.0)
    assert any(line.startswith("a  ") for line in screen(file.getvalue()))
    board.close()
    assert screen(file.getvalue()) == ["b    done    epoch  10/10  test error 2.50 %"]


def test_where_there_is_no_terminal_a_run_is_a_line_at_its_start_and_at_its_end(
    reproduce: Reproduce, capsys: pytest.CaptureFixture[str]
) -> None:
    reproduce(epochs=(5,))
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 2 * len(NAMES)
    assert "\x1b" not in captured.err
    assert f"{NAMES[0]}: started" in lines
    assert captured.out == ""


# For real


@pytest.mark.exhaustive
def test_a_killed_command_goes_on_where_it_was(tmp_path: Path) -> None:
    words = "reproduce fig-1c --dataset digits --epochs 2 --angles 90 --hidden-layers 1 --workers 1"
    command = [sys.executable, "-m", "eqprop", *words.split(), "--out", str(tmp_path / "out")]
    run = RunFolder(tmp_path / "out" / "runs" / "c-vf-1h-angle-90-seed-0")
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not run.config.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    # The run has ended with the command: else the next one would find it locked.
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    planned = FIGURE_1C.runs(Figure1cSettings(**SMALL, epochs=(2,), angles=(90.0,)))
    for row, wanted in zip(result["rows"], planned, strict=True):
        folder = RunFolder(tmp_path / "out" / "runs" / row["name"])
        assert folder.read_config().experiment == wanted.experiment
        metrics = folder.read_metrics()
        assert [entry["epoch"] for entry in metrics] == [1, 2]
        assert row["test_error"] == metrics[-1]["test_error"]
        assert 0 < row["gradient_angle"] < 90
        assert row["premise_holds"] is True
    assert result["environment"]["torch"]
    for picture in ("fig-1c.png", "fig-1c-whole.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(PNG)
