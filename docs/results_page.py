"""The table of every run that is kept under ``results/``, from its settings and metrics."""

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from eqprop.settings import PRESETS, Experiment

RESULTS = Path(__file__).parents[1] / "results"

# What says how a run was made, and not what was made.
_ASIDE = {"seed", "threads", "device"}


def _runs() -> dict[tuple[str, tuple[tuple[str, Any], ...]], list[dict[str, Any]]]:
    """The runs by what they are: a preset, and the settings that are others."""
    runs: dict[tuple[str, tuple[tuple[str, Any], ...]], list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(RESULTS.glob("*/config.json")):
        config = json.loads(file.read_text())
        experiment = Experiment.stored(config["experiment"])
        differing = {}
        if config["preset"] in PRESETS:
            differing = experiment.differences(PRESETS[config["preset"]].experiment)
        lines = file.with_name("metrics.jsonl").read_text().splitlines()
        run = {
            "seed": experiment.seed,
            "epochs": experiment.epochs,
            "metrics": [json.loads(line) for line in lines],
            "environment": config["environment"],
        }
        others = tuple((k, str(v)) for k, v in differing.items() if k not in _ASIDE)
        runs[config["preset"], others].append(run)
    return runs


def _over_seeds(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def page() -> str:
    """A line per kind of run."""
    lines = [
        "| preset | other settings | seeds | epochs | test error | train error | published, EP |",
        "|---|---|---|---|---|---|---|",
    ]
    runs = _runs()
    for (name, others), those in runs.items():
        last = [run["metrics"][-1] for run in those]
        epochs = sorted(
            {f"{m['epoch']} of {r['epochs']}" for m, r in zip(last, those, strict=True)}
        )
        changed = ", ".join(f"`{key} = {value}`" for key, value in others).replace("|", "\\|")
        published = PRESETS[name].published_ep if name in PRESETS else ""
        lines.append(
            f"| `{name}` | {changed} | {' '.join(str(run['seed']) for run in those)} "
            f"| {', '.join(epochs)} | {_over_seeds([m['test_error'] for m in last])} "
            f"| {_over_seeds([m['train_error'] for m in last])} | {published} |"
        )
    made = [run["environment"] for those in runs.values() for run in those]
    versions, machines = ({on[key] for on in made} for key in ("torch", "processor"))
    lines += [
        "",
        f"torch {', '.join(sorted(versions))}; {', '.join(sorted(machines))}. Test and train error "
        "in %, ± is the standard deviation over seeds. What is not named is as in the preset.",
    ]
    return "\n".join(lines) + "\n"
