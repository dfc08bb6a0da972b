"""Settings as options of a command: one way to offer them, and one to read what was given."""

import argparse
import re
import sys
from collections.abc import Collection
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NoReturn

from eqprop.errors import UsageError
from eqprop.registries import Registry
from eqprop.settings.fields import Settings, kind_of, options_of

__all__ = ["Parser", "add_options", "add_usual", "given", "place", "remember_options"]


class Parser(argparse.ArgumentParser):
    """Says what was wrong on one line, and leaves it to :func:`eqprop.cli.main.main` to exit."""

    def __init__(self, **settings: Any) -> None:
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(**{"formatter_class": raw, "allow_abbrev": False, **settings})
        # As of Python 3.14: -1e-3 is a number too, not an option.
        self._negative_number_matcher = re.compile(r"-[\d.]+(e[+-]?\d+)?$", re.IGNORECASE)

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse would keep it to itself that help could not be written.
        if message:
            (sys.stderr if file is None else file).write(message)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def add_options(
    parser: argparse.ArgumentParser,
    settings: type[Settings],
    *,
    only: Collection[str] | None = None,
    default: str = "default: {}",
    heading: str | None = None,
) -> None:
    """An option for every setting, by group; those that are not given stay absent.

    Args:
        only: the names of those to offer; all if not given.
        default: what to say of every default, with {} where it stands.
        heading: what to say below the heading of every group.
    """
    groups: dict[str, Any] = {}
    for of in fields(settings):
        if only is not None and of.name not in only:
            continue
        group = of.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group, heading)
        groups[group].add_argument(
            *options_of(of),
            dest=of.name,
            default=argparse.SUPPRESS,
            # argparse formats help by %.
            help=f"{_help(of)} ({default.format(_default(of))})".replace("%", "%%"),
            **_shape(of),
        )


def given(options: argparse.Namespace, settings: type[Settings]) -> dict[str, Any]:
    """The values of those settings that the command line names.

    Raises:
        ConfigurationError: words that mean no value.
    """
    return {
        of.name: settings.read(of.name, getattr(options, of.name))
        for of in fields(settings)
        if hasattr(options, of.name)
    }


def add_usual(parser: Any, *, out: str | None = None, data: bool = True, json: str) -> None:
    """The options that commands have in common: ``--out``, ``--data-dir`` and ``--json``.

    Args:
        parser: of the command, or one of its groups.
        out: what is written there, if anything.
        data: whether a data set is looked at.
        json: what is printed as JSON.
    """
    if out is not None:
        parser.add_argument("--out", type=place, metavar="DIR", help=out)
    if data:
        parser.add_argument(
            "--data-dir",
            type=lambda name: str(place(name)),
            metavar="DIR",
            help="where data sets lie, or are downloaded to (default: as in the run, if there is "
            "one; else $EQPROP_DATA, else your cache folder)",
        )
    parser.add_argument("--json", action="store_true", help=f"print {json} as JSON")


def place(name: str) -> Path:
    """The file or folder of this name, with ~ for one's home, also where no shell has seen it.

    Raises:
        argparse.ArgumentTypeError: a name of nothing, or the home of nobody.
    """
    if not name.strip():
        raise argparse.ArgumentTypeError("expected the name of a file or folder, got nothing")
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(
            f"{name}: expected the home of somebody who has one; write ./{name} for a folder of "
            "that name"
        ) from None


def remember_options(parser: argparse.ArgumentParser) -> None:
    """Let a command know its options, to guess which of them was meant."""
    parser.set_defaults(known=[o for action in parser._actions for o in action.option_strings])


def _shape(of: Field[Any]) -> dict[str, Any]:
    """What argparse is to know of the words."""
    kind = kind_of(of)
    if kind.item is bool:
        return {"action": argparse.BooleanOptionalAction}
    if kind.names:
        metavar = "{" + ",".join(kind.names) + "}"
    else:
        metavar = "N" if kind.several else of.name.rpartition("_")[2].upper()
    return {"metavar": of.metadata["metavar"] or metavar} | ({"nargs": "*"} if kind.several else {})


def _help(of: Field[Any]) -> str:
    registry: Registry | None = of.metadata["choices"]
    if registry is None:
        return of.metadata["help"]
    offered = [*registry.items(), *((form, said) for form, (_, said) in registry.forms.items())]
    return "; ".join([of.metadata["help"], *(f"{name}: {said}" for name, said in offered)])


def _default(of: Field[Any]) -> str:
    items = of.default if isinstance(of.default, tuple) else (of.default,)
    return of.metadata["shown"] or " ".join(map(_said, items)) or "none"


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)
