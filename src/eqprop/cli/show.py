"""``eqprop show``: draw a trained network.

It writes, into the folder ``pictures`` of a run, or into another one:

=====================================  =======================================================
``kernels.png``, ``kernels-2.png`` …   what the first connection learned, and the convolutions
                                       above it
``states.png``                         one test sample, layer by layer: s_*, s_*^β and their
                                       difference ÷ β
``convergence.png``                    the free phase step by step
``steps.png``                          test error and residual against the steps of the free phase
``settling.png``                       how many steps the samples take to come to rest
``show.json``                          the numbers behind them
=====================================  =======================================================
"""

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from eqprop import analysis, pictures, runs
from eqprop.cli.options import add_options, add_usual, given, place
from eqprop.cli.progress import Progress
from eqprop.cli.tables import columns
from eqprop.errors import Failure, UsageError
from eqprop.files import write_atomically
from eqprop.settings import Experiment, Settings, number, setting, whole

__all__ = ["ShowSettings", "add", "run"]

_DESCRIPTION = """\
Draw a trained network: what its first connection learned, and how it settles.

  eqprop show runs/mine                       into runs/mine/pictures
  eqprop show runs/mine --sample 7            another test sample
  eqprop show runs/mine --free-steps 100      a longer free phase than in training
  eqprop show runs/mine --settle 1e-3         with the least T and K that bring it to rest
  eqprop show runs/mine --test-samples 0      the error against T over all test samples
"""

_END = """\
kernels.png      weights of the first connection; kernels-2.png … those of further convolutions
states.png       a test sample, layer by layer: the free steady state, the nudged one, and their
                 difference ÷ β (with symmetric nudging, that of both nudged ones ÷ 2β), from
                 which every synapse learns
convergence.png  how far the units still move in every step of the free phase, to 3 T, and what
                 the output units do meanwhile; of 100 test samples
steps.png        test error and residual against the number of steps: was T long enough?
settling.png     the share of 500 test samples that have come to rest, against the number of
                 steps: which T and K settle 99 %, to a tolerance in the state itself? What is left
                 may still be much beside what a weak nudge does, see eqprop theorem
show.json        the numbers behind them

Earlier pictures of this command are drawn anew. A run may still be training meanwhile.
"""

_PICTURES = ("states.png", "convergence.png", "steps.png", "settling.png")

_TOLERANCE = 1e-3
"""Of runs that have none."""


@final
@dataclass(frozen=True, kw_only=True)
class ShowSettings(Settings):
    """What to look at.

    Raises:
        ConfigurationError: a setting outside what is allowed.
    """

    sample: int = setting(0, "which test sample, from 0", allowed=whole(0))
    test_samples: int = setting(
        1000, "how many test samples to measure the error on; 0 means all", allowed=whole(0)
    )
    tolerance: float | None = setting(
        None,
        "draw with the least T and K with which 99 % of the test samples come to rest, no unit of "
        "them moving by more than this in a step, such as 1e-3; without it, settling.png has those "
        "of the run's tolerance, or else of 1e-3",
        allowed=number("a finite number >= 0, or none", lambda x: x >= 0),
        flag="settle",
    )
    most_steps: int | None = setting(
        None, "the most steps in which to look for T, and for K", allowed=whole(1), shown="3 T"
    )


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "show", help="draw a trained network", description=_DESCRIPTION, epilog=_END
    )
    parser.set_defaults(run=run)
    parser.add_argument("folder", type=place, metavar="DIR", help="folder of a run")
    add_usual(
        parser, out="where to put the pictures (default: pictures in the run's)", json="the numbers"
    )
    add_options(parser, ShowSettings)
    changeable = ("free_steps", "nudged_steps", "beta", "device")
    add_options(parser, Experiment, only=changeable, default="default: as in the run")


def run(options: argparse.Namespace) -> int:
    """Draw it."""
    settings = ShowSettings(**given(options, ShowSettings))
    changes = given(options, Experiment)
    folder = options.out or options.folder / "pictures"
    runs.require_folder(folder)
    if options.out is not None:
        _require_no_others(folder)
    opened = runs.open_run(options.folder, changes, data_dir=options.data_dir)
    settled = _settle(opened, settings)
    own, chosen = opened.config.experiment, _chosen(settings, settled, changes)
    opened = replace(opened, experiment=opened.experiment.override(chosen))
    steps = runs.look_steps(opened, settings.test_samples)
    with opened.blamed(), Progress(steps, "step") as tick:
        found = runs.look(opened, settings.sample, settings.test_samples, settled, tick)
    # A folder's name may hold bytes that are no text.
    name = options.folder.resolve().name.encode(errors="replace").decode()
    experiment = opened.experiment
    with runs.RunFolder(folder).claimed():
        title = f"{name} after {opened.trained}"
        drawn = _draw(found, experiment, own, title, settings.sample, folder)
        numbers = {
            "of": name,
            "epoch": opened.epochs,
            "sample": settings.sample,
            "free_steps": experiment.free_steps,
            "nudged_steps": experiment.nudged_steps,
            "beta": experiment.beta,
            "nudging": "symmetric" if found.phases.symmetric else "one-sided",
            "pictures": drawn,
            **found.to_json(),
        }
        numbers["settling"]["run"] = {
            "free_steps": own.free_steps,
            "nudged_steps": own.nudged_steps,
            "free_share": settled.free.within(own.free_steps),
            "nudged_share": settled.nudged_within(own.nudged_steps),
        }
        # Last: where it lies, everything else does.
        write_atomically(folder / "show.json", (json.dumps(numbers, indent=2) + "\n").encode())
    if options.json:
        print(json.dumps(numbers))
        return 0
    _print(settled, own, experiment)
    print(f"{', '.join(drawn)} and show.json are in {folder}")
    if not opened.data.test.regression and experiment.can_be_explored:
        print(f"watch it settle: eqprop explore {options.folder}")
    return 0


def _settle(opened: "runs.TrainedRun", settings: ShowSettings) -> "analysis.SettlingSteps":
    """How many steps the samples take to come to rest."""
    own = opened.config.experiment
    those = (settings.tolerance, own.tolerance, _TOLERANCE)
    tolerance = next(value for value in those if value is not None)
    phases = (own, opened.experiment)
    longest = max(max(e.free_steps, e.nudged_steps) for e in phases)

    def within(most: int) -> "analysis.SettlingSteps":
        with opened.blamed(), Progress(runs.settle_ticks(opened), "phase") as tick:
            return runs.settle_samples(opened, tolerance, most, tick)

    if settings.most_steps or settings.tolerance is not None:
        return within(settings.most_steps or 3 * longest)
    try:
        return within(3 * longest)
    except Failure:
        # States that grow without bound can still be drawn as far as the run itself goes.
        return within(min(min(e.free_steps, e.nudged_steps) for e in phases))


def _chosen(
    settings: ShowSettings, settled: "analysis.SettlingSteps", changes: Mapping[str, Any]
) -> dict[str, int]:
    """The T and K that were asked for by a tolerance alone, as far as there are any."""
    if settings.tolerance is None:
        return {}
    found = {"free_steps": settled.free_steps, "nudged_steps": settled.nudged_steps}
    return {name: n for name, n in found.items() if n is not None and name not in changes}


def _print(settled: "analysis.SettlingSteps", own: Experiment, drawn: Experiment) -> None:
    print(settled.said)
    if settled.free_steps is None or settled.nudged_steps is None:
        print("look with more steps by --most-steps, with a larger tolerance by --settle")
    print(f"the run's {settled.said_of(own.free_steps, own.nudged_steps)}")
    if (drawn.free_steps, drawn.nudged_steps) != (own.free_steps, own.nudged_steps):
        said = settled.said_of(drawn.free_steps, drawn.nudged_steps)
        print(f"drawn with T = {drawn.free_steps}, K = {drawn.nudged_steps}: {said}")
    print(f"\n{pictures.settling_text(settled, columns())}")


def _earlier(folder: Path) -> list[str]:
    """The pictures that lie there as this command's own."""
    try:
        listed = json.loads((folder / "show.json").read_text())["pictures"]
        return [name for name in listed if re.fullmatch(r"[a-z]+(-\d+)?\.png", name)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _require_no_others(folder: Path) -> None:
    """Refuse a folder that has other pictures of these names."""
    mine = _earlier(folder)
    for name in ("kernels.png", *_PICTURES):
        if (folder / name).exists() and name not in mine:
            raise UsageError(
                f"{folder}: expected a folder without other pictures of these names, found "
                f"{name}; choose another --out"
            )


def _draw(
    found: "runs.Findings",
    experiment: Experiment,
    own: Experiment,
    title: str,
    sample: int,
    folder: Path,
) -> list[str]:
    """Draw everything; the names of the files."""
    earlier = _earlier(folder)
    steps = experiment.free_steps
    names = []
    for index, images in enumerate(found.images, 1):
        names.append("kernels.png" if index == 1 else f"kernels-{index}.png")
        pictures.draw_weight_images(images, folder / names[-1], title)
    for stale in earlier:
        # Of a network with more convolutions, drawn here earlier.
        if stale not in names and stale.startswith("kernels"):
            (folder / stale).unlink(missing_ok=True)
    taken = int(found.outputs[experiment.free_steps].argmax())
    said = f"test sample {sample}"
    if found.label is not None:
        said += f", class {found.label}" + f", taken for {taken}" * (taken != found.label)
    pictures.draw_phases(
        found.phases,
        found.x,
        folder / "states.png",
        f"{title}: {said}\n"
        f"T = {steps}, K = {experiment.nudged_steps}, β = {experiment.beta:g}; "
        f"residual after T steps: {found.phases.residual:.1g}",
        # Behind a readout the last layer has no unit for each class.
        label=found.label if experiment.readout == "none" else None,
    )
    pictures.draw_convergence(
        found.residual,
        found.outputs,
        folder / "convergence.png",
        f"{title}: free phase of test samples",
        sample=said,
        label=found.label,
        free_steps=steps,
    )
    by_step = found.by_step
    at = by_step.error[by_step.steps.index(steps)]
    pictures.draw_error_by_step(
        by_step,
        folder / "steps.png",
        f"{title}: {by_step.samples} test samples\n"
        f"test error {at:.2f} % after T = {steps} steps, {by_step.error[-1]:.2f} % after "
        f"{by_step.steps[-1]}",
        free_steps=steps,
    )
    settled = found.settling
    pictures.draw_settling(
        settled,
        folder / "settling.png",
        # Why there are none is too long for a title.
        f"{title}: {settled.said.partition(':')[0]}\n"
        f"the run's {settled.said_of(own.free_steps, own.nudged_steps)}",
        own=(own.free_steps, own.nudged_steps),
    )
    return [*names, *_PICTURES]
