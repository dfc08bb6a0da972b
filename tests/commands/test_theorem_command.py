"""``eqprop theorem``: what it writes, what it prints, what it refuses."""

import json
import math
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eqprop.cli.main import main
from eqprop.data.archives import default_data_dir
from eqprop.errors import ConfigurationError
from eqprop.settings.theorem import THEOREM_PRESETS, TheoremSettings

TOY = ["theorem", "toy", "--free-steps", "400", "--nudged-steps", "10", "--betas", "1e-4", "1e-3"]
FIGURES = {"states.png", "parameters.png", "layers.png", "error-against-beta.png"}
AGREEMENT = {"relative_error", "cosine", "angle", "sign_agreement"}
PNG = b"\x89PNG\r\n\x1a\n"

needs_mnist = pytest.mark.skipif(
    not any((Path(default_data_dir()) / "mnist").glob("*.gz")),
    reason="MNIST is not on this machine",
)


def run(out: Path, *words: str) -> dict[str, Any]:
    """Run the command; the metrics it wrote."""
    assert main([*words, "--out", str(out)]) == 0
    return json.loads((out / "metrics.json").read_text())


def refusal(capsys: pytest.CaptureFixture[str], status: int, *words: str) -> str:
    """The one line said on standard error when the command exits with that status."""
    assert main(list(words)) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("eqprop: error: ")
    return line


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the mathematics of a small model."""
    from eqprop.cli import theorem

    monkeypatch.setattr(theorem, "_draw", lambda *_: None)


# Other estimators


@pytest.mark.parametrize(
    ("estimator", "name", "least", "most"),
    [
        ("ep", "EP", 0.5, 1.0),
        ("c-ep", "EP", 0.5, 1.0),
        ("asym-ep", "AsymEP", 1e-4, 0.05),
        ("dyadic-ep", "dyadic EP", 0, 1e-9),
    ],
)
@pytest.mark.usefixtures("no_figures")
def test_asked_for_another_estimator_it_is_that_one_which_is_compared(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    estimator: str,
    name: str,
    least: float,
    most: float,
) -> None:
    """At 45° the first layer is off by sin 45° and more, unless what comes down is turned back."""
    words = ["--angle", "45", "--betas", "1e-3", "1e-2"]
    metrics = run(tmp_path / "out", "theorem", "digits-eb", *words, "--estimator", estimator)
    assert metrics["estimator"] == name
    assert metrics["settings"]["estimator"] == estimator
    first = metrics["parameters"]["connections.0.weight"]["relative_error"]
    assert least <= first <= most
    said = capsys.readouterr().out
    assert f"total update of {name} and" in said
    title = said.splitlines()[0]
    assert title.startswith(
        "digits-eb-angle-45:" if name == "EP" else f"digits-eb-angle-45, {estimator}:"
    )
    assert ("whatever F" in said) is (name != "EP")


def test_one_without_a_nudged_phase_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, 2, "theorem", "toy", "--estimator", "bptt")
    assert "--estimator bptt: expected one whose nudged phase" in line
    assert line.endswith(
        "among ep, c-ep, asym-ep, c-asym-ep, dyadic-ep, c-dyadic-ep, holomorphic-ep"
    )


@pytest.mark.usefixtures("no_figures")
def test_the_circle_of_holomorphic_ep_is_looked_at_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["theorem", "digits-eb", "--estimator", "holomorphic-ep", "--points", "3"]
    # The largest β is where the next power of it counts as well.
    metrics = run(tmp_path / "out", *words, "--betas", "0.003", "0.01", "0.03")
    assert metrics["estimator"] == "holomorphic EP"
    assert metrics["continual"] == []
    for slope in metrics["error_against_beta"]["slope"].values():
        assert slope == pytest.approx(3, abs=0.1)
    said = capsys.readouterr().out
    assert said.startswith(
        "digits-eb, holomorphic-ep: T = 200, K = 30, β = 0.01, N = 3, 1 mini-batch of 20, float64"
    )
    assert "the error falls in proportion to β³" in said
    assert "eta = 0.001: expected none with estimator = holomorphic-ep" in refusal(
        capsys, 2, *words, "--eta", "1e-3"
    )


@pytest.mark.usefixtures("no_figures")
def test_a_run_that_is_not_holomorphic_has_no_circle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = ["train", "digits-eb", "--clip", "--hidden", "9", "--epochs", "1"]
    assert main([*trained, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    words = ["theorem", str(tmp_path / "run"), "--estimator", "holomorphic-ep"]
    line = refusal(capsys, 2, *words)
    assert "holomorphic EP: expected states that are not clipped, got a clip of [0, 1]" in line
    assert main([*trained, "--estimator", "holomorphic-ep", "--out", str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == line


@pytest.mark.parametrize(
    ("learns", "compared"),
    [
        ("asym-ep", "AsymEP"),
        ("c-asym-ep", "AsymEP"),
        ("bptt", "EP"),
        ("holomorphic-ep", "holomorphic EP"),
    ],
)
@pytest.mark.usefixtures("no_figures")
def test_a_run_is_compared_by_what_it_learns_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], learns: str, compared: str
) -> None:
    trained = ["--hidden", "9", "--epochs", "1", "--estimator", learns]
    assert main(["train", *trained, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    metrics = run(tmp_path / "out", "theorem", str(tmp_path / "run"))
    assert metrics["estimator"] == compared
    said = capsys.readouterr().out
    assert (f"compared is EP; the run learns by {learns}" in said) is (learns == "bptt")
    run(tmp_path / "ep", "theorem", str(tmp_path / "run"), "--estimator", "ep")
    assert f"compared is EP; the run learns by {learns}" in capsys.readouterr().out


# What it writes


def test_the_folder_holds_the_metrics_and_the_figures(tmp_path: Path) -> None:
    metrics = run(tmp_path / "out", *TOY)
    files = {path.name for path in (tmp_path / "out").iterdir()} - {".lock"}
    assert files == {"metrics.json", *FIGURES}
    for name in FIGURES:
        assert (tmp_path / "out" / name).read_bytes().startswith(PNG)
    for what in ("states", "parameters"):
        overall = metrics["overall"][what]
        assert overall.keys() == AGREEMENT
        assert 0 < overall["relative_error"] < 0.05
        assert 0.99 < overall["cosine"] <= 1
        assert 0.9 < overall["sign_agreement"] <= 1
        assert len(metrics["per_step"][what]["relative_error"]) == 10
    assert 0 <= metrics["total_update_angle"] < 2
    assert 0 <= metrics["residual"] < 1e-6
    assert metrics["beta"] == 0.01
    assert metrics["layers"].keys() == {"hidden layer 1", "output layer"}
    assert "hidden_to_output.weight" in metrics["parameters"]
    assert metrics["settings"]["free_steps"] == 400
    assert metrics["environment"]["torch"]
    assert metrics["premise"]["layers"].keys() == metrics["layers"].keys()


@pytest.mark.usefixtures("no_figures")
def test_the_error_of_the_toy_model_is_of_first_order_in_beta(tmp_path: Path) -> None:
    words = [word if word != "400" else "2000" for word in TOY]
    one_sided = run(tmp_path / "one", *words)
    symmetric = run(tmp_path / "two", *words, "--nudging", "symmetric")
    for metrics, order in ((one_sided, 1), (symmetric, 2)):
        curve = metrics["error_against_beta"]
        assert curve["beta"] == [1e-4, 1e-3]
        assert all(curve["premise_holds"])
        for what in ("states", "parameters"):
            assert curve["slope"][what] == pytest.approx(order, abs=0.1)


@pytest.mark.usefixtures("no_figures")
def test_continual_updates_stand_beside_eta_0(tmp_path: Path) -> None:
    metrics = run(tmp_path / "out", *TOY, "--eta", "0", "1e-7", "2e-3")
    assert [found["eta"] for found in metrics["continual"]] == [1e-7, 2e-3]
    errors = [found["overall"]["states"]["relative_error"] for found in metrics["continual"]]
    plain = metrics["overall"]["states"]["relative_error"]
    assert abs(errors[0] - plain) < 0.02 * plain
    assert errors[1] > 2 * plain


def test_every_preset_has_continual_updates_beside_eta_0() -> None:
    assert THEOREM_PRESETS.keys() >= {"toy", "eb-1h", "eb-2h", "p-1h", "p-2h", "p-3h"}
    for entry in THEOREM_PRESETS.values():
        assert entry.settings.eta


@pytest.mark.usefixtures("no_figures")
def test_several_mini_batches_give_a_mean_and_a_spread(tmp_path: Path) -> None:
    metrics = run(tmp_path / "out", *TOY, "--batches", "3")
    assert metrics["batches"] == 3
    assert metrics["spread"]["overall"]["states"]["relative_error"] > 0
    assert "spread" not in run(tmp_path / "alone", *TOY)


@pytest.mark.usefixtures("no_figures")
def test_a_seed_gives_the_same_figures_again(tmp_path: Path) -> None:
    found = [
        run(tmp_path / str(index), *TOY, "--seed", seed)["overall"]
        for index, seed in enumerate(("0", "0", "1"))
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.usefixtures("no_figures")
def test_a_premise_that_fails_is_said_in_the_metrics_and_in_the_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["theorem", "toy", "--free-steps", "20", "--nudged-steps", "10"]
    metrics = run(tmp_path / "out", *short)
    assert not metrics["premise"]["holds"]
    assert "has not converged: hidden layer 1 by" in metrics["premise"]["problems"][0]
    assert metrics["residual"] > 1e-3
    assert "PREMISE FAILS: the free phase has not converged" in capsys.readouterr().out
    # No slope is claimed where it would only be that of the free phase.
    assert metrics["error_against_beta"]["slope"] == {"states": None, "parameters": None}
    assert run(tmp_path / "long", *TOY[:2], "--free-steps", "2000", "--eta")["premise"]["holds"]
    assert "premise: holds" in capsys.readouterr().out


def test_a_premise_that_fails_is_said_in_every_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    titles = []
    true_title = Figure.suptitle

    def recording(figure: Figure, title: str, **keywords: Any) -> Any:
        titles.append(title)
        return true_title(figure, title, **keywords)

    monkeypatch.setattr(Figure, "suptitle", recording)
    short = ["theorem", "toy", "--free-steps", "20", "--nudged-steps", "10"]
    run(tmp_path / "short", *short, "--sweep", "beta=0.01,0.1")
    assert len(titles) == 5
    assert all("PREMISE FAILS" in title for title in titles)
    titles.clear()
    run(tmp_path / "long", *TOY[:2], "--free-steps", "2000", "--eta")
    assert len(titles) == 4
    assert not any("PREMISE" in title for title in titles)


def test_json_prints_what_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = run(tmp_path / "out", *TOY, "--json")
    assert json.loads(capsys.readouterr().out) == metrics


def test_metrics_are_valid_json_even_without_numbers(tmp_path: Path) -> None:
    # With K = 1 nothing has reached the hidden layer yet: no cosine, no signs.
    run(tmp_path / "out", *TOY, "--nudged-steps", "1")
    text = (tmp_path / "out" / "metrics.json").read_text()
    metrics = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in the metrics"))
    assert metrics["layers"]["hidden layer 1"]["sign_agreement"] is None


# What kind of model it is


@pytest.mark.usefixtures("no_figures")
def test_without_a_word_the_theorem_is_seen_to_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = run(tmp_path / "out", "theorem", "--eta")
    said = capsys.readouterr().out
    assert "\nmodel: exact, F = ∂Φ/∂s\n" in said
    assert "as β → 0: the error falls in proportion to β\n" in said
    assert "premise: holds" in said
    assert metrics["network"]["dataset"] == "digits"
    curve = metrics["error_against_beta"]
    assert all(curve["premise_holds"])
    for what in ("states", "parameters"):
        assert curve["slope"][what] == pytest.approx(1, abs=0.02)
        assert curve["level"][what] is None
        assert curve[what][0] == min(curve[what]) < 2e-5


@pytest.mark.usefixtures("no_figures")
def test_a_prototypical_network_is_said_to_be_approximate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = run(tmp_path / "out", "theorem", "digits", "--eta", "--batch-size", "5")
    said = capsys.readouterr().out
    assert "model: approximate (prototypical), F = ρ(∂Φ/∂s)" in said
    assert "as β → 0: the error levels off, as EP leaves out the ρ′ of the output layer" in said
    assert "premise: holds" not in said
    assert "F is the gradient of no Φ" in said
    assert metrics["model"]["name"] == "approximate"
    curve = metrics["error_against_beta"]
    for what in ("states", "parameters"):
        assert curve["level"][what] == curve[what][0] > 0.01
        assert f"{what} levels off at {curve['level'][what]:.2g}" in said
    assert metrics["held"]["layers"]["output layer"] == {"held": None, "crossed": None}


@pytest.mark.usefixtures("no_figures")
def test_untied_weights_and_updates_in_turn_are_said(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["digits", "--eta", "--batch-size", "5", "--angle", "45"]
    metrics = run(tmp_path / "untied", "theorem", *words)
    said = capsys.readouterr().out
    (angle,) = metrics["model"]["weight_angles"]
    assert f"model: vector field, F = ρ(f(s)) from no Φ, weights {angle:.3g}° apart" in said
    assert "turned by about that angle" in said
    quick = ["--epochs", "1", "--hidden", "8", "--free-steps", "9", "--updates", "alternating"]
    assert main(["train", *quick, "--out", str(tmp_path / "run")]) == 0
    metrics = run(tmp_path / "turn", "theorem", str(tmp_path / "run"))
    assert metrics["model"]["in_turn"]
    assert (
        "of the total over a settled nudged phase the error levels off"
        in metrics["model"]["expected"]
    )
    said = capsys.readouterr().out
    assert "layers updated in turn\n" in said
    # What is to agree comes before what is not, and is no failure of the premise.
    assert said.index("angle between the total update") < said.index("η = 0, single steps")
    assert "PREMISE FAILS: the layers" not in said


@pytest.mark.usefixtures("no_figures")
def test_a_tolerance_that_is_too_coarse_for_the_nudge_names_one_that_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["digits-eb", "--batch-size", "5", "--beta", "1e-5", "--eta"]
    run(tmp_path / "coarse", "theorem", *words, "--settle", "0.3")
    said = capsys.readouterr().out
    assert "PREMISE FAILS" in said
    (finer,) = re.findall(r"try --settle (\S+)\n", said)
    run(tmp_path / "fine", "theorem", *words, "--settle", finer)
    said = capsys.readouterr().out
    assert "premise: holds" in said
    assert "try --settle" not in said


def test_units_at_the_clip_are_said_in_text_metrics_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    titles: list[str] = []
    true_title = Figure.suptitle

    def recording(figure: Figure, title: str, **keywords: Any) -> Any:
        titles.append(" ".join(title.split()))
        return true_title(figure, title, **keywords)

    monkeypatch.setattr(Figure, "suptitle", recording)
    quick = ["--network", "real-time", "--epochs", "1", "--hidden", "16", "--batch-size", "200"]
    assert main(["train", "digits", *quick, "--out", str(tmp_path / "run")]) == 0
    words = ["--before-training", "--free-steps", "600", "--beta", "1e-3", "--batch-size", "20"]
    metrics = run(tmp_path / "out", "theorem", str(tmp_path / "run"), *words)
    said = capsys.readouterr().out
    held = {layer: of["held"] for layer, of in metrics["held"]["layers"].items()}
    assert metrics["held"]["by"] == "clip"
    assert 0.1 < held["hidden layer 1"] < 1
    share = f"{100 * held['hidden layer 1']:.2g} % of hidden layer 1"
    sentence = f"units rest at a bound of the clip, {share}"
    (verdict,) = (line for line in said.splitlines() if line.startswith("PREMISE FAILS: units"))
    assert sentence in verdict
    assert "try a network without clip (--no-clip, clip=None)" in verdict
    assert "premise: holds" not in said
    assert not metrics["premise"]["holds"]
    assert len(titles) == 4
    assert all(f"PREMISE FAILS: {sentence}" in title for title in titles)
    # What disagrees are their states alone.
    assert metrics["overall"]["states"]["relative_error"] > 0.1
    assert metrics["held"]["states_of_others"]["relative_error"] < 0.01
    assert metrics["overall"]["parameters"]["relative_error"] < 0.01
    assert metrics["error_against_beta"]["slope"]["parameters"] == pytest.approx(2, abs=0.7)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    "words", [TOY, [*TOY, "--eta", "1e-5", "--batches", "2"]], ids=["one", "more"]
)
def test_progress_counts_processes_and_comes_to_its_end(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eqprop.cli import theorem

    totals: list[tuple[int, str]] = []
    ticked: list[int] = []

    class Counting:
        def __init__(self, total: int, unit: str) -> None:
            totals.append((total, unit))
            ticked.append(0)

        def __enter__(self) -> Any:
            def tick(_: object) -> None:
                ticked[-1] += 1

            return tick

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(theorem, "Progress", Counting)
    computed = {"count": 0}

    def counting(process: Any) -> Any:
        def counted(*args: Any, **keywords: Any) -> Any:
            computed["count"] += 1
            return process(*args, **keywords)

        return counted

    from eqprop.analysis import diagnosis

    for name in ("ep_process", "bptt_process"):
        monkeypatch.setattr(diagnosis, name, counting(getattr(diagnosis, name)))
    sweeps = ["--sweep", "beta=0.001,0.1", "--sweep", "free-steps=15,20,30"]
    run(tmp_path / "out", *words, *sweeps, "--settle", "1e-4", "--nudged-steps", "4")
    assert [total for total, _ in totals] == ticked
    assert [unit for _, unit in totals] == ["phase", "process"]
    assert ticked[1] == computed["count"]


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("columns", ["", "60"])
def test_tables_fit(
    columns: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    swept = ("beta=0.001", "free-steps=20,1000", "nudged-steps=4")
    sweeps = [word for sweep in swept for word in ("--sweep", sweep)]
    run(tmp_path / "out", *TOY, "--eta", "--free-steps", "40", "--batches", "2", *sweeps)
    tables = [line for line in capsys.readouterr().out.splitlines() if "   " in line]
    assert len(tables) > 12
    assert max(map(len, tables)) <= int(columns or 80)


# T and K by a tolerance


SETTLED = ("theorem", "toy", "--settle", "1e-4", "--betas", "1e-4", "1e-3", "--eta")


@pytest.mark.usefixtures("no_figures")
def test_t_and_k_are_chosen_by_a_tolerance_and_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = run(tmp_path / "out", *SETTLED)
    found = metrics["settling"]
    T, K = found["free_steps"], found["nudged_steps"]
    # The last K free steps are to be at rest, or BPTT goes through some that were not.
    assert metrics["settings"]["free_steps"] == T + K
    assert metrics["settings"]["nudged_steps"] == K
    assert metrics["settings"]["tolerance"] == 1e-4
    # To rest means: to move by no more than the tolerance · ε, and here ε = 0.08.
    assert metrics["residual"] <= 1e-4 * 0.08
    said = capsys.readouterr().out
    sentence = f"T = {T} and K = {K} settle the one sample to 0.0001"
    assert found["said"] == sentence
    assert said.startswith(f"{sentence}; T = {T} + {K} = {T + K} here")
    assert f"T = {T + K}, K = {K}" in said.splitlines()[1]


@pytest.mark.usefixtures("no_figures")
def test_the_premise_holds_where_the_tolerance_is_small(tmp_path: Path) -> None:
    words = ["digits", "--settle", "1e-6", "--eta", "--batch-size", "5", "--betas", "0.01", "0.1"]
    metrics = run(tmp_path / "out", "theorem", *words)
    assert metrics["premise"]["holds"]
    assert metrics["settings"]["free_steps"] < 150, "with far fewer steps than the preset has"


@pytest.mark.usefixtures("no_figures")
def test_steps_that_are_given_are_taken_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    K = run(tmp_path / "K", *SETTLED, "--nudged-steps", "7")
    assert K["settings"]["nudged_steps"] == 7
    assert K["settings"]["free_steps"] == K["settling"]["free_steps"] + 7
    assert "; as given: K = 7 settles 0 %" in capsys.readouterr().out
    both = run(tmp_path / "both", *SETTLED, "--nudged-steps", "7", "--free-steps", "9")
    assert (both["settings"]["free_steps"], both["settings"]["nudged_steps"]) == (9, 7)
    assert "as given: T = 9 settles 0 %, K = 7 settles 0 %" in capsys.readouterr().out
    T = run(tmp_path / "T", *SETTLED, "--free-steps", "1500")
    assert T["settings"]["free_steps"] == 1500
    assert T["settings"]["nudged_steps"] == T["settling"]["nudged_steps"]
    assert "; as given: T = 1500 settles 100 %" in capsys.readouterr().out
    assert both["settling"]["said"] == T["settling"]["said"] == K["settling"]["said"]
    assert "settling" not in run(tmp_path / "none", *TOY)


@pytest.mark.parametrize(
    ("status", "words", "said"),
    [
        (1, ["--most-steps", "20"], "no T settles the one sample to 0.0001: in the free phase 0 %"),
        (1, ["--most-steps", "20"], "more steps (--most-steps), or a T and a K of your own"),
        (2, ["--free-steps", "20"], "--free-steps 20: expected at least K = "),
        (2, ["--most-steps", "0"], "most_steps = 0: expected a whole number of at least 1"),
        (2, ["--free-steps", "0"], "free_steps = 0: expected a whole number of at least 1"),
        (2, ["--nudged-steps", "0"], "nudged_steps = 0: expected a whole number of at least 1"),
        (2, ["--settle", "-1"], "tolerance = -1.0: expected a finite number >= 0"),
    ],
)
def test_no_t_or_k_is_invented(
    status: int, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert said in refusal(capsys, status, *SETTLED, *words, "--out", str(out))
    assert not out.exists()


# Sweeps


def test_a_sweep_has_every_point_as_a_table_and_a_heat_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = run(
        tmp_path / "out", *TOY, "--sweep", "beta=0.001,0.1", "--sweep", "free-steps=15,900"
    )
    assert [(cell["beta"], cell["free_steps"]) for cell in metrics["sweep"]] == [
        (0.001, 15),
        (0.001, 900),
        (0.1, 15),
        (0.1, 900),
    ]
    errors = [cell["overall"]["states"]["relative_error"] for cell in metrics["sweep"]]
    assert errors[1] == min(errors)
    assert [cell["premise_holds"] for cell in metrics["sweep"]] == [False, True, False, True]
    assert (tmp_path / "out" / "sweep.png").read_bytes().startswith(PNG)
    table = capsys.readouterr().out.split("residual  premise\n")[1].splitlines()
    assert [line.split()[-1] for line in table[:4]] == ["FAILS", "holds", "FAILS", "holds"]
    # The point that is also the base says the same.
    again = run(tmp_path / "same", *TOY, "--sweep", "beta=0.01")
    assert again["sweep"][0]["overall"] == again["overall"]


def test_all_three_settings_can_be_swept(tmp_path: Path) -> None:
    metrics = run(
        tmp_path / "out",
        *TOY,
        *("--sweep", "nudged-steps=2,4", "--sweep", "beta=0.01,0.1", "--sweep", "free-steps=20,30"),
    )
    assert len(metrics["sweep"]) == 8
    assert list(metrics["sweep"][1])[:3] == ["nudged_steps", "beta", "free_steps"]


# Runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    words = ["train", "digits", "--hidden", "16", "--epochs", "2", "--out", str(folder)]
    assert main(words) == 0
    return folder


def test_the_network_of_a_run_is_looked_at_with_its_own_settings(
    trained: Path, tmp_path: Path
) -> None:
    metrics = run(tmp_path / "out", "theorem", str(trained))
    experiment = json.loads((trained / "config.json").read_text())["experiment"]
    for name in ("free_steps", "nudged_steps", "beta", "nudging", "batch_size", "seed"):
        assert metrics["settings"][name] == experiment[name]
    assert metrics["trained"] is True
    assert metrics["continual"] == []
    before = run(tmp_path / "before", "theorem", str(trained), "--before-training")
    assert before["trained"] is False
    assert before["overall"] != metrics["overall"]


@pytest.mark.usefixtures("no_figures")
def test_untied_weights_turn_what_comes_down_by_about_their_angle(tmp_path: Path) -> None:
    found = {}
    for angle in (0, 90, 180):
        words = [
            "theorem",
            "digits",
            "--angle",
            str(angle),
            "--eta",
            "0",
            "--betas",
            "1e-3",
            "1e-2",
        ]
        metrics = run(tmp_path / str(angle), *words)
        assert metrics["network"]["weight_angle"] == angle
        assert metrics["of"] == f"digits-angle-{angle}"
        found[angle] = {name: of["angle"] for name, of in metrics["parameters"].items()}
    for angle, angles in found.items():
        assert angles["connections.0.weight"] == pytest.approx(angle, abs=30)
    # The last way up needs nothing that comes down.
    assert all(angles["connections.1.upward.weight"] < 30 for angles in found.values())


@pytest.mark.usefixtures("no_figures")
def test_the_angle_of_a_run_is_its_own(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--angle: expected it with" in refusal(
        capsys, 2, "theorem", str(trained), "--angle", "45"
    )


@pytest.mark.usefixtures("no_figures")
def test_a_run_has_the_weights_of_its_checkpoint(trained: Path, tmp_path: Path) -> None:
    """Against the processes of a network restored by hand."""
    import torch

    from eqprop.analysis.agreement import compare
    from eqprop.analysis.processes import bptt_process, ep_process
    from eqprop.data.dataset import load_dataset, one_hot
    from eqprop.runs.build import build_network
    from eqprop.runs.folder import RunFolder
    from eqprop.training.checkpoint import Checkpoint

    metrics = run(tmp_path / "out", "theorem", str(trained))
    folder = RunFolder(trained)
    experiment = folder.read_config().experiment.override({"dtype": "float64"})
    network = build_network(experiment, (1, 8, 8), 10)
    Checkpoint.load(folder.checkpoint).restore_model(network)
    generator = torch.Generator().manual_seed(0)
    x, labels = next(load_dataset("digits").train.batches(20, generator))
    steps: dict[str, Any] = {
        "free_steps": experiment.free_steps,
        "nudged_steps": experiment.nudged_steps,
    }
    x, y = x.double(), one_hot(labels, 10, torch.float64)
    ep = ep_process(network, x, y, beta=experiment.beta, nudging="symmetric", **steps)
    expected = compare(ep, bptt_process(network, x, y, **steps)).states.overall.relative_error
    assert experiment.nudging == "symmetric"
    assert metrics["overall"]["states"]["relative_error"] == pytest.approx(expected, rel=1e-9)


def test_a_run_without_a_checkpoint_can_be_looked_at_only_before_training(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((trained / "config.json").read_bytes())
    capsys.readouterr()
    out = str(tmp_path / "out")
    line = refusal(capsys, 1, "theorem", str(bare), "--out", out)
    assert (
        "expected a checkpoint, found no such file; train it first, with: eqprop train --" in line
    )
    assert main(["theorem", str(bare), "--before-training", "--out", out]) == 0


# What it refuses


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "nonsense: expected one of digits-eb, toy, eb-1h"),
        (["toy", "--beta", "0"], "beta = 0.0: expected a finite number other than 0"),
        (["toy", "--beta", "strong"], "beta = strong: expected a number"),
        (["toy", "--free-steps", "5"], "nudged_steps = 80: expected at most free_steps = 5"),
        (["toy", "--nudged-steps", "0"], "nudged_steps = 0: expected a whole number of at least 1"),
        (["toy", "--nudging", "random-sign"], "nudging = random-sign: expected one of one-sided"),
        (["toy", "--eta", "-1"], "eta = -1.0: expected up to five different finite"),
        (["toy", "--eta", *"123456"], "eta = 1.0 2.0 3.0 4.0 5.0 6.0: expected up to five"),
        (["toy", "--betas", "0.1"], "betas = 0.1: expected at least two different"),
        (["toy", "--batches", "0"], "batches = 0: expected a whole number of at least 1"),
        (["toy", "--sweep", "beta"], "--sweep beta: expected SETTING=N,N"),
        (["toy", "--sweep", "eta=1,2"], "--sweep eta=1,2: expected SETTING=N,N"),
        (["toy", "--sweep", "beta=0.1,x"], "beta = x: expected a number"),
        (["toy", "--sweep", "beta=0.1,0.1"], "expected every value once"),
        (["toy", "--sweep", "beta=0.1", "--sweep", "beta=0.2"], "expected beta once"),
        (["toy", "--sweep", "free-steps=5,500"], "nudged_steps = 80: expected at most free_steps"),
        (["toy", "--before-training"], "--before-training: expected it with the folder of a run"),
        (["toy", "--angle", "45"], "--angle: expected it with the preset of a layered network"),
        (["digits", "--angle", "200"], "weight_angle = 200.0: expected degrees from 0 to 180"),
        (["toy", "--device", "tpu"], "device = tpu: expected cpu, cuda or cuda:N"),
        (["digits", "--batches", "100"], "expected at most the 1437 training samples"),
    ],
)
def test_bad_usage_is_refused_on_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert said in refusal(capsys, 2, "theorem", *words, "--out", str(out))
    assert not out.exists()


def test_a_folder_in_which_something_lies_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").touch()
    line = refusal(capsys, 2, *TOY, "--out", str(tmp_path))
    assert f"{tmp_path}: expected a new or empty folder" in line
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_is_no_run_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "found no config.json in it" in refusal(capsys, 1, "theorem", str(tmp_path))


def test_absent_data_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from eqprop import runs
    from eqprop.data.archives import DataError

    def absent(*_: object) -> None:
        raise DataError("mnist: expected its archives, found none")

    monkeypatch.setattr(runs, "build_data", absent)
    out = tmp_path / "out"
    assert "expected its archives" in refusal(capsys, 1, "theorem", "p-1h", "--out", str(out))
    assert not out.exists()


def test_a_state_that_stops_being_finite_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The output grows by a factor εβ = 8e28 in every step.
    words = ["--beta", "1e30", "--nudged-steps", "40"]
    line = refusal(capsys, 1, *TOY, *words, "--out", str(tmp_path / "out"))
    assert "stopped being finite in the nudged phase (beta +1e+30)" in line


def test_help_answers_without_torch_and_names_every_preset() -> None:
    script = (
        "import sys; from eqprop.cli.main import main\n"
        "try: main(['theorem', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    for name in THEOREM_PRESETS:
        assert f"  {name} " in said


def test_settings_refuse_what_cannot_be_wherever_they_come_from() -> None:
    with pytest.raises(ConfigurationError, match="seed = -1"):
        TheoremSettings(seed=-1)
    with pytest.raises(ConfigurationError, match="beta = nan"):
        TheoremSettings(beta=math.nan)


# At full size


@needs_mnist
@pytest.mark.exhaustive
def test_mnist_at_full_size_takes_less_than_a_minute_and_three_gigabytes(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "eqprop", "theorem", "eb-1h", "--out", str(tmp_path / "out")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(words, check=True, env=environment, capture_output=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time: what else runs on the machine is no fault of ours.
    assert used.ru_utime - before < 60
    kibibytes = used.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    assert kibibytes < 3 * 2**20
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["premise"]["holds"]
    assert metrics["overall"]["states"]["relative_error"] < 0.002
    assert metrics["overall"]["parameters"]["relative_error"] < 0.002
    assert metrics["error_against_beta"]["slope"]["states"] == pytest.approx(1, abs=0.05)
    assert metrics["error_against_beta"]["slope"]["parameters"] == pytest.approx(1, abs=0.05)


@needs_mnist
@pytest.mark.exhaustive
def test_the_prototypical_network_on_mnist_agrees_approximately(tmp_path: Path) -> None:
    metrics = run(tmp_path / "out", "theorem", "p-1h", "--batches", "3")
    assert metrics["premise"]["holds"]
    assert 0.01 < metrics["overall"]["states"]["relative_error"] < 0.2
    assert math.cos(math.radians(metrics["total_update_angle"])) > 0.95


@pytest.mark.usefixtures("no_figures")
def test_an_overflow_is_no_perfect_angle() -> None:
    from eqprop.analysis.agreement import Agreement

    for sums in ([float("inf"), 1.0, 0.0, float("inf"), 1.0, 2.0], [float("nan")] * 4 + [0.0, 0.0]):
        found = Agreement.of(sums)
        assert math.isnan(found.angle)
        assert math.isnan(found.cosine)
        assert found.relative_error == math.inf


@pytest.mark.parametrize(
    "words",
    [
        ["--threads", "9999999999"],
        ["--beta", "1e100"],
        ["--betas", "1e-320", "1e-319"],
        ["--eta", "1e-5", "1e-5"],
        ["--sweep", "beta="],
    ],
    ids=" ".join,
)
def test_what_would_only_overflow_or_repeat_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    line = refusal(capsys, 2, *TOY[:2], *words, "--out", str(tmp_path / "out"))
    assert words[0].removeprefix("--") in line
    assert not (tmp_path / "out").exists()


def test_memory_that_is_too_small_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--batch-size", "99999999999", "--out", str(tmp_path / "out")]
    assert "batch_size = 99999999999" in refusal(capsys, 1, *TOY, *words)


def test_a_folder_of_any_name_is_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "a$b^$c é"
    quick = ["--epochs", "1", "--hidden", "8", "--free-steps", "5", "--nudged-steps", "3"]
    assert main(["train", *quick, "--out", str(folder)]) == 0
    metrics = run(tmp_path / "out", "theorem", str(folder))
    assert metrics["of"] == "a$b^$c é"


def test_people_read_whose_weights_they_are_and_metrics_how_torch_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: set[str] = set()

    def collect(figure: Any, *_: Any, **__: Any) -> None:
        for axes in figure.axes:
            labels = (axes.get_ylabel(), *(label.get_text() for label in axes.get_xticklabels()))
            said.update(label.replace("\n", " ") for label in labels)

    monkeypatch.setattr("eqprop.pictures.theorem.write_png", collect)
    few = ["--free-steps", "30", "--nudged-steps", "5", "--batches", "1", "--batch-size", "3"]
    metrics = run(tmp_path / "out", "theorem", "digits", *few, "--betas", "0.1", "0.2")
    people = {
        f"{what} of {layer}"
        for what in ("weight", "bias")
        for layer in ("hidden layer 1", "output layer")
    }
    printed = capsys.readouterr().out
    assert all(f"  {name}  " in printed for name in people)
    assert people <= said
    assert not any("connection" in text for text in (printed, *said))
    assert metrics["parameters"].keys() == {
        f"connections.{index}.{what}" for index in (0, 1) for what in ("weight", "bias")
    }
