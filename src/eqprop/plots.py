"""Pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eqprop.drawing import error_axis, write_png

__all__ = ["draw_curves"]


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Train and test error in % over epochs, and the weight angles if there are any, as PNG.

    Args:
        history: the metrics of every epoch, see :class:`~eqprop.training.Metrics`.
        path: where to write it.
    """
    # Runs of earlier versions lack the angles.
    angles = [metrics.get("weight_angles", ()) for metrics in history]
    heights = [4, 2] if angles[-1] else [4]
    figure = Figure(figsize=(6, sum(heights)), layout="constrained")
    axes, *below = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[
        :, 0
    ]
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
    axes.set_ylabel("error (%)")
    for panel in below:
        for index, of_connection in enumerate(zip(*angles, strict=True), 1):
            panel.plot(
                epochs,
                of_connection,
                ("-", "--", ":", "-.")[(index - 1) % 4],
                color="#d55e00",
                marker=marker,
                label=f"layers {index} and {index + 1}, last {of_connection[-1]:.1f}°",
            )
        # From 0 up, with room above a line that hardly changes.
        panel.set_ylim(0, 1.15 * max(1.0, *(angle for of in angles for angle in of)))
        panel.set_ylabel("angle between forward\nand backward weights (°)")
    for panel in (axes, *below):
        panel.grid(alpha=0.3)
        panel.legend()
    last = (axes, *below)[-1]
    last.xaxis.set_major_locator(MaxNLocator(integer=True))
    last.set_xlabel("epoch")
    write_png(figure, path)
