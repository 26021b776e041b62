"""Run a kernel template on one node, emulated or compiled, against the operator's reference in float64.

Memory is hostile: padding lanes, scratch and results start as NaN, and where a call takes a batch stride, images lie apart,
as inside a concatenation, with guards between them that must survive.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import Dim, DType, Layout, TensorType, bind_dim, bind_shape
from cnngraph.kernels import emulate
from cnngraph.kernels.template import BatchStride, Extent, KernelCall, LayoutRequest, Packed, Pointer, Scratch
from cnngraph.ops import Op
from cnngraph.runtime.execute import aligned
from cnngraph.runtime.loader import load_kernels
from cnngraph.runtime.program import Kernel
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES
from cnngraph_cpu.target import ISAS

Given = np.ndarray | int | emulate.EmulatedPointer
GAP = 5
GUARD = np.float32(12345.0)
HALF_STEP = 2.0**-8 * 1.001
"""Greatest relative error of one rounding to bfloat16, and a little."""
_HALVES = (DType.BF16.numpy, DType.F16.numpy)


@dataclass(frozen=True)
class Case:
    """A node: its template, operator, and inputs, each a shape (computed), an array (constant) or None; ``half``: all in ``half_type``."""

    template: str
    op: Op
    inputs: tuple[Sequence[Dim] | np.ndarray | None, ...]
    batch: int = 2
    tolerance: float = 2e-5
    scale: float = 1.0
    positive: bool = False
    half: bool = False
    half_type: DType = DType.BF16
    label: str = field(default="", compare=False)


def build(case: Case) -> Node:
    """The node in a graph of its own."""
    graph = Graph()
    values: list[Value | None] = []
    for i, given in enumerate(case.inputs):
        if given is None:
            values.append(None)
        elif isinstance(given, np.ndarray):
            narrow = case.half and given.dtype == np.float32
            values.append(graph.constant(given.astype(case.half_type.numpy) if narrow else given))
        else:
            values.append(graph.add_input(f"x{i}", TensorType(case.half_type if case.half else DType.F32, tuple(given))))
    output = graph.add(case.op, values, origin=("node",))[0]
    assert output.producer is not None
    return output.producer


def to_layout(array: np.ndarray, layout: Layout, fill: float = np.nan) -> np.ndarray:
    """Physical order; padding lanes hold ``fill``."""
    if layout.plain:
        return np.ascontiguousarray(array)
    block, (images, channels) = layout.block, array.shape[:2]
    blocks = -(-channels // block)
    padded = np.full((images, blocks * block, *array.shape[2:]), fill, array.dtype)
    padded[:, :channels] = array
    return np.ascontiguousarray(np.moveaxis(padded.reshape(images, blocks, block, *array.shape[2:]), 2, -1))


def from_layout(memory: np.ndarray, shape: Sequence[int], layout: Layout) -> np.ndarray:
    """The logical array in ``memory``, without padding."""
    if layout.plain:
        return memory.reshape(shape)
    blocks = -(-shape[1] // layout.block)
    lanes_last = memory.reshape(shape[0], blocks, *shape[2:], layout.block)
    return np.moveaxis(lanes_last, -1, 2).reshape(shape[0], blocks * layout.block, *shape[2:])[:, : shape[1]]


class Memory:
    """Where one value lies: contiguous, or one image apart from the next with guards between."""

    def __init__(self, physical: np.ndarray, apart: bool) -> None:
        self.shape = physical.shape
        images = physical.shape[0] if apart else 1
        rows = physical.reshape(images, -1)
        self.size = rows.shape[1]
        self.pitch = self.size + GAP if apart else self.size
        dtype = physical.dtype if physical.dtype in _HALVES else np.float32
        self.array = np.full(images * self.pitch, GUARD.astype(dtype), dtype)
        self.array.reshape(images, self.pitch)[:, : self.size] = rows

    def read(self) -> np.ndarray:
        """The physical array; AssertionError if a guard was overwritten."""
        rows = self.array.reshape(-1, self.pitch)
        assert (rows[:, self.size :] == GUARD.astype(self.array.dtype)).all(), "a guard between images was overwritten"
        return rows[:, : self.size].reshape(self.shape)


def feeds_of(case: Case, node: Node, seed: int = 0) -> dict[Value, np.ndarray]:
    """Random contents of the computed inputs."""
    rng = np.random.default_rng(seed)
    out = {}
    for value in node.inputs:
        if value is not None and not value.is_constant:
            array = rng.standard_normal(bind_shape(value.type.shape, case.batch)).astype(np.float32) * np.float32(case.scale)
            array = np.abs(array) + np.float32(0.1) if case.positive else array
            out[value] = array.astype(value.type.dtype.numpy)
    return out


def requests(case: Case, isa: str) -> list[LayoutRequest]:
    """The layout combinations the template offers; it must accept the node."""
    node, target = build(case), ISAS[isa].target
    template = TEMPLATES[case.template]
    assert template.accepts(node, target) is None, template.accepts(node, target)
    assert template.cost(node, target) > 0
    return list(template.layouts(node, target))


def sample(cases: Iterable[Case], step: int) -> list[Case]:
    """Every ``step``-th case of each template, in the order of the templates."""
    by_template: dict[str, list[Case]] = {}
    for case in cases:
        by_template.setdefault(case.template, []).append(case)
    return [case for group in by_template.values() for case in group[::step]]


def plan(case: Case, isa: str, request: LayoutRequest) -> tuple[Node, KernelCall]:
    """The node with its layouts set, and its call."""
    node, target = build(case), ISAS[isa].target
    for value, layout in zip((*node.inputs, *node.outputs), (*request.inputs, *request.outputs), strict=True):
        if value is not None and layout is not None:
            assert not value.is_constant or layout.plain
            value.type = value.type.with_layout(layout)
    return node, TEMPLATES[case.template].plan(node, target).typed()


def _in_memory(value: Value) -> np.dtype[np.generic]:
    return value.type.dtype.numpy if value.type.dtype.numpy in _HALVES else np.dtype(np.float32)


def at_line(array: np.ndarray) -> np.ndarray:
    """A flat copy that starts at a multiple of 64 bytes, as scratch and packed constants do."""
    memory = aligned(max(array.nbytes, 1))[: array.nbytes]
    memory[:] = array.reshape(-1).view(np.uint8)
    return memory.view(array.dtype)


def arguments(case: Case, call: KernelCall, node: Node, feeds: dict[Value, np.ndarray]) -> tuple[list[Given], Memory, list[Memory]]:
    """The call's arguments, the memory of the output, and of everything."""
    strided = {a.value for a in call.arguments.values() if isinstance(a, BatchStride)}
    memories: dict[Value, Memory] = {}
    for value in {v: None for v in (*node.inputs, *node.outputs) if v is not None}:
        if value in feeds or value.is_constant:
            array = feeds.get(value, value.data)
            assert array is not None
            physical = to_layout(array.astype(_in_memory(value)), value.type.layout)
        else:
            physical = np.full(bind_shape(value.type.physical_shape, case.batch), np.nan, _in_memory(value))
        memories[value] = Memory(physical, value in strided and value.type.rank > 0)
    out: list[Given] = []
    for argument in call.arguments.values():
        match argument:
            case Pointer(value, offset):
                out.append(emulate.EmulatedPointer(memories[value].array, offset))
            case Extent(dim):
                out.append(bind_dim(dim, case.batch))
            case BatchStride(value):
                out.append(memories[value].pitch)
            case Packed(data):
                out.append(at_line(data))
            case Scratch(nbytes, dtype):
                out.append(at_line(np.full(nbytes, 0xFF, np.uint8)).view(dtype.numpy))
    return out, memories[node.output], list(memories.values())


def expected(case: Case, node: Node, feeds: dict[Value, np.ndarray]) -> np.ndarray:
    """The reference in float64."""
    arrays = []
    for value in node.inputs:
        array = None if value is None else feeds.get(value, value.data)
        floats = array is not None and array.dtype in (np.float32, *_HALVES)
        arrays.append(array.astype(np.float64) if array is not None and floats else array)
    return case.op.bind(case.batch).reference(*arrays)[0]


def compare(case: Case, node: Node, got: np.ndarray, want: np.ndarray) -> None:
    """AssertionError unless equal within the tolerance, NaN and infinities alike."""
    bound = case.tolerance * np.maximum(1.0, np.abs(want)) + (HALF_STEP * np.abs(want) if case.half else 0.0)
    with np.errstate(invalid="ignore"):
        bad = ~((np.abs(got - want) <= bound) | (got == want) | (np.isnan(got) & np.isnan(want)))
    assert not bad.any(), (
        f"{int(bad.sum())} of {bad.size} differ, e.g. {got[bad][:4]} for {want[bad][:4]} at {np.argwhere(bad)[:3].tolist()}"
    )


def result(node: Node, memory: Memory, batch: int) -> np.ndarray:
    """The logical output."""
    array = from_layout(memory.read(), bind_shape(node.output.type.shape, batch), node.output.type.layout)
    return array.astype(np.float32) if array.dtype in _HALVES else array


def run_emulated(case: Case, isa: str, request: LayoutRequest, threads: int = 3) -> np.ndarray:
    """Emulate the kernel and check the result; returns it."""
    node, call = plan(case, isa, request)
    feeds = feeds_of(case, node)
    given, output, memories = arguments(case, call, node, feeds)
    source = backend.source(call.spec)
    with np.errstate(all="ignore"):
        emulate.run(source.text, source.name, given, ISAS[isa].target.width, threads=threads)
    for memory in memories:
        memory.read()
    got = result(node, output, case.batch)
    compare(case, node, got, expected(case, node, feeds))
    return got


class Compiled:
    """Loaded kernels of one instruction set."""

    def __init__(self, calls: Sequence[KernelCall], isa: str) -> None:
        target = ISAS[isa].target
        kernels = backend.compile([c.spec for c in calls], target)
        addresses = load_kernels([Kernel(k.name, k.symbol, k.code) for k in kernels.values()])
        self._address = dict(zip(kernels, addresses, strict=True))

    def call(self, call: KernelCall, given: Sequence[Given], threads: int) -> None:
        """Run every thread's share, one after another."""
        entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(self._address[call.spec])
        block = np.array([_word(a) for a in given], np.int64)
        for tid in range(threads):
            entry(block.ctypes.data, tid, threads)


def _word(argument: Given) -> int:
    """The 64-bit argument word."""
    if isinstance(argument, emulate.EmulatedPointer):
        return int(argument.array.ctypes.data) + argument.array.itemsize * argument.offset
    return int(argument.ctypes.data) if isinstance(argument, np.ndarray) else argument


def run_compiled(case: Case, request: LayoutRequest, isa: str, kernels: Compiled, threads: int = 3, seed: int = 0) -> np.ndarray:
    """Run the compiled kernel and check the result; returns it."""
    node, call = plan(case, isa, request)
    feeds = feeds_of(case, node, seed)
    given, output, memories = arguments(case, call, node, feeds)
    kernels.call(call, given, threads)
    for memory in memories:
        memory.read()
    got = result(node, output, case.batch)
    compare(case, node, got, expected(case, node, feeds))
    return got
