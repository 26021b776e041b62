"""Habits of this repository that ruff and mypy do not check."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "cnngraph": ROOT / "cnngraph",
    "cnngraph_cpu": ROOT / "backends" / "cnngraph_cpu",
    "cnngraph_cuda": ROOT / "backends" / "cnngraph_cuda",
    "cnngraph_models": ROOT / "models" / "cnngraph_models",
}
SOURCES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
ALL = SOURCES + sorted(path for name in ("tests", "benchmarks", "models") for path in (ROOT / name).rglob("*.py") if path not in SOURCES)
LONGEST = 600
DESCRIBED_BY_THEIR_PROTOCOL = {"infer", "reference", "cost"}
"""Of Op (cnngraph/ops/base.py) and Template (cnngraph/kernels/template.py), which say what these methods do."""


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    """Every source parsed, which takes a second: not when tests are collected."""
    return {path: ast.parse(path.read_text("utf-8")) for path in SOURCES}


def undocumented(scope: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Public functions, classes and methods without a docstring; the methods of a protocol are described there."""
    for node in scope.body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        inherited = isinstance(scope, ast.ClassDef) and node.name in DESCRIBED_BY_THEIR_PROTOCOL
        if not inherited and not ast.get_docstring(node):
            yield f"{node.lineno}: {node.name}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node)


def test_files_stay_short() -> None:
    lengths = {relative(path): len(path.read_text("utf-8").splitlines()) for path in ALL}
    assert not {name: length for name, length in lengths.items() if length > LONGEST}


def test_public_names_are_documented(trees: dict[Path, ast.Module]) -> None:
    missing = {relative(path): list(undocumented(tree)) + ["the module"] * (not ast.get_docstring(tree)) for path, tree in trees.items()}
    assert not {name: lines for name, lines in missing.items() if lines}


def test_nothing_is_left_to_do() -> None:
    words = "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "raise NotImplemented" + "Error"))
    assert not [relative(path) for path in ALL if re.search(rf"\b({words})\b", path.read_text("utf-8"))]


def imports(tree: ast.Module) -> set[str]:
    """The modules that ``tree`` imports, or imports from; and the names imported from them."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
    return found


def test_the_core_imports_no_backend_by_name(trees: dict[Path, ast.Module]) -> None:
    for path in (path for path in SOURCES if PACKAGES["cnngraph"] in path.parents):
        allowed = {"cnngraph_models"} if path.parent.name == "cli" else set()
        packages = {name.partition(".")[0] for name in imports(trees[path])}
        assert {name for name in packages if name.startswith("cnngraph_")} <= allowed, relative(path)


def test_nothing_is_unpickled_or_evaluated(trees: dict[Path, ast.Module]) -> None:
    for path, tree in trees.items():
        assert not imports(tree) & {"pickle", "marshal", "shelve", "dill"}, relative(path)
        calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        assert "eval" not in calls, relative(path)


@pytest.mark.parametrize("folder", PACKAGES.values(), ids=PACKAGES)
def test_every_folder_of_a_package_is_a_package(folder: Path) -> None:
    with_code = {path.parent for path in folder.rglob("*.py")}
    assert all((place / "__init__.py").is_file() for place in with_code)
    assert (folder / "py.typed").is_file()


def test_packaging_names_what_exists() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert settings["project"]["scripts"]["cnngraph"] == "cnngraph.cli:main"
    assert settings["project"]["entry-points"]["cnngraph.backends"] == {"cpu": "cnngraph_cpu:backend", "cuda": "cnngraph_cuda:backend"}
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_importing_cnngraph_loads_nothing_heavy() -> None:
    code = "import sys, cnngraph; print(*(m for m in ('numpy', 'numba', 'onnx', 'llvmlite', 'networkx', 'click') if m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_public_names_exist() -> None:
    import cnngraph

    for name in cnngraph.__all__:
        assert getattr(cnngraph, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cnngraph.nonsense
