"""A job of a cluster, as whoever submitted it sees it: whether it runs, how it ended, and why.

What a job leaves in its folder is the first to tell; where it had no time to leave anything, as it
was killed, it is Slurm that says so (``sacct``, asked every ten minutes at the latest), or, on this
machine, that its process has gone.
"""

import os
import shlex
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    import submitit

__all__ = ["JOBS", "ClusterJob", "OnSlurm", "OnThisMachine"]

_LATE = 30.0
"""Seconds that what a job has left may take from its machine to this one."""

_FINAL = {
    "BOOT_FAIL": "",
    "CANCELLED": "",
    "COMPLETED": "; expected it to say how it went",
    "DEADLINE": "",
    "FAILED": "",
    "NODE_FAIL": "",
    "OUT_OF_MEMORY": "; ask for more --memory",
    "PREEMPTED": "",
    "REVOKED": "",
    "TIMEOUT": "; ask for more --time",
}
"""The states that end a job of Slurm, unless it is queued again at once; and what to do."""


class ClusterJob(ABC):
    """A job that was submitted through submitit.

    Args:
        job: as submitit has it.
    """

    def __init__(self, job: "submitit.Job[Any]") -> None:
        self.job = job
        self.id = job.job_id

    @classmethod
    @abstractmethod
    def known(cls, folder: Path, id: str) -> "ClusterJob":
        """The job that an earlier process submitted with this folder."""

    @property
    def begun(self) -> bool:
        """Whether it runs, or has."""
        return self.job.paths.stdout.exists()

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether it has, and will not come again."""

    @property
    def reason(self) -> str | None:
        """Why it failed, if it has, now that it has ended."""
        if not self.job.paths.result_pickle.exists():
            return self._unsaid
        error = self.job.exception()
        if error is None:
            return None
        # A traceback between two lines; the last of its own has the class before the words.
        head, *parts = str(error).split(f"{'-' * 22}\n")
        last = parts[0].strip().rpartition("\n")[2] if parts else head.strip()
        return last.partition(": ")[2] or last

    @property
    @abstractmethod
    def _unsaid(self) -> str:
        """Why it failed, where it has left nothing."""

    @property
    @abstractmethod
    def cancelling(self) -> tuple[str, str]:
        """The command that cancels it, and what that is told."""


@final
class OnSlurm(ClusterJob):
    """A job of Slurm, most often one of an array."""

    def __init__(self, job: "submitit.Job[Any]", *, ours: bool = True) -> None:
        super().__init__(job)
        self._ours = ours
        self._since: float | None = None

    @classmethod
    def known(cls, folder: Path, id: str) -> "OnSlurm":
        import submitit

        return cls(submitit.SlurmJob(folder, id), ours=False)

    @property
    def ended(self) -> bool:
        if self.job.paths.result_pickle.exists():
            return True
        state = self._state
        if not self._ours:
            # Of one that has ended before, all there will ever be is there.
            self._ours = True
            return state in _FINAL or (state == "UNKNOWN" and not _queued(self.id))
        if state not in _FINAL:
            self._since = None
            return False
        if self._since is None:
            self._since = time.monotonic()
        if time.monotonic() - self._since < _LATE:
            return False
        # Asked anew: one that was preempted, or whose machine failed, may be queued again by now.
        self._since = None
        type(self.job).watcher.clear()
        return self._state in _FINAL or self.job.paths.result_pickle.exists()

    @property
    def _state(self) -> str:
        # CANCELLED says by whom, too.
        return self.job.state.partition(" ")[0].rstrip("+")

    @property
    def _unsaid(self) -> str:
        return f"job {self.id}: {self._state}{_FINAL.get(self._state, '')}"

    @property
    def cancelling(self) -> tuple[str, str]:
        return "scancel", self.id.partition("_")[0]


def _queued(id: str) -> bool:
    """Whether the queue has a job that the accounts do not: where there are none, or not yet."""
    command = ["squeue", "--noheader", f"--jobs={id}"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return bool(asked.stdout.strip()) or (
        asked.returncode != 0 and "Invalid job id" not in asked.stderr
    )


@final
class OnThisMachine(ClusterJob):
    """A process that submitit has started here, to start, and start again, another one."""

    def __init__(self, job: "submitit.Job[Any]", *, ours: bool = True) -> None:
        super().__init__(job)
        self._ours = ours

    @classmethod
    def known(cls, folder: Path, id: str) -> "OnThisMachine":
        import submitit

        return cls(submitit.LocalJob(folder, id), ours=False)

    @property
    def ended(self) -> bool:
        return self.job.done() if self._ours else not self._alive

    @property
    def _alive(self) -> bool:
        try:
            os.kill(int(self.id), 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # Another's, which has got the number meanwhile.
            return False
        # Nor is it what has the number meanwhile, or is dead and only not yet forgotten.
        listed = Path("/proc", self.id, "cmdline")
        try:
            words = listed.read_bytes().split(b"\0")
        except OSError:
            return not Path("/proc/self").exists()
        return os.fsencode(self.job.paths.folder) in words

    @property
    def _unsaid(self) -> str:
        return (
            "ended, leaving no word, as if killed, or out of time too often; see "
            f"{shlex.quote(str(self.job.paths.stdout))}"
        )

    @property
    def cancelling(self) -> tuple[str, str]:
        return "kill", self.id


JOBS: dict[str, type[ClusterJob]] = {"slurm": OnSlurm, "local": OnThisMachine}
"""By the name of the cluster."""
