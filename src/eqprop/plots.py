"""Pictures."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, SymmetricalLogLocator

from eqprop.checkpoint import write_atomically

__all__ = ["draw_curves"]


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Train and test error in % over epochs, as PNG.

    Args:
        history: the metrics of every epoch, see :class:`~eqprop.training.Metrics`.
        path: where to write it.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    epochs = [metrics["epoch"] for metrics in history]
    marker = "o" if len(epochs) < 3 else None
    for name, style, colour in (("train", "--", "0.55"), ("test", "-", "#0072b2")):
        errors = [metrics[f"{name}_error"] for metrics in history]
        axes.plot(
            epochs,
            errors,
            style,
            color=colour,
            marker=marker,
            label=f"{name} error, last {errors[-1]:.2f} %",
        )
    # Errors fall over orders of magnitude, but may reach 0, which a logarithm cannot show.
    lowest = min(metrics[f"{name}_error"] for metrics in history for name in ("train", "test"))
    if lowest > 0.01:
        axes.set_yscale("log")
    else:
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=0.1, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("error (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_atomically(path, picture.getvalue())
