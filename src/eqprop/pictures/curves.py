"""The course of a training: errors over epochs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eqprop.pictures.style import COLOURS, error_axis, write_png

__all__ = ["draw_curves"]


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Train and test error in % over epochs, and the weight angles if there are any, as PNG.

    Args:
        history: the metrics of every epoch, see :class:`~eqprop.training.loop.Metrics`.
        path: where to write it.
    """
    # Runs of earlier versions lack the angles.
    angles = [metrics.get("weight_angles", ()) for metrics in history]
    heights = [4, 2] if angles[-1] else [4]
    figure = Figure(figsize=(6, sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)
    panels = grid[:, 0]
    upper, last = panels[0], panels[-1]
    epochs = [metrics["epoch"] for metrics in history]
    marker = "o" if len(epochs) < 3 else None
    drawn = []
    for name, style, colour in (("train", "--", "0.55"), ("test", "-", COLOURS[0])):
        errors = [metrics[f"{name}_error"] for metrics in history]
        label = f"{name} error, last {errors[-1]:.2f} %"
        upper.plot(epochs, errors, style, color=colour, marker=marker, label=label)
        drawn += errors
    error_axis(upper, drawn)
    upper.set_ylabel("error (%)")
    if angles[-1]:
        for index, of_connection in enumerate(zip(*angles, strict=True)):
            style = ("-", "--", ":", "-.")[index % 4]
            label = f"layers {index + 1} and {index + 2}, last {of_connection[-1]:.1f}°"
            last.plot(epochs, of_connection, style, color=COLOURS[1], marker=marker, label=label)
        # From 0 up, with room above a line that hardly changes.
        last.set_ylim(0, 1.15 * max(1.0, *(angle for of in angles for angle in of)))
        last.set_ylabel("angle between forward\nand backward weights (°)")
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.legend()
    last.xaxis.set_major_locator(MaxNLocator(integer=True))
    last.set_xlabel("epoch")
    write_png(figure, path)
