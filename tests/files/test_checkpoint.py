"""Checkpoints lose nothing, execute nothing, and are whole or refused."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from eqprop.training.checkpoint import Checkpoint, CheckpointError

Parts = tuple[nn.Module, torch.optim.Optimizer, torch.Generator]


def make(seed: int, momentum: float = 0.9, size: int = 4) -> Parts:
    torch.manual_seed(seed)
    model = nn.Linear(3, size)
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
        if momentum
        else torch.optim.Adam([{"params": [p], "lr": 0.01} for p in model.parameters()])
    )
    return model, optimizer, torch.Generator().manual_seed(seed)


def go(parts: Parts, steps: int) -> None:
    model, optimizer, generator = parts
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 3, generator=generator)).square().mean().backward()
        optimizer.step()


def saved(path: Path, momentum: float = 0.9) -> Parts:
    parts = make(1, momentum)
    go(parts, 3)
    Checkpoint.capture(*parts, [{"epoch": 1, "error": 0.1 + 0.2}]).save(path)
    return parts


@pytest.mark.parametrize("momentum", [0.9, 0.0], ids=["sgd-momentum", "adam"])
def test_what_is_restored_goes_on_bit_for_bit(tmp_path: Path, momentum: float) -> None:
    path = tmp_path / "last.safetensors"
    original = saved(path, momentum)
    other = make(2, momentum)
    checkpoint = Checkpoint.load(path)
    checkpoint.restore(*other)
    assert checkpoint.history == [{"epoch": 1, "error": 0.1 + 0.2}]
    go(original, 4)
    go(other, 4)
    for a, b in zip(original[0].parameters(), other[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_altered_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    saved(path)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[position] ^= 0x20
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match="last.safetensors"):
            Checkpoint.load(path)


@pytest.mark.parametrize("length", [0, 1, 8, 100, 2000, -1])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "last.safetensors"
    saved(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="damaged"):
        Checkpoint.load(path)


def test_a_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "last.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError):
        Checkpoint.load(path)
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    saved(path)
    with pytest.raises(CheckpointError, match="another model"):
        Checkpoint.load(path).restore(*make(1, size=5))


def test_a_missing_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        Checkpoint.load(tmp_path / "none")


WRITER = """
import sys
from pathlib import Path
from eqprop.files import write_atomically
path = Path(sys.argv[1])
for letter in "ab" * 100000:
    write_atomically(path, letter.encode() * 3_000_000)
"""


def test_a_kill_at_any_moment_leaves_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for delay in (0.0, 0.013, 0.029, 0.051):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
        deadline = time.monotonic() + 60
        before = path.stat().st_mtime_ns if path.exists() else 0
        while not path.exists() or path.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        contents = path.read_bytes()
        assert len(contents) == 3_000_000
        assert len(set(contents)) == 1


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.safetensors"
    saved(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        saved(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
