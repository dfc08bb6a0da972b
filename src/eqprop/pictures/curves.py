"""The course of a training: errors over epochs."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eqprop.pictures.style import COLOURS, error_axis, write_png
from eqprop.training.loop import Metrics

__all__ = ["draw_curves"]


def draw_curves(
    history: Sequence[Metrics | Mapping[str, Any]], path: str | Path, *, tested_on: str = "test"
) -> None:
    """Train and test error in % over epochs, as PNG, and below them what there is to be seen: the
    weight angles, the steps that samples took to settle, and the share of those that did not.

    Args:
        history: the metrics of every epoch, as :func:`~eqprop.training.loop.train` gives them or
            as their names and values.
        path: where to write it.
        tested_on: which samples the test error is of.

    Raises:
        ValueError: there is no epoch.
    """
    if not history:
        raise ValueError("history: expected the metrics of at least one epoch, got none")
    history = [vars(epoch) if isinstance(epoch, Metrics) else epoch for epoch in history]
    panels: list[tuple[float, _Panel]] = [(4, partial(_errors, tested_on))]
    # Runs of earlier versions lack these.
    if history[-1].get("weight_angles"):
        panels.append((2, _angles))
    if any(_differ(metrics) for metrics in history):
        panels.append((2.2, _steps))
    if any(_unrest(metrics) >= _SEEN for metrics in history):
        panels.append((2.2, partial(_rest, tested_on)))
    heights = [height for height, _ in panels]
    figure = Figure(figsize=(6, sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)
    epochs = [metrics["epoch"] for metrics in history]
    # A number with none beside it makes no line.
    alone = len(epochs) < 3 or any(
        math.isnan(_number(metrics, f"{name}_error"))
        for metrics in history
        for name in ("train", "test")
    )
    style = {"marker": "o" if alone else None}
    for axes, (_, draw) in zip(grid[:, 0], panels, strict=True):
        draw(axes, epochs, history, style)
        axes.grid(alpha=0.3)
        if axes.get_legend() is None:
            axes.legend()
    # From 0 on: a single epoch would stand before an axis without a scale.
    grid[-1, 0].set_xlim(0, 1.04 * max(epochs))
    grid[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[-1, 0].set_xlabel("epoch")
    write_png(figure, path)


_SEEN = 0.05
"""In %: less is none at the precision of a legend."""

_Panel = Callable[[Axes, Sequence[int], Sequence[Mapping[str, Any]], Mapping[str, Any]], None]


def _errors(
    tested_on: str,
    axes: Axes,
    epochs: Sequence[int],
    history: Sequence[Mapping[str, Any]],
    style: Mapping[str, Any],
) -> None:
    drawn = []
    for name, of, line, colour in (
        ("train", "train", "--", "0.55"),
        ("test", tested_on, "-", COLOURS[0]),
    ):
        errors = [_number(metrics, f"{name}_error") for metrics in history]
        last = "no number" if math.isnan(errors[-1]) else f"{errors[-1]:.2f} %"
        label = f"{of} error, last {last}"
        axes.plot(epochs, errors, line, color=colour, label=label, **style)
        drawn += errors
    error_axis(axes, drawn)
    axes.set_ylabel("error (%)")


def _angles(
    axes: Axes,
    epochs: Sequence[int],
    history: Sequence[Mapping[str, Any]],
    style: Mapping[str, Any],
) -> None:
    several = len(history[-1]["weight_angles"])
    # Nothing (NaN) of an epoch that has none, as where a run was put together by hand.
    angles = [metrics.get("weight_angles") or [math.nan] * several for metrics in history]
    # All but the weights of the first layer are untied.
    *hidden, output = zip(*angles, strict=True)
    layers = {f"hidden layer {number}": of for number, of in enumerate(hidden, 2)}
    for index, (layer, of) in enumerate({**layers, "output layer": output}.items()):
        line = ("-", "--", ":", "-.")[index % 4]
        label = f"weights of {layer}, last {of[-1]:.1f}°"
        axes.plot(epochs, of, line, color=COLOURS[1], label=label, **style)
    # From 0 up, with room above a line that hardly changes.
    known = (angle for of in angles for angle in of if not math.isnan(angle))
    axes.set_ylim(0, 1.15 * max(1.0, *known))
    axes.set_ylabel("angle between forward\nand backward weights (°)")


def _steps(
    axes: Axes,
    epochs: Sequence[int],
    history: Sequence[Mapping[str, Any]],
    style: Mapping[str, Any],
) -> None:
    highest = 1.0
    for phase, line, colour in (("free", "-", COLOURS[2]), ("nudged", "--", COLOURS[3])):
        mean = [_number(metrics, f"{phase}_steps") for metrics in history]
        most = [_number(metrics, f"most_{phase}_steps") for metrics in history]
        if math.isnan(mean[-1]):
            continue
        label = f"{phase} phase: mean, last {mean[-1]:.1f}"
        axes.plot(epochs, mean, line, color=colour, linewidth=1.8, label=label, **style)
        label = f"{phase} phase: most, last {most[-1]:.0f}"
        axes.plot(epochs, most, line, color=colour, linewidth=0.8, label=label, **style)
        highest = max([highest, *(value for value in most if not math.isnan(value))])
    axes.set_ylim(0, 1.1 * highest)
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set_ylabel("steps of a sample")
    _legend_above(axes)


def _rest(
    tested_on: str,
    axes: Axes,
    epochs: Sequence[int],
    history: Sequence[Mapping[str, Any]],
    style: Mapping[str, Any],
) -> None:
    highest = 0.1
    for name, said, line, colour in (
        ("restless", "training samples", "--", "0.55"),
        ("test_restless", f"{tested_on} samples", "-", COLOURS[0]),
        ("test_cycling", f"{tested_on} samples in two-cycles", ":", COLOURS[1]),
    ):
        share = [_number(metrics, name) for metrics in history]
        if name == "test_cycling" and not any(value > 0 for value in share):
            continue
        label = f"{said}, last {share[-1]:.1f} %"
        axes.plot(epochs, share, line, color=colour, label=label, **style)
        highest = max([highest, *(value for value in share if not math.isnan(value))])
    axes.set_ylim(0, 1.1 * highest)
    axes.set_ylabel("not at rest (%)")
    _legend_above(axes)


def _legend_above(axes: Axes) -> None:
    """Lines of such panels go anywhere, and leave no room for a legend between them."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
        borderaxespad=0.2,
        frameon=False,
        fontsize="small",
    )


def _number(metrics: Mapping[str, Any], name: str) -> float:
    """Of an epoch, or nothing (NaN) where it has no such number: earlier versions had not."""
    value = metrics.get(name)
    return math.nan if value is None else value


def _differ(metrics: Mapping[str, Any]) -> bool:
    """Whether samples took different numbers of steps."""
    return any(
        _number(metrics, f"{phase}_steps") < _number(metrics, f"most_{phase}_steps")
        for phase in ("free", "nudged")
    )


def _unrest(metrics: Mapping[str, Any]) -> float:
    """The larger share of the samples, training or test, that did not come to rest."""
    return max(metrics.get("restless") or 0.0, metrics.get("test_restless") or 0.0)
