"""What a kernel template and a backend are, and what a planned kernel call looks like.

A *template* turns one graph node into a :class:`KernelCall`: the specification of the code to generate
(:class:`KernelSpec`) and the run-time arguments of this use of it. Calls whose specifications are equal share one
compiled kernel. Extents are run-time arguments wherever they do not shape the inner loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import Dim, DType, Layout
from cnngraph.ops.expression import Expression

if TYPE_CHECKING:
    from cnngraph.ir.graph import Graph
    from cnngraph.options import CompileOptions
    from cnngraph.passes.choose_layout import LayoutChoice
    from cnngraph.runtime.program import ProgramData


@dataclass(frozen=True)
class Target:
    """A CPU instruction set as the kernel templates see it.

    Attributes:
        isa: "avx512", "avx2", "sse4" or "neon"; "avx512vnni" or "avx2vnni" with dot products of bytes; "avx512bf16" with those of
            bfloat16 too; "avx512amx" with both and tiles.
        width: 32-bit lanes of one vector, which is also the channel block of the blocked layout.
        registers: architectural vector registers.
        l2: bytes of a core's private cache assumed by tilings. A constant of the target, not of the machine that compiles, so that the
            code does not depend on it.
        dot: whether one instruction adds the products of four bytes (VNNI).
        dot2: whether one instruction adds the products of two bfloat16 (AVX512-BF16).
        tiles: whether there is a unit that multiplies tiles of bfloat16 and of bytes (AMX).
        float16: whether instructions convert between float16 and float32 (F16C, or any 64-bit Arm).
    """

    isa: str
    width: int
    registers: int
    has_fma: bool
    l2: int = 1024 * 1024
    dot: bool = False
    dot2: bool = False
    tiles: bool = False
    float16: bool = True


# Run-time arguments of a kernel call -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pointer:
    """Address of a value's first element. ``offset`` is added, in elements, static."""

    value: Value
    offset: int = 0


@dataclass(frozen=True)
class Extent:
    """An integer: a size, a stride in elements, a count. May be a multiple of the batch size."""

    value: Dim


@dataclass(frozen=True, eq=False)
class BatchStride:
    """Elements between one image of a value and the next (differs from the natural one inside a concatenation).

    Only for values whose first axis is the only one that depends on the batch, or that have no symbolic axis.
    """

    value: Value


class Packed:
    """Address of constant data prepared at compile time (packed weights, index tables).

    ``data`` may be a function, called when the data are first asked for, so that planning a call to learn its specification is cheap; it
    then takes their element type.
    """

    __match_args__ = ("data",)

    def __init__(self, data: np.ndarray | Callable[[], np.ndarray], dtype: DType | None = None) -> None:
        self._data, self._dtype = data, dtype

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self._dtype or DType.of(self.data)

    @property
    def data(self) -> np.ndarray:
        """The data, the same array every time."""
        if not isinstance(self._data, np.ndarray):
            self._data = self._data()
        return self._data


@dataclass(frozen=True)
class Scratch:
    """Address of ``nbytes`` of 64-byte aligned memory private to the running thread, contents undefined, read as ``dtype``."""

    nbytes: int
    dtype: DType = DType.F32


@dataclass(frozen=True)
class Flag:
    """Address of two int32 words of this call alone, 0 before a run; only for backends on devices.

    A kernel that meets a number it may not use makes the first word 1 and the second that number. The run then ends in an
    InvalidInputError with ``message``, in which ``{}`` stands for the number.
    """

    message: str


Argument = Pointer | Extent | BatchStride | Packed | Scratch | Flag


@dataclass(frozen=True)
class KernelSpec:
    """All that the generated source depends on; two equal specifications are one kernel.

    Attributes:
        template: name of the template.
        isa: instruction set name.
        constants: compile-time constants by their upper-case name in the template function.
        expression: element-wise arithmetic put in at the template's ``epilogue`` marks, or None.
        halves: numbers of the arguments that point to bfloat16 instead of float32; see :meth:`KernelCall.typed`.
        floats16: numbers of those that point to float16.
    """

    template: str
    isa: str
    constants: tuple[tuple[str, int], ...]
    expression: Expression | None = None
    halves: tuple[int, ...] = ()
    floats16: tuple[int, ...] = ()

    def constant(self, name: str) -> int:
        """Value of one compile-time constant."""
        return dict(self.constants)[name]


@dataclass(frozen=True, eq=False)
class KernelCall:
    """One launch: the specification, and an argument for every parameter of the template function, by name.

    ``overwrites`` lists inputs whose storage the output may take over, because the kernel reads each of their elements
    before it writes the same element of the output, and nowhere else.
    """

    spec: KernelSpec
    arguments: Mapping[str, Argument]
    notes: tuple[str, ...] = ()
    overwrites: tuple[Value, ...] = ()

    def typed(self) -> KernelCall:
        """The call with the arguments that point to 16-bit floats told in its specification, as the code of the kernel depends on them."""
        kinds = [_pointed_to(argument) for argument in self.arguments.values()]
        halves, floats16 = (tuple(i for i, kind in enumerate(kinds) if kind is dtype) for dtype in (DType.BF16, DType.F16))
        return replace(self, spec=replace(self.spec, halves=halves, floats16=floats16)) if halves or floats16 else self


def _pointed_to(argument: Argument) -> DType | None:
    """Type of the elements that an argument points to; None for an integer."""
    if isinstance(argument, Pointer):
        return argument.value.type.dtype
    return argument.dtype if isinstance(argument, Packed | Scratch) else None


@dataclass(frozen=True)
class LayoutRequest:
    """Layouts a template wants for a node's inputs (None: absent or any) and outputs, and whether it insists."""

    inputs: tuple[Layout | None, ...]
    outputs: tuple[Layout, ...]


class Template(Protocol):
    """One family of kernels.

    ``reorders_arithmetic`` marks algorithms whose rounding differs from a plain chain of multiply-adds; ``math="exact"``
    leaves them out. For tuning, a template may have a method ``candidates(node, target)`` that returns variants of itself, templates of the
    same name with another tile or blocking, by names that stay the same. For sharing kernels (:mod:`cnngraph.passes.share_kernels`), it may
    have a method ``like(node, target, spec)`` that returns the variant whose tile is that of a kernel of its own for another node, or None.
    A template that can compute nodes with the batch in another
    place than the first axis says so by an
    attribute ``any_batch_axis = True``; the others are not asked about such nodes. ``rounds_tiles = True`` says that transformed values are
    rounded to a narrow type, which is left out where single pixels reach an output (:mod:`cnngraph.analysis.pixels`);
    ``parts_channels = True`` that output channels are summed in different orders, left out in last layers
    (:mod:`cnngraph.analysis.channels`).
    """

    name: str
    reorders_arithmetic: bool

    def accepts(self, node: Node, target: Target) -> str | None:
        """None if the template can compute ``node``, else one sentence why not."""
        ...

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Layout combinations the template can work in, preferred first. Called only when it accepts."""
        ...

    def cost(self, node: Node, target: Target) -> float:
        """Estimated cycles of one core for one image, to choose among templates."""
        ...

    def plan(self, node: Node, target: Target) -> KernelCall:
        """The call for ``node``, whose inputs and outputs now have one of the requested layouts."""
        ...


@dataclass(frozen=True)
class KernelSource:
    """Generated source of one kernel: a module text that defines the function ``name``."""

    name: str
    text: str


@dataclass
class CompiledKernel:
    """Relocatable object code of one kernel and the symbol to call."""

    name: str
    symbol: str
    code: bytes
    seconds: float = 0.0
    cached: bool = False


class Backend(Protocol):
    """What a package behind the entry point ``cnngraph.backends`` provides."""

    name: str

    def target(self, isa: str | None, *, integers: bool = False, halves: bool = False) -> Target:
        """The target for an instruction set name, or for None the best of this machine, for 8-bit ``integers`` or bfloat16 ``halves``."""
        ...

    def templates(self) -> Sequence[Template]:
        """All templates, in no particular order."""
        ...

    def source(self, spec: KernelSpec, header: Sequence[str] = ()) -> KernelSource:
        """Generate the readable source of a kernel."""
        ...

    def compile(
        self, specs: Sequence[KernelSpec], target: Target, progress: ProgressCallback | None = None
    ) -> dict[KernelSpec, CompiledKernel]:
        """Compile (or fetch from the cache) every kernel."""
        ...

    def isas(self) -> Sequence[str]:
        """Instruction sets this machine runs, best first."""
        ...

    def cache(self) -> KernelCache:
        """The cache of compiled kernels on disk."""
        ...

    def driver(self, target: Target) -> CompiledKernel:
        """The compiled code that walks a program's steps on a team of threads."""
        ...

    def required_features(self, target: Target) -> tuple[str, ...]:
        """CPU features, as LLVM names them, without which the target's code must not run."""
        ...


@runtime_checkable
class DeviceBackend(Protocol):
    """What a backend adds whose kernels do not run on the CPU."""

    def target_of(self, options: CompileOptions) -> Target:
        """The target that the options ask for."""
        ...

    def adapt(self, graph: Graph, target: Target) -> None:
        """Rewrite an optimised graph for the target, e.g. for its element type."""
        ...

    def check(self, choice: LayoutChoice, options: CompileOptions) -> None:
        """Refuse nodes that have no kernel; raises UnsupportedError."""
        ...

    def executor(self, data: ProgramData) -> Any:
        """What runs a program: ``run`` and ``profile`` of :class:`cnngraph.runtime.execute.Executor`."""
        ...


class KernelCache(Protocol):
    """A folder of compiled kernels, as ``cnngraph cache`` uses it."""

    def cache_dir(self) -> Path:
        """The folder; it need not exist yet."""
        ...

    def entries(self) -> Iterable[Path]:
        """Every entry's file, oldest use first."""
        ...

    def verify(self) -> tuple[int, list[Path]]:
        """(number of sound entries, files that are damaged)."""
        ...

    def prune(self, max_bytes: int) -> int:
        """Delete the oldest entries until at most ``max_bytes`` remain; returns how many were deleted."""
        ...


class ProgressCallback(Protocol):
    """Called as kernels become ready."""

    def __call__(self, done: int, total: int, name: str) -> None:
        """``done`` of ``total`` kernels are ready; ``name`` is the latest."""


@dataclass
class Selection:
    """Why a node got its kernel: the chosen template, its variant if it was tuned, and what was said of the others."""

    node: Node
    chosen: str
    refused: dict[str, str] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    variant: str = ""
