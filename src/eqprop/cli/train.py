"""``eqprop train``: train a network from the start, or go on where a run was stopped."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import tomllib
from collections.abc import Mapping
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from eqprop import core, data, estimators, pictures, runs
from eqprop.cli.options import add_options, add_usual, given
from eqprop.cli.progress import Display
from eqprop.errors import ConfigurationError, Failure, UsageError
from eqprop.files import naming
from eqprop.settings import PRESETS, Experiment, options_of, preset

__all__ = ["add", "run"]

_DESCRIPTION = """\
Train a network. Without any argument, a small one learns 8×8 digits that come with the
installation, in some seconds. A PRESET names a published experiment (see `eqprop presets`);
every setting of it can be overridden here or in a TOML file:

  eqprop train                                   the embedded digits
  eqprop train p-1h --data-dir ~/data            MNIST, downloaded there if absent
  eqprop train p-1h --epochs 5 --estimator bptt  other settings
  eqprop train p-2h --settle 0.01                every sample stops where it rests
  eqprop train --config my.toml --seed 3         settings of a file, then of the command line
  eqprop train --resume runs/p-1h                go on where a run was stopped
"""

_END = """\
The run's folder receives config.json, metrics.jsonl (one line per epoch), checkpoint/ (written
after every epoch; a run killed at any moment can be resumed) and curves.png.
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "train", help="train a network", description=_DESCRIPTION, epilog=_END
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "preset",
        metavar="PRESET",
        nargs="?",
        help=f"one of {', '.join(PRESETS)} (default: digits)",
    )
    group = parser.add_argument_group("run")
    add_usual(
        group,
        out="new folder for the run (default: runs/PRESET-DATE-TIME)",
        json="the last metrics",
    )
    group.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="go on with the run of that folder; only --epochs can be changed, and not that with a "
        "schedule",
    )
    group.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="TOML file of settings, named as below with _ for -; it may name a preset",
    )
    group.add_argument(
        "--auto-threads",
        action="store_true",
        help="try first with how many CPU threads mini-batches go fastest, for a second or two, "
        "and train with those instead of --threads",
    )
    group.add_argument(
        "--tensorboard",
        action="store_true",
        help="write TensorBoard events too (needs eqprop[tensorboard])",
    )
    heading = "default: as in the preset (`eqprop presets`)"
    add_options(parser, Experiment, default="digits: {}", heading=heading)


def run(options: argparse.Namespace) -> int:
    """Train."""
    changes = given(options, Experiment)
    return _begin(options, changes) if options.resume is None else _resume(options, changes)


def _begin(options: argparse.Namespace, changes: Mapping[str, Any]) -> int:
    """Train from the start, in a new folder."""
    name, experiment, data_dir = _chosen(options, changes)
    if options.out is not None:
        runs.RunFolder(options.out).require_new()
    writer = _event_writer() if options.tensorboard else None
    # Nothing is written before all is there: a run that cannot start leaves no folder.
    learner = runs.build_learner(experiment)
    dataset = runs.build_data(experiment, data_dir)
    if options.auto_threads:
        threads = runs.fastest_threads(experiment, dataset)
        print(f"training with {threads} CPU thread{'s' if threads > 1 else ''}", file=sys.stderr)
        learner = runs.build_learner(experiment.override({"threads": threads}))
        experiment = learner.experiment
    folder = runs.RunFolder(options.out or runs.new_folder(name))
    machine = runs.environment(experiment.threads, experiment.device)
    with folder.begun():
        folder.write_config(runs.RunConfig(name, experiment, _kept(data_dir), machine))
        return _train(folder, learner, dataset, [], writer, as_json=options.json)


def _resume(options: argparse.Namespace, changes: Mapping[str, Any]) -> int:
    """Go on with a run, to the end of its epochs or to another number of them."""
    for option, said in (
        ("PRESET", options.preset),
        ("--out", options.out),
        ("--config", options.config),
        ("--auto-threads", "" if options.auto_threads else None),
    ):
        if said is not None:
            raise UsageError(
                f"{option} {said}".rstrip() + f": expected no {option} with --resume; "
                "a resumed run has its preset, settings and folder already"
            )
    if others := sorted(set(changes) - {"epochs"}):
        option = options_of(Experiment.__dataclass_fields__[others[0]])[0]
        raise UsageError(
            f"{option}: expected no setting but --epochs with --resume, "
            "as a resumed run goes on exactly as it was; start a new run instead"
        )
    folder = runs.RunFolder(options.resume)
    config = folder.read_config()
    with folder.claimed():
        # Killed in its first epoch, a run has neither a checkpoint nor metrics: it starts anew.
        fresh = not folder.checkpoint.exists() and not folder.has_metrics
        checkpoint = None if fresh else folder.read_checkpoint(config)
        history = [] if checkpoint is None else checkpoint.history
        experiment = _lengthened(config.experiment, changes, len(history))
        writer = _event_writer() if options.tensorboard else None
        learner = runs.build_learner(experiment)
        dataset = runs.build_data(experiment, options.data_dir or config.data_dir)
        if checkpoint is not None:
            learner.restore(checkpoint)
        data_dir = _kept(options.data_dir) or config.data_dir
        # Only now that everything fits: a run that cannot be resumed keeps its files as they were.
        folder.write_config(replace(config, experiment=experiment, data_dir=data_dir))
        folder.rewrite_metrics(history)
        return _train(folder, learner, dataset, history, writer, as_json=options.json)


def _chosen(
    options: argparse.Namespace, changes: Mapping[str, Any]
) -> tuple[str, Experiment, str | None]:
    """Preset, then file, then command line: the preset's name, the experiment, the data's place."""
    from_file = {} if options.config is None else _read_settings(options.config)
    name = from_file.pop("preset", "digits")
    data_dir = from_file.pop("data_dir", None)
    if not isinstance(data_dir, str | None):
        raise ConfigurationError("data_dir", data_dir, "the name of a folder")
    name = name if options.preset is None else options.preset
    # In one step, so that e.g. hidden layers and learning rates may change together.
    experiment = preset(name).override({**from_file, **changes})
    return name, experiment, options.data_dir or data_dir


def _read_settings(path: Path) -> dict[str, Any]:
    """The settings of a TOML file, or of a run's ``config.json``."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix != ".json":
            return tomllib.loads(text)
        stored = json.loads(text)
        return {
            "preset": stored["preset"],
            **stored["experiment"],
            "data_dir": stored.get("data_dir"),
        }
    except FileNotFoundError:
        raise UsageError(f"--config {path}: expected a file, found none") from None
    except OSError as error:
        raise UsageError(f"--config {path}: expected a file to read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--config {path}: expected TOML, or the config.json of a run: {error}"
        ) from None


def _lengthened(experiment: Experiment, changes: Mapping[str, Any], done: int) -> Experiment:
    """The experiment with another number of epochs, if one is given."""
    epochs = changes.get("epochs", experiment.epochs)
    if epochs < done:
        raise ConfigurationError("epochs", epochs, f"at least the {done} the run has done")
    if experiment.schedule != "constant" and epochs != experiment.epochs:
        raise ConfigurationError(
            "epochs",
            epochs,
            f"{experiment.epochs}, over which the learning rates of the run fall to 0 "
            f"(schedule = {experiment.schedule}); start a new run for another number",
        )
    return experiment.override(changes)


def _train(
    folder: runs.RunFolder,
    learner: runs.Learner,
    dataset: data.Dataset,
    history: list[dict[str, Any]],
    writer: Any,
    *,
    as_json: bool,
) -> int:
    """Train, leaving in the folder whatever is needed to go on after every epoch."""
    experiment = learner.experiment
    epochs, size = experiment.epochs, experiment.batch_size
    batches, settles = math.ceil(len(dataset.train) / size), experiment.tolerance is not None
    display = Display(epochs, batches, len(history), settles=settles)
    events = writer(str(folder.path / "tensorboard")) if writer else None
    said: frozenset[str] = frozenset()
    try:
        with closing(display), naming(folder.path):
            for metrics, checkpoint in learner.train(dataset, history, display.batch):
                history = checkpoint.history
                folder.store(checkpoint)
                display.epoch(metrics)
                doubts = runs.settling_doubts(experiment, metrics)
                if doubts - said:
                    display.warn(runs.settling_warning(experiment, metrics))
                    said |= doubts
                if events is not None:
                    for name in ("train_error", "test_error", "train_loss", "test_loss"):
                        events.add_scalar(name, history[-1][name], metrics.epoch)
                    for name in ("free_steps", "nudged_steps", "restless", "test_cycling"):
                        if history[-1][name] is not None:
                            events.add_scalar(f"settling/{name}", history[-1][name], metrics.epoch)
                    for index, angle in enumerate(metrics.weight_angles, 1):
                        events.add_scalar(f"weight_angle/{index}", angle, metrics.epoch)
    except (core.NonFiniteError, estimators.AdjointError) as error:
        kept = (
            f"the state after epoch {len(history)} is kept in {folder.checkpoint}"
            if history
            else "there is no earlier state to keep"
        )
        raise Failure(f"epoch {len(history) + 1}: {error} ({kept})") from None
    except KeyboardInterrupt:
        raise Failure(
            f"stopped in epoch {len(history) + 1} of {epochs}; "
            f"go on with: eqprop train --resume {shlex.quote(str(folder.path))}"
        ) from None
    finally:
        # Where training has failed for want of space, say, it is this that is to be told; and no
        # folder is made anew that somebody has moved.
        with suppress(OSError) if sys.exception() else nullcontext():
            if events is not None:
                events.close()
            if history and folder.config.exists():
                pictures.draw_curves(history, folder.curves)
    if as_json:
        print(json.dumps(history[-1]))
    else:
        print(
            f"test error {history[-1]['test_error']:.2f} % after {len(history)} epochs "
            f"({sum(entry['seconds'] for entry in history):.0f} s); everything is in {folder.path}"
        )
    return 0


def _kept(data_dir: str | None) -> str | None:
    """Where the data lies, as it is to be remembered."""
    return None if data_dir is None else str(Path(data_dir).expanduser().absolute())


def _event_writer() -> Any:
    """What writes TensorBoard's events, given a folder."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(
            "--tensorboard: expected the tensorboard package, found none; "
            "install it with: pip install 'eqprop[tensorboard]'"
        ) from None
    return SummaryWriter
