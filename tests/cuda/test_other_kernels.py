"""Every kernel family but the matrix product, in the emulator against float64."""

from __future__ import annotations

import pytest

from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ops import LRN, Conv, Elementwise, MatMul, Pool, Reduce, Softmax
from cnngraph.ops.expression import Expression, Instr
from cnngraph.ops.group_norm import GroupNorm
from cnngraph.ops.scalar import FUNCTIONS

from .support import Net, compare

PRECISIONS = ("f32", "f16", "bf16")
BOTH = ("lockstep", "backward")


def single(op, *shape, expect, inputs=(), isa, orders=("lockstep",), tolerance=0.0):
    net = Net(*shape)
    net.add_output("y", net.node(op, net.x, *[net.weights(*s, scale=0.4) if isinstance(s, tuple) else s for s in inputs]))
    assert expect in compare(net, isa=isa, orders=orders, tolerance=tolerance)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "op",
    [
        Pool("max", (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
        Pool("max", (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), ceil_mode=True),
        Pool("max", (2, 3), (1, 2), (0, 1, 1, 0), (2, 1)),
        Pool("average", (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
        Pool("average", (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), count_include_pad=True, ceil_mode=True),
    ],
)
def test_pool(op, precision):
    single(op, 11, 7, 6, expect="pool", isa=f"sm_90:{precision}")


def test_pool_of_a_sequence():
    single(Pool("max", (3,), (2,), (2, 1), (1,)), 5, 9, expect="pool", isa="sm_90")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("kind", "keepdims", "channels"), [("mean", True, 11), ("mean", False, 80), ("max", True, 64), ("min", True, 5), ("sum", True, 9)]
)
def test_reduce(kind, keepdims, channels, precision):
    single(Reduce(kind, (2, 3), keepdims), channels, 9, 5, expect="reduce_spatial", isa=f"sm_90:{precision}", orders=BOTH)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("op", "shape"), [(Softmax(1), (700,)), (Softmax(1, log=True), (10,)), (Softmax(1), (6, 3, 2)), (Softmax(3), (2, 3, 5))]
)
def test_softmax(op, shape, precision):
    single(op, *shape, expect="softmax", isa=f"sm_90:{precision}", orders=BOTH)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "dilation", "pad"),
    [(8, (3, 3), 1, 1, 1), (21, (3, 3), 2, 1, 1), (6, (5, 5), 1, 1, 2), (4, (3, 2), 1, 2, 0), (3, (7, 7), 2, 1, 3)],
)
def test_depthwise(channels, kernel, stride, dilation, pad, precision):
    op = Conv(kernel, (stride,) * 2, (pad,) * 4, (dilation,) * 2, channels, Expression.of("clip", 1, (0.0, 6.0)))
    single(op, channels, 9, 8, expect="depthwise", inputs=[(channels, 1, *kernel), (channels,)], isa=f"sm_90:{precision}")


def test_depthwise_of_a_sequence():
    op = Conv((5,), (2,), (3, 1), (1,), 6)
    single(op, 6, 13, expect="depthwise", inputs=[(6, 1, 5), (6,)], isa="sm_90:f16")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("op", "shape", "weights"),
    [
        (Conv((3, 3), (1, 1), (1,) * 4, (1, 1), 3, Expression.of("relu")), (9, 4, 5), (6, 3, 3, 3)),
        (Conv((2, 3, 3), (1, 2, 1), (1,) * 6, (1, 1, 1)), (3, 4, 5, 4), (5, 3, 2, 3, 3)),
    ],
)
def test_direct(op, shape, weights, precision):
    single(op, *shape, expect="conv_direct", inputs=[weights, weights[:1]], isa=f"sm_90:{precision}")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_lrn(precision):
    single(LRN(5, 1e-2, 0.75, 2.0), 11, 3, 4, expect="lrn", isa=f"sm_90:{precision}")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_elementwise_operands(precision):
    net = Net(11, 3, 4)
    other = net.add_input("o", TensorType(DType.F32, (BATCH, 11, 3, 4)))
    image = net.add_input("s", TensorType(DType.F32, (BATCH, 11, 1, 1)))
    first = net.node(Pool("max", (1, 1), (1, 1), (0,) * 4, (1, 1)), net.x)  # leaves its result channels last
    expression = Expression(5, (Instr("sub", (0, 1)), Instr("mul", (5, 2)), Instr("add", (6, 3)), Instr("max", (7, 4))))
    y = net.node(Elementwise(expression), first, other, image, net.weights(1, 11, 1, 1), net.weights(1))
    net.add_output("y", y)
    assert "eltwise_last" in compare(net, isa=f"sm_90:{precision}")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("kind", "axes"), [("l2", (1,)), ("mean", (1,)), ("prod", (3,)), ("log_sum", (1, 2)), ("l1", (2, 3)), ("sum_square", (1, 2, 3))]
)
def test_reduce_row_major(kind, axes, precision):
    net = Net(40, 3, 2)
    x = net.node(Elementwise(Expression(1, (Instr("sigmoid", (0,)), Instr("shift", (1,), (0.5,))))), net.x)
    net.add_output("y", net.node(Reduce(kind, axes, True), x))
    assert "reduce_plain" in compare(
        net, isa=f"sm_90:{precision}", orders=BOTH, tolerance=2e-2 if kind == "prod" and precision == "f16" else 0.0
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("groups", "channels"), [(1, 6), (5, 20), (9, 9)])
def test_group_norm(groups, channels, precision):
    op = GroupNorm(groups, 1e-3, Expression.of("relu"))
    single(op, channels, 7, 6, expect="group_norm", inputs=[(channels,), (channels,)], isa=f"sm_90:{precision}", orders=BOTH)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_of_computed_matrices(precision):
    net = Net(3, 5, 6)
    other = net.add_input("o", TensorType(DType.F32, (BATCH, 1, 6, 4)))
    net.add_output("y", net.node(MatMul(), net.x, other))
    assert "matmul" in compare(net, isa=f"sm_90:{precision}")


@pytest.mark.parametrize("precision", ["f32", "tf32", "f16", "bf16"])
@pytest.mark.parametrize(
    ("left", "right"),
    [((3, 5, 16), (BATCH, 1, 16, 8)), ((2, 70, 136), (BATCH, 2, 136, 72)), ((2, 130, 8), (8, 40)), ((8,), (8, 72)), ((5, 8), (8, 64))],
)
def test_products_of_computed_matrices_by_tiles(left, right, precision):
    """Ragged tiles and depths, broadcast leading axes, rows that depend on the batch."""
    net = Net(*left)
    net.add_output("y", net.node(MatMul(), net.x, net.add_input("o", TensorType(DType.F32, right))))
    assert "matmul_gemm" in compare(net, isa=f"sm_90:{precision}", orders=BOTH)


@pytest.mark.parametrize("shape", [(20,), (3, 20), (2, 5, 20)])
def test_products_with_a_constant_matrix_are_dense_layers(shape):
    net = Net(*shape)
    net.add_output("y", net.node(MatMul(), net.x, net.weights(20, 9, scale=0.3)))
    assert "conv_gemm" in compare(net, isa="sm_90:f16")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_any_broadcast(precision):
    net = Net(5, 3, 4)
    column = net.add_input("c", TensorType(DType.F32, (BATCH, 1, 3, 1)))
    row = net.add_input("r", TensorType(DType.F32, (5, 1, 4)))
    expression = Expression(3, (Instr("mul", (0, 1)), Instr("sub", (3, 2)), Instr("max", (4, 0))))
    net.add_output("y", net.node(Elementwise(expression), column, net.x, row))
    net.add_output("z", net.node(Elementwise(Expression.of("add", 2)), column, row))
    assert "eltwise_strided" in compare(net, isa=f"sm_90:{precision}")


def test_elementwise_of_vectors_and_matrices():
    net = Net(7)
    row = net.add_input("r", TensorType(DType.F32, (5,)))
    net.add_output("y", net.node(Elementwise(Expression.of("add", 2)), net.x, net.weights(7)))
    net.add_output("z", net.node(Elementwise(Expression.of("mul", 2)), row, net.weights(1)))
    assert set(compare(net)) & {"eltwise_plain", "eltwise_last"}


POSITIVE = {"sqrt", "log", "pow", "acosh"}
UNIT = {"asin", "acos", "atanh"}


@pytest.mark.parametrize("fn", sorted(FUNCTIONS))
def test_every_scalar_function(fn):
    function = FUNCTIONS[fn]
    net = Net(6, 2, 2)
    arity = function.arity
    values = [net.x] + [net.add_input(f"x{i}", TensorType(DType.F32, (BATCH, 6, 2, 2))) for i in range(1, arity)]
    if fn in POSITIVE:
        values = [net.node(Elementwise(Expression(1, (Instr("abs", (0,)), Instr("shift", (1,), (1.0,))))), v) for v in values]
    if fn in UNIT:
        values = [net.node(Elementwise(Expression(1, (Instr("tanh", (0,)), Instr("scale", (1,), (0.9,))))), v) for v in values]
    params = {"clip": (-0.5, 0.5)}.get(fn, tuple(0.3 + 0.4 * i for i in range(function.params)))
    net.add_output("y", net.node(Elementwise(Expression.of(fn, arity, params)), *values))
    compare(net, tolerance=1e-5)
