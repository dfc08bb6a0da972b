"""``eqprop train``: train a network from the start, or go on where a run was stopped."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
import tomllib
from collections.abc import Mapping
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from eqprop import core, data, distributed, estimators, pictures, runs, training
from eqprop.cli.options import add_options, add_usual, given, place
from eqprop.cli.progress import Display
from eqprop.cli.stopping import Stop
from eqprop.errors import ConfigurationError, Failure, Stopped, UsageError, shown
from eqprop.files import naming
from eqprop.registries import DATASETS
from eqprop.settings import PRESETS, Experiment, kind_of, options_of, preset

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
  torchrun --nproc-per-node 2 -m eqprop train p-1h    two processes share each mini-batch
"""

_OF_THE_MACHINE = ("threads", "device")
"""Settings that change how fast a run is, not what it is."""

_STORE_EVERY = 120.0
"""Seconds of training that a killed process may lose."""

_END = """\
A line per epoch says the errors; how many steps a sample took on average, T in the free and K in
the nudged phase, where samples stop by themselves (--settle); and the share of the training samples
"not at rest", of which some unit still moved by more than 0.01, or the tolerance, in the last step
of the free phase. Some are no harm. More than 5 % are warned of, where they spoil the gradient.

The run's folder receives config.json, metrics.jsonl (one line per epoch), checkpoint/ and
curves.png. The checkpoint is written after every epoch, within one every two minutes, and when
Ctrl-C, SIGTERM or SIGHUP stops the run (exit status 130, 143 or 129); --resume goes on from there
as if it had never stopped, with as many processes or another number of them. To let it go on when
the terminal ends, begin with nohup.
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "train", help="train a network", description=_DESCRIPTION, epilog=_END
    )
    parser.set_defaults(run=run, shared=True)
    parser.add_argument(
        "preset",
        metavar="PRESET",
        nargs="?",
        help=f"one of {', '.join(PRESETS)} (default: digits)",
    )
    group = parser.add_argument_group("run")
    add_usual(
        group,
        out="new folder for the run (default: runs/PRESET-CHANGES-DATE-TIME)",
        json="the last metrics",
    )
    group.add_argument(
        "--resume",
        type=place,
        metavar="DIR",
        help="go on with the run of that folder; only --epochs can be changed, and not that with a "
        "schedule",
    )
    group.add_argument(
        "--config",
        type=place,
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
        help="write TensorBoard events too (needs the package tensorboard)",
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
    ranks = _together(experiment, auto_threads=options.auto_threads)
    if options.out is not None and ranks.first:
        runs.RunFolder(options.out).require_new()
    writer = _event_writer() if options.tensorboard else None
    # Nothing is written before all is there: a run that cannot start leaves no folder.
    learner = runs.build_learner(experiment)
    others = experiment.differences(preset(name))
    _say(f"{name}{_differing(others, preset(name))}; loading {experiment.dataset}")
    dataset = runs.build_data(experiment, data_dir)
    if options.auto_threads:
        threads = runs.fastest_threads(experiment, dataset)
        _say(f"training with {core.counted(threads, 'CPU thread')}")
        learner = runs.build_learner(experiment.override({"threads": threads}))
        experiment = learner.experiment
    named = {name: value for name, value in others.items() if name not in _OF_THE_MACHINE}
    with ExitStack() as begun:
        path = ""
        if ranks.first:
            folder = runs.RunFolder(options.out or runs.new_folder(name, named))
            threads = runs.threads_each(experiment.threads, ranks.here)
            machine = runs.environment(threads, experiment.device)
            if ranks.count > 1:
                machine["processes"] = ranks.count
            begun.enter_context(folder.begun())
            folder.write_config(runs.RunConfig(name, experiment, _kept(data_dir), machine))
            path = str(folder.path)
        folder = runs.RunFolder(Path(ranks.word(path)))
        _say(f"training in {folder.path}")
        return _train(folder, learner, dataset, None, writer, ranks, as_json=options.json)


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
    # All processes read the folder; one has it, and writes.
    ranks = _together(config.experiment)
    with folder.claimed() if ranks.first else nullcontext():
        # Killed in its first epoch, a run has neither a checkpoint nor metrics: it starts anew.
        fresh = not folder.checkpoint.exists() and not folder.has_metrics
        checkpoint = None if fresh else folder.read_checkpoint(config)
        experiment = _lengthened(config.experiment, changes, checkpoint)
        done = "its beginning" if checkpoint is None else checkpoint.place
        _say(f"{config.preset} goes on from {done}; loading {experiment.dataset}")
        writer = _event_writer() if options.tensorboard else None
        dataset = runs.build_data(experiment, options.data_dir or config.data_dir)
        folder.require_same_inputs(dataset.inputs)
        learner = runs.build_learner(experiment)
        if checkpoint is not None:
            learner.restore(checkpoint)
        data_dir = _kept(options.data_dir) or config.data_dir
        # Only now that everything fits, and all have read it: a run that cannot be resumed keeps
        # its files as they were.
        ranks.wait()
        if ranks.first:
            folder.write_config(replace(config, experiment=experiment, data_dir=data_dir))
            folder.rewrite_metrics([] if checkpoint is None else checkpoint.history)
        return _train(folder, learner, dataset, checkpoint, writer, ranks, as_json=options.json)


def _together(experiment: Experiment, *, auto_threads: bool = False) -> distributed.Ranks:
    """The processes that train together.

    Raises:
        UsageError: to try how many threads are fastest, while the others try it too.
        ConfigurationError: a device that not every process can have.
        Failure: they cannot reach each other.
    """
    launch = distributed.launched()
    if launch is not None and auto_threads:
        raise UsageError(
            f"--auto-threads: expected one process, got {launch.count}, which would disturb each "
            "other's measurements; give --threads, of which every process has as many"
        )
    ranks = distributed.start(experiment.device)
    each = runs.threads_each(experiment.threads, ranks.here)
    if each < experiment.threads:
        _say(
            f"computing with {core.counted(each, 'CPU thread')} in each process instead of "
            f"{experiment.threads}: the {ranks.here} processes here have no more cores"
        )
    if ranks.count > experiment.batch_size:
        _say(
            f"warning: batch_size = {experiment.batch_size}: expected at least a sample for each "
            f"of the {ranks.count} processes, of which the others do nothing"
        )
    return ranks


def _chosen(
    options: argparse.Namespace, changes: Mapping[str, Any]
) -> tuple[str, Experiment, str | None]:
    """Preset, then file, then command line: the preset's name, the experiment, the data's place."""
    from_file = {} if options.config is None else _read_settings(options.config)
    name = from_file.pop("preset", "digits")
    data_dir = from_file.pop("data_dir", None)
    if not isinstance(data_dir, str | None):
        raise UsageError(
            f"--config {options.config}: data_dir = {data_dir}: expected the name of a folder"
        )
    name = name if options.preset is None else options.preset
    # In one step, so that e.g. hidden layers and learning rates may change together.
    try:
        experiment = preset(name).override({**from_file, **changes})
    except ConfigurationError as error:
        theirs = {"preset"} if options.preset is None and options.config else set[str]()
        if error.name not in (theirs | from_file.keys()) - changes.keys():
            raise
        raise UsageError(f"--config {options.config}: {error}") from None
    return name, _located(experiment), options.data_dir or data_dir


def _located(experiment: Experiment) -> Experiment:
    """Data in files by its whole name: the run may go on, and be looked at, from elsewhere."""
    kind, _, where = experiment.dataset.partition(":")
    if experiment.dataset in DATASETS:
        return experiment
    return experiment.override({"dataset": f"{kind}:{place(where).absolute()}"})


def _read_settings(path: Path) -> dict[str, Any]:
    """The settings of a TOML file, or of a run's ``config.json``."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix != ".json":
            return _as_named(tomllib.loads(text))
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


def _as_named(written: dict[str, Any]) -> dict[str, Any]:
    """Settings by their names where a file has those of options; none for the text, as there.

    Raises:
        ValueError: both names of one setting.
    """
    names = {of.metadata["flag"]: of.name for of in fields(Experiment) if of.metadata["flag"]}
    both = [flag for flag, name in names.items() if flag in written and name in written]
    if both:
        raise ValueError(f"{both[0]} and {names[both[0]]} are two names of one setting")
    optional = {of.name for of in fields(Experiment) if kind_of(of).optional}
    named = ((names.get(name, name), value) for name, value in written.items())
    return {name: None if value == "none" and name in optional else value for name, value in named}


def _lengthened(
    experiment: Experiment, changes: Mapping[str, Any], begun: training.Checkpoint | None
) -> Experiment:
    """The experiment with another number of epochs, if one is given."""
    epochs = changes.get("epochs", experiment.epochs)
    done = 0 if begun is None else len(begun.history)
    if epochs < done:
        raise ConfigurationError("epochs", epochs, f"at least the {done} the run has done")
    if begun is not None and begun.unfinished is not None and epochs == done:
        raise ConfigurationError(
            "epochs", epochs, f"more than the {done} the run has done, as it is within the next one"
        )
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
    begun: training.Checkpoint | None,
    writer: Any,
    ranks: distributed.Ranks,
    *,
    as_json: bool,
) -> int:
    """Train, leaving in the folder whatever is needed to go on after every epoch, within a long
    one, and wherever it is stopped.

    Of several processes the first writes; all store, and stop, after the same mini-batch.
    """
    experiment = learner.experiment
    epochs, size = experiment.epochs, experiment.batch_size
    batches, settles = math.ceil(len(dataset.train) / size), experiment.tolerance is not None
    history = [] if begun is None else list(begun.history)
    left = None if begun is None else begun.unfinished
    done = len(history) * batches + (0 if left is None else left.batch)
    tested_on = experiment.tested_on
    display = Display(epochs, batches, done, settles=settles, tested_on=tested_on)
    events = writer(str(folder.path / "tensorboard")) if writer and ranks.first else None
    said: frozenset[str] = frozenset()
    guessing = training.guessing_error(dataset.test)
    stop, stored = Stop(), time.monotonic()

    def wishes() -> tuple[int, bool]:
        """By which signal to stop, if any; and whether to store."""
        return stop.number or 0, ranks.first and time.monotonic() - stored > _STORE_EVERY

    def store(unfinished: training.Unfinished | None = None) -> None:
        nonlocal stored
        if ranks.first:
            folder.store(learner.checkpoint(history, unfinished))
        stored = time.monotonic()

    def on_batch(running: training.Running) -> None:
        number, due = ranks.heard()
        if number or due:
            store(running.unfinished())
        if number:
            if (launch := distributed.launched()) and not ranks.first:
                # Or the launcher would end the first while it stores.
                distributed.await_end(launch)
            raise Stopped(_where(folder, running, epochs), int(number))
        # Last, as the terminal may be what has gone.
        display.batch(running)

    ranks.heed(wishes)
    if ranks.first and not folder.inputs.exists():
        folder.write_inputs(dataset.inputs)
    try:
        with closing(display), stop.awaited(), naming(folder.path):
            for metrics in learner.train(dataset, begun, on_batch, ranks):
                history.append(asdict(metrics))
                store()
                display.epoch(metrics)
                idle = runs.guessing_warning(experiment, metrics, guessing, len(dataset.test))
                if idle and "idle" not in said:
                    display.warn(idle)
                    said |= {"idle"}
                doubts = runs.settling_doubts(experiment, metrics)
                if doubts - said:
                    display.warn(runs.settling_warning(experiment, metrics))
                    said |= doubts
                if events is not None:
                    _add_events(events, metrics)
    except (core.NonFiniteError, estimators.AdjointError) as error:
        raise Failure(f"epoch {len(history) + 1}: {error} ({_kept_state(folder)})") from None
    except distributed.RankError as error:
        stop.ignore()
        raise Failure(
            f"epoch {len(history) + 1}: {error}; {_kept_state(folder)}; go on with: "
            f"{_resumed(folder)}"
        ) from None
    except KeyboardInterrupt:
        raise Stopped(
            f"stopped at once in epoch {len(history) + 1} of {epochs}; "
            f"{_kept_state(folder)}; go on with: {_resumed(folder)}",
            stop.number or signal.SIGINT,
        ) from None
    finally:
        # Where training has failed for want of space, say, it is this that is to be told; and no
        # folder is made anew that somebody has moved. Nor is it an impatient Ctrl-C meanwhile.
        with suppress(OSError, KeyboardInterrupt) if sys.exception() else nullcontext():
            if events is not None:
                events.close()
            if history and ranks.first and folder.config.exists():
                pictures.draw_curves(history, folder.curves, tested_on=tested_on)
    ranks.end()
    if as_json:
        print(json.dumps(history[-1]))
    else:
        trained = core.counted(len(history), "epoch")
        of = " of the variance, which is not explained," if dataset.test.regression else ""
        print(
            f"{tested_on} error {history[-1]['test_error']:.2f} %{of} after {trained} "
            f"({sum(entry['seconds'] for entry in history):.0f} s); everything is in {folder.path}"
        )
        watch = f"; watch it settle: eqprop explore {folder.path}"
        can_watch = experiment.can_be_explored and not dataset.test.regression
        print(f"look at it: eqprop show {folder.path}{watch * can_watch}")
    return 0


def _add_events(events: Any, metrics: training.Metrics) -> None:
    for name in ("train_error", "test_error", "train_loss", "test_loss"):
        events.add_scalar(name, getattr(metrics, name), metrics.epoch)
    for name in ("free_steps", "nudged_steps", "restless", "test_cycling"):
        if (value := getattr(metrics, name)) is not None:
            events.add_scalar(f"settling/{name}", value, metrics.epoch)
    for index, angle in enumerate(metrics.weight_angles, 1):
        events.add_scalar(f"weight_angle/{index}", angle, metrics.epoch)


def _where(folder: runs.RunFolder, running: training.Running, epochs: int) -> str:
    """Where a run was stopped, and how to go on."""
    assert running.batches is not None  # What a command learns from is held whole.
    return (
        f"stopped in epoch {running.epoch} of {epochs} after {running.batch} of "
        f"{core.counted(running.batches, 'mini-batch')}, and all of it is kept; go on with: "
        f"{_resumed(folder)}"
    )


def _kept_state(folder: runs.RunFolder) -> str:
    """What there is to go on from where nothing more could be kept."""
    if not folder.checkpoint.exists():
        return "there is no earlier state to keep"
    place = training.Checkpoint.load(folder.checkpoint).place
    return f"the state after {place} is kept in {folder.checkpoint}"


def _resumed(folder: runs.RunFolder) -> str:
    """The command that goes on, with as many processes."""
    launch = distributed.launched()
    command = "eqprop" if launch is None else launch.command
    return f"{command} train {runs.resuming(folder.path)}"


def _differing(others: Mapping[str, Any], preset: Experiment) -> str:
    """The settings that are not those of the preset, which has others."""
    said = (
        f"{name} = {shown(value)} (not {shown(getattr(preset, name))})"
        for name, value in others.items()
    )
    return f" with {', '.join(said)}" if others else ""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


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
            "install it with: pip install tensorboard"
        ) from None
    return SummaryWriter
