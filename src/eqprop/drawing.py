"""What all pictures have in common: an axis of errors, and how a figure becomes a file."""

import io
from collections.abc import Iterable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, SymmetricalLogLocator

from eqprop.checkpoint import write_atomically

__all__ = ["error_axis", "write_png"]


def error_axis(axes: Axes, errors: Iterable[float]) -> None:
    """A logarithmic axis of errors in %, linear towards 0 where one of them is that small.

    Errors fall over orders of magnitude, but may reach 0, which a logarithm cannot show.
    """
    if min(errors) > 0.01:
        axes.set_yscale("log")
    else:
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=0.1, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def write_png(figure: Figure, path: Path) -> None:
    """Write the figure, so that there is either the old file or the new one, whole."""
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_atomically(path, picture.getvalue())
