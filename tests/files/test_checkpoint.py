"""Checkpoints lose nothing, execute nothing, and are whole or refused."""

import copy
import json
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save as save_tensors
from torch import nn

import eqprop.training.checkpoint
from eqprop.core.activations import Rho
from eqprop.core.models import ConvergentModel
from eqprop.networks.connections.chains import convolutional, dense, untied
from eqprop.networks.connections.conv_pool import Pooling
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from eqprop.training.checkpoint import LAST, Checkpoint, CheckpointError
from eqprop.training.loop import Metrics
from eqprop.training.plain import from_plain, to_plain

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


def network(rho: Rho = "tanh", kind: Any = RealTimeNetwork, **others: Any) -> ConvergentModel:
    torch.manual_seed(0)
    return kind(dense(3, 4, 2), rho, **others)


def checkpoint_of(model: nn.Module, scheduled: bool = False) -> Checkpoint:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3) if scheduled else None
    return Checkpoint.capture(model, optimizer, torch.Generator(), [], scheduler=scheduler)


def pooling(kind: Pooling) -> ConvergentModel:
    return PrototypicalNetwork(convolutional((1, 6, 6), [2], 2, kernel=3, pool=2, pooling=kind))


@pytest.mark.parametrize(
    ("trained", "other", "said"),
    [
        (network(), network("hard-sigmoid"), "rho = hard-sigmoid instead of tanh"),
        (network(), network(torch.sin), "rho = sin instead of tanh"),
        (
            network(kind=PrototypicalNetwork),
            network("hard-sigmoid", PrototypicalNetwork),
            "activation = hard-sigmoid instead of tanh",
        ),
        (
            network(),
            network(kind=PrototypicalNetwork),
            "model = PrototypicalNetwork instead of RealTimeNetwork",
        ),
        (network(), network(clip=(0, 1)), r"clip = \[0.0, 1.0\] instead of None"),
        (pooling("max"), pooling("average"), "pooling=average.* instead of .*pooling=max"),
        (
            network(),
            RealTimeNetwork(untied(dense(3, 4, 2), 0.0), "tanh"),
            r"connections = .* connections.1.backward_weight 2×4 instead of absent",
        ),
    ],
    ids=["rho", "own-rho", "activation", "model", "clip", "pooling", "untied"],
)
def test_a_checkpoint_of_a_network_that_is_something_else_is_refused(
    tmp_path: Path, trained: ConvergentModel, other: ConvergentModel, said: str
) -> None:
    """Their parameters may be alike: it would answer as if it had learnt badly."""
    checkpoint_of(trained).save(tmp_path / "last")
    checkpoint = Checkpoint.load(tmp_path / "last")
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(CheckpointError, match=f"another model: .*{said}"):
        checkpoint.restore_model(other)
    for one, now in zip(before, other.parameters(), strict=True):
        assert torch.equal(one, now)
    checkpoint.restore_model(trained)


def test_what_only_decides_how_the_steady_state_is_reached_may_be_another() -> None:
    checkpoint_of(network()).restore_model(network(epsilon=0.5, updates="alternating"))


def test_a_weight_used_twice_is_kept_and_is_still_one_when_it_comes_back(tmp_path: Path) -> None:
    def tied() -> PrototypicalNetwork:
        model = PrototypicalNetwork(dense(3, 3, 3, 2), "tanh")
        model.connections[1].weight = model.connections[0].weight
        return model

    torch.manual_seed(1)
    trained = tied()
    checkpoint_of(trained).save(tmp_path / "last")
    other = tied()
    weight = trained.get_parameter("connections.0.weight")
    assert not torch.equal(other.get_parameter("connections.0.weight"), weight)
    Checkpoint.load(tmp_path / "last").restore_model(other)
    assert other.connections[1].weight is other.connections[0].weight
    assert torch.equal(other.get_parameter("connections.0.weight"), weight)


def test_a_compiled_network_and_what_it_was_compiled_from_share_checkpoints(
    tmp_path: Path,
) -> None:
    trained, other = network(), network()
    with torch.no_grad():
        trained.get_parameter("connections.0.weight").fill_(5.0)
    checkpoint_of(cast("nn.Module", torch.compile(trained))).save(tmp_path / "last")
    checkpoint = Checkpoint.load(tmp_path / "last")
    checkpoint.restore_model(cast("nn.Module", torch.compile(other)))
    assert torch.equal(other.get_parameter("connections.0.weight"), torch.full((4, 3), 5.0))


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_schedule_is_neither_forgotten_nor_made_up(tmp_path: Path, scheduled: bool) -> None:
    model = network()
    checkpoint_of(model, scheduled).save(tmp_path / "last")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = None if scheduled else torch.optim.lr_scheduler.StepLR(optimizer, 3)
    checkpoint = Checkpoint.load(tmp_path / "last")
    with pytest.raises(CheckpointError, match="for scheduler, as when it was written"):
        checkpoint.restore(model, optimizer, torch.Generator(), scheduler=scheduler)


def test_an_optimizer_or_a_scheduler_of_another_kind_is_refused(tmp_path: Path) -> None:
    """Adam and AdamW keep the same numbers, and do another thing with them."""
    parts = make(1, 0.0)
    go(parts, 1)
    scheduler = torch.optim.lr_scheduler.StepLR(parts[1], 3)
    Checkpoint.capture(*parts, [], scheduler=scheduler).save(tmp_path / "last")
    checkpoint = Checkpoint.load(tmp_path / "last")
    model, _, generator = make(2)
    before = model.get_parameter("weight").clone()
    groups = [{"params": [p]} for p in model.parameters()]
    adam, turned = torch.optim.Adam(groups), torch.optim.Adam(groups[::-1])
    adamw, nadam = torch.optim.AdamW(groups), torch.optim.NAdam(groups)
    steps, cosine = torch.optim.lr_scheduler.StepLR, torch.optim.lr_scheduler.CosineAnnealingLR
    for optimizer, schedule, said in (
        (adamw, steps, "expected Adam for optimizer, .* got AdamW$"),
        (nadam, steps, "expected Adam for optimizer, .* got NAdam$"),
        (adam, cosine, "expected StepLR for scheduler, .* got CosineAnnealingLR$"),
        (turned, steps, r"parameter 0 is of shape \(4, 3\), got one of \(4,\)"),
    ):
        scheduler = schedule(optimizer, 3)
        with pytest.raises(CheckpointError, match=said):
            checkpoint.restore(model, optimizer, generator, scheduler=scheduler)
    assert torch.equal(model.get_parameter("weight"), before)
    # Those of before did not say of which kind they were.
    replace(checkpoint, kinds={}, scheduler=None).restore(
        model, torch.optim.AdamW(groups), generator
    )


def test_an_average_of_models_is_one_of_its_architecture(tmp_path: Path) -> None:
    def average(rho: Rho) -> nn.Module:
        return torch.optim.swa_utils.AveragedModel(RealTimeNetwork(dense(3, 4, 2), rho))

    checkpoint_of(average("tanh")).save(tmp_path / "last")
    checkpoint = Checkpoint.load(tmp_path / "last")
    checkpoint.restore_model(average("tanh"))
    with pytest.raises(CheckpointError, match="rho = hard-sigmoid instead of tanh"):
        checkpoint.restore_model(average("hard-sigmoid"))


def test_metrics_may_be_kept_as_they_come(tmp_path: Path) -> None:
    metrics = Metrics(1, 9.0, 0.5, 10.0, 0.6, 2.0, (3.5,))
    Checkpoint.capture(*make(1), [metrics]).save(tmp_path / "last")
    (kept,) = Checkpoint.load(tmp_path / "last").history
    assert (kept["test_error"], kept["weight_angles"], kept["restless"]) == (10.0, [3.5], None)


def test_weights_that_something_else_has_saved_are_no_checkpoint(tmp_path: Path) -> None:
    for number, metadata in enumerate((None, {"format": "pt"})):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(save_tensors({"weight": torch.ones(2)}, metadata))
        with pytest.raises(CheckpointError, match="found a safetensors file that holds none; of w"):
            Checkpoint.load(path)


def test_a_generator_that_is_none_is_refused_before_anything_is_restored() -> None:
    checkpoint = Checkpoint.capture(*make(1), [])
    model, optimizer, _ = make(2)
    before = model.get_parameter("weight").clone()
    with pytest.raises(TypeError, match=r"generator: expected a torch.Generator, got NoneType"):
        checkpoint.restore(model, optimizer, None)  # type: ignore[arg-type]
    assert torch.equal(model.get_parameter("weight"), before)


class Picky:
    """A schedule of so many steps, that of no other."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        if state_dict["steps"] != self.steps:
            raise ValueError(f"steps: expected {self.steps}, got {state_dict['steps']}")


def test_a_checkpoint_that_is_refused_has_changed_nothing() -> None:
    parts = make(1)
    go(parts, 2)
    checkpoint = Checkpoint.capture(*parts, [], scheduler=Picky(100))
    others = model, optimizer, generator = make(2)
    go(others, 1)
    weights, moments = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    drawn = generator.get_state()
    with pytest.raises(CheckpointError, match="another run: steps: expected 50, got 100"):
        checkpoint.restore(*others, scheduler=Picky(50))
    assert all(torch.equal(model.state_dict()[name], of) for name, of in weights.items())
    assert str(optimizer.state_dict()) == str(moments)
    assert torch.equal(generator.get_state(), drawn)


def test_a_checkpoint_is_found_in_the_folder_of_its_run(tmp_path: Path) -> None:
    checkpoint_of(network()).save(tmp_path / LAST)
    assert Checkpoint.load(str(tmp_path)).model.keys() == network().state_dict().keys()
    with pytest.raises(CheckpointError, match="no such file"):
        Checkpoint.load(tmp_path / "checkpoint")


def test_a_state_that_no_file_can_hold_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    class Odd:
        def state_dict(self) -> dict[str, Any]:
            return {"rule": [1.0, print]}

        def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...

    model = network()
    checkpoint_of(model).save(tmp_path / "last")
    before = (tmp_path / "last").read_bytes()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    odd = Checkpoint.capture(model, optimizer, torch.Generator(), [], scheduler=Odd())
    with pytest.raises(TypeError, match="scheduler/rule/1: expected numbers, text and tensors"):
        odd.save(tmp_path / "last")
    assert (tmp_path / "last").read_bytes() == before


def test_a_checkpoint_of_a_newer_version_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eqprop.training.checkpoint, "_FORMAT", 4)
    checkpoint_of(network()).save(tmp_path / "last")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 3 or before, found format 4 of a newer"):
        Checkpoint.load(tmp_path / "last")


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.builds(lambda n: torch.arange(n), st.integers(0, 3)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.booleans()), inner, max_size=3)
        | st.builds(Counter, st.dictionaries(st.integers(), st.integers(), max_size=3))
    ),
    max_leaves=12,
)


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@given(PLAIN)
@example({"a": {"b": torch.zeros(1)}, "a/b": torch.ones(1)})
@example({1: torch.zeros(1), "1": torch.ones(1)})
def test_plain_values_and_tensors_among_them_come_back_as_they_were(value: object) -> None:
    tensors: dict[str, torch.Tensor] = {}
    written = json.loads(json.dumps(to_plain(value, "top", tensors)))
    back = from_plain(written, tensors)
    assert type(back) is type(value)
    assert same(value, back)


def test_a_missing_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        Checkpoint.load(tmp_path / "none")


WRITER = """
import os, signal, sys
from pathlib import Path
from eqprop import files
path, moment = Path(sys.argv[1]), int(sys.argv[2])
lines = 0

def trace(frame, event, _):
    global lines
    if frame.f_code.co_filename != files.__file__:
        return None
    if event == "line":
        lines += 1
        if lines == moment:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace

sys.settrace(trace)
files.write_atomically(path, b"new" * 100_000)
"""


def test_a_kill_at_any_moment_leaves_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    old, new = b"old" * 100_000, b"new" * 100_000
    found = []
    for moment in range(1, 1000):
        path.write_bytes(old)
        process = subprocess.run([sys.executable, "-c", WRITER, str(path), str(moment)])
        found.append(path.read_bytes())
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert set(found) == {old, new}
    # Once it is the new one it stays so.
    assert found == sorted(found, key=lambda contents: contents == new)


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
