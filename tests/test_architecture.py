"""Who may import whom: rooms stand one above the other, and an arrow only points down."""

import ast
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import eqprop

ROOT = Path(eqprop.__file__).parent

ROOMS = {
    "errors": "",
    "files": "",
    "registries": "errors",
    "summary": "",
    "version": "",
    "settings": "errors registries",
    "core": "errors registries summary",
    "networks": "core summary",
    "estimators": "core summary",
    "hardware": "core",
    "data": "errors files registries summary",
    "distributed": "errors",
    "training": "errors files core estimators data distributed summary",
    "analysis": "core networks hardware estimators data summary",
    "runs": "errors files registries settings core networks estimators hardware data distributed "
    "training analysis summary version",
    "pictures": "files analysis training",
    "explorer": "errors registries core networks",
    "figures": "errors files registries settings core data training analysis runs pictures",
    "cli": "*",
    "__main__": "cli",
}
"""A room, or a file beside the rooms, and what it may import besides itself."""

WITHOUT_TORCH = ("errors", "files", "registries", "settings", "figures", "cli", "__main__")
"""What ``--help`` needs."""

HEAVY = {"torch", "matplotlib", "sklearn", "scipy", "safetensors", "rich", "pooch", "filelock"}
HEAVY |= {"submitit"}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py")


def inits() -> list[Path]:
    return sorted(ROOT.rglob("__init__.py"))


def name_of(path: Path) -> str:
    """``eqprop.core.models``."""
    return ".".join(("eqprop", *path.relative_to(ROOT).with_suffix("").parts))


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports(path: Path) -> set[tuple[str, bool]]:
    """The modules imported, and whether that happens when the module itself is."""
    tree = ast.parse(path.read_text())
    at_once = {id(node) for node in tree.body}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: relative imports hide what they import"
            if node.module == "eqprop":
                found |= {(f"eqprop.{alias.name}", id(node) in at_once) for alias in node.names}
            else:
                found.add((node.module or "", id(node) in at_once))
        elif isinstance(node, ast.Import):
            found |= {(alias.name, id(node) in at_once) for alias in node.names}
    return found


def test_every_module_has_its_room() -> None:
    assert {room_of(name_of(path)) for path in modules()} == set(ROOMS)


def test_no_arrow_points_up() -> None:
    """The rooms can be put in an order in which each stands above all that it may import."""
    graph = {room: may.split() for room, may in ROOMS.items() if may != "*"}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_only_from_rooms_its_own_may_enter(path: Path) -> None:
    name = name_of(path)
    may = ROOMS[room_of(name)]
    for imported, _ in imports(path):
        if imported.split(".")[0] == "eqprop" and room_of(imported) != room_of(name):
            allowed = may == "*" or room_of(imported) in may.split()
            assert allowed, f"{name} imports {imported}"


def test_no_two_modules_import_each_other() -> None:
    graph = {
        name_of(path): {imported for imported, _ in imports(path) if imported.count(".") > 1}
        for path in modules()
    }
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    "path",
    [p for p in modules() if room_of(name_of(p)) in WITHOUT_TORCH],
    ids=name_of,
)
def test_what_help_needs_loads_nothing_heavy(path: Path) -> None:
    for imported, now in imports(path):
        if not now:
            continue
        assert imported.split(".")[0] not in HEAVY
        if imported.startswith("eqprop.") and imported.count(".") > 1:
            # A module of another room is loaded, a room itself is not, until it is used.
            assert room_of(imported) in WITHOUT_TORCH, imported


@pytest.mark.parametrize("path", inits(), ids=name_of)
def test_a_room_says_what_it_is_for_and_loads_nothing(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
    assert {imported for imported, _ in imports(path)} <= {"lazy_loader"}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_says_what_it_is_and_what_it_offers(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assigned = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert "__all__" in assigned or path.name == "__main__.py"


@pytest.mark.parametrize("stub", sorted(ROOT.rglob("__init__.pyi")), ids=name_of)
def test_every_name_a_room_offers_can_be_had(stub: Path) -> None:
    room = import_module(name_of(stub).removesuffix(".__init__"))
    names = vars(room)["__all__"]
    assert names
    for name in names:
        assert hasattr(room, name)


def test_public_names_say_what_they_are() -> None:
    names = vars(eqprop)["__all__"]
    assert "EquilibriumPropagation" in names
    for name in names:
        assert getattr(eqprop, name).__doc__ or name == "PRESETS"
