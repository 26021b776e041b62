"""Load relocatable object code into this process.

Code for x86-64 is linked here, in a few lines, because it has only one kind of relocation; so running a program needs nothing but
NumPy. Code for other machines goes through llvmlite.

Each distinct kernel is loaded once per process and stays: programs share it, and worker threads may live inside it. A kernel is
some ten kilobytes. No memory is ever writable and executable at the same time.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import struct
import sys
import threading
from collections.abc import Sequence
from typing import Any

from cnngraph.errors import ArtifactError, printable
from cnngraph.runtime.elf import EXECUTE, R_64, WRITE, X86_64, ObjectFile
from cnngraph.runtime.program import Kernel

_MATH = (
    "exp", "exp2", "expm1", "log", "log2", "log1p", "pow", "sqrt", "tanh", "sin", "cos", "tan", "erf", "floor", "ceil", "rint", "round",
    "trunc", "fma", "fmod", "fmin", "fmax", "ldexp",
)  # fmt: skip
OFFERED = frozenset(("syscall", "sched_yield", "memcpy", "memmove", "memset", *_MATH, *(f"{name}f" for name in _MATH)))
"""What kernels and the driver may call: functions of the C library, and of its mathematical part for doubles and floats."""

_READ, _READ_WRITE, _READ_EXECUTE = 1, 3, 5
_CODE_ALIGNMENT = 64

_lock = threading.Lock()
_kept: list[Any] = []
_addresses: dict[bytes, int] = {}


def load_kernels(kernels: Sequence[Kernel]) -> list[int]:
    """Entry addresses of ``kernels``, loading those that are new to this process.

    Raises:
        ArtifactError: the object code is damaged, lacks its entry point, calls something unknown or is for another machine; or the
            system allows no new code.
    """
    keys = [hashlib.sha256(kernel.symbol.encode() + b"\0" + kernel.code).digest() for kernel in kernels]
    with _lock:
        new = {key: kernel for key, kernel in zip(keys, kernels, strict=True) if key not in _addresses}
        if new:
            _addresses.update(zip(new, _load(list(new.values())), strict=True))
        return [_addresses[key] for key in keys]


def _load(kernels: Sequence[Kernel]) -> list[int]:
    process = ctypes.CDLL(None)
    if sys.platform == "linux":
        files = [ObjectFile(kernel.code) for kernel in kernels]
        outside = _outside(files, kernels, process)
        here = simple() and all(f.machine == X86_64 and all(r.type == R_64 for r in f.relocations) for f in files)
        addresses = _link(files, kernels, outside, process) if here else _load_by_llvm(kernels, outside)
    else:
        addresses = _load_by_llvm(kernels, {name: _address(process, name) for name in OFFERED if hasattr(process, name)})
    for kernel, address in zip(kernels, addresses, strict=True):
        if not address:
            raise ArtifactError(f"the object code of kernel {kernel.name} lacks its entry point")
    return addresses


def _outside(files: Sequence[ObjectFile], kernels: Sequence[Kernel], process: Any) -> dict[str, int]:
    """Addresses of the functions that the code calls and does not define."""
    found = {}
    for file, kernel in zip(files, kernels, strict=True):
        for name in file.undefined():
            if name not in OFFERED:
                raise ArtifactError(f"the object code of kernel {kernel.name} calls {printable(name)}, which is not offered to kernels")
            if not hasattr(process, name):
                raise ArtifactError(f"the object code of kernel {kernel.name} calls {name}, which this system's C library lacks")
            found[name] = _address(process, name)
    return found


def _address(process: Any, name: str) -> int:
    return ctypes.cast(getattr(process, name), ctypes.c_void_p).value or 0


def simple() -> bool:
    """Whether this system runs code that is linked here: Linux on x86-64."""
    return sys.platform == "linux" and os.uname().machine == "x86_64" and struct.calcsize("P") == 8


def _link(files: Sequence[ObjectFile], kernels: Sequence[Kernel], outside: dict[str, int], process: Any) -> list[int]:
    """Put all sections into one mapping (code, constants, data, each on pages of its own), and fill in the addresses."""
    places: dict[tuple[int, int], int] = {}
    starts, at = [], 0
    for wanted in (_READ_EXECUTE, _READ, _READ_WRITE):
        starts.append((at, wanted))
        for number, file in enumerate(files):
            for index, section in enumerate(file.sections):
                if section.loaded and _protection(section.flags) == wanted:
                    align = max(section.align, _CODE_ALIGNMENT)
                    at = -(-at // align) * align
                    places[number, index] = at
                    at += section.size
        at = -(-at // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, max(at, mmap.PAGESIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for (number, index), place in places.items():
        section = files[number].sections[index]
        memory[place : place + section.size] = files[number].content(section)
    addresses = []
    for number, (file, kernel) in enumerate(zip(files, kernels, strict=True)):
        found = [
            base + places[number, s.section] + s.value if (number, s.section) in places else outside.get(s.name, 0) for s in file.symbols
        ]
        for r in file.relocations:
            where = places[number, r.section] + r.offset
            memory[where : where + 8] = struct.pack("<Q", (found[r.symbol] + r.addend) & (1 << 64) - 1)
        entry = [a for s, a in zip(file.symbols, found, strict=True) if s.name == kernel.symbol and (number, s.section) in places]
        addresses.append(entry[0] if entry else 0)
    ends = [start for start, _ in starts[1:]] + [at]
    process.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for (start, protection), end in zip(starts, ends, strict=True):
        if end > start and process.mprotect(base + start, end - start, protection):
            raise ArtifactError("this system does not allow a process to add executable code (mprotect is refused)")
    _kept.append(memory)
    return addresses


def _protection(flags: int) -> int:
    return _READ_EXECUTE if flags & EXECUTE else _READ_WRITE if flags & WRITE else _READ


def _load_by_llvm(kernels: Sequence[Kernel], outside: dict[str, int]) -> list[int]:
    """The same by LLVM's loader. Its engines are kept: disposing of one whose object files are gone crashes (llvmlite 0.50)."""
    try:
        import llvmlite.binding as llvm
    except ImportError:
        raise ArtifactError("running this code on this machine needs llvmlite, which is not installed") from None
    if not any(isinstance(kept, tuple) for kept in _kept):
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    # On meeting one symbol that it cannot resolve, LLVM silently leaves every external call at address 0; so all are offered before.
    for name, address in outside.items():
        llvm.add_symbol(name, address)
    machine = llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault", jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    objects = [llvm.ObjectFileRef.from_data(kernel.code) for kernel in kernels]
    _kept.append((engine, machine, objects))
    for reference in objects:
        engine.add_object_file(reference)
    engine.finalize_object()
    return [engine.get_function_address(kernel.symbol) for kernel in kernels]


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
