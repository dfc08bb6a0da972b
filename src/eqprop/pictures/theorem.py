"""Pictures of Theorem 1: how well the updates of EP follow the gradients of BPTT."""

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from eqprop.analysis.agreement import Agreement, Comparison, Premise
from eqprop.analysis.diagnosis import Cell, Diagnosis, Trace
from eqprop.analysis.kind import beta_power
from eqprop.pictures.style import COLOURS, MARKERS, for_logarithm, scientific, write_png

__all__ = ["draw_error_against_beta", "draw_layers", "draw_process", "draw_processes", "draw_sweep"]

_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++")

_COLOURS = "cividis_r"
"""Light is small: legible in grey, as cividis rises evenly in brightness."""

_SYMBOLS = {"beta": "β", "free_steps": "T", "nudged_steps": "K"}


def draw_processes(diagnosis: Diagnosis, what: str, path: str | Path, title: str = "") -> None:
    """EP solid and −BPTT dashed, a row per layer or weight, a column per η.

    Args:
        what: ``states`` or ``parameters``.
        path: where to write the PNG.
        title: what was looked at.
    """
    traces: Sequence[Trace] = getattr(diagnosis, what)
    symbol, units = {
        "states": ("s", "neurons of every layer"),
        "parameters": ("θ", "synapses of every weight"),
    }[what]
    rows, columns = len(traces), len(diagnosis.etas)
    figure = Figure(figsize=(1.2 + 3.3 * columns, 1.5 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey="row", squeeze=False)
    for axes, eta in zip(grid[0], diagnosis.etas, strict=True):
        axes.set_title(f"η = {eta:g}", fontsize="medium")
    for axes in grid[-1]:
        axes.set_xlabel("step t of the nudged phase")
    for row, trace in zip(grid, traces, strict=True):
        for axes, ep in zip(row, trace.ep, strict=True):
            draw_process(axes, ep.tolist(), trace.bptt.tolist())
        name = diagnosis.labels.get(trace.name, trace.name)
        row[0].set_ylabel(_broken(name), fontsize="small")
        _fit_height(row[0], trace)
    ep, bptt = f"$\\Delta_{symbol}$(t)", f"$\\nabla_{symbol}$(t)"
    handles = [
        Line2D([], [], color="0.2", label=f"{diagnosis.by}, {ep}"),
        Line2D([], [], color="0.2", linestyle="--", label=f"−BPTT, −{bptt}"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    said = f"randomly drawn {units}"
    write_png(
        figure, path, _titled(title, diagnosis, said), warning=_warning(diagnosis.premise, figure)
    )


def draw_process(axes: Axes, ep: list[list[float]], bptt: list[list[float]]) -> None:
    """EP solid and −BPTT dashed, in every step of the nudged phase, a colour per entry.

    Args:
        axes: where.
        ep: Δ(t) of a few entries, (K, n).
        bptt: −∇(t) of the same.
    """
    steps = range(len(bptt))
    every = max(1, len(steps) // 8)
    columns = zip(zip(*ep, strict=True), zip(*bptt, strict=True), strict=True)
    for index, (solid, dashed) in enumerate(columns):
        look: dict[str, Any] = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 4}
        axes.plot(steps, solid, linewidth=1.3, markevery=(index * every // 3, every), **look)
        # Dark and above, else the dashes vanish into the line that they should lie on.
        dashes: dict[str, Any] = {"linestyle": (0, (2, 2)), "linewidth": 2.6, "alpha": 0.75}
        axes.plot(steps, dashed, color=COLOURS[index], **dashes)
    axes.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    axes.grid(alpha=0.25)
    scientific(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _fit_height(axes: Axes, trace: Trace) -> None:
    """Show all of BPTT, and of an EP that runs away as much as leaves BPTT legible."""
    size = float(trace.bptt.abs().max()) if trace.bptt.numel() else 0.0
    if not size:
        return
    values = [trace.bptt, *trace.ep]
    low = max(min(float(v.min()) for v in values), float(trace.bptt.min()) - 0.6 * size)
    high = min(max(float(v.max()) for v in values), float(trace.bptt.max()) + 0.6 * size)
    margin = 0.07 * (high - low)
    axes.set_ylim(low - margin, high + margin)


def draw_layers(diagnosis: Diagnosis, path: str | Path, title: str = "") -> None:
    """The relative error and the agreement in sign, per layer and per parameter, a bar per η.

    Args:
        path: where to write the PNG.
        title: what was looked at.
    """
    first = diagnosis.by_eta[0]
    names = [*first.mean.by_layer, *first.mean.by_parameter]
    figure = Figure(figsize=(max(6.5, 2.5 + 0.85 * len(names)), 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    width = 0.8 / len(diagnosis.etas)
    positive = []
    for index, (eta, found) in enumerate(zip(diagnosis.etas, diagnosis.by_eta, strict=True)):
        shift = (index - (len(diagnosis.etas) - 1) / 2) * width
        style: dict[str, Any] = {
            "x": [place + shift for place in range(len(names))],
            "width": width,
            "color": COLOURS[index],
            "hatch": _HATCHES[index],
            "edgecolor": "white",
            "label": f"η = {eta:g}",
            "error_kw": {"ecolor": "0.15", "capsize": 3},
        }
        mean, spread = _parts(found.mean), _parts(found.spread)
        errors = for_logarithm(part.relative_error for part in mean)
        signs = [100 * part.sign_agreement for part in mean]
        positive += [error for error in errors if error > 0]
        if found.batches > 1:
            upper.bar(height=errors, yerr=[part.relative_error for part in spread], **style)
            lower.bar(height=signs, yerr=[100 * part.sign_agreement for part in spread], **style)
        else:
            upper.bar(height=errors, **style)
            lower.bar(height=signs, **style)
    if positive:
        upper.set_yscale("log")
        upper.set_ylim(bottom=10 ** math.floor(math.log10(min(positive) / 1.5)))
    upper.yaxis.set_minor_formatter(NullFormatter())
    upper.set_ylabel("relative error")
    lower.set_ylabel("equal signs (%)")
    lower.set_ylim(0, 105)
    lower.set_xticks(
        range(len(names)),
        [diagnosis.labels.get(name, name) for name in names],
        rotation=30,
        ha="right",
        rotation_mode="anchor",
        fontsize="small",
    )
    for axes in (upper, lower):
        axes.axvline(len(first.mean.by_layer) - 0.5, color="0.5", linewidth=0.8)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    handles, labels = upper.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    many = f"mean of {first.batches} mini-batches, bars: ± standard deviation"
    said = many if first.batches > 1 else "one mini-batch"
    write_png(
        figure, path, _titled(title, diagnosis, said), warning=_warning(diagnosis.premise, figure)
    )


def _parts(found: Comparison) -> list[Agreement]:
    """Of every layer, then of every parameter."""
    return [of.overall for of in (*found.by_layer.values(), *found.by_parameter.values())]


def draw_error_against_beta(diagnosis: Diagnosis, path: str | Path, title: str = "") -> None:
    """Error against β, log-log, with its slope, or where it levels off.

    Args:
        path: where to write the PNG.
        title: what was looked at.
    """
    curve = diagnosis.curve
    figure = Figure(figsize=(6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    points: list[tuple[float, float]] = []
    for index, name in enumerate(("states", "parameters")):
        slope, level = curve.slope(getattr(curve, name)), curve.level(getattr(curve, name))
        said = "slope undefined" if math.isnan(slope) else f"slope {slope:.2f}"
        said = said if level is None else f"levels off at {level:.2g}"
        errors = for_logarithm(getattr(curve, name))
        look: dict[str, Any] = {"color": COLOURS[index], "marker": MARKERS[index]}
        axes.plot(curve.beta, errors, ("-", "--")[index], label=f"{name}: {said}", **look)
        # Hollow where the free phase was not steady; the slope is that of the others.
        if not all(curve.steady):
            label = "hollow: not steady" if index == 1 else None
            look |= {"linestyle": "", "markerfacecolor": "white", "label": label}
            failed = [
                math.nan if steady else e for e, steady in zip(errors, curve.steady, strict=True)
            ]
            axes.plot(curve.beta, failed, **look)
        points += [(b, e) for b, e in zip(curve.beta, errors, strict=True) if e > 0]
    axes.set_xscale("log")
    if points:
        axes.set_yscale("log")
        order = diagnosis.conditions.points
        # Below the data, so that its slope can be told from theirs.
        anchor = 0.4 * min(e / b**order for b, e in points)
        theory = [anchor * b**order for b in curve.beta]
        if max(theory) > 1e-3 * min(e for _, e in points):
            label = f"theory for exact models: ∝ {beta_power(order)}"
            axes.plot(curve.beta, theory, ":", color="0.45", label=label)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("β")
    axes.set_ylabel("relative error")
    axes.grid(alpha=0.3)
    axes.legend()
    said = _titled(title, diagnosis, "η = 0, first mini-batch")
    write_png(figure, path, said, warning=_warning(diagnosis.premise, figure))


def draw_sweep(cells: Sequence[Cell], path: str | Path, title: str = "") -> None:
    """Heat maps of the relative error: a row for states, one for parameters.

    The first setting of the grid runs down, the second to the right, and a third over the columns.

    Args:
        path: where to write the PNG.
        title: what was looked at.
    """
    names = list(cells[0].settings)
    values = [list(dict.fromkeys(cell.settings[name] for cell in cells)) for name in names]
    down, right, maps = (*values, *[[None]] * (3 - len(values)))
    shape = (len(down), len(right), len(maps))
    means = [cell.average.mean for cell in cells]
    holds = np.reshape([mean.premise.holds for mean in means], shape)
    errors = {
        what: np.reshape([getattr(mean, what).overall.relative_error for mean in means], shape)
        for what in ("states", "parameters")
    }
    shown = [e for of in errors.values() for e in of.flat if 0 < e < math.inf]
    norm = LogNorm(min(shown), max(max(shown), 1.1 * min(shown))) if shown else None
    width = 2.0 + len(maps) * max(2.4, 0.9 * len(right))
    height = 1.9 + 2 * max(1.1, 0.5 * len(down))
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(2, len(maps), squeeze=False, sharex=True, sharey=True)
    for row, (what, of) in zip(grid, errors.items(), strict=True):
        row[0].set_ylabel(_SYMBOLS[names[0]])
        for column, third in enumerate(maps):
            axes: Axes = row[column]
            axes.imshow(of[..., column], norm=norm, cmap=_COLOURS, aspect="auto")
            for (i, j), error in np.ndenumerate(of[..., column]):
                dark = norm is not None and error > 0 and norm(error) > 0.55
                said = f"{error:.2g}" if holds[i, j, column] else f"({error:.2g})"
                look: dict[str, Any] = {"color": "white" if dark else "black", "fontsize": "small"}
                axes.text(j, i, said, ha="center", va="center", **look)
            axes.set_yticks(range(len(down)), [f"{value:g}" for value in down])
            axes.set_xticks([])
            if len(names) > 1:
                axes.set_xticks(range(len(right)), [f"{value:g}" for value in right])
                grid[1, column].set_xlabel(_SYMBOLS[names[1]])
            suffix = "" if third is None else f", {_SYMBOLS[names[2]]} = {third:g}"
            axes.set_title(f"{what}{suffix}", fontsize="medium")
    if norm is not None:
        scale = ScalarMappable(norm, _COLOURS)
        bar = figure.colorbar(scale, ax=grid, label="relative error", shrink=0.9)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if max(shown) < 30 * min(shown):
            decade = max(shown) > 3 * min(shown)
            subs = (2, 3, 5) if decade else (1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)
            bar.ax.yaxis.set_minor_locator(LogLocator(subs=subs))
            bar.ax.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    failed = [mean.premise for mean in means if not mean.premise.holds]
    # Which units, and how many, is different at every point.
    why = dict.fromkeys(
        _head(problem).partition(",")[0] for of in failed for problem in of.problems
    )
    brackets = f"PREMISE FAILS in {len(failed)} of {len(cells)}, in brackets:\n"
    write_png(figure, path, title, warning=brackets + "\n".join(why) if failed else "")


def _broken(name: str) -> str:
    """In two lines, where it would be longer than a row is high."""
    return name.replace(" of ", "\nof ", 1)


def _titled(title: str, diagnosis: Diagnosis, said: str) -> str:
    """What was looked at, what kind of model it is, and what is shown."""
    alone = "only the total is to agree, no single step" * diagnosis.kind.in_turn
    return "\n".join(filter(None, (title, diagnosis.kind.said, alone, said)))


def _warning(premise: Premise, figure: Figure) -> str:
    """What the titles say of a premise that fails; nothing where it holds."""
    room = int(11.5 * figure.get_figwidth())
    heads = (fill(_head(problem), room) for problem in premise.problems)
    return "PREMISE FAILS:\n" + "\n".join(heads) if premise.problems else ""


def _head(problem: str) -> str:
    return problem.partition(":")[0]
