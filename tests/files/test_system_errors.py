"""What the operating system refuses is told with the file and what to do; what it cannot do is done
without."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eqprop.cli.main import main
from eqprop.errors import system_error
from eqprop.files import naming, write_atomically
from eqprop.runs.folder import RunFolder
from eqprop.training.checkpoint import LAST, Checkpoint

QUICK = ["--epochs", "2", "--hidden", "8", "--free-steps", "5", "--nudged-steps", "3"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failing(number: int, when: Callable[..., bool] = lambda *_: True) -> Callable[..., None]:
    def call(*arguments: object, **_: object) -> None:
        if when(*arguments):
            raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space there, or choose another --out"),
        (errno.EDQUOT, "free some of your space there, or choose another --out"),
        (errno.EACCES, "change the permissions, or choose another --out"),
        (errno.EROFS, "make it writable, or choose another --out"),
        (errno.ENAMETOOLONG, "choose a shorter name, or choose another --out"),
        (errno.EIO, "see whether that disk is well, or choose another --out"),
        (errno.EMFILE, "raise the limit of open files (ulimit -n)"),
    ],
    ids=errno.errorcode.get,
)
def test_an_error_of_the_system_names_its_file_and_what_to_do(number: int, remedy: str) -> None:
    error = OSError(number, os.strerror(number), "the/file")
    said = system_error(error, "or choose another --out")
    assert said == f"the/file: {os.strerror(number)}; {remedy}"


def test_an_error_that_names_no_file_is_given_that_which_was_written() -> None:
    with pytest.raises(OSError, match="No space") as caught, naming(Path("mine")):
        failing(errno.ENOSPC)()
    assert caught.value.filename == "mine"
    with (
        pytest.raises(OSError, match="Is a dir") as caught,
        naming(Path("mine"), Path("mine.part")),
    ):
        raise OSError(errno.EISDIR, "Is a directory", "mine.part")
    assert caught.value.filename == "mine"
    with pytest.raises(OSError, match="No such") as caught, naming(Path("mine")):
        Path("another").read_bytes()
    assert caught.value.filename == "another"


def test_a_disk_that_is_full_loses_nothing_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *QUICK, "--out", "r"]) == 0
    before = Path("r", LAST).read_bytes()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.ENOSPC))
        # To the settings it comes first.
        patch.setattr(RunFolder, "write_config", lambda *_: None)
        patch.setattr(RunFolder, "rewrite_metrics", lambda *_: None)
        assert main(["train", "--resume", "r", "--epochs", "3"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"eqprop: error: r/{LAST}: No space left on device; free some space there, then go on "
        "with: eqprop train --resume r"
    )
    assert Path("r", LAST).read_bytes() == before
    assert main(["train", "--resume", "r", "--epochs", "3"]) == 0


def test_a_folder_that_cannot_be_flushed_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            failing(errno.EINVAL)()

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(Path("file"), b"whole")
    assert Path("file").read_bytes() == b"whole"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_worked_on_with_a_warning(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(number))
    assert main(["train", *QUICK, "--out", "r"]) == 0
    said = capsys.readouterr().err
    assert said.count("expected a file system that can lock files") == 1
    assert Checkpoint.load("r").place == "2 epochs"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda config: config["experiment"].update(momentum=0.9), "found momentum too"),
        (lambda config: config["environment"].update(eqprop="99.0"), ""),
    ],
    ids=["a setting", "a version"],
)
def test_a_run_of_a_newer_version_is_not_called_damaged(
    change: Callable[[dict], object], found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *QUICK, "--out", "r"]) == 0
    config = json.loads(Path("r/config.json").read_text())
    config["experiment"]["optimizer"] = "adam" if found else "a-later-one"
    change(config)
    Path("r/config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert main(["evaluate", "r"]) == 1
    said = capsys.readouterr().err
    assert "written by a newer version of eqprop" in said
    assert "upgrade" in said
    assert found in said
    assert "damaged" not in said


def test_a_folder_that_is_moved_meanwhile_is_not_made_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = RunFolder.store

    def moved(self: RunFolder, checkpoint: Checkpoint) -> None:
        self.path.rename("elsewhere")
        store(self, checkpoint)

    monkeypatch.setattr(RunFolder, "store", moved)
    assert main(["train", *QUICK, "--out", "r"]) == 1
    assert "it was moved or removed meanwhile" in capsys.readouterr().err
    assert not Path("r").exists()


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", ["presets", "reproduce"])
def test_a_full_disk_behind_standard_output_is_named(words: str) -> None:
    with FULL.open("w") as full:
        command = [sys.executable, "-m", "eqprop", *words.split()]
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (run.returncode, run.stderr) == (
        1,
        "eqprop: error: standard output: No space left on device; free some space there, or send "
        "it elsewhere\n",
    )


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["sigterm", "sigkill"])
def test_a_bench_that_is_ended_takes_its_process_with_it(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "eqprop", "bench", "p-conv", "--random"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (started := children(process.pid)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert process.returncode == 128 + number
        assert err.splitlines()[-1] == "eqprop: ended by SIGTERM"
    while any(Path(f"/proc/{pid}/cmdline").exists() and _works(pid) for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _works(pid: int) -> bool:
    """Whether it is more than the entry of a process that nobody has asked for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
