"""``eqprop reproduce``: make a published figure again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, NoReturn

from eqprop import figures
from eqprop.cli.board import RunBoard
from eqprop.cli.options import Parser, add_options, add_usual, given, remember_options
from eqprop.cli.tables import print_table
from eqprop.core import counted
from eqprop.errors import UsageError
from eqprop.registries import FIGURES
from eqprop.settings.fields import Settings

__all__ = ["add", "run"]

_DESCRIPTION = """\
Make a published figure again, in one command. `eqprop reproduce` alone lists what there is;
`eqprop reproduce FIGURE --help` says what a figure shows, and what can be chosen:

  eqprop reproduce fig-1c --dataset digits --epochs 5      no download, some minutes
"""

_END_OF_ALL = """\
Stop it at any time: the same command again goes on. The folder receives all.md and all.json, and a
folder for every figure as `eqprop reproduce FIGURE` leaves it; the runs are together in runs/.
"""

_END = """\
Stop it at any time: the same command again goes on. Finished runs are kept, others resumed, failed
ones tried again, and with more --epochs all are trained on. With --cluster the jobs go on without
the command, and the same again watches them.

The folder receives FIGURE.json and its pictures, brought up to date after every run, and the runs
themselves in runs/, each as eqprop train leaves it, with what it said in logs/.
"""


def add(commands: Any) -> None:
    """Declare the command, with one of its own for every figure."""
    summary = "make a published figure again"
    parser = commands.add_parser("reproduce", help=summary, description=_DESCRIPTION, epilog=_END)
    parser.set_defaults(run=run)
    # Nothing but the figure can be wrong before the figure's own parser has the word.
    parser.error = _no_figure
    each = parser.add_subparsers(
        title="figures", metavar="FIGURE", dest="figure", parser_class=_FigureParser
    )
    for name, what in _offered():
        each.add_parser(name, help=what, figure=name)


class _FigureParser(Parser):
    """Of one figure, which is loaded where its options are asked for: no other command needs it."""

    def __init__(self, *, figure: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._figure: str | None = figure

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride] - overloads
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        if self._figure is not None:
            name, self._figure = self._figure, None
            if name == figures.ALL:
                self.description, self.epilog = figures.Everything.description, _END_OF_ALL
            else:
                figure: figures.Figure[Any] = FIGURES.load(name)
                self.description, self.epilog = figure.description, f"{figure.epilog}\n{_END}"
            add_options(self, _settings_of(name))
            add_options(self, figures.Work)
            group = self.add_argument_group("run")
            group.add_argument(
                "--dry-run",
                action="store_true",
                help="print what would be trained, and how long that would take here; nothing more",
            )
            add_usual(
                group,
                out="folder for all of it, new or begun before (default: in runs/, named after the "
                "figure and the data set)",
                json="the numbers",
            )
            remember_options(self)
        return super().parse_known_args(args, namespace)


def run(options: argparse.Namespace) -> int:
    """Make the figure, or list what there is."""
    if options.figure is None:
        print_table(("figure", "what it shows"), _offered(), text=2)
        print("Make one with: eqprop reproduce FIGURE (see eqprop reproduce FIGURE --help)")
        return 0
    kind = _settings_of(options.figure)
    settings, work = kind(**given(options, kind)), figures.Work(**given(options, figures.Work))
    place = {"folder": options.out, "data_dir": options.data_dir}
    reproduction = (
        figures.Everything(settings, work, **place)
        if isinstance(settings, figures.AllSettings)
        else figures.Reproduction(options.figure, settings, work, **place)
    )
    with closing(RunBoard()) as board:
        plan = reproduction.plan(board)
        said = _said(plan, reproduction.workers)
        if options.dry_run:
            return _print_plan(plan, said, as_json=options.json)
        board.say(said)
        result = reproduction.make(board)
    if options.json:
        print(json.dumps(result))
    else:
        for name, table in reproduction.tables(result):
            if options.figure == figures.ALL:
                print(f"{name}: {FIGURES[name]}\n")
            words = {"text": table.keys, "keys": table.keys, "trailing": table.trailing}
            print_table(list(table.columns), table.words, **words)
            print(f"\n{table.note}\n" if table.note else "")
        print(f"everything is in {reproduction.folder}")
    reproduction.require_whole()
    return 0


def _offered() -> list[tuple[str, str]]:
    """What can be made, and what it shows."""
    return [*FIGURES.items(), (figures.ALL, "all of these, one after the other")]


def _settings_of(figure: str) -> type[Settings]:
    return figures.AllSettings if figure == figures.ALL else FIGURES.load(figure).settings


def _print_plan(plan: Sequence[Mapping[str, Any]], said: str, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(plan))
        return 0
    rows = [
        [row["run"], row["epochs"], row["done"], _time(row["epoch"]), _time(row["left"])]
        for row in plan
    ]
    print_table(["run", "epochs", "done", "an epoch", "left"], rows, text=1)
    print(said)
    return 0


def _said(plan: Sequence[Mapping[str, Any]], workers: int) -> str:
    """The whole of a plan in a line."""
    trained = [row for row in plan if row["epochs"]]
    if not trained:
        return f"{counted(len(plan), 'network')} to look at; nothing is trained"
    left = [row["left"] for row in trained]
    together = max(max(left), sum(left) / workers)
    done = sum(row["done"] == row["epochs"] for row in trained)
    runs = counted(len(trained), "run")
    said = f"{runs}, {done} of them done" if done else runs
    if done == len(trained):
        return f"{said}: nothing is left to train"
    return f"{said}; left about {_time(together)}, {workers} at a time"


def _time(seconds: float | None) -> str:
    """As a person says it."""
    if seconds is None or seconds == 0:
        return "–"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _no_figure(message: str) -> NoReturn:
    """Refuse what stands where a figure should: another word, or that after an option."""
    word = message.partition("'")[2].partition("'")[0]
    said = f"{word}: " if word else ""
    names = ", ".join(name for name, _ in _offered())
    raise UsageError(f"{said}expected a figure first, one of: {names}")
