"""What a person did, or met, that ends a command with one line instead of a traceback."""

__all__ = ["Failure", "UsageError"]


class UsageError(Exception):
    """Bad usage: exit status 2."""


class Failure(Exception):  # noqa: N818 - the user reads it, not the programmer
    """Something went wrong that the user can do something about: exit status 1.

    The message is one line: what was wrong, what was expected, what to do.
    """
