"""The number of CPU threads that a measurement before training chooses."""

import json
from pathlib import Path

import pytest
import torch

from eqprop import runs
from eqprop.cli.main import main
from eqprop.runs import threads
from eqprop.settings import Experiment

SMALL = Experiment(hidden=(8,), free_steps=3, nudged_steps=2, epochs=1)


def chosen(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> int:
    """What is chosen where a mini-batch takes so long with so many threads."""
    monkeypatch.setattr(threads, "available_cores", lambda: max(seconds))
    monkeypatch.setattr(threads, "seconds_per_batch", lambda *_: seconds[torch.get_num_threads()])
    return runs.fastest_threads(SMALL, runs.build_data(SMALL))


@pytest.mark.parametrize(
    ("seconds", "fastest"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 2: 1.2}, 1),
        ({1: 1.0, 2: 0.6}, 2),
        ({1: 1.0, 2: 0.6, 4: 0.4, 6: 0.35}, 6),
        ({1: 1.0, 2: 0.6, 4: 0.7, 8: 0.1}, 2),
        # What is within the noise is not worth a second thread.
        ({1: 1.0, 2: 0.97}, 1),
    ],
)
def test_more_threads_are_taken_while_they_are_faster(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], fastest: int
) -> None:
    before = torch.get_num_threads()
    assert chosen(monkeypatch, seconds) == fastest
    assert torch.get_num_threads() == before


def test_a_network_that_diverges_is_left_to_the_training_to_blame() -> None:
    wild = SMALL.override({"network": "real-time", "epsilon": 1e30, "clip": False})
    assert runs.fastest_threads(wild, runs.build_data(wild)) >= 1


def test_the_choice_changes_nothing_but_the_threads(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(threads, "available_cores", lambda: 1)
    words = ["train", "--hidden=8", "--free-steps=3", "--nudged-steps=2", "--epochs=1", "--json"]
    found = []
    for own in (["--threads=7", "--auto-threads", "--out=auto"], ["--threads=1"]):
        assert main([*words, *own]) == 0
        said = capsys.readouterr()
        assert ("training with 1 CPU thread\n" in said.err) is (len(own) > 1)
        found.append({**json.loads(said.out), "seconds": None})
    assert found[0] == found[1]
    config = json.loads(Path("auto/config.json").read_text())
    assert config["experiment"]["threads"] == config["environment"]["threads"] == 1


def test_a_resumed_run_keeps_its_threads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", "r", "--auto-threads"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "--auto-threads: expected no --auto-threads with --resume" in said.err
