"""``eqprop reproduce``: make a published figure again."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from typing import Any, NoReturn

from eqprop import figures
from eqprop.cli.board import RunBoard
from eqprop.cli.options import Parser, add_options, add_usual, given, remember_options
from eqprop.cli.tables import print_table
from eqprop.errors import UsageError
from eqprop.registries import FIGURES

__all__ = ["add", "run"]

_DESCRIPTION = """\
Make a published figure again, in one command. `eqprop reproduce` alone lists what there is;
`eqprop reproduce FIGURE --help` says what a figure shows, and what can be chosen:

  eqprop reproduce fig-1c --dataset digits --epochs 5      no download, some minutes
"""

_END = """\
Stop it at any time: the same command again goes on. Finished runs are kept, others resumed, failed
ones tried again, and with more --epochs all are trained on.

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
    for name, what in FIGURES.items():
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
            figure: figures.Figure[Any] = FIGURES.load(self._figure)
            self._figure = None
            self.description, self.epilog = figure.description, f"{figure.epilog}\n{_END}"
            add_options(self, figure.settings)
            add_options(self, figures.Work)
            add_usual(
                self.add_argument_group("run"),
                out="folder for all of it, new or begun before (default: in runs/, named after the "
                "figure and the data set)",
                json="the numbers",
            )
            remember_options(self)
        return super().parse_known_args(args, namespace)


def run(options: argparse.Namespace) -> int:
    """Make the figure, or list what there is."""
    if options.figure is None:
        print_table(("figure", "what it shows"), list(FIGURES.items()), text=2)
        print("Make one with: eqprop reproduce FIGURE (see eqprop reproduce FIGURE --help)")
        return 0
    figure: figures.Figure[Any] = FIGURES.load(options.figure)
    reproduction = figures.Reproduction(
        options.figure,
        figure.settings(**given(options, figure.settings)),
        figures.Work(**given(options, figures.Work)),
        folder=options.out,
        data_dir=options.data_dir,
    )
    with closing(RunBoard()) as board:
        result = reproduction.make(board)
    if options.json:
        print(json.dumps(result))
    else:
        for table in figure.tables(result):
            print_table(list(table.columns), table.words)
            print()
        print(f"everything is in {reproduction.folder}")
    reproduction.require_whole()
    return 0


def _no_figure(message: str) -> NoReturn:
    """Refuse what stands where a figure should: another word, or that after an option."""
    word = message.partition("'")[2].partition("'")[0]
    said = f"{word}: " if word else ""
    raise UsageError(f"{said}expected a figure first, one of: {', '.join(FIGURES)}")
