"""Pictures of a trained network: its weights, its steady states, and how it comes to them.

Weights and differences of states run from dark blue by way of grey (0) to orange and pale yellow,
states that are nowhere negative from black to light: both maps only ever get brighter.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from torch import Tensor

from eqprop.analysis.convergence import ErrorByStep, Phases, ResidualByStep
from eqprop.analysis.images import WeightImages, evenly
from eqprop.analysis.settling_steps import PhaseSteps, SettlingSteps
from eqprop.pictures.style import COLOURS, STYLES, error_axis, residual_axis, scientific, write_png

__all__ = [
    "draw_convergence",
    "draw_error_by_step",
    "draw_phases",
    "draw_settling",
    "draw_weight_images",
]

_SIGNED = LinearSegmentedColormap.from_list(
    "signed", ["#00114d", "#2a62b8", "#8c8c8c", "#f0a22e", "#fff6c8"]
)
_POSITIVE = colormaps["magma"]
_GREY = colormaps["gray"]

_CHANNELS = 16
"""Most channels of a layer to be shown."""

_TICKED = 15
"""Most units of an output layer to be numbered, each."""

_DPI = 150


def draw_weight_images(images: WeightImages, path: str | Path, title: str = "") -> None:
    """Every kernel as a small image, all on one scale that is symmetric about 0.

    With one channel below, the kernels stand in reading order; with several, a row is an upper
    channel and a column a lower one.

    Args:
        path: where to write the PNG.
        title: what was looked at.
    """
    upper, lower, height, width = images.images.shape
    sizes = images.images.abs().flatten()
    # A few large weights would leave all others grey; the ends of the colour bar say that they are.
    limit = float(sizes.quantile(0.998)) or 1.0
    columns = lower if lower > 1 else _columns(upper, width / height)
    sheet = _mosaic(images.images.flatten(0, 1), columns)
    aspect = sheet.shape[0] / sheet.shape[1]
    across = 5.6 if lower == 1 else min(7.5, 2.0 + 0.2 * lower)
    figure = Figure(figsize=(across + 1.2, min(9.0, across * aspect) + 0.6), layout="constrained")
    axes = figure.add_subplot()
    image = _show(axes, sheet, _SIGNED, (-limit, limit))
    extend = "both" if float(sizes.max()) > limit else "neither"
    figure.colorbar(image, ax=axes, label="weight", extend=extend, shrink=0.6)
    numbers = _of(images.upper, images.size[0], images.kind)
    said = f"{images.layer}: {numbers}, {height}×{width}"
    if lower > 1:
        axes.set_ylabel(f"{images.layer}, {numbers}")
        axes.set_xlabel(f"layer below, {_of(images.lower, images.size[1], 'channels')}")
        said = f"{images.layer}, kernels of {height}×{width}"
    write_png(figure, path, "\n".join(filter(None, (title, said))), dpi=_DPI)


def _of(shown: Sequence[int], count: int, what: str) -> str:
    return f"{count} {what}" if len(shown) == count else f"{len(shown)} of {count} {what}"


def _columns(count: int, aspect: float = 1.0) -> int:
    """How many columns make a sheet of so many tiles about as wide as high, or a bit wider."""
    return math.ceil(math.sqrt(count / aspect))


def _mosaic(tiles: Tensor, columns: int) -> np.ndarray:
    """Tiles (N, H, W) in reading order with gaps between them; gaps are not a number."""
    count, height, width = tiles.shape
    zoom = max(1, 12 // max(height, width))
    high, wide = height * zoom, width * zoom
    gap = max(1, round(0.12 * min(high, wide)))
    rows = -(-count // columns)
    sheet = np.full((rows * (high + gap) - gap, columns * (wide + gap) - gap), np.nan)
    for index, tile in enumerate(tiles.double().cpu().numpy()):
        top, left = (index // columns) * (high + gap), (index % columns) * (wide + gap)
        sheet[top : top + high, left : left + wide] = np.kron(tile, np.ones((zoom, zoom)))
    return sheet


def _show(axes: Axes, sheet: np.ndarray, colours: Colormap, limits: tuple[float, float]) -> Any:
    cmap = colours.with_extremes(bad=(1, 1, 1, 0))
    image = axes.imshow(sheet, cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    _bare(axes)
    return image


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def draw_phases(
    phases: Phases, x: Tensor, path: str | Path, title: str = "", *, label: int | None = None
) -> None:
    """The steady states of one sample, free and nudged, and their difference ÷ β, layer by layer.

    Args:
        phases: those of a batch whose first sample is shown, see
            :func:`~eqprop.analysis.convergence.phases`.
        x: the input, (B, C, H, W) or (B, …).
        path: where to write the PNG.
        title: what was looked at.
        label: the class of that sample, where its target is one.
    """
    *hidden, _ = phases.free
    widths = [1.0, *(1.25 for _ in hidden), 1.35]
    figure = Figure(figsize=(0.9 + 2.0 * sum(widths), 7.4), layout="constrained")
    grid = figure.subplots(
        3, len(widths), width_ratios=widths, squeeze=False, gridspec_kw={"wspace": 0.03}
    )
    _show(grid[0, 0], *_input(x[0].double().cpu()))
    grid[0, 0].set_title("input", fontsize="medium")
    grid[0, 0].set_anchor("W")
    if label is not None:
        grid[0, 0].set_xlabel(f"class {label}")
    for axes in grid[1:, 0]:
        _bare(axes)
    other, apart = ("s_*^{-\\beta}", "2\\beta") if phases.symmetric else ("s_*", "\\beta")
    difference = f"difference,\n$(s_*^{{\\beta}} - {other})\\,/\\,{apart}$"
    names = ("free phase, $s_*$", "nudged phase, $s_*^{\\beta}$", difference)
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_ylabel(name, fontsize="large")
    layers = zip(phases.free, phases.nudged, phases.difference, strict=True)
    for column, layer in enumerate(layers, 1):
        cells = list(grid[:, column])
        samples = [state[0].double().cpu() for state in layer]
        if column == len(phases.free):
            _draw_output(cells, samples, label)
        else:
            _draw_layer(figure, cells, samples, f"hidden layer {column}")
    figure.align_ylabels(grid[:, 0])
    write_png(figure, path, title, dpi=_DPI)


def _input(x: Tensor) -> tuple[np.ndarray, Colormap, tuple[float, float]]:
    """One input, how to colour it, and between which numbers: an image as it is, of one channel;
    anything else wrapped as the units of a layer are."""
    sheet = x.mean(0).numpy() if x.dim() == 3 else _wrapped(x.flatten())
    low, high = float(x.min()), float(x.max())
    if low >= 0 and high <= 1:
        return sheet, _GREY, (0, 1)
    size = max(-low, high)
    return (sheet, _SIGNED, (-size, size)) if low < 0 else (sheet, _GREY, (0, high))


def _draw_layer(figure: Figure, cells: list[Axes], samples: list[Tensor], name: str) -> None:
    shape = samples[0].shape
    if len(shape) == 3:
        shown = list(evenly(shape[0], _CHANNELS))
        said = f"{_of(shown, shape[0], 'channels')}, {shape[1]}×{shape[2]}"
        sheets = [_mosaic(sample[shown], _columns(len(shown))) for sample in samples]
    else:
        said = f"{samples[0].numel()} units"
        sheets = [_wrapped(sample) for sample in samples]
    low = min(float(sample.min()) for sample in samples[:2])
    high = max(float(sample.abs().max()) for sample in samples[:2]) or 1.0
    size = float(samples[2].abs().max()) or 1.0
    of_states = (_POSITIVE, (0.0, high)) if low >= 0 else (_SIGNED, (-high, high))
    looks = (of_states, of_states, (_SIGNED, (-size, size)))
    for row, (axes, sheet, look) in enumerate(zip(cells, sheets, looks, strict=True)):
        image = _show(axes, sheet, *look)
        if row > 0:  # Both states share the bar of the nudged one.
            _colour_bar(figure, image, axes)
    cells[0].set_title(f"{name}\n{said}", fontsize="medium")


def _colour_bar(figure: Figure, image: Any, axes: Axes) -> None:
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.85, aspect=18, pad=0.02)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.xaxis.set_major_locator(MaxNLocator(4))
    bar.ax.tick_params(labelsize="small")
    scientific(bar.ax, "x")


def _wrapped(units: Tensor) -> np.ndarray:
    """Units in reading order, as near to a square as can be."""
    units = units.flatten()
    columns = _columns(len(units))
    sheet = np.full(-(-len(units) // columns) * columns, np.nan)
    sheet[: len(units)] = units.numpy()
    return sheet.reshape(-1, columns)


def _draw_output(cells: list[Axes], samples: list[Tensor], label: int | None) -> None:
    samples = [sample.flatten() for sample in samples]
    low = min(0.0, *(float(sample.min()) for sample in samples[:2]))
    high = max(1.0, *(float(sample.max()) for sample in samples[:2]))
    classes = range(len(samples[0]))
    for axes, sample in zip(cells, samples, strict=True):
        bars = axes.bar(classes, sample.tolist(), color="0.6", width=0.75)
        if len(classes) <= _TICKED:
            axes.set_xticks(classes)
        if label is not None:
            bars[label].set(facecolor=COLOURS[0], edgecolor="black", hatch="///")
        if label is not None and len(classes) <= _TICKED:
            axes.get_xticklabels()[label].set(fontweight="bold", color=COLOURS[0])
        axes.axhline(0, color="0.2", linewidth=0.8)
        axes.spines[["top", "left"]].set_visible(False)
        axes.tick_params(labelsize="small")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.tick_right()
    margin = 0.04 * (high - low)
    for axes in cells[:2]:
        axes.set_ylim(low - margin if low < 0 else 0, high + margin)
    scientific(cells[2], "y")
    if not samples[2].any():
        cells[2].set_ylim(-1, 1)
        target = [float(unit == label) for unit in classes]
        if label is not None and samples[0].tolist() == target:
            # The hidden layers may differ all the same, by what was left of the free phase.
            said = "no nudge, as $s_*$ is\nthe target already"
            cells[2].text(0.5, 0.75, said, transform=cells[2].transAxes, ha="center", va="center")
    hatched = "" if label is None else "\nhatched: the target"
    cells[0].set_title(f"output layer{hatched}", fontsize="medium")


def draw_convergence(
    found: ResidualByStep,
    outputs: Tensor,
    path: str | Path,
    title: str = "",
    *,
    sample: str = "one sample",
    label: int | None = None,
    free_steps: int | None = None,
) -> None:
    """The free phase step by step: the residual of every layer, and the output of one sample.

    Args:
        found: the residuals of a mini-batch.
        outputs: ŷ of one sample at t = 0 … , (steps + 1, …), see
            :func:`~eqprop.analysis.convergence.output_by_step`.
        path: where to write the PNG.
        title: what was looked at.
        sample: which sample that is.
        label: its class, where its target is one.
        free_steps: T, to be marked.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    steps = range(1, len(found.median[0]) + 1)
    for index, name in enumerate(found.layers):
        at = index % len(COLOURS)
        look: dict[str, Any] = {"color": COLOURS[at], "linestyle": STYLES[at]}
        left.plot(steps, found.median[index], linewidth=2, label=name, **look)
        left.plot(steps, found.worst[index], linewidth=0.8, **look)
    residual_axis(left, [value for of in (*found.median, *found.worst) for value in of])
    many = f"{found.samples} samples: median thick, worst thin"
    left.set_title(many if found.samples > 1 else "one sample", fontsize="medium", pad=16)
    _draw_outputs(right, outputs, label)
    right.set_title(sample, fontsize="medium", pad=16, parse_math=False)
    for axes in (left, right):
        axes.set_xlabel("step t of the free phase")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.set_xlim(0, len(steps))
        _mark(axes, free_steps)
        # Below, where no line can run behind it.
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
            ncols=3,
            fontsize="small",
            handlelength=2.5,
            columnspacing=1.2,
            frameon=False,
        )
    write_png(figure, path, title, dpi=_DPI)


def _draw_outputs(axes: Axes, outputs: Tensor, label: int | None) -> None:
    lines = outputs.flatten(1).double().cpu().t().tolist()
    # Stable, so that of equals the first comes first; the target before all.
    units = sorted(range(len(lines)), key=lambda unit: (unit != label, -lines[unit][-1]))
    for rank, unit in enumerate(units):
        look: dict[str, Any] = {"color": "0.6", "linewidth": 0.9}
        if rank == 0:
            look = {"color": COLOURS[0], "linewidth": 2.2, "zorder": 3}
        elif rank == 1:
            look = {"color": COLOURS[1], "linewidth": 1.6, "linestyle": "--", "zorder": 2.5}
        said = (f"class {unit}, the target", f"class {unit}, the next", "other classes")
        if label is None:
            said = (f"unit {unit}, the largest", f"unit {unit}, the next", "other units")
        axes.plot(
            range(len(lines[unit])), lines[unit], label=said[rank] if rank < 3 else None, **look
        )
    axes.set_ylabel("output unit")


def _mark(axes: Axes, free_steps: int | None, *, named: bool = True) -> None:
    """A line at T, its name above the axes; none without a T."""
    if free_steps is None:
        return
    axes.axvline(free_steps, color="0.25", linewidth=1, linestyle=":")
    if named:
        axes.annotate(
            f"T = {free_steps}",
            (free_steps, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize="small",
        )


def draw_error_by_step(
    found: ErrorByStep, path: str | Path, title: str = "", *, free_steps: int | None = None
) -> None:
    """Test error and residual against the number of steps of the free phase.

    Args:
        path: where to write the PNG.
        title: what was looked at.
        free_steps: T, to be marked.
    """
    figure = Figure(figsize=(6.4, 6.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    first: dict[str, Any] = {"color": COLOURS[0], "marker": "o", "markersize": 4}
    second: dict[str, Any] = {"color": COLOURS[1], "marker": "s", "markersize": 4}
    upper.plot(found.steps, found.error, **first)
    error_axis(upper, found.error)
    upper.set_ylabel("test error (%)")
    lower.plot(found.steps, found.median, label="median sample", **first)
    lower.plot(found.steps, found.worst, "--", label="worst sample", **second)
    residual_axis(lower, (*found.median, *found.worst))
    lower.set_xlabel("steps t of the free phase")
    lower.legend(loc="best", fontsize="small")
    lower.set_xscale("log")
    lower.xaxis.set_major_locator(FixedLocator(_spaced(found.steps, free_steps)))
    lower.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    lower.xaxis.set_minor_locator(NullLocator())
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
        _mark(axes, free_steps, named=axes is upper)
    write_png(figure, path, title, dpi=_DPI)


def _spaced(steps: Sequence[int], free_steps: int | None) -> list[int]:
    """T, and those that leave room for their labels on a logarithmic axis."""
    least = 0.06 * math.log(max(steps) / min(steps)) if len(steps) > 1 else 0
    shown = [] if free_steps is None else [free_steps]
    for step in (steps[-1], *steps):
        if all(abs(math.log(step / other)) >= least for other in shown):
            shown.append(step)
    return sorted(set(shown))


def draw_settling(
    found: SettlingSteps,
    path: str | Path,
    title: str = "",
    *,
    own: tuple[int, int] | None = None,
) -> None:
    """The share of the samples at rest against the steps of the free and of the nudged phase.

    Args:
        found: how many steps each sample takes.
        path: where to write the PNG.
        title: what was looked at.
        own: T and K of a run, to be marked beside the least that settle enough of the samples.
    """
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    chosen = (found.free_steps, found.nudged_steps)
    phases = ((found.free,), found.nudged)
    marked = own or (None, None)
    for axes, of, symbol, least, given in zip(panels, phases, "TK", chosen, marked, strict=True):
        _draw_shares(axes, of, [n for n in (given, least) if n is not None])
        axes.axhline(100 * found.share, color="0.6", linewidth=0.8, zorder=1.5)
        _mark_choice(axes, symbol, least, given, f"{100 * found.share:g} %")
        axes.set_xlabel(f"steps of the {'free' if symbol == 'T' else 'nudged'} phase")
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best", fontsize="small", handlelength=2.5, framealpha=1)
    panels[0].set_ylabel(f"samples at rest, to {found.tolerance:g} (%)")
    panels[0].set_ylim(0, 103)
    write_png(figure, path, title, dpi=_DPI)


def _draw_shares(axes: Axes, phases: Sequence[PhaseSteps], others: Sequence[int]) -> None:
    """Of every phase, how many of the samples come to rest within so many steps."""
    largest = [phase.largest or 0 for phase in phases]
    # Samples that never rest hold the line down as far as anybody looked.
    searched = [phase.most for phase in phases if phase.restless]
    end = 1.06 * max((1, *largest, *searched, *others))
    for index, phase in enumerate(phases):
        resting = phase.steps[phase.steps.isfinite()].sort().values.tolist()
        shares = [100 * (rank + 1) / len(phase.steps) for rank in range(len(resting))]
        reached = shares[-1] if shares else 0
        at = (0.0, *resting, float(phase.most) if phase.restless else end)
        name = phase.phase.replace("(beta ", "(β = ").replace("-", "−")
        axes.step(
            at,
            (0.0, *shares, reached),
            where="post",
            color=COLOURS[index],
            linestyle=STYLES[index],
            linewidth=1.8,
            label=f"{name}, {len(phase.steps)} samples",
        )
    axes.set_xlim(0, end)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _mark_choice(axes: Axes, symbol: str, least: int | None, given: int | None, share: str) -> None:
    """Lines at the chosen number of steps and at the one given."""
    if least is not None:
        same = ", and the run's" if least == given else ""
        said = f"{symbol} = {least}, the least for {share}{same}"
        axes.axvline(least, color=COLOURS[2], linewidth=1.2, zorder=1.5, label=said)
    if given is not None and least != given:
        said = f"{symbol} = {given}, the run's"
        axes.axvline(given, color="0.25", linewidth=1.2, linestyle=":", zorder=1.5, label=said)
