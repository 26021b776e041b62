"""GridSample and cropping Resize in the emulator against the operators' definitions."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.graph import Graph
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ops.deform import GridSample
from cnngraph.ops.resize import Resize
from cnngraph_cuda.jit import missing_packages

from .support import Net, build, compare, emulate


def sampling(mode, padding, align, spatial, dtype=DType.F32):
    graph = Graph("test")
    shapes = (BATCH, 3, *spatial), (BATCH, *(n + 2 for n in spatial), len(spatial))
    values = [graph.add_input(f"x{i}", TensorType(dtype, shape)) for i, shape in enumerate(shapes)]
    graph.add_output("y", graph.add(GridSample(mode, padding, align), values, origin=("sample",))[0])
    return graph


@pytest.mark.parametrize("precision", ["f32", "f16"])
@pytest.mark.parametrize("spatial", [(7,), (5, 6), (3, 4, 5)])
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_grids(mode, padding, align, spatial, precision):
    """Points inside, at the borders and far outside; coordinates that both types hold exactly."""
    graph = sampling(mode, padding, align, spatial)
    rng = np.random.default_rng(len(spatial))
    shapes = [tuple(2 if d is BATCH else d for d in v.type.shape) for _, v in graph.inputs]
    image = rng.integers(-64, 64, shapes[0]).astype(np.float32) / 16
    grid = rng.integers(-70, 71, shapes[1]).astype(np.float32) / 32
    feeds = {"x0": image, "x1": grid}
    expected = interpret(graph, feeds)["y"]
    program, choice = build(graph, isa=f"sm_90:{precision}")
    assert "grid_sample" in [s.chosen for s in choice.selections]
    got = emulate(program, feeds)[0]["y"]
    np.testing.assert_allclose(got, expected, atol=2e-5 if precision == "f32" else 1e-2)


@pytest.mark.parametrize("precision", ["f32", "f16"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_crops(mode, precision):
    """Regions inside the image and beyond it on one side."""
    for region in ((0.2, 0.1, 0.8, 0.9), (-0.3, 0.2, 0.7, 1.4)):
        net = Net(5, 6, 7)
        op = Resize((2, 3), (5, 8), (5.0, 8.0), mode, "tf_crop_and_resize", extrapolation=7.5, roi=region)
        net.add_output("y", net.node(op, net.x))
        assert "resize" in compare(net, isa=f"sm_90:{precision}")


@pytest.mark.skipif(missing_packages() is not None, reason=str(missing_packages()))
@pytest.mark.parametrize("arch", ["sm_75", "sm_90", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sm_80", "sm_100", "sm_120"))])
def test_compiled(arch):
    from .test_compiled import assemble

    net = Net(5, 6, 7)
    net.add_output("y", net.node(Resize((2, 3), (5, 8), (5.0, 8.0), "linear", "tf_crop_and_resize", roi=(-0.3, 0.2, 0.7, 1.4)), net.x))
    graphs = [net, sampling("linear", "zeros", False, (5, 6)), sampling("cubic", "reflection", True, (3, 4, 5))]
    for graph in graphs:
        for name, _, report in assemble(graph, arch):
            assert report.spill_stores == report.spill_loads == report.stack == 0, name
            assert report.registers <= 96, name
