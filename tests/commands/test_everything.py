"""``eqprop reproduce all``: every figure, one after the other, and every run once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eqprop.cli.board import RunBoard
from eqprop.data.dataset import Dataset
from eqprop.errors import Failure
from eqprop.figures import (
    AllSettings,
    Everything,
    Figure1c,
    PublishedTable,
    Speed,
    Work,
)
from eqprop.registries import FIGURES
from eqprop.settings.experiment import Experiment

Command = Callable[..., tuple[int, str, str]]


def made(folder: Path, trainer: tuple[str, ...], **settings: Any) -> Everything:
    given: dict[str, Any] = {"recipe": ("published",), "quick": True, **settings}
    chosen = AllSettings(items=("speed", "fig-1c"), dataset="digits", **given)
    return Everything(chosen, Work(workers=2), folder=folder, trainer=trainer)


@pytest.fixture
def only_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured, timed or drawn."""
    angles = {"degrees": 5.0, "whole_degrees": 6.0, "premise_holds": True}
    monkeypatch.setattr(Figure1c, "measure", lambda *_: angles)
    monkeypatch.setattr("eqprop.runs.seconds_per_batch", lambda *_: 0.01)
    for figure in (Figure1c, Speed, PublishedTable):
        monkeypatch.setattr(figure, "draw", lambda *_: None)


def trained(folder: Path) -> list[str]:
    calls = folder / "calls"
    found = [json.loads(line)["name"] for line in calls.read_text().splitlines()]
    calls.unlink()
    return sorted(found)


@pytest.mark.usefixtures("only_trained")
def test_a_run_that_several_figures_take_is_trained_once(
    tmp_path: Path, trainer: tuple[str, ...]
) -> None:
    folder = tmp_path / "out"
    everything = made(folder, trainer)
    plan = everything.plan(RunBoard())
    names = [row["run"] for row in plan]
    assert len(set(names)) == len(names)
    assert not folder.exists()
    found = everything.make(RunBoard())
    everything.require_whole()
    assert list(found) == ["fig-1c", "speed"]
    # The longer of the two goes on with the shorter: `p-1h` has one epoch in fig-1c, two in speed.
    once = trained(tmp_path)
    assert sorted({*once}) == sorted(names)
    assert [name for name in {*once} if once.count(name) > 1] == ["p-1h-seed-0"]
    assert next(row["epochs"] for row in plan if row["run"] == "p-1h-seed-0") == 2
    assert {path.name for path in (folder / "runs").iterdir()} == set(names)
    assert json.loads((folder / "all.json").read_text()) == found
    said = (folder / "all.md").read_text()
    assert f"## speed\n\n{FIGURES['speed']}\n" in said
    for name in found:
        assert json.loads((folder / name / f"{name}.json").read_text()) == found[name]
    # The same again has nothing left to do.
    again = made(folder, trainer)
    assert all(row["done"] == row["epochs"] for row in again.plan(RunBoard()))
    again.make(RunBoard())
    assert not (tmp_path / "calls").exists()


@pytest.mark.usefixtures("only_trained")
def test_what_fails_in_one_figure_leaves_the_others_alone(
    tmp_path: Path, trainer: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", "c-vf-1h-angle-90-seed-0")
    everything = made(tmp_path / "out", trainer)
    found = everything.make(RunBoard())
    assert all(row["last_error"] is not None for row in found["speed"]["rows"])
    with pytest.raises(Failure, match=r"fig-1c: 1 of 7 runs failed .*angle-90"):
        everything.require_whole()


def test_a_folder_of_something_else_is_refused_in_a_line(run: Command) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    words = ("reproduce", "all", "--items", "speed", "--dataset", "digits", "--out", "mine")
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert "mine: expected a new or empty folder" in err
    assert "notes.txt" in err
    assert err.count("\n") == 1
    assert run("reproduce", "all", "--items", "fig-2")[0] == 2


def test_figures_that_measure_in_float64_stand_beside_those_that_train_in_float32(
    tmp_path: Path, trainer: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []

    def time(of: Experiment, dataset: Dataset) -> float:
        timed.append((of.dtype, str(dataset.train.images.dtype).removeprefix("torch.")))
        return 0.01

    monkeypatch.setattr("eqprop.runs.seconds_per_batch", time)
    chosen = AllSettings(items=("fig-1b", "speed"), dataset="digits", quick=True)
    Everything(chosen, Work(workers=1), folder=tmp_path / "out", trainer=trainer).plan(RunBoard())
    assert {*timed} == {("float32", "float32")}


def test_its_settings_are_those_that_each_figure_has() -> None:
    settings = AllSettings(seeds=(3, 4), recipe=("own",), quick=True)
    for name in FIGURES:
        of = settings.of(FIGURES.load(name))
        assert getattr(of, "quick") is True  # noqa: B009 - whatever its settings are
        assert getattr(of, "seeds", (3, 4)) == (3, 4)
        assert getattr(of, "seed", 3) == 3
        assert getattr(of, "recipe", "own") in ("own", ("own",))
    both = AllSettings(recipe=("own", "published"))
    assert both.of(FIGURES.load("table-1")).recipe == ("own", "published")  # type: ignore[attr-defined]
    assert both.of(FIGURES.load("fig-1c")).recipe is None  # type: ignore[attr-defined]
