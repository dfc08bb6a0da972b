"""How the runs of a figure are trained: how many at a time, and on which machines.

Without a cluster they are processes of the command, on the machine it runs on. With one each is a
job, which outlives the command.
"""

import os
import re
from dataclasses import dataclass, fields
from typing import Any, Literal, final

from eqprop.settings.fields import Allowed, Settings, device, number, setting, whole

__all__ = ["Work", "available_cores"]

_TIME = re.compile(r"[0-9]{1,7}|([0-9]{1,3}-)?[0-9]{1,4}:[0-5][0-9]:[0-5][0-9]")
_ALL = 1024
"""How many runs at a time where nothing is said: all of them."""

_LEAST = 5
"""Minutes, within which a job can be told that its time is up, and keep what it has learnt."""

_GROUP = "cluster"


def _name(help: str) -> Any:
    """What a Slurm cluster knows by its own names."""
    allowed = Allowed(lambda name: not re.search(r"\s", name), "a name without blanks")
    own = "that of the cluster"
    return setting("", help, allowed=allowed, group=_GROUP, since="0.1", metavar="NAME", shown=own)


@final
@dataclass(frozen=True, kw_only=True)
class Work(Settings):
    """How it is done, whatever the figure.

    Raises:
        ConfigurationError: a setting outside what is allowed, or one of a cluster without one.
    """

    workers: int | None = setting(
        None,
        "runs at a time, of one thread each",
        allowed=Allowed(lambda n: n is None or 1 <= n <= 1024, "a whole number from 1 to 1024"),
        group="machine",
        metavar="N",
        shown="one per core; on a Slurm cluster all",
    )
    device: str = setting(
        "cpu",
        "what runs are trained on: cpu, cuda or cuda:N; those begun go on where they were",
        allowed=device(),
        group="machine",
        since="0.1",
        metavar="DEVICE",
    )
    cluster: Literal["slurm", "local"] | None = setting(
        None,
        "where: slurm, as one array of jobs, submitted from here; local, the same on this machine "
        "(both need the package submitit)",
        group=_GROUP,
        since="0.1",
        shown="none: as processes of this command",
    )
    partition: str = _name("Slurm's partition")
    account: str = _name("Slurm's account")
    qos: str = _name("Slurm's quality of service")
    constraint: str = _name("Slurm's constraint: features that machines must have")
    time: str = setting(
        "08:00:00",
        "at most, per run: minutes, HH:MM:SS or D-HH:MM:SS; a run that needs longer comes again "
        "and goes on",
        allowed=Allowed(
            lambda said: bool(_TIME.fullmatch(said)) and _minutes(said) >= _LEAST,
            f"minutes, HH:MM:SS or D-HH:MM:SS, {_LEAST} minutes or more",
        ),
        group=_GROUP,
        since="0.1",
        metavar="TIME",
    )
    memory: float = setting(
        4.0,
        "GB per run, kept to by Slurm alone",
        allowed=number("a number of GB above 0, at most 10000", lambda gb: 0 < gb <= 1e4),
        group=_GROUP,
        since="0.1",
        metavar="GB",
    )
    gpus: int = setting(
        0,
        "per run, for --device cuda",
        allowed=whole(0, 64),
        group=_GROUP,
        since="0.1",
        metavar="N",
    )
    cores: int = setting(
        1,
        "per run, which never has more threads than these",
        allowed=whole(1, 1024),
        group=_GROUP,
        since="0.1",
        metavar="N",
    )

    def check_together(self) -> None:
        of_slurm = ("partition", "account", "qos", "constraint")
        for of in _of_clusters():
            if self.cluster is None:
                expected = "none without a cluster; add --cluster slurm"
                self.require(of, getattr(self, of) == _default(of), expected)
            elif self.cluster != "slurm" and of in of_slurm:
                expected = f"none with cluster = {self.cluster}, as it is for slurm"
                self.require(of, getattr(self, of) == _default(of), expected)
        if self.cluster == "slurm":
            on_gpu = self.device != "cpu"
            expected = "1 or more" if on_gpu else "0, as GPUs are for device = cuda,"
            self.require(
                "gpus", on_gpu == (self.gpus > 0), f"{expected} with device = {self.device}"
            )

    @property
    def processes(self) -> int:
        """How many runs at a time."""
        if self.workers is not None:
            return self.workers
        if self.cluster == "slurm":
            return _ALL
        return max(1, available_cores() // self.cores)

    @property
    def minutes(self) -> int:
        """The time that a run may take on a cluster, before it comes again."""
        return _minutes(self.time)

    def to_json(self) -> dict[str, Any]:
        """All settings, as JSON has them; those of a cluster only where there is one."""
        left_out = {"cluster", *_of_clusters()} if self.cluster is None else set[str]()
        return {n: value for n, value in super().to_json().items() if n not in left_out}


def available_cores() -> int:
    """How many cores this process may use."""
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def _of_clusters() -> list[str]:
    """The settings that are for clusters alone."""
    of_group = [of.name for of in fields(Work) if of.metadata["group"] == _GROUP]
    return [name for name in of_group if name != "cluster"]


def _default(name: str) -> Any:
    return Work.__dataclass_fields__[name].default


def _minutes(said: str) -> int:
    """Of what matches, seconds counting as a minute begun."""
    if said.isdigit():
        return int(said)
    days, _, rest = said.rpartition("-")
    hours, minutes, seconds = map(int, rest.split(":"))
    return 24 * 60 * int(days or 0) + 60 * hours + minutes + (seconds > 0)
