"""Tables on standard output: aligned on a terminal, and whole where there is none."""

import sys
from collections.abc import Sequence

__all__ = ["print_table"]

_UNBOUNDED = 10_000
"""Columns where nobody looks at a screen: a file or a program gets every row on one line."""


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, text: int = 1) -> None:
    """Print rows below their headers.

    Args:
        headers: one per column.
        rows: words, as many as there are headers.
        text: how many columns, from the left, hold text; the others hold numbers, which end
            below one another.
    """
    # Imported here: it takes a tenth of a second that only those who see a table are to wait for.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="")
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index < text else "right")
    for row in rows:
        # Text, not str: a folder's name may hold what rich takes for markup.
        table.add_row(*map(Text, row))
    console = Console(
        file=sys.stdout, width=None if sys.stdout.isatty() else _UNBOUNDED, highlight=False
    )
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
