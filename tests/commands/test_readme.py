"""What the documentation shows works: blocks run, and commands have the options they are given."""

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eqprop.cli.main import _parser, main

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted(
    page
    for page in (README, ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"))
    # What is written when the site is built is none of its sources.
    if not page.is_relative_to(ROOT / "docs/_build")
    and not page.is_relative_to(ROOT / "docs/_generated")
)

# A comment of the README says how a block is run.
BLOCKS = re.findall(r"<!-- (.*?) -->\n```python\n(.*?)```", README.read_text(), re.S)


def run(code: str, where: Path) -> str:
    """What a block prints in a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=where, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def errors(out: str) -> list[float]:
    return [float(word) for word in re.findall(r"error ([\d.]+) %", out)]


def test_the_readme_has_at_most_130_lines() -> None:
    assert len(README.read_text().splitlines()) <= 130


def test_every_block_of_the_readme_says_how_it_is_run() -> None:
    assert len(BLOCKS) == len(re.findall(r"```python\n", README.read_text()))
    assert [how for how, _ in BLOCKS] == [
        "runs alone",
        "run after `eqprop train --out runs/digits`",
        "continues the first block",
    ]


def test_the_first_block_of_the_readme_has_at_most_ten_statements_and_learns(
    tmp_path: Path,
) -> None:
    first = BLOCKS[0][1]
    assert len(ast.parse(first).body) <= 10
    found = errors(run(first, tmp_path))
    assert len(found) == 5
    assert found[-1] < 10


def test_the_own_energy_of_the_readme_follows_the_gradient_and_learns(tmp_path: Path) -> None:
    seeded = "import torch\ntorch.manual_seed(0)\n"
    out = run(seeded + BLOCKS[0][1] + BLOCKS[2][1], tmp_path)
    assert "premise: holds" in out
    assert "of parameters ∝ β^1.00" in out
    found = errors(out)
    assert len(found) == 7
    assert found[-1] < 20


def test_what_was_trained_is_opened_in_another_process_as_the_readme_says(tmp_path: Path) -> None:
    words = ["train", "--out", str(tmp_path / "runs/digits"), "--epochs", "3"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(words) == 0
    out = run(BLOCKS[1][1], tmp_path)
    found = re.fullmatch(r"tensor\(\[(.*)\]\) \[(.*)\]\n", out)
    assert found
    said, labels = found[1].split(", "), found[2].split()
    # After three epochs about a tenth of all digits are wrong.
    assert sum(a == b for a, b in zip(said, labels, strict=True)) >= 3


def test_what_the_page_on_gpus_writes_works_on_any_device(tmp_path: Path) -> None:
    page = ROOT / "docs" / "tutorials" / "scaling.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    here = block.replace('"cuda"', '"cpu"').replace('"mnist"', '"digits"')
    shown = "print(model(torch.rand(2, 784)).shape, data)"
    assert "[2, 10]" in run(f"import eqprop, torch\n{here}\n{shown}", tmp_path)


def commands(page: Path) -> Iterator[list[str]]:
    """The words after ``eqprop`` of every line of a page that calls it."""
    shell = r"```(?:sh|\{code-cell\} ipython3\n%%bash)\n(.*?)```"
    for block in re.findall(shell, page.read_text(), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for call in re.findall(r"(?:^|&& |-m |/)eqprop ([a-z].*)", line.strip()):
                yield shlex.split(call, comments=True)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=f"{page.relative_to(ROOT)}: {' '.join(words)[:60]}")
        for page in PAGES
        for words in commands(page)
    ],
)
def test_a_command_of_the_documentation_is_one_that_eqprop_knows(words: list[str]) -> None:
    _, unknown = _parser().parse_known_args(words)
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_a_file_that_a_page_links_to_is_there(page: Path) -> None:
    written_when_built = "_generated/"
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http:", "https:")) and written_when_built not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize(
    "name", ["constraints.txt", "CITATION.cff", "LICENSE", "CHANGELOG.md", "SECURITY.md"]
)
def test_what_the_documentation_relies_on_is_there(name: str) -> None:
    assert (ROOT / name).stat().st_size > 0


def test_the_version_is_the_same_wherever_it_stands() -> None:
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version
    assert f"\nversion: {version[1]}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version[1]} " in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.skipif(os.name != "posix", reason="a script of the shell")
def test_the_first_command_of_the_readme_that_tests_is_the_one_that_ci_runs() -> None:
    ci = ROOT / ".ci/run"
    if not ci.exists():
        pytest.skip("expected .ci/run, which a released archive does not have")
    assert "grep -m 1 -- '-m pytest' README.md" in ci.read_text()
