"""Pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eqprop.drawing import error_axis, write_png

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
    error_axis(axes, (m[f"{name}_error"] for m in history for name in ("train", "test")))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("error (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    write_png(figure, path)
