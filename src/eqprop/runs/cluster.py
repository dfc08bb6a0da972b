"""Commands worked off by a cluster, each in a job of its own, by way of submitit.

The jobs outlive the call. ``jobs.json`` in the folder remembers which command is in which job, so
that the next call watches those that are still queued or running, instead of submitting them again,
however the one before ended. Beside it lie submitit's own files, named after the jobs: what was
submitted, what came of it, and what submitit said.

``slurm`` is a cluster that jobs are submitted to from here, all at once, as an array. ``local`` is
the same on this machine, to try it: a job begins once there is room for it and a call goes on that
can start it; a job whose time is up comes again six times at most; memory is not limited, and all
see the same GPUs.
"""

import contextlib
import io
import json
import logging
import math
import shutil
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, final

from eqprop.core import counted
from eqprop.errors import Failure, UsageError
from eqprop.files import write_atomically
from eqprop.runs.cluster_job import JOBS, ClusterJob
from eqprop.runs.cluster_task import NOTICE, ClusterTask
from eqprop.runs.jobs import Job
from eqprop.runs.undisturbed import undisturbed
from eqprop.settings.work import Work

if TYPE_CHECKING:
    import submitit

__all__ = ["require_cluster", "work_off_on_cluster"]

_TIMES = 1000
"""How often a job whose time is up may come again."""


def require_cluster(name: str) -> None:
    """Refuse what is not there.

    Raises:
        UsageError: submitit is not installed, or no jobs can be submitted from here.
    """
    if find_spec("submitit") is None:
        raise UsageError(
            f"--cluster {name}: expected the submitit package, found none; install it with: pip "
            "install submitit"
        )
    missing = [program for program in ("sbatch", "srun") if shutil.which(program) is None]
    if name == "slurm" and missing:
        raise UsageError(
            f"--cluster slurm: expected Slurm, found no {' and no '.join(missing)}; run this where "
            "jobs are submitted from, such as the login node of the cluster"
        )


def work_off_on_cluster(
    jobs: Sequence[Job],
    work: Work,
    folder: Path,
    *,
    started: Callable[[Job], None],
    ended: Callable[[Job, str | None], None],
    tick: Callable[[], None],
    say: Callable[[str], None],
    interval: float = 1.0,
) -> None:
    """Have all jobs run, in their order, never more than ``work.processes`` at once.

    Args:
        jobs: what to run.
        work: on which cluster, and what a job takes there.
        folder: for what is to be remembered, and submitit's files; all machines must see it.
        started: called once a job has begun.
        ended: called once it has ended, with the reason if it failed: the last line of its output,
            or the state that the cluster has it in.
        tick: called in every ``interval``.
        say: called with what a person is to know.
        interval: seconds between two looks at the jobs.

    Raises:
        Failure: the cluster takes no jobs, or the folder's memory is damaged.
        KeyboardInterrupt: of Ctrl-C; it says that the jobs go on, and what ends them.
    """
    # Its lines would come between those of a board, and on standard output too.
    logging.getLogger("submitit").setLevel(logging.CRITICAL)
    submitted = _Submitted(work, folder)
    by_name = {job.name: job for job in jobs}
    going = submitted.going
    submitted.take_up(by_name)
    waiting = [job for job in jobs if job.name not in going]
    if going:
        say(f"{counted(len(going), 'run')} submitted before, in {_ids(going)}")
    begun: set[str] = set()
    try:
        while waiting or going:
            if work.cluster == "slurm" and waiting:
                new, waiting = submitted.submit(waiting), []
                say(f"{counted(len(new), 'run')} submitted, in {_ids(new)}")
            while waiting and len(going) < work.processes:
                submitted.submit(waiting[:1])
                waiting = waiting[1:]
            for name, job in going.items():
                if name not in begun and job.begun:
                    begun.add(name)
                    started(by_name[name])
            tick()
            time.sleep(interval)
            for name, job in list(going.items()):
                if job.ended:
                    del going[name]
                    ended(by_name[name], job.reason)
    except KeyboardInterrupt:
        waiting = [job for job in waiting if job.name not in going]
        raise KeyboardInterrupt(_going_on(going, waiting)) from None


def _ids(jobs: Mapping[str, ClusterJob]) -> str:
    ids = sorted({job.cancelling[1] for job in jobs.values()})
    return f"job{'s' * (len(ids) > 1)} {' '.join(ids)}"


def _going_on(going: Mapping[str, ClusterJob], waiting: Sequence[Job]) -> str:
    """What to say to who watches no longer; nothing where nothing goes on."""
    if not going:
        return ""
    ways: dict[str, set[str]] = {}
    for job in going.values():
        command, id = job.cancelling
        ways.setdefault(command, set()).add(id)
    cancel = " and ".join(f"{command} {' '.join(sorted(ids))}" for command, ids in ways.items())
    rest = f", and starts the {len(waiting)} that wait" if waiting else ""
    return (
        f"still in {_ids(going)}: {counted(len(going), 'run')}, which go on; the same command "
        f"again watches them{rest}; to cancel them: {cancel}"
    )


@final
class _Submitted:
    """What was submitted, kept in a file: which command is in which job, of which cluster.

    Attributes:
        going: the jobs that are queued or running, as far as is known, by name.
    """

    def __init__(self, work: Work, folder: Path) -> None:
        self.going: dict[str, ClusterJob] = {}
        self._work, self._folder = work, folder.absolute()
        self._file = folder / "jobs.json"
        self._jobs = self._read()

    def take_up(self, names: Collection[str]) -> None:
        """Look which of these commands were submitted before, and are still queued or running."""
        # All first: then Slurm is asked once for all.
        found = {
            name: JOBS[of["cluster"]].known(self._folder, of["job"])
            for name, of in self._jobs.items()
            if name in names
        }
        self.going |= {name: job for name, job in found.items() if not job.ended}

    def submit(self, jobs: Sequence[Job]) -> dict[str, ClusterJob]:
        """Submit some more, in one go; by name.

        Raises:
            Failure: the cluster does not take them.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        assert self._work.cluster is not None
        tasks = [ClusterTask(job, self._work.cores) for job in jobs]
        # Neither what closes the terminal nor Ctrl-C is for jobs of this machine; and nothing comes
        # between a job and its being remembered.
        with undisturbed(signal.SIGHUP):
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    new = self._executor().submit_array(tasks)
            except (FailedJobError, FailedSubmissionError) as error:
                said = str(error).strip().rpartition("\n")[2]
                raise Failure(
                    f"--cluster {self._work.cluster}: expected it to take "
                    f"{counted(len(jobs), 'job')}, but it says: {said}; ask for something else"
                ) from None
            of = JOBS[self._work.cluster]
            found = {job.name: of(it) for job, it in zip(jobs, new, strict=True)}
            if self._work.cluster == "local":
                for it in new:
                    # Of an earlier process, if there was one of this number.
                    it.paths.result_pickle.unlink(missing_ok=True)
            kept = {
                name: {"cluster": self._work.cluster, "job": it.id} for name, it in found.items()
            }
            self._jobs |= kept
            self.going |= found
            write_atomically(self._file, (json.dumps(self._jobs, indent=2) + "\n").encode())
        return found

    def _executor(self) -> "submitit.Executor":
        import submitit

        work = self._work
        if work.cluster == "local":
            local = submitit.LocalExecutor(self._folder, max_num_timeout=_TIMES)
            local.update_parameters(
                timeout_min=work.minutes,
                gpus_per_node=work.gpus,
                signal_delay_s=NOTICE,
                stderr_to_stdout=True,
            )
            return local
        slurm = submitit.SlurmExecutor(self._folder, max_num_timeout=_TIMES)
        named = {
            name: getattr(work, name) for name in ("partition", "account", "qos", "constraint")
        }
        slurm.update_parameters(
            job_name="eqprop",
            time=work.minutes,
            mem=f"{math.ceil(1024 * work.memory)}M",
            cpus_per_task=work.cores,
            # As of Slurm 22.05 a step does not have those of its job by itself.
            srun_args=[f"--cpus-per-task={work.cores}"],
            array_parallelism=work.processes,
            signal_delay_s=NOTICE,
            stderr_to_stdout=True,
            **{name: value for name, value in named.items() if value},
            **({"gpus_per_node": work.gpus} if work.gpus else {}),
        )
        return slurm

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            if all(of["cluster"] in JOBS and isinstance(of["job"], str) for of in found.values()):
                return found
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise Failure(
            f"{self._file}: expected which run is in which job, found something else; restore it "
            "from a copy, or, once no job of this figure is left, remove it"
        )
