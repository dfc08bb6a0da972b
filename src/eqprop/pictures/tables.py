"""Tables as text, which fit into so many columns.

A number is never broken. Where there is not room for all columns side by side, words wrap; where
that is not enough, further columns stand below, in a table of their own that begins with the same
names of the rows.
"""

from collections.abc import Collection, Sequence

__all__ = ["table"]

_NARROW = 14
"""Columns of words are not made narrower than this, before others are put below."""


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text: int = 1,
    trailing: int = 0,
    keys: int = 1,
    width: int = 80,
) -> str:
    """Rows below their headers.

    Args:
        headers: one per column.
        rows: words, as many as there are headers.
        text: how many columns, from the left, hold text; the others hold numbers, which end
            below one another.
        trailing: how many hold text from the right.
        keys: how many columns, from the left, say which row it is.
        width: how many characters there is room for.
    """
    # Imported here: it takes a tenth of a second that only those who see a table are to wait for.
    from rich.cells import cell_len

    columns = [list(map(str, column)) for column in zip(headers, *rows, strict=True)]
    of_words = {*range(text), *range(len(columns) - trailing, len(columns))}
    full = [max(map(cell_len, column)) for column in columns]
    least = [
        max(min(full[i], _NARROW), *(cell_len(word) for cell in column for word in cell.split()))
        if i in of_words
        else max(
            *(cell_len(word) for word in column[0].split()), *(cell_len(n) for n in column[1:])
        )
        for i, column in enumerate(columns)
    ]
    names = list(range(keys))
    bands = [names.copy()]
    for i in range(keys, len(columns)):
        if len(bands[-1]) > keys and _whole([least[j] for j in (*bands[-1], i)]) > width:
            bands.append(names.copy())
        bands[-1].append(i)
    return "\n".join(_band(columns, band, full, least, of_words, width) for band in bands)


def _whole(widths: Sequence[int]) -> int:
    """With two spaces between columns."""
    return sum(widths) + 2 * (len(widths) - 1)


def _band(
    columns: Sequence[Sequence[str]],
    band: Sequence[int],
    full: Sequence[int],
    least: Sequence[int],
    of_words: Collection[int],
    width: int,
) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    widths = {i: full[i] for i in band}
    while _whole(list(widths.values())) > width:
        # The widest of those that may be narrower; if none may, the widest is broken.
        may = [i for i in band if widths[i] > least[i]] or [i for i in band if widths[i] > 1]
        if not may:
            break
        widths[max(may, key=lambda i: widths[i])] -= 1
    # Spaces in columns of their own: versions differ in what padding adds to a width.
    drawn = Table(box=None, pad_edge=False, padding=0, header_style="")
    for i in band:
        if i != band[0]:
            drawn.add_column(width=2)
        justify = "left" if i in of_words else "right"
        drawn.add_column(columns[i][0], justify=justify, width=widths[i], overflow="fold")
    for row in range(1, len(columns[band[0]])):
        # Text, not str: a folder's name may hold what rich takes for markup.
        cells = [Text(columns[i][row]) for i in band]
        drawn.add_row(*[part for cell in cells for part in (Text(), cell)][1:])
    console = Console(width=max(width, _whole(list(widths.values()))), highlight=False)
    with console.capture() as captured:
        console.print(drawn)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
