"""Who may import whom: data flows down this list once."""

import ast
from pathlib import Path

import pytest

import eqprop

ROOT = Path(eqprop.__file__).parent

# Each line may import what stands above it, and within itself only where named with an arrow.
LAYERS = [
    ["failures", "jobs"],
    ["activations", "augmentation", "costs", "archives", "checkpoint", "experiment"],
    ["models", "connections", "data", "presets", "run_folder", "memory", "drawing"],
    ["relaxation", "networks", "toy", "theorem_presets", "reproduction"],
    ["estimators", "processes"],
    ["evaluation", "agreement", "settling", "kernels"],
    ["training", "build", "theorem"],
    ["benchmark", "display", "plots", "theorem_plots", "pictures", "gradient_angle"],
    ["run_board", "reproduction_plots"],
    ["commands", "theorem_command", "show_command", "reproduce_command"],
    ["cli"],
    ["__main__", "leashed"],
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
WITHOUT_TORCH = {"cli", "experiment", "presets", "theorem_presets", "archives", "__main__"}
WITHOUT_TORCH |= {"reproduction", "jobs", "leashed"}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path) -> set[tuple[str, bool]]:
    """The modules imported, and whether that happens when the module itself is."""
    tree = ast.parse(path.read_text())
    at_once = {id(node) for node in tree.body}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: relative imports hide what they import"
            found.add((node.module or "", id(node) in at_once))
        elif isinstance(node, ast.Import):
            found |= {(alias.name, id(node) in at_once) for alias in node.names}
    return found


def test_every_module_has_its_place() -> None:
    assert {name_of(path) for path in modules()} == set(RANK)


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    name = name_of(path)
    for imported, _ in imports(path):
        if not imported.startswith("eqprop."):
            assert imported != "eqprop", "import from the module that defines the name"
            continue
        target = imported.split(".")[1]
        if target != name:
            assert RANK[target] < RANK[name], f"{name} imports {target}"


@pytest.mark.parametrize("name", sorted(WITHOUT_TORCH))
def test_what_help_needs_does_not_import_torch(name: str) -> None:
    at_once = {imported.split(".")[0] for imported, now in imports(ROOT / f"{name}.py") if now}
    assert not at_once & {"torch", "matplotlib", "sklearn", "safetensors"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
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


def test_every_public_name_can_be_had() -> None:
    names = vars(eqprop)["__all__"]
    assert "EquilibriumPropagation" in names
    for name in names:
        assert getattr(eqprop, name).__doc__ or name == "PRESETS"
