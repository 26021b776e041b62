"""Gathers, scatters, sorting and the like against onnxruntime, with random shapes and attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from cnngraph.errors import InvalidInputError, InvalidModelError
from cnngraph.frontend import BatchNotSymbolicError, ContentsNeededError, import_model
from tests.frontend.against_onnxruntime import compare, ours, single_node
from tests.frontend.support import floats, model, node, run

DTYPES = [np.float32, np.float64, np.float16, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, np.bool_]


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Random numbers of any type; small integers, so that sums do not overflow."""
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2 if dtype is np.bool_ else 9, shape).astype(dtype)


def random_shape(rng: np.random.Generator, rank: int, most: int = 5) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.integers(1, most + 1, rank))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(3))
def test_tile(seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    x = numbers(rng, random_shape(rng, 1 + seed), dtype)
    compare("Tile", [x, rng.integers(0, 4, x.ndim)], constants=(1,))


def test_tile_of_many_axes_repeats_one_by_one() -> None:
    rng = np.random.default_rng(0)
    compare("Tile", [numbers(rng, (2, 1, 2, 3, 2)), np.array([2, 3, 1, 2, 2])], constants=(1,))


@pytest.mark.parametrize("axis", [-1, 0, 1, 2, -2])
@pytest.mark.parametrize("kinds", [(np.int64, np.float32), (np.int32, np.int64), (np.float32, np.int64), (np.uint8, np.bool_)])
def test_one_hot(axis: int, kinds: tuple[Any, Any]) -> None:
    rng = np.random.default_rng(axis + 5)
    low = 0 if np.dtype(kinds[0]).kind == "u" else -8
    indices = rng.integers(low, 9, (3, 4)).astype(kinds[0])
    values = np.array([0, 1]).astype(kinds[1]) if kinds[1] is np.bool_ else np.array([3, 7]).astype(kinds[1])
    model_ = single_node("OneHot", [indices, np.array(6), values], 1, 11, constants=(1,), axis=axis)
    (got,) = ours(model_, [indices, None, values])
    (want,) = (np.where(a, values[1], values[0]) for a in [_one_hot(indices.astype(np.float64), 6, axis)])
    np.testing.assert_array_equal(got, want)


def _one_hot(indices: np.ndarray, depth: int, axis: int) -> np.ndarray:
    out = np.stack([(indices == k) | (indices == k - depth) for k in range(depth)])
    return np.moveaxis(out, 0, axis if axis >= 0 else axis + indices.ndim + 1)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 5), (2, 5, 3), (1, 4)])
@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [0, 1, -2, 9, -9, None])
def test_trilu(dtype: Any, shape: tuple[int, ...], upper: int, k: int | None) -> None:
    x = numbers(np.random.default_rng(1), shape, dtype)
    compare("Trilu", [x] if k is None else [x, np.array(k)], opset=14, constants=(1,), upper=upper)


def test_trilu_keeps_infinities_and_drops_them() -> None:
    x = np.full((2, 2), np.inf, np.float32)
    (y,) = ours(single_node("Trilu", [x], 1, 14), [x])
    assert y.tolist() == [[np.inf, np.inf], [0, np.inf]]


@pytest.mark.parametrize("k", [0, 2, -1, -7])
def test_eye_like(k: int) -> None:
    x = np.zeros((4, 6), np.float32)
    compare("EyeLike", [x], opset=9, k=k)
    compare("EyeLike", [x.astype(np.int32)], opset=9, k=k, dtype=TensorProto.DOUBLE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32])
@pytest.mark.parametrize("seed", range(6))
def test_top_k(seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 6, random_shape(rng, 3, 6)).astype(dtype)  # many ties
    axis = int(rng.integers(-3, 3))
    k = int(rng.integers(1, x.shape[axis] + 1))
    compare("TopK", [x, np.array([k])], outputs=2, opset=11, constants=(1,), axis=axis, largest=seed % 2)


def test_top_k_of_old_operator_sets() -> None:
    x = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32)
    compare("TopK", [x], outputs=2, opset=9, k=3)
    compare("TopK", [x, np.array([3])], outputs=2, opset=10, constants=(1,), axis=0)


def test_top_k_of_more_than_there_are_is_refused() -> None:
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(InvalidModelError, match="TopK of 4 elements"):
        import_model(single_node("TopK", [x, np.array([4])], 2, 11, constants=(1,)))


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.uint8, np.int32])
@pytest.mark.parametrize("last", [0, 1])
def test_arg_reduce(op: str, dtype: Any, last: int) -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(0, 4, (3, 5, 4)).astype(dtype)
    for axis in (-3, 0, 1, 2, -1):
        compare(op, [x], opset=13, axis=axis, keepdims=axis % 2, select_last_index=last)
    compare(op, [x], opset=8 if dtype not in (np.int8, np.uint8) else 13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(4))
def test_gather_elements(seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    x = numbers(rng, random_shape(rng, 1 + seed % 3), dtype)
    axis = int(rng.integers(-x.ndim, x.ndim))
    shape = [int(rng.integers(1, n + 1)) for n in x.shape]
    shape[axis] = int(rng.integers(1, 7))
    indices = rng.integers(-x.shape[axis], x.shape[axis], shape)
    compare("GatherElements", [x, indices.astype(np.int32 if seed % 2 else np.int64)], opset=13, axis=axis)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(6))
def test_gather_nd(seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    x = numbers(rng, random_shape(rng, 4), dtype)
    batch = seed % 3
    depth = int(rng.integers(1, x.ndim - batch + 1))
    lead = (*x.shape[:batch], *random_shape(rng, int(rng.integers(0, 3)), 3))
    indices = np.stack([rng.integers(-n, n, lead) for n in x.shape[batch : batch + depth]], -1)
    compare("GatherND", [x, indices], opset=13, batch_dims=batch)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter_elements(dtype: Any, reduction: str) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = numbers(rng, random_shape(rng, 1 + seed), dtype)
        axis = int(rng.integers(-x.ndim, x.ndim))
        shape = [int(rng.integers(1, n + 1)) for n in x.shape]
        indices = rng.integers(-x.shape[axis], x.shape[axis], shape)
        if reduction == "none":  # without repeated places, whose order is not defined
            lines = np.stack([rng.permutation(x.shape[axis])[: shape[axis]] for _ in range(int(np.prod(shape)) // shape[axis])])
            indices = np.moveaxis(lines.reshape([n for i, n in enumerate(shape) if i != axis % x.ndim] + [shape[axis]]), -1, axis)
        updates = numbers(rng, tuple(shape), dtype)
        compare("ScatterElements", [x, indices, updates], opset=18, axis=axis, reduction=reduction)


@pytest.mark.parametrize("opset", [9, 11, 13, 16])
def test_scatter_of_old_operator_sets(opset: int) -> None:
    rng = np.random.default_rng(0)
    x, updates = numbers(rng, (3, 4)), numbers(rng, (2, 4))
    indices = np.array([[0, 1, 2, 0], [2, 0, 1, 1]])
    compare("Scatter" if opset == 9 else "ScatterElements", [x, indices, updates], opset=opset)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter_nd(dtype: Any, reduction: str) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = numbers(rng, (4, 3, 2), dtype)
        depth = 1 + seed
        places = np.stack(np.unravel_index(rng.permutation(int(np.prod(x.shape[:depth])))[:4], x.shape[:depth]), -1)
        if reduction != "none":
            places = np.concatenate([places, places - np.array(x.shape[:depth])])
        updates = numbers(rng, (*places.shape[:-1], *x.shape[depth:]), dtype)
        compare("ScatterND", [x, places, updates], opset=18, reduction=reduction)


def test_scatter_nd_of_old_operator_sets() -> None:
    rng = np.random.default_rng(0)
    for opset in (11, 13, 16):
        compare("ScatterND", [numbers(rng, (4, 3)), np.array([[1], [3]]), numbers(rng, (2, 3))], opset=opset)


@pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
def test_reverse_sequence(axes: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x = numbers(rng, (5, 4, 3))
    time, batch = axes
    lengths = rng.integers(0, x.shape[time] + 1, x.shape[batch])
    compare("ReverseSequence", [x, lengths], opset=10, time_axis=time, batch_axis=batch)


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter(mode: str) -> None:
    rng = np.random.default_rng(0)
    x, update = numbers(rng, (3, 2, 5, 4)), numbers(rng, (3, 2, 2, 4))
    start = np.array([0, 3, 1]) if mode == "linear" else np.array([4, 3, 7])
    (y,) = ours(single_node("TensorScatter", [x, update, start], 1, 24, mode=mode), [x, update, start])
    want = x.copy()
    for b in range(3):
        for i in range(2):
            want[b, :, (start[b] + i) % 5] = update[b, :, i]
    np.testing.assert_array_equal(y, want)


INDEXED = {
    "GatherElements": [np.zeros((2, 3), np.float32), np.array([[3, 0, 0]])],
    "GatherND": [np.zeros((2, 3), np.float32), np.array([[1, -4]])],
    "ScatterElements": [np.zeros((2, 3), np.float32), np.array([[3, 0, 0]]), np.zeros((1, 3), np.float32)],
    "ScatterND": [np.zeros((2, 3), np.float32), np.array([[1, -4]]), np.zeros(1, np.float32)],
}


@pytest.mark.parametrize("op", INDEXED)
def test_an_index_out_of_range_is_refused(op: str) -> None:
    inputs = INDEXED[op]
    with pytest.raises(InvalidModelError, match="outside an axis of"):
        import_model(single_node(op, inputs, 1, 16, constants=(1,)))
    with pytest.raises(InvalidInputError, match="outside an axis of"):
        ours(single_node(op, inputs, 1, 16), inputs)


def test_the_batch_stays_free_where_images_stay_apart() -> None:
    rng = np.random.default_rng(0)
    x = numbers(rng, (3, 4, 5))
    places = rng.integers(0, 4, (3, 2, 5))
    compare("GatherElements", [x, places], opset=13, batch=(0, 1), axis=1)
    compare("GatherND", [x, rng.integers(0, 4, (3, 2, 1))], opset=13, batch=(0, 1), batch_dims=1)
    compare("ScatterElements", [x, places[:, :1], numbers(rng, (3, 1, 5))], opset=18, batch=(0, 1, 2), axis=1)
    compare("TopK", [x, np.array([2])], outputs=2, opset=11, constants=(1,), batch=(0,))
    compare("ArgMax", [x], opset=13, batch=(0,), axis=1)
    compare("Tile", [x, np.array([1, 2, 3])], constants=(1,), batch=(0,))


@pytest.mark.parametrize(
    ("op", "inputs", "free", "attributes"),
    [
        ("ArgMax", [np.zeros((2, 3), np.float32)], (0,), {"axis": 0}),
        ("TopK", [np.zeros((2, 3), np.float32), np.array([1])], (0,), {"axis": 0}),
        ("ScatterND", [np.zeros((2, 3), np.float32), np.array([[1]]), np.zeros((1, 3), np.float32)], (0,), {}),
        ("GatherND", [np.zeros((2, 3), np.float32), np.array([[1]])], (0,), {}),
        ("Tile", [np.zeros((2, 3), np.float32), np.array([2, 1])], (0,), {}),
    ],
)
def test_the_batch_cannot_stay_free_where_images_mix(op: str, inputs: list[np.ndarray], free: tuple[int, ...], attributes: Any) -> None:
    with pytest.raises(BatchNotSymbolicError):
        import_model(single_node(op, inputs, 2 if op == "TopK" else 1, 18, constants=(1,), batch=free, **attributes))


def test_shape_arithmetic_through_size_range_and_scatter() -> None:
    """An exporter's way to say reshape(x, [N, numbers per image]): every operator of it is followed at import."""
    proto = model(
        [
            node("Size", "x", "count"),
            node("Shape", "x", "dims"),
            node("ScatterND", "dims one size", "changed"),
            node("Slice", "changed zero two", "target"),
            node("Reshape", "x target", "y"),
        ],
        {"x": ["N", 3, 4]},
        weights={"one": np.array([[1]]), "size": np.array([12]), "zero": np.array([0]), "two": np.array([2])},
    )
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    graph = import_model(proto)
    assert str(graph.outputs[0][1].type.shape) == "(N, 12)"
    np.testing.assert_array_equal(run(graph, {"x": x})["y"], x.reshape(2, 12))


def test_the_size_of_a_batch_is_a_multiple_of_it() -> None:
    proto = model(
        [node("Size", "x", "count"), node("Unsqueeze", "count zero", "target"), node("Reshape", "x target", "y")],
        {"x": ["N", 6]},
        weights={"zero": np.array([0])},
    )
    graph = import_model(proto)
    assert str(graph.outputs[0][1].type.shape) == "(6N,)"


def test_non_zero_and_running_sums_of_known_numbers() -> None:
    proto = model(
        [
            node("NonZero", "mask", "places"),
            node("Squeeze", "places zero", "flat"),
            node("CumSum", "flat axis", "sums"),
            node("Expand", "x sums", "y"),
        ],
        {"x": [1, 1, 1]},
        weights={"mask": np.array([0, 1, 1, 1], np.int64), "zero": np.array([0]), "axis": np.array(0)},
    )
    graph = import_model(proto)
    assert graph.outputs[0][1].type.shape == (1, 3, 6)


@pytest.mark.parametrize(
    ("inputs", "source", "error"),
    [({"x": ["N", 2]}, "s", BatchNotSymbolicError), ({"x": [1, 2], "v": (TensorProto.INT64, [3])}, "v", ContentsNeededError)],
)
def test_shapes_from_non_zero_are_not_left_to_run_time(inputs: dict[str, Any], source: str, error: type[Exception]) -> None:
    """The model is compiled for a batch size, or for the contents of a small input, rather than evaluated in the tail."""
    nodes = [
        node("Shape", "x", "s"),
        node("NonZero", source, "places"),
        node("ReduceMax", "places", "last", keepdims=0),
        node("Expand", "x last", "y"),
    ]
    with pytest.raises(error):
        import_model(model(nodes, inputs))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("bounds", [(0, 9, 2), (5, -4, -3), (3, 3, 1), (0, 7, 7), (2, 1, 1)])
def test_range(dtype: Any, bounds: tuple[int, int, int]) -> None:
    compare("Range", [np.array(b, dtype) for b in bounds], opset=11, constants=(0, 1, 2))


def test_a_long_range_is_a_constant() -> None:
    compare("Range", [np.array(b, np.int64) for b in (5, 200_000, 3)], opset=11, constants=(0, 1, 2))


def test_a_range_without_a_step_is_refused() -> None:
    with pytest.raises(InvalidModelError):
        import_model(single_node("Range", [np.array(b, np.int64) for b in (0, 5, 0)], 1, 11, constants=(0, 1, 2)))


def test_size_of_a_static_tensor() -> None:
    x = np.zeros((2, 3, 4), np.float32)
    assert ours(single_node("Size", [x], 1, 13), [x])[0].tolist() == 24


@pytest.mark.parametrize(
    ("indices", "sliced"),
    [(2, True), (-1, True), ([1, 2], True), ([[0], [1]], True), ([-2, -1], True), ([-1, 0], False), ([1, 1], False), ([2, 1], False)],
)
def test_indices_that_follow_each_other_are_a_slice(indices: list[int] | int, sliced: bool) -> None:
    x, places = floats(2, 3, 4), np.array(indices, np.int64)
    graph = import_model(model([node("Gather", "x i", "y", axis=1)], {"x": ["n", 3, 4]}, weights={"i": places}))
    np.testing.assert_array_equal(run(graph, {"x": x})["y"], np.take(x, places, 1))
    assert any(n.op.name == "Slice" for n in graph.nodes) == sliced
