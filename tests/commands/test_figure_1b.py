"""``eqprop reproduce fig-1b``: Theorem 1 step by step, in networks that are not trained."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from eqprop.figures import FIGURE_1B, Figure1b, Figure1bSettings
from eqprop.settings import THEOREM_PRESETS

Command = Callable[..., tuple[int, str, str]]
WORDS = ("reproduce", "fig-1b", "--dataset", "digits", "--rows", "eb-1h", "c-ep-1h", "--quick")


def test_its_networks_are_those_of_the_theorem_before_training() -> None:
    runs = FIGURE_1B.runs(Figure1bSettings())
    assert [run.name for run in runs] == ["eb-1h", "c-ep-1h", "p-1h", "p-conv"]
    for run in runs:
        assert not run.trained
        entry, found = THEOREM_PRESETS[run.name], run.experiment
        assert entry.experiment is not None
        for name in ("network", "hidden", "channels", "activation", "epsilon", "clip"):
            assert getattr(found, name) == getattr(entry.experiment, name)
        for name in ("free_steps", "nudged_steps", "beta"):
            assert getattr(found, name) == getattr(entry.settings, name)
        assert found.batch_size == 20
    continual = next(run.experiment for run in runs if run.name == "c-ep-1h")
    assert (continual.estimator, continual.learning_rates) == ("c-ep", (2e-5, 2e-5))


def test_every_network_of_the_theorem_with_layers_on_mnist_can_be_a_row() -> None:
    rows: Any = tuple(
        name for name in THEOREM_PRESETS if name not in ("digits", "digits-eb", "toy")
    )
    runs = FIGURE_1B.runs(Figure1bSettings(rows=rows, quick=True))
    assert {run.name for run in runs} == set(rows)
    untied = next(run.experiment for run in runs if run.name == "c-vf-1h")
    assert untied.weight_angle == 0.0
    assert all(run.experiment.batch_size == 1 for run in runs)


def test_ep_follows_bptt_in_real_time_and_less_so_where_weights_move_meanwhile(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, err = run(*WORDS)
    assert status == 0
    assert "2 networks to look at; nothing is trained" in err
    assert re.search(r"real time, η = 0 .* holds\n", out)
    folder = Path("runs/fig-1b-digits")
    still, moving = json.loads((folder / "fig-1b.json").read_text())["rows"]
    # Exact but for a finite β = 0.001, and of that order.
    assert 0 < still["states_error"] < 0.01
    assert 0 < still["parameters_error"] < 0.01
    assert still["premise"] == "holds"
    assert moving["parameters_error"] > 5 * still["parameters_error"]
    for row in (still, moving):
        for process in row["processes"].values():
            ep, bptt = ([v for step in process[of] for v in step] for of in ("ep", "bptt"))
            assert len(ep) == len(bptt) == row["K"] * 3
            worst = max(abs(u - v) for u, v in zip(ep, bptt, strict=True))
            assert worst <= max(1, 1000 * row["eta"] / 2e-5) * 0.02 * max(map(abs, bptt))
    assert not (folder / "runs").exists()
    assert ElementTree.parse(folder / "fig-1b.svg").getroot().tag.endswith("svg")
    assert (folder / "fig-1b.png").stat().st_size > 10_000
    (header, *rows) = csv.reader((folder / "fig-1b.csv").read_text().splitlines())
    assert [row[header.index("η")] for row in rows] == ["0.0", "2e-05"]
    status, out, _ = run(*WORDS, "--dry-run")
    assert status == 0
    assert "nothing is trained" in out
    # What is measured stays; what somebody damaged is measured again.
    theorem = folder / "theorems" / "eb-1h.json"
    stored = json.loads(theorem.read_text())
    theorem.write_text(json.dumps({**stored, "processes": {}}))
    again: list[str] = []
    measure = Figure1b.measure

    def watched(self: Figure1b, planned: Any, dataset: Any) -> dict[str, Any]:
        again.append(planned.name)
        return measure(self, planned, dataset)

    monkeypatch.setattr(Figure1b, "measure", watched)
    assert run(*WORDS)[0] == 0
    assert again == ["eb-1h"]
    assert json.loads(theorem.read_text()) == stored
