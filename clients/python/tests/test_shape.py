"""The structure of the package: which file imports which."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import keepbest

PACKAGE = Path(keepbest.__file__).parent


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, including those imported in functions or for types only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            # `from keepbest import x` imports either the module x or a name of the package.
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {name.removeprefix("keepbest.") for name in names if name.startswith("keepbest.")}
    return {name for name in found if (PACKAGE / f"{name}.py").exists()}


def test_no_file_imports_itself_through_others():
    graph = {path.stem: imports(path) for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    assert len(graph) > 10
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"these files import each other: {' -> '.join(error.args[1])}")


def test_warnings_that_come_once_something_is_made_go_through_the_one_place_that_raises_none():
    """The others come when a callback or a strategy is made, where an error ends no training."""
    found = {path.stem: path.read_text().count("warnings.warn(") for path in PACKAGE.glob("*.py")}
    assert {name: count for name, count in found.items() if count} == {
        "_tell": 1,
        "_callback": 1,
        "keras": 1,
        "strategy": 1,
    }
    assert not [path for path in PACKAGE.glob("*.py") if "warn_explicit" in path.read_text()]
