"""Batches computed image by image: the driver's way, when the compiler chooses it, and what an artifact may claim."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import cnngraph
from cnngraph.analysis import by_image
from cnngraph.analysis.by_image import choose_apart
from cnngraph.errors import ArtifactError
from cnngraph.ir.graph import Graph, Node
from cnngraph.ir.types import BATCH, DType, Sym, TensorType
from cnngraph.kernels.template import KernelCall, KernelSpec, Packed
from cnngraph.ops import Concat, Dense, Reduce, Reshape, Softmax, Trilu
from cnngraph.options import CompileOptions
from cnngraph.pipeline import compile_graph
from cnngraph.runtime.manifest import decode_program, encode_program
from cnngraph.runtime.program import FIRST_IO, STATIC, KernelStep, ProgramData
from cnngraph.runtime.session import Program
from tests.passes.support import Net
from tests.runtime.support import LENGTH, expected, feed, program_data


def by_image_data(steps: int = 6) -> ProgramData:
    return dataclasses.replace(program_data(steps), apart=steps, late_arena=0)


def halves_data(front: int = 3, behind: int = 3) -> ProgramData:
    """``front`` rotations image by image, whose result is handed over to ``behind`` rotations of the batch."""
    data = program_data(front + behind)
    handed = (FIRST_IO + 2, 0, 0)
    steps = [step for step in data.steps if isinstance(step, KernelStep)]
    last, first = steps[front - 1], steps[front]
    steps[front - 1] = dataclasses.replace(last, arguments=(*last.arguments[:2], handed, *last.arguments[3:]))
    steps[front] = dataclasses.replace(first, arguments=(handed, *first.arguments[1:]))
    return dataclasses.replace(data, steps=steps, apart=front, late_arena=data.arena, handover=[LENGTH * 4])


def rotated(x: np.ndarray, threads: int, front: int, behind: int = 0) -> np.ndarray:
    """What the kernel makes of a batch: single images as far as they go round, the rest of the batch as one; then of all."""
    apart = len(x) // threads * threads if len(x) > 1 else 0
    return expected(np.concatenate([*(expected(x[i : i + 1], front) for i in range(apart)), expected(x[apart:], front)]), behind)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_each_thread_computes_whole_images(threads: int) -> None:
    program = Program(by_image_data(), threads=threads)
    for batch in (1, 7, 2, 5, 3):
        x = feed(batch, batch)
        want = rotated(x, threads, 6)
        for _ in range(10):
            np.testing.assert_array_equal(program.run({"x": x})["y"], want)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_leading_steps_alone_can_be_computed_image_by_image(threads: int) -> None:
    program = Program(halves_data(), threads=threads)
    for batch in (1, 7, 2, 5, 3, 8, 1):
        x = feed(batch, batch)
        want = rotated(x, threads, 3, 3)
        for _ in range(10):
            np.testing.assert_array_equal(program.run({"x": x})["y"], want)


def test_profile_of_a_program_in_two_parts_has_every_step() -> None:
    program = Program(halves_data(2, 4), threads=2)
    assert [row["nodes"] for row in program.profile({"x": feed(4)}, 2)] == [f"step{i}" for i in range(6)]


def test_programs_of_all_kinds_share_a_team() -> None:
    together, apart, halves = Program(program_data(4), threads=2), Program(by_image_data(5), threads=2), Program(halves_data(), threads=2)
    x = feed(4)
    for _ in range(50):
        np.testing.assert_array_equal(together.run({"x": x})["y"], expected(x, 4))
        np.testing.assert_array_equal(apart.run({"x": x})["y"], rotated(x, 2, 5))
        np.testing.assert_array_equal(halves.run({"x": x})["y"], rotated(x, 2, 3, 3))


def network(classes: int = 10) -> Net:
    net = Net(3, 12, 12)
    inner = net.relu(net.conv(net.x, 20))
    inner = net.node(Concat(1), inner, net.conv(inner, 12, kernel=1, pad=0))
    pooled = net.node(Reduce("mean", (2, 3), True), inner)
    net.add_output("y", net.node(Softmax(1), net.dense(net.node(Reshape((BATCH, 32)), pooled), classes)))
    return net


def same_bits(program: Program) -> None:
    """As the same steps layer by layer."""
    layer_by_layer = Program(dataclasses.replace(program.data, apart=0))
    x = np.random.default_rng(0).standard_normal((5, 3, 12, 12)).astype(np.float32)
    for threads in (1, 2):
        for batch in (1, 2, 5):
            first, second = (p.run({"x": x[:batch]}, threads=threads)["y"] for p in (program, layer_by_layer))
            np.testing.assert_array_equal(first, second)


def test_compiled_network_gives_the_same_bits_either_way() -> None:
    program = compile_graph(network(), CompileOptions())
    assert isinstance(program, Program)
    assert program.data.apart == len(program.data.steps)
    assert program.data.report["together"] is None
    same_bits(program)


@pytest.fixture
def small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if weights of a kilobyte were many, and results always."""
    monkeypatch.setattr(by_image, "_MOST_WEIGHTS", 1000)
    monkeypatch.setattr(by_image, "_LEAST_RESULTS", 0)


@pytest.mark.usefixtures("small_caches")
def test_front_of_a_compiled_network_gives_the_same_bits(tmp_path: Path) -> None:
    program = compile_graph(network(1000), CompileOptions())
    assert isinstance(program, Program)
    assert 0 < program.data.apart < len(program.data.steps)
    assert program.data.handover
    assert "of weights are better read once" in program.data.report["together"]
    same_bits(program)
    program.save(tmp_path / "p.cnng")
    loaded = cnngraph.load(tmp_path / "p.cnng")
    assert (loaded.data.apart, loaded.data.handover) == (program.data.apart, program.data.handover)
    assert loaded.data.late_arena == program.data.late_arena
    same_bits(loaded)


def test_what_mixes_images_comes_behind_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_image, "_LEAST_RESULTS", 0)
    net = Net(3, 12, 12)
    inner = net.relu(net.conv(net.x, 20))
    rows = net.node(Reshape((Sym(12), 20 * 12)), inner)
    net.add_output("y", net.node(Softmax(1), rows))
    net.add_output("z", inner)
    program = compile_graph(net, CompileOptions())
    assert isinstance(program, Program)
    assert 0 < program.data.apart < len(program.data.steps)
    assert "no batch as its first axis" in program.data.report["together"]
    same_bits(program)


def several_rows() -> Graph:
    net = Net(3, 20)
    net.add_output("y", net.node(Reshape((Sym(3), 20)), net.x))
    return net


def shared_result() -> Graph:
    net = Net(4)
    net.add_output("z", net.elementwise("relu", net.weights(4)))
    net.add_output("y", net.node(Reduce("mean", (1,), True), net.x))
    return net


def no_batch() -> Graph:
    graph = Graph("fixed")
    x = graph.add_input("x", TensorType(DType.F32, (2, 4)))
    graph.add_output("y", graph.add(Softmax(1), [x], origin=("softmax",))[0])
    return graph


def triangle() -> Graph:
    net = Net(3, 64, 64)
    net.add_output("y", net.node(Trilu(True), net.relu(net.relu(net.relu(net.x)))))
    return net


def calls_of(graph: Graph, weights: int) -> dict[Node, KernelCall | None]:
    """A kernel for everything but reshapes; the last one has ``weights`` bytes of packed weights."""
    packed = Packed(np.empty(weights, np.uint8))
    last = graph.nodes[-1]
    return {
        node: None if isinstance(node.op, Reshape) else KernelCall(KernelSpec("k", "avx2", ()), {"w": packed} if node is last else {})
        for node in graph.nodes
    }  # fmt: skip


@pytest.mark.parametrize(
    ("graph", "weights", "cycles", "count", "words"),
    [
        (network(), 0, 1e9, 8, None),
        (network(), 100 << 20, 1e9, 0, "of weights are better read once"),
        (network(5000), 0, 1e5, 0, "dense layers are better read once"),
        (triangle(), 0, 1e9, 3, "may mix the images"),
        (several_rows(), 0, 1e9, 0, "no batch as its first axis"),
        (shared_result(), 0, 1e9, 0, "no batch as its first axis"),
        (no_batch(), 0, 1e9, 0, "no batch as its first axis"),
    ],
)  # fmt: skip
def test_which_nodes_are_computed_image_by_image(graph: Graph, weights: int, cycles: float, count: int, words: str | None) -> None:
    apart = choose_apart(graph, calls_of(graph, weights), cycles)
    assert apart.nodes == count
    assert (apart.reason is None) if words is None else (apart.reason is not None and words in apart.reason)


def test_weights_that_are_read_by_several_layers_count_once() -> None:
    graph = triangle()
    shared = Packed(np.empty(40 << 20, np.uint8))
    calls = {node: KernelCall(KernelSpec("k", "avx2", ()), {"w": shared}) for node in graph.nodes}
    assert choose_apart(graph, calls, 1e9).nodes == 3


def test_operators_without_a_kernel_stay_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_image, "_LEAST_RESULTS", 0)
    graph = triangle()
    calls = {**calls_of(graph, 0), graph.nodes[2]: None}
    apart = choose_apart(graph, calls, 1e9)
    assert apart.nodes == 2
    assert apart.reason is not None
    assert "has no kernel" in apart.reason


def test_dense_layers_of_small_networks_stay_together() -> None:
    net = Net(256)
    net.add_output("y", net.node(Dense(), net.x, net.weights(256, 512), None))
    program = compile_graph(net, CompileOptions())
    assert program.data.apart == 0
    assert "dense" in program.data.report["together"]


def test_artifact_keeps_the_choice(tmp_path: Path) -> None:
    Program(by_image_data()).save(tmp_path / "p.cnng")
    program = cnngraph.load(tmp_path / "p.cnng", threads=2)
    assert program.data.apart == 6
    x = feed(2)
    np.testing.assert_array_equal(program.run({"x": x})["y"], np.concatenate([expected(x[:1]), expected(x[1:])]))


def host_step() -> dict[str, object]:
    return {"op": {}, "inputs": [], "outputs": [], "label": "host"}


def first_step(base: int) -> dict[str, object]:
    return {"kernel": 0, "arguments": [[base, 0, 0]] * 5, "label": "kernel"}


@pytest.mark.parametrize(
    "change",
    [
        {"apart": True}, {"apart": 7}, {"apart": -1}, {"outputs": [["y", "float32", [96]]]}, {"steps": [host_step()], "apart": 1},
        {"steps": [first_step(STATIC)], "apart": 1}, {"handover": [-1]}, {"handover": 3}, {"late_arena": 1 << 40},
    ],
    ids=["truth", "more than there are", "negative", "shared output", "no kernel", "shared memory", "size", "no list", "arena"],
)  # fmt: skip
def test_artifact_cannot_claim_what_is_impossible(change: dict[str, object]) -> None:
    data = by_image_data()
    codes = [kernel.code for kernel in (*data.kernels, data.driver)]
    manifest = encode_program(data)
    assert decode_program(manifest, codes, data.weights).apart == 6
    with pytest.raises(ArtifactError):
        decode_program({**manifest, **change}, codes, data.weights)
