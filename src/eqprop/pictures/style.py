"""What all pictures share: colours, axes, and how a figure becomes a file.

They are legible in grey and for the colour-blind. Colours of lines are those of Okabe and Ito
(https://jfly.uni-koeln.de/color/); whatever a colour tells, a marker, a hatch, a line style or a
word tells too.
"""

import io
import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    SymmetricalLogLocator,
)

from eqprop.files import write_atomically

__all__ = [
    "COLOURS",
    "MARKERS",
    "STYLES",
    "error_axis",
    "for_logarithm",
    "residual_axis",
    "scientific",
    "write_picture",
    "write_png",
    "write_svg",
]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 3)), "-")


def for_logarithm(values: Iterable[float]) -> list[float]:
    """The values, with nothing (NaN) for those that a logarithm cannot show."""
    return [value if 0 < value < math.inf else math.nan for value in values]


def error_axis(axes: Axes, errors: Iterable[float]) -> None:
    """A logarithmic axis of errors in %, linear towards 0 where one of them is that small.

    Errors fall over orders of magnitude, but may reach 0, which a logarithm cannot show. Those that
    are no number are left out. Whatever their range, a few ticks have numbers.
    """
    shown = [error for error in errors if math.isfinite(error)]
    if not shown:
        axes.set_ylim(0, 100)
        return
    least, most = min(shown), max(shown)
    if least > 0.01:
        axes.set_yscale("log")
        # Room around a line that hardly changes.
        room = max(1.15, (most / least) ** 0.06)
        axes.set_ylim(least / room, most * room)
    else:
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_ylim(0, max(1.3 * most, 0.15))
    low, high = axes.get_ylim()
    for subs in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        locator = SymmetricalLogLocator(base=10, linthresh=0.1, subs=subs)
        if sum(low <= tick <= high for tick in locator.tick_values(low, high)) > 2:
            axes.yaxis.set_major_locator(locator)
            break
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def residual_axis(axes: Axes, residuals: Sequence[float]) -> None:
    """A logarithmic axis, which ends in a linear piece down to 0 where a residual is 0."""
    axes.set_ylabel("residual, max $|s_t - s_{t-1}|$")
    positive = [value for value in residuals if value > 0]
    if not positive:
        axes.set_ylim(-0.05, 1)
        return
    low = math.floor(math.log10(min(positive)))
    top = 1.8 * max(positive)
    high = math.floor(math.log10(top))
    if len(positive) == len(residuals):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=9))
    else:
        axes.set_yscale("symlog", linthresh=10.0**low, linscale=1)
        every = max(1, -(-(high - low) // 8))
        decades = [10.0**power for power in range(high, low - 1, -every)]
        axes.yaxis.set_major_locator(FixedLocator([0, *decades]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(-0.15 * 10.0**low, top)
        axes.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    axes.yaxis.set_minor_formatter(NullFormatter())


def scientific(axes: Axes, axis: str) -> None:
    """Numbers on the axis, ``x`` or ``y``, with a common power of ten where they need one."""
    axes.ticklabel_format(axis=axis, style="sci", scilimits=(-2, 3), useMathText=True)  # type: ignore[arg-type]


def write_png(
    figure: Figure, path: str | Path, title: str = "", *, warning: str = "", dpi: int = 100
) -> None:
    """Write the figure, so that there is either the old file or the new one, whole.

    Args:
        title: to stand above it, as it is: a folder's name is no formula.
        warning: what the title must not be read without; it turns red.
        dpi: dots per inch.
    """
    if title:
        words = "\n".join(filter(None, (title, warning)))
        colour = "#a00000" if warning else "black"
        figure.suptitle(words, fontsize="medium", color=colour, parse_math=False)
    figure.set_dpi(dpi)
    picture = io.BytesIO()
    with warnings.catch_warnings():
        # A folder's name may have letters that the font has not: boxes say as much.
        warnings.filterwarnings("ignore", "Glyph")
        FigureCanvasAgg(figure).print_png(picture)
    write_atomically(Path(path), picture.getvalue())


def write_picture(figure: Figure, path: Path, title: str = "", *, warning: str = "") -> None:
    """Write the figure as PNG and as SVG, of the same name.

    Args:
        path: the name, without a suffix.
        title, warning: as for :func:`write_png`.
    """
    write_png(figure, path.with_name(f"{path.name}.png"), title, warning=warning)
    write_svg(figure, path.with_name(f"{path.name}.svg"))


def write_svg(figure: Figure, path: str | Path) -> None:
    """Write the figure as SVG, the same bytes for the same figure, whole or not at all."""
    import matplotlib as mpl

    picture = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "eqprop", "svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_svg(picture, metadata={"Date": None})
    write_atomically(Path(path), picture.getvalue())
