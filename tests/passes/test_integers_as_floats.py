"""IntegersAsFloats: the same bits, by operators that have kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cnngraph.ir.graph import Graph, Value
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ir.verify import verify
from cnngraph.ops import Conv, Pool, QLinearConv, QLinearMatMul, Transpose
from cnngraph.ops.resize import Resize
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassContext, run_passes
from cnngraph.passes.integers_as_floats import IntegersAsFloats
from cnngraph.pipeline import optimize


class Integers(Graph):
    """A graph of one operator on 8-bit images."""

    def __init__(self, dtype: DType, *shape: int) -> None:
        super().__init__("test")
        self.rng = np.random.default_rng(3)
        self.x = self.add_input("x", TensorType(dtype, (BATCH, *shape)))

    def bytes_(self, dtype: DType, *shape: int) -> np.ndarray:
        info = np.iinfo(dtype.numpy)
        return self.rng.integers(info.min, info.max + 1, shape).astype(dtype.numpy)

    def conv(self, w: np.ndarray, kernel: Sequence[int], group: int = 1, bounds: tuple[int, int] = (-128, 255)) -> Value:
        """A convolution whose results are spread over the range of its type."""
        dtype, filters, axes = self.x.type.dtype, w.shape[0], len(kernel)
        scale = (self.rng.random(filters) * 0.01 + 0.004).astype(np.float32)
        middles = ((7, dtype), (-8, DType.of(w)), (20, dtype))
        zeros = [np.array(v + 128 * (d is DType.U8), d.numpy) for v, d in middles]
        numbers = [np.float32(0.05), zeros[0], w, scale, np.full(filters, zeros[1]), np.float32(1.5), zeros[2]]
        bias = self.rng.integers(-900, 900, filters).astype(np.int32)
        if bounds != (-128, 255) and dtype is DType.U8:
            bounds = (bounds[0] + 128, bounds[1] + 128)
        op = QLinearConv(tuple(kernel), (1,) * axes, (1, *(0,) * (2 * axes - 1)), (1,) * axes, group, dtype, *bounds)
        return self.add(op, [self.x, *(self.constant(np.asarray(n)) for n in numbers), self.constant(bias)], origin=("conv",))[0]

    def rewritten(self, y: Value) -> tuple[list[str], list[str]]:
        """Names of the operators afterwards, and refusals; the results must keep their bits."""
        self.add_output("y", y)
        shape = [d if isinstance(d, int) else 2 for d in self.x.type.shape]
        x = self.bytes_(self.x.type.dtype, *shape)
        before, context = interpret(self, {"x": x})["y"], PassContext()
        run_passes(self, [IntegersAsFloats()], context, verify)
        after = interpret(self, {"x": x})["y"]
        assert len(np.unique(before)) > 30 and after.dtype == before.dtype and np.array_equal(before, after)
        return [node.op.name for node in self.nodes], [r.reason for r in context.rejections]


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8])
@pytest.mark.parametrize("bounds", [(-128, 255), (-5, 90)])
def test_three_spatial_axes(dtype: DType, bounds: tuple[int, int]) -> None:
    graph = Integers(dtype, 4, 5, 6, 7)
    names, _ = graph.rewritten(graph.conv(graph.bytes_(DType.I8, 4, 1, 2, 3, 3), (2, 3, 3), 4, bounds=bounds))
    clip = ["Elementwise"] if bounds == (-5, 90) else []
    assert names == ["DequantizeLinear", "Conv", "Elementwise", *clip, "QuantizeLinear"]


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8])
@pytest.mark.parametrize(("depth", "kept"), [(40, False), (1000, True)])
def test_products_of_computed_matrices(dtype: DType, depth: int, kept: bool) -> None:
    """As between queries and keys; long rows may pass 2**24."""
    graph = Integers(dtype, 15, depth)
    middle = 128 * (dtype is DType.U8)
    zeros = [np.array(v + middle, dtype.numpy) for v in (7, -8, -3)]
    (keys,) = graph.add(Transpose((0, 2, 1)), [graph.x], origin=("keys",))
    scales = [graph.constant(np.float32(v)) for v in (0.05, 0.02, 0.02 * np.sqrt(depth))]
    a, b, y = ((scale, graph.constant(zero)) for scale, zero in zip(scales, zeros, strict=True))
    bounds = (middle - 90, middle + 60)
    names, reasons = graph.rewritten(graph.add(QLinearMatMul(dtype, *bounds), [graph.x, *a, keys, *b, *y], origin=("product",))[0])
    assert ("MatMul" in names) is not kept and len(reasons) == kept


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8])
def test_interpolation_by_multiples_of_a_power_of_two(dtype: DType) -> None:
    """Ties are frequent there, and rounded to even."""
    graph = Integers(dtype, 3, 5, 6)
    op = Resize((2, 3), (10, 24), (10.0, 24.0), "linear")
    names, _ = graph.rewritten(graph.add(op, [graph.x], origin=("resize",))[0])
    assert names == ["DequantizeLinear", "Resize", "QuantizeLinear"]


@pytest.mark.parametrize(("mode", "sizes"), [("linear", (15, 6)), ("cubic", (10, 12))])
def test_other_interpolation_stays_as_it_is(mode: str, sizes: tuple[int, int]) -> None:
    """Thirds are not exact in float32; the products of two cubic weights take too many bits."""
    graph = Integers(DType.U8, 3, 5, 6)
    op = Resize((2, 3), sizes, (float(sizes[0]), float(sizes[1])), mode)
    names, reasons = graph.rewritten(graph.add(op, [graph.x], origin=("resize",))[0])
    assert names == ["Resize"] and len(reasons) == 1


def test_the_weights_stay_whole_numbers() -> None:
    """The multipliers of the channels are applied to the sums: in the weights they would round."""
    graph = Integers(DType.U8, 4, 5, 6, 7)
    graph.add_output("y", graph.conv(graph.bytes_(DType.I8, 4, 1, 2, 3, 3), (2, 3, 3), 4))
    optimize(graph, CompileOptions(), PassContext())
    (conv,) = [node for node in graph.nodes if isinstance(node.op, Conv)]
    weights = conv.input(1).data
    assert weights is not None and np.array_equal(weights, np.rint(weights)) and np.abs(weights).max() > 100
    assert isinstance(conv.op, Conv) and conv.op.epilogue is not None


@pytest.mark.parametrize(("filters", "group", "size"), [(6, 2, (8, 8)), (4, 4, (8, 8)), (6, 1, (3, 8, 8)), (6, 2, (3, 8, 8))])
def test_other_convolutions_have_kernels_of_integers(filters: int, group: int, size: tuple[int, ...]) -> None:
    graph = Integers(DType.U8, 4, *size)
    kernel = (3,) * len(size)
    names, reasons = graph.rewritten(graph.conv(graph.bytes_(DType.U8, filters, 4 // group, *kernel), kernel, group))
    assert names == ["QLinearConv"] and not reasons


def test_sums_that_float32_may_round_stay() -> None:
    graph = Integers(DType.U8, 2, 12, 12, 12)
    weights = np.where(graph.bytes_(DType.U8, 2, 1, 10, 10, 10) > 127, 255, 0).astype(np.uint8)
    names, (reason,) = graph.rewritten(graph.conv(weights, (10, 10, 10), 2))
    assert names == ["QLinearConv"] and "2**24" in reason


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8])
def test_maxima_over_three_axes(dtype: DType) -> None:
    graph = Integers(dtype, 3, 4, 6, 6)
    pool = Pool("max", (2, 2, 2), (2, 2, 2), (0, 0, 0, 1, 0, 0), (1, 1, 1), False, False, False, 0)
    names, _ = graph.rewritten(graph.add(pool, [graph.x], origin=("pool",))[0])
    assert names == ["DequantizeLinear", "Pool", "QuantizeLinear"]
