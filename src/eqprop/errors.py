"""What a person did, or met, that ends a command with one line instead of a traceback."""

from typing import Any, final

__all__ = ["ConfigurationError", "Failure", "UsageError", "shown"]


class UsageError(Exception):
    """Bad usage: exit status 2."""


class Failure(Exception):  # noqa: N818 - the user reads it, not the programmer
    """Something went wrong that the user can do something about: exit status 1.

    The message is one line: what was wrong, what was expected, what to do.
    """


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
