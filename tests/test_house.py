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


@pytest.mark.parametrize("path", ALL, ids=relative)
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_public_names_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree), "the module has no docstring"
    assert not list(undocumented(tree))


@pytest.mark.parametrize("path", ALL, ids=relative)
def test_nothing_is_left_to_do(path: Path) -> None:
    text = path.read_text("utf-8")
    words = "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "raise NotImplemented" + "Error"))
    assert not re.search(rf"\b({words})\b", text)


@pytest.mark.parametrize("path", [p for p in SOURCES if PACKAGES["cnngraph"] in p.parents], ids=relative)
def test_the_core_imports_no_backend_by_name(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    allowed = {"cnngraph_models"} if path.parent.name == "cli" else set()
    assert {name for name in imported if name.startswith("cnngraph_")} <= allowed


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "marshal", "shelve", "dill"}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "eval"


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
