"""Files that are there whole or not at all, whenever the process is killed."""

import os
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that, at any moment, there is either the old one or the new one, whole.

    Two processes must not write one file at a time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Always the same name, so that what a kill leaves behind is overwritten the next time.
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    # The rename itself must reach the disk too.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
