"""The command line: ``eqprop`` or ``python -m eqprop``.

Every command exits 0 on success, 2 on bad usage and 1 on failure, and then says on one line of
standard error what was wrong, what was expected and what to do. Stopped by Ctrl-C or SIGTERM it
exits as shells have it, with 130 or 143, and the line says what is kept. Results go to standard
output, everything else to standard error.

A command is a module with ``add``, which declares it, and ``run``, which gets its options and
returns the exit status. None imports torch or matplotlib before it runs, so that ``--help`` and
refusals come at once.
"""

import argparse
import difflib
import io
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from eqprop import core, estimators
from eqprop.cli import bench, evaluate, presets, reproduce, show, theorem, train
from eqprop.cli.options import Parser, remember_options
from eqprop.cli.stopping import Stopped
from eqprop.errors import ConfigurationError, Failure, UsageError

__all__ = ["main"]

COMMANDS = (train, evaluate, show, presets, theorem, reproduce, bench)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    if sys.stderr is None:
        # It was closed: what is meant for it must not end up among the results.
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process runs
    for stream in (sys.stdout, sys.stderr):
        # Greek letters must not end a command on a terminal that cannot show them.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        options, unknown = _parser().parse_known_args(arguments)
        if unknown:
            raise UsageError(_unrecognised(unknown[0], options.known))
        return options.run(options)
    except (UsageError, ConfigurationError) as error:
        return _complain(error, 2)
    except Stopped as stopped:
        return _say(stopped, stopped.status)
    except KeyboardInterrupt:
        return _say("interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:
        # Whoever read our output has gone: there is nobody left to tell.
        sys.stdout = None
        return 1
    except OSError as error:
        return _complain(f"{error.filename or 'file'}: {error.strerror or error}", 1)
    except Failure as error:
        return _complain(error, 1)
    except ArithmeticError as error:
        if isinstance(error, core.NonFiniteError | estimators.AdjointError):
            return _complain(error, 1)
        raise


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="eqprop", description="Train networks with Equilibrium Propagation.")
    parser.add_argument("--version", action="version", version=f"eqprop {version('eqprop')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
        remember_options(commands.choices[command.__name__.rpartition(".")[2]])
    return parser


def _unrecognised(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word.partition("=")[0], known, n=1)
    hint = f"did you mean {near[0]}?" if near else "see eqprop COMMAND --help"
    return f"{word}: expected an option or argument that the command knows ({hint})"


def _complain(error: object, status: int) -> int:
    return _say(f"error: {error}", status)


def _say(what: object, status: int) -> int:
    print(f"eqprop: {' '.join(str(what).split())}", file=sys.stderr)
    return status
