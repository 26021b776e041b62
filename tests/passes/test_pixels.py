"""Which layers' errors are evened out before they reach an output, and what is refused where they are not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cnngraph_models
from cnngraph.analysis.pixels import reach_pixels
from cnngraph.frontend import import_model
from cnngraph.ir.graph import Graph
from cnngraph.ops import Conv
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassContext
from cnngraph.passes.choose_layout import choose_layout
from cnngraph.passes.narrow_floats import narrow_floats
from cnngraph.pipeline import optimize
from cnngraph_cpu import backend


def gated(end: list[onnx.NodeProto], shape: list[int]) -> Graph:
    """A convolution scaled by a function of its own average (squeeze and excitation), then ``end``, which makes y of m."""
    weights = np.random.default_rng(0).standard_normal((2, 16, 16, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c"], pads=[1] * 4, name="wide"),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Conv", ["g", "w1"], ["s"], pads=[1] * 4, name="gate"),
        helper.make_node("Sigmoid", ["s"], ["t"]),
        helper.make_node("Mul", ["c", "t"], ["m"]),
        *end,
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    tensors = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    tensors.append(numpy_helper.from_array(np.ones((1024, 4), np.float32), "dense"))
    graph = helper.make_graph(nodes, "gated", [x], [y], tensors)
    return import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


@pytest.mark.parametrize(
    ("end", "shape", "expected"),
    [
        ([helper.make_node("Relu", ["m"], ["y"])], ["N", 16, 8, 8], {"wide", "gate"}),
        ([helper.make_node("MaxPool", ["m"], ["y"], kernel_shape=[2, 2])], ["N", 16, 7, 7], {"wide", "gate"}),
        ([helper.make_node("ReduceMean", ["m"], ["y"], axes=[2, 3], keepdims=0)], ["N", 16], set()),
        ([helper.make_node("AveragePool", ["m"], ["y"], kernel_shape=[8, 8])], ["N", 16, 1, 1], set()),
        ([helper.make_node("Flatten", ["m"], ["f"]), helper.make_node("Gemm", ["f", "dense"], ["y"])], ["N", 4], set()),
        ([helper.make_node("Transpose", ["m"], ["y"], perm=[0, 2, 3, 1])], ["N", 8, 8, 16], {"wide", "gate"}),
    ],
    ids=["map", "pooled", "mean", "global", "dense", "transposed"],
)
def test_layers_whose_pixels_reach_an_output(end: list[onnx.NodeProto], shape: list[int], expected: set[str]) -> None:
    graph = gated(end, shape)
    assert {node.label for node in reach_pixels(graph) if isinstance(node.op, Conv)} == expected


@pytest.mark.parametrize("rounded", [False, True])
def test_tiles_are_rounded_only_where_pixels_are_summed(rounded: bool) -> None:
    """By Winograd of pairs, that is; with more channels block floating point rounds off too little to matter."""
    mean = helper.make_node("ReduceMean", ["m"], ["y"], axes=[2, 3], keepdims=0), ["N", 16]
    end, shape = mean if rounded else (helper.make_node("Relu", ["m"], ["y"]), ["N", 16, 8, 8])
    graph = gated([end], shape)
    optimize(graph, CompileOptions(precision="bf16"), PassContext())
    narrow_floats(graph)
    choice = choose_layout(graph, backend.templates(), backend.target("avx512bf16"))
    assert any(selection.chosen == "winograd_pairs" for selection in choice.selections) is rounded
    reasons = [selection.refused.get("winograd_pairs", "") for selection in choice.selections]
    assert any("reach an output" in reason for reason in reasons) is not rounded
    unet = import_model(cnngraph_models.build("unet", fill="zeros"))
    optimize(unet, CompileOptions(precision="bf16"), PassContext())
    narrow_floats(unet)
    assert any(
        s.chosen == "winograd_block_float" for s in choose_layout(unet, backend.templates(), backend.target("avx512bf16")).selections
    )
