"""Files that are there whole or not at all, whenever the process is killed; and locks.

What a file system cannot do, and that not all can, is done without: to flush a folder, to lock.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

__all__ = ["locked", "naming", "write_atomically"]

_UNABLE = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What file systems say that cannot do something at all, and will not be able to the next time."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that, at any moment, there is either the old one or the new one, whole.

    Two processes must not write one file at a time.

    Raises:
        OSError: it cannot be written; ``filename`` says which.
    """
    # Always the same name, so that what a kill leaves behind is overwritten the next time.
    temporary = path.with_name(f".{path.name}.part")
    with naming(path, temporary):
        if path.exists() and not path.is_file() and not path.is_dir():
            # Else a device, or a pipe, would be gone, and a file in its place. (A folder stays.)
            raise FileExistsError(errno.EEXIST, "Not a regular file")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                _flush(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        # The rename itself must reach the disk too.
        try:
            folder = os.open(path.parent, os.O_RDONLY)
        except OSError:
            # On Windows never, elsewhere not if the folder may be written to but not be listed.
            return
        try:
            _flush(folder)
        finally:
            os.close(folder)


@contextmanager
def naming(path: Path, *instead_of: Path) -> Iterator[None]:
    """Within it, errors of the operating system name this file where they would name none.

    A full disk, for one, is met with by writing, which knows of no names.

    Args:
        instead_of: files of which nobody but the caller knows, which are not to be named.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None or error.filename in map(str, instead_of):
            error.filename = str(path)
        raise


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock that this file is, as one process at a time can.

    Where the file system has no locks it goes on without, and says so on standard error. A file
    that is there as long as somebody works would be no lock in its place: who is killed leaves it
    behind, and nobody could go on.

    Args:
        wait: until it is free.

    Raises:
        TimeoutError: another process holds it, and ``wait`` is not set.
        OSError: the file cannot be made.
    """
    # Imported here, as hardly any command needs it.
    from filelock import FileLock

    # Where there are no locks, versions that know of it would make a file instead.
    known = signature(FileLock.__init__).parameters
    hard: dict[str, Any] = {"fallback_to_soft": False} if "fallback_to_soft" in known else {}
    lock = FileLock(path, **hard)
    try:
        lock.acquire(blocking=wait)
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _UNABLE:
            raise
        print(
            f"warning: {path.parent}: expected a file system that can lock files, found one that "
            "cannot; see to it that no other process works there",
            file=sys.stderr,
        )
    try:
        yield
    finally:
        # The file stays: to remove it would let in two that wait for it at once.
        lock.release()


def _flush(descriptor: int) -> None:
    """Bring what was written to the disk, where the file system can do that."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
