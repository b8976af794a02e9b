# SPDX-License-Identifier: Apache-2.0
"""Imports run one way: from the commands down to the operator, without circles."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    ("errors", "ops", ""),
    ("layers", "selecting", "datasets", "checkpoint", "utils"),
    ("analysis", "visualization", "deploy"),
    ("engine",),
    ("models",),
    ("apis", "comparison"),
    ("demo",),
    ("tools", "__main__"),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path for path in sorted((ROOT / "mmcarafe").rglob("*.py")) if ".mim" not in path.parts
}
COMMANDS = {module_name(path): path for path in sorted((ROOT / "tools").rglob("*.py"))}


def imports(name: str, path: Path) -> Iterator[str]:
    """Yield the modules of this package that a file imports, those inside functions too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            found = [f"{source}.{alias.name}" for alias in node.names]
            found = [whole if whole in MODULES else source for whole in found]
        else:
            continue
        yield from (module for module in found if module.split(".")[0] == "mmcarafe")


def room(name: str) -> str:
    parts = name.split(".")
    return parts[0] if parts[0] == "tools" else parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("name", MODULES | COMMANDS)
def test_a_module_imports_its_own_floor_and_those_below(name):
    if not room(name):  # the package itself: torch is all that it needs
        assert {room(module) for module in imports(name, MODULES[name])} == {"ops"}
        return
    for module in imports(name, (MODULES | COMMANDS)[name]):
        assert FLOOR_OF[room(module)] <= FLOOR_OF[room(name)], f"{name} imports {module}, which is above it"


def test_there_are_no_circles():
    graph = {name: set(imports(name, path)) - {name} for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, with the circle


def test_rooms_of_one_floor_have_no_circles():
    graph = {}
    for name, path in MODULES.items():
        graph.setdefault(room(name), set()).update(map(room, imports(name, path)))
    TopologicalSorter({name: rooms - {name, ""} for name, rooms in graph.items()}).prepare()


def test_every_room_has_a_floor():
    assert set(map(room, MODULES)) == set(FLOOR_OF) - {"tools"}


def test_no_two_test_files_have_one_name():
    """pytest imports them by their names alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
