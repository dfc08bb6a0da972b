"""Sizes that a person may have got wrong."""

__all__ = ["require_whole"]


def require_whole(what: str, *numbers: object) -> None:
    """Refuse what is no whole number, naming it."""
    for number in numbers:
        if type(number) is not int:
            raise ValueError(f"{what}: expected whole numbers (windows are square), got {number!r}")
