"""``eqprop reproduce speed``: the time to equal test error."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from eqprop.figures import SPEED, SpeedSettings
from eqprop.figures.run import PlannedRun
from eqprop.settings import PRESETS


class Trained:
    """A run that came to these test errors, so many seconds an epoch."""

    failed = None
    machine = "a core, 1 thread"

    def __init__(self, planned: PlannedRun, seconds: float, errors: Sequence[float]) -> None:
        self.planned, self.name, self.wanted = planned, planned.name, 3
        self.history = [{"seconds": seconds, "test_error": error} for error in errors]
        self.finished = len(errors) == 3


def rows(settings: SpeedSettings, *trained: tuple[float, Sequence[float]]) -> list[dict[str, Any]]:
    runs: list[Any] = [
        Trained(run, *of) for run, of in zip(SPEED.runs(settings), trained, strict=True)
    ]
    return SPEED.result(settings, runs)["rows"]


def test_the_default_is_one_hidden_layer_as_published_and_by_our_own_recipes() -> None:
    runs = SPEED.runs(SpeedSettings())
    assert [run.preset for run in runs] == ["eb-1h", "p-1h", "eb-1h-fast", "p-1h-fast"]
    for run in runs:
        assert run.experiment == PRESETS[run.preset].experiment.override({"threads": 1})
    quick = SPEED.runs(SpeedSettings(quick=True))
    assert {run.experiment.epochs for run in quick} == {2}
    # Rates that fall over two epochs are no beginning of those that fall over twelve.
    names = [run.name for run in quick]
    assert names[1] == runs[1].name == "p-1h-seed-0"
    assert names[3] == "p-1h-fast-2-epochs-seed-0" != runs[3].name


def test_seconds_count_up_to_the_first_epoch_at_the_error_that_all_come_to() -> None:
    slow, fast = rows(
        SpeedSettings(recipe=("published",)), (10.0, (9.0, 5.0, 6.0)), (2.0, (8.0, 4.5, 4.0))
    )
    assert slow["error"] == fast["error"] == 5.0
    assert (slow["epochs_to_error"], slow["seconds_to_error"], slow["factor"]) == (2, 20.0, 1.0)
    assert (fast["epochs_to_error"], fast["seconds_to_error"], fast["factor"]) == (2, 4.0, 5.0)
    assert (slow["last_error"], fast["seconds_an_epoch"]) == (6.0, 2.0)


def test_of_several_seeds_each_comes_to_it_in_its_own_time() -> None:
    slow, fast = rows(
        SpeedSettings(recipe=("published",), seeds=(0, 1)),
        (10.0, (9.0, 5.0, 5.0)),
        (10.0, (4.0, 4.0, 4.0)),
        (1.0, (5.0, 5.0, 3.0)),
        (3.0, (9.0, 8.0, 2.0)),
    )
    assert slow["error"] == 5.0
    assert (slow["seconds_to_error"], fast["seconds_to_error"]) == ((20 + 10) / 2, (1 + 9) / 2)
    assert fast["epochs_to_error"] == 2
    assert fast["factor"] == pytest.approx(3.0)


def test_what_never_comes_to_an_error_that_was_asked_for_has_no_time() -> None:
    slow, fast = rows(
        SpeedSettings(recipe=("published",), error=4.2),
        (10.0, (9.0, 5.0, 6.0)),
        (2.0, (8.0, 4.5, 4.0)),
    )
    assert (slow["seconds_to_error"], slow["factor"], fast["factor"]) == (None, None, None)
    assert fast["seconds_to_error"] == 6.0


def test_nothing_is_compared_before_all_of_a_depth_are_done(tmp_path: Path) -> None:
    settings = SpeedSettings(recipe=("published",))
    found = rows(settings, (10.0, (9.0, 5.0)), (2.0, (8.0, 4.5, 4.0)))
    assert all(row["error"] is row["factor"] is None for row in found)
    assert (found[0]["last_error"], found[1]["last_error"]) == (None, 4.0)
    # What there is is drawn nevertheless.
    SPEED.draw(settings, {"rows": found}, tmp_path)
    assert ElementTree.parse(tmp_path / "speed.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "speed.png").exists()
