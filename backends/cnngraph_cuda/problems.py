"""Small networks that exercise every kernel family, for checks on a GPU and in the emulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cnngraph.ir.graph import Graph, Value
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ops import (
    LRN,
    Cast,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Elementwise,
    Expand,
    Gather,
    MatMul,
    Pad,
    Pool,
    Reduce,
    Reshape,
    Slice,
    Softmax,
    Transpose,
)
from cnngraph.ops.base import Op
from cnngraph.ops.channels import TakeChannels
from cnngraph.ops.deform import GridSample
from cnngraph.ops.expression import Expression, Instr
from cnngraph.ops.group_norm import GroupNorm
from cnngraph.ops.indexing import GatherElements, TopK, Trilu
from cnngraph.ops.logic import Predicate, Where
from cnngraph.ops.math import Cumulative
from cnngraph.ops.resize import Resize

RELU = Expression.of("relu")
RESIDUAL = Expression(2, (Instr("add", (0, 1)), Instr("relu", (2,))))


class Network(Graph):
    """A graph under construction, with random constants."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        super().__init__("problem")
        self._rng = np.random.default_rng(seed)
        self.x = self.add_input("x", TensorType(DType.F32, (BATCH, *shape)))

    def weights(self, *shape: int) -> Value:
        """Random numbers, scaled so that sums over all but the first axis keep the variance."""
        fan = max(1, int(np.prod(shape[1:])))
        return self.constant((self._rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32))

    def node(self, op: Op, *inputs: Value | None) -> Value:
        """Append a node."""
        return self.add(op, inputs, origin=(f"{op.name}{len(self)}",))[0]

    def conv(
        self, x: Value, outputs: int, kernel: int = 3, stride: int = 1, group: int = 1, dilation: int = 1,
        epilogue: Expression | None = RELU, operands: tuple[Value, ...] = (),
    ) -> Value:  # fmt: skip
        """A square convolution that keeps the size at stride 1."""
        channels = x.type.shape[1]
        assert isinstance(channels, int)
        pad = dilation * (kernel - 1) // 2
        op = Conv((kernel,) * 2, (stride,) * 2, (pad,) * 4, (dilation,) * 2, group, epilogue)
        return self.node(op, x, self.weights(outputs, channels // group, kernel, kernel), self.weights(outputs), *operands)


def _product(net: Network, outputs: int, **options: Any) -> Value:
    return net.conv(net.x, outputs, **options)


def _uneven(net: Network, outputs: int) -> Value:
    channels = net.x.type.shape[1]
    assert isinstance(channels, int)
    return net.node(Conv((3, 3), (1, 1), (0, 1, 2, 0), (1, 1), 1, RELU), net.x, net.weights(outputs, channels, 3, 3), net.weights(outputs))


def _residual(net: Network, outputs: int) -> Value:
    short = net.conv(net.x, outputs, 1, epilogue=None)
    return net.conv(net.x, outputs, epilogue=RESIDUAL, operands=(short,))


def _tail(net: Network) -> Value:
    x = net.node(Reduce("mean", (2, 3), False), net.conv(net.x, 72))
    return net.node(Softmax(1), net.node(Dense(), x, net.weights(72, 1000), net.weights(1000)))


def _selection(net: Network) -> Value:
    """Numbers above 0 as they are, the others halved; both are exact in every precision."""
    positive = net.node(Predicate("greater"), net.x, net.constant(np.zeros((), np.float32)))
    return net.node(Where(), positive, net.x, net.node(Elementwise(Expression.of("scale", 1, (0.5,))), net.x))


def _positions(net: Network) -> Value:
    """The same positions for every image, as integers computed at run time: 0 to 5 along the first axis after the images."""
    ones = net.node(Cast(DType.I64), net.node(Predicate("equal"), net.x, net.x))
    return net.node(Elementwise(Expression.of("sub", 2)), net.node(Cumulative("sum", 1), ones), ones)


def _join(net: Network) -> Value:
    parts = [net.conv(net.x, n) for n in (8, 16, 24)]
    x = net.node(Concat(1), *parts)
    return net.node(Slice((0, 8, 0, 0), (1, 1, 1, 1), (BATCH, 24, *x.type.shape[2:])), x)


PROBLEMS: Mapping[str, tuple[tuple[int, ...], Callable[[Network], Value]]] = {
    "conv 3x3 64->64": ((64, 14, 14), lambda n: _product(n, 64)),
    "conv 3x3 ragged 5->19": ((5, 9, 7), lambda n: _product(n, 19)),
    "conv 3x3 padded unevenly 20->70": ((20, 8, 11), lambda n: _uneven(n, 70)),
    "conv 3x3 stride 2": ((24, 15, 15), lambda n: _product(n, 40, stride=2)),
    "conv 3x3 dilated": ((16, 13, 13), lambda n: _product(n, 16, dilation=2)),
    "conv 1x1 256->128": ((256, 14, 14), lambda n: _product(n, 128, kernel=1)),
    "conv 1x1 stride 2": ((64, 14, 14), lambda n: _product(n, 130, kernel=1, stride=2)),
    "conv 7x7 stem": ((3, 56, 56), lambda n: _product(n, 64, kernel=7, stride=2)),
    "conv grouped 4x16": ((64, 10, 10), lambda n: _product(n, 64, group=4)),
    "conv grouped 3x3 odd": ((9, 10, 10), lambda n: _product(n, 6, group=3)),
    "conv with residual": ((32, 14, 14), lambda n: _residual(n, 32)),
    "depthwise 3x3": ((40, 14, 14), lambda n: _product(n, 40, group=40)),
    "depthwise 5x5 stride 2": ((21, 15, 15), lambda n: _product(n, 21, kernel=5, stride=2, group=21)),
    "conv 1024->512 split": ((1024, 7, 7), lambda n: _product(n, 512)),
    "max pool": ((24, 15, 15), lambda n: n.node(Pool("max", (3, 3), (2, 2), (1,) * 4, (1, 1)), n.x)),
    "average pool": ((21, 15, 15), lambda n: n.node(Pool("average", (3, 3), (2, 2), (1,) * 4, (1, 1), count_include_pad=True), n.x)),
    "global pool, dense, softmax": ((16, 7, 7), _tail),
    "response normalisation": ((96, 7, 7), lambda n: n.node(LRN(5, 1e-2, 0.75, 2.0), n.x)),
    "element-wise": ((30, 9, 9), lambda n: n.node(Elementwise(Expression.of("hard_swish")), n.x)),
    "sigmoid of a convolution": ((16, 9, 9), lambda n: _product(n, 16, epilogue=Expression.of("sigmoid"))),
    "concatenation and slice": ((8, 9, 9), _join),
    "transpose": ((12, 5, 7), lambda n: n.node(Transpose((0, 2, 3, 1)), n.x)),
    "padding": ((12, 5, 7), lambda n: n.node(Pad((0, 0, 1, 2, 0, 0, 2, 1)), n.x)),
    "flatten": ((12, 5, 7), lambda n: n.node(Dense(), n.node(Reshape((BATCH, 420)), n.x), n.weights(420, 50), None)),
    "resize": ((12, 5, 7), lambda n: n.node(Resize((2, 3), (10, 14), (10.0, 14.0), "linear"), n.x)),
    "group normalisation": ((12, 9, 9), lambda n: n.node(GroupNorm(3), n.x, n.weights(12), n.weights(12))),
    "computed matrices": ((6, 5, 7), lambda n: n.node(MatMul(), n.x, n.node(Transpose((0, 1, 3, 2)), n.x))),
    "computed matrices, tiled": (
        (4, 72, 40), lambda n: n.node(MatMul(), n.x, n.node(Transpose((0, 1, 3, 2)), n.x)),
    ),
    "norm of rows": ((30, 4), lambda n: n.node(Reduce("l2", (1,)), n.x)),
    "any broadcast": ((6, 5, 7), lambda n: n.node(Elementwise(Expression.of("sub", 2)), n.x, n.node(Reduce("max", (2,)), n.x))),
    "permuted channels": ((12, 5, 7), lambda n: n.node(TakeChannels((11, 3, 4, 5, 0)), n.x)),
    "gather": ((12, 5, 7), lambda n: n.node(Gather(2), n.x, n.constant(np.array([4, 0, -2, 1, 1], np.int64)))),
    "top of rows": ((12, 50), lambda n: n.add(TopK(5, 2), [n.x], origin=("top",))[0]),
    "selection": ((12, 5, 7), _selection),
    "joined rows": ((12, 5, 7), lambda n: n.node(Concat(2), n.x, n.node(Expand((BATCH, 12, 5, 7)), n.x))),
    "computed indices": ((6, 5), lambda n: n.node(GatherElements(1), n.x, _positions(n))),
    "pooled volume": ((5, 4, 6, 7), lambda n: n.node(Pool("average", (2, 3, 2), (1, 2, 2), (0, 1, 0, 1, 1, 0), (1, 1, 1)), n.x)),
    "crop": (
        (12, 5, 7),
        lambda n: n.node(Resize((2, 3), (6, 9), (6.0, 9.0), "linear", "tf_crop_and_resize", roi=(0.1, -0.2, 0.9, 0.8)), n.x),
    ),
    "samples of a grid": ((2, 5, 5), lambda n: n.node(GridSample("linear", "border", False), n.x, n.node(Transpose((0, 2, 3, 1)), n.x))),
    "running sums": ((12, 5, 7), lambda n: n.node(Cumulative("sum", 2), n.x)),
    "triangles": ((12, 7, 5), lambda n: n.node(Trilu(True, 1), n.x)),
    "transposed convolution, dilated": (
        (12, 5, 7), lambda n: n.node(ConvTranspose((2, 2), (2, 2), (0, 0), (2, 2), (11, 15)), n.x, n.weights(12, 20, 2, 2), None),
    ),
    "transposed convolution 3x3": (
        (40, 5, 7), lambda n: n.node(ConvTranspose((3, 3), (2, 2), (1, 1), (1, 1), (10, 14), 1, RELU), n.x, n.weights(40, 24, 3, 3), None),
    ),
    "transposed convolution": (
        (12, 5, 7), lambda n: n.node(ConvTranspose((2, 2), (2, 2), (0, 0), (1, 1), (10, 14)), n.x, n.weights(12, 20, 2, 2), None),
    ),
}  # fmt: skip
"""Input shape without the batch, and what computes the output."""

WINOGRAD = ("conv 3x3 64->64", "conv 3x3 ragged 5->19", "conv 3x3 padded unevenly 20->70", "conv with residual", "concatenation and slice")
"""Problems that are also computed by Winograd's method in f32, whatever the estimates say."""


def network(name: str, seed: int = 0) -> Network:
    """The graph of a problem, with constants from ``seed``."""
    shape, body = PROBLEMS[name]
    net = Network(shape, seed)
    net.add_output("y", body(net))
    return net
