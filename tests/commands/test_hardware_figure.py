"""``eqprop reproduce hardware``: who stands what of a device."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from eqprop.cli.main import main
from eqprop.figures import HARDWARE, HardwareSettings
from eqprop.figures.run import PlannedRun
from eqprop.settings import PRESETS

FAULTS = ("state_noise", "weight_bits", "gain_spread", "synapse_spread", "write_nonlinearity")


class Trained:
    """A run that came to this test error."""

    failed = None
    machine = "a core, 1 thread"

    def __init__(self, planned: PlannedRun, error: float | None) -> None:
        self.planned, self.name = planned, planned.name
        self.history = [] if error is None else [{"seconds": 1.0, "test_error": error}]
        self.finished = error is not None
        self.row = {"name": self.name, "epochs": len(self.history)}


def made(settings: HardwareSettings, errors: Sequence[float | None]) -> dict[str, Any]:
    runs: list[Any] = [
        Trained(run, error) for run, error in zip(HARDWARE.runs(settings), errors, strict=True)
    ]
    return HARDWARE.result(settings, runs)


def test_every_rule_learns_on_the_ideal_device_and_on_one_fault_at_a_time() -> None:
    runs = HARDWARE.runs(HardwareSettings())
    ideal = PRESETS["digits"].experiment
    devices = set()
    for run in runs:
        faults = tuple(
            name
            for name in (*FAULTS, "flip_threshold")
            if getattr(run.experiment, name) != getattr(ideal, name)
        )
        assert len(faults) <= 1
        devices.add(faults)
        assert run.experiment.epochs == 10
    assert devices == {(), *((name,) for name in (*FAULTS, "flip_threshold"))}
    estimators = {run.experiment.estimator for run in runs}
    assert estimators == {"ep", "holomorphic-ep", "c-ep", "bptt"}
    assert {run.experiment.seed for run in runs} == {0, 1, 2}
    assert len({run.name for run in runs}) == len(runs) == 17 * 5 * 3
    quick = HARDWARE.runs(HardwareSettings(quick=True))
    assert len(quick) == 6 * 5
    assert {(run.experiment.epochs, run.experiment.seed) for run in quick} == {(2, 0)}


def test_on_mnist_c_ep_has_the_published_rates_in_proportion_to_beta() -> None:
    runs = HARDWARE.runs(HardwareSettings(dataset="mnist", rules=("c-ep",)))
    published = PRESETS["c-ep-1h"].experiment
    for run in runs:
        rates = zip(run.experiment.learning_rates, published.learning_rates, strict=True)
        for here, there in rates:
            assert here / run.experiment.beta == pytest.approx(there / published.beta)


def test_runs_of_a_seed_differ_in_the_fault_and_what_estimates_alone() -> None:
    settings = HardwareSettings(seeds=(3,), faults=("noise",), rules=("symmetric",))
    ideal, *noisy = HARDWARE.runs(settings)
    assert len(noisy) == 3
    for run in noisy:
        sigma = run.experiment.state_noise
        assert run.experiment == ideal.experiment.override({"state_noise": sigma})
        assert sigma > 0


def test_a_row_is_a_device_and_a_column_a_rule_with_mean_and_spread_of_the_seeds() -> None:
    settings = HardwareSettings(faults=("writes",), rules=("ep", "bptt"), seeds=(0, 1))
    found = made(settings, [1, 3, 2, 2, 4, 8, 5, 5, 6, 6, 7, None])
    (table,) = HARDWARE.tables(found)
    assert list(table.columns) == ["fault", "", "ep", "bptt"]
    assert table.words == [
        ["none", "none", "2.00 ± 1.41", "2.00 ± 0.00"],
        ["writes", "1", "6.00 ± 2.83", "5.00 ± 0.00"],
        ["writes", "3", "6.00 ± 0.00", "7.00"],
    ]
    assert "n = 1–2" in table.note


def test_it_is_drawn_a_panel_per_fault_as_far_as_it_is_done(tmp_path: Path) -> None:
    settings = HardwareSettings(faults=("noise", "bits"), rules=("ep", "bptt"), seeds=(0,))
    runs = HARDWARE.runs(settings)
    HARDWARE.draw(settings, made(settings, [None] * len(runs)), tmp_path)
    assert not list(tmp_path.iterdir())
    errors = [None if run.experiment.weight_bits == 3 else 5.0 for run in runs]
    HARDWARE.draw(settings, made(settings, errors), tmp_path)
    written = ElementTree.parse(tmp_path / "hardware.svg").getroot()
    said = " ".join("".join(written.itertext()).split())
    for word in ("noise on states, σ", "bits of a weight", "EP, one-sided", "BPTT", "digits"):
        assert word in said
    assert (tmp_path / "hardware.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--faults", "rust"], "faults = rust"),
        (["--rules"], "rules = (nothing)"),
        (["--rules", "ep", "ep"], "rules = ep ep"),
        (["--epochs", "0"], "epochs = 0"),
        (["--seeds", "1", "1"], "seeds = 1 1"),
    ],
)
def test_bad_settings_are_refused_in_a_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert main(["reproduce", "hardware", *words, *out]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_it_is_made_in_one_command(tmp_path: Path) -> None:
    words = "reproduce hardware --faults noise --rules symmetric --seeds 0 --epochs 1"
    assert main([*words.split(), "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "hardware.json").read_text())
    assert [cell["strength"] for cell in found["cells"]] == ["none", "0.02", "0.04", "0.1"]
    assert all(len(cell["test_errors"]) == 1 for cell in found["cells"])
    assert (tmp_path / "out" / "hardware.png").exists()
