"""A compiled network as a Python module that stands alone: the same bits, and nothing of this project is imported."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import cnngraph
from cnngraph.analysis import by_image
from cnngraph.emit.module import emit_module
from cnngraph.errors import UsageError
from cnngraph_cpu.simd import primitives
from cnngraph_cpu.standalone import language
from tests.cli.conftest import Call, call  # noqa: F401  a fixture
from tests.runtime.test_weights import X, model

CHECK = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import network
for batch in (1, 2):
    for name, array in network.run({sys.argv[3]: np.load(sys.argv[2])[:batch]}).items():
        np.save(f"{sys.argv[1]}/{batch}.npy", array)
others = {name.partition(".")[0] for name in sys.modules} & {"cnngraph", "cnngraph_cpu", "onnx", "ml_dtypes", "networkx"}
assert not others, others
for feeds in ({}, {"none": 1}, {sys.argv[3]: np.zeros(3, np.float32)}, {sys.argv[3]: np.load(sys.argv[2]).astype(np.float64)}):
    try:
        network.run(feeds)
    except ValueError:
        continue
    raise AssertionError(feeds)
"""


@pytest.mark.parametrize(("isa", "name"), [("avx2", "x"), ("sse4", 'a"""\\ é\n@STEPS@')])
def test_the_same_bits(tmp_path: Path, isa: str, name: str) -> None:
    changed = model(1)
    changed.graph.input[0].name = changed.graph.node[0].input[0] = name
    changed.graph.node[0].name = '"""\nimport os\n@IMPORTS@'
    program = cnngraph.compile(changed, isa=isa)
    (tmp_path / "out").mkdir()
    emit_module(program.data, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["network.py", "weights.bin"]
    np.save(tmp_path / "x.npy", X)
    command = [sys.executable, "-I", "-c", CHECK, str(tmp_path / "out"), str(tmp_path / "x.npy"), name]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    for batch in (1, 2):
        wanted = program.run({name: X[:batch]})["y"]
        np.testing.assert_array_equal(np.load(tmp_path / "out" / f"{batch}.npy"), wanted)


def test_outputs_that_no_kernel_writes(tmp_path: Path) -> None:
    make, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [make("Relu", ["x"], ["r"]), make("Identity", ["x"], ["same"])], "g", [tensor("x", 1, ["N", 20])],
        [tensor("r", 1, None), tensor("same", 1, None)],
    )  # fmt: skip
    program = cnngraph.compile(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), isa="avx2")
    assert program.data.copies
    emit_module(program.data, tmp_path)
    x = np.random.default_rng(0).standard_normal((3, 20)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nimport network, numpy as np\n"
        "np.savez(sys.argv[1] + '/y.npz', **network.run({'x': np.load(sys.argv[1] + '/x.npy')}))\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code, str(tmp_path)], check=True, timeout=300)
    for name, array in program.run({"x": x}).items():
        np.testing.assert_array_equal(np.load(tmp_path / "y.npz")[name], array)


@pytest.mark.parametrize("isa", ["avx512amx", "avx512bf16", "avx512", "avx512vnni", "avx2", "avx2vnni", "sse4"])
def test_the_language_is_complete(isa: str) -> None:
    imports, text, environment = language(isa)
    module: dict[str, object] = {"__name__": "generated"}
    exec(compile(f"from __future__ import annotations\n{imports}\n{text}", "network.py", "exec"), module)
    assert set(primitives(isa)) <= set(module)
    assert "cnngraph" not in {name.partition(".")[0] for name in imports.split()}
    assert environment["NUMBA_CPU_NAME"].startswith("x86-64")
    own = {
        "run",
        "check",
        "aligned",
        "peek",
        "call",
        "main",
        "missing_features",
        "cfunc",
        "types",
        "ctypes",
        "os",
        "sys",
        "np",
        "Path",
        "WEIGHTS",
        "INPUTS",
        "n",
    }
    assert not own & (set(primitives(isa)) - {"types"})
    defined = [node.name for node in ast.parse(text).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert len(defined) == len(set(defined))


def test_a_cpu_that_lacks_what_the_kernels_need(tmp_path: Path) -> None:
    data = cnngraph.compile(model(1), isa="avx2").data
    emit_module(dataclasses.replace(data, required=(*data.required, "avx9000")), tmp_path)
    result = subprocess.run([sys.executable, "-I", str(tmp_path / "network.py")], capture_output=True, text=True, timeout=300)
    assert result.returncode == 1
    assert result.stderr.endswith("RuntimeError: the kernels are for avx2, and this machine lacks avx9000\n")


def test_what_cannot_stand_alone_is_refused(tmp_path: Path) -> None:
    make, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    det = onnx.helper.make_graph([make("Det", ["x"], ["y"], name="the-det")], "g", [tensor("x", 1, [2, 3, 3])], [tensor("y", 1, [2])])
    program = cnngraph.compile(onnx.helper.make_model(det, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8))
    with pytest.raises(UsageError, match=r"a Python module cannot hold nodes without a kernel.*the-det"):
        emit_module(program.data, tmp_path)
    assert not list(tmp_path.iterdir())


def test_on_the_command_line(call: Call, tmp_path: Path) -> None:  # noqa: F811
    onnx.save(model(1), tmp_path / "m.onnx")
    outcome = call("compile", tmp_path / "m.onnx", "--emit", "python,source", "-o", tmp_path / "net", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["files"] == {"python": str(tmp_path / "net.python"), "source": str(tmp_path / "net.kernels")}
    result = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "net.python" / "network.py")], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("y float32 (1, 5)")
    assert call("compile", tmp_path / "m.onnx", "--emit", "python", "-o", tmp_path / "net").code == 1  # exists already
    assert call("compile", tmp_path / "m.onnx", "--emit", "python", "--isa", "avx2,sse4", "-o", tmp_path / "two").code == 2


def test_what_leading_steps_hand_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_image, "_MOST_WEIGHTS", 1000)
    monkeypatch.setattr(by_image, "_LEAST_RESULTS", 0)
    program = cnngraph.compile(model(1), isa="avx2")
    assert program.data.handover
    emit_module(program.data, tmp_path)
    np.save(tmp_path / "x.npy", X)
    command = [sys.executable, "-I", "-c", CHECK, str(tmp_path), str(tmp_path / "x.npy"), "x"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    for batch in (1, 2):
        np.testing.assert_array_equal(np.load(tmp_path / f"{batch}.npy"), program.run({"x": X[:batch]})["y"])
