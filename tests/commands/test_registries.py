"""What can be chosen by name is added in one place, by one line, and offered everywhere."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import pytest
import torch
from torch import Tensor

from eqprop import runs
from eqprop.cli.main import main
from eqprop.core.activations import Activation, as_activation
from eqprop.core.costs import Cost, SquaredError
from eqprop.core.models import ConvergentModel
from eqprop.data.dataset import Source
from eqprop.errors import Failure, UsageError
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.estimator import Estimate, Estimator
from eqprop.registries import ACTIVATIONS, COSTS, DATASETS, ESTIMATORS, Registry
from eqprop.settings.experiment import Experiment
from eqprop.settings.presets import PRESETS, Preset

REGISTRIES = (ESTIMATORS, COSTS, ACTIVATIONS, DATASETS)
QUICK = ["--epochs", "2", "--free-steps", "6", "--nudged-steps", "3", "--batch-size", "200"]


@final
@dataclass(frozen=True)
class Weak(Estimator):
    """EP with a β of its own; of the settings it asks for some alone."""

    free_steps: int
    nudged_steps: int
    cost: Cost

    def estimate(
        self,
        model: ConvergentModel,
        x: Tensor,
        target: Tensor,
        generator: torch.Generator | None,
    ) -> Estimate:
        ep = EquilibriumPropagation(self.free_steps, self.nudged_steps, 0.1, cost=self.cost)
        return ep(model, x, target, generator)


@final
class Triple(Cost):
    """Three times the squared error."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return 3 * SquaredError()(output, target)


def bars(_: str | Path | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images of 2×3 pixels whose bright column is their class."""
    labels = np.arange(60) % 3
    images = np.zeros((60, 2, 3))
    images[np.arange(60), :, labels] = 4
    return images, labels, images[:12], labels[:12]


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_own", dict(registry._own))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command that succeeds prints."""
    capsys.readouterr()
    try:
        assert main(words) == 0
    except SystemExit as end:  # --help
        assert end.code == 0
    return capsys.readouterr().out


# A registry


def test_an_estimator_that_asks_for_what_is_no_setting_is_refused_in_words() -> None:
    ESTIMATORS.add("odd", lambda free_steps, temperature: None)
    with pytest.raises(UsageError, match="estimator = odd: .* asks for temperature; give it a def"):
        runs.build_learner(Experiment(estimator="odd"))


def test_a_function_may_be_added_as_an_activation() -> None:
    ACTIVATIONS.add("leaky", torch.nn.functional.leaky_relu)
    s = torch.tensor([-2.0, 3.0])
    rho = as_activation("leaky")
    assert rho(s).tolist() == pytest.approx([-0.02, 3.0])
    assert rho.derivative(s, rho(s)).tolist() == pytest.approx([0.01, 1.0])


def test_names_come_in_their_order_and_can_be_had_when_asked_for() -> None:
    registry = Registry("shape", "eqprop.shapes", {"b": ("math:pi", "round"), "a": ("no:x", "")})
    assert list(registry) == ["b", "a"]
    assert registry["b"] == "round"
    assert registry.load("b") == 3.141592653589793
    with pytest.raises(Failure, match="shape a: expected to find no:x, found No module named 'no'"):
        registry.load("a")  # only now: to be listed it need not be there
    with pytest.raises(ValueError, match="shape: expected one of b, a, got 'c'"):
        registry.load("c")
    registry.add("c", [1], "mine")
    registry.add("d", "math:e")
    assert list(registry) == ["b", "a", "c", "d"]
    assert registry.load("c") == [1]
    assert registry.load("d") == pytest.approx(2.718281828459045)
    registry.add("b", "math:tau", "rounder")
    assert (registry["b"], registry.load("b")) == ("rounder", 2 * 3.141592653589793)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_everything_registered_is_there(registry: Registry) -> None:
    assert len(registry) == len(list(registry)) > 0
    for name in registry:
        assert registry[name]
        assert registry.load(name) is not None


# Added at run time: an object and a line


def test_an_estimator_that_is_added_is_offered_trains_and_is_benchmarked(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ESTIMATORS.add("weak", Weak, "EP at a small beta")
    assert "weak: EP at a small beta" in " ".join(printed(capsys, "train", "--help").split())
    assert "weak" in printed(capsys, "bench", "--help")
    words = ["train", *QUICK, "--hidden", "8", "--estimator", "weak", "--out", "r", "--json"]
    assert json.loads(printed(capsys, *words))["epoch"] == 2
    assert json.loads(Path("r/config.json").read_text())["experiment"]["estimator"] == "weak"
    monkeypatch.setattr(
        runs, "time_batch", lambda *given: runs.time_batch_here(*given, seconds=0.01)
    )
    words = ["bench", "digits", "--estimator", "weak", "ep", "--json"]
    assert [row["estimator"] for row in json.loads(printed(capsys, *words))] == ["weak", "ep"]


def test_a_cost_that_is_added_is_what_a_run_is_trained_and_looked_at_with(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """3ℓ with β is 3 times ℓ with 3β, in EP and, but for the β, in BPTT."""
    COSTS.add("triple", Triple, "3 times as much")
    assert "triple: 3 times as much" in " ".join(printed(capsys, "train", "--help").split())
    # Learning rates of 0 leave both networks as they were.
    same = ["train", *QUICK, "--hidden", "8", "--learning-rates", "0", "0", "--dtype", "float64"]
    same += ["--nudging", "one-sided"]
    loss, phases, error = {}, {}, {}
    for cost, beta in (("squared-error", "0.03"), ("triple", "0.01")):
        trained = json.loads(printed(capsys, *same, "--cost", cost, "--out", cost, "--json"))
        loss[cost] = json.loads(printed(capsys, "evaluate", cost, "--json"))["loss"]
        assert loss[cost] == trained["test_loss"]
        shown = json.loads(printed(capsys, "show", cost, "--beta", beta, "--json"))
        phases[cost] = shown["states"]["difference"]
        words = ["theorem", cost, "--beta", beta, "--out", f"theorem-{cost}", "--json"]
        error[cost] = json.loads(printed(capsys, *words))["overall"]["states"]["relative_error"]
    assert loss["triple"] == pytest.approx(3 * loss["squared-error"], rel=1e-12)
    assert phases["triple"] == pytest.approx([3 * d for d in phases["squared-error"]], rel=1e-9)
    assert error["triple"] == pytest.approx(error["squared-error"], rel=1e-6)


def test_an_activation_that_is_added_is_that_of_the_network(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = Activation("slow", lambda s: s.sigmoid(), lambda _, rho: rho * (1 - rho))
    ACTIVATIONS.add("slow", slow)
    assert "scaled-sigmoid,hard-sigmoid,half-hard-sigmoid,tanh,slow" in printed(
        capsys, "train", "--help"
    )
    words = ["train", *QUICK, "--hidden", "8", "--activation", "slow", "--out", "r"]
    assert main(words) == 0
    assert runs.open_run(Path("r")).network.activation is slow
    assert main(["theorem", "r", "--out", "t"]) == 0
    ACTIVATIONS.add("stuck", torch.relu)
    assert main(["train", *QUICK, "--activation", "stuck", "--network", "real-time"]) == 2
    assert "activation = stuck: rho: expected a function with a slope" in capsys.readouterr().err


def test_a_data_set_that_is_added_gives_the_network_its_shape_and_is_learnt(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    DATASETS.add("bars", Source((1, 2, 3), 3, 4, bars), "2×3")
    assert "bars: 2×3" in printed(capsys, "train", "--help")
    words = [
        "train",
        "--dataset",
        "bars",
        "--hidden",
        "8",
        "--epochs",
        "40",
        "--out",
        "r",
        "--json",
    ]
    assert json.loads(printed(capsys, *words))["test_error"] == 0
    network = runs.open_run(Path("r")).network
    assert network.shapes == ((8,), (3,))
    assert main(["show", "r"]) == 0
    assert main(["theorem", "r", "--out", "t", "--batch-size", "10"]) == 0
    preset = Preset("my own", Experiment(dataset="bars", hidden=(8,)))
    monkeypatch.setitem(PRESETS, "mine", preset)
    monkeypatch.setattr(
        runs, "time_batch", lambda *given: runs.time_batch_here(*given, seconds=0.01)
    )
    assert json.loads(printed(capsys, "bench", "mine", "--json"))[0]["preset"] == "mine"


def rows(_: str | Path | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A table of five features, of either sign, the largest of which is the class."""
    labels = np.arange(60) % 3
    table = np.random.RandomState(0).uniform(-2, 1, (60, 5))
    table[np.arange(60), labels] = 4
    return table, labels, table[:12], labels[:12]


def test_a_table_that_is_added_is_learnt_evaluated_drawn_and_measured(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    DATASETS.add("rows", Source((5,), 3, 4, rows))
    words = ["train", "--dataset", "rows", "--hidden", "8", "--epochs", "40", "--out", "r"]
    assert json.loads(printed(capsys, *words, "--json"))["test_error"] == 0
    assert printed(capsys, "evaluate", "r")
    assert main(["show", "r"]) == 0
    assert {path.name for path in Path("r/pictures").iterdir()} >= {"kernels.png", "states.png"}
    assert main(["theorem", "r", "--out", "t", "--batch-size", "10"]) == 0
    assert main([*words[:-1], "s", "--shift", "1"]) == 2
    assert "shift = 1: expected 0, as inputs of shape (5,)" in capsys.readouterr().err
    assert main([*words[:-1], "s", "--channels", "4", "--learning-rates", "1", "1", "1"]) == 2
    assert "expected a lower layer of shape (channels, height, width)" in capsys.readouterr().err
    monkeypatch.setitem(PRESETS, "mine", Preset("mine", Experiment(dataset="rows", hidden=(8,))))
    monkeypatch.setattr(
        runs, "time_batch", lambda *given: runs.time_batch_here(*given, seconds=0.01)
    )
    assert json.loads(printed(capsys, "bench", "mine", "--json"))[0]["preset"] == "mine"


def test_a_preset_is_an_entry_or_a_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment(hidden=(7,), epochs=1, batch_size=200)
    monkeypatch.setitem(PRESETS, "mine", Preset("my own", experiment, "1.00"))
    assert "\nmine " in printed(capsys, "presets")
    assert main(["train", "mine", "--out", "entry"]) == 0
    Path("mine.toml").write_text("hidden = [7]\nepochs = 1\nbatch_size = 200\n")
    assert main(["train", "--config", "mine.toml", "--out", "file"]) == 0
    entry, file = (runs.RunFolder(Path(name)).read_config() for name in ("entry", "file"))
    assert entry.experiment == file.experiment == experiment
    assert entry.preset == "mine"


# Added by a package that is installed: a file and a line

PACKAGE = """
import numpy as np
from eqprop.core import Activation, Cost
from eqprop.data import Source
from eqprop.estimators import EquilibriumPropagation


def Weak(free_steps, nudged_steps, cost):
    return EquilibriumPropagation(free_steps, nudged_steps, 0.1, cost=cost)


class Quartic(Cost):
    def __call__(self, output, target):
        return 0.25 * (output - target).pow(4).flatten(1).sum(1)


SLOW = Activation("slow", lambda s: s.sigmoid(), lambda _, rho: rho * (1 - rho))


def bars(_):
    labels = np.arange(60) % 3
    images = np.zeros((60, 2, 3))
    images[np.arange(60), :, labels] = 4
    return images, labels, images[:12], labels[:12]


BARS = Source((1, 2, 3), 3, 4, bars)
"""

ENTRY_POINTS = """
[eqprop.estimators]
weak = mine.package:Weak
ep = mine.package:Weak

[eqprop.costs]
quartic = mine.package:Quartic

[eqprop.activations]
slow = mine.package:SLOW

[eqprop.datasets]
bars = mine.package:BARS
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an installed package."""
    site = tmp_path_factory.mktemp("site")
    (site / "mine").mkdir()
    (site / "mine" / "package.py").write_text(PACKAGE)
    information = site / "mine_for_eqprop-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mine-for-eqprop\nVersion: 1.0\n"
    )
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    return site


def elsewhere(site: Path, folder: Path, *commands: list[str], check: str = "") -> str:
    """What commands print in a process in which the package is installed."""
    code = (
        "import sys; from eqprop.cli.main import main\n"
        f"for words in {commands!r}:\n"
        "    try: status = main(words)\n"
        "    except SystemExit as end: status = end.code\n"
        "    assert status == 0, words\n"
        f"{check}\n"
    )
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_an_installed_package_offers_is_listed_without_importing_it(
    site: Path, tmp_path: Path
) -> None:
    said = elsewhere(
        site,
        tmp_path,
        ["train", "--help"],
        ["bench", "--help"],
        check="assert 'torch' not in sys.modules and 'mine' not in sys.modules",
    )
    for name in ("weak", "quartic", "slow", "bars"):
        assert f"{name}:ofmine-for-eqprop" in "".join(said.split())
    # What the library says under a name is not taken over.
    assert "ep: equilibrium propagation" in said


def test_what_an_installed_package_offers_can_be_used_from_the_command_line(
    site: Path, tmp_path: Path
) -> None:
    chosen = ["--dataset", "bars", "--cost", "quartic", "--activation", "slow"]
    elsewhere(
        site,
        tmp_path,
        ["train", *chosen, "--estimator", "weak", "--hidden", "8", "--epochs", "2", "--out", "r"],
        ["train", "--resume", "r", "--epochs", "3"],
        ["evaluate", "r"],
        ["show", "r"],
        ["theorem", "r", "--out", "t", "--batch-size", "10"],
    )
    experiment = json.loads((tmp_path / "r/config.json").read_text())["experiment"]
    for option, name in zip(chosen[::2], chosen[1::2], strict=True):
        assert experiment[option[2:]] == name
    assert len((tmp_path / "r/metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.exhaustive
def test_an_estimator_of_an_installed_package_is_benchmarked(site: Path, tmp_path: Path) -> None:
    said = elsewhere(site, tmp_path, ["bench", "digits", "--estimator", "weak", "--json"])
    (row,) = json.loads(said)
    assert (row["preset"], row["estimator"]) == ("digits", "weak")
    assert row["u"] > 0
