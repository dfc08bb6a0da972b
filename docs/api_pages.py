"""The API reference, from the docstrings: a page per room, and where references lead.

A page holds the mathematics of every module of its room, which is its docstring, and what can be
imported from it, by its shortest name. References of docstrings to any other name of the same thing
lead there.
"""

import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import architecture
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer

import eqprop

# Bottom up, as one reads them; what belongs to the command line alone is told by its help.
ROOMS = (
    "core",
    "networks",
    "estimators",
    "hardware",
    "data",
    "training",
    "analysis",
    "pictures",
    "explorer",
    "runs",
    "settings",
    "distributed",
    "registries",
    "errors",
)


def public(module: Any, room: Any) -> Iterator[tuple[str, Any]]:
    """What a module defines that can be imported from the package or its room: name, and itself."""
    said = ModuleAnalyzer.for_module(module.__name__).find_attr_docs()
    for name in getattr(module, "__all__", ()):
        for home in (eqprop, room):
            what = getattr(module, name)
            # A constant of which nothing is said would be documented by its type.
            if name in getattr(home, "__all__", ()) and (
                inspect.isclass(what) or inspect.isroutine(what) or ("", name) in said
            ):
                yield f"{home.__name__}.{name}", what
                break


def directive(name: str, what: Any, home: str) -> list[str]:
    """How Sphinx is told to document it, which finds what is said of a constant at home alone."""
    if inspect.isclass(what):
        return [f".. autoclass:: {name}", "   :members:", "   :show-inheritance:"]
    if inspect.isroutine(what):
        return [f".. autofunction:: {name}"]
    return [f".. autodata:: {home}.{name.rpartition('.')[2]}", "   :no-value:"]


def dotted(path: Path) -> str:
    """The name of the module in a file."""
    parts = path.relative_to(architecture.PACKAGE).with_suffix("").parts
    return ".".join(("eqprop", *parts)).removesuffix(".__init__")


def pages() -> Iterator[tuple[str, str]]:
    """A room, and its page."""
    for room, paths in architecture.rooms().items():
        if room not in ROOMS:
            continue
        whole = importlib.import_module(f"eqprop.{room}")
        lines = [f"# eqprop.{room}", ""]
        for path in paths:
            name = dotted(path)
            members = list(public(importlib.import_module(name), whole))
            if name != whole.__name__:
                if not members:
                    continue
                lines += [f"## {name.removeprefix(whole.__name__ + '.')}", ""]
            lines += ["```{eval-rst}", f".. automodule:: {name}", ""]
            if path.name != "__init__.py":
                for member in members:
                    lines += [*directive(*member, name), ""]
            lines += ["```", ""]
        yield room, "\n".join(lines)


@cache
def documented() -> dict[tuple[str, str], str]:
    """The name under which something is documented, by module and name where it is defined."""
    return {
        (module.__name__, name.rpartition(".")[2]): name
        for room in ROOMS
        for path in architecture.rooms()[room]
        for module in (importlib.import_module(dotted(path)),)
        for name, _ in public(module, importlib.import_module(f"eqprop.{room}"))
    }


def by_another_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.Node | None:
    """Where ``eqprop.core.Cost`` leads: to that under the name by which it is documented.

    What exists and is not documented stays a word; what does not exist is an error of the page.
    """
    target = str(node["reftarget"])
    if node.get("refdomain") != "py" or not target.startswith("eqprop."):
        return None
    what: Any = eqprop
    names = documented()
    name = ""
    for part in target.split(".")[1:]:
        if not hasattr(what, part):
            try:
                importlib.import_module(f"{what.__name__}.{part}")
            except (ImportError, AttributeError):
                return None
        what = getattr(what, part)
        home = (getattr(what, "__module__", ""), getattr(what, "__qualname__", part))
        name = names.get(home, f"{name}.{part}" if name else "")
    found = env.get_domain("py").resolve_xref(
        env, node["refdoc"], app.builder, "obj", name or target, node, contnode
    )
    return found or contnode
