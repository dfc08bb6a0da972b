"""Pictures of the theorem, legible in grey and for the colour-blind.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/); whatever a colour tells, a
marker, a hatch or a line style tells too.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from eqprop.agreement import Agreements
from eqprop.drawing import write_png
from eqprop.theorem import Cell, Diagnosis, Trace

__all__ = ["draw_error_against_beta", "draw_layers", "draw_processes", "draw_sweep"]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++")
_NAMES = {"beta": "β", "free_steps": "T", "nudged_steps": "K"}


def draw_processes(diagnosis: Diagnosis, what: str, title: str, path: Path) -> None:
    """EP solid and −BPTT dashed, a row per layer or weight, a column per η.

    Args:
        what: ``states`` or ``parameters``.
        title: what was looked at.
        path: where to write the PNG.
    """
    traces: Sequence[Trace] = getattr(diagnosis, what)
    rows, columns = len(traces), len(diagnosis.etas)
    figure = Figure(figsize=(1.2 + 3.3 * columns, 1.5 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey="row", squeeze=False)
    for row, trace in enumerate(traces):
        for column, eta in enumerate(diagnosis.etas):
            axes: Axes = grid[row, column]
            _draw_trace(axes, trace, column)
            if row == 0:
                axes.set_title("η = 0" if eta == 0 else f"η = {eta:g}", fontsize="medium")
            if row == rows - 1:
                axes.set_xlabel("step t of the nudged phase")
            if column == 0:
                axes.set_ylabel(trace.name.replace("connections.", "connection "), fontsize="small")
        _fit_height(grid[row, 0], trace)
    ep, bptt = (
        ("$\\Delta_s$", "$\\nabla_s$") if what == "states" else ("$\\Delta_θ$", "$\\nabla_θ$")
    )
    figure.legend(
        handles=[
            Line2D([], [], color="0.2", label=f"EP, {ep}(t)"),
            Line2D([], [], color="0.2", linestyle="--", label=f"−BPTT, −{bptt}(t)"),
        ],
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    units = "neurons of every layer" if what == "states" else "synapses of every weight"
    _title(figure, f"{title}\nrandomly drawn {units}", diagnosis, wide=columns > 1)
    write_png(figure, path)


def _draw_trace(axes: Axes, trace: Trace, column: int) -> None:
    steps = range(len(trace.bptt))
    every = max(1, len(steps) // 8)
    for index in range(trace.bptt.shape[1]):
        colour, marker = _COLOURS[index], _MARKERS[index]
        axes.plot(
            steps,
            trace.ep[column][:, index].tolist(),
            color=colour,
            linewidth=1.3,
            marker=marker,
            markersize=4,
            markevery=(index * every // 3, every),
        )
        # Dark and above, else the dashes vanish into the line that they should lie on.
        axes.plot(
            steps,
            trace.bptt[:, index].tolist(),
            color=colour,
            linewidth=2.6,
            linestyle=(0, (2, 2)),
            alpha=0.75,
        )
    axes.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    axes.grid(alpha=0.25)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
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


def draw_layers(diagnosis: Diagnosis, title: str, path: Path) -> None:
    """The relative error and the agreement in sign, per layer and per parameter, a bar per η."""
    first = diagnosis.by_eta[0].mean
    names = [*first.by_layer, *first.by_parameter]
    figure = Figure(figsize=(max(6.5, 2.5 + 0.85 * len(names)), 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    width = 0.8 / len(diagnosis.etas)
    smallest = math.inf
    for index, (eta, found) in enumerate(zip(diagnosis.etas, diagnosis.by_eta, strict=True)):
        mean = _overall({**found.mean.by_layer, **found.mean.by_parameter})
        spread = _overall({**found.spread.by_layer, **found.spread.by_parameter})
        places = [
            place + (index - (len(diagnosis.etas) - 1) / 2) * width for place in range(len(names))
        ]
        style: dict[str, Any] = {
            "width": width,
            "color": _COLOURS[index],
            "hatch": _HATCHES[index],
            "edgecolor": "white",
            "label": f"η = {eta:g}",
        }
        bars: dict[str, Any] = {"ecolor": "0.15", "capsize": 3}
        errors = [of.relative_error for of in mean]
        smallest = min([smallest, *(e for e in errors if e > 0)])
        several = found.batches > 1
        upper.bar(
            places,
            [e if 0 < e < math.inf else math.nan for e in errors],
            yerr=[of.relative_error for of in spread] if several else None,
            **style,
            error_kw=bars,
        )
        lower.bar(
            places,
            [100 * of.sign_agreement for of in mean],
            yerr=[100 * of.sign_agreement for of in spread] if several else None,
            **style,
            error_kw=bars,
        )
    if smallest < math.inf:
        upper.set_yscale("log")
    upper.yaxis.set_minor_formatter(NullFormatter())
    if smallest < math.inf:
        upper.set_ylim(bottom=10 ** math.floor(math.log10(smallest / 1.5)))
    upper.axvline(len(first.by_layer) - 0.5, color="0.5", linewidth=0.8)
    lower.axvline(len(first.by_layer) - 0.5, color="0.5", linewidth=0.8)
    upper.set_ylabel("relative error")
    lower.set_ylabel("equal signs (%)")
    lower.set_ylim(0, 105)
    lower.set_xticks(
        range(len(names)),
        [name.replace("connections.", "connection ") for name in names],
        rotation=30,
        ha="right",
        rotation_mode="anchor",
        fontsize="small",
    )
    for axes in (upper, lower):
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    handles, labels = upper.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    batches = diagnosis.by_eta[0].batches
    said = f"mean of {batches} mini-batches, bars: ± standard deviation" if batches > 1 else (
        "one mini-batch"
    )  # fmt: skip
    _title(figure, f"{title}\n{said}", diagnosis)
    write_png(figure, path)


def _overall(found: Mapping[str, Agreements]) -> list[Any]:
    return [of.overall for of in found.values()]


def draw_error_against_beta(diagnosis: Diagnosis, title: str, path: Path) -> None:
    """Error against β, log-log, with its slope."""
    curve = diagnosis.curve
    figure = Figure(figsize=(6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, errors) in enumerate(
        (("states", curve.states), ("parameters", curve.parameters))
    ):
        slope = curve.slope(errors)
        said = "slope undefined" if math.isnan(slope) else f"slope {slope:.2f}"
        colour, marker = _COLOURS[index], _MARKERS[index]
        drawn = [e if 0 < e < math.inf else math.nan for e in errors]
        axes.plot(
            curve.beta,
            drawn,
            ("-", "--")[index],
            color=colour,
            marker=marker,
            label=f"{name}: {said}",
        )
        # Hollow where the premise fails; the slope is that of the others.
        failed = [
            (beta, e)
            for beta, e, holds in zip(curve.beta, drawn, curve.holds, strict=True)
            if not holds
        ]
        if failed:
            label = "hollow: the premise fails" if index == 1 else None
            x, y = zip(*failed, strict=True)
            axes.plot(
                x,
                y,
                linestyle="",
                marker=marker,
                color=colour,
                markerfacecolor="white",
                label=label,
            )
    order = 2 if diagnosis.settings.nudging == "symmetric" else 1
    shown = [e for e in (*curve.states, *curve.parameters) if 0 < e < math.inf]
    if shown:
        # Below the data, so that its slope can be told from theirs.
        anchor = min(
            e / b**order
            for errors in (curve.states, curve.parameters)
            for b, e in zip(curve.beta, errors, strict=True)
            if 0 < e < math.inf
        )
        theory = [0.4 * anchor * b**order for b in curve.beta]
        if max(theory) > 1e-3 * min(shown):
            label = f"theory for exact models: ∝ β{'²' if order == 2 else ''}"
            axes.plot(curve.beta, theory, ":", color="0.45", label=label)
    axes.set_xscale("log")
    if shown:
        axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("β")
    axes.set_ylabel("relative error")
    axes.grid(alpha=0.3)
    axes.legend()
    _title(figure, f"{title}\nη = 0, first mini-batch", diagnosis)
    write_png(figure, path)


def draw_sweep(cells: Sequence[Cell], title: str, path: Path) -> None:
    """Heat maps of the relative error: a row for states, one for parameters.

    The first setting of the grid runs down, the second to the right, and a third over the columns.
    """
    names = list(cells[0].settings)
    values = [list(dict.fromkeys(cell.settings[name] for cell in cells)) for name in names]
    down = values[0]
    right = values[1] if len(values) > 1 else [None]
    maps = values[2] if len(values) > 2 else [None]
    errors = {
        what: [getattr(cell.average.mean, what).overall.relative_error for cell in cells]
        for what in ("states", "parameters")
    }
    shown = [e for of in errors.values() for e in of if 0 < e < math.inf]
    norm = LogNorm(min(shown), max(max(shown), 1.1 * min(shown))) if shown else None
    figure = Figure(
        figsize=(
            2.0 + len(maps) * max(2.4, 0.9 * len(right)),
            1.9 + 2 * max(1.1, 0.5 * len(down)),
        ),
        layout="constrained",
    )
    grid = figure.subplots(2, len(maps), squeeze=False, sharex=True, sharey=True)
    image = None
    for row, (what, of) in enumerate(errors.items()):
        for column, third in enumerate(maps):
            axes: Axes = grid[row, column]
            table = [
                [of[(i * len(right) + j) * len(maps) + column] for j in range(len(right))]
                for i in range(len(down))
            ]
            # Light is small: legible in grey, as cividis rises evenly in brightness.
            image = axes.imshow(table, norm=norm, cmap="cividis_r", aspect="auto")
            for i, line in enumerate(table):
                for j, error in enumerate(line):
                    dark = norm is not None and error > 0 and norm(error) > 0.55
                    holds = cells[
                        (i * len(right) + j) * len(maps) + column
                    ].average.mean.premise.holds
                    axes.text(
                        j,
                        i,
                        f"{error:.2g}" if holds else f"({error:.2g})",
                        ha="center",
                        va="center",
                        color="white" if dark else "black",
                        fontsize="small",
                    )
            axes.set_yticks(range(len(down)), [f"{value:g}" for value in down])
            if len(names) > 1:
                axes.set_xticks(range(len(right)), [f"{value:g}" for value in right])
            else:
                axes.set_xticks([])
            if len(names) > 1 and row == 1:
                axes.set_xlabel(_NAMES[names[1]])
            if column == 0:
                axes.set_ylabel(_NAMES[names[0]])
            suffix = "" if third is None else f", {_NAMES[names[2]]} = {third:g}"
            axes.set_title(f"{what}{suffix}", fontsize="medium")
    if image is not None and norm is not None:
        bar = figure.colorbar(image, ax=grid, label="relative error", shrink=0.9)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if norm.vmax and norm.vmin and norm.vmax < 30 * norm.vmin:
            subs = (2, 3, 5) if norm.vmax > 3 * norm.vmin else (1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)
            bar.ax.yaxis.set_minor_locator(LogLocator(subs=subs))
            bar.ax.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    failed = [cell for cell in cells if not cell.average.mean.premise.holds]
    if failed:
        title += (
            f"\nPREMISE FAILS in {len(failed)} of {len(cells)}, in brackets:"
            "\nthe free phase is not steady there"
        )
    figure.suptitle(
        title, fontsize="medium", color="#a00000" if failed else "black", parse_math=False
    )
    write_png(figure, path)


def _title(figure: Figure, title: str, diagnosis: Diagnosis, *, wide: bool = False) -> None:
    problems = diagnosis.premise.problems
    if problems:
        said = "; ".join(problem.partition(":")[0] for problem in problems)
        title += f"\nPREMISE FAILS: {said}" if wide else "\nPREMISE FAILS:\n" + "\n".join(
            problem.partition(":")[0] for problem in problems
        )  # fmt: skip
    figure.suptitle(
        title, fontsize="medium", color="#a00000" if problems else "black", parse_math=False
    )
