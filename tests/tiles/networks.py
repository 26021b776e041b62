"""Whole networks for ``avx512amx`` in a process with the emulated unit, in every way that a user runs them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import cnngraph
import cnngraph_models
from cnngraph.emit.module import emit_module
from cnngraph.emit.shared import emit_library
from cnngraph.errors import CnngraphError
from cnngraph.frontend import import_model
from cnngraph.ir.interpret import interpret
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassContext
from cnngraph.pipeline import optimize
from cnngraph.quantize import QuantizeOptions, Quantizer
from cnngraph.runtime import features
from cnngraph.runtime.execute import ALONE_CYCLES
from cnngraph.runtime.library import Library
from cnngraph.runtime.session import Program
from cnngraph_cpu.target import available
from tests.conformance import quantized_net
from tests.conformance.test_tile_networks import X, chosen, convolution
from tests.conformance.test_tile_networks import compiled as compiled_in_memory
from tests.tiles.counts import Counting
from tests.tiles.support import HERE

CPUID_WITH_TILES = ("-include", str(HERE / "cpuid_with_tiles.h"))


def _compiled(model: onnx.ModelProto | bytes, **options: Any) -> Program:
    program = cnngraph.compile(model, **options)
    assert isinstance(program, Program)
    return program


def _tile_steps(program: Program) -> int:
    return sum(count for name, count in chosen(program).items() if "conv_tiles" in name)


def _equal_for_all_threads(program: Program, feeds: dict[str, np.ndarray], want: np.ndarray) -> Counter[str]:
    """Runs of all images with 1, 2 and 3 threads, and of each image alone; what the last one executed."""
    for threads in (1, 2, 3):
        with Counting() as counting:
            (got,) = program.run(feeds, threads=threads).values()
        assert np.array_equal(got, want), f"{threads} threads differ, by {np.abs(got - want).max()} of {np.abs(want).max()}"
        assert counting.made["configure"] % _tile_steps(program) == 0, "a kernel that configures the tiles more than once"
    (name, x), *_ = feeds.items()
    for image in range(len(x)):
        with Counting() as counting:
            (one,) = program.run({name: x[image : image + 1]}, threads=1).values()
        assert np.array_equal(one, want[image : image + 1]), f"image {image} alone differs"
        assert counting.made["configure"] == _tile_steps(program)
    return counting.made


def one_layer(folder: str) -> dict[str, Any]:
    """A convolution that is compiled for the unit unasked: run, saved and loaded, as a library for several CPUs, and as a module."""
    program, plain = _compiled(convolution()), _compiled(convolution(), isa="sse4")
    assert program.data.isa == "avx512amx" and _tile_steps(program) == 1 and features.tile_state() == "granted"
    (want,) = compiled_in_memory(convolution()).run({"x": X}).values()
    executed = _equal_for_all_threads(program, {"x": X}, want)
    program.save(Path(folder) / "one.cnng")
    program.save(Path(folder) / "two.cnng", variants=[plain])
    for name in ("one", "two"):
        loaded = cnngraph.load(Path(folder) / f"{name}.cnng")
        assert loaded.data.isa == "avx512amx"
        assert _equal_for_all_threads(loaded, {"x": X}, want)["dot_bf16"] == executed["dot_bf16"]
    emit_library([program.data], Path(folder) / "alone.so", flags=CPUID_WITH_TILES)
    emit_library([program.data, plain.data], Path(folder) / "several.so", flags=CPUID_WITH_TILES)
    copies = int(ALONE_CYCLES / len(X) / program.report["cycles"]) + 1  # so that the library finds it worth several threads
    for name in ("alone", "several"):
        for threads in (1, 2, 3):
            with Library(Path(folder) / f"{name}.so", threads=threads) as library, Counting() as counting:
                assert library.isa == "avx512amx"
                got = library.run({"x": np.concatenate([X] * copies)})["y"]
                assert np.array_equal(got, np.concatenate([want] * copies))
            apart = len(X) * copies // threads * threads  # images that are computed one by one; all threads share the others
            assert counting.made["configure"] == apart + threads * (apart < len(X) * copies)
            assert counting.made["dot_bf16"] == len(X) * copies * executed["dot_bf16"]
    (Path(folder) / "module").mkdir()
    emit_module(program.data, Path(folder) / "module")
    np.save(Path(folder) / "x.npy", X)
    np.save(Path(folder) / "want.npy", want)
    return {"executed": executed}


def _refusal(action: Any) -> str:
    try:
        action()
    except (CnngraphError, RuntimeError) as error:
        return str(error)
    return ""


def elsewhere(folder: str) -> dict[str, Any]:
    """What :func:`one_layer` wrote, where the unit is there but refused."""
    with Counting() as counting:
        answer: dict[str, Any] = {
            "state": features.tile_state(),
            "best": available()[0],
            "several": cnngraph.load(Path(folder) / "two.cnng").data.isa,
            "run": _refusal(lambda: _compiled(convolution(), isa="avx512amx").run({"x": X})),
            "load": _refusal(lambda: cnngraph.load(Path(folder) / "one.cnng")),
            "library": _refusal(lambda: Library(Path(folder) / "alone.so")),
        }
        with Library(Path(folder) / "several.so") as library:
            answer["several libraries"] = library.isa
            library.run({"x": X})
    return answer | {"made": counting.made}


def module(folder: str) -> dict[str, Any]:
    """The module that :func:`one_layer` wrote."""
    import sys

    sys.path.insert(0, f"{folder}/module")
    import network  # type: ignore[import-not-found]

    with Counting() as counting:
        refusal = _refusal(lambda: np.save(f"{folder}/got.npy", network.run({"x": np.load(f"{folder}/x.npy")})["y"]))
    return {"refusal": refusal, "made": counting.made}


def residual(name: str, precision: str, size: int) -> dict[str, Any]:
    """A network of the zoo: the bits of tiles in memory, and near what exact arithmetic computes."""
    model = cnngraph_models.build(name, seed=1, input_shape=(3, size, size), batch="dynamic")
    x = np.random.default_rng(2).standard_normal((2, 3, size, size)).astype(np.float32)
    program = _compiled(model, precision=precision, isa="avx512amx")
    (want,) = compiled_in_memory(model, precision=precision).run({"input": x}).values()
    executed = _equal_for_all_threads(program, {"input": x}, want)
    (exact,) = _compiled(model, math="exact", isa="avx512").run({"input": x}).values()
    return {"steps": _tile_steps(program), "executed": executed, "error": float(np.abs(want - exact).max() / np.abs(exact).max())}


def quantized(size: int) -> dict[str, Any]:
    """ResNet-18 in 8 bits (QDQ) by this project's quantisation: the bits of tiles in memory. A small network: those of the references."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 3, size, size)).astype(np.float32)
    model = cnngraph_models.build("resnet18", seed=1, input_shape=(3, size, size), batch="dynamic")
    quantizer = Quantizer(model, QuantizeOptions(method="minmax", compile=CompileOptions(isa="avx512")))
    quantizer.calibrate([{"input": x}])
    small = rng.standard_normal((3, 3, 20, 18)).astype(np.float32)
    answer: dict[str, Any] = {}
    for name, source, feeds in (("resnet18", quantizer.quantize().model, x), ("small", quantized_net.model(), small)):
        if name == "small":
            graph = import_model(source)
            optimize(graph, CompileOptions(), PassContext())
            (want,) = interpret(graph, {"input": feeds}).values()
        else:
            (want,) = compiled_in_memory(source).run({"input": feeds}).values()
        program = _compiled(source, isa="avx512amx")
        answer[name] = {"steps": _tile_steps(program), "executed": _equal_for_all_threads(program, {"input": feeds}, want)}
    return answer
