"""The command line: ``eqprop`` or ``python -m eqprop``.

Every command exits 0 on success, 2 on bad usage and 1 on failure, and then says on one line of
standard error what was wrong, what was expected and what to do. Results go to standard output,
everything else to standard error.

This module imports neither torch nor matplotlib, so that ``--help`` and refusals come at once.
"""

import argparse
import difflib
import io
import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from eqprop.experiment import ConfigurationError, Experiment, parse_setting
from eqprop.failures import Failure, UsageError
from eqprop.presets import PRESETS, preset
from eqprop.reproduction import FIGURES, Figure1cSettings
from eqprop.theorem_presets import SWEPT, THEOREM_PRESETS, TheoremSettings

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    """Says what was wrong on one line, and leaves it to :func:`main` to exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


_TRAIN = """\
Train a network. Without any argument, a small one learns 8×8 digits that come with the
installation, in some seconds. A PRESET names a published experiment (see `eqprop presets`);
every setting of it can be overridden here or in a TOML file:

  eqprop train                                   the embedded digits
  eqprop train p-1h --data-dir ~/data            MNIST, downloaded there if absent
  eqprop train p-1h --epochs 5 --estimator bptt  other settings
  eqprop train --config my.toml --seed 3         settings of a file, then of the command line
  eqprop train --resume runs/p-1h                go on where a run was stopped
"""

_TRAIN_END = """\
The run's folder receives config.json, metrics.jsonl (one line per epoch), checkpoint/ (written
after every epoch; a run killed at any moment can be resumed) and curves.png.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stderr is None:
        # It was closed: what is meant for it must not end up among the results.
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process runs
    for stream in (sys.stdout, sys.stderr):
        # Greek letters must not end a command on a terminal that cannot show them.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        options, unknown = _parser().parse_known_args(_joined(words))
        if unknown:
            raise UsageError(_unrecognised(unknown[0], options.known))
        return options.command(options)
    except (UsageError, ConfigurationError) as error:
        return _complain(error, 2)
    except KeyboardInterrupt:
        return _complain("interrupted", 1)
    except BrokenPipeError:
        # Whoever read our output has gone: there is nobody left to tell.
        sys.stdout = None
        return 1
    except OSError as error:
        return _complain(f"{error.filename or 'file'}: {error.strerror or error}", 1)
    except Failure as error:
        return _complain(error, 1)


def _joined(words: Sequence[str]) -> list[str]:
    """``--beta -1e-3`` as ``--beta=-1e-3``, since argparse takes -1e-3 for an option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].startswith("--") and re.fullmatch(r"-[\d.]+e[+-]?\d+", word, re.I):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _unrecognised(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word.partition("=")[0], known, n=1)
    hint = f"did you mean {near[0]}?" if near else "see eqprop COMMAND --help"
    return f"{word}: expected an option or argument that the command knows ({hint})"


def _complain(error: object, status: int) -> int:
    print(f"eqprop: error: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="eqprop",
        description="Train networks with Equilibrium Propagation.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"eqprop {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_train(commands)
    _add_evaluate(commands)
    _add_show(commands)
    _add_presets(commands)
    _add_theorem(commands)
    _add_reproduce(commands)
    _add_bench(commands)
    for command in commands.choices.values():
        known = [option for action in command._actions for option in action.option_strings]
        command.set_defaults(known=known)
    return parser


def _version() -> str:
    from importlib.metadata import version

    return version("eqprop")


def _add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, **texts: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **{"description": summary, **texts},
    )
    parser.set_defaults(command=run)
    return parser


def _add_train(commands: Any) -> None:
    parser = _add_command(
        commands, "train", _train, "train a network", description=_TRAIN, epilog=_TRAIN_END
    )
    parser.add_argument(
        "preset",
        metavar="PRESET",
        nargs="?",
        help=f"one of {', '.join(PRESETS)} (default: digits)",
    )
    run = parser.add_argument_group("run")
    run.add_argument("--out", type=Path, metavar="DIR", help="new folder for the run "
                     "(default: runs/PRESET-DATE-TIME)")  # fmt: skip
    run.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with the run of that folder; only "
        "--epochs can be changed, and not that with a schedule"
    )  # fmt: skip
    run.add_argument("--config", type=Path, metavar="FILE", help="TOML file of settings, named as "
                     "below with _ for -; it may name a preset")  # fmt: skip
    run.add_argument("--data-dir", metavar="DIR", help="where data sets lie, or are downloaded to "
                     "(default: $EQPROP_DATA, else your cache folder)")  # fmt: skip
    run.add_argument("--json", action="store_true", help="print the last metrics as JSON")
    run.add_argument("--tensorboard", action="store_true", help="write TensorBoard events too "
                     "(needs eqprop[tensorboard])")  # fmt: skip
    _add_settings(parser)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """One option for every setting of an experiment; those not given are absent."""
    groups: dict[str, Any] = {}
    for setting in fields(Experiment):
        group = setting.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(
                group, "default: as in the preset (`eqprop presets`)"
            )
        option = f"--{setting.name.replace('_', '-')}"
        choices: dict[str, Any] = {"metavar": setting.name.rpartition("_")[2].upper()}
        if setting.type is bool:
            choices = {"action": argparse.BooleanOptionalAction}
        elif get_origin(setting.type) is Literal:
            choices = {"metavar": "{" + ",".join(get_args(setting.type)) + "}"}
        elif get_origin(setting.type) is tuple:
            choices = {"nargs": "*", "metavar": "N"}
        groups[group].add_argument(
            option,
            dest=setting.name,
            default=argparse.SUPPRESS,
            help=f"{setting.metadata['help']} (digits: {_default(setting)})",
            **choices,
        )


def _default(setting: Field[Any]) -> str:
    default = setting.default
    if isinstance(default, tuple):
        return " ".join(f"{item:g}" for item in default) or "none"
    if isinstance(default, bool):
        return "yes" if default else "no"
    return "none" if default is None else str(default)


def _add_evaluate(commands: Any) -> None:
    parser = _add_command(commands, "evaluate", _evaluate, "measure the error of a trained network")
    parser.add_argument("run", type=Path, metavar="DIR", help="folder of a run")
    parser.add_argument(
        "--split", choices=("test", "train"), default="test", help="which samples (default: test)"
    )
    parser.add_argument(
        "--free-steps", metavar="T", help="steps of the free phase (default: those of the run)"
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: that of the run)")
    parser.add_argument("--data-dir", metavar="DIR", help="as for train")
    parser.add_argument("--json", action="store_true", help="print JSON")


_SHOW = """\
Draw a trained network: what its first connection learned, and how it settles.

  eqprop show runs/mine                       into runs/mine/pictures
  eqprop show runs/mine --sample 7            another test sample
  eqprop show runs/mine --free-steps 100      a longer free phase than in training
  eqprop show runs/mine --test-samples 0      the error against T over all test samples
"""

_SHOW_END = """\
kernels.png      weights of the first connection; kernels-2.png … those of further convolutions
states.png       a test sample, layer by layer: the free steady state, the nudged one, and their
                 difference ÷ β (with symmetric nudging, that of both nudged ones ÷ 2β), from
                 which every synapse learns
convergence.png  how far the units still move in every step of the free phase, to 3 T, and what
                 the output units do meanwhile
steps.png        test error and residual against the number of steps: was T long enough?
show.json        the numbers behind them

Earlier pictures of this command are drawn anew. A run may still be training meanwhile.
"""


def _add_show(commands: Any) -> None:
    parser = _add_command(
        commands, "show", _show, "draw a trained network", description=_SHOW, epilog=_SHOW_END
    )
    parser.add_argument("run", type=Path, metavar="DIR", help="folder of a run")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to put the pictures "
                        "(default: DIR/pictures)")  # fmt: skip
    parser.add_argument(
        "--sample", default="0", metavar="N", help="which test sample, from 0 (default: 0)"
    )
    parser.add_argument(
        "--test-samples", default="1000", metavar="N",
        help="how many test samples to measure the error on; 0 means all (default: 1000)",
    )  # fmt: skip
    for name, metavar, what in (
        ("free-steps", "T", "steps of the free phase"),
        ("nudged-steps", "K", "steps of the nudged phase"),
        ("beta", "β", "strength of the nudge, of either sign"),
    ):
        parser.add_argument(
            f"--{name}",
            default=argparse.SUPPRESS,
            metavar=metavar,
            help=f"{what} (default: as in the run)",
        )
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: that of the run)")
    parser.add_argument("--data-dir", metavar="DIR", help="as for train")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _add_presets(commands: Any) -> None:
    parser = _add_command(
        commands, "presets", _presets, "list the presets, with the published results"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_each(parser: argparse.ArgumentParser, settings: Any, several: str) -> None:
    """An option for every setting of a dataclass, read by :func:`_given`.

    Args:
        several: how many values one of several takes at least, as argparse writes it.
    """
    for setting in fields(settings):
        choices: dict[str, Any] = {"metavar": "N"}
        if get_origin(setting.type) is tuple:
            choices["nargs"] = several
        elif get_origin(setting.type) is Literal:
            choices["metavar"] = "{" + ",".join(get_args(setting.type)) + "}"
        parser.add_argument(
            f"--{setting.name.replace('_', '-')}",
            dest=setting.name,
            default=argparse.SUPPRESS,
            help=setting.metadata["help"],
            **choices,
        )


_THEOREM = """\
Compare EP with backpropagation through time at every step of the nudged phase, in neurons and
in synapses (Theorem 1), on a network before training or on the network of a run:

  eqprop theorem eb-1h                          as in the published figures
  eqprop theorem p-1h --batches 10              mean and spread over mini-batches
  eqprop theorem runs/mine                      a trained network, with the T, K and β of its run
  eqprop theorem c-vf-1h --angle 45             untied weights: the gradient is followed less well
  eqprop theorem digits --sweep beta=0.01,0.1 --sweep free-steps=20,50,150

Presets:
"""

_THEOREM_END = """\
The folder receives metrics.json, the processes (states.png, parameters.png), the error per layer
(layers.png), the error against β (error-against-beta.png) and that of a sweep (sweep.png).
All is computed in float64. For networks and models of your own see eqprop.compare.
"""


def _add_theorem(commands: Any) -> None:
    presets = "".join(
        f"  {name:<8} {entry.description}: T = {entry.settings.free_steps}, "
        f"K = {entry.settings.nudged_steps}, β = {entry.settings.beta:g}\n"
        for name, entry in THEOREM_PRESETS.items()
    )
    parser = _add_command(
        commands,
        "theorem",
        _theorem,
        "compare EP with backpropagation through time, step by step",
        description=_THEOREM + presets,
        epilog=_THEOREM_END,
    )
    parser.add_argument("of", metavar="PRESET|RUN_DIR", help="a preset, or the folder of a run")
    _add_each(parser, TheoremSettings, "*")
    parser.add_argument(
        "--angle", type=float, metavar="DEGREES",
        help="untie the backward weights of a preset, so far from the forward ones (0 to 180)",
    )  # fmt: skip
    parser.add_argument(
        "--before-training", action="store_true", help="of a run: its network as it began"
    )
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="SETTING=N,N,…",
        help="a grid of this setting's values; up to three times, for "
        f"{', '.join(name.replace('_', '-') for name in SWEPT)}",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder for the results "
                        "(default: runs/theorem-PRESET-DATE-TIME)")  # fmt: skip
    parser.add_argument("--data-dir", metavar="DIR", help="as for train")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")


_REPRODUCE = """\
Make a published figure again, in one command. `eqprop reproduce` alone lists what there is.

fig-1c: the better Theorem 1 holds before training, the better a network learns. Networks of
continual updates whose backward weights are not the forward ones (C-VF) begin with an angle Ψ
between the two. Before training, the angle between the update of EP and minus the gradient of
backpropagation through time is measured; after it, the test error. EP and C-EP, whose weights are
tied, stand beside.

As published this takes days of one core: with the defaults 11 runs of 30 to 100 epochs with one
hidden layer, and 11 of 50 to 150 epochs with two. Scale it down to look first:

  eqprop reproduce fig-1c --dataset digits --epochs 5      no download, some minutes
  eqprop reproduce fig-1c --epochs 6 1                     about an hour of one core
  eqprop reproduce fig-1c --angles 0 45 90 --epochs 5 10   fewer networks; epochs per depth
  eqprop reproduce fig-1c --seeds 0 1 2 3 4                five trials, as published

Stop it at any time: the same command again goes on. Finished runs are kept, others resumed, failed
ones tried again, and with more --epochs all are trained on.
"""

_REPRODUCE_END = """\
The folder receives fig-1c.png and fig-1c.json, brought up to date after every run, and the runs
themselves in runs/, each as eqprop train leaves it, with what it said in logs/. The angle is summed
over the nudged phase without its first step, as published; in fig-1c-whole.png with it.
"""


def _add_reproduce(commands: Any) -> None:
    parser = _add_command(
        commands,
        "reproduce",
        _reproduce,
        "make a published figure again",
        description=_REPRODUCE,
        epilog=_REPRODUCE_END,
    )
    parser.add_argument("figure", metavar="FIGURE", nargs="?", help=f"one of: {', '.join(FIGURES)}")
    _add_each(parser, Figure1cSettings, "+")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for all of it, new or "
                        "begun before (default: runs/fig-1c-DATASET)")  # fmt: skip
    parser.add_argument("--data-dir", metavar="DIR", help="as for train")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _add_bench(commands: Any) -> None:
    parser = _add_command(
        commands,
        "bench",
        _bench,
        "measure the time of a training mini-batch",
        description=(
            "Measure the time of one training mini-batch, from the free phase to the update of the "
            "weights,\non random pixels. u is the time of one 20×512 by 512×512 float32 matrix "
            "product on the same\ndevice and threads, so that figures carry over between machines. "
            "Run nothing else meanwhile."
        ),
    )
    parser.add_argument(
        "presets",
        metavar="PRESET",
        nargs="*",
        help="which presets (default: all)",
    )
    parser.add_argument(
        "--estimator", nargs="+", choices=("ep", "bptt", "rbp"), help="default: as in the preset"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--threads", default="1", help="CPU threads (default: 1)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings given on the command line."""
    return {
        setting.name: parse_setting(setting, getattr(options, setting.name))
        for setting in fields(Experiment)
        if hasattr(options, setting.name)
    }


def _experiment(options: argparse.Namespace) -> tuple[str, Experiment, str | None]:
    """Preset, then file, then command line: the preset's name, the experiment, the data's place."""
    from_file: dict[str, Any] = {}
    if options.config is not None:
        from_file = _read_settings(options.config)
    name = from_file.pop("preset", "digits")
    data_dir = from_file.pop("data_dir", None)
    if not isinstance(data_dir, str | None):
        raise ConfigurationError("data_dir", data_dir, "the name of a folder")
    if not isinstance(name, str):
        raise ConfigurationError("preset", name, f"one of {', '.join(PRESETS)}")
    name = name if options.preset is None else options.preset
    # In one step, so that e.g. hidden layers and learning rates may change together.
    experiment = preset(name).override({**from_file, **_settings(options)})
    return name, experiment, options.data_dir or data_dir


def _read_settings(path: Path) -> dict[str, Any]:
    """The settings of a TOML file, or of a run's ``config.json``."""
    try:
        text = path.read_text(encoding="utf-8")
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


def _train(options: argparse.Namespace) -> int:
    settings = _settings(options)
    if options.resume is None:
        name, experiment, data_dir = _experiment(options)
        from eqprop.commands import train

        return train(
            name,
            experiment,
            out=options.out,
            data_dir=data_dir,
            as_json=options.json,
            tensorboard=options.tensorboard,
        )
    for option, given in (
        ("PRESET", options.preset),
        ("--out", options.out),
        ("--config", options.config),
    ):
        if given is not None:
            raise UsageError(
                f"{option} {given}: expected no {option} with --resume; "
                "a resumed run has its preset, settings and folder already"
            )
    others = sorted(set(settings) - {"epochs"})
    if others:
        raise UsageError(
            f"--{others[0].replace('_', '-')}: expected no setting but --epochs with --resume, "
            "as a resumed run goes on exactly as it was; start a new run instead"
        )
    from eqprop.commands import resume

    return resume(
        options.resume,
        settings.get("epochs"),
        data_dir=options.data_dir,
        as_json=options.json,
        tensorboard=options.tensorboard,
    )


def _evaluate(options: argparse.Namespace) -> int:
    free_steps = None
    if options.free_steps is not None:
        setting = next(setting for setting in fields(Experiment) if setting.name == "free_steps")
        free_steps = parse_setting(setting, options.free_steps)
        Experiment().override({"free_steps": free_steps, "estimator": "ep"})
    from eqprop.commands import evaluate

    return evaluate(
        options.run,
        split=options.split,
        free_steps=free_steps,
        device=options.device,
        data_dir=options.data_dir,
        as_json=options.json,
    )


def _show(options: argparse.Namespace) -> int:
    overrides = {
        setting.name: parse_setting(setting, getattr(options, setting.name))
        for setting in fields(Experiment)
        if setting.name in {"free_steps", "nudged_steps", "beta"} and hasattr(options, setting.name)
    }
    Experiment().override(overrides)
    sample = _count("--sample", options.sample)
    test_samples = _count("--test-samples", options.test_samples)
    from eqprop.show_command import show

    return show(
        options.run,
        out=options.out,
        sample=sample,
        test_samples=test_samples,
        overrides=overrides,
        device=options.device,
        data_dir=options.data_dir,
        as_json=options.json,
    )


def _count(option: str, word: str) -> int:
    # No int() of its own accord: it takes underscores, and refuses what has 5000 digits.
    if re.fullmatch("[0-9]{1,18}", word) is None:
        raise UsageError(f"{option} {word}: expected a whole number of at least 0")
    return int(word)


def _presets(options: argparse.Namespace) -> int:
    if options.json:
        print(
            json.dumps(
                {
                    name: {
                        "description": entry.description,
                        "experiment": entry.experiment.to_json(),
                        "published_ep": entry.published_ep,
                        "published_bptt": entry.published_bptt,
                    }
                    for name, entry in PRESETS.items()
                },
                indent=2,
            )
        )
        return 0
    header = (
        *("preset", "network", "T", "K", "β", "learning rates", "optimizer", "batch", "epochs"),
        *("EP", "BPTT"),
    )
    rows: list[tuple[str, ...]] = [header]
    for name, entry in PRESETS.items():
        e = entry.experiment
        rows.append(
            (
                name,
                entry.description,
                str(e.free_steps),
                str(e.nudged_steps),
                f"{e.beta:g}",
                " ".join(f"{rate:g}" for rate in e.learning_rates),
                e.optimizer if e.schedule == "constant" else f"{e.optimizer}, {e.schedule}",
                str(e.batch_size),
                str(e.epochs),
                entry.published_ep or "–",
                entry.published_bptt or "–",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    print(
        "\nEP, BPTT: published test error in % on MNIST, mean ± standard deviation of 5 trials "
        "(train error).\nLearning rates are listed input side first. "
        "Train one with: eqprop train PRESET"
    )
    return 0


def _given(options: argparse.Namespace, settings: Any) -> dict[str, Any]:
    """The values of those settings of a dataclass that the command line names."""
    return {
        setting.name: parse_setting(setting, getattr(options, setting.name))
        for setting in fields(settings)
        if hasattr(options, setting.name)
    }


def _theorem(options: argparse.Namespace) -> int:
    given = _given(options, TheoremSettings)
    # η = 0 is always there, to compare with.
    given |= {"eta": tuple(eta for eta in given["eta"] if eta)} if "eta" in given else {}
    grid = _grid(options.sweep)
    data_dir = None
    entry = THEOREM_PRESETS.get(options.of)
    run = None if entry else Path(options.of)
    if entry is not None:
        name, experiment, settings = options.of, entry.experiment, entry.settings
        if options.before_training:
            raise UsageError(
                "--before-training: expected it with the folder of a run; "
                "the network of a preset is not trained"
            )
    elif Path(options.of).is_dir():
        from eqprop.run_folder import RunFolder

        config = RunFolder(Path(options.of)).read_config()
        experiment, data_dir = config.experiment, config.data_dir
        name, settings = Path(options.of).resolve().name, TheoremSettings.of_run(experiment)
    else:
        raise UsageError(
            f"{options.of}: expected one of {', '.join(THEOREM_PRESETS)}, or the folder of a run"
        )
    settings = settings.override(given)
    if options.angle is not None:
        if run is not None or experiment is None:
            raise UsageError(
                "--angle: expected it with the preset of a layered network; the weights of "
                f"{options.of} are what they are"
            )
        experiment = experiment.override({"weight_angle": options.angle})
        name = f"{name}-angle-{options.angle:g}"
    from eqprop.theorem_command import theorem

    return theorem(
        name,
        experiment,
        settings,
        run=run,
        before_training=options.before_training,
        grid=grid,
        out=options.out,
        data_dir=options.data_dir or data_dir,
        as_json=options.json,
    )


def _grid(sweeps: Sequence[str]) -> dict[str, list[Any]]:
    """The values of every swept setting: ``["beta=0.01,0.1"]`` gives ``{"beta": [0.01, 0.1]}``."""
    by_name = {setting.name: setting for setting in fields(TheoremSettings)}
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
            parsed = [parse_setting(by_name[name], value) for value in values.split(",")]
        except ConfigurationError as error:
            raise UsageError(f"--sweep {sweep}: {error}") from None
        if len(set(parsed)) < len(parsed):
            raise UsageError(f"--sweep {sweep}: expected every value once")
        grid[name] = parsed
    return grid


def _reproduce(options: argparse.Namespace) -> int:
    given = _given(options, Figure1cSettings)
    if options.figure is None:
        if given or options.out or options.data_dir:
            raise UsageError(f"expected a figure first, one of: {', '.join(FIGURES)}")
        for name, shows in FIGURES.items():
            print(f"{name}  {shows}")
        print("Make one with: eqprop reproduce FIGURE (see eqprop reproduce --help)")
        return 0
    if options.figure not in FIGURES:
        raise UsageError(f"{options.figure}: expected one of: {', '.join(FIGURES)}")
    settings = Figure1cSettings(**given)
    from eqprop.reproduce_command import reproduce_figure_1c

    return reproduce_figure_1c(
        settings, out=options.out, data_dir=options.data_dir, as_json=options.json
    )


def _bench(options: argparse.Namespace) -> int:
    names = options.presets or list(PRESETS)
    experiments = []
    by_name = {setting.name: setting for setting in fields(Experiment)}
    for name in names:
        common = {
            "device": options.device,
            "threads": parse_setting(by_name["threads"], options.threads),
        }
        for estimator in options.estimator or [preset(name).estimator]:
            experiment = preset(name).override({**common, "estimator": estimator})
            experiments.append((name, experiment))
    from eqprop.commands import bench

    return bench(experiments, as_json=options.json)
