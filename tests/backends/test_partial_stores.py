"""Stores of the first lanes of a vector change these elements and no byte around them, also where LLVM knows how many there are."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from cnngraph.kernels.template import KernelSource
from cnngraph.runtime.loader import load_kernels
from cnngraph.runtime.program import Kernel
from cnngraph_cpu.jit import compile_sources
from cnngraph_cpu.target import ISAS, available

KINDS = {
    "pointer_argument": ("store_partial(y, {at}, load(x, 0), {count})", 4),
    "half_pointer_argument": ("store_partial(y, {at}, load(x, 0), {count})", 2),
    "float16_pointer_argument": ("store_partial(y, {at}, load(x, 0), {count})", 2),
    "byte_pointer_argument": ("store_bytes_partial(y, {at}, load_words(words, 0), {count})", 1),
}
"""By the function that takes the pointer: a store, and bytes of an element."""
PITCH = 20
HEAD = """from cnngraph_cpu.simd import primitives
globals().update(primitives("{isa}"))
def {name}(args, tid, threads):
    y = {kind}(args, 0)
    x = pointer_argument(args, 1)
    words = word_pointer_argument(args, 1)
"""


@pytest.mark.parametrize("isa", available(special=True))
def test_neighbours_of_what_is_stored_keep_their_bytes(isa: str) -> None:
    lanes = ISAS[isa].target.width
    counts = sorted({0, 1, 2, 3, lanes - 1, lanes})
    sources = []
    for kind, (store, _) in KINDS.items():
        stores = [f"    {store.format(at=i * PITCH, count=count)}" for i, count in enumerate(counts)]
        name = f"partial_{kind}_{isa}"
        text = HEAD.format(isa=isa, name=name, kind=kind) + "\n".join(stores) + "\n"
        sources.append(KernelSource(name, text))
    compiled = compile_sources(sources, isa)
    addresses = load_kernels([Kernel(k.name, k.symbol, k.code) for k in (compiled[s.name] for s in sources)])
    for (_, nbytes), address in zip(KINDS.values(), addresses, strict=True):
        memory = np.full(len(counts) * PITCH * nbytes, 0xA5, np.uint8)
        ones = np.ones(lanes, np.float32)
        block = np.array([memory.ctypes.data, ones.ctypes.data], np.int64)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)(block.ctypes.data, 0, 1)
        changed = (memory.reshape(len(counts), PITCH, nbytes) != 0xA5).any(axis=2)
        assert changed.tolist() == [[i < count for i in range(PITCH)] for count in counts]
