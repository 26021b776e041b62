"""Recurrent layers as whole programs against onnxruntime and the references: every kind and direction, and a text recogniser."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import cnngraph
from cnngraph.frontend import import_model
from cnngraph.ir.interpret import interpret
from tests.frontend.support import floats, model, node

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
    "gru linear": ("GRU", {"linear_before_reset": 1}),
    "rnn": ("RNN", {}),
}


def weights(op: str, features: int, hidden: int, directions: int, prefix: str = "") -> dict[str, np.ndarray]:
    """w, r and b of a layer by name."""
    rows, scale = GATES[op] * hidden, np.float32(1.5)
    return {
        f"{prefix}w": floats(directions, rows, features, seed=1) * scale / np.float32(np.sqrt(features)),
        f"{prefix}r": floats(directions, rows, hidden, seed=2) * scale / np.float32(np.sqrt(hidden)),
        f"{prefix}b": floats(directions, 2 * rows, seed=3) / 2,
    }


def theirs(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What onnxruntime computes."""
    ort = pytest.importorskip("onnxruntime")
    proto.ir_version = 10
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def check(proto: onnx.ModelProto, feeds: dict[str, np.ndarray], tolerance: float = 3e-6, **options: Any) -> None:
    """Kernels compute all of it; results are those of the references in float64 and of onnxruntime, whatever the threads and the batch."""
    program = cnngraph.compile(proto.SerializeToString(), **options)
    assert not program.report["reference_steps"]
    got = program.run(feeds, threads=1)
    parallel = program.run(feeds, threads=2)
    for expected in (interpret(import_model(proto.SerializeToString()), feeds, np.float64), theirs(proto, feeds)):
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, rtol=tolerance, atol=tolerance)
            assert np.array_equal(got[name], parallel[name])
    batch = len(feeds["x"])
    for i in range(batch):
        alone = program.run({name: array[i : i + 1] for name, array in feeds.items()})
        for name, array in got.items():
            axis = array.shape.index(batch)
            assert np.array_equal(alone[name], array.take([i], axis))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_and_direction(kind: str, direction: str) -> None:
    op, attributes = KINDS[kind]
    directions, hidden, features = 2 if direction == "bidirectional" else 1, 24, 11
    outputs = "y h c" if op == "LSTM" else "y h"
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("Transpose", "s", "s0", perm=[1, 0, 2]),
        node(op, f"t w r b _ s0{' s0' if op == 'LSTM' else ''}", outputs, hidden_size=hidden, direction=direction, **attributes),
    ]
    proto = model(nodes, {"x": ["n", 6, features], "s": ["n", directions, hidden]}, outputs, weights(op, features, hidden, directions))
    check(proto, {"x": floats(5, 6, features, seed=4), "s": floats(5, directions, hidden, seed=5)})


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_sequences_of_different_lengths(direction: str) -> None:
    directions = 2 if direction == "bidirectional" else 1
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("LSTM", "t w r b lengths", "y h c", hidden_size=24, direction=direction),
    ]
    inputs = {"x": ["n", 6, 11], "lengths": (onnx.TensorProto.INT32, ["n"])}
    proto = model(nodes, inputs, "y h c", weights("LSTM", 11, 24, directions))
    check(proto, {"x": floats(5, 6, 11, seed=4), "lengths": np.array([6, 1, 4, 2, 5], np.int32)})


@pytest.mark.parametrize("op", GATES)
def test_layout_with_the_batch_first(op: str) -> None:
    """onnxruntime lacks it, so the reference alone judges."""
    tensors = weights(op, 7, 24, 1)
    operands = "x w r b _ s s" if op == "LSTM" else "x w r b _ s"
    inputs = {"x": ["n", 6, 7], "s": ["n", 1, 24]}
    proto = model([node(op, operands, "y h", hidden_size=24, layout=1)], inputs, "y h", tensors)
    program = cnngraph.compile(proto.SerializeToString())
    assert not program.report["reference_steps"]
    feeds = {"x": floats(3, 6, 7, seed=4), "s": floats(3, 1, 24, seed=5)}
    for name, array in interpret(import_model(proto.SerializeToString()), feeds, np.float64).items():
        np.testing.assert_allclose(program.run(feeds)[name], array, rtol=3e-6, atol=3e-6)


def test_peepholes_and_clip_on_the_way_to_the_gates() -> None:
    """onnxruntime does not clip the cell before its activation, so the bound is one that the cell stays within."""
    tensors = weights("LSTM", 5, 24, 2) | {"p": floats(2, 72, seed=6) / 4}
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("LSTM", "t w r b _ _ _ p", "y", hidden_size=24, direction="bidirectional", clip=2.5),
    ]
    check(model(nodes, {"x": ["n", 4, 5]}, "y", tensors), {"x": floats(3, 4, 5, seed=4)})


def recogniser() -> onnx.ModelProto:
    """Convolutions, the map as a sequence of columns, two bidirectional layers, a dense layer for every step."""
    hidden, classes = 24, 13
    zeros = np.zeros((2, 1, hidden), np.float32)
    nodes = [
        node("Conv", "x k", "c", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", "c", "a"),
        node("MaxPool", "a", "m", kernel_shape=[4, 1]),
        node("Squeeze", "m two", "q"),
        node("Transpose", "q", "t", perm=[2, 0, 1]),
        node("Shape", "x", "all"),
        node("Slice", "all nought one", "n"),
        node("Concat", "ways n units", "shape", axis=0),
        node("Expand", "zeros shape", "start"),
    ]
    tensors = {
        "k": floats(16, 3, 3, 3) / 4, "two": np.array([2]), "nought": np.array([0]), "one": np.array([1]), "ways": np.array([2]),
        "units": np.array([hidden]), "zeros": zeros, "joined": np.array([0, 0, -1]), "d": floats(2 * hidden, classes) / 4,
        "e": floats(classes, seed=9),
    }  # fmt: skip
    given, features = "t", 16
    for i in range(2):
        names = f"l{i}w l{i}r l{i}b"
        nodes += [
            node("LSTM", f"{given} {names} _ start start", f"y{i}", hidden_size=hidden, direction="bidirectional"),
            node("Transpose", f"y{i}", f"t{i}", perm=[0, 2, 1, 3]),
            node("Reshape", f"t{i} joined", f"j{i}"),
        ]
        tensors |= weights("LSTM", features, hidden, 2, f"l{i}")
        given, features = f"j{i}", 2 * hidden
    nodes += [node("MatMul", f"{given} d", "f"), node("Add", "f e", "y")]
    return model(nodes, {"x": ["n", 3, 8, 22]}, "y", tensors)


@pytest.mark.parametrize("math", ["f32", "exact"])
def test_a_text_recogniser(math: str) -> None:
    proto = recogniser()
    check(proto, {"x": floats(4, 3, 8, 22, seed=8)}, tolerance=1e-5, math=math)
    kernels = [step["kernel"] for step in cnngraph.compile(proto.SerializeToString(), math=math).profile({"x": floats(1, 3, 8, 22)})]
    assert sum(name.startswith("recurrent") for name in kernels) == 2
    assert sum(name.startswith("copy_strided") for name in kernels) == 1  # of the map; the directions stand as the next layer wants them


def test_a_text_recogniser_in_bfloat16() -> None:
    feeds = {"x": floats(4, 3, 8, 22, seed=8)}
    wide, narrow = (cnngraph.compile(recogniser().SerializeToString(), precision=precision) for precision in ("f32", "bf16"))
    assert not narrow.report["reference_steps"] and not narrow.report["precision"]["casts"]
    assert [kept["op"] for kept in narrow.report["precision"]["kept_f32"]] == ["Dense", "Reshape"]
    want, got = (program.run(feeds)["y"].astype(np.float64) for program in (wide, narrow))
    assert 1e-4 < np.abs(got - want).max() / np.abs(want).max() < 0.03
