"""Sizes and numbers of steps that a person may have got wrong."""

import operator

__all__ = ["require_whole"]


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
