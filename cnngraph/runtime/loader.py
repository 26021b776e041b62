"""Load relocatable object code into this process. Needs llvmlite only.

Each distinct kernel is loaded once per process and stays: programs share it, worker threads may live inside it, and
disposing of an engine whose object files are gone crashes (llvmlite 0.50). A kernel is some ten kilobytes.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
import threading
from collections.abc import Sequence
from typing import Any

import llvmlite.binding as llvm

from cnngraph.errors import ArtifactError, printable
from cnngraph.runtime.elf import undefined_symbols
from cnngraph.runtime.program import Kernel

_MATH = (
    "exp", "exp2", "expm1", "log", "log2", "log1p", "pow", "sqrt", "tanh", "sin", "cos", "tan", "erf", "floor", "ceil", "rint", "round",
    "trunc", "fma", "fmod", "fmin", "fmax", "ldexp",
)  # fmt: skip
OFFERED = frozenset(("syscall", "sched_yield", "memcpy", "memmove", "memset", *_MATH, *(f"{name}f" for name in _MATH)))
"""What kernels and the driver may call: functions of the C library, and of its mathematical part for doubles and floats."""

_lock = threading.Lock()
_engines: list[Any] = []
_addresses: dict[bytes, int] = {}


def load_kernels(kernels: Sequence[Kernel]) -> list[int]:
    """Entry addresses of ``kernels``, loading those that are new to this process.

    Raises:
        ArtifactError: the object code lacks its entry point, or calls something unknown.
    """
    keys = [hashlib.sha256(kernel.symbol.encode() + b"\0" + kernel.code).digest() for kernel in kernels]
    with _lock:
        new = {key: kernel for key, kernel in zip(keys, kernels, strict=True) if key not in _addresses}
        if new:
            _addresses.update(zip(new, _load(list(new.values())), strict=True))
        return [_addresses[key] for key in keys]


def _load(kernels: Sequence[Kernel]) -> list[int]:
    if not _engines:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault", jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for kernel in kernels:
        _offer(kernel)
    objects = [llvm.ObjectFileRef.from_data(kernel.code) for kernel in kernels]
    _engines.append((engine, machine, objects))
    for reference in objects:
        engine.add_object_file(reference)
    engine.finalize_object()
    addresses = [engine.get_function_address(kernel.symbol) for kernel in kernels]
    for kernel, address in zip(kernels, addresses, strict=True):
        if not address:
            raise ArtifactError(f"the object code of kernel {kernel.name} lacks its entry point")
    return addresses


def _offer(kernel: Kernel) -> None:
    """Tell LLVM where the functions are that ``kernel`` calls."""
    process = ctypes.CDLL(None)
    for name in undefined_symbols(kernel.code) if sys.platform == "linux" else OFFERED:
        if name not in OFFERED:
            raise ArtifactError(f"the object code of kernel {kernel.name} calls {printable(name)}, which is not offered to kernels")
        if hasattr(process, name):
            llvm.add_symbol(name, ctypes.cast(getattr(process, name), ctypes.c_void_p).value)
        elif sys.platform == "linux":
            raise ArtifactError(f"the object code of kernel {kernel.name} calls {name}, which this system's C library lacks")


def missing_features(required: Sequence[str]) -> list[str]:
    """Which of these CPU features (LLVM names) this machine lacks."""
    present = {name for name, on in llvm.get_host_cpu_features().items() if on}
    return [name for name in required if name not in present]
