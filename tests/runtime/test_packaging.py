"""The distribution that only runs programs: complete, small, and clear about what it lacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import cnngraph
from cnngraph.runtime.session import Program
from tests.runtime.support import expected, feed, program_data
from tests.runtime.test_feeds import host_data

ROOT = Path(__file__).parents[2]

RUN = """
import sys
sys.path[:0] = sys.argv[1], sys.argv[3]
import numpy as np
import cnngraph
assert cnngraph.__file__.startswith(sys.argv[1]), cnngraph.__file__
for name in ("plain", "host"):
    program = cnngraph.load(f"{sys.argv[2]}/{name}.cnng", threads=2)
    feeds = dict(np.load(f"{sys.argv[2]}/{name}.npz"))
    np.savez(f"{sys.argv[2]}/{name}-out.npz", **program.run(feeds))
heavy = {"numba", "llvmlite", "onnx", "networkx", "click", "rich"} & set(sys.modules)
assert not heavy, heavy
for use in (lambda: cnngraph.compile("x.onnx"), lambda: cnngraph.load(f"{sys.argv[2]}/tail.cnng")):
    try:
        use()
    except (ImportError, cnngraph.errors.CnngraphError) as error:
        print(error)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the distribution's files are, as an installer would put them."""
    folder = tmp_path_factory.mktemp("runtime")
    setup = ROOT / "packaging" / "runtime" / "setup.py"
    command = [sys.executable, str(setup), "-q", "build", "--build-base", str(folder / "build"), "--build-lib", str(folder / "lib")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "lib"


def test_it_runs_programs_and_says_what_it_lacks(installed: Path, tmp_path: Path) -> None:
    Program(program_data()).save(tmp_path / "plain.cnng")
    np.savez(tmp_path / "plain.npz", x=feed(2))
    host = Program(host_data())
    given = {spec.name: np.ones([3 * a + b for a, b in spec.factors()], spec.dtype) for spec in host.inputs}
    host.save(tmp_path / "host.cnng")
    np.savez(tmp_path / "host.npz", **given)  # type: ignore[arg-type]
    tensor = helper.make_tensor_value_info
    tail = helper.make_graph([helper.make_node("NonZero", ["x"], ["y"])], "g", [tensor("x", 1, [2, 3])], [tensor("y", 7, [2, "n"])])
    cnngraph.compile(helper.make_model(tail, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)).save(tmp_path / "tail.cnng")
    packages = Path(np.__file__).parents[1]  # without the site module, which would find this checkout too
    command = [sys.executable, "-I", "-S", "-c", RUN, str(installed), str(tmp_path), str(packages)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "cnngraph.compile is not part of cnngraph-runtime" in result.stdout
    assert "install all of cnngraph" in result.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "plain-out.npz")["y"], expected(feed(2)))
    for name, array in host.run(given).items():
        np.testing.assert_array_equal(np.load(tmp_path / "host-out.npz")[name], array)


def test_it_is_small(installed: Path) -> None:
    files = [p for p in installed.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    assert {p.suffix for p in files} == {".py", ".typed"}
    assert sum(p.stat().st_size for p in files) < 600_000
