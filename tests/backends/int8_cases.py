"""Run a template of 8-bit tensors on one node, emulated or compiled, against the operator's reference, which it must equal.

Memory is as hostile as in ``template_cases``: padding lanes and scratch hold arbitrary bytes, and where a call takes a batch
stride, images lie apart with guards between them that must survive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import Dim, DType, Layout, TensorType, bind_dim, bind_shape
from cnngraph.kernels import emulate
from cnngraph.kernels.specialize import parameters
from cnngraph.kernels.template import BatchStride, Extent, KernelCall, LayoutRequest, Packed, Pointer, Scratch
from cnngraph.ops import Op
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES
from cnngraph_cpu.target import ISAS
from tests.backends.template_cases import Compiled, at_line, from_layout

GAP = 5


@dataclass(frozen=True)
class Computed:
    """An input that is computed: type, shape, and optionally its contents."""

    dtype: DType
    shape: tuple[Dim, ...]
    contents: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class IntCase:
    """A node: template, operator, inputs (computed, constant or absent), and the steps by which floats may differ."""

    template: str
    op: Op
    inputs: tuple[Computed | np.ndarray | None, ...]
    batch: int = 2
    label: str = ""
    tolerance: float = 0.0


def build(case: IntCase) -> Node:
    """The node in a graph of its own."""
    graph = Graph()
    values: list[Value | None] = []
    for i, given in enumerate(case.inputs):
        if isinstance(given, Computed):
            values.append(graph.add_input(f"x{i}", TensorType(given.dtype, given.shape)))
        else:
            values.append(None if given is None else graph.constant(given))
    output = graph.add(case.op, values, origin=("node",))[0]
    assert output.producer is not None
    return output.producer


def requests(case: IntCase, isa: str) -> list[LayoutRequest]:
    """The layout combinations the template offers; it must accept the node."""
    node, target = build(case), ISAS[isa].target
    template = TEMPLATES[case.template]
    assert template.accepts(node, target) is None, template.accepts(node, target)
    assert template.cost(node, target) > 0
    return list(template.layouts(node, target))


def plan(case: IntCase, isa: str, request: LayoutRequest) -> tuple[Node, KernelCall]:
    """The node with its layouts set, and its call."""
    node = build(case)
    for value, layout in zip((*node.inputs, *node.outputs), (*request.inputs, *request.outputs), strict=True):
        if value is not None and layout is not None:
            value.type = value.type.with_layout(layout)
    return node, TEMPLATES[case.template].plan(node, ISAS[isa].target)


def _random(rng: np.random.Generator, dtype: DType, shape: Sequence[int]) -> np.ndarray:
    if dtype.is_float:
        return (rng.standard_normal(shape) * 3).astype(dtype.numpy)
    low, high = dtype.range if dtype.itemsize == 1 else (-(1 << 20), 1 << 20)
    return rng.integers(low, high, shape, endpoint=True).astype(dtype.numpy)


class _Memory:
    """Where one value lies; the bytes behind each image are guards."""

    def __init__(self, physical: np.ndarray, apart: bool) -> None:
        self.shape = physical.shape
        images = physical.shape[0] if apart else 1
        rows = physical.reshape(images, -1)
        self.size, self.pitch = rows.shape[1], rows.shape[1] + (GAP if apart else 0)
        self.array = np.zeros(images * self.pitch, physical.dtype)
        self.array.view(np.uint8)[:] = 0x5A
        self.array.reshape(images, self.pitch)[:, : self.size] = rows
        self.guards = self._behind().copy()

    def _behind(self) -> np.ndarray:
        return self.array.reshape(-1, self.pitch)[:, self.size :]

    def read(self) -> np.ndarray:
        assert self._behind().tobytes() == self.guards.tobytes(), "a guard between images was overwritten"
        return self.array.reshape(-1, self.pitch)[:, : self.size].reshape(self.shape)


def _to_layout(array: np.ndarray, layout: Layout, rng: np.random.Generator) -> np.ndarray:
    if layout.plain:
        return np.ascontiguousarray(array)
    block, (images, channels) = layout.block, array.shape[:2]
    blocks = -(-channels // block)
    padded = np.empty((images, blocks * block, *array.shape[2:]), array.dtype)
    padded[:] = np.nan if DType.of(array).is_float else _random(rng, DType.of(array), padded.shape)
    padded[:, :channels] = array
    return np.ascontiguousarray(np.moveaxis(padded.reshape(images, blocks, block, *array.shape[2:]), 2, -1))


Given = np.ndarray | int | emulate.EmulatedPointer


@dataclass(eq=False)
class Run:
    """Everything of one run: the arguments in order, and where the outputs lie."""

    given: list[Given]
    memories: dict[Value, _Memory]
    feeds: dict[Value, np.ndarray]


def prepare(case: IntCase, node: Node, call: KernelCall, seed: int = 0) -> Run:
    """Random inputs and memory for a call."""
    rng = np.random.default_rng(seed)
    feeds: dict[Value, np.ndarray] = {}
    for value, given in zip(node.inputs, case.inputs, strict=True):
        if isinstance(given, Computed) and value is not None:
            shape = bind_shape(given.shape, case.batch)
            feeds[value] = _random(rng, given.dtype, shape) if given.contents is None else given.contents
    strided = {a.value for a in call.arguments.values() if isinstance(a, BatchStride)}
    memories: dict[Value, _Memory] = {}
    for value in dict.fromkeys(v for v in (*node.inputs, *node.outputs) if v is not None):
        array = feeds.get(value, value.data)
        if array is not None:
            physical = _to_layout(array, value.type.layout, rng)
        else:
            physical = _random(rng, value.type.dtype, bind_shape(value.type.physical_shape, case.batch))
        memories[value] = _Memory(physical, value in strided and value.type.rank > 0)
    out: list[Given] = []
    kinds = dict(parameters(TEMPLATES[case.template].code.function))
    for name, argument in call.arguments.items():
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
                contents = at_line(rng.integers(0, 256, nbytes).astype(np.uint8))
                out.append(contents.view(np.float32 if kinds[name] == "F32Pointer" else np.int32 if dtype is DType.I32 else np.uint8))
    return Run(out, memories, feeds)


def check(case: IntCase, node: Node, run: Run) -> list[np.ndarray]:
    """The outputs, which must equal the reference's; AssertionError otherwise."""
    for memory in run.memories.values():
        memory.read()
    arrays = [None if v is None else run.feeds.get(v, v.data) for v in node.inputs]
    outputs = []
    for value, want in zip(node.outputs, case.op.bind(case.batch).reference(*arrays), strict=True):
        shape = bind_shape(value.type.shape, case.batch)
        got = from_layout(run.memories[value].read(), shape, value.type.layout)
        if case.tolerance:
            bad = np.abs(got.astype(np.float64) - want) > case.tolerance * np.maximum(1.0, np.abs(want))
        else:
            bad = np.asarray(got != want) & ~((got != got) & (want != want))
        assert not bad.any(), (
            f"{int(bad.sum())} of {bad.size} differ, e.g. {got[bad][:4]} for {want[bad][:4]} at {np.argwhere(bad)[:3].tolist()}"
        )
        outputs.append(got)
    return outputs


def run_emulated(case: IntCase, isa: str, request: LayoutRequest, threads: int = 3) -> list[np.ndarray]:
    """Emulate the kernel and check the result."""
    node, call = plan(case, isa, request)
    run = prepare(case, node, call)
    source = backend.source(call.spec)
    with np.errstate(all="ignore"):
        emulate.run(source.text, source.name, run.given, ISAS[isa].target.width, threads=threads)
    return check(case, node, run)


def run_compiled(case: IntCase, request: LayoutRequest, isa: str, kernels: Compiled, threads: int = 3) -> list[np.ndarray]:
    """Run the compiled kernel and check the result."""
    node, call = plan(case, isa, request)
    run = prepare(case, node, call)
    kernels.call(call, run.given, threads)
    return check(case, node, run)
