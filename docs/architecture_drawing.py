"""Draws who imports whom, from the code: the rooms bottom up, an arrow to what is imported."""

from pathlib import Path

import architecture
from matplotlib.figure import Figure


def draw(path: Path) -> None:
    """The picture, as SVG."""
    order, below = architecture.arrows()
    direct = architecture.without_detours(below)
    # As high as the longest way down; side by side in the middle of what each leads to.
    height: dict[str, int] = {}
    for room in order:
        height[room] = 1 + max((height[to] for to in direct[room]), default=-1)
    rows = [[room for room in order if height[room] == h] for h in range(max(height.values()) + 1)]
    place: dict[str, float] = {}
    for row in rows:

        def middle(room: str) -> float:
            return sum(place[to] for to in direct[room]) / max(len(direct[room]), 1)

        for i, room in enumerate(sorted(row, key=middle)):
            place[room] = i - (len(row) - 1) / 2

    figure = Figure(figsize=(8, 0.75 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for room, to in direct.items():
        for other in to:
            axes.annotate(
                "",
                (place[other], height[other] + 0.2),
                (place[room], height[room] - 0.2),
                arrowprops={"arrowstyle": "->", "color": "0.6", "shrinkA": 0, "shrinkB": 0},
            )
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "#0072b2"}
    for room in order:
        axes.text(place[room], height[room], room, ha="center", va="center", bbox=box)
    widest = max(len(row) for row in rows)
    axes.set_xlim(-widest / 2, widest / 2)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_axis_off()
    figure.savefig(path, metadata={"Date": None})
