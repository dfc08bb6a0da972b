"""A figure made again: measured, trained side by side and drawn, from wherever it was stopped.

Its folder holds

=====================================  =======================================================
``fig-1c.json``                        its numbers, with settings and hardware
``fig-1c.md``, ``fig-1c.csv``          the same as tables; further ones in ``fig-1c-2.csv``, …
``fig-1c.png``, ``.svg`` and others    what is drawn of them
``runs/<run>/``                        every run, as ``eqprop train`` leaves it
``gradient-angles/<run>.json``         what was measured before training, if anything
``logs/<run>.log``                     what the run said
``cluster/``                           which run is in which job of a cluster, and its files
=====================================  =======================================================

for a figure called ``fig-1c`` that measures a gradient angle. Every run is a process of its own,
or a job of a cluster. The same again goes on: finished runs are kept, others resumed, failed ones
tried again; those still in a job are watched.
"""

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, final

from eqprop import core, data, runs
from eqprop.errors import ConfigurationError, Failure, Stopped, UsageError
from eqprop.figures.figure import Figure, Table
from eqprop.figures.run import Run
from eqprop.files import write_atomically
from eqprop.registries import FIGURES
from eqprop.settings.experiment import Experiment
from eqprop.settings.fields import Settings
from eqprop.settings.work import Work

__all__ = ["TRAINER", "Known", "Reproduction", "Watcher", "Work"]

TRAINER = (sys.executable, "-m", "eqprop.cli.worker")
"""What runs ``train``, in a process of its own that ends with this one."""


@final
@dataclass(frozen=True)
class Known:
    """What several reproductions find out once.

    Attributes:
        datasets: that are loaded, by name and dtype.
        seconds: how long an epoch of an experiment takes here.
    """

    datasets: "dict[tuple[str, str], data.Dataset]" = field(default_factory=dict)
    seconds: dict[Experiment, float] = field(default_factory=dict)


class Watcher(Protocol):
    """Whoever is told how it goes."""

    def measuring(self, total: int, what: str, /) -> AbstractContextManager[Callable[[str], None]]:
        """Within it, what it gives is called with the name of every run that is measured."""
        ...

    def say(self, line: str) -> None:
        """What a person is to know."""

    def started(self, run: Run) -> None:
        """A run has begun, or goes on."""

    def ended(self, run: Run) -> None:
        """A run has ended, well or not."""

    def show(self, runs: Sequence[Run], left: float | None) -> None:
        """How all stand, several times a second, and seconds until all are done, if known."""


@final
class Reproduction:
    """A figure on its way.

    Args:
        name: of the figure.
        settings: those of the figure.
        work: how it is done.
        folder: for all of it, new or begun before; by default named after the figure, and the data
            set if the figure leaves that to choose.
        data_dir: where the data sets lie.
        trained_in: where the runs lie, if not in ``runs`` of the folder: figures share those that
            are the same.
        known: what others have found out, and this one adds to.
        trainer: the command that ``train …`` is added to.

    Raises:
        ConfigurationError: settings that a run cannot have.
        UsageError: there is no such cluster here.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        work: Work,
        *,
        folder: Path | None = None,
        data_dir: str | None = None,
        trained_in: Path | None = None,
        known: Known | None = None,
        trainer: Sequence[str] = TRAINER,
    ) -> None:
        if work.cluster is not None:
            runs.require_cluster(work.cluster)
        self._figure: Figure[Any] = FIGURES.load(name)
        self._name, self._settings, self._work = name, settings, work
        dataset = getattr(settings, "dataset", None)
        self.folder = folder or Path("runs") / (f"{name}-{dataset}" if dataset else name)
        self._data_dir, self._trainer = data_dir, trainer
        self._file = self.folder / f"{name}.json"
        self._measurements = self.folder / f"{self._figure.measured.replace(' ', '-')}s"
        self._drawn = False
        self._known = known or Known()
        self._runs = [
            Run(run, self.folder, self._measurements, self._figure.accepts, trained_in)
            for run in self._figure.runs(settings)
        ]

    def plan(self, watcher: Watcher) -> list[dict[str, Any]]:
        """What is to be trained, and about how long that takes here, on one core or one GPU.

        A mini-batch or more of every different experiment is timed, on its data; no folder is
        written, but for data sets that are downloaded.

        Returns:
            For every run ``run``, ``epochs``, how many are ``done``, and seconds: ``epoch``, of one
            epoch, and ``left``, until it is done.

        Raises:
            UsageError: there is nothing to train, or the folder holds something else.
            Failure: the data is not to be had, or the memory too small.
        """
        import torch

        torch.set_num_threads(1)
        self._require_ours()
        datasets, seconds = self._load(), self._known.seconds
        # What a cluster computes on need not be here.
        device = self._work.device if self._work.cluster is None else "cpu"
        alone = {"seed": 0, "epochs": 1, "threads": 1, "device": device}
        # Neither the seed nor the angle of the weights changes how long a mini-batch takes.
        alike = {
            run.name: run.planned.experiment.override(alone)
            for run in self._runs
            if not run.finished
        }
        alike = {
            name: of if of.weight_angle is None else of.override({"weight_angle": 0.0})
            for name, of in alike.items()
        }
        with watcher.measuring(len({*alike.values()} - seconds.keys()), "timing") as tick:
            for name, of in alike.items():
                if of not in seconds:
                    dataset = datasets[_data_of(of)]
                    batches = -(-len(dataset.train) // of.batch_size)
                    seconds[of] = runs.seconds_per_batch(of, dataset) * batches
                    tick(name)
        found = []
        for run in self._runs:
            epoch = seconds[alike[run.name]] if run.name in alike else None
            done = len(run.history)
            left = 0.0 if epoch is None else epoch * (run.wanted - done)
            row = {"run": run.name, "epochs": run.wanted, "done": done}
            found.append({**row, "epoch": epoch, "left": left})
        return found

    @property
    def workers(self) -> int:
        """How many runs are trained at a time."""
        return min(self._work.processes, len(self._runs))

    def make(self, watcher: Watcher) -> dict[str, Any]:
        """Measure, train and draw; whatever was done before in the folder is kept.

        Returns:
            The numbers of the figure, as written.

        Raises:
            UsageError: the folder holds something else.
            Failure: stopped before it was done, or another process works there.
        """
        self._require_ours()
        # Before anything is written or started: downloaded once, not by every run at a time.
        datasets = self._load()
        with runs.RunFolder(self.folder).claimed(), self._going_on_later():
            for run in self._runs:
                # Another command may have gone on with it until just now.
                run.look()
            self._write()
            self._measure(datasets, watcher)
            # Training is done by others, who need the memory.
            datasets.clear()
            self._train(watcher)
            return self._write()

    def tables(self, result: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
        """What is to be read of the numbers that :meth:`make` gave, below the figure's name."""
        for table in self._figure.tables(result):
            yield self._name, table

    def require_whole(self) -> None:
        """Say what failed.

        Raises:
            Failure: something did.
        """
        if failed := [f"{run.name}: {run.failed}" for run in self._runs if run.failed]:
            raise Failure(
                f"{len(failed)} of {len(self._runs)} runs failed ({'; '.join(failed)}); the same "
                f"command again retries them, their logs are in {self.folder / 'logs'}"
            )

    def _require_ours(self) -> None:
        """Refuse what has no runs, and a folder that is neither new nor that of an earlier one."""
        if not self._runs:
            tables = self._figure.tables(self._figure.result(self._settings, []))
            why = {str(row.get("remark") or "") for table in tables for row in table.rows} - {""}
            raise UsageError(
                f"{self._name}: expected something to train, got settings that leave nothing"
                + "".join(f"; {reason}" for reason in sorted(why))
            )
        if not (self._file.exists() or self._measurements.is_dir()):
            try:
                runs.RunFolder(self.folder).require_new()
            except UsageError:
                raise UsageError(
                    f"{self.folder}: expected a new or empty folder, or that of this figure begun "
                    "before, found something else there; choose another --out"
                ) from None
        for run in self._runs:
            run.require_same()

    @contextmanager
    def _going_on_later(self) -> Iterator[None]:
        """Within it, Ctrl-C and SIGTERM end the command in one line that says how to go on."""

        told = signal.SIGINT

        def stop(*_: object) -> None:
            nonlocal told
            told = signal.SIGTERM
            raise KeyboardInterrupt

        here = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, stop) if here else None
        try:
            yield
        except KeyboardInterrupt as interrupt:
            done = sum(run.finished for run in self._runs)
            kept = "what the others have learnt is kept: the same command again goes on from there"
            raise Stopped(
                f"stopped with {done} of {len(self._runs)} runs done; {str(interrupt) or kept}",
                told,
            ) from None
        finally:
            if here:
                signal.signal(signal.SIGTERM, before)

    def _load(self) -> dict[tuple[str, str], "data.Dataset"]:
        """The data sets of all runs, by name and dtype."""
        planned = [run.planned.experiment for run in self._runs]
        wanted = {_data_of(experiment): experiment for experiment in planned}
        found = self._known.datasets
        for key in wanted.keys() - found.keys():
            experiment = wanted[key]
            with runs.enough_memory(f"dataset = {experiment.dataset}", experiment.device):
                found[key] = runs.build_data(experiment, self._data_dir)
        return found

    def _measure(
        self, datasets: Mapping[tuple[str, str], "data.Dataset"], watcher: Watcher
    ) -> None:
        import torch

        torch.set_num_threads(1)
        unmeasured = [run for run in self._runs if run.measured is None]
        with watcher.measuring(len(unmeasured), self._figure.measured) as tick:
            for run in unmeasured:
                of = run.planned.experiment
                try:
                    with runs.enough_memory(f"batch_size = {of.batch_size}", of.device):
                        run.store(self._figure.measure(run.planned, datasets[_data_of(of)]))
                except (core.NonFiniteError, ConfigurationError) as error:
                    run.unmeasured = f"{self._figure.measured}: {error}"
                tick(run.name)

    def _train(self, watcher: Watcher) -> None:
        """Train all runs that are not finished, the longest first, and draw after every one."""
        by_name = {run.name: run for run in self._runs}
        todo = sorted(
            (run for run in self._runs if not run.finished),
            key=lambda run: run.planned.effort * (run.wanted - len(run.history)),
            reverse=True,
        )
        trained = [run for run in self._runs if run.planned.trained]
        if kept := len(trained) - len(todo):
            watcher.say(f"{kept} of {len(trained)} runs were done before")

        def started(job: "runs.Job") -> None:
            by_name[job.name].begin()
            watcher.started(by_name[job.name])

        def ended(job: "runs.Job", reason: str | None) -> None:
            by_name[job.name].end(reason)
            watcher.ended(by_name[job.name])
            self._drawn = False

        def tick() -> None:
            # Here, where the next run has been started: it need not wait for the pictures.
            if not self._drawn:
                self._write()
            trained = [run for run in self._runs if run.history]
            seconds = sum(run.history[-1]["seconds"] for run in trained)
            effort = sum(run.planned.effort for run in trained)
            for run in self._runs:
                run.seconds_per_effort = seconds / effort if effort else None
                if run.running:
                    run.look()
            left = [run.left for run in self._runs]
            known = [seconds for seconds in left if seconds is not None]
            together = max(max(known, default=0.0), sum(known) / self._work.processes)
            watcher.show(self._runs, together if len(known) == len(left) else None)

        jobs = [run.job(self._trainer, self._data_dir, self._work.device) for run in todo]
        if self._work.cluster is not None:
            place, say = self.folder / "cluster", watcher.say
            runs.work_off_on_cluster(
                jobs, self._work, place, started=started, ended=ended, tick=tick, say=say
            )
            return
        runs.work_off(
            jobs,
            self._work.processes,
            started=started,
            ended=ended,
            tick=tick,
            # Libraries that start a thread per core would stand in each other's way.
            environment={"OMP_NUM_THREADS": "1"},
        )

    def _write(self) -> dict[str, Any]:
        """Write the numbers of the figure, and draw it; returns the numbers."""
        result = {
            "figure": self._name,
            "settings": {**self._settings.to_json(), **self._work.to_json()},
            **self._figure.result(self._settings, self._runs),
            "environment": runs.environment(1, self._runs[0].planned.experiment.device),
        }
        self._figure.draw(self._settings, result, self.folder)
        self._drawn = True
        tables = self._figure.tables(result)
        for number, table in enumerate(tables, 1):
            place = self._file.with_suffix(".csv")
            if number > 1:
                place = place.with_name(f"{self._name}-{number}.csv")
            write_atomically(place, table.csv.encode())
        written = "\n".join(table.markdown for table in tables)
        write_atomically(self._file.with_suffix(".md"), written.encode())
        # Last: where it lies, the pictures do.
        write_atomically(self._file, (json.dumps(result, indent=2) + "\n").encode())
        return result


def _data_of(experiment: Experiment) -> tuple[str, str]:
    """What tells the data of runs apart: one that only measures may do so in float64."""
    return experiment.dataset, experiment.dtype
