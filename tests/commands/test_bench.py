"""``eqprop bench``: what is measured, counted, split and said; never how long anything takes."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from eqprop import runs
from eqprop.cli.bench_settings import OVERRIDES, BenchSettings
from eqprop.errors import Failure
from eqprop.registries import ESTIMATORS
from eqprop.runs import benchmark, operations
from eqprop.runs.mini_batches import random_samples, samples_at_hand
from eqprop.runs.operations import operation_counter
from eqprop.runs.own_process import in_own_process
from eqprop.runs.parts import watched
from eqprop.settings.experiment import Experiment
from eqprop.settings.presets import PRESETS
from linux_processes import children, needs_proc, running

B, INPUT, HIDDEN, CLASSES, T, K = 6, 64, 24, 10, 7, 3
SMALL = Experiment(hidden=(HIDDEN,), batch_size=B, free_steps=T, nudged_steps=K)

STEP = 2 * (2 * B * HIDDEN * CLASSES)
"""Operations of a step: the one connection between two layers, once up and once down."""

DRIVE = 2 * B * INPUT * HIDDEN

Run = Callable[..., tuple[int, str, str]]
Rows = list[tuple[str, Experiment, runs.Samples | None, int]]


@pytest.fixture(autouse=True)
def small_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """The large product takes long, and nothing here depends on its size."""
    monkeypatch.setattr(operations, "_LARGE", 64)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    """What would be measured, and is not."""
    asked: Rows = []

    def instead(
        name: str, experiment: Experiment, samples: runs.Samples | None, trained: int, _: Any
    ) -> dict[str, Any]:
        asked.append((name, experiment, samples, trained))
        return {"preset": name}

    monkeypatch.setattr(runs, "time_batch", instead)
    return asked


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in this process, and not for long."""
    monkeypatch.setattr(runs, "time_batch", partial(runs.time_batch_here, seconds=0.01))


def measure(experiment: Experiment, **given: Any) -> dict[str, Any]:
    return runs.time_batch_here("small", experiment, **given, seconds=0.001)


def test_operations_are_those_of_the_products_of_a_dense_network() -> None:
    row = measure(SMALL)
    counted = {name: part["gflop"] * 1e9 for name, part in row["parts"].items()}
    # A gradient is a product over the samples; between two layers that both move, of two terms,
    # (u′ − u) l′ᵀ and u (l′ − l)ᵀ.
    learning = 2 * B * INPUT * HIDDEN + 2 * (2 * B * HIDDEN * CLASSES)
    expected = {
        "drive": DRIVE,
        "free_phase": T * STEP,
        "nudged_phase": 2 * K * STEP,  # symmetric: one each way
        "gradient": learning,
        "other": 0,
    }
    assert counted == pytest.approx(expected)
    assert row["gflop"] * 1e9 == pytest.approx(sum(expected.values()))


def test_operations_are_those_of_a_convolution() -> None:
    """2 · B · Cout · H · W · Cin · k², with padding that keeps 8×8."""
    convolution = SMALL.override(
        {"channels": [4], "kernel": [3], "padding": [1], "hidden": [], "learning_rates": [0.1, 0.1]}
    )
    parts = measure(convolution)["parts"]
    assert parts["drive"]["gflop"] * 1e9 == pytest.approx(2 * B * 4 * 8 * 8 * 1 * 3**2)
    # Pooled by 2: the dense connection above sees 4 × 4 × 4 units, whatever the activation.
    assert parts["free_phase"]["gflop"] * 1e9 == pytest.approx(T * 2 * (2 * B * 64 * CLASSES))


@pytest.mark.parametrize(
    "product",
    [
        lambda a, b, c: a @ b,
        lambda a, b, c: torch.addmm(c, a, b),
        lambda a, b, c: c.addmm_(a, b, alpha=1e-9),
        lambda a, b, c: torch.nn.functional.linear(a, b.t(), c[0]),
    ],
    ids=["mm", "addmm", "addmm_", "linear"],
)
@pytest.mark.parametrize("grad", [True, False])
def test_every_kind_of_matrix_product_is_counted(product: Any, grad: bool) -> None:
    with torch.set_grad_enabled(grad), operation_counter() as counter:
        product(torch.rand(2, 3), torch.rand(3, 5), torch.rand(2, 5))
    assert counter.get_total_flops() == 2 * 2 * 3 * 5


def test_a_transposed_convolution_counts_as_much_as_the_convolution() -> None:
    image, weight = torch.rand(2, 3, 8, 8), torch.rand(5, 3, 3, 3)
    counted = []
    with torch.no_grad():
        up = torch.nn.functional.conv2d(image, weight)
        for convolve, of in (
            (torch.nn.functional.conv2d, image),
            (torch.nn.functional.conv_transpose2d, up),
        ):
            with operation_counter() as counter:
                convolve(of, weight)
            counted.append(counter.get_total_flops())
    assert counted == [2 * 2 * 5 * 6 * 6 * 3 * 3 * 3] * 2


def test_without_a_tolerance_every_sample_takes_t_and_k_steps() -> None:
    row = measure(SMALL)
    assert row["free_steps"] == {"mean": T, "most": T}
    assert row["nudged_steps"] == {"mean": K, "most": K}
    row = measure(SMALL.override({"estimator": "bptt"}))
    assert (row["free_steps"], row["nudged_steps"]) == ({"mean": T, "most": T}, None)


def test_what_settles_at_once_takes_the_steps_and_operations_until_the_first_check() -> None:
    row = measure(SMALL.override({"tolerance": 1e6, "free_steps": 100, "nudged_steps": 100}))
    assert row["free_steps"] == {"mean": 2, "most": 2}
    assert row["restless"] == 0
    assert row["parts"]["free_phase"]["gflop"] * 1e9 == pytest.approx(2 * STEP)


def test_what_never_settles_takes_all_steps_and_is_said_to_be_unsettled(
    run: Run, monkeypatch: pytest.MonkeyPatch, quickly: None
) -> None:
    # States still move after two steps, and nothing but rest is within 0.
    words = "bench", "digits", "--settle", 0, "--free-steps", 2, "--nudged-steps", 2, "--random"
    status, out, _ = run(*words, "--json")
    assert status == 0
    (row,) = json.loads(out)
    assert row["restless"] == 100
    assert row["free_steps"] == {"mean": 2, "most": 2}
    assert "digits, ep: 100.0 % of the samples did not come to rest" in run(*words)[1]


def test_bptt_is_split_into_the_free_and_the_differentiated_phase() -> None:
    parts = measure(SMALL.override({"estimator": "bptt"}))["parts"]
    assert {"drive", "free_phase", "differentiated_phase", "optimizer"} <= set(parts)
    assert not {"nudged_phase", "gradient"} & set(parts)
    assert parts["free_phase"]["gflop"] * 1e9 == pytest.approx((T - K) * STEP)
    # And back through the steps, at least once for every one of them but the first.
    assert parts["differentiated_phase"]["gflop"] * 1e9 > (2 * K - 1) * STEP


def test_steps_of_continual_updates_count_as_gradient_not_as_nudged_phase() -> None:
    continual = {"estimator": "c-ep", "nudging": "one-sided", "optimizer": "adam"}
    learner = runs.build_learner(SMALL.override(continual))
    x, target = _batch(learner)
    with watched(learner.network, learner.optimizer, count().__next__) as parts:
        learner.estimator(learner.network, x, target, learner.generator)
    calls = parts.calls
    assert (calls["free_phase"], calls["nudged_phase"]) == (T, K)
    assert (calls["gradient"], calls["optimizer"]) == (K, K)
    assert calls["drive"] == 1 + K  # the weights of the input move as well


def test_parts_do_not_overlap_and_together_are_the_whole() -> None:
    learner = runs.build_learner(SMALL)
    x, target = _batch(learner)
    shown: list[float] = []

    def meter() -> float:
        shown.append(len(shown) ** 2)
        return shown[-1]

    with watched(learner.network, learner.optimizer, meter) as parts:
        for _ in range(2):
            parts.begin()
            learner.estimator(learner.network, x, target, learner.generator)
    assert sum(parts.taken.values()) == shown[-1] - shown[0]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_parts_of_a_row_are_its_time_and_its_operations(estimator: str) -> None:
    row = measure(SMALL.override({"estimator": estimator, "nudging": "one-sided"}))
    parts = row["parts"]
    assert sum(part["ms"] for part in parts.values()) == pytest.approx(row["ms_per_batch"])
    assert sum(part["gflop"] for part in parts.values()) == pytest.approx(row["gflop"])
    assert row["ms_per_batch"] * 1e3 == pytest.approx(row["u"] * row["u_microseconds"])
    rate = row["gflop"] / row["ms_per_batch"] * 1e3
    assert row["gflop_per_second"] == pytest.approx(rate)
    assert row["share_of_peak"] * row["peak_gflop_per_second"] == pytest.approx(rate)


def test_what_was_watched_is_as_it_was_even_if_it_fails() -> None:
    learner = runs.build_learner(SMALL)
    network, optimizer = learner.network, learner.optimizer

    def scheduled() -> None: ...

    vars(optimizer)["step"] = scheduled  # as a scheduler does
    names = "step", "drive", "contrast_gradients", "learning_rule"
    before = {name: vars(network).get(name) for name in names}

    def fail() -> None:
        with watched(network, optimizer, count().__next__):
            assert all(vars(network).get(name) is not before[name] for name in names)
            assert optimizer.step is not scheduled
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert {name: vars(network).get(name) for name in names} == before
    assert optimizer.step is scheduled


def _batch(learner: runs.Learner) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    samples = random_samples(learner.experiment)
    return samples.draw(B, drawn, torch.device("cpu"), torch.float32)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[runs.Learner]:
    """The learners that are measured."""
    learners: list[runs.Learner] = []

    def build(experiment: Experiment) -> runs.Learner:
        learners.append(runs.build_learner(experiment))
        return learners[-1]

    monkeypatch.setattr(benchmark, "build_learner", build)
    return learners


@pytest.mark.parametrize("estimator", ["ep", "c-ep", "bptt"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_measuring_leaves_the_network_as_it_was_at_rates_that_are_not_zero(
    estimator: str, optimizer: str, built: list[runs.Learner]
) -> None:
    changes = {"estimator": estimator, "optimizer": optimizer, "nudging": "one-sided"}
    experiment = SMALL.override({**changes, "dtype": "float64"})
    measure(experiment)
    (learner,) = built
    fresh = runs.build_learner(experiment).network.parameters()
    for now, before in zip(learner.network.parameters(), fresh, strict=True):
        assert (now - before).abs().max() < 1e-6
    assert all(group["lr"] > 0 for group in learner.optimizer.param_groups)


def test_what_is_measured_was_trained_on_the_data_before(
    built: list[runs.Learner],
) -> None:
    samples = samples_at_hand(SMALL, 1000)
    assert samples is not None
    ticks: list[str] = []
    row = measure(SMALL, samples=samples, train_batches=100, tick=ticks.append)
    assert (row["data"], row["train_batches"], len(ticks)) == ("digits", 100, 100)
    (learner,) = built
    wrong = {}
    for name, network in (
        ("trained", learner.network),
        ("fresh", runs.build_learner(SMALL).network),
    ):
        x, target = samples.draw(
            500, torch.Generator().manual_seed(9), torch.device("cpu"), torch.float32
        )
        with torch.no_grad():
            output = runs_to_rest(network, x)
        wrong[name] = (output.argmax(1) != target.argmax(1)).float().mean().item()
    assert wrong["trained"] < 0.6 < wrong["fresh"]


def runs_to_rest(network: Any, x: torch.Tensor) -> torch.Tensor:
    drive, state = network.drive(x), network.initial_state(x)
    for _ in range(50):
        state = network.step(drive, state)
    return state[-1]


def test_on_random_pixels_nothing_is_learnt() -> None:
    row = measure(SMALL, train_batches=100, tick=lambda _: pytest.fail("it was trained"))
    assert (row["data"], row["train_batches"]) == ("random", 0)


def test_different_mini_batches_are_measured() -> None:
    assert 5 <= measure(SMALL)["batches"] <= runs.MEASURED_BATCHES


# The command


def test_data_that_is_here_is_learnt_and_random_pixels_are_not(run: Run, rows: Rows) -> None:
    assert run("bench", "digits", "--train-batches", 30, "--json")[0] == 0
    assert run("bench", "digits", "--random", "--json")[0] == 0
    (_, _, here, trained), (_, _, none, untrained) = rows
    assert here is not None
    assert (here.name, trained) == ("digits", 30)
    assert (none, untrained) == (None, 0)


def test_nothing_is_downloaded(
    run: Run, rows: Rows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("a download"))
    assert run("bench", "p-1h", "--json")[0] == 0
    assert rows[0][2:] == (None, 0)
    assert list(tmp_path.iterdir()) == []


def test_settings_of_the_preset_can_be_changed_and_threads_be_several(run: Run, rows: Rows) -> None:
    words = ["--settle", "0.02", "--updates", "alternating", "--free-steps", "9"]
    words += ["--nudged-steps", "4", "--epsilon", "0.3", "--batch-size", "7", "--dtype", "float64"]
    words += ["--nudging", "one-sided", "--readout", "linear", "--cost", "cross-entropy"]
    words += ["--nudge", "inside", "--hidden", "40", "30", "--links", "0-2"]
    words += ["--learning-rates", "0.1", "0.2", "0.3", "0.4", "--dataset", "mnist"]
    assert run("bench", "digits", *words, "--threads", 1, 2, "--random", "--json")[0] == 0
    changed = {"tolerance": 0.02, "updates": "alternating", "free_steps": 9, "nudged_steps": 4}
    changed |= {"epsilon": 0.3, "batch_size": 7, "dtype": "float64", "nudging": "one-sided"}
    changed |= {"readout": "linear", "cost": "cross-entropy", "nudge": "inside", "links": ("0-2",)}
    changed |= {"learning_rates": (0.1, 0.2, 0.3, 0.4), "hidden": (40, 30), "dataset": "mnist"}
    assert set(changed) == set(OVERRIDES)
    expected = PRESETS["digits"].experiment.override(changed)
    assert [experiment for _, experiment, *_ in rows] == [
        expected.override({"threads": threads}) for threads in (1, 2)
    ]


def test_without_options_rows_are_the_presets() -> None:
    rows = BenchSettings().rows(list(PRESETS), {})
    assert rows == [
        (name, preset.experiment.override({"threads": 1, "device": "cpu"}))
        for name, preset in PRESETS.items()
    ]


def test_of_all_presets_those_that_an_estimator_refuses_are_left_out(run: Run, rows: Rows) -> None:
    words = ["--estimator", "bptt", "--nudged-steps", "15", "--random", "--json"]
    status, out, err = run("bench", *words)
    assert status == 0
    measured = {row["preset"] for row in json.loads(out)}
    short = {name for name in PRESETS if PRESETS[name].experiment.free_steps < 15}
    assert short
    assert measured == set(PRESETS) - short - {"cifar-10"}
    for name in short - {"cifar-10"}:
        assert f"{name} left out: estimator = bptt: nudged_steps" in err
    assert "cifar-10 left out: device = cpu: expected a GPU" in err


def test_an_estimator_is_refused_before_anything_is_measured(run: Run, rows: Rows) -> None:
    words = ["--estimator", "bptt", "--nudged-steps", "15"]
    status, out, err = run("bench", "digits-c-ep", "p-conv-fast", *words)
    assert (status, out, err.count("\n"), rows) == (2, "", 1, [])
    assert "estimator = bptt: nudged_steps" in err


def test_the_promised_fields_are_printed(run: Run, quickly: None) -> None:
    presets, estimators = ["digits-c-ep", "digits-conv", "digits-vf"], ["ep", "bptt"]
    words = ["--train-batches", "2", "--json"]
    status, out, _ = run("bench", *presets, "--estimator", *estimators, *words)
    assert status == 0
    rows = json.loads(out)
    assert [(row["preset"], row["estimator"]) for row in rows] == [
        (preset, estimator) for preset in presets for estimator in estimators
    ]
    # Every estimator there is, where its settings allow it.
    status, out, _ = run("bench", "digits-c-ep", "--estimator", *ESTIMATORS, *words)
    assert status == 0
    rows += json.loads(out)
    assert [row["estimator"] for row in rows[6:]] == list(ESTIMATORS)
    for row in rows:
        assert {"device", "threads", "ms_per_batch", "u", "u_microseconds", "peak_mib"} <= set(row)
        assert {"parts", "free_steps", "nudged_steps", "restless"} <= set(row)
        for part in row["parts"].values():
            assert set(part) == {"ms", "gflop", "share_of_peak"}
        assert (row["data"], row["train_batches"]) == ("digits", 2)
        # Of a batch only a small part is one step, or the products of one.
        assert row["ms_per_batch"] > row["step_ms"] > 0
        assert row["ms_per_batch"] > row["bare_ms"] > 0


def test_one_preset_is_split_and_what_was_measured_is_said(run: Run, quickly: None) -> None:
    status, out, _ = run("bench", "digits-vf", "--train-batches", 2)
    assert status == 0
    header, row, *_ = lines = out.splitlines()
    assert header.split()[:3] == ["preset", "estimator", "device"]
    assert row.split()[:4] == ["digits-vf", "ep", "cpu", "1"]
    data = lines.index("digits, after training on 2 mini-batches")
    # Columns for which there is no room stand below, for the same preset.
    assert lines[data - 1].split()[:4] == row.split()[:4]
    # But for what the columns mean.
    assert all(len(line) <= 80 for line in (*lines[:data], *lines[data + 3 :]))
    split = [line.split("  ")[0] for line in lines[lines.index("", data) :]]
    assert split[3:] == ["drive", "free phase", "nudged phase", "gradient", "other", "all"]


def test_several_are_split_only_if_asked_for_and_random_pixels_are_said(
    run: Run, quickly: None
) -> None:
    words = "bench", "digits", "digits-vf", "--random"
    out = run(*words)[1]
    assert "random pixels, an untrained network" in out
    assert "drive" not in out
    assert run(*words, "--parts")[1].count("\ndrive") == 2


# A process of its own


def test_a_process_that_is_killed_is_a_failure_that_names_what_it_measured() -> None:
    with pytest.raises(Failure, match="mine: expected the process that measures it to end well"):
        in_own_process("mine", os._exit, 9)


def test_what_is_raised_and_what_is_returned_come_from_the_process() -> None:
    with pytest.raises(ValueError, match="math domain|nonnegative"):
        in_own_process("mine", math.sqrt, -1.0)  # pyright: ignore[reportArgumentType]
    assert in_own_process("mine", dict, [("a", 1)]) == {"a": 1}


def test_what_is_measured_in_a_process_ticks_in_this_one() -> None:
    ticks: list[str] = []
    found = in_own_process("mine", twice, os.getpid(), tick=ticks.append)
    assert (ticks, found) == (["once", "twice"], {"elsewhere": True})


ALONE = (
    # Whoever runs the tests in the background ignores Ctrl-C, and the child would inherit that.
    "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from eqprop.cli import bench; from eqprop.cli.main import main\n"
    "from eqprop.runs.own_process import in_own_process\n"
    "bench.run = lambda _: in_own_process('mine', time.sleep, 600)\n"
    "sys.exit(main(['bench']))"
)
"""Measures nothing, but waits for a process of its own."""


@needs_proc
@pytest.mark.parametrize("begun", [True, False], ids=["measuring", "beginning"])
@pytest.mark.parametrize("ended_by", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_no_process_is_left_of_a_command_that_was_ended(ended_by: str, begun: bool) -> None:
    command = subprocess.Popen(
        [sys.executable, "-c", ALONE], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    patience = time.monotonic() + 60
    while not (started := started_by(command.pid)):
        assert command.poll() is None
        assert time.monotonic() < patience
        time.sleep(0.005)
    if begun:
        time.sleep(0.3)
    # From a terminal, Ctrl-C goes to all.
    to = os.killpg if ended_by == "SIGINT" else os.kill
    to(command.pid, getattr(signal, ended_by))
    _, err = command.communicate(timeout=20)
    patience = time.monotonic() + 10
    while any(map(running, started)):
        assert time.monotonic() < patience, "a process has outlived the command"
        time.sleep(0.005)
    if ended_by != "SIGKILL":
        said = {"SIGTERM": "ended by SIGTERM", "SIGINT": "interrupted"}[ended_by]
        assert (command.returncode, err) == (128 + getattr(signal, ended_by), f"eqprop: {said}\n")


def started_by(pid: int) -> list[int]:
    """The processes that one has started to measure."""
    mark = b"spawn_main"
    return [c for c in children(pid) if mark in Path(f"/proc/{c}/cmdline").read_bytes()]


def twice(parent: int, tick: Callable[[str], None]) -> dict[str, Any]:
    tick("once")
    tick("twice")
    return {"elsewhere": os.getpid() != parent}
