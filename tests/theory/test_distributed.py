"""Several processes learn what one does: every expectation here is what one process came to."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import eqprop
import rank_cases
from eqprop.distributed.launch import launched
from eqprop.distributed.ranks import Ranks
from eqprop.errors import ConfigurationError, UsageError
from eqprop.training.loop import train
from rank_cases import LEARNING, LEFT, RESUMED, Found, images

COUNTS = (2, 3)


class Results(dict[int, dict[str, Found]]):
    """What so many processes came to, once somebody asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __missing__(self, count: int) -> dict[str, Found]:
        self[count] = processes(count, self.folder)
        return self[count]


def free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With what one process has left, for several to go on from."""
    folder = tmp_path_factory.mktemp("ranks")
    for name in RESUMED:
        for calls in LEFT:
            left = LEARNING[name]()
            left.learn(None, calls=calls)
            left.checkpoint().save(folder / f"1-{name}-{calls}")
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return Results(folder)


def processes(count: int, folder: Path) -> dict[str, Found]:
    told = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, rank_cases.__file__, str(folder)]
    started = [
        subprocess.Popen(command, env={**os.environ, **told, "RANK": str(rank)}, text=True)
        for rank in range(count)
    ]
    try:
        assert [process.wait(timeout=300) for process in started] == [0] * count
    finally:
        for process in started:
            process.kill()
    return torch.load(folder / f"found-{count}", weights_only=True)


def assert_alike(found: Found, expected: Found) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("count", COUNTS)
def test_several_processes_learn_and_count_what_one_does(
    results: Results, name: str, count: int
) -> None:
    assert_alike(results[count][name], LEARNING[name]().learn(None))


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("count", COUNTS)
def test_several_processes_go_on_where_one_has_left(
    results: Results, name: str, count: int
) -> None:
    expected = LEARNING[name]().learn(None)
    for calls in LEFT:
        assert_alike(results[count][f"{name}, from one, {calls}"], expected)


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("count", COUNTS)
def test_as_many_processes_go_on_bit_for_bit(results: Results, name: str, count: int) -> None:
    expected = results[count][name]
    for calls in LEFT:
        found = results[count][f"{name}, from as many, {calls}"]
        assert found.keys() == expected.keys()
        assert all(found[key].equal(value) for key, value in expected.items())


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("count", COUNTS)
def test_one_process_goes_on_where_several_have_left(
    results: Results, folder: Path, name: str, count: int
) -> None:
    assert results[count]
    expected = LEARNING[name]().learn(None)
    for calls in LEFT:
        left = eqprop.Checkpoint.load(folder / f"{count}-{name}-{calls}")
        assert_alike(LEARNING[name]().learn(None, left), expected)


@pytest.mark.parametrize("count", COUNTS)
def test_a_loop_of_ones_own_learns_the_same(results: Results, count: int) -> None:
    assert_alike(results[count]["own loop"], rank_cases.own_loop(Ranks()))
    alone = rank_cases.own_loop(Ranks(), rank_cases.SGD)
    assert_alike(results[count]["own loop, descent"], alone)


@pytest.mark.parametrize("count", COUNTS)
def test_all_begin_from_the_weights_of_the_first(results: Results, count: int) -> None:
    found, expected = results[count]["followed"], rank_cases.followed(Ranks())
    assert found.keys() == expected.keys()
    assert all(found[name].equal(value) for name, value in expected.items())


@pytest.mark.parametrize("count", COUNTS)
def test_a_gradient_is_the_mean_over_samples_and_nothing_where_there_is_none(
    results: Results, count: int
) -> None:
    """Of the numbers 1 … n the mean is (n + 1)/2; a step of rate 1 takes it away."""
    for case in ("gradients", "stand-in"):
        for value in results[count][case].values():
            torch.testing.assert_close(value, torch.zeros(2))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("drawing", "generator: expected the same in all processes, got another one in process"),
        ("moving", "parameters: expected the same in all processes, got another one in process"),
        ("closure", "step: expected no closure where several processes share an optimizer"),
        ("nothing", "part: expected a row for every sample in each of what is given, .* got not"),
        ("uneven", "part: expected a row for every sample .* got 2, 3"),
    ],
)
def test_what_would_part_the_processes_is_refused_in_words(
    results: Results, name: str, says: str, count: int
) -> None:
    said = bytes(results[count][name]["said"].tolist()).decode()
    with pytest.raises(ValueError, match=says):
        raise ValueError(said)


@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize("count", range(1, 6))
def test_every_sample_is_in_one_share_and_shares_differ_by_one_at_most(
    size: int, count: int
) -> None:
    batch, seen, shares = torch.arange(size), [], []
    for rank in range(count):
        ranks = Ranks()
        ranks.rank, ranks.count = rank, count
        (rows,) = ranks.part(batch)
        assert len(rows), "whoever has none stands in"
        shares.append(ranks.samples)
        seen += rows.tolist()[: ranks.samples]
    assert seen == batch.tolist()
    assert max(shares) - min(shares) <= 1


def test_without_a_launcher_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = eqprop.distributed.start()
    assert (ranks.rank, ranks.count, ranks.first) == (0, 1, True)
    batch = torch.rand(3, 2), torch.rand(3)
    assert all(mine is whole for mine, whole in zip(ranks.part(*batch), batch, strict=True))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    ranks.share(optimizer)
    assert not optimizer._optimizer_step_pre_hooks, "plain descent stays what it is"
    assert ranks.total(2, 3) == [2, 3]
    assert ranks.word("here") == "here"
    told = {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    assert launched({**told, "WORLD_SIZE": "1"}) is None
    assert launched({**told}) is None
    found = launched({**told, "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"})
    assert found is not None
    assert (found.rank, found.count, found.local) == (3, 4, 1)
    for wrong in ({"WORLD_SIZE": "two"}, {"WORLD_SIZE": "2", "RANK": "2"}):
        with pytest.raises(UsageError, match="start the command with torchrun, or unset"):
            launched({**told, **wrong})


def test_a_gpu_is_not_chosen_by_number_where_each_process_takes_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigurationError, match="device = cuda:1: expected cpu, or cuda, of wh"):
        eqprop.distributed.start("cuda:1")
    with pytest.raises(ConfigurationError, match="a GPU for every process, of which torch finds 1"):
        eqprop.distributed.start("cuda")


def test_what_is_no_ranks_optimizer_or_model_is_refused_in_words() -> None:
    learning, wrong = LEARNING["one-sided"](), "ranks"
    rest: Any = learning.model, learning.estimator, learning.optimizer, images()
    with pytest.raises(TypeError, match=r"ranks: expected what eqprop.distributed.start\(\) gives"):
        train(*rest, epochs=1, ranks=wrong)  # type: ignore[arg-type]
    ranks: Any = Ranks()
    with pytest.raises(TypeError, match="optimizer: expected an optimizer of torch.optim, got Pro"):
        ranks.share(learning.model, learning.optimizer)
    with pytest.raises(TypeError, match="model: expected an nn.Module, got SGD"):
        ranks.share(learning.optimizer, learning.optimizer)
