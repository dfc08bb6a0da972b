"""``eqprop theorem``: compare EP with backpropagation through time, step by step.

It writes, into a new folder:

=====================================  =======================================================
``metrics.json``                       every figure, the settings, versions and hardware
``states.png``, ``parameters.png``     processes of a few neurons and synapses
``layers.png``                         error and signs per layer and parameter
``error-against-beta.png``             log-log, with the slope
``sweep.png``                          error over a grid of settings, if one was asked for
=====================================  =======================================================
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from eqprop import analysis, core, pictures, runs
from eqprop.cli.options import add_options, add_usual, given
from eqprop.cli.progress import Progress
from eqprop.cli.tables import columns
from eqprop.errors import ConfigurationError, Failure, UsageError
from eqprop.files import write_atomically
from eqprop.registries import ESTIMATORS
from eqprop.settings import CIRCLE, SWEPT, THEOREM_PRESETS, Experiment, TheoremSettings

__all__ = ["add", "run"]

_DESCRIPTION = """\
Compare EP with backpropagation through time at every step of the nudged phase, in neurons and
in synapses (Theorem 1), on a network before training or on the network of a run:

  eqprop theorem                                digits-eb: exact, no download, seconds
  eqprop theorem eb-1h                          as in the published figures, with MNIST
  eqprop theorem p-1h --batches 10              mean and spread over mini-batches
  eqprop theorem runs/mine                      a trained network, with the T, K and β of its run
  eqprop theorem c-vf-1h --angle 45             untied weights: the gradient is followed less well
  eqprop theorem c-vf-1h --angle 45 --estimator asym-ep       the same, followed exactly
  eqprop theorem digits-eb --estimator holomorphic-ep --points 6      N nudges of complex β
  eqprop theorem digits-eb --sweep beta=0.01,0.1 --sweep free-steps=40,80,200
  eqprop theorem eb-1h --settle 1e-6            with the least T and K that bring it to rest

Presets:
"""

_END = """\
Of EP's updates u and v, minus the gradients of BPTT, over all steps, samples and entries, the table
says: relative error, ‖u − v‖ / ‖v‖; cosine and angle between them; equal signs, the share of the
entries that have the same sign (of those that are mere rounding it says nothing). Then there is
the angle between the totals over all steps, of all weights: what an optimizer would see. A preset's
T, K and β are exacter than those of the training preset of that name; a run has those that it was
trained with, and is compared by the estimator that it has learnt by, if that has a nudged phase;
--estimator chooses another one.

The folder receives metrics.json, the processes (states.png, parameters.png), the error per layer
(layers.png), the error against β (error-against-beta.png) and that of a sweep (sweep.png).
All is computed in float64. For models of your own see eqprop.diagnose and help("eqprop.pictures").
"""

_FIRST = "digits-eb"
"""Exact, and without a download."""

_SYMBOLS = {"beta": "β", "free_steps": "T", "nudged_steps": "K"}


def add(commands: Any) -> None:
    """Declare the command."""
    presets = "".join(
        f"  {name:<9} {entry.description}: T = {entry.settings.free_steps}, "
        f"K = {entry.settings.nudged_steps}, β = {entry.settings.beta:g}\n"
        for name, entry in THEOREM_PRESETS.items()
    )
    parser = commands.add_parser(
        "theorem",
        help="compare EP with backpropagation through time, step by step",
        description=_DESCRIPTION + presets,
        epilog=_END,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "of",
        metavar="PRESET|RUN_DIR",
        nargs="?",
        default=_FIRST,
        help=f"a preset, or the folder of a run (default: {_FIRST})",
    )
    parser.add_argument(
        "--angle",
        type=float,
        metavar="DEGREES",
        help="untie the backward weights of a preset, about so far from the forward ones (0 to "
        "180; small layers are some degrees off, and the table says what they are at)",
    )
    parser.add_argument(
        "--before-training", action="store_true", help="of a run: its network as it began"
    )
    parser.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="SETTING=N,N,…",
        help="a grid of this setting's values; up to three times, for "
        f"{', '.join(name.replace('_', '-') for name in SWEPT)}",
    )
    add_usual(
        parser,
        out="new folder for the results (default: runs/theorem-PRESET-DATE-TIME)",
        json="the metrics",
    )
    add_options(parser, TheoremSettings, default="default: as in the preset or the run, else {}")


def run(options: argparse.Namespace) -> int:
    """Compare, print the figures and write them into a folder."""
    started = time.perf_counter()
    name, settings, experiment = _chosen(options)
    grid = _grid(options.sweep)
    if grid and settings.tolerance is None:
        # A point that cannot be is refused before anything is computed.
        _require_points(settings, grid)
    dynamics, settings = _dynamics(settings, "estimator" in given(options, TheoremSettings))
    if options.out is not None:
        runs.RunFolder(options.out).require_new()
    with runs.enough_memory(
        f"batches = {settings.batches}, batch_size = {settings.batch_size}", settings.device
    ):
        subject = _subject(options, settings, experiment)
        settings, settled, taken = _settle(subject, settings, given(options, TheoremSettings))
        _require_points(settings, grid)
    # As early as what can fail for want of data is done: to find out later would waste minutes.
    folder = options.out or runs.new_folder(f"theorem-{name}")
    with runs.RunFolder(folder).begun():
        diagnosis, swept = _compute(subject, settings, grid, dynamics)
        metrics = {
            # A folder's name may hold bytes that are no text.
            "of": name.encode(errors="replace").decode(),
            "trained": options.of not in THEOREM_PRESETS and not options.before_training,
            "settings": settings.to_json(),
            "network": None if experiment is None else experiment.to_json(),
            **({} if settled is None else {"settling": settled.to_json() | {"taken": taken}}),
            **analysis.to_json(diagnosis),
            **({"sweep": [analysis.cell_to_json(cell) for cell in swept]} if grid else {}),
            "environment": runs.environment(settings.threads, settings.device),
            "seconds": time.perf_counter() - started,
        }
        title = _title(metrics["of"], settings)
        _draw(diagnosis, swept, title, metrics["of"], folder)
        # Last: where it lies, everything else does.
        written = json.dumps(metrics, indent=2) + "\n"
        write_atomically(folder / "metrics.json", written.encode())
    if options.json:
        print(json.dumps(metrics))
        return 0
    if taken:
        print(taken)
    learns = "ep" if experiment is None else experiment.estimator
    # That of holomorphic EP has EP's own dynamics.
    circles = (learns == CIRCLE) is (settings.estimator == CIRCLE)
    if options.of not in THEOREM_PRESETS and not (
        circles and runs.nudged_dynamics(learns) is dynamics
    ):
        print(f"compared is {diagnosis.by}; the run learns by {learns}")
    many = f"{core.counted(settings.batches, 'mini-batch')} of {settings.batch_size}"
    print(f"{title}, {many}, float64")
    print(pictures.theorem_text(diagnosis, columns()), end="")
    if settings.tolerance is not None and not diagnosis.premise.steady:
        print(_finer(diagnosis.premise, settings.tolerance), end="")
    if swept:
        print(f"\n{pictures.sweep_text(swept, columns())}", end="")
    print(f"\neverything is in {folder}")
    return 0


def _chosen(options: argparse.Namespace) -> tuple[str, TheoremSettings, Experiment | None]:
    """What to call it, how to look, and the network with its data; none: the toy model."""
    changes = given(options, TheoremSettings)
    if "eta" in changes:
        # η = 0 is always there, to compare with.
        changes["eta"] = tuple(eta for eta in changes["eta"] if eta)
    elif changes.get("estimator") == CIRCLE:
        changes["eta"] = ()
    entry, path = THEOREM_PRESETS.get(options.of), Path(options.of)
    if entry is not None:
        name, settings, experiment = options.of, entry.settings, entry.experiment
    elif path.is_dir():
        name, experiment = path.resolve().name, runs.RunFolder(path).read_config().experiment
        settings = TheoremSettings.of_run(experiment)
    else:
        raise UsageError(
            f"{options.of}: expected one of {', '.join(THEOREM_PRESETS)}, or the folder of a run"
        )
    if entry is not None and options.before_training:
        raise UsageError(
            "--before-training: expected it with the folder of a run; "
            "the network of a preset is not trained"
        )
    if options.angle is not None:
        if entry is None or experiment is None:
            raise UsageError(
                "--angle: expected it with the preset of a layered network; the weights of "
                f"{options.of} are what they are"
            )
        experiment = experiment.override({"weight_angle": options.angle})
        name = f"{name}-angle-{options.angle:g}"
    return name, settings.override(_provisional(settings, changes)), experiment


def _dynamics(settings: TheoremSettings, explicit: bool) -> tuple[Any, TheoremSettings]:
    """How the nudged phase goes, of the estimator that was asked for or of EP for one without.

    Raises:
        UsageError: it was asked for, and has none that can be looked at step by step.
    """
    found = runs.nudged_dynamics(settings.estimator)
    if found is None and explicit:
        known = [name for name in ESTIMATORS if runs.nudged_dynamics(name) is not None]
        raise UsageError(
            f"--estimator {settings.estimator}: expected one whose nudged phase can be looked at "
            f"step by step, among {', '.join(known)}"
        )
    if found is None:
        settings = settings.override({"estimator": "ep"})
        found = runs.nudged_dynamics("ep")
    return found, settings


def _provisional(settings: TheoremSettings, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes, and what goes with them until T and K are chosen by a tolerance."""
    if changes.get("tolerance") is None:
        return dict(changes)
    # A short T that is given is no reason to look no further.
    asked = (changes.get("free_steps", 0), changes.get("nudged_steps", 0))
    partner = {"most_steps": 3 * max(settings.free_steps, *asked)}
    if "free_steps" in changes:
        partner["nudged_steps"] = 1
    elif "nudged_steps" in changes:
        partner["free_steps"] = max(settings.free_steps, changes["nudged_steps"])
    return {**partner, **changes}


def _settle(
    subject: runs.Subject, settings: TheoremSettings, explicit: Mapping[str, Any]
) -> tuple[TheoremSettings, analysis.SettlingSteps | None, str]:
    """The settings with the T and K that settle the mini-batches, if a tolerance was given.

    BPTT supposes that the last K of the free steps find the network at rest, so that T is the sum
    of the least T and K.

    Args:
        explicit: the settings that the command line names: a T or K among them stays.

    Returns:
        The settings, how many steps the samples take, and what was taken, in words.

    Raises:
        Failure: no T or no K settles enough of the samples.
        UsageError: the T that was given is less than the least K.
    """
    if settings.tolerance is None:
        return settings, None, ""
    with Progress(subject.settling_ticks(settings), "phase") as tick:
        found = subject.settling(settings, settings.tolerance, tick)
    asked = explicit.get("free_steps"), explicit.get("nudged_steps")
    T, K = asked
    said = [found.said]
    if K is None:
        K = found.nudged_steps
    if T is None and K is not None and found.free_steps is not None:
        T = found.free_steps + K
        said.append(
            f"T = {found.free_steps} + {K} = {T} here, as the last K free steps are to be at rest"
        )
    if T is None or K is None:
        raise Failure(
            f"settle = {settings.tolerance:g}: {found.said} (--most-steps), or a T and a K of your "
            "own (--free-steps, --nudged-steps)"
        )
    if K > T:
        raise UsageError(
            f"--free-steps {T}: expected at least K = {K}, the least that settles the nudged "
            "phase, or a K of your own (--nudged-steps)"
        )
    if any(asked):
        said.append(f"as given: {found.said_of(*asked)}")
    return settings.override({"free_steps": T, "nudged_steps": K}), found, "; ".join(said)


def _finer(premise: analysis.Premise, tolerance: float) -> str:
    """A line on the tolerance that would have done, if moves fall as it does; or nothing."""
    pairs = [*zip(premise.residual, premise.nudged_step, strict=True)]
    pairs += zip(premise.moved, premise.nudged, strict=True)
    shares = [free / (premise.limit * nudged) for free, nudged in pairs if nudged]
    beyond = max(shares, default=0.0)
    if premise.oscillating or not 1 < beyond < math.inf:
        return ""
    finer = 10 ** math.floor(math.log10(tolerance / beyond))
    return (
        f"settled to {tolerance:g}, the free phase still moves by more than the nudge leaves room "
        f"for, as the weaker it is, the less it moves: try --settle {finer:.0e}\n"
    )


def _subject(
    options: argparse.Namespace, settings: TheoremSettings, experiment: Experiment | None
) -> runs.Subject:
    """The model to look at, and its mini-batches."""
    if experiment is None:
        return runs.toy_subject(settings)
    device = {"device": settings.device}
    if options.of in THEOREM_PRESETS:
        # Weights are drawn in float32 anyhow, and data in float64 would take twice the memory.
        built = experiment.override({**device, "seed": settings.seed, "dtype": "float32"})
        dataset = runs.build_data(built, options.data_dir)
        network = runs.build_network(built, dataset.input_shape, dataset.units)
    else:
        opened = runs.open_run(
            Path(options.of),
            device,
            data_dir=options.data_dir,
            before_training=options.before_training,
        )
        network, dataset = opened.network, opened.data
    return runs.network_subject(network, runs.build_cost(experiment), dataset, settings)


def _grid(sweeps: Sequence[str]) -> dict[str, list[Any]]:
    """The values of every swept setting: ``["beta=0.01,0.1"]`` gives ``{"beta": [0.01, 0.1]}``."""
    known = [name.replace("_", "-") for name in SWEPT]
    grid: dict[str, list[Any]] = {}
    for sweep in sweeps:
        word, separator, values = sweep.partition("=")
        name = word.replace("-", "_")
        if word not in known or not separator:
            raise UsageError(
                f"--sweep {sweep}: expected SETTING=N,N,… with SETTING one of {', '.join(known)}"
            )
        if name in grid:
            raise UsageError(f"--sweep {sweep}: expected {word} once, got it twice")
        try:
            parsed = [TheoremSettings.read(name, value) for value in values.split(",")]
        except ConfigurationError as error:
            raise UsageError(f"--sweep {sweep}: {error}") from None
        if len(set(parsed)) < len(parsed):
            raise UsageError(f"--sweep {sweep}: expected every value once")
        grid[name] = parsed
    return grid


def _require_points(settings: TheoremSettings, grid: Mapping[str, Sequence[Any]]) -> None:
    """Refuse a grid with a point that cannot be."""
    for values in product(*grid.values()):
        settings.override(dict(zip(grid, values, strict=True)))


def _compute(
    subject: runs.Subject,
    settings: TheoremSettings,
    grid: Mapping[str, Sequence[float]],
    dynamics: Any,
) -> tuple[analysis.Diagnosis, list[analysis.Cell]]:
    count = settings.batches
    processes = analysis.ticks(count, len(settings.eta), len(settings.curve))
    if grid:
        processes += analysis.sweep_ticks(count, grid)
    taking = f"nudged_steps = {settings.nudged_steps}, batch_size = {settings.batch_size}"
    looked_at = subject.model, subject.batches
    with (
        Progress(processes, "process") as tick,
        runs.enough_memory(taking, settings.device),
    ):
        conditions: dict[str, Any] = {
            "free_steps": settings.free_steps,
            "nudged_steps": settings.nudged_steps,
            "beta": settings.beta,
            "nudging": settings.nudges,
            "cost": subject.cost,
            "tick": tick,
            "dynamics": dynamics,
        }
        chosen = {"eta": settings.eta, "betas": settings.curve, "seed": settings.seed}
        diagnosis = analysis.diagnose(*looked_at, **chosen, **conditions)
        return diagnosis, analysis.sweep(*looked_at, grid, **conditions) if grid else []


def _title(name: str, settings: TheoremSettings) -> str:
    by = "" if settings.estimator in ("ep", "c-ep") else f", {settings.estimator}"
    nudges = settings.nudges
    nudged = {"one-sided": "", "symmetric": ", symmetric"}.get(str(nudges), f", N = {nudges}")
    return (
        f"{name}{by}: T = {settings.free_steps}, K = {settings.nudged_steps}, "
        f"β = {settings.beta:g}{nudged}"
    )


def _draw(
    diagnosis: analysis.Diagnosis,
    swept: Sequence[analysis.Cell],
    title: str,
    name: str,
    folder: Path,
) -> None:
    for what in ("states", "parameters"):
        if getattr(diagnosis, what):
            pictures.draw_processes(diagnosis, what, folder / f"{what}.png", title)
    pictures.draw_layers(diagnosis, folder / "layers.png", title)
    settings = diagnosis.conditions
    fixed = f"{name}: T = {settings.free_steps}, K = {settings.nudged_steps}"
    pictures.draw_error_against_beta(diagnosis, folder / "error-against-beta.png", fixed)
    if swept:
        others = ", ".join(
            f"{symbol} = {getattr(settings, setting):g}"
            for setting, symbol in _SYMBOLS.items()
            if setting not in swept[0].settings
        )
        pictures.draw_sweep(swept, folder / "sweep.png", f"{name}: {others}" if others else name)
