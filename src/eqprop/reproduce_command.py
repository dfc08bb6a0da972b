"""What ``eqprop reproduce`` does, once its arguments are known to be good.

Its folder holds

=====================================  =======================================================
``fig-1c.png``, ``fig-1c.json``        the figure, and its numbers with settings and hardware
``fig-1c-whole.png``                   the same, the angles with the first nudged step too
``runs/<run>/``                        every run, as ``eqprop train`` leaves it
``gradient-angles/<run>.json``         what was measured before training
``logs/<run>.log``                     what the run said
=====================================  =======================================================

Every run is a process of its own. The same command again goes on: finished runs are kept, others
resumed, failed ones tried again.
"""

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, final

import torch

from eqprop.build import build_data
from eqprop.checkpoint import write_atomically
from eqprop.display import Progress
from eqprop.failures import Failure, UsageError
from eqprop.gradient_angle import GradientAngle, measure
from eqprop.jobs import Job, work_off
from eqprop.memory import enough_memory
from eqprop.relaxation import NonFiniteError
from eqprop.reproduction import Figure1cSettings, PlannedRun
from eqprop.run_board import RunBoard, RunLine
from eqprop.run_folder import RunError, RunFolder, environment

__all__ = ["TRAINER", "reproduce_figure_1c"]

TRAINER = (sys.executable, "-m", "eqprop.leashed")
"""What runs ``train``, in a process of its own that ends with this one."""

_OURS = "gradient-angles"
_LAYERS = {1: "one hidden layer", 2: "two hidden layers"}
_SPEARMAN = {"gradient_angle": "spearman", "whole_angle": "spearman_whole"}


def reproduce_figure_1c(
    settings: Figure1cSettings,
    *,
    out: Path | None,
    data_dir: str | None,
    as_json: bool,
    trainer: Sequence[str] = TRAINER,
) -> int:
    """Measure, train and draw; whatever was done before in the folder is kept.

    Args:
        settings: how much of the figure to make.
        out: the folder; by default one named after the data set.
        data_dir: where the data sets lie.
        as_json: print the numbers as JSON instead of a table.
        trainer: the command that ``train …`` is added to.
    """
    folder = out or Path("runs") / f"fig-1c-{settings.dataset}"
    _require_ours(folder)
    runs = [_Run(planned, folder) for planned in settings.runs]
    for run in runs:
        run.require_same()
    unmeasured = [run for run in runs if run.angle is None]
    torch.set_num_threads(1)
    # Before anything is written or started: downloaded once, not by every run at a time.
    experiment = runs[0].planned.experiment
    with enough_memory(f"dataset = {settings.dataset}", "cpu"):
        data = build_data(experiment, data_dir)
    with RunFolder(folder).claimed(), _going_on_later(runs):
        for run in runs:
            # Another command may have gone on with it until just now.
            run.look()
        (folder / _OURS).mkdir(exist_ok=True)
        with Progress(len(unmeasured), "gradient angle") as tick:
            for run in unmeasured:
                try:
                    with enough_memory(f"batch_size = {experiment.batch_size}", "cpu"):
                        run.measured(measure(run.planned.experiment, data))
                except NonFiniteError as error:
                    run.unmeasured = f"gradient angle: {error}"
                tick(run.planned.name)
        del data
        _train(runs, settings, folder, data_dir, trainer)
        result = _write(runs, settings, folder)
    if as_json:
        print(json.dumps(result))
    else:
        _print(result)
        print(f"\neverything is in {folder}")
    if failed := [run for run in runs if run.reason]:
        named = "; ".join(f"{run.planned.name}: {run.reason}" for run in failed)
        raise Failure(
            f"{len(failed)} of {len(runs)} runs failed ({named}); the same command again retries "
            f"them, their logs are in {folder / 'logs'}"
        )
    return 0


@final
class _Run:
    """A planned run, and what has become of it in a folder."""

    def __init__(self, planned: PlannedRun, folder: Path) -> None:
        self.planned = planned
        self.wanted = planned.experiment.epochs
        self.folder = RunFolder(folder / "runs" / planned.name)
        self.log = folder / "logs" / f"{planned.name}.log"
        self._angle_file = folder / _OURS / f"{planned.name}.json"
        self.angle = GradientAngle.stored(self._angle_file, planned.experiment)
        self.unmeasured: str | None = None
        self.untrained: str | None = None
        self.running = False
        self.since = 0.0
        self.history: list[dict[str, Any]] = []
        self.look()

    def look(self) -> None:
        """Read how far training has come."""
        # A run that was given more epochs before counts as it was after those wanted.
        history = self.folder.read_metrics()[: self.wanted]
        if len(history) != len(self.history):
            self.since = time.monotonic()
        self.history = history

    @property
    def finished(self) -> bool:
        return len(self.history) == self.wanted

    @property
    def reason(self) -> str | None:
        """Why the figure lacks it, or part of it, if something failed."""
        # What failed after the last epoch (to draw its curves, say) leaves the run whole.
        return (None if self.finished else self.untrained) or self.unmeasured

    def measured(self, angle: GradientAngle) -> None:
        self.angle = angle
        angle.store(self._angle_file, self.planned.experiment)

    def require_same(self) -> None:
        """Refuse a folder that holds another run.

        Raises:
            UsageError: it does, or it holds something else.
        """
        if not self.folder.config.exists():
            try:
                self.folder.require_new()
            except RunError as error:
                raise UsageError(str(error)) from None
            return
        found = self.folder.read_config().experiment.to_json()
        for name, value in self.planned.experiment.to_json().items():
            if name not in ("epochs", "threads") and found[name] != value:
                raise UsageError(
                    f"{self.folder.path}: {name} = {found[name]}: expected {value}, as in the run "
                    "that is wanted; choose another --out"
                )

    def words(self, data_dir: str | None) -> list[str]:
        """What trains it, after the trainer."""
        data = [] if data_dir is None else [f"--data-dir={data_dir}"]
        if self.folder.config.exists():
            return ["train", f"--resume={self.folder.path}", f"--epochs={self.wanted}", *data]
        planned = self.planned
        return ["train", planned.preset, *planned.options, f"--out={self.folder.path}", *data]

    def line(self, seconds_per_effort: float | None) -> RunLine:
        state: Literal["waiting", "running", "done", "FAILED"] = (
            "FAILED"
            if self.untrained
            else "done"
            if self.finished
            else "running"
            if self.running
            else "waiting"
        )
        error = self.history[-1]["test_error"] if self.history else None
        left = self.left(seconds_per_effort)
        return RunLine(self.planned.name, state, len(self.history), self.wanted, error, left)

    def left(self, seconds_per_effort: float | None) -> float | None:
        """Seconds to go; those of an epoch are those of its last ones, else of other runs."""
        if self.untrained or self.finished:
            return 0.0
        if recent := [metrics["seconds"] for metrics in self.history[-3:]]:
            epoch = sum(recent) / len(recent)
        elif seconds_per_effort is not None:
            epoch = seconds_per_effort * self.planned.effort
        else:
            return None
        begun = min(epoch, time.monotonic() - self.since) if self.running else 0.0
        return epoch * (self.wanted - len(self.history)) - begun


def _require_ours(folder: Path) -> None:
    """Refuse a folder that is neither new nor that of an earlier reproduction."""
    if (folder / _OURS).is_dir():
        return
    try:
        RunFolder(folder).require_new()
    except RunError:
        raise UsageError(
            f"{folder}: expected a new or empty folder, or that of this figure begun before, found "
            "something else there; choose another --out"
        ) from None


@contextmanager
def _going_on_later(runs: Sequence[_Run]) -> Iterator[None]:
    """Within it, Ctrl-C and SIGTERM end the command in one line that says how to go on."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if here else None
    try:
        yield
    except KeyboardInterrupt:
        done = sum(run.finished for run in runs)
        raise Failure(
            f"stopped with {done} of {len(runs)} runs done; every finished epoch is kept: "
            "the same command again goes on from there"
        ) from None
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)


def _train(
    runs: Sequence[_Run],
    settings: Figure1cSettings,
    folder: Path,
    data_dir: str | None,
    trainer: Sequence[str],
) -> None:
    """Train all runs that are not finished, the longest first, and draw after every one."""
    by_name = {run.planned.name: run for run in runs}
    todo = sorted(
        (run for run in runs if not run.finished),
        key=lambda run: run.planned.effort * (run.wanted - len(run.history)),
        reverse=True,
    )
    if kept := len(runs) - len(todo):
        print(f"{kept} of {len(runs)} runs were done before", file=sys.stderr)
    board = RunBoard()

    def started(job: Job) -> None:
        run = by_name[job.name]
        run.running, run.since = True, time.monotonic()
        begun = f", from epoch {len(run.history) + 1}" if run.history else ""
        if not board.live:
            board.say(f"{job.name}: started{begun}")

    def ended(job: Job, reason: str | None) -> None:
        run = by_name[job.name]
        run.look()
        run.running = False
        if reason is None and not run.finished:
            reason = f"ended after epoch {len(run.history)} of {run.wanted}; see its log"
        run.untrained = reason
        line = run.line(None).text(max(map(len, by_name)))
        board.say(line if reason is None else f"{line}  {reason}")
        _write(runs, settings, folder)

    def tick() -> None:
        for run in runs:
            if run.running:
                run.look()
        rate = _seconds_per_effort(runs)
        left = [run.left(rate) for run in runs]
        known = [seconds for seconds in left if seconds is not None]
        total = (
            max(max(known), sum(known) / settings.processes) if len(known) == len(left) else None
        )
        board.show([run.line(rate) for run in runs], total)

    with closing(board):
        work_off(
            [Job(r.planned.name, [*trainer, *r.words(data_dir)], r.log) for r in todo],
            settings.processes,
            started=started,
            ended=ended,
            tick=tick,
            # Libraries that start a thread per core would stand in each other's way.
            environment={"OMP_NUM_THREADS": "1"},
        )


def _seconds_per_effort(runs: Sequence[_Run]) -> float | None:
    trained = [run for run in runs if run.history]
    effort = sum(run.planned.effort for run in trained)
    seconds = sum(run.history[-1]["seconds"] for run in trained)
    return seconds / effort if effort else None


def _write(runs: Sequence[_Run], settings: Figure1cSettings, folder: Path) -> dict[str, Any]:
    """Write the numbers of the figure, and draw it; returns the numbers."""
    rows = [_row(run) for run in runs]
    result = {
        "figure": "fig-1c",
        "settings": settings.to_json(),
        "rows": rows,
        "correlations": _correlations(rows, settings.hidden_layers),
        "environment": environment(1, "cpu"),
    }
    from eqprop.reproduction_plots import draw_figure_1c

    drawn = [row for row in rows if _has_point(row)]
    caption = _caption(rows, drawn, settings)
    for angle, file in (("gradient_angle", "fig-1c.png"), ("whole_angle", "fig-1c-whole.png")):
        rho = {
            found["hidden_layers"]: found[_SPEARMAN[angle]]
            for found in result["correlations"]
            if found["points"] == "C-VF"
        }
        draw_figure_1c(drawn, rho, caption, folder / file, angle=angle)
    # Last: where it lies, the pictures do.
    write_atomically(folder / "fig-1c.json", (json.dumps(result, indent=2) + "\n").encode())
    return result


def _row(run: _Run) -> dict[str, Any]:
    last = run.history[-1] if run.finished else {}
    return {
        "name": run.planned.name,
        "algorithm": run.planned.algorithm,
        "preset": run.planned.preset,
        "hidden_layers": run.planned.hidden_layers,
        "weight_angle": run.planned.changes.get("weight_angle"),
        "seed": run.planned.changes["seed"],
        "gradient_angle": None if run.angle is None else run.angle.degrees,
        "whole_angle": None if run.angle is None else run.angle.whole_degrees,
        "premise_holds": None if run.angle is None else run.angle.premise_holds,
        "epochs": len(run.history),
        "train_error": last.get("train_error"),
        "test_error": last.get("test_error"),
        "seconds": math.fsum(metrics["seconds"] for metrics in run.history),
        "failed": run.reason,
    }


def _has_point(row: dict[str, Any]) -> bool:
    return all(row[name] is not None for name in ("gradient_angle", "whole_angle", "test_error"))


def _correlations(rows: Sequence[dict[str, Any]], layers: Sequence[int]) -> list[dict[str, Any]]:
    """Spearman's rank correlation of angle and test error over what is drawn: means over seeds."""
    found = []
    for count in layers:
        for points in ("C-VF", "all"):
            trials: dict[tuple[str, float | None], list[dict[str, Any]]] = {}
            for row in rows:
                chosen = row["hidden_layers"] == count and points in ("all", row["algorithm"])
                if _has_point(row) and chosen:
                    trials.setdefault((row["algorithm"], row["weight_angle"]), []).append(row)
            rho = {
                name: _spearman(
                    [
                        (fmean(row[angle] for row in of), fmean(row["test_error"] for row in of))
                        for of in trials.values()
                    ]
                )
                for angle, name in _SPEARMAN.items()
            }
            found.append({"hidden_layers": count, "points": points, **rho, "n": len(trials)})
    return found


def _spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    """None where it says nothing: of fewer than three pairs, or where one side is constant."""
    if len(pairs) < 3 or any(len({pair[side] for pair in pairs}) < 2 for side in (0, 1)):
        return None
    from scipy.stats import spearmanr

    x, y = zip(*pairs, strict=True)
    found: Any = spearmanr(x, y)
    return float(found.statistic)


def _caption(
    rows: Sequence[dict[str, Any]], drawn: Sequence[dict[str, Any]], settings: Figure1cSettings
) -> str:
    lengths = []
    for layers in settings.hidden_layers:
        of = sorted({r.experiment.epochs for r in settings.runs if r.hidden_layers == layers})
        span = "–".join(map(str, dict.fromkeys((of[0], of[-1]))))
        lengths.append(f"{span} epoch{'s' * (of != [1])} with {_LAYERS[layers]}")
    seeds = ", ".join(map(str, settings.seeds))
    several = "; mean ± standard deviation" if len(settings.seeds) > 1 else ""
    steady = sum(row["premise_holds"] for row in drawn)
    counted = f"{len(drawn)} of {len(rows)}" if len(drawn) < len(rows) else f"{len(rows)}"
    return (
        f"{settings.dataset}, {', '.join(lengths)}, "
        f"seed{'s' * (len(settings.seeds) > 1)} {seeds}{several}\n"
        f"{counted} networks; the free phase was steady before training in {steady} of them"
    )


def _print(result: dict[str, Any]) -> None:
    rows = result["rows"]
    width = max(len(row["name"]) for row in rows)
    print(f"{'run':<{width}}  gradient angle  t = 0 too  steady  epochs  train error  test error")
    for row in rows:
        angle, whole, train, test = (
            "–" if row[name] is None else f"{row[name]:.2f}{unit}"
            for name, unit in (
                ("gradient_angle", "°"),
                ("whole_angle", "°"),
                ("train_error", " %"),
                ("test_error", " %"),
            )
        )
        steady = {None: "–", True: "yes", False: "no"}[row["premise_holds"]]
        print(
            f"{row['name']:<{width}}  {angle:>14} {whole:>9}  {steady:>6}  {row['epochs']:>6}  "
            f"{train:>11}  {test:>10}{'  FAILED' if row['failed'] else ''}"
        )
    print("\nSpearman's rank correlation of test error with   gradient angle  t = 0 too")
    for found in result["correlations"]:
        points = f"{_LAYERS[found['hidden_layers']]}, {found['points']}"
        as_published, whole = (
            "undefined" if found[name] is None else f"{found[name]:+.3f}"
            for name in _SPEARMAN.values()
        )
        print(f"  {points:<44}  {as_published:>14}  {whole:>9}  (n = {found['n']})")
