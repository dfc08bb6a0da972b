"""What is printed of an object is a few lines, however much it holds."""

import pkgutil
from dataclasses import dataclass, field, fields, is_dataclass
from importlib import import_module
from typing import Any, final

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop.analysis.agreement import average, compare
from eqprop.analysis.images import weight_images
from eqprop.analysis.processes import bptt_process, ep_process
from eqprop.core.sizes import counted
from eqprop.data.dataset import Dataset, Split, one_hot
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.networks.connections.chains import dense
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.summary import summary
from eqprop.training.evaluation import evaluate

OTHERWISE = {"Checkpoint"}
"""Those that say something else of themselves."""


@final
@dataclass(frozen=True)
class Held:
    """One of everything."""

    tensor: Any = None
    hidden: Any = field(default=None, repr=False)

    __repr__ = summary


def lines(value: Any) -> list[str]:
    return repr(Held(value)).splitlines()[1:]


def holds_many(of: Any) -> bool:
    """Whether a class has a field of tensors, not of functions of them."""
    said = [str(of.type) for of in fields(of) if "Callable" not in str(of.type)]
    return any(word in text for text in said for word in ("Tensor", "ndarray"))


def test_every_object_that_holds_tensors_is_summed_up() -> None:
    classes = set()
    for module in pkgutil.walk_packages(eqprop.__path__, "eqprop."):
        if not module.name.endswith(("__main__", "worker")):
            found = vars(import_module(module.name)).values()
            classes |= {of for of in found if isinstance(of, type) and is_dataclass(of)}
    named = {of.__name__: of for of in classes if holds_many(of)}
    assert {"Split", "Relaxation", "Process", "WeightImages"} <= named.keys()
    dumping = {name for name, of in named.items() if of.__repr__ is not summary}
    assert dumping <= OTHERWISE


def test_of_a_tensor_is_said_what_it_is_and_between_what_it_lies() -> None:
    big = torch.linspace(-1, 2, 10**6).view(1000, 1000)
    assert lines(big) == ["  tensor: float32 (1000, 1000) on cpu, -1 to 2"]
    assert lines(torch.tensor([3, 3])) == ["  tensor: int64 (2,) on cpu, 3"]
    assert lines(torch.tensor([0.0, float("nan")])) == ["  tensor: float32 (2,) on cpu, nan"]
    assert lines(big.requires_grad_()) == ["  tensor: float32 (1000, 1000) on cpu, -1 to 2"]


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(0, 3),
        torch.zeros(3, device="meta"),
        torch.tensor([True, False]),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, dtype=torch.bfloat16),
        torch.zeros(2, dtype=torch.uint8),
        torch.tensor(1.5),
    ],
    ids=lambda of: f"{of.dtype} {of.device} {of.dim()}",
)
def test_every_tensor_can_be_said_in_a_line(value: Tensor) -> None:
    (line,) = lines(value)
    assert f"{tuple(value.shape)} on {value.device}" in line


def test_of_many_things_it_is_said_how_many() -> None:
    assert lines([1.0, 0.123456]) == ["  tensor: 1, 0.1235"]
    assert lines(tuple(range(100))) == ["  tensor: 100 numbers, 0 to 99"]
    assert lines([Held(), Held()]) == ["  tensor: 2 × Held"]
    assert lines({f"key {n}": n for n in range(20)})[-2:] == ["    key 11: 11", "    … and 8 more"]
    assert lines(()) == lines({}) == lines(None) == ["  tensor: none"]
    network = PrototypicalNetwork(dense(4, 3))
    assert lines(network) == ["  tensor: PrototypicalNetwork"]


def test_a_field_that_is_left_out_of_a_repr_is_left_out() -> None:
    assert repr(Held(1, torch.zeros(9))) == "Held\n  tensor: 1"


def test_what_a_newcomer_prints_is_a_few_lines() -> None:
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    split = Split(torch.rand(60, 4), labels)
    data = Dataset("mine", split, split, 3)
    model = PrototypicalNetwork(dense(4, 5, 3))
    x, y = split.images, one_hot(labels, 3)
    ep = EquilibriumPropagation(20, 8, 0.5)
    steps: dict[str, Any] = {"free_steps": 60, "nudged_steps": 50}
    process = ep_process(model, x, y, beta=0.1, **steps)
    found = compare(process, bptt_process(model, x, y, **steps))
    for said, most in (
        (split, 3),
        (data, 5),
        (ep(model, x, y), 7),
        (evaluate(model, split, 20), 9),
        (process, 24),
        (found, 26),
        (average([found, found]), 30),
        (weight_images(model, (4,))[0], 7),
    ):
        text = repr(said)
        assert text.startswith(type(said).__name__)
        assert len(text.splitlines()) <= most
        assert all(len(line) <= 120 for line in text.splitlines())
    assert "train: images float32 (60, 4) on cpu" in repr(data)
    assert "labels int64 (60,) on cpu, 0 to 2" in repr(data)
    assert "hidden layer 1: relative_error " in repr(found)


@pytest.mark.parametrize(
    ("one", "several"),
    [
        ("mini-batch", "mini-batches"),
        ("batch", "batches"),
        ("epoch", "epochs"),
        ("layer", "layers"),
        ("class", "classes"),
    ],
)
def test_a_count_of_one_is_said_as_one(one: str, several: str) -> None:
    assert counted(1, one) == f"1 {one}"
    assert [counted(number, one) for number in (0, 2)] == [f"0 {several}", f"2 {several}"]
