"""Draws the two phases: a neuron in its energy, and a network over steps.

::

    python docs/two_phases.py FILE.svg
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import eqprop

FREE, NUDGED, TARGET = "#0072b2", "#d55e00", "#555555"


def draw(path: Path) -> None:
    """The picture, as SVG; its letters are the reader's own."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    energy, course = figure.subplots(1, 2, width_ratios=(1, 1.5))

    # One neuron that an input puts at 0.7, and a target that pulls it to 0.2.
    rest, target, beta = 0.7, 0.2, 0.6
    nudged = (rest + beta * target) / (1 + beta)
    s = np.linspace(0, 1.0, 200)
    free_energy = 0.5 * (s - rest) ** 2
    nudged_energy = free_energy + beta * 0.5 * (s - target) ** 2
    energy.plot(s, free_energy, color=FREE, label="$E$")
    energy.plot(s, nudged_energy, color=NUDGED, label="$E + \\beta\\,\\ell$")
    energy.plot([rest], [0], "o", color=FREE)
    energy.plot([nudged], [beta / (1 + beta) * 0.5 * (rest - target) ** 2], "o", color=NUDGED)
    energy.annotate("$s_*$", (rest, 0), (rest + 0.04, 0.012), color=FREE)
    energy.annotate(
        "$s_*^\\beta$",
        (nudged, beta / (1 + beta) * 0.5 * (rest - target) ** 2),
        (nudged - 0.09, 0.075),
        color=NUDGED,
    )
    energy.axvline(target, linestyle=":", color=TARGET)
    energy.annotate("target $y$", (target, 0.33), (target + 0.02, 0.33), color=TARGET)
    energy.set_xlabel("state $s$")
    energy.set_ylabel("energy")
    energy.set_ylim(-0.02, 0.36)
    energy.set_yticks([])
    energy.legend(loc="upper right", frameon=False)
    energy.set_title("one neuron", fontsize="medium")

    # A network of the library, nudged from where it rests.
    torch.manual_seed(3)
    model = eqprop.RealTimeNetwork(eqprop.dense(64, 32, 32, 10), epsilon=0.2)
    data = eqprop.load_dataset("digits")
    x, labels = data.train.images[:1], data.train.labels[:1]
    nudge = eqprop.Nudge(eqprop.SquaredError(), eqprop.one_hot(labels, 10), 0.5)
    T, K = 100, 80
    with torch.no_grad():
        drive, start = model.drive(x), model.initial_state(x)
        free = [s for _, s in eqprop.transitions(model, drive, start, T)]
        after = [s for _, s in eqprop.transitions(model, drive, free[-1], K, nudge=nudge)]
    names = ("hidden layer 1", "hidden layer 2", "output layer")
    for layer, name in enumerate(names):
        states = torch.stack([state[layer][0] for state in (*free, *after)])
        moved = (after[-1][layer] - free[-1][layer])[0].abs()
        unit = int(labels[0]) if layer == 2 else int(moved.argmax())
        ended = free[-1][layer][0, unit].item()
        (line,) = course.plot(range(1, T + K + 1), states[:, unit], label=name)
        course.plot([T, T + K], [ended, ended], ":", color=line.get_color(), linewidth=1)
    course.axvspan(0, T, color=FREE, alpha=0.07, linewidth=0)
    course.axvspan(T, T + K, color=NUDGED, alpha=0.09, linewidth=0)
    top = course.get_ylim()[1] * 1.12
    course.set_ylim(top=top)
    course.set_xlim(0, T + K)
    course.text(1, top * 0.93, "free phase, $T$ steps", color=FREE)
    course.text(T + 1, top * 0.93, "nudged phase, $K$ steps", color=NUDGED)
    course.set_xlabel("step")
    course.set_ylabel("state of a unit")
    course.legend(loc="lower right", frameon=False, fontsize="small")
    course.set_title(
        "a network: what moves away from the dots is what is learnt", fontsize="medium"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
