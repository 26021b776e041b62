"""SinkMovement and MoveBytes: transposes meet their inverses, dense layers take up what follows, bytes move, results stay."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.graph import Value
from cnngraph.ir.types import BATCH, DType
from cnngraph.ops import (
    Concat,
    Conv,
    Dense,
    DequantizeLinear,
    Elementwise,
    Expand,
    Identity,
    Pad,
    Pool,
    QLinearBinary,
    QLinearUnary,
    QTable,
    QuantizeLinear,
    Reduce,
    Reshape,
    Slice,
    Softmax,
    Transpose,
)
from cnngraph.ops.expression import Expression
from cnngraph.passes.fuse_elementwise import FuseElementwise
from cnngraph.passes.fuse_epilogue import FuseEpilogue
from cnngraph.passes.lower_integers import LowerIntegers
from cnngraph.passes.merge_reshapes import MergeReshapes
from cnngraph.passes.move_bytes import MoveBytes
from cnngraph.passes.remove_dead import RemoveDead
from cnngraph.passes.sink_movement import SinkMovement
from tests.passes.support import Net, apply

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
PASSES = (MergeReshapes(), SinkMovement(), MergeReshapes(), RemoveDead())


def last(net: Net, value: Value) -> Value:
    return net.node(Transpose(LAST), value)


def first(net: Net, value: Value) -> Value:
    return net.node(Transpose(FIRST), value)


def constant(net: Net, *shape: int) -> Value:
    return net.constant(net.rng.uniform(0.5, 2, shape).astype(np.float32))


def test_activations_written_with_channels_last_join_their_convolution() -> None:
    net = Net(4, 6, 7)
    a = last(net, net.conv(net.x, 8))
    a = net.elementwise("mul", a, constant(net, 8))
    a = net.elementwise("add", a, constant(net, 1, 1, 1, 8))
    a = net.elementwise("mul", a, net.elementwise("sigmoid", a))
    b = last(net, net.conv(first(net, a), 8))
    both = net.elementwise("add", a, b)
    changes, _ = apply(net, *PASSES, FuseElementwise(), FuseEpilogue(), outputs=[net.conv(first(net, net.relu(both)), 3)])
    assert changes > 6
    assert net.names().count("Transpose") == 0
    assert [type(node.op) for node in net.nodes] == [Conv] * 3


def test_squeeze_and_excitation_with_channels_last() -> None:
    """The gate [N,1,1,C] is reshaped, which moves nothing, and so is the average."""
    net = Net(4, 6, 7)
    a = net.relu(last(net, net.conv(net.x, 8)))
    mean = net.node(Reduce("mean", (1, 2), True), a)
    gate = net.elementwise("sigmoid", last(net, net.conv(first(net, mean), 8, kernel=1, pad=0)))
    apply(net, *PASSES, outputs=[first(net, net.elementwise("mul", a, gate))])
    assert net.names().count("Transpose") == 0


@pytest.mark.parametrize(("axes", "sinks"), [((1, 2), True), ((3,), True), ((1,), False), ((2,), False), ((1, 2, 3), True)])
def test_reductions_that_drop_axes_keep_the_order_of_the_others(axes: tuple[int, ...], sinks: bool) -> None:
    net = Net(4, 6, 7)
    apply(net, *PASSES, outputs=[net.node(Reduce("max", axes, False), last(net, net.x))])
    assert (net.names() == ["Reduce"]) is sinks


def test_concatenations_along_the_last_axis() -> None:
    net = Net(4, 6, 7)
    parts = [last(net, net.conv(net.x, filters)) for filters in (3, 5)]
    apply(net, *PASSES, outputs=[first(net, net.node(Concat(3), *parts)), net.node(Concat(1), *parts[:1], parts[0])])
    assert [node.op for node in net.nodes if isinstance(node.op, Concat)] == [Concat(1), Concat(2)]
    assert net.names().count("Transpose") == 1


@pytest.mark.parametrize("reader", [Softmax(3), Pool("max", (2, 2), (1, 1), (0,) * 4, (1, 1))])
def test_transposes_that_others_read_stay(reader: object) -> None:
    net = Net(4, 6, 7)
    a = last(net, net.x)
    changes, _ = apply(net, SinkMovement(), outputs=[net.relu(a), net.node(reader, a)])
    assert changes == 0


def test_operands_that_would_have_to_be_transposed_are_refused() -> None:
    net = Net(4, 6, 7)
    other = net.node(Reshape((BATCH, 6, 7, 4)), net.relu(net.x))
    changes, _ = apply(net, SinkMovement(), outputs=[net.elementwise("add", last(net, net.x), other)])
    assert changes == 0


def test_transposes_of_different_order_do_not_meet() -> None:
    net = Net(5, 5, 5)
    a, b = last(net, net.x), first(net, net.relu(net.x))
    changes, _ = apply(net, SinkMovement(), outputs=[net.elementwise("add", a, b), net.node(Concat(2), a, b)])
    assert changes == 0


def test_a_transpose_that_broadcasts_stays_an_operand() -> None:
    net = Net(4, 6, 7)
    vector = net.node(Transpose(LAST), net.node(Reduce("mean", (2, 3), True), net.x))
    whole = net.node(Reshape((BATCH, 6, 7, 4)), net.relu(net.x))
    changes, _ = apply(net, SinkMovement(), outputs=[net.elementwise("add", whole, vector)])
    assert changes == 0


def test_the_batch_may_be_moved_too() -> None:
    net = Net(4, 6)
    a = net.node(Transpose((2, 0, 1)), net.x)
    apply(net, *PASSES, outputs=[net.node(Transpose((1, 2, 0)), net.elementwise("mul", net.relu(a), constant(net, 6, 1, 4)))])
    assert net.names() == ["Elementwise", "Elementwise"]


def quantized(net: Net, value: Value, scale: float = 0.05) -> Value:
    return net.node(QuantizeLinear(DType.I8), value, net.constant(np.float32(scale)), None)


def dequantized(net: Net, value: Value, scale: float = 0.05) -> Value:
    return net.node(DequantizeLinear(DType.F32), value, net.constant(np.float32(scale)), None)


def test_quantisations_between_transposes() -> None:
    net = Net(4, 6, 7)
    a = dequantized(net, quantized(net, last(net, net.conv(net.x, 8))))
    gate = net.elementwise("sigmoid", net.node(Reduce("mean", (1, 2), True), a))
    a = net.elementwise("mul", a, dequantized(net, quantized(net, gate, 0.01), 0.01))
    a = net.node(Pad((0, 1, 1, 0, 0, 0, 2, 0), "constant", 0.0), a)
    a = net.node(Slice((0, 0, 0, 2), (1, 1, 1, 1), (BATCH, 7, 10, 5)), a)
    apply(net, *PASSES, outputs=[net.conv(first(net, dequantized(net, quantized(net, a))), 3)])
    assert net.names().count("Transpose") == 0


def test_integers_between_transposes() -> None:
    net = Net(4, 6, 7)
    scale, zero = net.constant(np.float32(0.05)), net.constant(np.int8(3))
    a = last(net, quantized(net, net.conv(net.x, 8)))
    b = net.node(QLinearUnary("sigmoid"), a, scale, None, scale, zero)
    c = net.node(QLinearBinary("add"), a, scale, None, b, scale, zero, scale, zero)
    table = net.node(QTable(), c, net.constant(np.arange(256)[::-1].astype(np.uint8)))
    offsets = net.constant(np.arange(8, dtype=np.int8))
    moved = net.node(QLinearBinary("mul"), a, scale, None, offsets, scale, None, scale, zero)
    joined = net.node(Concat(3), b, moved)
    apply(net, *PASSES, outputs=[first(net, table), first(net, joined)])
    assert net.names().count("Transpose") == 0


def test_scales_by_axis_move_with_their_axis() -> None:
    net = Net(4, 6, 7)
    scales = net.constant(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    a = net.node(QuantizeLinear(DType.I8, axis=3), last(net, net.x), scales, None)
    a = net.node(DequantizeLinear(DType.F32, axis=3), a, scales, None)
    apply(net, *PASSES, outputs=[first(net, a)])
    assert [node.op.axis for node in net.nodes if isinstance(node.op, (DequantizeLinear, QuantizeLinear))] == [1, 1]
    assert "Transpose" not in net.names()


def test_queries_keys_and_values_are_cut_before_they_are_transposed() -> None:
    """Behind the transpose they would be parts of the first axis, whose place depends on the batch size: no kernel copies such."""
    net = Net(5, 3, 2, 4)
    a = net.node(Transpose((2, 0, 3, 1, 4)), net.x)
    b = net.node(Reshape((3, 5, BATCH, 8)), net.node(Transpose((3, 1, 0, 2, 4)), net.node(Reshape((BATCH, 5, 1, 3, 8)), net.x)))
    parts = [net.node(Slice((i, 0, 0, 0, 0), (1,) * 5, (1, BATCH, 2, 5, 4)), a) for i in range(3)]
    parts += [net.node(Slice((i, 0, 0, 0), (1,) * 4, (1, 5, BATCH, 8)), b) for i in range(3)]
    apply(net, SinkMovement(), MergeReshapes(), RemoveDead(), outputs=[net.relu(part) for part in parts])
    cuts = [node for node in net.nodes if isinstance(node.op, Slice)]
    assert len(cuts) == 6
    assert all(node.input(0).type.shape[0] == BATCH and node.output.type.shape[0] == BATCH for node in cuts)


def test_other_cuts_of_other_transposes_stay_behind() -> None:
    net = Net(5, 3, 2, 4)
    a = net.node(Transpose((0, 2, 3, 1, 4)), net.x)
    parts = [net.node(Slice((0, i, 0, 0, 0), (1,) * 5, (BATCH, 1, 2, 5, 4)), a) for i in range(3)]
    c = net.node(Reshape((3, 10, BATCH, 4)), net.node(Transpose((2, 1, 3, 0, 4)), net.x))
    parts += [net.node(Slice((i, 0, 0, 0), (1,) * 4, (1, 10, BATCH, 4)), c) for i in range(3)]
    assert apply(net, SinkMovement(), outputs=[net.relu(part) for part in parts])[0] == 0


def test_what_stays_moves_bytes() -> None:
    net = Net(4, 6)
    scales = net.constant(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    integers = net.node(QuantizeLinear(DType.I8), net.x, scales, None)
    a = net.node(DequantizeLinear(DType.F32), integers, scales, None)
    b = dequantized(net, quantized(net, net.x))
    weights = dequantized(net, net.constant(np.arange(12, dtype=np.int8).reshape(3, 4)))
    y = [net.node(Transpose((0, 2, 1)), a), net.node(Reshape((BATCH, 24)), b), net.node(Transpose((1, 0)), weights)]
    apply(net, MoveBytes(), RemoveDead(), outputs=y)
    assert [value.producer.op.name for _, value in net.outputs if value.producer is not None] == ["DequantizeLinear"] * 3
    moves = [node for node in net.nodes if isinstance(node.op, (Reshape, Transpose))]
    assert [node.op.name for node in moves] == ["Transpose", "Reshape"] and all(n.output.type.dtype is DType.I8 for n in moves)


@pytest.mark.parametrize("constant", [False, True])
def test_computed_operands_by_channel_repeat_for_each_image(constant: bool) -> None:
    """The kernel reads a constant again for each image."""
    net = Net(4, 6, 7)
    scale = net.constant(np.float32(0.05))
    shape = (1, 4, 1, 1)
    numbers = net.constant(np.arange(4, dtype=np.int8).reshape(shape))
    offsets = numbers if constant else net.node(Identity(), numbers)
    y = net.node(QLinearBinary("add"), quantized(net, net.x), scale, None, offsets, scale, None, scale, None)
    changes, _ = apply(net, LowerIntegers(), outputs=[y])
    repeated = [node.output.type.shape for node in net.nodes if isinstance(node.op, Expand)]
    assert repeated == ([] if constant else [(BATCH, 4, 1, 1)]) and changes == len(repeated)


def rows(net: Net, value: Value, outputs: int) -> Value:
    """A dense layer of the last axis of a tensor of three axes."""
    length, depth = value.type.shape[1:]
    assert isinstance(depth, int) and isinstance(length, int)
    flat = net.node(Reshape((BATCH * length, depth)), value)
    return net.node(Reshape((BATCH, length, outputs)), net.node(Dense(), flat, net.weights(depth, outputs), None))


def test_dense_layers_of_rows_take_up_bias_activation_and_residual() -> None:
    net = Net(9, 16)
    a = net.elementwise("add", rows(net, net.x, 16), constant(net, 16))
    a = net.elementwise("mul", a, net.elementwise("sigmoid", a))
    b = net.elementwise("add", constant(net, 1, 1, 16), rows(net, a, 16))
    out = net.elementwise("add", net.x, b)
    apply(net, SinkMovement(), MergeReshapes(), FuseElementwise(), FuseEpilogue(), RemoveDead(), outputs=[out])
    layers = [node for node in net.nodes if isinstance(node.op, Dense)]
    assert len(layers) == 2 and all(node.op.epilogue is not None for node in layers)
    assert not any(isinstance(node.op, Elementwise) for node in net.nodes)


def test_rows_whose_operand_varies_along_them_keep_their_shape() -> None:
    net = Net(9, 16)
    changes, _ = apply(net, SinkMovement(), outputs=[net.elementwise("add", rows(net, net.x, 16), constant(net, 9, 1))])
    assert changes == 0


@pytest.mark.parametrize(("exponent", "expected"), [(2, "mul(in0, in0)"), (-1, "reciprocal(in0)"), (3, "pow(in0, in1)")])
def test_squares_and_reciprocals_are_not_powers(exponent: float, expected: str) -> None:
    net = Net(4, 6)
    power = net.node(Elementwise(Expression.of("pow", 2)), net.x, net.constant(np.array(exponent, np.float32)))
    apply(net, FuseElementwise(), outputs=[power])
    assert [str(node.op.expression) for node in net.nodes if isinstance(node.op, Elementwise)] == [expected]
