"""Running a command as a person does."""

from collections.abc import Callable
from pathlib import Path

import pytest

from eqprop.cli.main import main

Run = Callable[..., tuple[int, str, str]]


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
