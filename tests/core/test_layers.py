"""Which part of the repository may import which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GROUND = ("networks", "cameras", "io", "geometry")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path for folder in ("gld_core", "nodes") for path in sorted((ROOT / folder).rglob("*.py"))
}


def imports(name: str) -> set[str]:
    """The repository's modules that a module imports anywhere in its code."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # A relative import that leaves `nodes` or `gld_core` starts at the repository's root.
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found & MODULES.keys()


def reached(name: str) -> dict[str, str]:
    """Everything that importing a module imports, each with the module that asks for it; packages run __init__."""
    found: dict[str, str] = {}
    left = [name]
    while left:
        importer = left.pop()
        for module in imports(importer):
            parents = [module.rsplit(".", up)[0] for up in range(module.count(".") + 1)]
            for each in parents:
                if each in MODULES and each not in found and each != "gld_core":
                    found[each] = importer
                    left.append(each)
    return found


@pytest.mark.parametrize("folder", GROUND)
def test_the_ground_floor_imports_nothing_above_it(folder):
    allowed = tuple(f"gld_core.{name}" for name in GROUND)
    wrong = [
        f"{MODULES[name].relative_to(ROOT)} imports {module}"
        for name in MODULES
        if name.startswith(f"gld_core.{folder}")
        for module in sorted(imports(name))
        if not module.startswith(allowed) and module != "gld_core"
    ]
    assert wrong == []


def test_the_nodes_load_neither_training_nor_what_renders_rooms():
    wrong = {
        f"{importer} imports {module}"
        for name in MODULES
        if name.startswith("nodes")
        for module, importer in reached(name).items()
        if module.startswith(("gld_core.synthetic", "gld_core.training"))
    }
    assert wrong == set()
