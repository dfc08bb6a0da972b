"""Tables on standard output: as wide as the terminal, and of 80 columns where there is none."""

import os
import shutil
import sys
from collections.abc import Sequence

from eqprop import pictures

__all__ = ["columns", "print_table"]


def columns() -> int:
    """How many there are on a terminal, or those of $COLUMNS; 80 in a file."""
    said = os.environ.get("COLUMNS", "")
    if sys.stdout.isatty() or (said.isdigit() and int(said)):
        return shutil.get_terminal_size().columns
    return 80


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text: int = 1,
    trailing: int = 0,
    keys: int = 1,
) -> None:
    """Print rows below their headers, see :func:`~eqprop.pictures.tables.table`."""
    said = pictures.table(headers, rows, text=text, trailing=trailing, keys=keys, width=columns())
    sys.stdout.write(said)
