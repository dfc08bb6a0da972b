"""Commands worked off side by side, so many at once.

Each is a process of its own with a log of its own: what ends one (a state that is not finite, too
little memory) leaves the others alone. None outlives the call: whatever ends it ends them too. And
each has as its standard input a pipe that nothing is ever written to: it closes once the process
that started it has gone, even by SIGKILL, for :mod:`eqprop.cli.worker` to notice.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

__all__ = ["Job", "reason", "work_off"]

_PATIENCE = 5.0
"""Seconds that a process has between being asked and being made to end."""


@final
@dataclass(frozen=True)
class Job:
    """A command to run.

    Attributes:
        name: what it is called.
        command: its words.
        log: the file that its output is added to.
        begun: a file that is there once it has begun, if anything shows that.
        resuming: its words from then on.
    """

    name: str
    command: Sequence[str]
    log: Path
    begun: Path | None = None
    resuming: Sequence[str] = ()

    @property
    def words(self) -> Sequence[str]:
        """Its words at this moment: it may be run later than it was thought of, or again."""
        return self.resuming if self.begun is not None and self.begun.exists() else self.command


def work_off(
    jobs: Sequence[Job],
    workers: int,
    *,
    started: Callable[[Job], None],
    ended: Callable[[Job, str | None], None],
    tick: Callable[[], None],
    environment: Mapping[str, str] | None = None,
    interval: float = 0.2,
) -> None:
    """Run all jobs, in their order, never more than ``workers`` at once.

    Args:
        jobs: what to run.
        workers: how many at once.
        started: called once a job has begun.
        ended: called once it has ended, with the reason if it failed: the last line of its output,
            or the signal that ended it.
        tick: called in every ``interval``.
        environment: variables to set besides those there are.
        interval: seconds between two looks at the processes.
    """
    waiting = list(reversed(jobs))
    running: dict[int, tuple[Job, subprocess.Popen[bytes], int]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop()
                job.log.parent.mkdir(parents=True, exist_ok=True)
                with job.log.open("ab") as log:
                    begun = log.tell()
                    process = subprocess.Popen(
                        job.words,
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, **(environment or {})},
                    )
                running[process.pid] = (job, process, begun)
                started(job)
            tick()
            time.sleep(interval)
            for pid, (job, process, begun) in list(running.items()):
                if (status := process.poll()) is not None:
                    del running[pid]
                    _release(process)
                    ended(job, reason(status, job.log, begun) if status else None)
    finally:
        _end([process for _, process, _ in running.values()])


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _release(process)


def _release(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def reason(status: int, log: Path, begun: int) -> str:
    """Why a job failed: a signal, or the last line it wrote from ``begun`` bytes on."""
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        memory = "; was there enough memory?" if name == "SIGKILL" else ""
        return f"ended by signal {name}{memory}"
    with log.open("rb") as file:
        file.seek(begun)
        lines = file.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last.removeprefix("eqprop: error: ") or f"ended with status {status}, saying nothing"
