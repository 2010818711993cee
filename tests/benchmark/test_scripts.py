"""The scripts of benchmarks/, which CI does not run, import what exists."""

import ast
import runpy
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.conftest import ROOT

OURS = ("hiphop_train", "tests.")
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


def imports(code: str) -> Iterator[ast.ImportFrom]:
    """Yield all imports from this package, also in functions and in code that is passed on as a string."""
    nodes = list(ast.walk(ast.parse(code)))
    optional = {node for attempt in nodes if isinstance(attempt, ast.Try) for node in ast.walk(attempt)}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node not in optional and (node.module or "").startswith(OURS):
            yield node
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\nfrom hiphop_train" in node.value:
            yield from imports(node.value)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script_imports_what_exists(script: Path) -> None:
    runpy.run_path(str(script), run_name="script")  # without its main
    for node in imports(script.read_text()):
        module = import_module(node.module or "")
        assert all(hasattr(module, alias.name) or import_module(f"{node.module}.{alias.name}") for alias in node.names)


def test_embedded_imports_are_found() -> None:
    names = [node.module for node in imports((ROOT / "benchmarks" / "packing.py").read_text())]
    assert "hiphop_train.data.store.pack" in names
