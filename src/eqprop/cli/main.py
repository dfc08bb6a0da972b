"""The command line: ``eqprop`` or ``python -m eqprop``.

Every command exits 0 on success, 2 on bad usage and 1 on failure, and then says on one line of
standard error what was wrong, what was expected and what to do. Stopped by Ctrl-C or SIGTERM it
exits as shells have it, with 130 or 143, and the line says what is kept. Results go to standard
output, everything else to standard error.

A command is a module with ``add``, which declares it, and ``run``, which gets its options and
returns the exit status. None imports torch or matplotlib before it runs, so that ``--help`` and
refusals come at once.

Several processes of ``torchrun`` are one command: the first shows what there is to be shown, and an
error is said by whoever meets it first.
"""

import argparse
import difflib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import NoReturn, TextIO

from eqprop import core, distributed, estimators
from eqprop.cli import bench, evaluate, explore, predict, presets, reproduce, show, theorem, train
from eqprop.cli.options import Parser, remember_options
from eqprop.cli.spelling import SPELT
from eqprop.errors import ConfigurationError, Failure, Stopped, UsageError, system_error
from eqprop.version import __version__

__all__ = ["main"]

COMMANDS = (train, evaluate, predict, show, explore, presets, theorem, reproduce, bench)

_TERMINATED = 128 + signal.SIGTERM
"""The exit status that shells give to what SIGTERM has ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It was closed: what is meant for it must not end up in the next file that is opened.
            nowhere = Path(os.devnull).open(mode)  # noqa: SIM115 - for as long as the process runs
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        # Greek letters must not end a command on a terminal that cannot show them.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=SPELT)
    options = argparse.Namespace()
    try:
        with _ending_on_sigterm(), _warning_in_a_line(), _shown_by_the_first():
            try:
                options, unknown = _parser().parse_known_args(arguments)
                if unknown:
                    raise UsageError(_unrecognised(unknown[0], options.known))
                _require_alone(options)
                status = options.run(options)
            except SystemExit as end:  # of --help, --version and SIGTERM
                status = int(end.code or 0)
            # Here, where it can still be said that there is no space for it.
            sys.stdout.flush()
        return _say("ended by SIGTERM", status) if status == _TERMINATED else status
    except (UsageError, ConfigurationError) as error:
        return _complain(error, 2)
    except Stopped as stopped:
        return _say(stopped, stopped.status)
    except KeyboardInterrupt:
        return _say("interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:
        # Whoever read our output has gone: there is nobody left to tell.
        _give_up(sys.stdout)
        _give_up(sys.stderr)
        return 1
    except OSError as error:
        # A run that goes on is where it is.
        elsewhere = hasattr(options, "out") and getattr(options, "resume", None) is None
        otherwise = "or choose another --out" if elsewhere else ""
        return _complain(system_error(error, otherwise), 1)
    except Failure as error:
        return _complain(error, 1)
    except ArithmeticError as error:
        if isinstance(error, core.NonFiniteError | estimators.AdjointError):
            return _complain(error, 1)
        raise
    except ValueError as error:
        if isinstance(error, estimators.NotHolomorphicError):
            return _complain(error, 2)
        raise


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Within it, SIGTERM ends the command as an error would: with the processes it has started."""

    def end(*_: object) -> NoReturn:
        raise SystemExit(_TERMINATED)

    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        # Who has made other arrangements, such as to ignore it, keeps them.
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        # What ends anyway may ignore it.
        if signal.getsignal(signal.SIGTERM) is end:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _shown_by_the_first() -> Iterator[None]:
    """Within it, of several processes all but the first show nothing."""
    launch = distributed.launched()
    with ExitStack() as silence:
        if launch is not None and launch.rank:
            nowhere = silence.enter_context(Path(os.devnull).open("w"))
            silence.enter_context(redirect_stdout(nowhere))
            silence.enter_context(redirect_stderr(nowhere))
        yield


def _require_alone(options: argparse.Namespace) -> None:
    """Refuse to do several times at once what is not shared."""
    launch, shared = distributed.launched(), getattr(options, "shared", False)
    if launch is not None and not shared:
        raise UsageError(
            f"{options.command}: expected one process, got {launch.count}, which torchrun has "
            "started; only train is shared among several, so start this without torchrun"
        )


@contextmanager
def _warning_in_a_line() -> Iterator[None]:
    """Within it, a warning is a line like an error, without the line of code that it comes from."""
    as_before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"eqprop: warning: {_in_a_line(message)}\n"
    try:
        yield
    finally:
        warnings.formatwarning = as_before


def _give_up(stream: TextIO) -> None:
    """Give up what a stream cannot get rid of: the interpreter would complain of it at its end."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="eqprop", description="Train networks with Equilibrium Propagation.")
    parser.add_argument("--version", action="version", version=f"eqprop {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
        name = command.__name__.rpartition(".")[2]
        commands.choices[name].set_defaults(command=name)
        remember_options(commands.choices[name])
    return parser


def _unrecognised(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word.partition("=")[0], known, n=1)
    hint = f"did you mean {near[0]}?" if near else "see eqprop COMMAND --help"
    return f"{word}: expected an option or argument that the command knows ({hint})"


def _in_a_line(message: object) -> str:
    """The same without breaks; the spaces of a folder's name stay as they are."""
    return " ".join(line.strip() for line in str(message).splitlines() if line.strip())


def _complain(error: object, status: int) -> int:
    return _say(f"error: {error}", status)


def _say(what: object, status: int) -> int:
    try:
        launch = distributed.launched()
    except UsageError:
        launch = None  # Which is what is said.
    try:
        if launch is None or distributed.speaks_first(launch):
            print(f"eqprop: {_in_a_line(what)}", file=sys.stderr, flush=True)
    except OSError:
        _give_up(sys.stderr)
    _give_up(sys.stdout)
    if launch is not None and launch.rank == 0:
        distributed.tell_end(launch)
    return status
