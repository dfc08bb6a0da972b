"""What the site draws from the code and from the runs, each time it is built: a Sphinx extension.

It lies under ``_generated``, but for the pages of the API, and none of it is kept.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import api_pages
import architecture_drawing
import command_pages
import explorer_example
import jupytext
import results_page
import settings_pages
import two_phases
from sphinx.application import Sphinx

HERE = Path(__file__).parent
NOTEBOOKS = Path("_generated", "notebooks")


def texts() -> Iterator[tuple[Path, str]]:
    """Everything that is written, and where to."""
    for room, text in api_pages.pages():
        yield HERE / "reference" / "api" / f"{room}.md", text
    for name, text in (
        ("commands", command_pages.page()),
        ("settings", settings_pages.settings()),
        ("presets", settings_pages.presets()),
        ("results", results_page.page()),
    ):
        yield HERE / "_generated" / f"{name}.md", text


def write(_: Sphinx) -> None:
    """Renew the files that are not as they should be, so that only those are read again."""
    for path, text in (*texts(), *notebooks()):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    two_phases.draw(HERE / "_generated" / "two-phases.svg")
    architecture_drawing.draw(HERE / "_generated" / "architecture.svg")
    example = HERE / "_generated" / "extra" / "explorer" / "digits.html"
    example.parent.mkdir(parents=True, exist_ok=True)
    example.write_text(explorer_example.page(), encoding="utf-8")


def notebooks() -> Iterator[tuple[Path, str]]:
    """The pages that are notebooks, as Jupyter has them."""
    for folder in (".", "tutorials", "how-to"):
        for page in sorted((HERE / folder).glob("*.md")):
            if "file_format: mystnb" in (text := page.read_text()):
                notebook = jupytext.reads(text, fmt="md:myst")
                # A cell would have another name each time.
                for i, cell in enumerate(notebook.cells):
                    cell["id"] = f"cell-{i}"
                    if cell["cell_type"] == "markdown":
                        cell["source"] = _alone(cell["source"], page.parent)
                yield HERE / NOTEBOOKS / f"{page.stem}.ipynb", jupytext.writes(notebook, "ipynb")


def _alone(text: str, folder: Path) -> str:
    """A text whose links lead nowhere outside of the site: what they say is left of them."""

    def title(link: re.Match[str]) -> str:
        said, page = link[1], folder / link[2]
        return f"*{said or re.search(r'^# (.*)', page.read_text(), re.M)[1]}*"  # pyright: ignore[reportOptionalSubscript]

    text = re.sub(r"\[([^\]]*)\]\(([\w./-]+\.md)[^)]*\)", title, text)
    return re.sub(r"\{py:\w+\}`(?:[^`<]*<)?([^`>]*)>?`", r"`\1`", text)


def offered(_: Sphinx, name: str, source: list[str]) -> None:
    """Below a page that is a notebook, the notebook."""
    file = NOTEBOOKS / f"{name.rpartition('/')[2]}.ipynb"
    if "file_format: mystnb" in source[0] and (HERE / file).exists():
        up = "../" * name.count("/")
        source[0] += f"\n\n{{download}}`This page as a notebook <{up}{file}>`, for Jupyter.\n"


def drawn(_: Sphinx, name: str, source: list[str]) -> None:
    """A picture for what hosts of repositories draw themselves, by a script from elsewhere."""
    if name == "explanation/architecture":
        picture = "![Who imports whom](../_generated/architecture.svg)"
        source[0] = re.sub(r"```mermaid\n.*?```", picture, source[0], flags=re.S)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write)
    app.connect("source-read", drawn)
    app.connect("source-read", offered)
    app.connect("missing-reference", api_pages.by_another_name)
    return {"parallel_read_safe": True}
