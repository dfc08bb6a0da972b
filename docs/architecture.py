"""Writes docs/explanation/architecture.md: the house as the code has it, from its docstrings.

::

    python docs/architecture.py            write it
    python docs/architecture.py --check    fail if it is not what would be written

A room is a folder of the package, or a file beside the folders. An arrow is an import, wherever in
a file it stands.
"""

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "src" / "eqprop"
PAGE = HERE / "explanation" / "architecture.md"

INTRODUCTION = """\
# Architecture

<!-- Written from the code by docs/architecture.py: change a docstring, and `make page`. -->

A folder is a *room*, a file one concept. An arrow points to what is imported, and none points up:
`tests/test_architecture.py` holds that. `cli` and `figures` name the rooms below and load them at
first use, so that `--help` needs no torch. What can be chosen by name (estimators, costs,
activations, data sets, figures) stands in `registries`, which knows where it lies and imports it
only when it is asked for.
"""


def rooms() -> dict[str, list[Path]]:
    """The files of every room, its own description first."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py"), key=lambda path: (path.name != "__init__.py", path)):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            found.setdefault(room, []).append(path)
    return found


def imported(path: Path) -> Iterator[str]:
    """The rooms that a file imports, itself or something from them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            origin = (node.module or "").split(".")
            if origin[0] == "eqprop":
                yield from [origin[1]] if len(origin) > 1 else (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("eqprop."))


def summary(path: Path) -> str:
    """The first sentence of what a file says of itself, as Markdown."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    sentence = re.split(r"\.(?:\s|$)", " ".join(text.partition("\n\n")[0].split()))[0]
    sentence = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", sentence)
    return sentence.replace("``", "`").replace("|", r"\|")


def size(paths: list[Path]) -> str:
    """About how many lines: a page that changed with every line would be a nuisance."""
    lines = sum(len(path.read_text().splitlines()) for path in paths)
    return "< 100" if lines < 100 else str(round(lines, -2))


def without_detours(below: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that are left when those are gone that a way over other rooms says already."""

    def reach(room: str) -> set[str]:
        return below[room].union(*(reach(other) for other in below[room]))

    return {
        room: {other for other in to if not any(other in reach(via) for via in to)}
        for room, to in below.items()
    }


def arrows() -> tuple[list[str], dict[str, set[str]]]:
    """The rooms bottom up, and which of them each imports."""
    files = rooms()
    below = {
        room: {to for path in paths for to in imported(path) if to in files} - {room}
        for room, paths in files.items()
    }
    # Sorted, or the page would be another one each time.
    sorter = TopologicalSorter({room: sorted(to) for room, to in below.items()})
    return list(sorter.static_order()), below


def page() -> str:
    """All of docs/explanation/architecture.md."""
    files, (order, below) = rooms(), arrows()
    lines = [INTRODUCTION, "```mermaid", "graph TD"]
    for room, to in sorted(without_detours(below).items(), key=lambda item: -order.index(item[0])):
        lines += [f"    {room} --> {other}" for other in sorted(to, key=order.index)]
    lines += ["```", "", "An arrow that other arrows lead to as well is left out here.", ""]
    lines += [
        "## Rooms, bottom up",
        "",
        "| room | what it is | lines | imports |",
        "|---|---|---|---|",
    ]
    for room in order:
        to = ", ".join(sorted(below[room], key=order.index)) or "nothing"
        name = f"[{room}](#{room})" if len(files[room]) > 1 else room
        lines.append(f"| {name} | {summary(files[room][0])} | {size(files[room])} | {to} |")
    for room in order:
        if len(files[room]) > 1:
            lines += ["", f"## {room}", "", "| file | what it is |", "|---|---|"]
            for path in files[room][1:]:
                if path.name == "__init__.py":
                    continue
                name = path.relative_to(PACKAGE / room).as_posix()
                lines.append(
                    f"| [{name}](../../{path.relative_to(HERE.parent)}) | {summary(path)} |"
                )
    return "\n".join(lines) + "\n"


def main() -> int:
    if "--check" in sys.argv[1:]:
        if PAGE.is_file() and PAGE.read_text() == page():
            return 0
        print(f"{PAGE}: expected what the code says now; run `make page`", file=sys.stderr)
        return 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
