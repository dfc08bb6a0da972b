"""Several processes learn what one does: every expectation here is what one process came to."""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import eqprop
import rank_cases
from eqprop.distributed.launch import launched
from eqprop.distributed.ranks import Ranks
from eqprop.errors import ConfigurationError, UsageError
from eqprop.runs import build_data, build_learner
from eqprop.settings import preset
from eqprop.training.loop import train
from rank_cases import LEARNING, LEFT, RESUMED, Found, images


class Results(dict[str, Found]):
    """What so many processes came to in a case, once somebody asks; they wait for the next."""

    def __init__(self, count: int, folder: Path) -> None:
        told = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
        told["MASTER_PORT"] = str(free_port())
        self.processes = [
            subprocess.Popen(
                [sys.executable, rank_cases.__file__, str(folder)],
                env={**os.environ, **told, "RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]

    def __missing__(self, name: str) -> Found:
        for process in self.processes:
            assert process.stdin
            process.stdin.write(f"{name}\n")
            process.stdin.flush()
        first = self.processes[0].stdout
        assert first
        assert select.select([first], [], [], 100)[0], f"{name}: they wait for each other"
        path = first.readline().strip()
        assert path, f"{name}: the first process has ended"
        self[name] = torch.load(path, weights_only=True)
        return self[name]

    def end(self) -> list[int]:
        """Their exit statuses."""
        try:
            for process in self.processes:
                process.communicate(timeout=100)
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes]


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


@pytest.fixture(scope="module", params=[2, 3])
def results(request: pytest.FixtureRequest, folder: Path) -> Iterator[Results]:
    results = Results(request.param, folder)
    yield results
    statuses = results.end()
    # Those of a test that failed have failed too; it says why.
    if not request.session.testsfailed:
        assert statuses == [0] * request.param


def assert_alike(found: Found, expected: Found) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize("name", LEARNING)
def test_several_processes_learn_and_count_what_one_does(results: Results, name: str) -> None:
    assert_alike(results[name], LEARNING[name]().learn(None))


@pytest.mark.parametrize("name", RESUMED)
def test_several_processes_go_on_where_one_has_left(results: Results, name: str) -> None:
    expected = LEARNING[name]().learn(None)
    for calls in LEFT:
        assert_alike(results[f"{name}, from one, {calls}"], expected)


@pytest.mark.parametrize("name", RESUMED)
def test_as_many_processes_go_on_bit_for_bit(results: Results, name: str) -> None:
    expected = results[name]
    for calls in LEFT:
        found = results[f"{name}, from as many, {calls}"]
        assert found.keys() == expected.keys()
        assert all(found[key].equal(value) for key, value in expected.items())


@pytest.mark.parametrize("name", RESUMED)
def test_one_process_goes_on_where_several_have_left(
    results: Results, folder: Path, name: str
) -> None:
    expected = LEARNING[name]().learn(None)
    for calls in LEFT:
        assert results[f"{name}, from as many, {calls}"]
        count = len(results.processes)
        left = eqprop.Checkpoint.load(folder / f"{count}-{name}-{calls}")
        assert_alike(LEARNING[name]().learn(None, left), expected)


def test_a_loop_of_ones_own_learns_the_same(results: Results) -> None:
    assert_alike(results["own loop"], rank_cases.own_loop(Ranks()))
    alone = rank_cases.own_loop(Ranks(), rank_cases.SGD)
    assert_alike(results["own loop, descent"], alone)


def test_all_begin_from_the_weights_of_the_first(results: Results) -> None:
    found, expected = results["followed"], rank_cases.followed(Ranks())
    assert found.keys() == expected.keys()
    assert all(found[name].equal(value) for name, value in expected.items())


def test_a_gradient_is_the_mean_over_samples_and_nothing_where_there_is_none(
    results: Results,
) -> None:
    """Of the numbers 1 … n the mean is (n + 1)/2; a step of rate 1 takes it away."""
    for case in ("gradients", "stand-in"):
        for value in results[case].values():
            torch.testing.assert_close(value, torch.zeros(2))


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
    results: Results, name: str, says: str
) -> None:
    said = bytes(results[name]["said"].tolist()).decode()
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


@pytest.mark.parametrize(
    ("cores", "here", "threads", "each"),
    [(8, 2, 2, 2), (8, 2, 16, 4), (2, 2, 2, 1), (1, 3, 1, 1), (1, 1, 2, 2)],
)
def test_the_processes_of_a_machine_have_no_more_threads_than_it_has_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, here: int, threads: int, each: int
) -> None:
    monkeypatch.setattr("eqprop.runs.machine.available_cores", lambda: cores)
    experiment = preset("digits").override({"threads": threads, "hidden": (4,)})
    learner, found = build_learner(experiment), []

    def on_batch(_: eqprop.Running) -> None:
        found.append(torch.get_num_threads())
        raise InterruptedError

    before = torch.get_num_threads()
    try:
        with suppress(InterruptedError):
            list(learner.train(build_data(experiment), on_batch=on_batch, ranks=Ranks(here=here)))
    finally:
        torch.set_num_threads(before)
    assert found == [each]


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
