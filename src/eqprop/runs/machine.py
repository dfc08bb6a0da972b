"""Versions and hardware: what is stored beside every figure."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from eqprop.settings.work import available_cores
from eqprop.version import __version__

__all__ = ["environment", "threads_each"]


def environment(threads: int, device: str) -> dict[str, Any]:
    """What a run has run on.

    Args:
        threads: of the CPU.
        device: as settings name it.
    """
    return {
        "eqprop": __version__,
        "torch": version("torch"),
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
    }


def threads_each(threads: int, processes: int) -> int:
    """Of the CPU, for each of so many processes of this machine: no more than it has cores.

    Threads wait for each other, and of more than there are cores the most time goes by waiting.
    One process has as many as were asked for.

    Args:
        threads: as settings have them.
    """
    if processes == 1:
        return threads
    return max(1, min(threads, available_cores() // processes))


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
