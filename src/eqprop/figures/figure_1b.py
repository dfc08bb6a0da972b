r"""``fig-1b``: Theorem 1, step by step: the updates of EP are the gradients of BPTT.

A column per network before training, on one mini-batch, in float64: in neurons Δ_s(t) and −∇_s(t),
in synapses Δ_θ(t) and −∇_θ(t), for t = 0 … K−1; see :mod:`eqprop.analysis.processes`. What is to be
expected of which:

- real time with η = 0: F = ∂Φ/∂s, and the error is that of a finite β, O(β);
- real time with η > 0 (C-EP): one of O(η/β) more;
- prototypical and convolutional: σ(∂Φ/∂s) is the gradient of no Φ, so the error levels off;
- untied weights: as far as the Jacobian is not symmetric.

Source: https://arxiv.org/abs/2005.04169, figure 1b; https://arxiv.org/abs/1905.13633, figures 2 to
4; https://arxiv.org/abs/2005.04168, appendix E.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, final

from eqprop import analysis, data, pictures, runs
from eqprop.figures.figure import Figure, Table
from eqprop.figures.run import PlannedRun, Run
from eqprop.registries import DATASETS
from eqprop.settings.fields import Settings, different, setting, whole
from eqprop.settings.presets import PRESETS
from eqprop.settings.theorem import THEOREM_PRESETS, TheoremSettings

__all__ = ["FIGURE_1B", "Figure1b", "Figure1bSettings"]

_Network = Literal["eb-1h", "c-ep-1h", "c-vf-1h", "eb-2h", "p-1h", "p-2h", "p-3h", "p-conv"]

_SAID = {
    "eb-1h": "real time, η = 0",
    "c-ep-1h": "real time, η > 0",
    "c-vf-1h": "real time, untied, η > 0",
    "eb-2h": "real time, two hidden layers",
    "p-1h": "prototypical",
    "p-2h": "prototypical, two hidden layers",
    "p-3h": "prototypical, three hidden layers",
    "p-conv": "convolutional",
}

_COLUMNS = {
    "network": "said",
    "error: neurons": "states_error",
    "synapses": "parameters_error",
    "equal signs (%)": "signs",
    "angle (°)": "angle",
    "premise": "premise",
}
_DETAILS = {"T": "T", "K": "K", "β": "beta", "η": "eta", "problems": "problems"}


@final
@dataclass(frozen=True, kw_only=True)
class Figure1bSettings(Settings):
    """Which networks to look at, and how.

    Raises:
        ConfigurationError: a setting outside what is allowed.
    """

    rows: tuple[_Network, ...] = setting(
        ("eb-1h", "c-ep-1h", "p-1h", "p-conv"),
        "which networks, by their presets of `eqprop theorem`",
        allowed=different("different networks", lambda _: True, lambda n: n > 0),
    )
    batch_size: int | None = setting(
        None, "training samples", allowed=whole(1), shown="20, as published; 1 with --quick"
    )
    seed: int = setting(0, "of the weights and of the mini-batch", allowed=whole(0))
    dataset: str = setting("mnist", "where from", choices=DATASETS, shown="mnist, as published")
    quick: bool = setting(False, "one training sample: a minute")

    @property
    def samples(self) -> int:
        """In the mini-batch."""
        return self.batch_size or (1 if self.quick else 20)


@final
class Figure1b(Figure[Figure1bSettings]):
    """EP and BPTT, step by step."""

    description = """\
Theorem 1: at every step of the nudged phase, EP's updates equal minus the gradients that
backpropagation through time has at the same step back from the end, in neurons and in synapses.
Nothing is trained: networks as they begin, one mini-batch of MNIST, float64.

  eqprop reproduce fig-1b                       as published, some minutes
  eqprop reproduce fig-1b --quick               one training sample, a minute
  eqprop reproduce fig-1b --rows eb-1h eb-2h    other networks
"""
    epilog = """\
The relative error is ‖EP + BPTT‖ / ‖BPTT‖ over all steps and units; the angle lies between the
total updates, over all weights. Where the premise fails, fig-1b.csv says why. See also `eqprop
theorem --help`, which looks at one network, or one of your own runs, closely.
"""
    settings = Figure1bSettings
    measured = "theorem"

    def runs(self, settings: Figure1bSettings) -> list[PlannedRun]:
        found = []
        for row in settings.rows:
            entry = THEOREM_PRESETS[row]
            assert entry.experiment is not None
            of, continual = entry.settings, row.startswith("c-")
            preset = row.replace("c-ep", "eb").replace("c-vf", "eb")
            changes = {
                **entry.experiment.differences(PRESETS[preset].experiment),
                "free_steps": of.free_steps,
                "nudged_steps": of.nudged_steps,
                "beta": of.beta,
                "batch_size": settings.samples,
                "seed": settings.seed,
                "dataset": settings.dataset,
            }
            if continual:
                rates = len(PRESETS[preset].experiment.learning_rates)
                changes |= {"estimator": "c-ep", "learning_rates": (of.eta[0],) * rates}
            found.append(PlannedRun(row, preset, changes, trained=False))
        return found

    def measure(self, run: PlannedRun, dataset: "data.Dataset") -> dict[str, Any]:
        """How well EP follows BPTT, and the processes of a few neurons and synapses.

        Raises:
            NonFiniteError: a state stopped being finite.
        """
        of = run.experiment
        # Weights are drawn in float32 anyhow, as they are for `eqprop theorem`.
        built = replace(of, dtype="float32")
        network = runs.build_network(built, dataset.input_shape, dataset.units)
        settings = TheoremSettings(
            free_steps=of.free_steps,
            nudged_steps=of.nudged_steps,
            beta=of.beta,
            batch_size=of.batch_size,
            seed=of.seed,
        )
        subject = runs.network_subject(network, runs.build_cost(of), dataset, settings)
        eta = of.learning_rates[0] if of.estimator == "c-ep" else 0.0
        diagnosis = analysis.diagnose(
            subject.model,
            subject.batches,
            free_steps=of.free_steps,
            nudged_steps=of.nudged_steps,
            beta=of.beta,
            eta=(eta,) if eta else (),
            betas=(),
            cost=subject.cost,
            seed=of.seed,
        )
        figures = analysis.to_json(diagnosis)
        found = figures["continual"][-1] if eta else figures
        layer, weight = diagnosis.states[-2:][0], diagnosis.parameters[-1]
        return {
            "T": of.free_steps,
            "K": of.nudged_steps,
            "beta": of.beta,
            "eta": eta,
            "states": found["overall"]["states"],
            "parameters": found["overall"]["parameters"],
            "angle": found["total_update_angle"],
            "residual": figures["residual"],
            "premise_holds": diagnosis.premise.holds,
            "problems": list(diagnosis.premise.problems),
            "processes": {
                what: {
                    "of": diagnosis.labels.get(trace.name, trace.name),
                    "ep": trace.ep[-1].tolist(),
                    "bptt": trace.bptt.tolist(),
                }
                for what, trace in (("neurons", layer), ("synapses", weight))
            },
        }

    def accepts(self, measured: Mapping[str, Any]) -> bool:
        try:
            return all(
                len(measured["processes"][what][of]) == measured["K"]
                for what in ("neurons", "synapses")
                for of in ("ep", "bptt")
            ) and {"states", "parameters", "angle", "premise_holds", "problems"} <= set(measured)
        except (KeyError, TypeError):
            return False

    def result(self, settings: Figure1bSettings, runs: Sequence[Run]) -> dict[str, Any]:
        return {"rows": [_row(run) for run in runs]}

    def tables(self, result: Mapping[str, Any]) -> list[Table]:
        return [Table(result["rows"], _COLUMNS, trailing=1, details=_DETAILS)]

    def draw(self, settings: Figure1bSettings, result: Mapping[str, Any], folder: Path) -> None:
        """A column per network: a few of its neurons above, of its synapses below."""
        from matplotlib.figure import Figure as Picture
        from matplotlib.lines import Line2D

        rows = [row for row in result["rows"] if row["processes"]]
        if not rows:
            return
        picture = Picture(figsize=(1.2 + 3.3 * len(rows), 6), layout="constrained")
        grid = picture.subplots(2, len(rows), squeeze=False, sharex="col")
        for above_and_below, row in zip(grid.T, rows, strict=True):
            above_and_below[0].set_title(
                f"{row['said']}\nT = {row['T']}, K = {row['K']}, β = {row['beta']:g}"
                + (f", η = {row['eta']:g}" if row["eta"] else ""),
                fontsize="medium",
                # Above what the axis says of its powers of ten.
                pad=16,
            )
            for axes, what, error in zip(
                above_and_below, ("neurons", "synapses"), ("states", "parameters"), strict=True
            ):
                process = row["processes"][what]
                pictures.draw_process(axes, process["ep"], process["bptt"])
                said = row[f"{error}_error"]
                said = "undefined" if said is None else f"{said:.2g}"
                axes.set_ylabel(
                    f"{process['of']}\n(relative error of all: {said})", fontsize="small"
                )
            above_and_below[1].set_xlabel("step t of the nudged phase")
        handles = [
            Line2D([], [], color="0.2", label="EP, Δ(t)"),
            Line2D([], [], color="0.2", linestyle="--", label="−BPTT, −∇(t)"),
        ]
        picture.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
        many = f"{settings.samples} training sample{'s' * (settings.samples > 1)}"
        title = f"Theorem 1 before training: {settings.dataset}, {many}, seed {settings.seed}"
        pictures.write_picture(picture, folder / "fig-1b", title)


FIGURE_1B = Figure1b()
"""The figure."""


def _row(run: Run) -> dict[str, Any]:
    found = run.measured or {}
    names = ("T", "K", "beta", "eta", "angle", "residual", "premise_holds", "processes")
    states, parameters = found.get("states") or {}, found.get("parameters") or {}
    sign = parameters.get("sign_agreement")
    holds = found.get("premise_holds")
    return {
        "name": run.name,
        "said": _SAID[run.name],
        **{name: found.get(name) for name in names},
        "states": states or None,
        "parameters": parameters or None,
        "states_error": states.get("relative_error"),
        "parameters_error": parameters.get("relative_error"),
        "signs": None if sign is None else 100 * sign,
        "premise": None if holds is None else "holds" if holds else "fails",
        "problems": "; ".join(found.get("problems", ())),
        "failed": run.failed,
    }
