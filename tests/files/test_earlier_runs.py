"""Runs that earlier versions began go on as they would have gone on there."""

import json
import shutil
from pathlib import Path

import pytest

from eqprop.cli.main import main

EARLIER = Path(__file__).parent / "runs_of_0.1"
"""Folders of runs that were killed after two of four epochs, and the metrics of all four."""


@pytest.mark.parametrize("name", ["ep", "c-vf", "conv"])
def test_a_run_begun_by_an_earlier_version_goes_on(name: str, tmp_path: Path) -> None:
    run = tmp_path / name
    shutil.copytree(EARLIER / name, run)
    assert main(["train", f"--resume={run}"]) == 0
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (run / "whole.jsonl").read_text().splitlines()]
    assert len(found) == len(expected) == 4
    for ours, theirs in zip(found, expected, strict=True):
        # Another processor may round otherwise, and so take a sample for another class.
        assert ours["test_loss"] == pytest.approx(theirs["test_loss"], rel=1e-4)
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
        assert ours["test_error"] == pytest.approx(theirs["test_error"], abs=100 / 360)
        assert ours["weight_angles"] == pytest.approx(theirs["weight_angles"], abs=1e-3)
