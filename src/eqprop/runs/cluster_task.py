"""What runs in a job of a cluster: one command, as often as the job is started.

A cluster announces that it takes a machine back, or that the time of a job is up. Then the command
is told to end by SIGTERM, at which ``eqprop train`` stores where it is, and the job goes back into
the queue; started again, the command resumes. submitit calls :meth:`ClusterTask.checkpoint` then.

Slurm sends SIGTERM, and what announces the end (SIGUSR2), to every process of a job. So the command
never gets the latter, which would kill it at once; and once it has got the former it is not told
again, as the second time it would not wait for the end of a mini-batch.
"""

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, final

from eqprop.errors import Failure
from eqprop.runs.jobs import Job, reason
from eqprop.runs.undisturbed import blocked

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

__all__ = ["NOTICE", "ClusterTask"]

NOTICE = 120
"""Seconds before its end that a job is told of it."""

_PATIENCE = 90.0
"""Seconds that a command then has to end by itself, before it is made to."""

_GRACE = 3600.0
"""Seconds to wait for what a cluster does that has told the command to end."""

_INTERVAL = 0.2

_ANNOUNCING = {signal.SIGUSR1, signal.SIGUSR2}
"""What clusters announce the end of a job with."""


@final
class ClusterTask:
    """A command as submitit runs it: without arguments, and anew from a pickle of it.

    Args:
        job: the command.
        cores: how many threads it may have.
    """

    def __init__(self, job: Job, cores: int) -> None:
        self._job, self._cores = job, cores
        self._process: subprocess.Popen[bytes] | None = None
        self._told = False

    def __call__(self) -> None:
        """Run the command, or go on with it.

        Raises:
            Failure: it failed; the reason as :func:`~eqprop.runs.jobs.reason` gives it.
        """
        signal.signal(signal.SIGTERM, self._note)
        self._job.log.parent.mkdir(parents=True, exist_ok=True)
        with self._job.log.open("ab") as log, blocked(_ANNOUNCING):
            begun = log.tell()
            # Its standard input closes with this process, however it ends: then it ends too.
            self._process = process = subprocess.Popen(
                self._job.words,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **dict.fromkeys(_THREADS, str(self._cores))},
            )
        passed_on = False
        try:
            while (status := self._look(process)) is None:
                if self._told and not self._shared and not passed_on:
                    with blocked(_ANNOUNCING):
                        process.terminate()
                    passed_on = True
                time.sleep(_INTERVAL)
            if status and self._told and self._shared:
                # It is for the cluster to end this job now, or to start it again.
                time.sleep(_GRACE)
        finally:
            with blocked(_ANNOUNCING):
                process.kill()
                process.wait()
            assert process.stdin is not None
            process.stdin.close()
        if status:
            raise Failure(reason(status, self._job.log, begun))

    def checkpoint(self) -> "DelayedSubmission":
        """The command is told to end, and has: what to run once the job is started again."""
        from submitit.core.utils import DelayedSubmission

        if (process := self._process) is not None:
            if not (self._told and self._shared):
                process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                # What it stored last, some minutes ago at most, is kept.
                process.kill()
                process.wait()
        return DelayedSubmission(ClusterTask(self._job, self._cores))

    @property
    def _shared(self) -> bool:
        """Whether who tells this process to end tells the command too."""
        return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"

    def _note(self, *_: object) -> None:
        self._told = True

    @staticmethod
    def _look(process: subprocess.Popen[bytes]) -> int | None:
        # Not in the midst of it is :meth:`checkpoint` called, which would wait for a lock of it.
        with blocked(_ANNOUNCING):
            return process.poll()


_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""What libraries take for the number of threads to start."""
