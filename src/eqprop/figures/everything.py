"""``all``: every published figure and table, one after the other, in one folder.

Each has a folder of its own in it, the runs lie together in ``runs/``: a network that several take
is trained once. What fails in one leaves the others alone.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, final

from eqprop.errors import Failure, UsageError
from eqprop.figures.figure import Figure, Table
from eqprop.figures.reproduction import TRAINER, Known, Reproduction, Watcher, Work
from eqprop.files import write_atomically
from eqprop.registries import DATASETS, FIGURES
from eqprop.settings.fields import Settings, different, seeds, setting

__all__ = ["ALL", "AllSettings", "Everything"]

ALL = "all"
"""What stands for all figures on the command line."""


@final
@dataclass(frozen=True, kw_only=True)
class AllSettings(Settings):
    """How much of everything to make.

    Raises:
        ConfigurationError: a setting outside what is allowed.
    """

    items: tuple[str, ...] = setting(
        (),
        "which figures and tables",
        allowed=different("different figures and tables", lambda _: True),
        choices=FIGURES,
        shown="all there are",
    )
    seeds: tuple[int, ...] = setting(
        (0,),
        "of the initial weights and the order of the data, a trial each",
        allowed=seeds(),
        shown="0; published: 5 trials",
    )
    recipe: tuple[Literal["published", "own"], ...] | None = setting(
        None,
        "the published settings, our own for the same networks, or both, where there is a choice",
        allowed=different("published, own or both", lambda _: True, lambda n: n > 0),
        shown="as each figure has it",
    )
    dataset: str | None = setting(
        None, "what all learn", choices=DATASETS, shown="mnist, as published"
    )
    quick: bool = setting(False, "each as with its own --quick: minutes on two cores")

    @property
    def chosen(self) -> list[str]:
        """The figures, in the order of their registry."""
        return [name for name in FIGURES if not self.items or name in self.items]

    def of(self, figure: Figure[Any]) -> Settings:
        """Those of one figure; what it has not is left out."""
        known = figure.settings.__dataclass_fields__
        wanted: dict[str, Any] = {"quick": self.quick, "seeds": self.seeds, "seed": self.seeds[0]}
        if self.dataset is not None:
            wanted["dataset"] = self.dataset
        if self.recipe is not None:
            # Where there is room for one alone, both are no choice.
            several = "recipe" in known and isinstance(known["recipe"].default, tuple)
            if several or len(self.recipe) == 1:
                wanted["recipe"] = self.recipe if several else self.recipe[0]
        return figure.settings(**{name: value for name, value in wanted.items() if name in known})


@final
class Everything:
    """All figures on their way; it is used as a :class:`~eqprop.figures.Reproduction` is.

    Attributes:
        description: what ``--help`` says of it.

    Args:
        settings: which.
        work: how it is done.
        folder: for all of it, new or begun before; ``runs/all`` if not given.
        data_dir: where the data sets lie.
        trainer: the command that ``train …`` is added to.

    Raises:
        ConfigurationError: settings that a run cannot have.
    """

    description: ClassVar[str] = """\
Every published figure and table, one after the other. A network that several of them take is
trained once.

  eqprop reproduce all --quick               everything in minutes, right in kind
  eqprop reproduce all --dry-run             what it would take here, as published
  eqprop reproduce all --items fig-1b speed  these two
"""

    def __init__(
        self,
        settings: AllSettings,
        work: Work,
        *,
        folder: Path | None = None,
        data_dir: str | None = None,
        trainer: Sequence[str] = TRAINER,
    ) -> None:
        self.folder = folder or Path("runs") / ALL
        known = Known()
        self._parts = {
            name: Reproduction(
                name,
                settings.of(FIGURES.load(name)),
                work,
                folder=self.folder / name,
                data_dir=data_dir,
                trained_in=self.folder / "runs",
                known=known,
                trainer=trainer,
            )
            for name in settings.chosen
        }

    @property
    def workers(self) -> int:
        """How many runs are trained at a time."""
        return max(part.workers for part in self._parts.values())

    def plan(self, watcher: Watcher) -> list[dict[str, Any]]:
        """What is to be trained, see :meth:`~eqprop.figures.Reproduction.plan`; each run once.

        Raises:
            UsageError: the folder holds something else.
            Failure: the data is not to be had, or the memory too small.
        """
        self._require_ours()
        rows: dict[str, dict[str, Any]] = {}
        for part in self._parts.values():
            for row in part.plan(watcher):
                known = rows.setdefault(row["run"], row)
                if row["epochs"] > known["epochs"]:
                    rows[row["run"]] = row
        return list(rows.values())

    def make(self, watcher: Watcher) -> dict[str, Any]:
        """Make one after the other.

        Returns:
            The numbers of each, by its name.

        Raises:
            UsageError: a folder holds something else.
            Failure: stopped before all was done, or another process works there.
        """
        self._require_ours()
        found: dict[str, Any] = {}
        for name, part in self._parts.items():
            watcher.say(f"{name}: {FIGURES[name]}")
            found[name] = part.make(watcher)
            self._write(found)
        return found

    def tables(self, result: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
        """What is to be read of each figure, below its name."""
        for name, of in result.items():
            yield from self._parts[name].tables(of)

    def require_whole(self) -> None:
        """Say what failed.

        Raises:
            Failure: something did.
        """
        said = []
        for name, part in self._parts.items():
            try:
                part.require_whole()
            except Failure as failure:
                said.append(f"{name}: {failure}")
        if said:
            raise Failure("; ".join(said))

    def _require_ours(self) -> None:
        """Refuse a folder that holds something else."""
        known = {*FIGURES, "runs", f"{ALL}.json", f"{ALL}.md"}
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if path.name not in known and not path.name.startswith("."):
                    raise UsageError(
                        f"{self.folder}: expected a new or empty folder, or that of `eqprop "
                        f"reproduce {ALL}` begun before, found {path.name} there; choose another "
                        "--out"
                    )

    def _write(self, found: Mapping[str, Any]) -> None:
        said: dict[str, list[str]] = {}
        for name, table in self.tables(found):
            said.setdefault(name, []).append(table.markdown)
        written = "\n".join(
            f"## {name}\n\n{FIGURES[name]}\n\n" + "\n".join(tables) for name, tables in said.items()
        )
        write_atomically(self.folder / f"{ALL}.md", written.encode())
        write_atomically(self.folder / f"{ALL}.json", (json.dumps(found, indent=2) + "\n").encode())
