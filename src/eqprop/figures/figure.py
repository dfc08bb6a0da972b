"""What a published figure is, so that it can be made again in one command.

A figure says which runs it takes, what is to be measured before they are trained, what its numbers
are and how they are drawn; :mod:`eqprop.figures.reproduction` does the rest, whatever the figure.
One file and one line in :data:`~eqprop.registries.FIGURES` make one::

    @final
    class Mine(Figure[MySettings]):
        description = "What it shows, with examples."
        settings = MySettings

        def runs(self, settings: MySettings) -> list[PlannedRun]:
            return [
                PlannedRun(f"p-1h-seed-{seed}", "p-1h", {"epochs": settings.epochs, "seed": seed})
                for seed in settings.seeds
            ]

Its module knows nothing of torch, so that ``--help`` comes at once.
"""

import csv
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

from eqprop import data
from eqprop.figures.run import PlannedRun, Run
from eqprop.settings.fields import Settings

__all__ = ["COLUMNS", "Figure", "Table", "trained_on"]

S = TypeVar("S", bound=Settings)


COLUMNS = {
    "run": "name",
    "epochs": "epochs",
    "train error (%)": "train_error",
    "test error (%)": "test_error",
}
"""What every figure can say of its runs: names in :attr:`Run.row`, by header."""


class Table(NamedTuple):
    """Rows of numbers to be printed, and under which header which of them stand.

    Attributes:
        rows: the numbers, by name.
        columns: names by header.
        keys: how many of the columns say what a row is.
        trailing: how many of the last ones hold words.
        note: what is to be known of all rows, below them.
        details: columns that are in the CSV file too, as they are long.
    """

    rows: Sequence[Mapping[str, Any]]
    columns: Mapping[str, str]
    keys: int = 1
    trailing: int = 0
    note: str = ""
    details: Mapping[str, str] = MappingProxyType({})

    @property
    def words(self) -> list[list[str]]:
        """What stands in it."""
        return [[_word(row[name]) for name in self.columns.values()] for row in self.rows]

    @property
    def markdown(self) -> str:
        """As Markdown, numbers to the right."""
        rows = [list(self.columns), *self.words]
        cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
        right = [all(map(_is_number, column)) for column in zip(*cells[1:], strict=True)]
        rule = ["--:" if aligned else "---" for aligned in right or [False] * len(self.columns)]
        said = "".join(f"| {' | '.join(row)} |\n" for row in (cells[0], rule, *cells[1:]))
        return said + (f"\n{self.note}\n" if self.note else "")

    @property
    def csv(self) -> str:
        """As CSV, with a comma between and a header; what is not known is empty."""
        written = io.StringIO()
        out = csv.writer(written, lineterminator="\n")
        columns = {**self.columns, **self.details}
        out.writerow([header or name for header, name in columns.items()])
        out.writerows([row[name] for name in columns.values()] for row in self.rows)
        return written.getvalue()


def trained_on(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a note says of their ``machine``, of which some have none."""
    machines = dict.fromkeys(row["machine"] for row in rows if row["machine"])
    return f"Trained on {' and '.join(machines)}." if machines else ""


def _is_number(word: str) -> bool:
    return word == "–" or re.fullmatch(r"-?[\d.]+(e[+-]\d+)?", word) is not None


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    # Two digits of a small number too.
    return f"{value:.2g}" if 0 < abs(value) < 0.095 else f"{value:.2f}"


class Figure(ABC, Generic[S]):
    """A published figure or table.

    Its settings have a ``quick``, which scales it down to some minutes on two cores.

    Attributes:
        description: what ``--help`` says of it.
        epilog: the same, below the options.
        settings: its options.
        measured: what :meth:`measure` measures, as messages and folders call one.
    """

    description: str
    epilog: str = ""
    settings: type[S]
    measured: str = "measurement"

    @abstractmethod
    def runs(self, settings: S) -> Sequence[PlannedRun]:
        """All runs that it takes, each of another name."""

    def measure(self, run: PlannedRun, dataset: "data.Dataset") -> dict[str, Any] | None:
        """What JSON can hold of a network before training, measured once and stored; or nothing.

        Raises:
            NonFiniteError: it cannot be measured; the other runs are none the worse for it.
        """

    def accepts(self, measured: Mapping[str, Any]) -> bool:
        """Whether that is what :meth:`measure` gives, and not a file that somebody damaged."""
        return True

    def result(self, settings: S, runs: Sequence[Run]) -> dict[str, Any]:
        """The numbers of the figure, as JSON has them; some runs may not be done."""
        return {"rows": [run.row for run in runs]}

    def tables(self, result: Mapping[str, Any]) -> Sequence[Table]:
        """The numbers as a person wants to read them."""
        return [Table(result["rows"], COLUMNS)]

    def draw(self, settings: S, result: Mapping[str, Any], folder: Path) -> None:
        """Draw the numbers into PNG and SVG files there; in general nothing."""
