"""``eqprop reproduce table-1`` and ``table-cep``: which runs they take, and what they say."""

import csv
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from eqprop.errors import UsageError
from eqprop.figures import (
    TABLE_1,
    TABLE_CEP,
    PublishedTable,
    Reproduction,
    Table,
    Table1Settings,
    TableCepSettings,
    TableSettings,
    Work,
)
from eqprop.figures.run import PlannedRun
from eqprop.settings import PRESETS
from linux_processes import children, needs_proc

Command = Callable[..., tuple[int, str, str]]
PNG = b"\x89PNG\r\n\x1a\n"


def test_the_default_is_what_was_published() -> None:
    runs = TABLE_1.runs(Table1Settings())
    assert len({run.name for run in runs}) == len(runs) == 6 * 2
    for run in runs:
        published = PRESETS[run.preset].experiment
        estimator = "bptt" if "bptt" in run.name else "ep"
        assert run.experiment == replace(published, threads=1, estimator=estimator)
    continual = TABLE_CEP.runs(TableCepSettings())
    assert [run.experiment for run in continual] == [
        replace(PRESETS[name].experiment, threads=1)
        for name in ("p-1h", "p-2h", "c-ep-1h", "c-ep-2h", "c-vf-1h", "c-vf-2h")
    ]


def test_our_own_recipes_are_for_the_same_networks() -> None:
    for table, settings in ((TABLE_1, Table1Settings), (TABLE_CEP, TableCepSettings)):
        runs = table.runs(settings(recipe=("own",), seeds=(0, 1)))
        assert len({run.name for run in runs}) == len(runs) > 6
        for run in runs:
            own, of = run.experiment, PRESETS[run.preset.removesuffix("-fast")].experiment
            for name in ("dataset", "network", "hidden", "channels", "activation"):
                assert getattr(own, name) == getattr(of, name)
            assert (own.weight_angle is None) == (of.weight_angle is None)


def test_quick_is_one_epoch_of_our_own_recipes_unless_asked_otherwise() -> None:
    quick = TABLE_1.runs(Table1Settings(quick=True))
    assert {run.experiment.epochs for run in quick} == {1}
    assert all(run.preset.endswith("-fast") for run in quick)
    other = TABLE_1.runs(Table1Settings(quick=True, epochs=3, recipe=("published",)))
    assert {run.experiment.epochs for run in other} == {3}
    assert {run.preset for run in other} == {"eb-1h", "eb-2h", "p-1h", "p-2h", "p-3h", "p-conv"}


class Finished:
    """A run that is done, with these errors."""

    failed = None
    machine = "a core, 1 thread"

    def __init__(self, planned: PlannedRun, test: float | None, train: float = 0.5) -> None:
        self.name, self.wanted = planned.name, planned.experiment.epochs
        self.finished = test is not None
        self.history = [{"test_error": test, "train_error": train}] if self.finished else []
        self.row = {"name": self.name, "seconds": 90.0}


def lines(table: PublishedTable, settings: TableSettings, *errors: float | None) -> list[Any]:
    """What the table says if its runs end with these errors."""
    runs: list[Any] = [
        Finished(run, error) for run, error in zip(table.runs(settings), errors, strict=True)
    ]
    return table.result(settings, runs)["lines"]


def test_a_line_has_mean_and_standard_deviation_over_the_seeds() -> None:
    settings = Table1Settings(rows=("p-1h",), estimators=("ep",), seeds=(0, 1, 2))
    (line,) = lines(TABLE_1, settings, 1.9, 2.0, 2.2)
    mean = (1.9 + 2.0 + 2.2) / 3
    deviation = math.sqrt(sum((e - mean) ** 2 for e in (1.9, 2.0, 2.2)) / 2)
    assert line["here"] == f"{mean:.2f} ± {deviation:.2f} (0.50)"
    assert line["published"] == "2.00 ± 0.13 (0.20)"
    assert (line["n"], line["epochs"], line["seconds"], line["remark"]) == (3, 30, 90, "")
    # Those that are not done do not count.
    (line,) = lines(TABLE_1, settings, 1.9, None, 2.1)
    assert (line["n"], line["test_errors"]) == (2, [1.9, 2.1])
    (line,) = lines(TABLE_1, settings, None, None, None)
    assert (line["n"], line["here"], line["seconds"], line["remark"]) == (0, None, None, "")


@pytest.mark.parametrize(
    ("error", "remark"),
    [(2.25, ""), (2.27, "worse"), (1.75, ""), (1.73, "better")],
)
def test_what_lies_beyond_two_published_standard_deviations_is_said(
    error: float, remark: str
) -> None:
    (line,) = lines(TABLE_1, Table1Settings(rows=("p-1h",), estimators=("ep",)), error)
    assert line["remark"] == remark


def test_what_was_cut_short_is_no_comparison() -> None:
    settings = Table1Settings(rows=("p-1h",), estimators=("ep",), epochs=3)
    (line,) = lines(TABLE_1, settings, 9.9)
    assert line["remark"] == "3 of 30 epochs"
    settings = replace(settings, epochs=None, dataset="digits")
    (line,) = lines(TABLE_1, settings, 9.9)
    assert line["remark"] == "digits: no comparison"
    own = Table1Settings(rows=("p-conv",), recipe=("own",), epochs=8)
    assert [line["remark"] for line in lines(TABLE_1, own, 1.0, 1.0)] == ["", "8 of 20 epochs"]


def test_a_line_that_cannot_be_had_says_why() -> None:
    settings = Table1Settings(rows=("eb-2h", "p-1h", "eb-1h"), recipe=("own",))
    found = lines(TABLE_1, settings, 1.9, 1.6, 2.1, 2.0)
    assert [(line["network"], line["algorithm"], line["remark"]) for line in found] == [
        ("eb-2h", "EP", ""),
        ("eb-2h", "BPTT", "there is no recipe of our own for BPTT"),
        ("p-1h", "EP", "better"),
        ("p-1h", "BPTT", ""),
        ("eb-1h", "EP", ""),
        ("eb-1h", "BPTT", "there is no recipe of our own for BPTT"),
    ]
    nothing = Table1Settings(rows=("eb-2h",), recipe=("own",), estimators=("bptt",))
    with pytest.raises(UsageError, match=r"expected something to train.*no recipe of our own"):
        Reproduction("table-1", nothing, Work()).plan(None)  # type: ignore[arg-type]


def test_tables_are_written_as_markdown_and_csv() -> None:
    rows = [{"a": "x|y", "b": 1.5, "c": None}, {"a": "z", "b": 20.0, "c": None}]
    table = Table(rows, {"name": "a", "error": "b", "": "c"})
    assert table.markdown == (
        "| name | error |  |\n| --- | --: | --: |\n| x\\|y | 1.50 | – |\n| z | 20.00 | – |\n"
    )
    assert list(csv.reader(table.csv.splitlines())) == [
        ["name", "error", "c"], ["x|y", "1.5", ""], ["z", "20.0", ""],
    ]  # fmt: skip


def test_the_table_is_made_in_one_command_planned_drawn_and_gone_on_with(run: Command) -> None:
    words = ["reproduce", "table-cep", "--dataset", "digits", "--rows", "p-1h", "c-vf-1h"]
    words += ["--epochs", "1", "--seeds", "0", "1", "--workers", "2"]
    status, out, _ = run(*words, "--dry-run")
    assert status == 0
    assert not Path("runs").exists()
    assert re.search(r"c-vf-1h-seed-1 +1 +0 +[\d.]+ \w+ +[\d.]+ \w+\n", out)
    assert re.search(r"4 runs; left about [\d.]+ s, 2 at a time", out)
    status, out, err = run(*words)
    assert status == 0
    assert "4 runs; left about" in err
    assert re.search(r"p-1h +EP +2.00 ± 0.13 \(0.20\) +[\d.]+ ± [\d.]+ \([\d.]+\) +2 +1 ", out)
    assert re.search(r"\nTrained on .*, 1 thread, eqprop .*, torch .*, Python 3", out)
    folder = Path("runs/table-cep-digits")
    found = json.loads((folder / "table-cep.json").read_text())
    assert [line["n"] for line in found["lines"]] == [2, 2]
    assert all(len(line["test_errors"]) == 2 for line in found["lines"])
    assert "| c-vf-1h | C-VF | 2.43 ± 0.08 (0.77) |" in (folder / "table-cep.md").read_text()
    (header, *rows) = csv.reader((folder / "table-cep.csv").read_text().splitlines())
    assert header[:5] == ["network", "by", "published", "as published", "n"]
    assert header[-1] == "machine, published recipe"
    assert [row[4] for row in rows] == ["2", "2"]
    assert all("1 thread" in row[-1] for row in rows)
    assert (folder / "errors.png").read_bytes().startswith(PNG)
    assert ElementTree.parse(folder / "errors.svg").getroot().tag.endswith("svg")
    # The same again has nothing left to do.
    status, out, _ = run(*words, "--dry-run")
    assert "4 runs, 4 of them done: nothing is left to train" in out
    status, out, _ = run(*words, "--dry-run", "--json")
    assert [(row["done"], row["left"]) for row in json.loads(out)] == [(1, 0.0)] * 4
    longer = [*words[: words.index("--epochs") + 1], "3", *words[words.index("--epochs") + 2 :]]
    for row in json.loads(run(*longer, "--dry-run", "--json")[1]):
        assert (row["epochs"], row["done"]) == (3, 1)
        assert row["left"] == pytest.approx(2 * row["epoch"])


def test_a_plan_goes_by_what_a_mini_batch_takes_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []
    monkeypatch.setattr(
        "eqprop.runs.seconds_per_batch", lambda of, _: timed.append(of) or len(of.hidden) * 0.01
    )
    settings = TableCepSettings(rows=("p-1h", "p-2h"), dataset="digits", seeds=(0, 1, 2), epochs=4)
    reproduction = Reproduction("table-cep", settings, Work(workers=2), folder=tmp_path / "out")

    class Quiet:
        def measuring(self, total: int, what: str) -> Any:
            from contextlib import nullcontext

            assert (total, what) == (2, "timing")
            return nullcontext(lambda _: None)

    torch.set_num_threads(2)
    plan = reproduction.plan(Quiet())  # type: ignore[arg-type]
    # Seeds alone differ in nothing that takes time.
    assert len(timed) == 2
    assert torch.get_num_threads() == 1
    batches = -(-1437 // 20)
    assert [row["epoch"] for row in plan] == pytest.approx(
        [0.01 * batches] * 3 + [0.02 * batches] * 3
    )
    assert [row["left"] for row in plan] == pytest.approx([4 * row["epoch"] for row in plan])


@pytest.mark.exhaustive
@needs_proc
def test_ten_random_kills_of_the_command_and_its_runs_change_nothing_of_the_table(
    tmp_path: Path,
) -> None:
    words = "reproduce table-1 --dataset digits --rows p-1h --estimators ep --seeds 0 1 2"
    words += " --epochs 24 --workers 2 --json"

    def command(folder: str) -> list[str]:
        return [sys.executable, "-m", "eqprop", *words.split(), "--out", str(tmp_path / folder)]

    def table(folder: str) -> dict[str, Any]:
        done = subprocess.run(command(folder), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        # What a run took is its own, and so is when it was.
        lines = [{**line, "seconds": None} for line in json.loads(done.stdout)["lines"]]
        written = (tmp_path / folder / "table-1.csv").read_text()
        seconds = re.compile(r"(?<=,24,)[\d.]+(?=,)")
        return {"lines": lines, "csv": seconds.sub("s", written)}

    def epochs() -> int:
        files = (tmp_path / "killed").glob("runs/*/metrics.jsonl")
        return sum(path.read_text().count("\n") for path in files)

    draw, killed, process = random.Random(1), {True: 0, False: 0}, None
    try:
        for _ in range(10):
            # Some have an epoch more to do, some are hit within the first.
            until, deadline = epochs() + draw.randint(0, 4), time.monotonic() + 100
            while True:
                if process is None or process.poll() is not None:
                    said = subprocess.DEVNULL
                    process = subprocess.Popen(command("killed"), stdout=said, stderr=said)
                runs = children(process.pid)
                if runs and epochs() >= until:
                    break
                assert time.monotonic() < deadline, "nothing is left to kill, or nothing goes on"
                time.sleep(0.02)
            time.sleep(draw.uniform(0, 0.3))
            itself = draw.random() < 0.5
            with suppress(ProcessLookupError):
                os.kill(process.pid if itself else draw.choice(runs), signal.SIGKILL)
                killed[itself] += 1
            if itself:
                process.wait()
        assert process is not None
        process.wait(timeout=100)
    finally:
        if process is not None:
            process.kill()
    assert min(killed.values()) >= 3, "of the command and of runs"
    assert table("killed") == table("undisturbed")
