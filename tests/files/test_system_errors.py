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
from linux_processes import children, needs_proc, running

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
        (lambda config: config["experiment"].update(lookahead=0.9), "found lookahead too"),
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


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (lambda text: text.replace('"epochs": 2', '"epochs": "x"'), "epochs = x: expected a whole"),
        (lambda text: text.replace('"beta"', '"theirs"'), "found a file without beta"),
        (lambda text: text.replace('"preset"', '"theirs"'), "found a file without preset"),
        (lambda text: text[:40], "found a file that is no JSON"),
        (lambda _: "[]", "found something else"),
    ],
    ids=["a value", "a setting", "the preset", "the beginning", "a list"],
)
def test_settings_changed_by_hand_are_refused_in_words_of_their_own(
    written: Callable[[str], str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *QUICK, "--out", "r"]) == 0
    text = Path("r/config.json").read_text()
    assert written(text) != text
    Path("r/config.json").write_text(written(text))
    capsys.readouterr()
    assert main(["evaluate", "r"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"eqprop: error: {Path('r/config.json')}: ")
    assert says in said
    assert "Error" not in said


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


@pytest.mark.parametrize(
    ("taken", "words"),
    [
        ("metrics.jsonl", "train --resume r --epochs 3"),
        ("curves.png", "train --resume r --epochs 3"),
        (".lock", "train --resume r --epochs 3"),
        ("pictures/states.png", "show r --test-samples 20"),
    ],
    ids=["metrics", "curves", "lock", "picture"],
)
def test_a_folder_in_the_place_of_a_file_is_named(
    taken: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *QUICK, "--out", "r"]) == 0
    Path("r", taken).unlink(missing_ok=True)
    Path("r", taken).mkdir(parents=True)
    capsys.readouterr()
    assert main(words.split()) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"r/{taken}: Is a directory; move away the folder that is in the way" in said
    # Where a run goes on is no matter of choice.
    assert ("--out" in said) is words.startswith("show")


@pytest.mark.parametrize("words", ["train", "theorem digits"])
def test_a_name_that_is_too_long_is_one_line(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words.split(), "--out", "x" * 300]) == 1
    assert "File name too long; choose a shorter name" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("words", ["train", "theorem digits"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_computed(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("protected").mkdir()
    # Write protection does not bind an administrator.
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "protected")
    monkeypatch.setattr("eqprop.runs.build.load_dataset", failing(errno.EIO))
    assert main([*words.split(), "--out", "protected/r"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "protected/r: expected a folder that can be written to" in said
    assert list(Path("protected").iterdir()) == []


def test_a_disk_that_fails_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="file"):
        write_atomically(Path("file"), b"contents")


def test_a_folder_that_cannot_be_opened_is_written_to_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "open", failing(errno.EACCES))  # as on Windows
    write_atomically(Path("file"), b"contents")
    assert Path("file").read_bytes() == b"contents"


def test_what_a_run_leaves_where_nothing_is_locked_keeps_nobody_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOSYS))
    Path("r").mkdir()
    Path("r/.lock").touch()
    with RunFolder(Path("r")).claimed():
        pass


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_settings_that_an_editor_has_saved_in_its_own_way_are_read(encoding: str) -> None:
    assert main(["train", *QUICK, "--epochs", "1", "--out", "r"]) == 0
    folder = RunFolder(Path("r"))
    expected = folder.read_config()
    folder.config.write_text(folder.config.read_text(), encoding=encoding)
    assert folder.read_config() == expected


def test_a_run_of_a_newer_version_that_has_nothing_new_is_read() -> None:
    assert main(["train", *QUICK, "--epochs", "1", "--out", "r"]) == 0
    folder = RunFolder(Path("r"))
    config = json.loads(folder.config.read_text())
    config["environment"]["eqprop"] = "99.0"
    folder.config.write_text(json.dumps(config))
    assert folder.read_config().environment["eqprop"] == "99.0"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_obstacle(closed: str) -> None:
    command = f"{sys.executable} -m eqprop presets {closed}"
    run = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert ("c-vf-1h" in run.stdout) is (">&-" not in closed.replace("2>&-", ""))


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_standard_error_is_no_traceback() -> None:
    with FULL.open("w") as full:
        words = [sys.executable, "-m", "eqprop", "train", "p-9h"]
        assert subprocess.run(words, stderr=full).returncode == 2


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


@needs_proc
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
    while any(map(running, started)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    """As root a device would be gone, for everybody."""
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    for path, error in ((pipe, FileExistsError), (folder, IsADirectoryError)):
        with pytest.raises(error) as refused:
            write_atomically(path, b"whole")
        assert refused.value.filename == str(path)
    assert pipe.is_fifo()
    assert folder.is_dir()
