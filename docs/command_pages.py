"""What every command says of itself, from its ``--help``."""

import os
import subprocess
import sys
from collections.abc import Iterator

from eqprop.cli.main import COMMANDS
from eqprop.registries import FIGURES


def commands() -> Iterator[tuple[str, ...]]:
    """The words of every command that has a help of its own."""
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        yield (name,)
        if name == "reproduce":
            yield from ((name, figure) for figure in (*FIGURES, "all"))


def said(words: tuple[str, ...]) -> str:
    """Its help, as wide as a page."""
    run = subprocess.run(
        [sys.executable, "-m", "eqprop", *words, "--help"],
        env=os.environ | {"COLUMNS": "88"},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.rstrip()


def page() -> str:
    """A section for each."""
    lines = []
    for words in commands():
        lines += [f"{'#' * (1 + len(words))} eqprop {' '.join(words)}", ""]
        lines += ["```text", said(words), "```", ""]
    return "\n".join(lines)
