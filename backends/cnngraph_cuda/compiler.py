"""Generated source to cubin, in this process: Numba to PTX, NVVM's text renamed, linked by nvJitLink. Needs no driver and no GPU."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_ENTRY = re.compile(r"\.entry\s+(\S+?)\s*\(")


@dataclass(frozen=True)
class Report:
    """What the assembler says of a kernel: registers of a thread, bytes spilled to memory, bytes of static shared memory."""

    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    shared: int


def module_of(text: str, name: str) -> dict[str, Any]:
    """Execute a generated module (from numbers only; nothing of a model's text is in it)."""
    module: dict[str, Any] = {"__name__": "cnngraph_generated", "__file__": f"{name}.py"}
    exec(compile(text, f"{name}.py", "exec"), module)
    return module


def ptx_of(text: str, name: str, arch: str) -> str:
    """PTX of kernel ``name`` for an architecture such as "sm_90a"; its entry is called ``name``."""
    import linecache

    from numba import cuda
    from numba.cuda import types

    module = module_of(text, name)
    linecache.cache[f"{name}.py"] = (len(text), None, text.splitlines(True), f"{name}.py")
    pointers = {
        "f32": types.float32, "f16": types.uint16, "bf16": types.uint16, "u8": types.uint8, "i8": types.int8, "u16": types.uint16,
        "i16": types.int16, "u32": types.uint32, "i32": types.int32, "i64": types.int64, "u64": types.uint64,
    }  # fmt: skip
    kinds = module["SIGNATURE"].split()
    plain = {"int": types.int32, "map": types.uint64}
    parameters = [plain[t] if t in plain else types.CPointer(pointers[t]) for t in kinds]
    digits = "".join(c for c in arch if c.isdigit())
    capability: tuple[Any, ...] = (int(digits[:-1]), int(digits[-1]))
    if arch.endswith("a"):
        capability = (*capability, "a")
    ptx, _ = cuda.compile(
        module[name], types.void(*parameters), device=False, abi="numba", cc=capability, fastmath=False,
        launch_bounds=(module["THREADS"], module["BLOCKS"]),
    )  # fmt: skip
    found = _ENTRY.search(ptx)
    if found is None:
        raise ValueError(f"no entry point in the PTX of {name}")
    return _maps_by_value(str(ptx.replace(found.group(1), name)), name, [i for i, t in enumerate(kinds) if t == "map"])


def _maps_by_value(ptx: str, name: str, numbers: Sequence[int]) -> str:
    """PTX whose parameters ``numbers``, tensor maps, are 128 bytes each instead of their address, which Numba's types cannot say.

    What loads such a parameter takes its address instead, as CUDA C++ compiles ``__grid_constant__ const CUtensorMap``.
    """
    for number in numbers:
        parameter = re.escape(f"{name}_param_{number}")
        ptx, declared = re.subn(rf"\.param \.u64 {parameter}\b", f".param .align 128 .b8 {name}_param_{number}[128]", ptx)
        ptx, loaded = re.subn(
            rf"ld\.param\.u64\s+(%rd\d+), \[{parameter}\];", rf"mov.b64 \1, {name}_param_{number}; cvta.param.u64 \1, \1;", ptx
        )
        if declared != 1 or not loaded or re.search(rf"\[{parameter}[\]+]", ptx):
            raise ValueError(f"parameter {number} of {name} is no tensor map in the PTX")
    return ptx


def cubin_of(ptx: str, name: str, arch: str) -> tuple[bytes, str]:
    """(cubin, the assembler's report) of PTX text."""
    from cuda.bindings import nvjitlink

    handle = nvjitlink.create(3, [f"-arch={arch}", "-verbose", "-O3"])
    try:
        data = ptx.encode()
        try:
            nvjitlink.add_data(handle, nvjitlink.InputType.PTX, data, len(data), name)
            nvjitlink.complete(handle)
        except nvjitlink.nvJitLinkError as error:
            log = bytearray(nvjitlink.get_error_log_size(handle))
            nvjitlink.get_error_log(handle, log)
            raise ValueError(f"{error}: {log.decode(errors='replace')}") from error
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
    finally:
        nvjitlink.destroy(handle)
    return bytes(cubin), log.decode(errors="replace")


def parse_report(log: str) -> Report:
    """Numbers in the assembler's report."""

    def number(pattern: str) -> int:
        found = re.search(pattern, log)
        return int(found.group(1)) if found else 0

    return Report(
        number(r"Used (\d+) registers"), number(r"(\d+) bytes spill stores"), number(r"(\d+) bytes spill loads"),
        number(r"(\d+) bytes stack frame"), number(r"(\d+) bytes smem"),
    )  # fmt: skip
