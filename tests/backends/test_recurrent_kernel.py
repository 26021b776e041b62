"""Steps of recurrent layers: the kernel emulated and compiled against the reference, and what it refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, Dim, DType, TensorType, bind_dim, bind_shape
from cnngraph.kernels import emulate
from cnngraph.kernels.template import Extent, Packed, Pointer, Scratch
from cnngraph.ops import RecurrentSteps
from cnngraph.ops.recurrent import ACTIVATIONS, GATES
from cnngraph.options import CompileOptions
from cnngraph.pipeline import compile_graph
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES

KERNEL = TEMPLATES["recurrent"]
USUAL = {"rnn": ("tanh",), "gru": ("sigmoid", "tanh"), "lstm": ("sigmoid", "tanh", "tanh")}


@dataclasses.dataclass(frozen=True)
class Layer:
    """Steps of a layer: ``given`` are the optional operands that it has."""

    cell: str
    hidden: int
    directions: str = "f"
    batch: Dim = BATCH
    given: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    more: tuple[tuple[str, Any], ...] = ()
    time: int = 3
    half: bool = False

    def op(self) -> RecurrentSteps:
        names = self.activations or USUAL[self.cell] * len(self.directions)
        return RecurrentSteps(
            self.cell, self.hidden, self.directions, names, tuple(ACTIVATIONS[name][1] for name in names), **dict(self.more),
            to=DType.BF16 if self.half else None,
        )  # fmt: skip

    def graph(self) -> Graph:
        """A graph of the layer alone, with all its outputs."""
        rng, graph = np.random.default_rng(self.hidden), Graph()
        d, g, h = len(self.directions), GATES[self.cell], self.hidden
        dtype = DType.BF16 if self.half else DType.F32
        shapes = {"inner": (d, h), "lengths": (self.batch,), "h0": (d, self.batch, h), "c0": (d, self.batch, h), "p": (d, 3 * h)}
        values: list[Value | None] = [graph.add_input("xw", TensorType(dtype, (self.time, self.batch, d * g * h)))]
        values.append(graph.constant((rng.standard_normal((d, g * h, h)) / np.sqrt(h)).astype(dtype.numpy)))
        for name, shape in shapes.items():
            if name not in self.given:
                values.append(None)
            elif name in ("h0", "c0", "lengths"):
                values.append(graph.add_input(name, TensorType(DType.I32 if name == "lengths" else dtype, shape)))
            else:
                values.append(graph.constant(rng.standard_normal([bind_dim(n, 1) for n in shape]).astype(np.float32)))
        for i, value in enumerate(graph.add(self.op(), values, origin=("steps",))):
            graph.add_output(f"y{i}", value)
        return graph


LAYERS = {
    "lstm": Layer("lstm", 20, "fr", given=("h0", "c0")),
    "lstm one short vector": Layer("lstm", 3, "r"),
    "lstm peepholes": Layer("lstm", 37, "r", given=("p", "c0"), more=(("clip", 0.4),)),
    "lstm coupled": Layer("lstm", 16, given=("h0",), more=(("input_forget", True),)),
    "lstm hard": Layer("lstm", 9, "fr", given=("lengths",), activations=("hardsigmoid", "relu", "tanh") * 2),
    "lstm two rows": Layer("lstm", 12, "fr", 2),
    "gru": Layer("gru", 21, "fr", given=("h0", "lengths")),
    "gru inside": Layer("gru", 40, "fr", given=("inner", "h0"), more=(("linear_before_reset", True),)),
    "gru inside, no bias": Layer("gru", 17, "r", 1, more=(("linear_before_reset", True), ("clip", 0.3))),
    "rnn": Layer("rnn", 70, "fr"),
    "rnn relu": Layer("rnn", 5, "r", 4, given=("h0",), activations=("relu",)),
}


def feeds_of(graph: Graph, batch: int) -> dict[str, np.ndarray]:
    """The operands of the first ``batch`` rows, which do not depend on how many there are."""
    rng = np.random.default_rng(3)
    whole = {}
    for name, value in graph.inputs:
        if name == "lengths":
            whole[name] = np.array([3, 1, 2, 0, 3, 2, 1], np.int32)[:batch]
            continue
        array = rng.standard_normal(bind_shape(value.type.shape, 9)).astype(value.type.dtype.numpy)
        whole[name] = np.ascontiguousarray(array[:, :batch]) if value.type.shape[1] == BATCH else array
    return whole


def run_emulated(graph: Graph, isa: str, feeds: dict[str, np.ndarray], batch: int, threads: int) -> dict[str, np.ndarray]:
    """Every output of the kernel; memory that it must write starts as NaN."""
    (node,) = graph.nodes
    target = backend.target(isa)
    assert KERNEL.accepts(node, target) is None and KERNEL.cost(node, target) > 0
    call = KERNEL.plan(node, target).typed()
    memory = {v: np.full(bind_shape(v.type.shape, batch), np.nan, v.type.dtype.numpy) for v in node.outputs}
    memory |= {value: feeds[name] for name, value in graph.inputs}
    given: list[np.ndarray | int] = []
    for argument in call.arguments.values():
        match argument:
            case Pointer(value):
                given.append(memory[value])
            case Packed(data):
                given.append(data)
            case Scratch(nbytes):
                given.append(np.full(nbytes // 4, np.nan, np.float32))
            case Extent(value):
                given.append(bind_dim(value, batch))
    source = backend.source(call.spec)
    emulate.run(source.text, source.name, given, target.width, threads=threads)
    return {name: memory[value] for name, value in graph.outputs}


def batches_of(layer: Layer) -> tuple[int, ...]:
    return (layer.batch,) if isinstance(layer.batch, int) else (1, 2, 3, 7)


@pytest.mark.parametrize("isa", ["avx512", "avx2", "sse4"])
@pytest.mark.parametrize("name", LAYERS)
def test_emulated_steps_meet_the_reference(name: str, isa: str) -> None:
    layer = LAYERS[name]
    graph = layer.graph()
    for batch in batches_of(layer)[-3 if isa == "avx512" else -1 :]:
        feeds = feeds_of(graph, batch)
        want = interpret(graph, feeds, np.float64)
        got = run_emulated(graph, isa, feeds, batch, threads=3)
        for label, array in want.items():
            np.testing.assert_allclose(got[label], array, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("isa", ["avx512bf16", "avx2"])
@pytest.mark.parametrize("name", ["lstm", "gru inside"])
def test_emulated_steps_on_bfloat16_meet_the_reference(name: str, isa: str) -> None:
    """Operands and results are rounded, the states between the steps are not."""
    graph = dataclasses.replace(LAYERS[name], half=True).graph()
    feeds = feeds_of(graph, 3)
    got = run_emulated(graph, isa, feeds, 3, threads=2)
    for label, array in interpret(graph, feeds, np.float64).items():
        assert got[label].dtype == DType.BF16.numpy
        np.testing.assert_allclose(got[label].astype(np.float64), array, rtol=2.0**-8, atol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_rows_do_not_depend_on_threads_or_on_other_rows(name: str) -> None:
    graph = LAYERS[name].graph()
    together = run_emulated(graph, "avx2", feeds_of(graph, 7), 7, threads=1)
    for batch, threads in ((7, 4), (1, 1), (2, 1), (4, 3)):
        some = run_emulated(graph, "avx2", feeds_of(graph, batch), batch, threads)
        assert np.array_equal(some["y0"], together["y0"][:, :batch]) and np.array_equal(some["y1"], together["y1"][:, :batch])


@pytest.mark.slow
@pytest.mark.parametrize("isa", backend.isas())
@pytest.mark.parametrize("name", LAYERS)
def test_programs_meet_the_reference(name: str, isa: str) -> None:
    layer = LAYERS[name]
    if layer.batch == BATCH:
        layer = dataclasses.replace(layer, batch=7, time=5)
    graph = layer.graph()
    feeds = feeds_of(graph, 7)
    want = interpret(graph, feeds, np.float64)
    program = compile_graph(graph, CompileOptions(isa=isa, math="exact"))
    assert not program.report["reference_steps"]
    assert all(np.isfinite(array).all() for array in want.values())
    one, two = (program.run(feeds, threads=threads) for threads in (1, 2))
    for label, array in want.items():
        np.testing.assert_allclose(one[label], array, rtol=3e-6, atol=3e-6)
        assert np.array_equal(one[label], two[label])


def node_of(graph: Graph) -> Node:
    (node,) = graph.nodes
    return node


def test_what_is_left_to_the_reference() -> None:
    target = backend.target("avx2")

    def refusal(layer: Layer) -> str | None:
        return KERNEL.accepts(node_of(layer.graph()), target)

    assert refusal(Layer("lstm", 4)) is None
    rare = refusal(Layer("rnn", 4, activations=("softsign",)))
    assert rare == "the activation softsign runs by the reference; kernels have sigmoid, tanh, relu, hardsigmoid"
    assert refusal(Layer("rnn", 4, "fr", activations=("relu", "tanh"))) == "the activations of the two directions differ"
    graph = Graph()
    values = [graph.add_input(n, TensorType(DType.F32, s)) for n, s in (("xw", (3, 2, 4)), ("r", (1, 4, 4)))]
    graph.add(Layer("rnn", 4).op(), values)
    assert KERNEL.accepts(node_of(graph), target) == "the weights are computed at run time"
