"""The memory plan, judged by executing it: a simulated machine that knows only places, strides and call order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, PLAIN, Dim, DType, Layout, Sym, TensorType, bind_shape
from cnngraph.kernels.template import BatchStride, KernelCall, KernelSpec, Pointer, Scratch
from cnngraph.ops import Concat, Elementwise, Identity, Reorder, Reshape, Slice, Transpose
from cnngraph.ops.expression import Expression
from cnngraph.passes.choose_layout import ALIASES
from cnngraph.passes.memory_links import natural_stride
from cnngraph.passes.plan_memory import MemoryPlan, Place, plan_memory
from cnngraph.runtime.program import ARENA, FIRST_IO, STATIC

N = BATCH
RELU, ADD = Elementwise(Expression.of("relu")), Elementwise(Expression.of("add", 2))
SPEC = KernelSpec("fake", "avx512", ())


def call_of(node: Node, *, strides: bool = True, in_place: bool = True) -> KernelCall:
    """A call that touches every operand, as a template would plan it."""
    arguments: dict[str, Pointer | BatchStride | Scratch] = {"scratch": Scratch(100), "more": Scratch(8)}
    for i, value in enumerate((*node.inputs, *node.outputs)):
        assert value is not None
        arguments[f"p{i}"] = Pointer(value)
        if strides:
            arguments[f"s{i}"] = BatchStride(value)
    overwrites = tuple(v for v in node.inputs if v is not None and v.type == node.output.type) if in_place else ()
    return KernelCall(SPEC, arguments, overwrites=overwrites if isinstance(node.op, Elementwise) else ())


def calls_of(graph: Graph, host: Callable[[Node], bool] = lambda node: False) -> dict[Node, KernelCall | None]:
    return {node: None if isinstance(node.op, ALIASES) or host(node) else call_of(node) for node in graph.nodes}


class Machine:
    """Memory as the plan lays it out; every tensor is read and written through its place only."""

    def __init__(self, graph: Graph, plan: MemoryPlan, batch: int) -> None:
        self.graph, self.plan, self.batch = graph, plan, batch
        self.memory = {
            ARENA: np.full(plan.arena * batch, 0xCD, np.uint8),
            STATIC: np.full(plan.static_bytes, 0xCD, np.uint8),
        }
        for i, (_, value) in enumerate((*graph.inputs, *graph.outputs)):
            shape = bind_shape(value.type.shape, batch)
            self.memory[FIRST_IO + i] = np.full(int(np.prod(shape)) * value.type.dtype.itemsize, 0xCD, np.uint8)
        for i, size in enumerate(plan.handover, FIRST_IO + len(graph.inputs) + len(graph.outputs)):
            self.memory[i] = np.full(size * batch, 0xCD, np.uint8)

    def array(self, value: Value) -> np.ndarray:
        """The physical elements, [first axis, elements of one image]."""
        place = self.plan.places[value]
        itemsize = value.type.dtype.itemsize
        start = place.a * self.batch + place.b
        images = bind_shape(value.type.shape[:1], self.batch)[0] if value.type.rank else 1
        inner = natural_stride(value.type)
        stride = self.plan.batch_strides.get(value, inner)
        buffer = self.memory[place.base]
        assert start >= 0
        assert start + ((images - 1) * stride + inner) * itemsize <= buffer.nbytes, "a value leaves its memory"
        return np.ndarray((images, inner), value.type.dtype.numpy, buffer.data, start, (stride * itemsize, itemsize))

    def read(self, value: Value) -> np.ndarray:
        value = self.plan.aliases.get(value, value)
        if value.data is not None:
            return value.data
        flat = np.array(self.array(value))
        shape = bind_shape(value.type.shape, self.batch)
        block = value.type.layout.block
        if block == 1:
            return flat.reshape(shape)
        blocks = -(-shape[1] // block)
        wide = np.moveaxis(flat.reshape(shape[0], blocks, *shape[2:], block), -1, 2)
        return np.ascontiguousarray(wide.reshape(shape[0], blocks * block, *shape[2:])[:, : shape[1]])

    def write(self, value: Value, data: np.ndarray) -> None:
        block = value.type.layout.block
        if block > 1:
            pad = -data.shape[1] % block
            wide = np.pad(data, [(0, 0), (0, pad)] + [(0, 0)] * (data.ndim - 2), constant_values=np.nan)
            wide = wide.reshape(data.shape[0], -1, block, *data.shape[2:])
            data = np.moveaxis(wide, 2, -1)
        target = self.array(value)
        target[...] = data.reshape(target.shape)

    def of_image(self, image: int) -> Machine:
        """The memory of one image: rows of the arrays and of what is handed over, and an arena of its own."""
        other = Machine(self.graph, self.plan, 1)
        for base, memory in self.memory.items():
            if base >= FIRST_IO:
                other.memory[base] = np.split(memory, self.batch)[image]
        return other

    def run(self, calls: dict[Node, KernelCall | None], feeds: dict[str, np.ndarray], apart: int = 0) -> dict[str, np.ndarray]:
        """All nodes, the first ``apart`` of them image by image."""
        for name, value in self.graph.inputs:
            self.write(value, feeds[name])
        if apart:
            for image in range(self.batch):
                self.of_image(image).run_nodes(calls, self.graph.nodes[:apart])
            self.memory[ARENA] = np.full(self.plan.late_arena * self.batch, 0xCD, np.uint8)
        self.run_nodes(calls, self.graph.nodes[apart:])
        for index, value in self.plan.copies:
            self.memory[FIRST_IO + len(self.graph.inputs) + index][...] = self.read(value).reshape(-1).view(np.uint8)
        found = {}
        for i, (name, value) in enumerate(self.graph.outputs):
            raw = self.memory[FIRST_IO + len(self.graph.inputs) + i]
            found[name] = raw.view(value.type.dtype.numpy).reshape(bind_shape(value.type.shape, self.batch))
        return found

    def run_nodes(self, calls: dict[Node, KernelCall | None], nodes: Sequence[Node]) -> None:
        for node in nodes:
            if node in self.plan.absorbed or (calls[node] is None and isinstance(node.op, ALIASES)):
                continue
            operands = [None if v is None else self.read(v) for v in node.inputs]
            if calls[node] is None:
                assert not any(v in self.plan.batch_strides for v in (*node.inputs, *node.outputs)), "NumPy got a strided value"
            for value, result in zip(node.outputs, node.op.bind(self.batch).reference(*operands), strict=True):
                self.write(value, result)


def check(graph: Graph, calls: dict[Node, KernelCall | None], apart: int = 0) -> MemoryPlan:
    """Plan, execute for two batch sizes, compare with the definition."""
    plan = plan_memory(graph, calls, apart)
    rng = np.random.default_rng(0)
    for batch in (1, 3):
        feeds = {name: rng.standard_normal(bind_shape(v.type.shape, batch)).astype(v.type.dtype.numpy) for name, v in graph.inputs}
        expected = interpret(graph, feeds)
        got = Machine(graph, plan, batch).run(calls, feeds, apart)
        assert list(got) == list(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(got[name], array, err_msg=name)
    return plan


def set_layouts(graph: Graph, layout: Layout) -> None:
    for node in graph.nodes:
        graph.set_type(node.output, node.output.type.with_layout(layout))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Graph, dict[Node, KernelCall | None]]:
    """A random network of element-wise chains, concatenations, slices, aliases and nodes without a kernel."""
    graph = Graph()
    batches: list[Dim] = [N, 1, 2]
    first = draw(st.sampled_from(batches))
    blocked = draw(st.booleans())
    unit = 4 if blocked else 1
    x = graph.add_input("x", TensorType(DType.F32, (first, 2 * unit, 3, 2)))
    live = [x]
    if blocked:
        (wide,) = graph.add(Reorder(Layout(4)), [x])
        graph.set_type(wide, wide.type.with_layout(Layout(4)))
        live = [wide]
    kinds = ["relu", "relu", "add", "concat", "concat", "slice"] + ([] if blocked else ["identity", "reshape", "host"])
    without_stride: set[Node] = set()
    for _ in range(draw(st.integers(1, 14))):
        kind = draw(st.sampled_from(kinds))
        a = draw(st.sampled_from(live[-5:]))
        layout = a.type.layout
        if kind == "relu":
            (y,) = graph.add(RELU, [a])
        elif kind == "add":
            (y,) = graph.add(ADD, [a, draw(st.sampled_from([v for v in live if v.type == a.type]))])
        elif kind == "concat":
            others = [v for v in live if v.type.shape[2:] == a.type.shape[2:]]
            (y,) = graph.add(Concat(1), [a, *draw(st.lists(st.sampled_from(others), min_size=1, max_size=3))])
        elif kind == "slice":
            channels = a.type.shape[1]
            assert isinstance(channels, int)
            start = draw(st.integers(0, channels - 1))
            taken = draw(st.integers(1, channels - start))
            (y,) = graph.add(Slice((0, start, 0, 0), (1, 1, 1, 1), (first, taken, *a.type.shape[2:])), [a])
        elif kind == "identity":
            (y,) = graph.add(Identity(), [a])
        elif kind == "reshape":
            (flat,) = graph.add(Reshape((first, int(np.prod([d for d in a.type.shape[1:] if isinstance(d, int)])))), [a])
            (y,) = graph.add(Reshape(a.type.shape), [flat])
        else:
            (y,) = graph.add(Transpose((0, 1, 3, 2)), [a])
            (y,) = graph.add(Transpose((0, 1, 3, 2)), [y])
        graph.set_type(y, y.type.with_layout(layout))
        if y.producer is not None and draw(st.integers(0, 7)) == 0:
            without_stride.add(y.producer)
        live.append(y)
    for i, value in enumerate([live[-1], *draw(st.lists(st.sampled_from(live), max_size=3))]):
        out = value
        if not value.type.layout.plain:
            (out,) = graph.add(Reorder(PLAIN), [value])
        graph.add_output(f"y{i}", out)
    calls = calls_of(graph, lambda node: isinstance(node.op, Transpose))
    for node in without_stride:
        if calls[node] is not None:
            calls[node] = call_of(node, strides=False)
    return graph, calls


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_any_plan_computes_the_graph(example: tuple[Graph, dict[Node, KernelCall | None]]) -> None:
    graph, calls = example
    plan = check(graph, calls)
    assert plan.bound <= plan.arena
    if all(node.output.type.nbytes == 0 or isinstance(node.output.type.nbytes, Sym) for node in graph.nodes):
        assert plan.static_bytes == 0


@settings(max_examples=200, deadline=None)
@given(graphs(), st.integers(0, 40))
def test_any_part_may_be_computed_image_by_image(example: tuple[Graph, dict[Node, KernelCall | None]], apart: int) -> None:
    graph, calls = example
    if graph.inputs[0][1].type.shape[0] == N:
        plan = check(graph, calls, min(apart, len(graph.nodes)))
        assert plan.late_arena <= plan.arena
        assert plan.bound <= plan.arena + sum(-(-size // 64) * 64 for size in plan.handover)


def test_images_joined_to_a_batch_do_not_lie_in_a_concatenation_of_channels() -> None:
    """The parts of a batch follow each other without gaps; within wider images they would not."""
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (2, 4, 3)))
    (a,) = graph.add(RELU, [x])
    (b,) = graph.add(Transpose((0, 1, 2)), [x])
    (both,) = graph.add(Concat(0), [a, b])
    (other,) = graph.add(RELU, [both])
    (wide,) = graph.add(Concat(1), [other, both])
    (y,) = graph.add(Transpose((0, 2, 1)), [wide])
    graph.add_output("y", y)
    check(graph, calls_of(graph))


def test_what_is_handed_over_lies_beside_the_arena() -> None:
    graph, x = image()
    (a,) = graph.add(Transpose((0, 1, 3, 2)), [x])
    (b,) = graph.add(Transpose((0, 1, 3, 2)), [a])
    (c,) = graph.add(Transpose((0, 1, 3, 2)), [b])
    (d,) = graph.add(ADD, [c, b])
    (e,) = graph.add(Transpose((0, 1, 3, 2)), [d])
    graph.add_output("y", e)
    plan = check(graph, calls_of(graph), 2)
    assert plan.handover == [144]  # b, 4*3*3 numbers
    assert plan.places[b] == Place(FIRST_IO + 2, 0, 0)
    assert (plan.arena, plan.late_arena) == (192, 192)
    assert plan.report()["peak"] == 2 * 192


def image(channels: int = 4, size: int = 3) -> tuple[Graph, Value]:
    graph = Graph()
    return graph, graph.add_input("x", TensorType(DType.F32, (N, channels, size, size)))


def test_chain_overwrites_and_needs_one_buffer() -> None:
    graph, value = image()
    for _ in range(5):
        (value,) = graph.add(RELU, [value])
    (value,) = graph.add(Transpose((0, 1, 3, 2)), [value])
    graph.add_output("y", value)
    calls = calls_of(graph)
    plan = check(graph, calls)
    assert plan.arena == plan.bound == 192  # 4*3*3*4 bytes rounded up to 64
    assert plan.scratch == 192  # 100 and 8 bytes, each rounded up to 64


def test_operand_that_lives_on_is_not_overwritten() -> None:
    graph, x = image()
    (a,) = graph.add(RELU, [x])
    (b,) = graph.add(RELU, [a])
    (c,) = graph.add(ADD, [a, b])
    (d,) = graph.add(Transpose((0, 1, 3, 2)), [c])
    graph.add_output("y", d)
    plan = check(graph, calls_of(graph))
    assert plan.arena == 2 * 192


def test_operand_that_is_also_read_under_another_name_is_not_overwritten() -> None:
    """A kernel may read the other name at other indices, after it has written there."""
    graph, x = image()
    (a,) = graph.add(RELU, [x])
    (flat,) = graph.add(Reshape((N, 36)), [a])
    (b,) = graph.add(Reshape((N, 4, 3, 3)), [flat])
    (c,) = graph.add(ADD, [a, b])
    (d,) = graph.add(Transpose((0, 1, 3, 2)), [c])
    graph.add_output("y", d)
    plan = check(graph, calls_of(graph))
    assert plan.places[a] == plan.places[b]
    assert plan.places[a] != plan.places[c]


def test_concat_parts_are_written_in_place() -> None:
    graph, x = image(16)
    (a,) = graph.add(RELU, [x])
    (b,) = graph.add(ADD, [x, a])
    (c,) = graph.add(Concat(1), [a, b])
    (d,) = graph.add(RELU, [c])
    graph.add_output("y", d)
    plan = check(graph, calls_of(graph))
    assert plan.absorbed == {c.producer}
    assert plan.batch_strides[a] == plan.batch_strides[b] == 2 * 16 * 9
    assert plan.places[b].b - plan.places[a].b == 16 * 9 * 4


def test_value_lies_in_one_concat_only() -> None:
    graph, x = image(16)
    (a,) = graph.add(RELU, [x])
    (b,) = graph.add(ADD, [x, a])
    (c,) = graph.add(Concat(1), [a, b])
    (d,) = graph.add(RELU, [c])
    (e,) = graph.add(Concat(1), [d, b])
    graph.add_output("y", e)
    assert len(check(graph, calls_of(graph)).absorbed) == 1


def test_concat_into_a_graph_output() -> None:
    graph, x = image()
    (a,) = graph.add(RELU, [x])
    (b,) = graph.add(ADD, [x, a])
    (c,) = graph.add(Concat(1), [a, b])
    graph.add_output("y", c)
    plan = check(graph, calls_of(graph))
    assert plan.absorbed == {c.producer}
    assert plan.arena == 0
    assert plan.places[a].base == plan.places[c].base == FIRST_IO + 1


@pytest.mark.parametrize("nested", [True, False])
def test_dense_block_copies_nothing(nested: bool) -> None:
    """Every layer reads all features so far: as a concatenation of two, or (torchvision's way) of all parts each time."""
    graph, x = image(16)
    (features,) = graph.add(RELU, [x])
    parts, whole = [features], features
    for _ in range(5):
        (squeezed,) = graph.add(Slice((0, 0, 0, 0), (1, 1, 1, 1), (N, 8, 3, 3)), [whole])
        (new,) = graph.add(Transpose((0, 1, 3, 2)), [squeezed])
        parts.append(new)
        (whole,) = graph.add(Concat(1), [whole, new] if nested else parts)
    (y,) = graph.add(Transpose((0, 1, 3, 2)), [whole])
    graph.add_output("y", y)
    plan = check(graph, calls_of(graph))
    assert all(node in plan.absorbed for node in graph.nodes if isinstance(node.op, Concat))
    assert plan.arena == plan.bound == (16 + 5 * 8) * 9 * 4 // 64 * 64 + 64 * bool((16 + 5 * 8) * 9 * 4 % 64)


def test_blocked_parts_must_fill_their_blocks() -> None:
    for channels, absorbed in ((8, True), (6, False)):
        graph = Graph()
        x = graph.add_input("x", TensorType(DType.F32, (N, channels, 2, 2)))
        (a,) = graph.add(Reorder(Layout(4)), [x])
        (b,) = graph.add(RELU, [a])
        (c,) = graph.add(RELU, [b])
        (d,) = graph.add(Concat(1), [b, c])
        set_layouts(graph, Layout(4))
        (y,) = graph.add(Reorder(PLAIN), [d])
        graph.add_output("y", y)
        assert (d.producer in check(graph, calls_of(graph)).absorbed) is absorbed


def test_part_read_by_numpy_is_copied() -> None:
    graph, x = image()
    (a,) = graph.add(RELU, [x])
    (b,) = graph.add(Transpose((0, 1, 3, 2)), [a])
    (c,) = graph.add(Concat(1), [a, b])
    graph.add_output("y", c)
    assert not check(graph, calls_of(graph, lambda node: node is b.producer)).absorbed


def test_output_cases() -> None:
    graph, x = image()
    constant = graph.constant(np.arange(6, dtype=np.float32).reshape(2, 3))
    (a,) = graph.add(RELU, [x])
    (flat,) = graph.add(Reshape((N, 36)), [a])
    (again,) = graph.add(ADD, [a, x])
    (input_alias,) = graph.add(Reshape((N, 36)), [x])
    (constant_alias,) = graph.add(Reshape((3, 2)), [constant])
    (fixed,) = graph.add(RELU, [constant_alias])
    for i, value in enumerate([a, a, flat, again, x, input_alias, constant, constant_alias, fixed]):
        graph.add_output(f"y{i}", value)
    plan = check(graph, calls_of(graph))
    assert plan.arena == plan.static_bytes == 0
    assert [index for index, _ in plan.copies] == [1, 2, 4, 5, 6, 7]


def test_slice_of_an_input_is_a_view() -> None:
    graph, x = image(8)
    (a,) = graph.add(Slice((0, 4, 0, 0), (1, 1, 1, 1), (N, 4, 3, 3)), [x])
    (b,) = graph.add(RELU, [a])
    graph.add_output("y", b)
    plan = check(graph, calls_of(graph))
    assert plan.absorbed == {a.producer}
    assert plan.places[a].base == FIRST_IO


def networks() -> dict[str, list[tuple[int, list[int]]]]:
    """Activation sizes (elements per image) and skip connections of well-known networks: (size, extra operands by index)."""
    lenet: list[tuple[int, list[int]]] = [(4704, []), (1176, []), (1600, []), (400, []), (120, []), (84, []), (10, [])]
    vgg: list[tuple[int, list[int]]] = []
    for width, size, depth in ((64, 224, 2), (128, 112, 2), (256, 56, 3), (512, 28, 3), (512, 14, 3)):
        vgg += [(width * size * size, [])] * depth + [(width * size * size // 4, [])]
    resnet: list[tuple[int, list[int]]] = [(64 * 112 * 112, []), (64 * 56 * 56, [])]
    for width, size, depth in ((64, 56, 3), (128, 28, 4), (256, 14, 6), (512, 7, 3)):
        for _ in range(depth):
            entry = len(resnet) - 1
            resnet += [(width * size * size, []), (width * size * size, []), (4 * width * size * size, [entry])]
    inception: list[tuple[int, list[int]]] = [(192 * 28 * 28, [])]
    for _ in range(4):
        entry = len(inception) - 1
        branches = [len(inception) + i for i in (0, 2, 4)]
        inception += [(96 * 784, [entry]), (16 * 784, [entry]), (128 * 784, []), (32 * 784, [entry]), (64 * 784, [])]
        inception += [(256 * 784, branches)]
    return {"lenet": lenet, "vgg": vgg, "resnet": resnet, "inception": inception}


@pytest.mark.parametrize("name", list(networks()))
def test_peak_is_near_the_lower_bound(name: str) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (N, 3 * 64)))
    values = [x]
    for size, extra in networks()[name]:
        operands = [values[-1], *(values[i + 1] for i in extra)]
        pieces = [graph.add(Slice((0, 0), (1, 1), (N, 1)), [v])[0] for v in operands]
        (joined,) = graph.add(Concat(1), pieces)
        (made,) = graph.add(Reshape((Sym(len(pieces)), 1)), [joined])
        (row,) = graph.add(Reshape((N, len(pieces))), [made])
        (first,) = graph.add(Slice((0, 0), (1, 1), (N, 1)), [row])
        wide = graph.constant(np.zeros((1, size), np.float32))
        (value,) = graph.add(ADD, [first, wide])
        values.append(value)
    graph.add_output("y", values[-1])
    plan = plan_memory(graph, {n: None if isinstance(n.op, ALIASES) else call_of(n, in_place=False) for n in graph.nodes})
    assert 0 < plan.bound <= plan.arena <= 1.10 * plan.bound


def test_report_names_the_peak() -> None:
    graph, x = image()
    (a,) = graph.add(Transpose((0, 1, 3, 2)), [x], origin=["small"])
    (b,) = graph.add(Concat(1), [a, a, a], origin=["wide"])
    (c,) = graph.add(Slice((0, 1, 0, 0), (1, 2, 1, 1), (N, 4, 3, 3)), [b], origin=["end"])
    graph.add_output("y", c)
    report = plan_memory(graph, calls_of(graph)).report()
    assert report["peak"] == report["lower_bound"] == 192 + 448
    assert report["peak_step"] == "wide"
    assert [row["first"] for row in report["storages"]] == ["small", "wide", "end"]
