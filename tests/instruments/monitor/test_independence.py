"""Watching imports no framework, and a callback its own alone."""

import ast
from pathlib import Path

import pytest

import gradreg_monitor
from child import HEAVY, imported, packages

CALLBACKS = {"keras": {"keras"}, "lightning": {"lightning", "torch"}, "transformers": {"transformers"}}
FRAMEWORKS = HEAVY | set(CALLBACKS)


def test_the_package_imports_no_framework_and_no_matplotlib() -> None:
    modules = packages(imported("import gradreg_monitor"))
    assert "gradreg_monitor" in modules
    assert modules & (FRAMEWORKS | {"rich"}) == set()


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_imports_its_framework_alone(name: str) -> None:
    tree = ast.parse((Path(gradreg_monitor.__path__[0]) / f"{name}.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert packages(names) & FRAMEWORKS == CALLBACKS[name]
