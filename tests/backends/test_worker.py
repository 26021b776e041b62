"""The compiler process: its shorter way through Numba, and its surroundings."""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core.compiler import Compiler
from numba.core.errors import TypingError

from cnngraph.errors import UsageError
from cnngraph.ops import Conv, Pool
from cnngraph.ops.expression import Expression
from cnngraph.runtime.elf import EXECUTE, ObjectFile
from cnngraph.runtime.loader import load_kernels
from cnngraph.runtime.program import Kernel
from cnngraph_cpu import backend
from cnngraph_cpu.jit import _Worker, compile_sources
from cnngraph_cpu.numba_passes import SHORT, SINGLE, remember_signatures
from cnngraph_cpu.worker import compile_by, compile_kernel
from tests.backends.template_cases import Case, plan, requests


def weights(size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((16, 16, size, size)).astype(np.float32)


LAYERS = {
    "winograd": Case("winograd", Conv((3, 3), (1, 1), (1,) * 4, (1, 1), 1, Expression.of("relu")), ((1, 16, 7, 9), weights(3), None)),
    "strassen": Case("strassen", Conv((1, 1), (1, 1), (0,) * 4, (1, 1), 1, Expression.of("sigmoid")), ((1, 16, 5, 5), weights(1), None)),
    "pool": Case("pool", Pool("max", (3, 3), (2, 2), (1,) * 4, (1, 1)), ((1, 16, 9, 9),)),
}


def code_bytes(kernel: bytes) -> int:
    file = ObjectFile(kernel)
    return sum(section.size for section in file.sections if section.flags & EXECUTE)


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")
@pytest.mark.parametrize("name", LAYERS)
def test_the_passes_left_out_change_nothing(name: str, tmp_path: Path) -> None:
    """Code of the same length as by all of Numba's passes; a few instructions may stand in another order."""
    isa = backend.isas()[-1]
    source = backend.source(plan(LAYERS[name], isa, requests(LAYERS[name], isa)[0])[1].spec)
    path = tmp_path / "kernel.py"
    path.write_text(source.text)
    lengths = {code_bytes(compile_by(way, str(path), source.name)[1]) for way in (Compiler, SHORT, SINGLE)}
    assert len(lengths) == 1 and 0 not in lengths


TWO_TYPES = """def kernel(args, tid, threads):
    for i in range(threads):
        a = tid + i
        args[2 * i] = a
        a = 0.5 * tid
        args[2 * i + 1] = int(a)
"""


def test_names_of_two_types_are_parted(tmp_path: Path) -> None:
    """Not converted to what holds both: an integer would become a float."""
    path = tmp_path / "kernel.py"
    path.write_text(TWO_TYPES)
    with pytest.raises(TypingError, match="a is "):
        compile_by(SHORT, str(path), "kernel")
    symbol, code = compile_kernel(str(path), "kernel")
    (address,) = load_kernels([Kernel("kernel", symbol, code)])
    words = np.zeros(4, np.int64)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)(words.ctypes.data, 2**53, 2)
    assert words.tolist() == [2**53, 2**52, 2**53 + 1, 2**52]


def test_errors_of_a_source_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "kernel.py"
    path.write_text("def kernel(args, tid, threads):\n    args[0] = tid + 'a'\n")
    with pytest.raises(TypingError):
        compile_kernel(str(path), "kernel")


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
