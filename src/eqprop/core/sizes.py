"""Sizes, numbers of steps and other numbers that a person may have got wrong."""

import operator
from numbers import Real

__all__ = ["counted", "described", "require_number", "require_whole"]


def described(given: object) -> str:
    """What was given in the place of something else, as messages say it."""
    if isinstance(given, type):
        return f"the class {given.__name__}"
    return f"{type(given).__name__} {given!r}" if isinstance(given, str) else type(given).__name__


def counted(number: int, one: str) -> str:
    """So many of something: ``1 mini-batch``, ``2 mini-batches``."""
    several = "es" if one.endswith(("s", "tch")) else "s"
    return f"{number} {one}{several * (number != 1)}"


def require_whole(what: str, *numbers: object) -> list[int]:
    """Whole numbers, those of numpy among them, as Python has them.

    Args:
        what: what messages say they are of.

    Raises:
        ValueError: one that is none.
    """
    found = []
    for number in numbers:
        try:
            if isinstance(number, bool):
                raise TypeError
            found.append(operator.index(number))  # type: ignore[arg-type]
        except TypeError:
            raise ValueError(f"{what}: expected whole numbers, got {number!r}") from None
    return found


def require_number(what: str, number: object) -> float:
    """A number, which text, truth values and complex ones are not.

    Raises:
        TypeError: it is none.
    """
    if type(number) is float:
        return number  # As good as always; whether something is Real takes longer to find out.
    if isinstance(number, Real) and not isinstance(number, bool):
        return float(number)
    raise TypeError(f"{what}: expected a number, got {number!r}")
