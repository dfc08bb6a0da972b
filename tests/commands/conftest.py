"""Running a command as a person does, and what stands in for training where none is needed."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eqprop.cli.main import main

Run = Callable[..., tuple[int, str, str]]

# Takes the words of `eqprop train` and leaves the files of a run, but learns nothing: the test
# error is what the name of its folder has after "angle", less the epoch.
TRAINER = """
import argparse, json, os, sys, time
from pathlib import Path
from eqprop.cli.options import add_options, given
from eqprop.settings import Experiment, preset

parser = argparse.ArgumentParser()
parser.add_argument("words", nargs="+")
for option in ("--out", "--resume"):
    parser.add_argument(option)
add_options(parser, Experiment)
options = parser.parse_args()
folder = Path(options.out or options.resume)
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps({"name": folder.name, "words": sys.argv[1:]}) + "\\n")
folder.mkdir(parents=True, exist_ok=True)
if options.out:
    experiment = preset(options.words[1]).override(given(options, Experiment)).to_json()
    config = {"preset": "", "experiment": experiment, "data_dir": None, "environment": {}}
    (folder / "config.json").write_text(json.dumps(config))
metrics = folder / "metrics.jsonl"
lines = metrics.read_text().splitlines() if metrics.exists() else []
whole = [line for line in lines if line.endswith("}")]
metrics.write_text("".join(line + "\\n" for line in whole))
angle = float(folder.name.partition("angle-")[2].partition("-")[0] or 0)
for epoch in range(len(whole) + 1, int(options.epochs) + 1):
    time.sleep(float(os.environ.get("SECONDS_PER_EPOCH", "0")))
    if folder.name == os.environ.get("FAILS"):
        print("working")
        print("eqprop: error: epoch 1: a state is not finite", file=sys.stderr)
        sys.exit(1)
    line = {"epoch": epoch, "train_error": 1.0, "test_error": 20 + angle - epoch, "seconds": 1.0}
    with metrics.open("a") as file:
        file.write(json.dumps(line) + "\\n")
sys.exit(folder.name == os.environ.get("FAILS_AT_THE_END"))
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder, where there is no data: exit status, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path / "nothing"))

    def command(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:  # --help and --version
            assert isinstance(end.code, int)
            status = end.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """What stands in for `python -m eqprop.cli.worker`."""
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return sys.executable, str(script)
