"""Planted defects: small mistakes that the tests must notice.

Each is planted in a copy of the package, and the tests named beside it must then fail; without any
they must pass. One that goes unnoticed, or that no longer fits, makes this script fail::

    python tests/planted_defects.py            all of them
    python tests/planted_defects.py beta       those that have the word in them
    python tests/planted_defects.py --list     what there is, and whether it fits; plants nothing
    python tests/planted_defects.py --part 2/3 the second of every three

They stand in ``planted_defects.txt``, below the symbol whose code goes wrong::

    EquilibriumPropagation.estimate
        lost 1/β
            -1 / (A - B) -> -1.0
            a_field_that_is_a_gradient_learns_like_its_phi

A *symbol* is a class, a function, a method, or a name that is assigned; as much of its dotted path
as makes it the only one. The *change* turns one expression, or one statement, of that symbol into
another. Single capital letters stand for any expression, formatting plays no part, and it must fit
in one place, unless it says in which of how many: ``(2 of 3)``. ``drop X`` takes away a statement,
or an argument, ``drop name=X``. The last line are words of the *tests* that must notice: parts of
``test_file::test_name``. So neither a move between files nor a renamed variable disturbs a defect.
"""

import argparse
import ast
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "src" / "eqprop"
# What most tests import, apart from the package itself: loaded once, and inherited by all.
PRELOADED = ["hypothesis", "matplotlib.figure", "pytest", "rich", "safetensors.torch", "sklearn"]
PATIENCE = 300
"""Seconds after which tests that still run have noticed the defect: without it they are quick."""


class Defect(NamedTuple):
    """One mistake, as it stands in the list."""

    symbol: str
    description: str
    change: str
    tests: str


class MisfitError(Exception):
    """A defect that fits the sources or the tests no longer."""


def defects() -> list[Defect]:
    """The list."""
    found, symbol, block = [], "", []
    for line in (HERE / "planted_defects.txt").read_text().splitlines():
        indent, text = len(line) - len(line.lstrip()), line.strip()
        if not text or text.startswith("#"):
            continue
        if indent == 0:
            symbol = text
        else:
            block.append(text)
        if len(block) == 3:
            found.append(Defect(symbol, *block))
            block = []
    return found


# Where a symbol is


def definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.stmt]]:
    """The name and the code of all that a module defines, inside classes too."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield f"{prefix}{node.name}", node
        if isinstance(node, ast.ClassDef):
            yield from definitions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign):
            yield from ((f"{prefix}{ast.unparse(target)}", node) for target in node.targets)


@cache
def places() -> list[tuple[Path, str]]:
    """The file and the name of every symbol of the package."""
    return [
        (path, name)
        for path in sorted(PACKAGE.rglob("*.py"))
        for name, _ in definitions(ast.parse(path.read_text()).body)
    ]


def place(symbol: str) -> tuple[Path, str]:
    """The file and the name of a symbol, before which may stand as much as tells it from others."""
    found = []
    for path, name in places():
        module = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
        if symbol.endswith(name) and f".{module}.{name}".endswith(f".{symbol}"):
            found.append((path, name))
    if len(found) != 1:
        files = ", ".join(str(path.relative_to(PACKAGE)) for path, _ in found) or "none"
        raise MisfitError(f"expected one symbol {symbol}, found {files}")
    return found[0]


# What goes wrong in it


def parsed(change: str) -> tuple[ast.AST, ast.AST | None]:
    """A pattern, and what is put in its place: nothing, for an argument that is dropped."""
    if change.startswith("drop "):
        pattern = one(change.removeprefix("drop "))
        return pattern, None if isinstance(pattern, ast.keyword) else ast.Pass()
    old, new = map(one, change.split(" -> "))
    if isinstance(old, ast.Expr) and isinstance(new, ast.Expr):
        return old.value, new.value
    return old, new


def one(text: str) -> ast.AST:
    """A statement, or, without a space at its ``=``, an argument."""
    if re.match(r"\w+=[^ =]", text):
        return ast.parse(f"f({text})", mode="eval").body.keywords[0]  # type: ignore[attr-defined]
    (statement,) = ast.parse(text).body
    return statement


def fits(pattern: Any, code: Any, letters: dict[str, ast.AST]) -> bool:
    """Whether the code is an instance of the pattern; ``letters`` gets what they stand for."""
    if isinstance(pattern, ast.Name) and re.fullmatch("[A-Z]", pattern.id):
        known = letters.setdefault(pattern.id, code)
        return isinstance(code, ast.expr) and ast.dump(known) == ast.dump(code)
    if isinstance(pattern, ast.AST):
        return type(pattern) is type(code) and all(
            fits(getattr(pattern, name, None), getattr(code, name, None), letters)
            for name in pattern._fields
        )
    if isinstance(pattern, list):
        return len(pattern) == len(code) and all(
            fits(a, b, letters) for a, b in zip(pattern, code, strict=True)
        )
    return pattern == code


class Filled(ast.NodeTransformer):
    """Puts in the place of letters what they stand for."""

    def __init__(self, letters: dict[str, ast.AST]) -> None:
        self.letters = letters

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.letters.get(node.id, node)


def replace(parent: ast.AST, old: ast.AST, new: ast.AST | None) -> None:
    """Put another node into the place of one below the parent, or nothing."""
    for name, value in ast.iter_fields(parent):
        if value is old:
            setattr(parent, name, new)
        elif isinstance(value, list):
            items = [new if item is old else item for item in value]
            setattr(parent, name, [item for item in items if item is not None])


def planted(defect: Defect) -> tuple[Path, str]:
    """The file that the defect goes into, and what that says then.

    Raises:
        MisfitError: the symbol is not there, or the change does not fit into it.
    """
    path, name = place(defect.symbol)
    tree = ast.parse(path.read_text())
    said = re.fullmatch(r"(.*?)(?: \((\d) of (\d)\))?", defect.change)
    assert said is not None
    (old, new), which, count = parsed(said[1]), int(said[2] or 1), int(said[3] or 1)
    matches: list[tuple[Any, ast.AST, dict[str, ast.AST]]] = [
        (code, parent, letters)
        for parent in ast.walk(dict(definitions(tree.body))[name])
        for code in ast.iter_child_nodes(parent)
        if fits(old, code, letters := {})
    ]
    if len(matches) != count:
        raise MisfitError(
            f"expected {said[1]!r} to fit {count} times, it does {len(matches)} times"
        )
    matches.sort(key=lambda match: (match[0].lineno, match[0].col_offset))
    code, parent, letters = matches[which - 1]
    replace(parent, code, new and Filled(letters).visit(new))
    return path, ast.unparse(tree)


# Who must notice


@cache
def tests() -> list[tuple[str, str]]:
    """What every test is called, ``test_file::test_name``, and its address for pytest."""
    return [
        (f"{path.stem}::{node.name}", f"{path}::{node.name}")
        for path in sorted(HERE.rglob("test_*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def noticing(defect: Defect) -> list[str]:
    """The addresses of the tests that must notice.

    Raises:
        MisfitError: a word that no test has.
    """
    found = []
    for word in defect.tests.split():
        having = [address for name, address in tests() if word in name]
        if not having:
            raise MisfitError(f"expected tests that have {word!r} in their names, found none")
        found += having
    return list(dict.fromkeys(found))


def run(folder: str, addresses: list[str], options: tuple[str, ...]) -> None:
    """In a process of its own: the tests, with the package that lies in the folder."""
    os.chdir(folder)
    os.environ["PYTHONPATH"] = folder  # for the processes that tests start
    sys.path.insert(0, folder)
    with Path("output").open("w") as output, redirect_stdout(output), redirect_stderr(output):
        import hypothesis
        import pytest

        # The same examples each time, and no time spent on one that fails and is smaller.
        phases = [hypothesis.Phase.generate]
        hypothesis.settings.register_profile("planted", phases=phases, derandomize=True)
        hypothesis.settings.load_profile("planted")
        # Whatever its markers: what is named is run.
        code = pytest.main([*options, "-q", "-m", "", "-p", "no:cacheprovider", *addresses])
    # Not as its exit status, which is not to be relied on where several threads start processes.
    Path("code").write_text(str(int(code)))


def fail(addresses: list[str], wrong: tuple[Path, str] | None, *options: str) -> tuple[str, str]:
    """What the tests say where one file of the package says something else, and their output.

    Returns:
        ``caught`` or ``MISSED``; ``UNTRIED`` where the tests cannot run, which proves nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE, Path(folder, PACKAGE.name))
        if wrong is not None:
            path, text = wrong
            Path(folder, path.relative_to(PACKAGE.parent)).write_text(text)
        process = SERVER.Process(target=run, args=(folder, addresses, options))
        process.start()
        process.join(None if wrong is None else PATIENCE)
        if process.is_alive():
            process.kill()
            return "caught", "the tests did not end"
        code = Path(folder, "code").read_text() if Path(folder, "code").exists() else "none"
        verdict = {"0": "MISSED", "1": "caught"}.get(code, "UNTRIED")
        return verdict, Path(folder, "output").read_text()


def plant(defect: Defect) -> tuple[str, float, str]:
    """What the tests say once the defect is planted, after how many seconds, and their output."""
    started = time.perf_counter()
    verdict, output = fail(noticing(defect), planted(defect), "-x")
    return verdict, time.perf_counter() - started, output


def check(chosen: list[Defect]) -> int:
    """How many of the defects do not fit."""
    misfits = 0
    for defect in chosen:
        try:
            planted(defect)
            noticing(defect)
        except (MisfitError, SyntaxError) as error:
            misfits += 1
            print(f"DOES NOT FIT  {defect.symbol}: {defect.description}: {error}")
    return misfits


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("words", nargs="*", help="only those that have all of these in them")
    parser.add_argument("--list", action="store_true", help="plant nothing, but check that all fit")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="the I-th of every N")
    options = parser.parse_args()
    chosen = [d for d in defects() if all(word in " ".join(d) for word in options.words)]
    number, parts = map(int, options.part.split("/"))
    chosen = chosen[number - 1 :: parts]
    if not chosen:
        parser.error(f"no planted defect has all of: {' '.join(options.words)}")
    if misfits := check(chosen):
        print(f"{misfits} of {len(chosen)} planted defects do not fit")
        return 1
    if options.list:
        print(*(f"{defect.symbol}: {defect.description}" for defect in chosen), sep="\n")
        return 0
    started, found = time.perf_counter(), 0
    with ThreadPoolExecutor(2) as workers:
        # Tests that fail anyway would notice everything.
        everyone = list(dict.fromkeys(test for defect in chosen for test in noticing(defect)))
        anyway = workers.submit(fail, everyone, None)
        for defect, said in zip(chosen, workers.map(plant, chosen), strict=True):
            verdict, seconds, output = said
            print(f"{verdict}  {seconds:5.1f} s  {defect.description}", flush=True)
            if verdict == "UNTRIED":
                print(output)
            found += verdict == "caught"
        verdict, output = anyway.result()
    seconds = time.perf_counter() - started
    print(f"{found} of {len(chosen)} planted defects caught in {seconds:.0f} s")
    if verdict != "MISSED":
        print(f"the tests must pass without any defect, but do not:\n{output}")
    return 0 if found == len(chosen) and verdict == "MISSED" else 1


SERVER = multiprocessing.get_context("forkserver")

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    SERVER.set_forkserver_preload(PRELOADED)
    sys.exit(main())
