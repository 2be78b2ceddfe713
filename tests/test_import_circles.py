"""No modules of the package import each other in a circle.

Every import counts: at the top of a module, inside a function, and for annotations alone. A module's edge goes to the
module that it names, and to a submodule that it takes from a package; loading a package on the way to a submodule is
no edge, since each module of a package would then be in a circle with what the package re-exports.
"""

import ast
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def modules(root: Path, package: str) -> dict[str, Path]:
    """Files by module name."""
    found = {}
    for file in sorted((root / package).rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(name: str, file: Path, known: Iterable[str]) -> set[str]:
    """Modules of ``known`` that a module imports anywhere in its text."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            submodules = {f"{base}.{alias.name}" for alias in node.names} & set(known)
            # A package from which only submodules are taken is not read itself.
            names |= submodules if len(submodules) == len(node.names) else submodules | {base}
    return (names & set(known)) - {name}


def import_graph(root: Path, package: str) -> dict[str, set[str]]:
    """Imports of every module of a package, within the package."""
    files = modules(root, package)
    return {name: imported(name, file, files) for name, file in files.items()}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components of more than one node (Tarjan, 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in number:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], number[other])
        if lowest[node] == number[node]:
            component = set()
            while not component or node not in component:
                component.add(stack.pop())
            if len(component) > 1:
                found.append(component)

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return found


def test_no_modules_import_each_other_in_a_circle():
    found = [sorted(component) for component in circles(import_graph(ROOT, "hypergen"))]
    assert not found, f"import circles; move what both sides need into a module of its own: {found}"


def test_every_kind_of_import_is_counted(tmp_path):
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("from pack.a import x\n")
    (package / "a.py").write_text("import os\nx = 1\n")
    (package / "b.py").write_text("def f():\n    from pack import c\n")
    (package / "c.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .d import y\n")
    (package / "d.py").write_text("import pack.b\ny = 1\n")
    assert circles(import_graph(tmp_path, "pack")) == [{"pack.b", "pack.c", "pack.d"}]
    (package / "a.py").write_text("x = 1\ndef f():\n    import pack\n")
    assert {"pack", "pack.a"} in circles(import_graph(tmp_path, "pack"))
