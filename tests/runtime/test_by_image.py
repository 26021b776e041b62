"""Batches computed image by image: the driver's way, when the compiler chooses it, and what an artifact may claim."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import cnngraph
from cnngraph.analysis.by_image import refuse_by_image
from cnngraph.errors import ArtifactError
from cnngraph.ir.graph import Graph
from cnngraph.ir.types import BATCH, DType, Sym, TensorType
from cnngraph.ops import Concat, Dense, Reduce, Reshape, Softmax
from cnngraph.options import CompileOptions
from cnngraph.pipeline import compile_graph
from cnngraph.runtime.manifest import decode_program, encode_program
from cnngraph.runtime.program import ProgramData
from cnngraph.runtime.session import Program
from tests.passes.support import Net
from tests.runtime.support import expected, feed, program_data


def by_image_data(steps: int = 6) -> ProgramData:
    return dataclasses.replace(program_data(steps), by_image=True)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_each_thread_computes_whole_images(threads: int) -> None:
    """The kernel rotates what it is called for: single images as far as they go round, the rest of the batch as one."""
    program = Program(by_image_data(), threads=threads)
    for batch in (1, 7, 2, 5, 3):
        x = feed(batch, batch)
        apart = batch // threads * threads
        want = np.concatenate([*(expected(x[i : i + 1]) for i in range(apart)), expected(x[apart:])])
        for _ in range(10):
            np.testing.assert_array_equal(program.run({"x": x})["y"], want)


def test_programs_of_both_kinds_share_a_team() -> None:
    together, apart = Program(program_data(4), threads=2), Program(by_image_data(5), threads=2)
    x = feed(4)
    for _ in range(50):
        np.testing.assert_array_equal(together.run({"x": x})["y"], expected(x, 4))
        np.testing.assert_array_equal(apart.run({"x": x})["y"], np.concatenate([expected(x[i : i + 1], 5) for i in range(4)]))


def network(classes: int = 10) -> Net:
    net = Net(3, 12, 12)
    inner = net.relu(net.conv(net.x, 20))
    inner = net.node(Concat(1), inner, net.conv(inner, 12, kernel=1, pad=0))
    pooled = net.node(Reduce("mean", (2, 3), True), inner)
    net.add_output("y", net.node(Softmax(1), net.dense(net.node(Reshape((BATCH, 32)), pooled), classes)))
    return net


def test_compiled_network_gives_the_same_bits_either_way() -> None:
    program = compile_graph(network(), CompileOptions())
    assert isinstance(program, Program)
    assert program.data.by_image
    assert program.data.report["together"] is None
    layer_by_layer = Program(dataclasses.replace(program.data, by_image=False))
    x = np.random.default_rng(0).standard_normal((5, 3, 12, 12)).astype(np.float32)
    for threads in (1, 2):
        for batch in (1, 2, 5):
            first, second = (p.run({"x": x[:batch]}, threads=threads)["y"] for p in (program, layer_by_layer))
            np.testing.assert_array_equal(first, second)


def several_rows() -> Graph:
    net = Net(3, 20)
    net.add_output("y", net.node(Reshape((Sym(3), 20)), net.x))
    return net


def shared_result() -> Graph:
    net = Net(4)
    net.add_output("y", net.node(Reduce("mean", (1,), True), net.x))
    net.add_output("z", net.elementwise("relu", net.weights(4)))
    return net


def no_batch() -> Graph:
    graph = Graph("fixed")
    x = graph.add_input("x", TensorType(DType.F32, (2, 4)))
    graph.add_output("y", graph.add(Softmax(1), [x], origin=("softmax",))[0])
    return graph


@pytest.mark.parametrize(
    ("graph", "weights", "cycles", "words"),
    [
        (network(), 0, 1e9, None),
        (network(), 100 << 20, 1e9, "of weights are better read once"),
        (network(5000), 0, 1e5, "dense layers are better read once"),
        (several_rows(), 0, 1e9, "no batch as its first axis"),
        (shared_result(), 0, 1e9, "no batch as its first axis"),
        (no_batch(), 0, 1e9, "no batch as its first axis"),
    ],
)  # fmt: skip
def test_when_images_are_computed_together(graph: Graph, weights: int, cycles: float, words: str | None) -> None:
    refusal = refuse_by_image(graph, weights, cycles)
    assert (refusal is None) if words is None else (refusal is not None and words in refusal)


def test_dense_layers_of_small_networks_stay_together() -> None:
    net = Net(256)
    net.add_output("y", net.node(Dense(), net.x, net.weights(256, 512), None))
    program = compile_graph(net, CompileOptions())
    assert not program.data.by_image
    assert "dense" in program.data.report["together"]


def test_artifact_keeps_the_choice(tmp_path: Path) -> None:
    Program(by_image_data()).save(tmp_path / "p.cnng")
    program = cnngraph.load(tmp_path / "p.cnng", threads=2)
    assert program.data.by_image
    x = feed(2)
    np.testing.assert_array_equal(program.run({"x": x})["y"], np.concatenate([expected(x[:1]), expected(x[1:])]))


@pytest.mark.parametrize(
    "change",
    [{"by_image": 1}, {"outputs": [["y", "float32", [96]]]}, {"static": 64}, {"copies": [[0, [5, 0, 0, "float32", [[1, 0], [0, 96]]]]]}],
    ids=["number", "shared output", "shared values", "copies"],
)
def test_artifact_cannot_claim_what_is_impossible(change: dict[str, object]) -> None:
    data = by_image_data()
    codes = [kernel.code for kernel in (*data.kernels, data.driver)]
    manifest = encode_program(data)
    assert decode_program(manifest, codes, data.weights).by_image
    with pytest.raises(ArtifactError):
        decode_program({**manifest, **change}, codes, data.weights)
