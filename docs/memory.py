"""Draw docs/memory.png: what a mini-batch takes in memory, against the steps of the free phase.

EP keeps two states, however many steps lead to them; BPTT keeps every step it goes back through.
Each point is the median of three processes that did nothing else::

    python docs/memory.py
"""

import statistics
from pathlib import Path

from matplotlib.figure import Figure

from eqprop.pictures.style import COLOURS, MARKERS, write_png
from eqprop.runs.memory import batch_memory
from eqprop.settings.presets import preset

STEPS = (50, 100, 200, 400, 800)
PROCESSES = 3
NETWORK = {"nudging": "symmetric"}


def main() -> None:
    """Measure, print and draw."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for index, estimator in enumerate(("ep", "bptt")):
        taken = []
        for steps in STEPS:
            changes = {"estimator": estimator, "free_steps": steps}
            # All of them, not the last K alone.
            changes |= {"nudged_steps": steps} if estimator == "bptt" else {}
            experiment = preset("p-1h").override({**NETWORK, **changes})
            found = [batch_memory("p-1h", experiment)["extra_mib"] for _ in range(PROCESSES)]
            taken.append(statistics.median(found))
            print(f"{estimator:4} T = {steps:3}  {taken[-1]:7.1f} MiB  {found}", flush=True)
        label = {"ep": "EP, K = 10", "bptt": "BPTT through all T steps"}[estimator]
        axes.plot(STEPS, taken, MARKERS[index] + "-", color=COLOURS[index], label=label)
    axes.set_xlabel("T, steps of the free phase")
    axes.set_ylabel("peak memory beyond\nwhat was there before (MiB)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    write_png(figure, Path(__file__).parent / "memory.png")


if __name__ == "__main__":
    main()
