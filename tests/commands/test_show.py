"""``eqprop show``: what it computes, what it draws, what it refuses."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from eqprop.analysis.convergence import error_by_step, phases, residual_by_step, step_counts
from eqprop.analysis.images import evenly, weight_images
from eqprop.cli.main import main
from eqprop.core.costs import SquaredError
from eqprop.core.models import PrimitiveModel
from eqprop.core.nudging import Nudge
from eqprop.core.phases import relax
from eqprop.data.dataset import Split, load_dataset, one_hot
from eqprop.networks.connections.chains import dense, untied
from eqprop.networks.connections.conv_pool import ConvPool
from eqprop.networks.connections.dense import Dense
from eqprop.networks.layered import LayeredNetwork
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from eqprop.pictures.style import residual_axis
from eqprop.runs.build import build_network
from eqprop.runs.folder import RunFolder
from eqprop.training.checkpoint import Checkpoint
from eqprop.training.evaluation import evaluate

PNG = b"\x89PNG\r\n\x1a\n"
PICTURES = ["kernels.png", "states.png", "convergence.png", "steps.png", "settling.png"]
QUICK = ["--epochs", "1", "--batch-size", "200", "--free-steps", "6", "--nudged-steps", "3"]


def train(folder: Path, *words: str) -> Path:
    assert main(["train", *QUICK, *words, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "digits", "--hidden", "16")


def show(run: Path, *words: str) -> dict[str, Any]:
    """Run the command; the numbers it wrote into the folder of the run."""
    assert main(["show", str(run), *words]) == 0
    return json.loads((run / "pictures" / "show.json").read_text())


def refusal(capsys: pytest.CaptureFixture[str], status: int, *words: str) -> str:
    """The one line said on standard error when the command exits with that status."""
    capsys.readouterr()
    assert main(["show", *words]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("eqprop: error: ")
    return line


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the mathematics of a small model."""
    from eqprop.cli import show

    monkeypatch.setattr(show, "_draw", lambda *_: [])


def convolutional() -> LayeredNetwork:
    first = ConvPool((1, 8, 8), 3, 3)
    return PrototypicalNetwork(
        [first, Dense(first.upper_shape, 10)], "hard-sigmoid", updates="alternating"
    )


NETWORKS = {
    "prototypical": lambda: PrototypicalNetwork(dense(64, 12, 7, 10)),
    "convolutional, alternating": convolutional,
    "real-time": lambda: RealTimeNetwork(dense(64, 12, 10), clip=(0.0, 1.0)),
}


@pytest.fixture(params=NETWORKS, ids=lambda name: name.replace(" ", "-"))
def network(request: pytest.FixtureRequest) -> LayeredNetwork:
    torch.manual_seed(3)
    return NETWORKS[request.param]()


@pytest.fixture(scope="module")
def digits() -> Split:
    test = load_dataset("digits").test
    return Split(test.images[:61], test.labels[:61])


# What it computes


def test_the_error_read_off_on_the_way_is_that_of_a_free_phase_of_so_many_steps(
    network: LayeredNetwork, digits: Split
) -> None:
    steps = (1, 2, 5, 9)
    found = error_by_step(network, digits, steps)
    assert found.steps == steps
    assert found.samples == 61
    assert list(found.error) == [evaluate(network, digits, t).error for t in steps]


def test_the_error_does_not_depend_on_how_many_samples_settle_at_once(
    network: LayeredNetwork, digits: Split
) -> None:
    whole, parts = (error_by_step(network, digits, (2, 7), batch_size=n) for n in (61, 20))
    assert whole.error == parts.error
    assert whole.median == pytest.approx(parts.median, abs=1e-6)
    assert whole.worst == pytest.approx(parts.worst, abs=1e-6)


def test_the_residual_at_t_is_that_of_a_relaxation_of_t_steps(
    network: LayeredNetwork, digits: Split
) -> None:
    found = residual_by_step(network, digits.images, 9)
    by_step = error_by_step(network, digits, range(1, 10))
    assert found.layers[-1] == "output layer"
    for t in range(1, 10):
        expected = relax(network, digits.images, t).residual
        assert [of_layer[t - 1] for of_layer in found.worst] == list(expected)
        assert by_step.worst[t - 1] == max(expected)


def test_half_of_the_samples_move_by_more_than_the_median(
    network: LayeredNetwork, digits: Split
) -> None:
    found = residual_by_step(network, digits.images, 4)
    by_step = error_by_step(network, digits, (4,))
    # Of an odd number of samples it is that of one, settled here alone.
    alone = [relax(network, x[None], 4) for x in digits.images]
    for layer, of_layer in enumerate(found.median):
        moves = sorted(one.residual[layer] for one in alone)
        assert of_layer[3] == pytest.approx(moves[30], abs=1e-6)
    assert by_step.median[0] == pytest.approx(
        sorted(max(one.residual) for one in alone)[30], abs=1e-6
    )


def test_the_difference_is_that_of_the_two_steady_states_divided_by_beta(
    network: LayeredNetwork, digits: Split
) -> None:
    x, y = digits.images[:2], one_hot(digits.labels[:2], 10)
    for beta in (0.3, -0.7):
        found = phases(network, x, y, free_steps=8, nudged_steps=5, beta=beta)
        free = relax(network, x, 8).state
        nudged = relax(network, x, 5, state=free, nudge=Nudge(SquaredError(), y, beta)).state
        for index, (a, b) in enumerate(zip(free, nudged, strict=True)):
            assert torch.equal(found.free[index], a)
            assert torch.equal(found.nudged[index], b)
            assert torch.equal(found.difference[index], (b - a) / beta)
        assert found.residual == max(relax(network, x, 8).residual)


def test_with_symmetric_nudging_the_difference_is_that_of_both_nudged_states(
    network: LayeredNetwork, digits: Split
) -> None:
    x, y = digits.images[:2], one_hot(digits.labels[:2], 10)
    steps: dict[str, Any] = {"free_steps": 8, "nudged_steps": 5}
    up, down = (phases(network, x, y, beta=beta, **steps) for beta in (0.3, -0.3))
    both = phases(network, x, y, beta=0.3, nudging="symmetric", **steps)
    for index, difference in enumerate(both.difference):
        assert torch.equal(both.nudged[index], up.nudged[index])
        # The mean of the two one-sided ones.
        expected = (up.difference[index] + down.difference[index]) / 2
        torch.testing.assert_close(difference, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("beta", [0.01, 2.0, -1.0])
def test_after_one_nudged_step_the_output_differs_by_what_it_lacks(beta: float) -> None:
    """s = ρ(W x + b) − β (s_* − y): divided by β, the difference is y − s_*."""
    torch.manual_seed(0)
    network = PrototypicalNetwork(dense(4, 3)).double()
    x, y = torch.rand(5, 4).double(), torch.rand(5, 3).double()
    found = phases(network, x, y, free_steps=2, nudged_steps=1, beta=beta)
    torch.testing.assert_close(found.difference[0], y - found.free[0])
    # Nothing comes back from above: the first step was the last to move anything.
    assert found.residual == 0


def test_one_step_later_the_nudge_has_not_reached_the_layer_below(exact: PrimitiveModel) -> None:
    if isinstance(exact, LayeredNetwork) and exact.graph.names:
        pytest.skip("in a graph there need be no layer that is the one below")
    x, y = torch.rand(2, 4).double(), torch.rand(2, 3).double()
    one = phases(exact, x, y, free_steps=3000, nudged_steps=1, beta=0.5)
    two = phases(exact, x, y, free_steps=3000, nudged_steps=2, beta=0.5)
    assert one.residual < 1e-12
    assert one.difference[-2].abs().max() < 1e-11 < 1e-6 < two.difference[-2].abs().max()


@pytest.mark.parametrize("free_steps", [1, 2, 3, 10, 20, 100, 237, 5000])
def test_the_numbers_of_steps_are_few_and_t_is_one_of_them(free_steps: int) -> None:
    steps = step_counts(free_steps)
    assert {1, free_steps, 3 * free_steps} <= set(steps)
    assert list(steps) == sorted(set(steps))
    assert steps[0] == 1
    assert steps[-1] == 3 * free_steps
    assert len(steps) <= 15
    if free_steps >= 100:
        assert len(steps) >= 14


def test_every_weight_stands_where_its_pixel_is() -> None:
    (found,) = weight_images(PrototypicalNetwork(dense(12, 100, 5)), (1, 3, 4))
    assert (found.kind, found.size) == ("units", (100, 1))
    assert found.images.shape == (64, 1, 3, 4)
    network = PrototypicalNetwork(dense(12, 100, 5))
    weight = network.chain[0].get_parameter("weight").detach()
    (found,) = weight_images(network, (1, 3, 4))
    for place in (0, 20, 63):
        for row, column in ((0, 0), (1, 3), (2, 1)):
            pixel = weight[found.upper[place], 4 * row + column]
            assert found.images[place, 0, row, column] == pixel.double()


@pytest.mark.parametrize(
    ("shape", "image"),
    [((12,), (1, 1, 12)), ((3, 4), (1, 3, 4)), ((2, 2, 3, 1), (4, 3, 1))],
    ids=str,
)
def test_the_weights_of_what_is_no_image_are_laid_out_as_it_is(
    shape: tuple[int, ...], image: tuple[int, ...]
) -> None:
    network = PrototypicalNetwork(dense(12, 7, 5))
    (found,) = weight_images(network, shape)
    weight = network.chain[0].get_parameter("weight").detach()
    assert torch.equal(found.images, weight.double().view(7, *image))


def test_convolutions_above_the_first_have_a_kernel_for_every_pair_of_channels() -> None:
    first = ConvPool((1, 28, 28), 40, 5)
    second = ConvPool(first.upper_shape, 50, 3)
    network = PrototypicalNetwork([first, second, Dense(second.upper_shape, 10)])
    one, two = weight_images(network, (1, 28, 28))
    assert one.images.shape == (40, 1, 5, 5)
    assert two.images.shape == (32, 32, 3, 3)
    assert (two.layer, two.size) == ("hidden layer 2", (50, 40))
    weight = second.weight.detach()
    expected = weight[two.upper[7], two.lower[30]].double()
    assert torch.equal(two.images[7, 30], expected)


def test_of_untied_weights_the_forward_ones_are_shown() -> None:
    first = ConvPool((1, 12, 12), 4, kernel=3)
    chain = [first, ConvPool(first.upper_shape, 6, kernel=3), Dense((6, 1, 1), 10)]
    shown = weight_images(PrototypicalNetwork(untied(chain, 180.0)), (1, 12, 12))
    for connection, kernels in zip(chain, shown, strict=False):
        assert torch.equal(kernels.images, connection.weight.detach().double())


def test_evenly_chosen_numbers_are_spread_over_all() -> None:
    assert evenly(5, 8) == (0, 1, 2, 3, 4)
    assert evenly(8, 4) == (0, 2, 4, 6)
    assert len(set(evenly(100, 64))) == 64


# What it draws


@pytest.mark.parametrize(
    "words",
    [
        ["--hidden", "--learning-rates", "0.1"],
        ["--network", "real-time", "--hidden", "9", "--activation", "tanh", "--no-clip"],
        ["digits-conv", "--channels", "4", "6", "--weight-angle", "90"],
        *(
            pytest.param(words, marks=pytest.mark.exhaustive)
            for words in (
                ["--hidden", "9", "7", "--learning-rates", "0.1", "0.1", "0.1"],
                ["--network", "real-time", "--hidden", "9"],
                ["digits-conv", "--channels", "4", "6"],
                [
                    "digits-conv",
                    "--channels",
                    "4",
                    "6",
                    "--pooling",
                    "average",
                    "--network",
                    "real-time",
                ],
                [
                    "digits-conv",
                    "--channels",
                    "20",
                    "--pool",
                    "1",
                    "--padding",
                    "0",
                    "--hidden",
                    "9",
                ],
                [
                    "--hidden",
                    "9",
                    "--estimator",
                    "bptt",
                    "--tolerance",
                    "1e-3",
                    "--dtype",
                    "float64",
                ],
                [
                    "--hidden",
                    "9",
                    "--estimator",
                    "rbp",
                    "--free-steps",
                    "40",
                    "--updates",
                    "alternating",
                ],
                ["--hidden", "9", "--nudging", "one-sided", "--beta", "-0.5", "--free-steps", "1"],
                ["digits-c-vf", "--hidden", "9", "7", "--learning-rates", "0.1", "0.1", "0.1"],
            )
        ),
    ],
    ids=" ".join,
)
def test_every_network_that_can_be_trained_can_be_looked_at(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path / "run", *words)
    capsys.readouterr()
    found = show(run, "--test-samples", "50", "--sample", "3")
    convolutions = found["kernels"][1:]
    expected = [*PICTURES, *(f"kernels-{n}.png" for n in range(2, len(convolutions) + 2))]
    assert sorted(found["pictures"]) == sorted(expected)
    for name in expected:
        assert (run / "pictures" / name).read_bytes().startswith(PNG)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert str(run / "pictures") in captured.out.splitlines()[-2]
    experiment = json.loads((run / "config.json").read_text())["experiment"]
    for name in ("free_steps", "nudged_steps", "beta"):
        assert found[name] == experiment[name]
    assert found["steps"]["samples"] == 50


@pytest.mark.usefixtures("no_pictures")
def test_the_error_at_t_is_what_evaluate_says(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = show(trained)
    assert found["steps"]["samples"] == 360  # of 1000 wanted, all that there are
    for t in (6, 18):
        capsys.readouterr()
        assert main(["evaluate", str(trained), "--free-steps", str(t), "--json"]) == 0
        expected = json.loads(capsys.readouterr().out)["error"]
        assert found["steps"]["error"][found["steps"]["steps"].index(t)] == expected


@pytest.mark.usefixtures("no_pictures")
def test_the_sample_is_that_of_the_test_set_and_the_weights_those_of_the_checkpoint(
    trained: Path,
) -> None:
    found = show(trained, "--sample", "359", "--free-steps", "7", "--beta", "-0.25")
    experiment = RunFolder(trained).read_config().experiment
    network = build_network(experiment, (1, 8, 8), 10)
    Checkpoint.load(RunFolder(trained).checkpoint).restore_model(network)
    data = load_dataset("digits").test
    x, y = data.images[359:], one_hot(data.labels[359:], 10)
    with torch.no_grad():
        free = relax(network, x, 7).state
        nudged, opposite = (
            relax(network, x, 3, state=free, nudge=Nudge(SquaredError(), y, beta)).state
            for beta in (-0.25, 0.25)
        )
    assert found["nudging"] == "symmetric"
    assert found["states"]["label"] == data.labels[359]
    assert found["states"]["free"] == free[-1][0].tolist()
    assert found["states"]["difference"] == ((nudged[-1] - opposite[-1]) / -0.5)[0].tolist()
    outputs = found["convergence"]["outputs"]
    assert outputs[0] == [0] * 10  # s₀ = 0
    assert outputs[7] == free[-1][0].tolist()
    assert len(outputs) == 1 + 21


@pytest.mark.usefixtures("no_pictures")
def test_json_prints_what_it_writes(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    found = show(trained, "--json", "--nudged-steps", "2")
    assert json.loads(capsys.readouterr().out) == found
    assert found["nudged_steps"] == 2


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    "words", [[], ["--test-samples", "0"], ["--settle", "0.05"]], ids=["run", "all", "settle"]
)
def test_every_bar_counts_one_thing_and_comes_to_its_end(
    words: list[str], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eqprop.analysis import convergence
    from eqprop.cli import show as command

    bars: list[list[Any]] = []

    class Counting:
        def __init__(self, total: int, unit: str) -> None:
            bars.append([unit, total, 0])

        def __enter__(self) -> Any:
            def tick(_: object) -> None:
                bars[-1][2] += 1

            return tick

        def __exit__(self, *_: object) -> None: ...

    taken = {"steps": 0}

    def counted(*args: Any, _true: Any = convergence.transitions, **keywords: Any) -> Any:
        for step in _true(*args, **keywords):
            taken["steps"] += 1
            yield step

    monkeypatch.setattr(command, "Progress", Counting)
    monkeypatch.setattr(convergence, "transitions", counted)
    show(trained, *words)
    assert [unit for unit, _, _ in bars] == ["phase", "step"]
    assert all(total == ticked for _, total, ticked in bars)
    # A step is one that a mini-batch takes, whichever it is.
    assert bars[1][1] == taken["steps"]


# How many steps it needs


SETTLE = ("--settle", "0.05", "--most-steps", "60")


@pytest.mark.usefixtures("no_pictures")
def test_t_and_k_are_chosen_by_a_tolerance_and_taken(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    found = show(trained, *SETTLE)
    said = capsys.readouterr().out
    T, K = found["free_steps"], found["nudged_steps"]
    settling = found["settling"]
    assert (settling["free_steps"], settling["nudged_steps"]) == (T, K)
    assert settling["tolerance"] == 0.05
    # All the test samples there are, as many as 99 % of which T settles, and T − 1 does not.
    steps = settling["free"]["steps"]
    assert len(steps) == 360
    assert sum(n is not None and n <= T for n in steps) >= 0.99 * 360
    assert sum(n is not None and n <= T - 1 for n in steps) < 0.99 * 360
    sentence = f"T = {T} and K = {K} settle 99 % of the 360 samples to 0.05"
    assert settling["said"] == sentence
    assert said.splitlines()[0] == sentence
    assert f"drawn with T = {T}, K = {K}" in said
    table = said.split("steps until rest")[1].splitlines()
    assert [line.split("  ")[0] for line in table[1:4]] == [
        "free phase",
        "nudged (β = +0.5)",
        "nudged (β = -0.5)",
    ]
    assert all(len(line) <= 80 for line in table[:4])


@pytest.mark.usefixtures("no_pictures")
def test_t_and_k_are_those_that_the_run_itself_would_take(trained: Path) -> None:
    """A phase that ends by the same tolerance ends, but for the checks, within T and K steps."""
    found = show(trained, *SETTLE)
    experiment = RunFolder(trained).read_config().experiment
    network = build_network(experiment, (1, 8, 8), 10)
    Checkpoint.load(RunFolder(trained).checkpoint).restore_model(network)
    relaxed = relax(network, load_dataset("digits").test.images, 60, tolerance=0.05, check_every=1)
    steps = zip(relaxed.steps.tolist(), relaxed.rests(), strict=True)
    expected = [n if rests else None for n, rests in steps]
    assert found["settling"]["free"]["steps"] == expected


@pytest.mark.usefixtures("no_pictures")
def test_steps_that_are_given_are_taken_all_the_same(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = show(trained, *SETTLE)
    capsys.readouterr()
    found = show(trained, *SETTLE, "--nudged-steps", "2")
    assert (found["free_steps"], found["nudged_steps"]) == (chosen["free_steps"], 2)
    assert found["settling"]["nudged_steps"] == chosen["nudged_steps"]
    assert f"drawn with T = {found['free_steps']}, K = 2: " in capsys.readouterr().out


@pytest.mark.usefixtures("no_pictures")
def test_without_a_tolerance_the_run_is_drawn_as_it_is_and_compared(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    found = show(trained)
    assert (found["free_steps"], found["nudged_steps"]) == (6, 3)
    assert found["settling"]["tolerance"] == 1e-3
    within = sum(n is not None and n <= 6 for n in found["settling"]["free"]["steps"]) / 360
    assert found["settling"]["run"]["free_share"] == pytest.approx(within)
    said = capsys.readouterr().out
    assert "\nthe run's T = 6 settles " in said
    assert "drawn with" not in said
    # A run that has a tolerance is judged by it.
    own = train(tmp_path / "own", "--hidden", "4", "--settle", "0.2")
    assert show(own)["settling"]["tolerance"] == 0.2
    assert show(own, "--settle", "0.3")["settling"]["tolerance"] == 0.3


@pytest.mark.usefixtures("no_pictures")
def test_no_t_is_invented_where_too_few_samples_rest(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    found = show(trained, "--settle", "1e-30", "--most-steps", "7")
    said = capsys.readouterr().out
    assert found["settling"]["free_steps"] is None
    assert (found["free_steps"], found["nudged_steps"]) == (6, 3)
    assert said.startswith("no T settles 99 % of the 360 samples to 1e-30: in the free phase ")
    assert "expected a larger tolerance or more steps" in said.replace(
        "alternating updates (no two-cycles where ρ ≥ 0), ", ""
    )
    assert "--most-steps" in said
    assert "> 7" in said


@pytest.mark.parametrize("residuals", [[0.5, 1e-9, 0.0], [0.0, 0.0], [1e30, 1.0, 1e-40], [0.3]])
def test_a_residual_of_exactly_zero_survives_the_logarithm(residuals: list[float]) -> None:
    axes = Figure().add_subplot()
    axes.plot(residuals)
    residual_axis(axes, residuals)
    box = axes.get_window_extent()
    heights = [axes.transData.transform((0, value))[1] for value in residuals]
    assert all(box.y0 <= height <= box.y1 for height in heights)
    assert sorted(heights, reverse=True) == heights
    assert len(set(heights)) == len(set(residuals))


def test_a_rerun_replaces_its_pictures_and_leaves_all_else_alone(
    trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convolutional = train(tmp_path / "conv", "digits-conv", "--channels", "3", "4")
    assert main(["show", str(convolutional), "--out", str(out)]) == 0
    assert (out / "kernels-2.png").exists()
    (out / "kernels-mine.png").write_text("mine")
    (out / "kernels-2024.png").write_text("mine")
    (out / "states.png").write_text("torn")
    before = files(trained)
    assert main(["show", str(trained), "--out", str(out)]) == 0
    assert files(trained) == before
    assert {path.name for path in out.iterdir()} - {".lock"} == {
        *PICTURES,
        "kernels-2024.png",
        "kernels-mine.png",
        "show.json",
    }
    for name in PICTURES:
        content = (out / name).read_bytes()
        assert content.startswith(PNG)
        assert content.endswith(b"IEND\xaeB`\x82")
    assert (out / "kernels-mine.png").read_text() == "mine"
    assert json.loads((out / "show.json").read_text())["of"] == "digits"


def test_pictures_of_others_are_not_drawn_over(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "theirs"
    out.mkdir()
    (out / "states.png").write_text("theirs")
    assert main(["show", str(trained), "--out", str(out)]) == 2
    assert "found states.png; choose another --out" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["states.png"]


@pytest.mark.usefixtures("no_pictures")
def test_a_run_that_still_trains_can_be_looked_at(trained: Path) -> None:
    with RunFolder(trained).claimed():
        assert show(trained)["epoch"] == 1


def test_a_folder_of_any_name_is_drawn(tmp_path: Path) -> None:
    show(train(tmp_path / "a$b^$c é", "--hidden", "4"))


# What it refuses


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sample", "360"], "sample = 360: expected a number from 0 to 359"),
        (["--sample", "-1"], "sample = -1: expected a whole number of at least 0"),
        (["--sample", "first"], "sample = first: expected a whole number"),
        (["--test-samples", "1e3"], "test_samples = 1e3: expected a whole number"),
        (["--free-steps", "0"], "free_steps = 0: expected a whole number of at least 1"),
        (["--nudged-steps", "x"], "nudged_steps = x: expected a whole number"),
        (["--beta", "0"], "beta = 0.0: expected a finite number other than 0"),
        (["--settle", "-1"], "tolerance = -1.0: expected a finite number >= 0"),
        (["--most-steps", "0"], "most_steps = 0: expected a whole number of at least 1"),
        (["--device", "tpu"], "device = tpu: expected cpu, cuda or cuda:N"),
        (["--device", "cuda:77"], "device = cuda:77: expected cpu"),
        (["--sampel", "1"], "did you mean --sample?"),
    ],
)
def test_bad_usage_is_refused_on_one_line(
    words: list[str], said: str, trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert said in refusal(capsys, 2, str(trained), *words, "--out", str(out))
    assert not out.exists()


def test_pictures_cannot_go_where_a_file_is(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for out in ("file", "file/below"):
        line = refusal(capsys, 2, str(trained), "--out", str(tmp_path / out))
        assert "expected a folder, but" in line
        assert "is a file; choose another --out" in line


def test_what_is_no_whole_run_is_a_failure(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "found no config.json in it" in refusal(capsys, 1, str(tmp_path))
    assert "found no such folder" in refusal(capsys, 1, str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_bytes((trained / "config.json").read_bytes())
    line = refusal(capsys, 1, str(tmp_path))
    assert "found no such file; train it first, with: eqprop train --resume" in line
    (tmp_path / "metrics.jsonl").write_bytes((trained / "metrics.jsonl").read_bytes())
    assert "found no such file; it is lost: restore it" in refusal(capsys, 1, str(tmp_path))
    checkpoint = RunFolder(tmp_path).checkpoint
    checkpoint.parent.mkdir()
    content = RunFolder(trained).checkpoint.read_bytes()
    checkpoint.write_bytes(content[:-9])
    assert "damaged" in refusal(capsys, 1, str(tmp_path))
    checkpoint.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    assert "altered" in refusal(capsys, 1, str(tmp_path))
    assert not (tmp_path / "pictures").exists()


def test_absent_data_is_a_failure(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from eqprop.data.archives import DataError
    from eqprop.runs import trained as trained_run

    def absent(*_: object) -> None:
        raise DataError("digits: expected its archives, found none")

    monkeypatch.setattr(trained_run, "build_data", absent)
    assert "expected its archives" in refusal(capsys, 1, str(trained))


def test_a_state_that_stops_being_finite_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # s ← (1 − ε) s + …: beyond ε = 2 every step makes it larger, here by a factor of 4.
    words = ["--network", "real-time", "--no-clip", "--activation", "tanh", "--epsilon", "5"]
    run = train(tmp_path / "run", *words, "--free-steps", "2", "--nudged-steps", "1")
    line = refusal(capsys, 1, str(run), "--free-steps", "200")
    assert "stopped being finite in the free phase" in line
    assert "of 200" in line
    # It is the one that has the fault, or what it is looked at with.
    assert f"{RunFolder(run).checkpoint} with free_steps = 200: " in line
    assert "of 150" in refusal(capsys, 1, str(run), "--free-steps", "50")
    assert not (run / "pictures").exists()


def test_help_answers_without_torch() -> None:
    script = (
        "import sys; from eqprop.cli.main import main\n"
        "try: main(['show', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    for name in (*PICTURES, "show.json"):
        assert name in said


def test_a_folder_that_is_no_run_says_which_runs_are_near(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.json").write_text("{}")
    near = f"; there is {tmp_path / 'runs' / 'mine'}"
    for other in (tmp_path / "runs", tmp_path / "runs" / "other"):
        assert near in refusal(capsys, 1, str(other))
