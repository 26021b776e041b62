"""Worked examples of lectures on convolutional networks, computed by compiled programs.

Values that the slides got wrong are replaced by the right ones; where that is so, the comment says what the slide had.
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import cnngraph


def run(op: str, x: list, *constants: object, **attributes: object) -> np.ndarray:
    """Compile and run one node on float32 data; ``constants`` become initialisers."""
    data = np.array(x, np.float32)
    arrays = [np.asarray(c, np.float32 if not isinstance(c, np.ndarray) else c.dtype) for c in constants]
    names = [f"c{i}" for i in range(len(arrays))]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, data.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return cnngraph.compile(model, threads=1).run({"x": data})["y"]


def conv(x: object, w: object, b: object | None = None, **attributes: object) -> np.ndarray:
    """2-D convolution of a map (or of channels of maps); returns the map."""
    x, w = np.array(x, np.float32), np.array(w, np.float32)
    x = x[None, None] if x.ndim == 2 else x[None]
    w = w[None, None] if w.ndim == 2 else w[None]
    bias = [] if b is None else [[b]]
    return run("Conv", x.tolist(), w, *bias, **attributes)[0, 0]


def pool(op: str, x: object, **attributes: object) -> np.ndarray:
    """Pooling of one map."""
    return run(op, np.array(x, np.float32)[None, None].tolist(), **attributes)[0, 0]


X = np.arange(1, 10).reshape(3, 3)
K = [[10, 20], [30, 40]]
I4 = [[2, 0, 1, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 3, 0, 0]]
EDGE = [[-1, 0, 1]] * 3
STRIPE10 = np.zeros((10, 10), np.float32)
STRIPE10[:, 3:7] = 1


def exact(got: np.ndarray, expected: object) -> None:
    """Integers small enough for float32 must come out bit for bit."""
    np.testing.assert_array_equal(got, np.array(expected, np.float32))


def test_1_1_cross_correlation_is_not_flipped() -> None:
    exact(conv(X, K), [[370, 470], [670, 770]])


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"pads": [0, 0, 1, 1]}, [[370, 470, 210], [670, 770, 330], [230, 260, 90]]),
        ({"auto_pad": "SAME_UPPER"}, [[370, 470, 210], [670, 770, 330], [230, 260, 90]]),
        ({"auto_pad": "SAME_LOWER"}, [[40, 110, 180], [180, 370, 470], [360, 670, 770]]),
        ({"pads": [0, 0, 1, 1], "strides": [2, 2]}, [[370, 210], [230, 90]]),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, [[370, 210], [230, 90]]),
        ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, [[40, 180], [360, 770]]),
        ({"strides": [2, 2]}, [[370]]),
    ],
)
def test_1_2_and_1_3_padding_and_stride(attributes: dict, expected: list) -> None:
    exact(conv(X, K, **attributes), expected)


def test_1_4_max_pool_pads_with_minus_infinity() -> None:
    attributes = {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}
    exact(pool("MaxPool", X, **attributes), [[5, 6, 6], [8, 9, 9], [8, 9, 9]])
    exact(pool("MaxPool", -X, **attributes), [[-1, -2, -3], [-4, -5, -6], [-7, -8, -9]])


def test_1_5_depth_max_pool() -> None:
    maps = [[[10, 8], [4, 40]], [[2, 5], [30, 6]], [[5, 0], [5, 40]]]
    exact(run("ReduceMax", [maps], axes=[1], keepdims=1)[0, 0], [[10, 8], [30, 40]])


def test_1_6_neuron() -> None:
    w = [[0.01, 0.09, 0.22], [-1.36, 0.34, -1.59], [0.13, -0.69, 1.02]]
    x = [[0.53, 0.34, 0.06], [0.37, 0.82, 0.01], [0.62, 0.91, 0.34]]
    assert conv(x, w)[0, 0] == pytest.approx(-0.3917, abs=1e-6)
    assert conv(x, w, 0.20)[0, 0] == pytest.approx(-0.1917, abs=1e-6)


def test_1_7_rgb_same_convolution() -> None:
    r = [[0.2, 0.4, 0.3], [0.3, 0.9, 0.6], [0.9, 0.1, 0.2]]
    g = [[0.6, 0.6, 0.9], [0.4, 0.7, 0.4], [0.7, 0.5, 0.3]]
    b = [[0.8, 0.4, 0.9], [0.3, 0.1, 0.6], [0.8, 0.6, 0.4]]
    w_r = [[0.1, 0.2, 0.6], [0.6, 0.8, 0.7], [0.5, 0.4, 0.3]]
    got = conv([r, g, b], [w_r, g, b], 0.2, pads=[1, 1, 1, 1])
    np.testing.assert_allclose(got, [[2.64, 4.67, 3.58], [5.19, 8.75, 4.90], [3.80, 4.66, 2.24]], atol=1e-5)


def test_1_8_to_1_10() -> None:
    exact(conv(I4, [[1, 0, 1], [0, 0, 0], [0, 1, 0]]), [[3, 2], [3, 1]])
    exact(pool("MaxPool", I4, kernel_shape=[2, 2], strides=[2, 2]), [[2, 1], [3, 1]])
    # the slide has [[1.5, 1], [1.5, 0.5]], twice the mean
    exact(pool("AveragePool", I4, kernel_shape=[2, 2], strides=[2, 2]), [[0.75, 0.5], [0.75, 0.25]])
    exact(conv([[9, 4, 1], [1, 1, 1], [1, 2, 1]], [[0, 2, 1], [4, 1, 0], [1, 0, 1]]), [[16]])


def test_1_11_and_1_12_vertical_edges() -> None:
    exact(conv(STRIPE10, EDGE), [[0, 3, 3, 0, 0, -3, -3, 0]] * 8)
    stripe8 = np.zeros((8, 8), np.float32)
    stripe8[:, 2:6] = 1
    border, inner = [0, 2, 2, 0, 0, -2, -2, 0], [0, 3, 3, 0, 0, -3, -3, 0]
    exact(conv(stripe8, EDGE, pads=[1, 1, 1, 1]), [border, *[inner] * 6, border])


def test_1_13_averaging_convolution_is_average_pooling() -> None:
    expected = [[0, 0.5, 1, 0.5, 0]] * 5
    exact(conv(STRIPE10, np.full((2, 2), 0.25), strides=[2, 2]), expected)
    exact(pool("AveragePool", STRIPE10, kernel_shape=[2, 2], strides=[2, 2]), expected)


def test_1_14_max_pool() -> None:
    x = [[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]]
    exact(pool("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), [[6, 8], [3, 4]])


def test_1_15_exercise_kernels() -> None:
    exact(conv(STRIPE10, [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]), [[0, 4, 4, 0, 0, -4, -4, 0]] * 8)
    exact(conv(STRIPE10, [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]), np.zeros((8, 8)))
    k3 = [[0, 0, -1, 0], [0, -2, 0, 1], [-1, 0, 2, 0], [0, 1, 0, 0]]
    exact(conv(STRIPE10, k3), [[1, 2, 1, 0, -1, -2, -1]] * 7)


def test_1_16_canny_blur_keeps_a_constant_image() -> None:
    half = [[2, 4, 5, 4, 2], [4, 9, 12, 9, 4], [5, 12, 15, 12, 5], [4, 9, 12, 9, 4], [2, 4, 5, 4, 2]]
    weights = np.array(half, np.float64)
    assert weights.sum() == 159
    np.testing.assert_allclose(conv(np.full((9, 9), 3.0), weights / 159), np.full((5, 5), 3.0), rtol=1e-6)


def test_1_17_outline_kernel() -> None:
    kernel = np.full((3, 3), -1.0)
    kernel[1, 1] = 8
    got = conv(np.ones((5, 5)), kernel, pads=[1, 1, 1, 1])
    expected = np.zeros((5, 5))
    expected[[0, -1], :] = expected[:, [0, -1]] = 3
    expected[[0, 0, -1, -1], [0, -1, 0, -1]] = 5
    exact(got, expected)


def edge_bank() -> np.ndarray:
    """Eight 3x3 kernels: the ring of outer cells rotated by 45 degrees a step, weights [8, 3, 3, 3], channels averaged."""
    ring = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
    first = {(0, 0): -1, (0, 1): -1, (0, 2): -1, (1, 2): 0, (2, 2): 1, (2, 1): 1, (2, 0): 1, (1, 0): 0}
    bank = np.zeros((8, 3, 3))
    for step in range(8):
        for i, cell in enumerate(ring):
            bank[step][cell] = first[ring[(i + step) % 8]]
    return np.repeat(bank[:, None] / 3, 3, axis=1).astype(np.float32)


def test_1_18_and_1_19_edge_demo() -> None:
    bank = edge_bank()
    exact(bank[1, 0] * 3, [[-1, -1, 0], [-1, 0, 1], [0, 1, 1]])
    exact(bank[2, 0] * 3, EDGE)
    exact(bank[4], -bank[0])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("ReduceMax", ["s"], ["y"], axes=[1], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "edges",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 60, 60])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 60, 60])],
        [numpy_helper.from_array(bank, "w")],
    )
    program = cnngraph.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    x = np.random.default_rng(0).random((1, 3, 60, 60), np.float32)
    got = program.run({"x": x})["y"]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3))
    response = np.einsum("ncyxij,ocij->noyx", windows.astype(np.float64), bank.astype(np.float64))
    strongest = np.abs(response[:, :4]).max(axis=1, keepdims=True)
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-strongest)), atol=1e-6)


@pytest.mark.parametrize(("window", "size"), [(5, 296), (10, 291), (30, 271)])
def test_1_20_large_max_pool_windows(window: int, size: int) -> None:
    x = np.random.default_rng(window).random((1, 8, 300, 300), np.float32)
    got = run("MaxPool", x.tolist(), kernel_shape=[window, window])
    assert got.shape == (1, 8, size, size)
    view = np.lib.stride_tricks.sliding_window_view(x, window, axis=2).max(-1)
    exact(got, np.lib.stride_tricks.sliding_window_view(view, window, axis=3).max(-1))


@pytest.mark.parametrize(
    ("size", "kernel", "pad", "stride", "out"),
    [(28, 5, 2, 1, 28), (224, 11, 0, 4, 54), (227, 11, 0, 4, 55), (5, 3, 0, 2, 2), (5, 3, 1, 1, 5)],
)
def test_1_21_and_1_22_output_size(size: int, kernel: int, pad: int, stride: int, out: int) -> None:
    from cnngraph.ir.types import BATCH, DType, TensorType
    from cnngraph.ops import Conv

    op = Conv(kernel=(kernel,) * 2, strides=(stride,) * 2, pads=(pad,) * 4, dilations=(1, 1), group=1)
    x, w = TensorType(DType.F32, (BATCH, 3, size, size)), TensorType(DType.F32, (8, 3, kernel, kernel))
    assert op.infer(x, w, None)[0].shape == (BATCH, 8, out, out)


def test_1x1_convolution_equals_matmul() -> None:
    """Lecture fact 2.24."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((1, 20, 6, 5)).astype(np.float32), rng.standard_normal((9, 20, 1, 1)).astype(np.float32)
    got = run("Conv", x.tolist(), w)
    expected = (w[:, :, 0, 0].astype(np.float64) @ x.reshape(20, 30)).reshape(1, 9, 6, 5)
    np.testing.assert_allclose(got, expected, atol=2e-5 * np.abs(expected).max())  # what float32 on tiles promises


def test_translation_moves_the_interior() -> None:
    """Lecture fact 2.40: a shifted input gives a shifted output, bit for bit."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 3, 20, 20)).astype(np.float32)
    w = rng.standard_normal((8, 3, 3, 3)).astype(np.float32)
    a = run("Conv", x.tolist(), w)
    b = run("Conv", np.roll(x, (2, 3), axis=(2, 3)).tolist(), w)
    exact(b[:, :, 2:, 3:], a[:, :, :-2, :-3])
