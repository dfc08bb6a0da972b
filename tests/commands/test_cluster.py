"""``eqprop reproduce --cluster``: what is submitted, comes again, is watched, and is refused.

Slurm is played by a few lines: ``sbatch`` starts the tasks of an array with the variables that
Slurm sets, ``scontrol requeue`` starts one again, ``sacct`` says what a file says.
"""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import pytest

from eqprop.cli.board import RunBoard
from eqprop.cli.main import main
from eqprop.errors import ConfigurationError, Failure, Stopped
from eqprop.figures import Figure, PlannedRun, Reproduction, Work
from eqprop.registries import FIGURES
from eqprop.runs import cluster_job, work_off_on_cluster
from eqprop.settings.fields import Settings, setting
from linux_processes import parent, running

submitit = pytest.importorskip("submitit", reason="needs eqprop[cluster]")
if not Path("/proc/self/stat").exists():
    pytest.skip("processes are looked for in /proc", allow_module_level=True)

# Takes the words of `eqprop train` and leaves the files of a run, but learns nothing. Its second
# epoch lasts as long as there is a file "hold". SIGTERM ends it, as it does `eqprop train`, once
# there is no file "linger"; and so does the end of what has started it, as it does
# `python -m eqprop.cli.worker`.
TRAINER = """
import argparse, json, os, signal, sys, threading, time
from pathlib import Path
from eqprop.cli.options import add_options, given
from eqprop.settings import Experiment, preset

threading.Thread(target=lambda: os.read(0, 1) or os._exit(1), daemon=True).start()
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
parser = argparse.ArgumentParser()
parser.add_argument("words", nargs="+")
for option in ("--out", "--resume"):
    parser.add_argument(option)
add_options(parser, Experiment)
options = parser.parse_args()
folder, here = Path(options.out or options.resume), Path(os.environ["HERE"])
call = {"name": folder.name, "pid": os.getpid(), "resumes": options.out is None}
call |= {"threads": os.environ["OMP_NUM_THREADS"], "mkl": os.environ.get("MKL_NUM_THREADS")}
with open(here / "calls", "a") as calls:
    calls.write(json.dumps(call) + "\\n")
folder.mkdir(parents=True, exist_ok=True)
if options.out:
    experiment = preset(options.words[1]).override(given(options, Experiment)).to_json()
    config = {"preset": "", "experiment": experiment, "data_dir": None, "environment": {}}
    (folder / "config.json").write_text(json.dumps(config))
metrics = folder / "metrics.jsonl"
done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
for epoch in range(done + 1, int(options.epochs) + 1):
    if folder.name == os.environ.get("FAILS"):
        sys.exit("eqprop: error: epoch 1: a state is not finite")
    while epoch == 2 and (here / "hold").exists() and not told:
        time.sleep(0.02)
    while told and (here / "linger").exists():
        (here / "told").touch()
        time.sleep(0.02)
    if len(told) > 1:
        sys.exit("stopped at once, not in the end")
    if told:
        print(f"eqprop: stopped in epoch {epoch}")
        sys.exit(143)
    line = {"epoch": epoch, "train_error": 1.0, "test_error": 20.0 - epoch, "seconds": 1.0}
    with metrics.open("a") as file:
        file.write(json.dumps(line) + "\\n")
"""

# sbatch: the tasks of an array, each again for as long as scontrol has asked for that.
SBATCH = """#!{python}
import os, re, subprocess, sys
from pathlib import Path

here, script = Path(os.environ["HERE"]), sys.argv[1]
text = Path(script).read_text()
if "--partition=nowhere" in text:
    sys.exit("sbatch: error: invalid partition specified: nowhere")
scripts = here / "scripts"
job = str(12 + (scripts.read_text().count("#!/bin/bash") if scripts.exists() else 0))
with scripts.open("a") as file:
    file.write(text)
# As Slurm does: whoever submits may move the script at once, before a task has read it.
copied = here / f"script-{{job}}"
copied.write_text(text)
array = re.search("--array=0-([0-9]+)", text)
for task in range(int(array[1]) + 1 if array else 1):
    name = f"{{job}}_{{task}}" if array else job
    if (here / f"lost-{{name}}").exists():
        continue
    again, queued = here / f"again-{{name}}", here / f"queued-{{name}}"
    queued.touch()
    loop = f'touch "{{again}}"; while [ -e "{{again}}" ]; do rm "{{again}}"; sh "$0"; done'
    loop += f'; rm "{{queued}}"'
    of_array = {{"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(task)}} if array else {{}}
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    env = {{**os.environ, "SLURM_JOB_ID": job, **of_array}}
    subprocess.Popen(["sh", "-c", loop, copied], env=env, start_new_session=True, **quiet)
print("Submitted batch job", job)
"""

# srun: the command, with its output where the options say, as Slurm writes names.
SRUN = """#!{python}
import os, sys
words = sys.argv[1:]
output = words[words.index("--output") + 1]
command = words[next(i for i, word in enumerate(words) if word.endswith("python")) :]
for mark, name in (("%A", "SLURM_ARRAY_JOB_ID"), ("%a", "SLURM_ARRAY_TASK_ID")):
    output = output.replace(mark, os.environ.get(name, ""))
output = output.replace("%j", os.environ["SLURM_JOB_ID"]).replace("%t", "0")
file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(file, 1)
os.dup2(file, 2)
os.execv({python!r}, [{python!r}, *command[1:]])
"""

SCONTROL = '#!/bin/sh\n[ "$1" = requeue ] && touch "$HERE/again-$2"\n'
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
cat "$HERE/states"
for job in "$HERE"/queued-*; do echo "${job##*/queued-}|RUNNING|"; done
"""
SQUEUE = '#!/bin/sh\necho "slurm_load_jobs error: Invalid job id specified" >&2\nexit 1\n'

NAMES = ["seed-0", "seed-1", "seed-2"]


@final
@dataclass(frozen=True, kw_only=True)
class TrialsSettings(Settings):
    """Those of the figure below."""

    dataset: str = setting("digits", "what to learn")
    seeds: tuple[int, ...] = setting((0, 1, 2), "a run each")
    epochs: int = setting(3, "passes over the training data")


@final
class Trials(Figure[TrialsSettings]):
    """Test error of several trials."""

    description = "Test error of several trials."
    settings = TrialsSettings

    def runs(self, settings: TrialsSettings) -> list[PlannedRun]:
        small = {"dataset": "digits", "epochs": settings.epochs, "hidden": (8,)}
        return [
            PlannedRun(f"seed-{seed}", "digits", {**small, "seed": seed}) for seed in settings.seeds
        ]


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    before = dict(FIGURES._own)
    FIGURES.add("trials", Trials(), "test error of several trials")
    yield "trials"
    FIGURES._own = before


Make = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def make(trials: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make a figure whose runs learn nothing, on a cluster; its rows."""
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    monkeypatch.setenv("HERE", str(tmp_path))
    defaults: Any = work_off_on_cluster.__kwdefaults__
    monkeypatch.setitem(defaults, "interval", 0.05)

    def command(cluster: str = "local", seeds: Any = (0, 1, 2), **work: Any) -> Any:
        reproduction = Reproduction(
            trials,
            TrialsSettings(seeds=seeds),
            Work(cluster=cluster, **{"workers": 3, **work}),  # type: ignore[arg-type]
            folder=tmp_path / "out",
            trainer=(sys.executable, str(script)),
        )
        written = reproduction.make(RunBoard())
        reproduction.require_whole()
        return written["rows"]

    yield command
    (tmp_path / "hold").unlink(missing_ok=True)
    for call in calls(tmp_path):
        if running(call["pid"]):
            os.kill(call["pid"], signal.SIGKILL)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a person is told of jobs that were submitted, now or before."""
    found: list[str] = []
    monkeypatch.setattr(RunBoard, "say", lambda _, line: "submitted" in line and found.append(line))
    return found


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm, played: the folder with ``scripts``, what was submitted, and ``states``."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "states").touch()
    programs = {"sbatch": SBATCH, "srun": SRUN}
    programs = {name: text.format(python=sys.executable) for name, text in programs.items()}
    programs |= {"scontrol": SCONTROL, "sacct": SACCT, "squeue": SQUEUE}
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(cluster_job, "_LATE", 0.0)
    submitit.SlurmJob.watcher.clear()
    return tmp_path


def calls(folder: Path) -> list[dict[str, Any]]:
    """Whom the trainer was called for, and how."""
    path = folder / "calls"
    # What is being written at this moment is not yet whole.
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def held(folder: Path, names: list[str] = NAMES) -> bool:
    """Whether all these runs are in their second epoch."""
    metrics = [folder / "out" / "runs" / name / "metrics.jsonl" for name in names]
    return all(path.exists() and path.read_text().count("\n") == 1 for path in metrics)


def training(folder: Path) -> dict[int, str]:
    """The processes that train in a folder, and their words."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (place / "cmdline").read_text()
            if "eqprop.cli.worker" in words and f"{folder}/runs" in words:
                found[int(place.name)] = words
    return found


def later(condition: Callable[[], object], act: Callable[[], None]) -> threading.Thread:
    """Do something once something is so, meanwhile."""

    def wait() -> None:
        wait_for(condition)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def jobs(folder: Path) -> dict[str, dict[str, str]]:
    return json.loads((folder / "out" / "cluster" / "jobs.json").read_text())


# What is submitted


def test_all_runs_are_one_array_that_asks_for_what_was_said(make: Make, slurm: Path) -> None:
    rows = make(
        "slurm", workers=2, partition="long", account="me", qos="low", constraint="avx512",
        time="1-02:00:01", memory=2.5, device="cuda", gpus=1, cores=2,
    )  # fmt: skip
    assert [(row["name"], row["epochs"], row["test_error"]) for row in rows] == [
        (name, 3, 17.0) for name in NAMES
    ]
    script = (slurm / "scripts").read_text()
    assert script.count("#!/bin/bash") == 1
    asked = dict(re.findall(r"#SBATCH --([a-z-]+)=(.*)", script))
    wanted = {
        "array": "0-2%2", "partition": "long", "account": "me", "qos": "low", "time": "1561",
        "constraint": "avx512", "mem": "2560M", "gpus-per-node": "1", "cpus-per-task": "2",
        "signal": "USR2@120",
    }  # fmt: skip
    assert asked.items() >= wanted.items()
    assert "srun" in script
    assert "--cpus-per-task=2" in script.partition("srun")[2]
    assert jobs(slurm) == {
        name: {"cluster": "slurm", "job": f"12_{index}"} for index, name in enumerate(NAMES)
    }
    for call in calls(slurm):
        assert (call["threads"], call["mkl"], call["resumes"]) == ("2", "2", False)
        config = json.loads((slurm / "out" / "runs" / call["name"] / "config.json").read_text())
        assert config["experiment"]["device"] == "cuda"


def test_without_a_word_a_cluster_decides_and_all_run_at_once(make: Make, slurm: Path) -> None:
    make("slurm", workers=None)
    asked = dict(re.findall(r"#SBATCH --([a-z-]+)=(.*)", (slurm / "scripts").read_text()))
    assert asked["array"] == "0-2%3"
    assert not asked.keys() & {"partition", "account", "qos", "constraint", "gpus-per-node"}


def test_a_cluster_that_takes_no_jobs_says_why_in_one_line(
    make: Make, slurm: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Failure, match="it says: sbatch: error: invalid partition.*: nowhere; ask"):
        make("slurm", partition="nowhere")
    assert "sbatch" not in capfd.readouterr().err
    assert not (slurm / "out" / "cluster" / "jobs.json").exists()


def test_on_this_machine_no_more_runs_at_once_than_workers(make: Make, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    first = NAMES[:2]
    at_once: list[list[str]] = []

    def look() -> None:
        at_once.append(list(jobs(tmp_path)))
        (tmp_path / "hold").unlink()

    thread = later(lambda: held(tmp_path, first), look)
    rows = make(workers=2)
    thread.join()
    assert at_once == [first]
    assert [row["epochs"] for row in rows] == [3, 3, 3]
    assert {call["threads"] for call in calls(tmp_path)} == {"1"}
    assert (
        "submitit"
        in (tmp_path / "out/cluster" / f"{jobs(tmp_path)['seed-0']['job']}_0_log.out").read_text()
    )


# What comes again


@pytest.mark.parametrize("cluster", ["slurm", "local"])
def test_a_job_whose_time_is_up_comes_again_and_resumes(
    make: Make, slurm: Path, cluster: str
) -> None:
    (slurm / "hold").touch()

    def announce() -> None:
        for call in calls(slurm):
            if call["name"] == "seed-1":
                os.kill(parent(call["pid"]), signal.SIGUSR2)
                if cluster == "slurm":
                    # Slurm tells all processes of a job.
                    os.kill(call["pid"], signal.SIGUSR2)
        wait_for(lambda: len(calls(slurm)) == 4)
        (slurm / "hold").unlink()

    thread = later(lambda: held(slurm), announce)
    rows = make(cluster)
    thread.join()
    assert [row["epochs"] for row in rows] == [3, 3, 3]
    last = calls(slurm)[-1]
    assert (last["name"], last["resumes"]) == ("seed-1", True)
    assert (slurm / "out" / "logs" / "seed-1.log").read_text() == "eqprop: stopped in epoch 2\n"


def test_a_run_that_slurm_has_told_to_end_is_not_told_again(make: Make, slurm: Path) -> None:
    (slurm / "hold").touch()

    (slurm / "linger").touch()

    def preempt() -> None:
        (call,) = calls(slurm)
        task = parent(call["pid"])
        for number in (signal.SIGTERM, signal.SIGUSR2):
            os.kill(task, number)
            os.kill(call["pid"], number)
            wait_for((slurm / "told").exists)
        said = slurm / "out" / "cluster" / "12_0_log.out"
        wait_for(lambda: "Calling checkpoint method" in said.read_text())
        # Now it would be told again.
        time.sleep(0.5)
        (slurm / "linger").unlink()
        wait_for(lambda: len(calls(slurm)) == 2)
        (slurm / "hold").unlink()

    thread = later(lambda: held(slurm, ["seed-0"]), preempt)
    (row,) = make("slurm", seeds=(0,))
    thread.join()
    assert row["epochs"] == 3
    assert [call["resumes"] for call in calls(slurm)] == [False, True]
    assert (slurm / "out" / "logs" / "seed-0.log").read_text() == "eqprop: stopped in epoch 2\n"


# What fails


def test_a_job_that_fails_loses_no_other_and_is_tried_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", "seed-1")
    with pytest.raises(Failure, match="1 of 3 runs failed .seed-1: epoch 1: a state is not finite"):
        make()
    monkeypatch.delenv("FAILS")
    assert [row["epochs"] for row in make()] == [3, 3, 3]
    assert [call["name"] for call in calls(tmp_path)[3:]] == ["seed-1"]


def test_what_the_cluster_ends_fails_with_its_state_and_is_submitted_again(
    make: Make, slurm: Path
) -> None:
    states = ["OUT_OF_MEMORY", "CANCELLED by 1000"]
    (slurm / "states").write_text(f"12_0|{states[0]}|\n12_1|{states[1]}|\n")
    for index in range(2):
        (slurm / f"lost-12_{index}").touch()
    memory = "seed-0: job 12_0: OUT_OF_MEMORY; ask for more --memory; seed-1: job 12_1: CANCELLED;?"
    with pytest.raises(Failure, match=f"2 of 3 runs failed .{memory}"):
        make("slurm")
    assert [call["name"] for call in calls(slurm)] == ["seed-2"]
    assert [row["epochs"] for row in make("slurm")] == [3, 3, 3]
    assert [job["job"] for job in jobs(slurm).values()] == ["13_0", "13_1", "12_2"]
    assert sorted(call["name"] for call in calls(slurm)) == ["seed-0", "seed-1", "seed-2"]


def test_a_job_of_this_machine_that_is_killed_fails_and_resumes_the_next_time(
    make: Make, tmp_path: Path
) -> None:
    (tmp_path / "hold").touch()

    def kill() -> None:
        # Of one the training, of another what has started it.
        killed = {call["name"]: call["pid"] for call in calls(tmp_path)}
        os.kill(killed["seed-0"], signal.SIGKILL)
        os.kill(parent(killed["seed-1"]), signal.SIGKILL)
        wait_for(lambda: not running(killed["seed-0"]) and not running(killed["seed-1"]))
        (tmp_path / "hold").unlink()

    thread = later(lambda: held(tmp_path), kill)
    with pytest.raises(
        Failure, match=r"seed-0: ended by signal SIGKILL; was there .*seed-1: ended"
    ):
        make()
    thread.join()
    assert [row["epochs"] for row in make()] == [3, 3, 3]
    again = calls(tmp_path)[3:]
    assert sorted((call["name"], call["resumes"]) for call in again) == [
        ("seed-0", True), ("seed-1", True)
    ]  # fmt: skip


# Who watches


def test_jobs_of_slurm_go_on_without_who_watches_and_are_watched_again(
    make: Make, slurm: Path, said: list[str]
) -> None:
    (slurm / "hold").touch()
    thread = later(lambda: held(slurm), lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match=r"0 of 3 runs done; still in job 12: 3 runs.*: scancel 12$"):
        make("slurm")
    thread.join()
    assert all(running(call["pid"]) for call in calls(slurm))
    thread = later(lambda: len(said) == 2, (slurm / "hold").unlink)
    assert [row["epochs"] for row in make("slurm")] == [3, 3, 3]
    thread.join()
    assert said == ["3 runs submitted, in job 12", "3 runs submitted before, in job 12"]
    assert (slurm / "scripts").read_text().count("#!/bin/bash") == 1
    assert len(calls(slurm)) == 3


def test_a_job_that_no_queue_knows_any_more_is_submitted_again(make: Make, slurm: Path) -> None:
    (slurm / "out" / "cluster").mkdir(parents=True)
    (slurm / "out" / "trials.json").write_text("{}")
    old = {"seed-0": {"cluster": "slurm", "job": "7_0"}}
    (slurm / "out" / "cluster" / "jobs.json").write_text(json.dumps(old))
    assert [row["epochs"] for row in make("slurm", seeds=(0,))] == [3]
    assert jobs(slurm) == {"seed-0": {"cluster": "slurm", "job": "12"}}


def test_jobs_of_this_machine_outlive_a_killed_command_and_are_not_started_twice(
    make: Make, tmp_path: Path, said: list[str]
) -> None:
    (tmp_path / "hold").touch()
    process = multiprocessing.get_context("fork").Process(target=make, kwargs={"workers": 2})
    process.start()
    wait_for(lambda: held(tmp_path, NAMES[:2]))
    process.kill()
    process.join()
    thread = later(lambda: said or len(calls(tmp_path)) > 2, (tmp_path / "hold").unlink)
    assert [row["epochs"] for row in make(workers=2)] == [3, 3, 3]
    thread.join()
    assert sorted(call["name"] for call in calls(tmp_path)) == NAMES


def test_jobs_of_this_machine_go_on_without_who_watches_until_they_are_cancelled(
    make: Make, tmp_path: Path
) -> None:
    (tmp_path / "hold").touch()
    thread = later(lambda: held(tmp_path, ["seed-0"]), lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Stopped, match=r"starts the 2 that wait; to cancel them: kill \d+$") as said:
        make(workers=1)
    thread.join()
    (call,) = calls(tmp_path)
    assert running(call["pid"])
    subprocess.run(str(said.value).rpartition(": ")[2], shell=True, check=True)
    wait_for(lambda: not running(int(jobs(tmp_path)["seed-0"]["job"])))
    assert (tmp_path / "out/logs/seed-0.log").read_text() == "eqprop: stopped in epoch 2\n"
    (tmp_path / "hold").unlink()
    assert [row["epochs"] for row in make(workers=1)] == [3, 3, 3]


def test_a_damaged_memory_of_jobs_is_refused(make: Make, tmp_path: Path) -> None:
    make(seeds=(0,))
    for damaged in ("{", "[]", '{"seed-0": {}}', '{"seed-0": {"cluster": "x", "job": "1"}}'):
        (tmp_path / "out" / "cluster" / "jobs.json").write_text(damaged)
        with pytest.raises(Failure, match="jobs.json: expected which run is in which job"):
            make()
    assert len(calls(tmp_path)) == 1


# What is refused


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--partition", "long"], "partition = long: expected none without a cluster; add --clust"),
        (["--time", "60"], "time = 60: expected none without a cluster"),
        (["--cores", "2"], "cores = 2: expected none without a cluster"),
        (["--cluster", "local", "--qos", "low"], "qos = low: expected none with cluster = local"),
        (["--cluster", "moon"], "cluster = moon: expected one of slurm, local, or none"),
        (["--cluster", "local", "--time", "1:30"], "time = 1:30: expected minutes, HH:MM:SS or D-"),
        (
            ["--cluster", "local", "--time", "00:04:00"],
            "expected minutes, HH:MM:SS or D-HH:MM:SS, 5",
        ),
        (["--cluster", "local", "--memory", "0"], "memory = 0.0: expected a number of GB above 0"),
        (["--cluster", "local", "--gpus", "-1"], "gpus = -1: expected a whole number from 0"),
        (
            ["--cluster", "slurm", "--gpus", "1"],
            "gpus = 1: expected 0, as GPUs are for device = cu",
        ),
        (
            ["--cluster", "slurm", "--device", "cuda"],
            "gpus = 0: expected 1 or more with device = cuda",
        ),
        (["--cluster", "slurm", "--account", "a b"], "account = a b: expected a name without"),
        (
            ["--cluster", "slurm"],
            "--cluster slurm: expected Slurm, found no sbatch and no srun; run",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_of_a_cluster_is_one_line_and_writes_nothing(
    words: list[str],
    says: str,
    trials: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert main(["reproduce", trials, *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("eqprop: error: ")
    assert says in line
    assert not any(tmp_path.iterdir())


def test_a_missing_submitit_is_said_before_anything_is_written(
    trials: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(["reproduce", trials, "--cluster", "local"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("install it with: pip install submitit")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("said", "minutes"),
    [("90", 90), ("00:05:00", 5), ("100:00:00", 6000), ("2-00:00:00", 2880), ("00:59:01", 60)],
)
def test_the_time_is_written_as_slurm_has_it(said: str, minutes: int) -> None:
    assert Work(cluster="slurm", time=said).minutes == minutes


def test_settings_of_a_cluster_are_stored_where_there_is_one() -> None:
    assert Work(workers=2).to_json() == {"workers": 2, "device": "cpu"}
    stored = Work(cluster="slurm", partition="long").to_json()
    assert (stored["partition"], stored["time"]) == ("long", "08:00:00")
    assert Work.stored(stored) == Work(cluster="slurm", partition="long")
    with pytest.raises(ConfigurationError, match="partition = long"):
        Work(partition="long")


# For real


@pytest.mark.exhaustive
def test_runs_that_are_killed_and_preempted_learn_what_undisturbed_ones_do(
    trials: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained by `eqprop train`, in the end all is as it is without a cluster."""
    settings = TrialsSettings(seeds=(0, 1), epochs=8)
    undisturbed = Reproduction(trials, settings, Work(workers=2), folder=tmp_path / "pool")
    wanted = undisturbed.make(RunBoard())["rows"]

    def disturb(seed: str) -> None:
        for pid, words in training(tmp_path / "out").items():
            if seed in words and seed == "seed-0":
                os.kill(pid, signal.SIGKILL)
            elif seed in words:
                os.kill(parent(pid), signal.SIGUSR2)

    # Each as soon as it has learnt something: one may begin long after the other.
    threads = [
        later((tmp_path / "out" / "runs" / seed / "metrics.jsonl").exists, partial(disturb, seed))
        for seed in NAMES[:2]
    ]
    work = Work(cluster="local", workers=2)
    first = Reproduction(trials, settings, work, folder=tmp_path / "out")
    first.make(RunBoard())
    for thread in threads:
        thread.join()
    with pytest.raises(Failure, match="1 of 2 runs failed .seed-0: ended by signal SIGKILL"):
        first.require_whole()
    assert "goes on from" in (tmp_path / "out" / "logs" / "seed-1.log").read_text()
    found = Reproduction(trials, settings, work, folder=tmp_path / "out").make(RunBoard())["rows"]
    assert "goes on from" in (tmp_path / "out" / "logs" / "seed-0.log").read_text()
    numbers = ("epochs", "train_error", "test_error", "failed")
    assert [[row[n] for n in numbers] for row in found] == [
        [row[n] for n in numbers] for row in wanted
    ]
