"""New weights in a compiled program: the same bits as compiling, nothing compiled, other topologies refused."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

import cnngraph
import cnngraph_models
from cnngraph.errors import InvalidModelError, UsageError
from cnngraph.runtime.session import Program


def model(seed: int, channels: int = 8, name: str = "") -> onnx.ModelProto:
    """Convolution, normalisation, Relu, pooling, dense layer; ``name`` goes into the nodes' names."""
    rng = np.random.default_rng(seed)
    shapes = {"w": (channels, 3, 3, 3), "scale": (channels,), "shift": (channels,), "mean": (channels,), "d": (channels, 5), "bias": (5,)}
    stored = [onnx.numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    stored.append(onnx.numpy_helper.from_array(rng.random(channels).astype(np.float32) + 1, "var"))
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["x", "w"], ["c"], name=f"{name}conv", pads=[1, 1, 1, 1]),
        make("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], name=f"{name}norm"),
        make("Relu", ["n"], ["r"], name=f"{name}relu"),
        make("GlobalAveragePool", ["r"], ["g"], name=f"{name}pool"),
        make("Flatten", ["g"], ["f"], name=f"{name}flat"),
        make("Gemm", ["f", "d", "bias"], ["y"], name=f"{name}dense"),
    ]
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "g", [tensor("x", 1, ["N", 3, 12, 12])], [tensor("y", 1, ["N", 5])], initializer=stored
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


X = np.random.default_rng(9).standard_normal((2, 3, 12, 12)).astype(np.float32)


def test_the_same_bits_as_compiling(tmp_path: Path) -> None:
    program = cnngraph.compile(model(1))
    assert isinstance(program, Program)
    before = program.run({"x": X})["y"]
    wanted = cnngraph.compile(model(2)).run({"x": X})["y"]
    kernels = program.kernels
    program.load_weights(model(2, name="other/"))
    np.testing.assert_array_equal(program.run({"x": X})["y"], wanted)
    assert not np.array_equal(before, wanted)
    assert [k.name for k in program.kernels] == [k.name for k in kernels]
    program.save(tmp_path / "p.cnng")
    np.testing.assert_array_equal(cnngraph.load(tmp_path / "p.cnng").run({"x": X})["y"], wanted)


@pytest.mark.parametrize("math", ["f32", "exact"])
def test_a_loaded_artifact(tmp_path: Path, math: str) -> None:
    cnngraph.compile(model(1), math=math, isa="avx2").save(tmp_path / "p.cnng")
    program = cnngraph.load(tmp_path / "p.cnng")
    program.load_weights(model(2))
    wanted = cnngraph.compile(model(2), math=math, isa="avx2").run({"x": X})["y"]
    np.testing.assert_array_equal(program.run({"x": X})["y"], wanted)


def test_numba_is_not_needed(tmp_path: Path) -> None:
    cnngraph.compile(model(1)).save(tmp_path / "p.cnng")
    onnx.save(model(2), tmp_path / "m.onnx")
    code = (
        "import sys, cnngraph\nsys.modules['numba'] = None\n"
        f"program = cnngraph.load({str(tmp_path / 'p.cnng')!r})\nprogram.load_weights({str(tmp_path / 'm.onnx')!r})\n"
        f"program.save({str(tmp_path / 'q.cnng')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    wanted = cnngraph.compile(model(2)).run({"x": X})["y"]
    np.testing.assert_array_equal(cnngraph.load(tmp_path / "q.cnng").run({"x": X})["y"], wanted)


def test_other_topologies_are_refused_and_change_nothing() -> None:
    program = cnngraph.compile(model(1))
    before = program.run({"x": X})["y"]
    wider, renamed, deeper, other = model(1, channels=24), model(1), model(1), model(1)
    renamed.graph.input[0].name = "z"
    renamed.graph.node[0].input[0] = "z"
    deeper.graph.node[2].op_type = "Tanh"
    other.graph.output[0].name = other.graph.node[5].output[0] = "scores"
    for changed in (wider, renamed, deeper, other):
        with pytest.raises(UsageError, match="topology differs"):
            program.load_weights(changed)
    with pytest.raises(InvalidModelError):
        program.load_weights(b"nothing")
    np.testing.assert_array_equal(program.run({"x": X})["y"], before)


def test_runs_in_flight_see_old_or_new_weights() -> None:
    program = cnngraph.compile(model(1))
    wanted = [program.run({"x": X})["y"].tobytes(), cnngraph.compile(model(2)).run({"x": X})["y"].tobytes()]
    seen: set[bytes] = set()
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            seen.add(program.run({"x": X})["y"].tobytes())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(6):
        program.load_weights(model(1 + (number + 1) % 2))
    program.load_weights(model(2))
    done.set()
    for thread in threads:
        thread.join()
    assert seen <= set(wanted)
    assert program.run({"x": X})["y"].tobytes() == wanted[1]


def test_free_shapes_are_refused() -> None:
    free = model(1)
    free.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    program = cnngraph.compile(free)
    with pytest.raises(UsageError, match="compile with shapes"):
        program.load_weights(free)
    fixed = cnngraph.compile(free, shapes={"x": ["N", 3, 12, 12]})
    fixed.load_weights(model(2))
    np.testing.assert_array_equal(fixed.run({"x": X})["y"], cnngraph.compile(model(2)).run({"x": X})["y"])


def test_a_classic_network() -> None:
    program = cnngraph.compile(cnngraph_models.build("lenet5", seed=1))
    (spec,) = program.inputs
    x = np.random.default_rng(0).random((2, *spec.shape[1:]), np.float32)  # type: ignore[arg-type]
    program.load_weights(cnngraph_models.build("lenet5", seed=2))
    other = cnngraph.compile(cnngraph_models.build("lenet5", seed=2)).run({spec.name: x})
    for name, array in program.run({spec.name: x}).items():
        np.testing.assert_array_equal(array, other[name])


def test_compiling_leaves_no_weights_to_the_garbage_collector() -> None:
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        cnngraph.compile(model(1))
        gc.collect()
        left = [r for o in gc.garbage for r in gc.get_referents(o) if isinstance(r, np.ndarray) and r.size > 8]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not left
