"""Gathers and scatters by indices computed at run time, in the emulator: results, and the errors that bad indices end in."""

from __future__ import annotations

import numpy as np
import pytest

import cnngraph
from cnngraph.errors import InvalidInputError, UnsupportedError
from cnngraph.ir.graph import Graph
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ops import Conv, Gather
from cnngraph.ops.indexing import GatherElements, GatherND, ScatterElements
from cnngraph_cuda.arrays import DeviceRunner
from cnngraph_cuda.device import EmulatedDevice
from cnngraph_cuda.executor import CudaExecutor
from cnngraph_cuda.jit import missing_packages

from .support import TOLERANCE, Net, build, emulate

TYPES = (DType.F32, DType.F16, DType.I8, DType.BOOL, DType.I64)
CASES = {
    "gather": (Gather(1), (BATCH, 5, 3), (2, 4), 5),
    "gather_last": (Gather(2), (BATCH, 5, 3), (), 3),
    "gather_by_image": (Gather(0), (7, 4), (BATCH, 3), 7),
    "elements": (GatherElements(1), (BATCH, 5, 3), (BATCH, 9, 2), 5),
    "elements_first": (GatherElements(0), (6, 5), (2, 3), 6),
    "nd": (GatherND(0), (4, 4, 3), (BATCH, 2, 2), 4),
    "nd_by_batch": (GatherND(1), (BATCH, 4, 3), (BATCH, 2, 1), 4),
    "nd_deep": (GatherND(1), (2, 3, 3, 3), (2, 5, 3), 3),
}
SCATTERS = {"first": (0, (4, 5), (6, 3)), "last": (2, (BATCH, 3, 5), (BATCH, 2, 7)), "middle": (1, (BATCH, 4, 2), (BATCH, 9, 1))}


def graph_of(op, *types):
    graph = Graph("test")
    values = [graph.add_input(f"x{i}", TensorType(*t)) for i, t in enumerate(types)]
    graph.add_output("y", graph.add(op, values, origin=("picks",))[0])
    return graph


def array(dtype, shape, seed):
    sizes = [2 if d is BATCH else d for d in shape]
    return np.random.default_rng(seed).integers(-100, 100, sizes).astype(dtype.numpy)


def feeds_of(case, dtype, index_type):
    _, shape, indices, extent = CASES[case]
    places = np.random.default_rng(2).integers(-extent, extent, [2 if d is BATCH else d for d in indices])
    return {"x0": array(dtype, shape, 1), "x1": np.asarray(places, index_type.numpy)}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("index_type", [DType.I32, DType.I64])
@pytest.mark.parametrize("case", CASES)
def test_gathers(case, dtype, index_type):
    op, shape, indices, _ = CASES[case]
    graph = graph_of(op, (dtype, shape), (index_type, indices))
    feeds = feeds_of(case, dtype, index_type)
    expected = interpret(graph, feeds)["y"]
    got = emulate(build(graph)[0], feeds)[0]["y"]
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("far", [0, 1 << 40])
def test_bad_indices_are_refused_and_the_next_run_is_sound(case, far):
    op, shape, indices, extent = CASES[case]
    graph = graph_of(op, (DType.F32, shape), (DType.I64, indices))
    good = feeds_of(case, DType.F32, DType.I64)
    for bad in (extent + far, -extent - 1 - far):
        feeds = {"x0": good["x0"], "x1": good["x1"].copy()}
        feeds["x1"][(-1,) * len(indices)] = bad
        with pytest.raises(InvalidInputError, match=op.name):
            interpret(graph, feeds)
        program, _ = build(graph)
        with pytest.raises(InvalidInputError, match=rf"picks: {op.name} index {'' if far else bad}.*outside"):
            emulate(program, feeds)
        np.testing.assert_array_equal(program.run(good)["y"], interpret(graph, good)["y"])


@pytest.mark.parametrize("dtype", [DType.F32, DType.I32, DType.U8, DType.F16])
@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("case", SCATTERS)
def test_scatter_elements(case, reduction, dtype):
    axis, shape, given = SCATTERS[case]
    graph = graph_of(ScatterElements(axis, reduction), (dtype, shape), (DType.I64, given), (dtype, given))
    extent = shape[axis]
    places = np.random.default_rng(3).integers(-extent, extent, [2 if d is BATCH else d for d in given])
    feeds = {"x0": array(dtype, shape, 1), "x1": places, "x2": array(dtype, given, 4)}
    if dtype is DType.F16 and reduction != "none":
        with pytest.raises(UnsupportedError, match="rounded"):
            build(graph)
        return
    np.testing.assert_allclose(emulate(build(graph)[0], feeds)[0]["y"], interpret(graph, feeds)["y"], rtol=1e-6)
    feeds["x1"][-1, -1] = extent
    with pytest.raises(InvalidInputError, match="ScatterElements index"):
        emulate(build(graph)[0], feeds)


def beside_split_sums():
    """A convolution whose blocks share sums in scratch memory, then a gather."""
    net = Net(1024, 7, 7)
    indices = net.add_input("i", TensorType(DType.I64, (3,)))
    y = net.node(Conv((1, 1), (1, 1), (0,) * 4, (1, 1)), net.x, net.weights(64, 1024, 1, 1, scale=0.03), None)
    net.add_output("y", net.node(Gather(1), y, indices))
    return net


def test_flags_lie_behind_the_scratch_memory():
    net = beside_split_sums()
    program, _ = build(net)
    x = np.random.default_rng(0).standard_normal((1, 1024, 7, 7)).astype(np.float32)
    ((place, text),) = program.data.checks
    assert place % 64 == 0 and place > 64 and program.data.scratch == place + 8 and text.startswith("Gather")
    for i in ([1, 5, -1], [63, 0, -64]):
        feeds = {"x": x, "i": np.array(i)}
        got = emulate(program, feeds)[0]["y"]
        np.testing.assert_allclose(got, interpret(net, feeds, np.float64)["y"], atol=10 * TOLERANCE["f32"])
    with pytest.raises(InvalidInputError, match="index 64 is outside axis 1"):
        program.run({"x": x, "i": np.array([1, 64, 2])})
    np.testing.assert_array_equal(program.run(feeds)["y"], got)


def test_flags_in_an_artifact_and_on_arrays_of_the_gpu(tmp_path):
    program, _ = build(graph_of(Gather(1), (DType.F32, (BATCH, 5)), (DType.I64, (2,))))
    program.save(tmp_path / "gather.cnng")
    loaded = cnngraph.load(tmp_path / "gather.cnng")
    assert loaded.data.checks == program.data.checks
    loaded._executor = CudaExecutor(loaded.data, EmulatedDevice)
    with pytest.raises(InvalidInputError, match="picks: Gather index 5"):
        DeviceRunner(loaded).run({"x0": np.ones((1, 5), np.float32), "x1": np.array([0, 5])})


@pytest.mark.skipif(missing_packages() is not None, reason=str(missing_packages()))
@pytest.mark.parametrize("arch", ["sm_75", "sm_90", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sm_80", "sm_100", "sm_120"))])
def test_compiled(arch):
    from .test_compiled import assemble

    graphs = [
        graph_of(op, (DType.I8, shape), (DType.I64, indices)) for op, shape, indices, _ in map(CASES.get, ("gather", "elements", "nd_deep"))
    ]
    axis, shape, given = SCATTERS["last"]
    for dtype, reduction in ((DType.F32, "max"), (DType.I64, "add")):
        graphs.append(graph_of(ScatterElements(axis, reduction), (dtype, shape), (DType.I32, given), (dtype, given)))
    for graph in graphs:
        for name, _, report in assemble(graph, arch):
            assert report.spill_stores == report.spill_loads == report.stack == 0, name
            assert report.registers <= 64, name
