"""What a person did, or met, that ends a command with one line instead of a traceback."""

import errno
import os
from typing import Any, final

__all__ = ["ConfigurationError", "Failure", "Stopped", "UsageError", "shown", "system_error"]


class UsageError(Exception):
    """Bad usage: exit status 2."""


class Failure(Exception):  # noqa: N818 - the user reads it, not the programmer
    """Something went wrong that the user can do something about: exit status 1.

    The message is one line: what was wrong, what was expected, what to do.
    """


@final
class Stopped(Exception):  # noqa: N818 - nothing is wrong
    """A command ended because it was told to; the message says what is kept and how to go on.

    Its exit status is that of a shell for a process that a signal ended, 128 + its number.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


@final
class ConfigurationError(ValueError):
    """A setting that cannot be: the message names it, its value and what is allowed."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(f"{name} = {shown(value)}: expected {expected}")
        self.name, self._arguments = name, (name, value, expected)

    def __reduce__(self) -> tuple[Any, ...]:
        # From one process to another it would otherwise be made of its message alone.
        return ConfigurationError, self._arguments


def shown(value: object) -> str:
    """A value as a person would write it."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "(nothing)"
    return value if isinstance(value, str) else repr(value)


_PROCESS = {
    "EMFILE": "raise the limit of open files (ulimit -n)",
    "ENFILE": "close other programs",
    "ENOMEM": "close other programs",
    "EAGAIN": "close other programs",
}
"""What to do where it is not the place that is to blame."""

_PLACE = {
    "ENOSPC": "free some space there",
    "EDQUOT": "free some of your space there",
    "EFBIG": "raise the limit of a file's size (ulimit -f)",
    "EACCES": "change the permissions",
    "EPERM": "change the permissions",
    "EROFS": "make it writable",
    "ENAMETOOLONG": "choose a shorter name",
    "EEXIST": "move away what is in the way",
    "ENOTDIR": "move away the file that is in the way",
    "EISDIR": "move away the folder that is in the way",
    "ELOOP": "put right the links on the way",
    "ENOENT": "see whether somebody removed it, or what it lies in",
    "ENOLCK": "use another file system",
    "EOPNOTSUPP": "use another file system",
    "ENOTSUP": "use another file system",
}

_DISK = "see whether that disk is well"
"""Of anything else, such as EIO."""


def system_error(error: OSError, otherwise: str = "") -> str:
    """What the operating system has refused, on one line: the file, why, and what to do.

    An error that names no file is that of standard output: what writes files names them, see
    :func:`eqprop.files.naming`.

    Args:
        otherwise: what to do if it is the place that is to blame, besides making it better, such as
            ``or choose another --out``.
    """
    code = errno.errorcode.get(error.errno or 0, "")
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    if code in _PROCESS:
        remedies = [_PROCESS[code]]
    elif name is None:
        name, remedies = "standard output", [_PLACE.get(code, _DISK), "or send it elsewhere"]
    else:
        remedies = [_PLACE.get(code, _DISK), otherwise]
    where = "" if name is None else f"{name}: "
    return f"{where}{error.strerror or error}; {', '.join(filter(None, remedies))}"
