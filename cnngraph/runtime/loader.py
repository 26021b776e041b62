"""Load relocatable object code with llvmlite alone and resolve the addresses of its symbols."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache

import llvmlite.binding as llvm

from cnngraph.errors import ArtifactError
from cnngraph.runtime.program import Kernel

_lock = threading.Lock()  # LLVM's JIT is not safe under concurrent use


@lru_cache(maxsize=None)
def _machine() -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault", jit=True)


@lru_cache(maxsize=None)
def host_features() -> frozenset[str]:
    """Features of this machine's CPU, in LLVM's spelling."""
    return frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)


class LoadedCode:
    """Machine code of one program, in memory as long as this object lives.

    Attributes:
        addresses: entry address of each kernel, in the order given.
    """

    def __init__(self, kernels: Sequence[Kernel]) -> None:
        with _lock:
            self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
            self._objects = []
            added: set[str] = set()
            for kernel in kernels:
                if kernel.symbol in added:
                    raise ArtifactError(f"two kernels define the symbol of {kernel.name}")
                added.add(kernel.symbol)
                try:
                    found = llvm.ObjectFileRef.from_data(kernel.code)
                except RuntimeError as error:
                    raise ArtifactError(f"the code of kernel {kernel.name} is no object file of this machine: {error}") from error
                self._objects.append(found)
                self._engine.add_object_file(found)
            self._engine.finalize_object()
            self.addresses = [self._address(k) for k in kernels]

    def _address(self, kernel: Kernel) -> int:
        address = int(self._engine.get_function_address(kernel.symbol))
        if not address:
            raise ArtifactError(f"the code of kernel {kernel.name} does not define its symbol")
        return address
