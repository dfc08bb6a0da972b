"""How samples settle, as a person sees it: the flag, the metrics, the warning, the pictures.

The network that is seen has one hidden unit h and inhibits itself::

    h ← ρ(1 − 2 Σ o),  oᵢ ← ρ(1 − 2 h)        ρ clips to [0, 1]

Whatever it is shown, all units go from 0 to 1 and back for ever where they move at once. Where
layers move in turn, h comes to 1 and o to 0 in one step, and stay.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from eqprop import runs
from eqprop.cli.main import main
from eqprop.pictures import curves
from eqprop.runs import learner
from eqprop.settings.experiment import Experiment
from eqprop.training.loop import Metrics

Run = Callable[..., tuple[str, str]]

WORDS = ["--hidden", 1, "--activation", "hard-sigmoid", "--learning-rates", 0, 0, "--epochs", 2]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder, on the network above: standard output and error."""
    monkeypatch.chdir(tmp_path)
    drawn = learner.build_network

    def inhibiting(*given: Any, **named: Any) -> Any:
        network = drawn(*given, **named)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.fill_(1.0 if name.endswith("bias") else 0.0)
                if name == "connections.1.weight":
                    parameter.fill_(-2.0)
        return network

    monkeypatch.setattr(learner, "build_network", inhibiting)

    def command(*words: object) -> tuple[str, str]:
        assert main([str(word) for word in words]) == 0
        captured = capsys.readouterr()
        return captured.out, captured.err

    return command


def metrics(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


# The flag


@pytest.mark.parametrize("flag", ["--settle", "--tolerance"])
def test_both_flags_mean_the_setting_that_runs_store(run: Run, flag: str) -> None:
    run("train", *WORDS, "--updates", "alternating", flag, "0.02", "--out", "r")
    assert json.loads(Path("r/config.json").read_text())["experiment"]["tolerance"] == 0.02
    printed = json.loads(run("evaluate", "r", flag, "none", "--json")[0])
    assert (printed["steps"], printed["most_steps"]) == (20, 20)


def test_the_words_of_the_setting_are_its_flag() -> None:
    assert Experiment.words("tolerance", 0.02) == ["--settle=0.02"]
    assert Experiment.words("tolerance", None) == ["--settle=none"]
    assert Experiment.words("free_steps", 3) == ["--free-steps=3"]


def test_a_run_that_is_resumed_refuses_it_by_its_flag(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run("train", *WORDS, "--out", "r")
    assert main(["train", "--resume", "r", "--settle", "0.1"]) == 2
    assert "--settle: expected no setting but --epochs" in capsys.readouterr().err


# What goes to and fro


def of_settling(err: str) -> list[str]:
    """What is said of epochs and settling; that such a network can but guess is said too."""
    lines = (line for line in err.splitlines() if line.startswith(("epoch", "warning")))
    return [line for line in lines if "guessing" not in line]


def test_a_network_that_goes_to_and_fro_is_reported_and_warned_of(run: Run) -> None:
    _, err = run("train", *WORDS, "--out", "r")
    for epoch in metrics("r"):
        shares = ("restless", "test_restless", "test_cycling")
        assert [epoch[name] for name in shares] == [100, 100, 100]
        assert (epoch["free_steps"], epoch["most_free_steps"]) == (20, 20)
    lines = of_settling(err)
    assert [line.split()[0] for line in lines] == ["epoch", "warning:", "epoch"]
    assert "100.0 % not at rest" in lines[0]
    assert lines[1] == (
        "warning: 100.0 % of the test samples go to and fro between two states (two-cycles); "
        "try --updates alternating or smaller learning rates"
    )
    out, _ = run("evaluate", "r")
    assert "steps of the free phase: 20 each\n100.00 % of the samples did not come to rest" in out
    assert "100.00 % go to and fro between two states (two-cycles)" in out
    found = json.loads(run("evaluate", "r", "--json")[0])
    assert (found["restless"], found["cycling"]) == (100, 100)


def test_of_a_one_sided_nudge_what_is_left_of_the_free_phase_is_warned_of_too(run: Run) -> None:
    _, err = run("train", *WORDS, "--nudging", "one-sided", "--settle", "0.1", "--out", "r")
    (warning,) = (line for line in of_settling(err) if line.startswith("warning"))
    assert "100 % of the training samples did not come to rest within T = 20 steps" in warning
    assert "(to 0.1 of what the nudge does in a step)" in warning
    assert "two-cycles" in warning


def test_updates_in_turn_end_it_and_all_rest_in_a_known_number_of_steps(run: Run) -> None:
    words = [*WORDS, "--updates", "alternating", "--settle", "0.1"]
    _, err = run("train", *words, "--out", "r")
    for epoch in metrics("r"):
        # What came to rest in the first step is seen to rest at the first look, after two.
        assert (epoch["free_steps"], epoch["most_free_steps"]) == (2, 2)
        assert (epoch["restless"], epoch["test_restless"], epoch["test_cycling"]) == (0, 0, 0)
    assert "warning" not in "".join(of_settling(err))
    assert "not at rest" not in err
    assert "T 2.0 (most 2), K " in err
    out, _ = run("evaluate", "r")
    said = "all samples came to rest (no unit moved by more than 0.1 in the last step)"
    assert f"steps of the free phase: 2 each\n{said}" in out


def test_in_real_time_rest_is_a_velocity(run: Run) -> None:
    run("train", *WORDS, "--network", "real-time", "--epsilon", 0.5, "--out", "r")
    out, _ = run("evaluate", "r", "--settle", "0.1")
    assert " moved by more than 0.05 in the last step)" in out


def test_doubts_that_come_later_are_warned_of_when_they_come(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut short, one-sided: restless at first; from the third epoch on in two-cycles too."""
    found = iter([{"restless"}, {"restless"}, {"restless", "cycling"}, {"cycling"}])
    monkeypatch.setattr(runs, "settling_doubts", lambda *_: frozenset(next(found)))
    monkeypatch.setattr(runs, "settling_warning", lambda _, metrics: f"in {metrics.epoch}")
    _, err = run("train", *WORDS, "--epochs", 4, "--out", "r")
    said = [line for line in of_settling(err) if line.startswith("warning")]
    assert said == ["warning: in 1", "warning: in 3"]


# The curves


OLD = {"train_error": 5.0, "test_error": 6.0, "train_loss": 0.1, "test_loss": 0.1, "seconds": 1.0}
FIXED = {
    **OLD,
    **{"free_steps": 20.0, "most_free_steps": 20, "nudged_steps": 8.0, "most_nudged_steps": 8},
    **{"restless": 0.0, "test_restless": 0.0, "test_cycling": 0.0},
}
SETTLED = {**FIXED, "free_steps": 7.5, "nudged_steps": 5.5}


def _heights(line: Line2D) -> list[float]:
    return np.asarray(line.get_ydata()).tolist()


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Figure]:
    """The figure that is written for these epochs."""
    figures: list[Figure] = []
    write = curves.write_png

    def remember(figure: Figure, path: Path) -> None:
        write(figure, path)
        figures.append(figure)

    monkeypatch.setattr(curves, "write_png", remember)

    def drawn(*history: dict[str, Any]) -> Figure:
        numbered = [{"epoch": n, **epoch} for n, epoch in enumerate(history, 1)]
        curves.draw_curves(numbered, tmp_path / "curves.png")
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
        return figures[-1]

    return drawn


@pytest.mark.parametrize("epoch", [OLD, FIXED, {**FIXED, "restless": 0.04}])
def test_where_all_rest_in_as_many_steps_there_are_errors_alone(
    draw: Callable[..., Figure], epoch: dict[str, Any]
) -> None:
    (errors,) = draw(epoch, epoch).axes
    assert errors.get_ylabel() == "error (%)"


NAN = math.nan


@pytest.mark.parametrize(
    "errors",
    [
        [5.6],
        [83.4],
        [9.2, 8.0],
        [9.2, 8.9, 8.7],
        [2.31, 2.31, 2.30],
        [100.0, 100.0],
        [0.0],
        [0.0, 0.0, 0.0],
        [3.0, 0.1, 0.0],
        [0.05, 0.04],
        [7.0, NAN, 6.0],
        [NAN, NAN],
        [40 * 0.8**n + 1.5 for n in range(30)],
        [50 * 0.98**n + 0.5 for n in range(500)],
    ],
    ids=lambda errors: f"{len(errors)}-{errors[0]:g}-{errors[-1]:.3g}",
)
def test_both_axes_have_numbers_and_all_errors_lie_within(
    draw: Callable[..., Figure], errors: list[float]
) -> None:
    figure = draw(*({**OLD, "train_error": error, "test_error": error} for error in errors))
    (axes,) = figure.axes
    shown = [error for error in errors if not math.isnan(error)]
    for axis, limits, values in (
        (axes.xaxis, axes.get_xlim(), range(1, len(errors) + 1)),
        (axes.yaxis, axes.get_ylim(), shown),
    ):
        ticks = [t for t in axis.get_majorticklocs() if limits[0] <= t <= limits[1]]
        labels = [label.get_text() for label in axis.get_majorticklabels() if label.get_text()]
        assert 2 <= len(ticks) <= 14
        assert len(labels) >= 2
        assert all(limits[0] <= value <= limits[1] for value in values)
    if len(errors) == 1 or any(map(math.isnan, errors)):
        # A number that has none beside it makes no line.
        assert all(line.get_marker() == "o" for line in axes.lines)


def test_the_metrics_of_a_training_loop_are_drawn_as_they_are(tmp_path: Path) -> None:
    history = [Metrics(n, 5.0 / n, 0.1, 6.0 / n, 0.2, 1.5) for n in (1, 2, 3)]
    curves.draw_curves(history, str(tmp_path / "curves.png"))
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="history: expected the metrics of at least one epoch"):
        curves.draw_curves([], tmp_path / "none.png")


def test_steps_that_differ_are_drawn_mean_and_most(draw: Callable[..., Figure]) -> None:
    # Of a run that an earlier version began.
    _, steps = draw(OLD, SETTLED, SETTLED).axes
    drawn = {str(line.get_label()): _heights(line)[1:] for line in steps.lines}
    assert drawn == {
        "free phase: mean, last 7.5": [7.5, 7.5],
        "free phase: most, last 20": [20, 20],
        "nudged phase: mean, last 5.5": [5.5, 5.5],
        "nudged phase: most, last 8": [8, 8],
    }


def test_angles_are_named_after_the_layers_that_their_weights_lead_to(
    draw: Callable[..., Figure],
) -> None:
    _, angles = draw({**FIXED, "weight_angles": (10.0, 20.0)}).axes
    assert [str(line.get_label()) for line in angles.lines] == [
        "weights of hidden layer 2, last 10.0°",
        "weights of output layer, last 20.0°",
    ]


def test_an_epoch_without_angles_leaves_a_gap(draw: Callable[..., Figure]) -> None:
    angled = {**FIXED, "weight_angles": (10.0, 20.0)}
    _, angles = draw(FIXED, {**FIXED, "weight_angles": None}, angled).axes
    for line, angle in zip(angles.lines, (10.0, 20.0), strict=True):
        assert _heights(line) == pytest.approx([math.nan, math.nan, angle], nan_ok=True)


def test_without_nudged_phases_none_are_drawn(draw: Callable[..., Figure]) -> None:
    epoch = {**SETTLED, "nudged_steps": None, "most_nudged_steps": None}
    _, steps = draw(epoch, epoch).axes
    assert [str(line.get_label())[:4] for line in steps.lines] == ["free", "free"]


def test_what_does_not_rest_is_drawn_and_cycles_if_there_are_any(
    draw: Callable[..., Figure],
) -> None:
    _, rest = draw(FIXED, {**FIXED, "restless": 3.0, "test_restless": 2.0}).axes
    assert [_heights(line) for line in rest.lines] == [[0, 3], [0, 2]]
    epoch = {**SETTLED, "restless": 3.0, "test_restless": 2.0, "test_cycling": 1.0}
    _, _, rest = draw(SETTLED, epoch).axes
    assert [_heights(line) for line in rest.lines] == [[0, 3], [0, 2], [0, 1]]
    assert str(rest.lines[2].get_label()) == "test samples in two-cycles, last 1.0 %"


def test_no_legend_hides_what_is_drawn_of_steps_and_rest(draw: Callable[..., Figure]) -> None:
    epoch = {**SETTLED, "restless": 3.0, "test_restless": 2.0, "test_cycling": 1.0}
    figure = draw(SETTLED, epoch)
    for axes in figure.axes[1:]:
        legend = axes.get_legend()
        assert legend is not None
        box, whole = legend.get_window_extent(), figure.bbox
        assert box.y0 >= axes.get_window_extent().y1
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
