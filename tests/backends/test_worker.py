"""What the compiler process does to a source before Numba sees it: names are made unique, results stay."""

from __future__ import annotations

import ast
import platform
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnngraph.errors import UsageError
from cnngraph.ops import Conv
from cnngraph.ops.expression import Expression
from cnngraph_cpu import backend
from cnngraph_cpu.jit import _Worker, compile_sources
from cnngraph_cpu.worker import _LEFT_OUT, _pipeline, remember_signatures, single_assignments
from tests.backends.template_cases import Case, plan, requests

SOURCES = {
    "straight": "a = n\nb = a + 1\na = b * 2\nb = a + b\nout.append(a + b)",
    "carried": "a = 0\nfor i in range(n):\n    a = a + i\n    a = a * 2\nout.append(a)",
    "two_loops": "for i in range(n):\n    a = i\n    a = a + 1\n    out.append(a)\n"
    "for i in range(n):\n    a = i * i\n    out.append(a)\n    a = 7",
    "left_by_the_loop": "for i in range(n):\n    a = i\n    out.append(a)\nif n:\n    out.append(a)",
    "read_before": "a = 5\nfor i in range(n):\n    out.append(a)\n    a = i",
    "changed_inside": "a = 1\nif n > 2:\n    a = 2\nout.append(a)\na = 3\nout.append(a)",
    "parameter": "m = n\nn = m + 1\nn = n + m\nout.append(n)",
    "augmented": "a = 1\na += n\na = a + 1\nout.append(a)",
    "several": "a, b = n, 2\na, b = b, a\nout.append(a - b)\na = b = 4\nout.append(a + b)",
    "while": "a = 0\nwhile a < n:\n    b = a + 1\n    a = b\n    b = a * 2\n    out.append(b)",
    "branches": "if n > 3:\n    a = n\n    a = a + 1\n    out.append(a)\nelse:\n    a = -n\n    a = a - 1\n    out.append(a)",
}


def built(text: str, change: Callable[[list[ast.stmt]], None]) -> tuple[Callable[..., None], ast.FunctionDef]:
    tree = ast.parse("def f(n, out):\n" + textwrap.indent(text, "    "))
    (function,) = tree.body
    assert isinstance(function, ast.FunctionDef)
    change(function.body)
    names: dict[str, Any] = {}
    exec(compile(tree, "generated", "exec"), names)
    return names["f"], function


@pytest.mark.parametrize("name", SOURCES)
def test_results_stay(name: str) -> None:
    before, _ = built(SOURCES[name], lambda body: None)
    after, _ = built(SOURCES[name], single_assignments)
    for n in range(6):
        wanted: list[int] = []
        found: list[int] = []
        before(n, wanted)
        after(n, found)
        assert found == wanted


@pytest.mark.parametrize(
    ("name", "kept"), [("straight", set()), ("carried", {"a"}), ("two_loops", set()), ("while", {"a"}), ("branches", set())]
)
def test_which_names_are_parted(name: str, kept: set[str]) -> None:
    _, function = built(SOURCES[name], single_assignments)
    targets = [target for node in ast.walk(function) if isinstance(node, ast.Assign) for target in node.targets]
    stored = [target.id for target in targets if isinstance(target, ast.Name)]
    assert {n for n in stored if stored.count(n) > 1} == kept


def test_the_passes_left_out_exist() -> None:
    from numba.core import typed_passes, untyped_passes

    assert all(hasattr(untyped_passes, name) or hasattr(typed_passes, name) for name in _LEFT_OUT)
    assert _pipeline() is _pipeline()


def test_types_of_calls_are_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each combination of operand types, with the answer that Numba gives; a failure is not kept."""
    from numba import types
    from numba.core.types.functions import BaseFunction

    asked: list[tuple[object, ...]] = []

    def resolve(self: BaseFunction, context: object, args: tuple[object, ...], kws: dict[str, object]) -> object:
        asked.append(args)
        if types.float32 in args:
            raise TypeError("no match")
        return args[0], kws.get("n")

    monkeypatch.setattr(BaseFunction, "get_call_type", resolve)
    remember_signatures()
    function = BaseFunction.__new__(BaseFunction)
    for args, kws in (((types.int64, types.int32), {}), ((types.int32,), {}), ((types.int32,), {"n": types.int8})) * 3:
        assert function.get_call_type(None, args, kws) == (args[0], kws.get("n"))
    for _ in range(2):
        with pytest.raises(TypeError):
            function.get_call_type(None, (types.float32,), {})
    assert len(asked) == 3 + 2


def test_modules_of_the_current_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may lie beside a script whose name is that of a standard module."""
    (tmp_path / "timeit.py").write_text("raise RuntimeError('imported')")
    source = tmp_path / "generated.py"
    source.write_text("def kernel(args, tid, threads):\n    return\n")
    monkeypatch.chdir(tmp_path)
    worker = _Worker("sse4")
    try:
        assert worker.compile(str(source), "kernel").code
    finally:
        worker.close()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="looks at an instruction of x86-64")
@pytest.mark.parametrize("isa", ["avx512", "avx2"])
def test_kernels_begin_their_stack_at_a_cache_line(isa: str) -> None:
    """Spilled vectors that straddle lines cost up to half of a kernel's time."""
    weights = np.zeros((16, 6, 5, 5), np.float32)
    case = Case("conv_direct", Conv((5, 5), (1, 1), (0,) * 4, (1, 1), 1, Expression.of("tanh")), ((1, 6, 14, 14), weights, None))
    _, call = plan(case, isa, requests(case, isa)[0])
    (kernel,) = backend.compile([call.spec], backend.target(isa)).values()
    assert b"\x48\x83\xe4\xc0" in kernel.code  # and rsp, -64


@pytest.mark.parametrize(
    ("machine", "isa", "words"), [("x86_64", "neon", "64-bit Arm"), ("aarch64", "avx2", "x86-64"), ("arm64", "sse4", "x86-64")]
)
def test_code_for_another_architecture_is_refused(machine: str, isa: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM would make code of this machine's architecture, under the other's name."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(UsageError, match=f"{isa} is of {words}"):
        compile_sources([], isa)
