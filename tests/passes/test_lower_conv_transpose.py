"""LowerConvTranspose: stride 1 becomes a convolution, few output channels a convolution and depth_to_space, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cnngraph.ir.graph import Graph
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ir.verify import verify
from cnngraph.ops import ConvTranspose, Expression
from cnngraph.ops.expression import Instr
from cnngraph.passes.base import PassContext
from cnngraph.passes.lower_conv_transpose import LowerConvTranspose

SCALED = Expression(2, (Instr("mul", (0, 1)), Instr("relu", (2,))))


def _graph(
    channels: int, outputs: int, extents: tuple[int, ...], kernel: int, stride: int, begin: int, out: tuple[int, ...], *, dilation: int = 1,
    group: int = 1, operand: str = "", computed: bool = False,
) -> Graph:  # fmt: skip
    rng, rank, graph = np.random.default_rng(4), len(extents), Graph()
    x = graph.add_input("x", TensorType(DType.F32, (BATCH, channels, *extents)))
    shape = (channels, outputs // group, *(kernel,) * rank)
    w = graph.constant(rng.standard_normal(shape).astype(np.float32))
    if computed:
        w = graph.add_input("w", TensorType(DType.F32, shape))
    b = graph.constant(rng.standard_normal(outputs).astype(np.float32))
    rest = []
    if operand == "channel":
        rest = [graph.constant(rng.standard_normal((outputs, *(1,) * rank)).astype(np.float32))]
    elif operand == "one":
        rest = [graph.constant(np.array(0.5, np.float32))]
    elif operand == "pixel":
        rest = [graph.add_input("e", TensorType(DType.F32, (BATCH, outputs, *out)))]
    op = ConvTranspose(
        (kernel,) * rank, (stride,) * rank, (begin,) * rank, (dilation,) * rank, out, group, SCALED if rest else Expression.of("relu")
    )
    (y,) = graph.add(op, [x, w, b, *rest], origin=("up",))
    graph.add_output("y", y)
    return graph


def _check(graph: Graph) -> tuple[list[str], list[str]]:
    """Names of the operators after the pass, and why it refused; results stay."""
    rng = np.random.default_rng(5)
    feeds = {}
    for name, value in graph.inputs:
        shape = tuple(3 if not isinstance(d, int) else d for d in value.type.shape)
        feeds[name] = rng.standard_normal(shape).astype(np.float32)
    before = interpret(graph, feeds)["y"]
    context = PassContext()
    changes = LowerConvTranspose().run(graph, context)
    verify(graph, "lower_conv_transpose")
    names = [node.op.name for node in graph.nodes]
    assert changes == ("ConvTranspose" not in names)
    np.testing.assert_allclose(interpret(graph, feeds)["y"], before, rtol=1e-4, atol=1e-4)
    return names, [rejection.reason for rejection in context.rejections]


MIRRORED: list[dict[str, Any]] = [
    {"channels": 6, "outputs": 4, "extents": (5, 7), "kernel": 3, "stride": 1, "begin": 0, "out": (7, 9), "operand": "pixel"},
    {"channels": 6, "outputs": 4, "extents": (5, 7), "kernel": 3, "stride": 1, "begin": 1, "out": (5, 8), "group": 2, "operand": "channel"},
    {"channels": 2, "outputs": 3, "extents": (9,), "kernel": 4, "stride": 1, "begin": 1, "out": (16,), "dilation": 3},
]
JOINED: list[dict[str, Any]] = [
    {"channels": 16, "outputs": 1, "extents": (5, 7), "kernel": 2, "stride": 2, "begin": 0, "out": (10, 14)},
    {"channels": 5, "outputs": 3, "extents": (4, 6), "kernel": 4, "stride": 2, "begin": 1, "out": (8, 12), "operand": "channel"},
    {"channels": 5, "outputs": 2, "extents": (4, 6), "kernel": 3, "stride": 2, "begin": 1, "out": (8, 12), "operand": "one"},
    {"channels": 5, "outputs": 1, "extents": (4, 6), "kernel": 9, "stride": 3, "begin": 4, "out": (12, 18)},
    {"channels": 5, "outputs": 2, "extents": (4, 6), "kernel": 1, "stride": 2, "begin": 0, "out": (8, 12)},
    {"channels": 3, "outputs": 1, "extents": (11,), "kernel": 8, "stride": 4, "begin": 2, "out": (44,), "operand": "one"},
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("enough output channels", {**JOINED[0], "outputs": 16}),
    ("too many zeros", {**JOINED[1], "outputs": 6}),
    ("differs between pixels", {**JOINED[1], "operand": "pixel"}),
    ("do not divide", {**JOINED[2], "out": (7, 11)}),
    ("groups, dilations", {**JOINED[0], "channels": 16, "outputs": 2, "group": 2}),
    ("groups, dilations", {**JOINED[0], "dilation": 2, "out": (12, 16)}),
    ("computed at run time", {**JOINED[0], "computed": True}),
    ("borders are cut off", {**MIRRORED[0], "begin": 3, "out": (1, 3), "operand": "one"}),
    ("borders are cut off", {**JOINED[0], "begin": 2, "out": (6, 10)}),
]


@pytest.mark.parametrize("case", MIRRORED)
def test_stride_1_is_a_convolution(case: dict[str, Any]) -> None:
    assert _check(_graph(**case)) == (["Conv"], [])


@pytest.mark.parametrize("case", JOINED)
def test_few_output_channels_are_joined_with_the_remainders(case: dict[str, Any]) -> None:
    assert _check(_graph(**case)) == (["Conv", "Reshape", "Transpose", "Reshape"], [])


@pytest.mark.parametrize(("reason", "case"), REFUSED)
def test_what_stays_says_why(reason: str, case: dict[str, Any]) -> None:
    names, reasons = _check(_graph(**case))
    assert names == ["ConvTranspose"] and reason in reasons[0]
