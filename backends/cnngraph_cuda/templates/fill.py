"""The kernel that fills memory with one number."""

from __future__ import annotations

from cnngraph.kernels.template import KernelSpec
from cnngraph_cuda.language import F32Pointer, as_float, block_x, store_one, thread
from cnngraph_cuda.source import Code

THREADS = 0


def fill(y: F32Pointer, count: int, bits: int) -> None:
    """``y[:count]`` becomes the float32 with these bits."""
    at = block_x() * THREADS + thread()
    if at < count:
        store_one(y, at, as_float(bits))


FILL = Code(fill, {}, "Fill memory with one 32-bit pattern.")


def fill_spec(isa: str) -> KernelSpec:
    """The specification of the kernel for a target."""
    return KernelSpec("fill", isa, (("THREADS", 256),))
