"""What Linux says of other processes; nothing where there is no ``/proc``."""

from contextlib import suppress
from pathlib import Path

import pytest

__all__ = ["children", "needs_proc", "parent", "running"]

needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")


def children(pid: int) -> list[int]:
    """Those that any thread of a process has started, and that nobody else has taken over."""
    found: list[int] = []
    for threads in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # The thread has ended meanwhile.
            found += map(int, threads.read_text().split())
    return found


def parent(pid: int) -> int:
    """The process that has started one."""
    return int(_stat(pid)[1])


def running(pid: int) -> bool:
    """Whether it is more than the entry of a process that nobody has asked for yet."""
    try:
        return _stat(pid)[0] != "Z"
    except OSError:
        return False


def _stat(pid: int) -> list[str]:
    """From its state on: its name, which comes before, may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
