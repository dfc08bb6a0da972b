"""The reproduced figure, legible in grey and for the colour-blind.

Cividis rises evenly in brightness; what is no C-VF network has a marker of its own.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from eqprop.drawing import error_axis, write_png

__all__ = ["draw_figure_1c"]

_PSI = Normalize(0, 180)
_COLOURS = "cividis"
_MARKERS = {"C-VF": "o", "C-EP": "s", "EP": "D"}
_REFERENCES = {"C-EP": "#d55e00", "EP": "#cc79a7"}
_CHANCE = 90.0
"""Test error of guessing one of ten classes, in %."""


def draw_figure_1c(
    rows: Sequence[Mapping[str, Any]],
    correlations: Mapping[int, float | None],
    caption: str,
    path: Path,
    *,
    angle: str = "gradient_angle",
) -> None:
    """Test error against the gradient angle before training, a panel per number of hidden layers.

    Args:
        rows: those with both; of several seeds, the mean and the standard deviation are drawn.
        correlations: Spearman's, of the C-VF networks with so many hidden layers.
        caption: what was trained.
        path: where to write the PNG.
        angle: which one; ``whole_angle`` is that with the first nudged step too.
    """
    panels = len(correlations)
    figure = Figure(figsize=(2.2 + 3.9 * panels, 4.8), layout="constrained")
    grid = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    errors = [row["test_error"] for row in rows]
    for axes, (layers, rho) in zip(grid, correlations.items(), strict=True):
        here = [row for row in rows if row["hidden_layers"] == layers]
        _draw_panel(axes, here, angle)
        said = "undefined" if rho is None else f"{rho:+.2f}"
        count = len({row["weight_angle"] for row in here if row["algorithm"] == "C-VF"})
        name = f"{'one hidden layer' if layers == 1 else 'two hidden layers'}"
        axes.set_title(f"{name}\nC-VF: Spearman ρ {said} (n = {count})", fontsize="medium")
        steps = "t = 0 … K − 1" if angle == "whole_angle" else "t = 1 … K − 1"
        axes.set_xlabel(f"angle between EP and −BPTT before training,\nsummed over {steps} (°)")
        if errors and min(errors) > 0 and max(errors) > 10 * min(errors):
            error_axis(axes, errors)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    grid[0].set_ylabel("test error (%)")
    bar = figure.colorbar(ScalarMappable(_PSI, _COLOURS), ax=list(grid), shrink=0.9)
    bar.set_label("C-VF: Ψ before training (°)")
    bar.set_ticks([0, 45, 90, 135, 180])
    shown = Line2D([], [], linestyle="", color="0.6", label="C-VF", **_style("C-VF"))
    handles = {
        label: handle
        for axes in grid
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    handles["C-VF"] = shown
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False
    )
    figure.suptitle(caption, fontsize="medium", parse_math=False)
    write_png(figure, path)


def _draw_panel(axes: Axes, rows: Sequence[Mapping[str, Any]], angle: str) -> None:
    axes.axhline(_CHANCE, color="0.4", linestyle="--", linewidth=1, label="chance, 90 %")
    groups: dict[tuple[str, float | None], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["algorithm"], row["weight_angle"]), []).append(row)
    for (algorithm, psi), group in groups.items():
        x, dx = _mean([row[angle] for row in group])
        y, dy = _mean([row["test_error"] for row in group])
        colour = _REFERENCES.get(algorithm) or colormaps[_COLOURS](_PSI(psi or 0.0))
        axes.errorbar(
            x,
            y,
            xerr=dx or None,
            yerr=dy or None,
            ecolor="0.35",
            elinewidth=1,
            capsize=3,
            fmt="none",
        )
        axes.plot(x, y, linestyle="", color=colour, **_style(algorithm))


def _style(algorithm: str) -> dict[str, Any]:
    if algorithm in _REFERENCES:
        # Hollow, so that it hides no other where they meet.
        hollow = {"markerfacecolor": "none", "markeredgewidth": 2, "markersize": 9}
        return {"marker": _MARKERS[algorithm], "label": f"{algorithm}, tied", **hollow}
    filled = {"markeredgecolor": "black", "markeredgewidth": 0.7, "markersize": 8}
    return {"marker": _MARKERS[algorithm], **filled}


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n − 1; 0 for one alone)."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return math.fsum(values) / len(values), deviation
