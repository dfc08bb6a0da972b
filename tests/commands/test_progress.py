"""What is said meanwhile: a bar where somebody looks, a line now and then where nobody does."""

import io
import sys
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

import eqprop
from eqprop.cli.progress import Display, Progress, duration
from eqprop.training import progress
from eqprop.training.loop import Metrics, Running
from eqprop.training.settled import Tally


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


anywhere = pytest.mark.parametrize("stream", [Terminal, io.StringIO], ids=["terminal", "file"])


def stderr(monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]) -> io.StringIO:
    monkeypatch.setattr(sys, "stderr", said := stream())
    return said


def running(epoch: int, batch: int, batches: int, wrong: int, tested: int = 0) -> Running:
    """After mini-batches of 20."""
    counts = torch.tensor(wrong), torch.tensor(0.0)
    began, tally = torch.zeros(1), Tally()
    return Running(
        epoch, batch, batches, *counts, 20 * batch, began, 0.0, tally, tally, None, tested
    )


class Never:
    def __str__(self) -> str:
        raise AssertionError("asked for, though nothing is shown")


def test_a_file_gets_a_line_only_once_the_interval_has_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = stderr(monkeypatch, io.StringIO)
    with Progress(3, "process", interval=0.05) as tick:
        tick(Never())
        time.sleep(0.06)
        tick("second")
        tick(Never())
    assert file.getvalue() == "second: 2 of 3 processes\n"


def test_a_terminal_gets_a_bar_that_says_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = stderr(monkeypatch, Terminal)
    with Progress(3, "row", delay=0) as tick:
        time.sleep(0.25)
        tick("first")
    assert "first |" in terminal.getvalue()
    assert "| 33 %, " in terminal.getvalue()


def test_at_60_columns_there_is_room_for_a_bar_and_all_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = stderr(monkeypatch, Terminal)
    # What tqdm asks where there is no terminal to ask; of a line it leaves the last column free.
    monkeypatch.setenv("COLUMNS", "61")
    monkeypatch.setenv("LINES", "25")
    display = Display(epochs=30, batches=1200)
    for batch in range(1, 4):
        time.sleep(0.25)
        display.batch(running(12, batch, 1200, batch))
    display.close()
    shown = [line for line in terminal.getvalue().split("\r") if "epoch" in line][-1]
    assert shown.startswith("epoch 12/30, error 5.00 % |")
    assert shown.count("|") == 2
    assert len(shown) <= 60
    assert len(shown.split("|")[1]) >= 3
    assert " left" in shown


@anywhere
def test_what_is_over_soon_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]
) -> None:
    said = stderr(monkeypatch, stream)
    with Progress(3, "row") as tick:
        for _ in range(3):
            tick(Never())
    assert said.getvalue().strip() == ""


@anywhere
def test_every_epoch_of_a_training_leaves_a_line(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]
) -> None:
    said = stderr(monkeypatch, stream)
    display = Display(epochs=12, batches=2, done=6)
    for batch in (1, 2):
        display.batch(running(4, batch, 2, batch))
    display.epoch(Metrics(4, 5.0, 0.1, 6.0, 0.2, 1.5, (12.0, 90.0)))
    display.close()
    line = "error: train  5.00 %, test  6.00 %  weight angle 12.0°, 90.0°  1.5 s  "
    assert f"epoch  4/12  {line}" in said.getvalue()


EPOCH = Metrics(
    4,
    *(5.0, 0.1, 6.0, 0.2, 1.5),
    free_steps=8.26,
    most_free_steps=20,
    nudged_steps=3.2,
    most_nudged_steps=8,
    restless=0.0,
)


@pytest.mark.parametrize(
    ("settles", "metrics", "said"),
    [
        (True, EPOCH, "T 8.3 (most 20), K 3.2  1.5 s  "),
        (True, replace(EPOCH, nudged_steps=None), "T 8.3 (most 20)  1.5 s  "),
        (True, replace(EPOCH, restless=2.43), "T 8.3 (most 20), K 3.2  2.4 % not at rest  1.5 s  "),
        # Steps that are the same for all are known beforehand.
        (False, EPOCH, "1.5 s  "),
        (False, replace(EPOCH, restless=2.43), "2.4 % not at rest  1.5 s  "),
        (False, replace(EPOCH, restless=0.04), "1.5 s  "),
        (True, Metrics(4, 5.0, 0.1, 6.0, 0.2, 1.5), "1.5 s  "),
    ],
)
def test_an_epoch_says_how_samples_settled(
    monkeypatch: pytest.MonkeyPatch, settles: bool, metrics: Metrics, said: str
) -> None:
    file = stderr(monkeypatch, io.StringIO)
    display = Display(epochs=12, batches=2, done=6, settles=settles)
    display.epoch(metrics)
    display.close()
    assert f"test  6.00 %  {said}" in file.getvalue()


@anywhere
def test_a_warning_is_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]
) -> None:
    said = stderr(monkeypatch, stream)
    display = Display(epochs=12, batches=2)
    display.warn("states go to and fro")
    display.close()
    assert "warning: states go to and fro\n" in said.getvalue()


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (36061, "10:01:01")]
)
def test_a_duration_has_hours_only_where_there_are_any(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_training_in_python_can_be_watched_epoch_by_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    at_once = partial(progress.tqdm, delay=0, mininterval=0, file=terminal)
    # What the bar is told it is not told again: the test overrides when, and where.
    monkeypatch.setattr(progress, "tqdm", lambda **told: at_once(**{**told, "delay": 0}))
    watch = progress.ProgressBar()
    for epoch in (1, 2):
        for batch in (1, 2):
            watch(running(epoch, batch, 2, wrong=5 * batch))
        watch(running(epoch, 2, 2, wrong=10, tested=20))
        watch(running(epoch, 2, 2, wrong=10, tested=40))
    frames = terminal.getvalue().split("\r")
    for epoch in (1, 2):
        assert any(f"epoch {epoch}: 100%" in frame and "2/2" in frame for frame in frames)
    assert any("error 25.00 %" in frame for frame in frames)
    # Gone, and not begun anew while the test samples are looked at.
    assert not frames[-1].strip()
    assert sum("epoch 2:   0%" in frame for frame in frames) == 1


def test_a_watched_training_is_the_same_training() -> None:
    def weights(on_batch: progress.ProgressBar | None = None) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = eqprop.PrototypicalNetwork(eqprop.dense(64, 10))
        estimator = eqprop.EquilibriumPropagation(3, 2, beta=0.5)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        digits = eqprop.load_dataset("digits")
        training = eqprop.train(
            model, estimator, optimizer, digits, epochs=1, batch_size=200, on_batch=on_batch
        )
        list(training)
        return [parameter.detach() for parameter in model.parameters()]

    plain, watched = weights(), weights(progress.ProgressBar())
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


def test_in_jupyter_the_bar_is_one_of_the_page() -> None:
    """Skipped without what Jupyter needs, which the site needs too."""
    client, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    for package in ("ipykernel", "ipywidgets"):
        pytest.importorskip(package)
    cell = """
import eqprop, time, torch
model = eqprop.PrototypicalNetwork(eqprop.dense(64, 10))
estimator = eqprop.EquilibriumPropagation(3, 2, beta=0.5)
optimizer, data = torch.optim.SGD(model.parameters(), 0.1), eqprop.load_dataset("digits")
watch = eqprop.ProgressBar()
def slowly(running):
    time.sleep(0.3)
    watch(running)
list(eqprop.train(model, estimator, optimizer, data, epochs=1, batch_size=240, on_batch=slowly))
"""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    client.NotebookClient(book, kernel_name="python3", timeout=60).execute()
    (code,) = book.cells
    shown = [output.data for output in code.outputs if "data" in output]
    assert any("application/vnd.jupyter.widget-view+json" in data for data in shown), shown
