"""One training in several processes, as a person meets it who starts them with torchrun."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from eqprop.cli import train
from eqprop.core import counted
from eqprop.runs.folder import RunFolder
from eqprop.settings.work import available_cores
from eqprop.training.checkpoint import Checkpoint
from eqprop.training.loop import Running

Run = Callable[..., tuple[int, str, str]]
FEW = "--hidden 12 --free-steps 6 --nudged-steps 3 --dtype float64 --batch-size 100 --shift 1"
FEW += " --epochs 3 --schedule cosine --nudging random-sign"
"""15 mini-batches an epoch, of which the last has 37 samples; plain gradient descent."""

SCRIPT = """
import os, sys, time
from eqprop.cli import train
from eqprop.estimators.ep import EquilibriumPropagation as EP
from eqprop.core.stepping import NonFiniteError

told, estimate = train.Display.batch, EP.estimate

def batch(self, running):
    done = 15 * (running.epoch - 1) + running.batch
    with open(f"rank-{os.environ['RANK']}", "w") as file:
        file.write(f"{os.getpid()} {done}")
    if done == WAITS:
        time.sleep(0.5)
    told(self, running)

calls = []
def failing(self, *given):
    calls.append(1)
    if os.environ["RANK"] == "1" and len(calls) == FAILS:
        raise NonFiniteError("the state of hidden layer 1 stopped being finite")
    return estimate(self, *given)

train.Display.batch, EP.estimate = batch, failing
from eqprop.cli.main import main
sys.exit(main())
"""
"""The command, which writes how far it has come, takes its time at one mini-batch, or fails."""


def torchrun(*words: object, waits: int = 0, fails: int = 0) -> subprocess.Popen[str]:
    """Two processes, each of which writes its own errors."""
    script = SCRIPT.replace("WAITS", str(waits)).replace("FAILS", str(fails))
    Path("command.py").write_text(script)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(
        [*launcher, "command.py", "train", *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "distributed.md"


def test_the_loop_of_ones_own_in_the_documentation_is_the_same_in_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.search(r"<!-- runs alone -->\n```python\n(.*?)```", PAGE.read_text(), re.S)
    assert found
    Path("train.py").write_text(found[1])
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    one, two = (
        subprocess.run(
            [sys.executable, *launcher, "train.py"],
            check=True,
            capture_output=True,
            text=True,
            timeout=90,
        ).stdout
        for launcher in ([], several)
    )
    errors = [float(error) for error in re.findall(r"error ([\d.]+) %", one)]
    assert len(errors) == 3
    assert errors[-1] < 15 < errors[0]
    # The first process alone says it, of the samples of both.
    assert two == one


def ended(process: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
    """Exit status, output, and what we have said ourselves, of all lines that were."""
    try:
        out, err = process.communicate(timeout=90)
    finally:
        process.kill()
    assert "Traceback (most recent call last):\n  File" not in err.split("torch/distributed")[0]
    return process.returncode, out, [line for line in err.splitlines() if "eqprop: " in line]


def at(rank: int, batch: int) -> int:
    """The number of the process of this rank, once it has come to a mini-batch."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if (path := Path(f"rank-{rank}")).exists() and (said := path.read_text().split()):
            number, done = map(int, said)
            if done >= batch:
                return number
        time.sleep(0.005)
    raise AssertionError("it never came there")


def history(folder: str) -> list[dict[str, Any]]:
    lines = Path(folder, "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0.0, "weight_angles": 0.0} for line in lines]


def assert_alike(one: str, other: str) -> None:
    """The same but for rounding."""
    a, b = (Checkpoint.load(RunFolder(Path(name)).checkpoint) for name in (one, other))
    assert a.model.keys() == b.model.keys()
    for name, value in a.model.items():
        torch.testing.assert_close(value, b.model[name], rtol=1e-7, atol=1e-9)
    assert torch.equal(a.generator, b.generator)
    assert len(history(one)) == len(history(other)) == 3
    for left, right in zip(history(one), history(other), strict=True):
        assert left == pytest.approx(right)


@pytest.fixture
def whole(run: Run) -> str:
    """What one process learns."""
    assert run("train", *FEW.split(), "--out", "whole")[0] == 0
    return "whole"


def test_two_processes_learn_what_one_does_and_the_first_shows_it(whole: str) -> None:
    process = torchrun(*FEW.split(), "--threads", "1024", "--out", "r", "--json")
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert [json.loads(line)["epoch"] for line in out.splitlines()] == [3]
    shown = [line for line in err.splitlines() if line.startswith(("digits", "train", "epoch"))]
    assert [line.split()[:2] for line in shown] == [
        ["digits", "with"],
        ["training", "in"],
        *(["epoch", f"{epoch}/3"] for epoch in (1, 2, 3)),
    ]
    assert_alike("r", whole)
    environment = json.loads(Path("r/config.json").read_text())["environment"]
    each = max(1, available_cores() // 2)
    assert (environment["processes"], environment["threads"]) == (2, each)
    assert err.count(f"computing with {counted(each, 'CPU thread')} in each process inst") == 1
    assert Path("r/curves.png").exists()


def test_told_to_stop_one_process_stops_all_and_one_goes_on(run: Run, whole: str) -> None:
    process = torchrun(*FEW.split(), "--out", "r", waits=9)
    os.kill(at(1, 9), signal.SIGTERM)
    status, out, said = ended(process)
    assert (status, out) == (1, ""), "the launcher's own status"
    (line,) = said
    found = re.fullmatch(
        r"eqprop: stopped in epoch 1 of 3 after (\d+) of 15 mini-batches, and all of it is kept; "
        r"go on with: torchrun --nproc-per-node 2 -m eqprop train --resume r",
        line,
    )
    assert found, line
    kept = Checkpoint.load("r").unfinished
    assert kept is not None
    assert kept.batch == int(found[1])
    # Neither has begun with another one.
    assert {Path(f"rank-{rank}").read_text().split()[1] for rank in (0, 1)} == {str(kept.batch - 1)}
    assert run("train", "--resume", "r")[0] == 0
    assert_alike("r", whole)


def test_two_processes_go_on_where_one_has_left_and_one_where_the_first_was_killed(
    run: Run, whole: str
) -> None:
    def interrupted(_: object, running: Running) -> None:
        if running.batch == 5:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Display, "batch", interrupted)
        assert run("train", *FEW.split(), "--out", "r")[0] == 143
    left = Checkpoint.load("r").unfinished
    assert left is not None
    assert left.batch == 6
    process = torchrun("--resume", "r", waits=20)
    os.kill(at(0, 20), signal.SIGKILL)
    status, _, said = ended(process)
    assert status == 1
    (line,) = said
    for part in (
        "eqprop: error: epoch 2: process 1 of 2: expected all to go on together, but another one",
        "the state after 1 epoch is kept in r/checkpoint/last.safetensors",
        "go on with: torchrun --nproc-per-node 2 -m eqprop train --resume r",
    ):
        assert part in line
    assert run("train", "--resume", "r")[0] == 0
    assert_alike("r", whole)


def test_what_fails_in_one_process_is_said_once_and_ends_all(run: Run, whole: str) -> None:
    process = torchrun(*FEW.split(), "--out", "r", fails=20)
    status, _, said = ended(process)
    assert status == 1
    assert said == [
        "eqprop: error: epoch 2: the state of hidden layer 1 stopped being finite (the state after "
        "1 epoch is kept in r/checkpoint/last.safetensors)"
    ]
    assert run("train", "--resume", "r")[0] == 0
    assert_alike("r", whole)


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_launcher_told_to_stop_stops_all_and_nothing_is_lost(
    run: Run, whole: str, number: signal.Signals
) -> None:
    process = torchrun(*FEW.split(), "--out", "r", waits=9)
    at(1, 9)
    process.send_signal(number)
    status, _, said = ended(process)
    assert status != 0
    (line,) = said
    assert "stopped in epoch 1 of 3 after" in line
    process = torchrun("--resume", "r")
    assert ended(process)[0] == 0
    assert_alike("r", whole)


@pytest.mark.exhaustive
def test_a_process_that_is_killed_is_said_once_by_another(run: Run, whole: str) -> None:
    process = torchrun(*FEW.split(), "--out", "r", waits=20)
    os.kill(at(1, 20), signal.SIGKILL)
    status, _, (line,) = ended(process)
    assert status == 1
    assert line.startswith("eqprop: error: epoch 2: process 0 of 2: expected all to go on togeth")
    process = torchrun("--resume", "r")
    assert ended(process)[0] == 0
    assert_alike("r", whole)


@pytest.fixture(params=[0, 1])
def rank(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """This process as one of two, whose launcher cannot be reached."""
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in {**told, "RANK": str(request.param)}.items():
        monkeypatch.setenv(name, value)
    return request.param


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["presets"], "presets: expected one process, got 2, which torchrun has started; only tr"),
        (["train", "--auto-threads"], "--auto-threads: expected one process, got 2"),
        (["train", "--beta", "0"], "beta = 0.0: expected"),
        (["train", "--device", "cuda:3"], "device = cuda:3: expected cpu, or cuda, of which every"),
        (["dance"], "dance"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_bad_usage_is_said_by_the_first_process_alone(
    run: Run, rank: int, words: list[str], says: str
) -> None:
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    if rank:
        assert err == ""
    else:
        assert err.startswith("eqprop: error: ")
        assert err.count("\n") == 1
        assert says in err


def test_help_is_shown_once(run: Run, rank: int) -> None:
    status, out, err = run("train", "--help")
    assert (status, err) == (0, "")
    assert bool(out) == (rank == 0)
