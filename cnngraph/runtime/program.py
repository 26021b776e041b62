"""A compiled program as pure data: what to call, with which arguments, on which memory.

An address is ``bases[base] + a*N + b`` bytes, N the batch size of a run. Integers have the same form with base ``INTEGER``,
whose address is 0. Bases ``FIRST_IO`` and up are the arrays of the graph inputs, then of the graph outputs, then the memory that the
steps computed image by image hand over to the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnngraph.ir.types import DType

INTEGER, ARENA, STATIC, WEIGHTS, SCRATCH, FIRST_IO = 0, 1, 2, 3, 4, 5

Linear = tuple[int, int]
"""(a, b): the number ``a*N + b``."""


def handover_places(data: ProgramData) -> list[int]:
    """Bytes of one image in front of each tensor that is handed over, where they follow the arena in one piece of memory."""
    return [data.arena + handover_bytes(data.handover[:number]) for number in range(len(data.handover))]


def handover_bytes(sizes: Sequence[int]) -> int:
    """Bytes of one image for tensors of these sizes, each at a multiple of 64 times the batch."""
    return sum(-(-size // 64) * 64 for size in sizes)


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output.

    Attributes:
        name: its ONNX name.
        dtype: NumPy's (or ml_dtypes') name of the type that a feed must have.
        shape: a dimension that grows with the batch reads "N" (or "2N", ...).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def factors(self) -> tuple[Linear, ...]:
        """Each dimension as (a, b) of ``a*N + b``."""
        return tuple((int(dim[:-1] or 1), 0) if isinstance(dim, str) else (0, dim) for dim in self.shape)

    @property
    def image_bytes(self) -> int:
        """Bytes from one image to the next; 0 if the first axis is not the batch, or is not the only one that grows with it."""
        first, *others = self.factors() or [(0, 0)]
        if first != (1, 0) or any(a for a, _ in others):
            return 0
        return math.prod(b for _, b in others) * DType(self.dtype).itemsize


@dataclass(frozen=True)
class TensorRef:
    """Where a row-major tensor lies: base, a and b of its address, dtype name, dimensions as (a, b)."""

    base: int
    a: int
    b: int
    dtype: str
    shape: tuple[Linear, ...]


@dataclass(frozen=True)
class KernelStep:
    """One call of ``kernels[kernel]``; an argument is (base, a, b). ``label`` names the ONNX nodes computed."""

    kernel: int
    arguments: tuple[tuple[int, int, int], ...]
    label: str


@dataclass(frozen=True)
class HostStep:
    """A node executed by its NumPy definition; ``op`` is the operator as data (see :mod:`cnngraph.runtime.host`)."""

    op: dict[str, Any]
    inputs: tuple[TensorRef | None, ...]
    outputs: tuple[TensorRef, ...]
    label: str


@dataclass(frozen=True)
class Kernel:
    """Object code of one kernel.

    Attributes:
        name: the kernel's full specification as an identifier.
        symbol: what to look up in the object file.
        code: relocatable object file.
        source: the generated Python source, for people.
        seconds, cached: what compiling took, and whether the cache had it.
    """

    name: str
    symbol: str
    code: bytes
    source: str = ""
    seconds: float = 0.0
    cached: bool = False


@dataclass(frozen=True)
class ProgramData:
    """Everything needed to run, and nothing else.

    Attributes:
        kernels, driver: object code.
        weights: constants and packed weights, one uint8 array, 64-byte aligned.
        arena: bytes of intermediate memory for one image.
        static_bytes: bytes of intermediate memory that does not depend on the batch.
        scratch: bytes of private memory of each thread.
        copies: (graph output, where its value lies) for outputs that no kernel writes in place.
        isa, required: instruction set of the code, and the host features (in LLVM's spelling) that it needs.
        threads: default of a run, None for what the process may use.
        report: what the compiler did: lists and dicts of numbers and strings.
        checks: for every two words in scratch memory that a kernel sets when an input asks for what it cannot do: their place, and
            the error's text, in which ``{}`` stands for the second word.
        weights_sha256: of the weights in hexadecimal digits if they have been compared with it, else None; saving needs no second hash.
        backend: name of the backend whose kernels these are.
        apart: number of leading steps, all kernels, through which a batch is taken image by image, each by one thread.
        late_arena: bytes of ``arena`` that the other steps use.
        handover: bytes for one image of each tensor that the leading steps hand over to the others.
        tail: what follows the compiled part, as data (:mod:`cnngraph.eager.tail`), or None.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    steps: list[KernelStep | HostStep]
    kernels: list[Kernel]
    driver: Kernel
    weights: np.ndarray
    arena: int
    static_bytes: int
    scratch: int
    copies: list[tuple[int, TensorRef]]
    isa: str
    required: tuple[str, ...] = ()
    threads: int | None = None
    report: dict[str, Any] = field(default_factory=dict)
    tail: dict[str, Any] | None = None
    backend: str = "cpu"
    apart: int = 0
    late_arena: int = 0
    handover: list[int] = field(default_factory=list)
    checks: list[tuple[int, str]] = field(default_factory=list)
    weights_sha256: str | None = None
