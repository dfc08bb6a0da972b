"""What a terminal or a file cannot show is spelt out; what cannot be written is said."""

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from eqprop.cli.spelling import SPELT
from eqprop.runs.folder import resuming


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        ("error ∝ β², η ≥ 0", r"error \u221d beta^2, eta >= 0"),
        ("∂Φ/∂s → −1", "dPhi/ds -> -1"),
        ("runs/é", r"runs/\xe9"),
        ("plain", "plain"),
    ],
)
def test_ascii_has_the_names_of_greek_letters_and_the_codes_of_others(
    text: str, spelt: str
) -> None:
    assert text.encode("ascii", SPELT).decode() == spelt


def test_what_can_be_shown_stays() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", errors=SPELT)
    stream.write("é × β")
    stream.flush()
    assert stream.buffer.getvalue().decode("latin-1") == "é × beta"  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"], ["presets"]])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_what_could_not_be_written_is_an_error(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "eqprop", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("eqprop: error: standard output: No space left on device")


@pytest.mark.parametrize("name", ["run", "two  spaces é$x", "-n", "-n $x", "--out"])
def test_the_option_that_goes_on_with_a_run_finds_its_folder(name: str) -> None:
    words = shlex.split(f"eqprop train {resuming(Path(name))}")
    assert words[2:] in ([f"--resume={name}"], ["--resume", name])
    assert words[2:] != ["--resume", name] or not name.startswith("-")
