"""Whole networks on the tile kernels, compiled with tiles in memory; and artifacts and libraries for the real unit."""

from __future__ import annotations

import platform
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import cnngraph
import cnngraph_models
from cnngraph.emit.shared import emit_library
from cnngraph.errors import UsageError
from cnngraph.frontend import import_model
from cnngraph.kernels.template import Target
from cnngraph.options import CompileOptions
from cnngraph.pipeline import compile_graph
from cnngraph.runtime import features
from cnngraph.runtime.library import Library
from cnngraph.runtime.session import Program
from cnngraph_cpu import CpuBackend
from cnngraph_cpu.target import ISAS, available, host_features

IN_MEMORY = ISAS["tiles_in_memory"]
runs_here = pytest.mark.skipif(not set(IN_MEMORY.required) <= host_features(), reason="needs AVX512-BF16 and VNNI")


class TilesInMemory(CpuBackend):
    """The CPU backend for the instruction set that users are not offered."""

    def target(self, isa: str | None, *, integers: bool = False, halves: bool = False) -> Target:
        return IN_MEMORY.target


def compiled(model: onnx.ModelProto, **options: object) -> Program:
    program = compile_graph(import_model(model), CompileOptions(**options), backend=TilesInMemory())  # type: ignore[arg-type]
    assert isinstance(program, Program)
    return program


def chosen(program: Program) -> Counter[str]:
    return Counter(row["chosen"] for row in program.report["selection"])


@pytest.mark.slow
@runs_here
def test_a_network_in_float32() -> None:
    model = cnngraph_models.build("resnet18", seed=1, input_shape=(3, 64, 64), batch="dynamic")
    x = np.random.default_rng(2).standard_normal((3, 3, 64, 64)).astype(np.float32)
    program = compiled(model)
    assert chosen(program)["conv_tiles"] >= 12
    (got,) = program.run({"input": x}).values()
    (want,) = cnngraph.compile(model, math="exact").run({"input": x}).values()
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    (one,) = program.run({"input": x[1:2]}).values()
    (alone,) = program.run({"input": x}, threads=1).values()
    assert np.array_equal(one, got[1:2]) and np.array_equal(alone, got)


@runs_here
def test_exact_arithmetic_splits_nothing() -> None:
    assert chosen(compiled(convolution(), math="exact"))["conv_tiles"] == 0
    assert chosen(compiled(convolution()))["conv_tiles"] == 1


def convolution() -> onnx.ModelProto:
    """One convolution that the tile kernels take."""
    tensor, rng = helper.make_tensor_value_info, np.random.default_rng(3)
    weights = numpy_helper.from_array(rng.standard_normal((64, 64, 3, 3)).astype(np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
    graph = helper.make_graph([node], "g", [tensor("x", 1, ["N", 64, 20, 20])], [tensor("y", 1, None)], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


X = np.random.default_rng(4).standard_normal((2, 64, 20, 20)).astype(np.float32)


@pytest.mark.slow
def test_an_artifact_that_needs_the_unit(tmp_path: Path) -> None:
    """Where the unit is absent or refused the program says so, and the next code of a file for several is taken."""
    amx, plain = (cnngraph.compile(convolution(), isa=isa) for isa in ("avx512amx", "sse4"))
    assert chosen(amx)["conv_tiles"] == 1 and set(features.missing_features(amx.data.required)) <= set(amx.data.required)
    amx.save(tmp_path / "net.cnng", variants=[plain])
    loaded = cnngraph.load(tmp_path / "net.cnng")
    if "avx512amx" in available():
        assert loaded.data.isa == "avx512amx"
        np.testing.assert_allclose(loaded.run({"x": X})["y"], plain.run({"x": X})["y"], atol=2e-3)
        return
    assert loaded.data.isa == "sse4"
    with pytest.raises(UsageError, match="compiled for avx512amx; it can be saved, but not run"):
        amx.run({"x": X})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64" or not shutil.which("cc"), reason="needs a C compiler")
def test_a_library_asks_for_the_unit(tmp_path: Path) -> None:
    amx, plain = (cnngraph.compile(convolution(), isa=isa) for isa in ("avx512amx", "sse4"))
    emit_library([amx.data, plain.data], tmp_path / "net.so")
    with Library(tmp_path / "net.so") as library:
        assert library.isa == ("avx512amx" if "avx512amx" in available() else "sse4")
        np.testing.assert_allclose(library.run({"x": X})["y"], plain.run({"x": X})["y"], atol=2e-3)
