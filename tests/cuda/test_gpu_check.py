"""The check for machines with a GPU, its problems run in the emulator."""

from __future__ import annotations

import json

import pytest

from cnngraph_cuda import gpu_check, gpu_tasks
from cnngraph_cuda.device import EmulatedDevice
from cnngraph_cuda.driver import CudaDevice, CudaError
from cnngraph_cuda.problems import PROBLEMS, network

from .support import build

QUICK = [name for name in PROBLEMS if name not in ("conv 7x7 stem", "conv 1024->512 split", "conv 1x1 256->128", "conv 3x3 64->64")]


@pytest.mark.parametrize("precision", ["f32", "f16"])
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in PROBLEMS if n not in QUICK)])
def test_problem(name, precision):
    program, _ = build(network(name, 7), isa=f"sm_90:{precision}:2")
    row = gpu_tasks.check_problem(name, program.data, precision, 2, 7, EmulatedDevice)
    assert row["passed"], row


def test_a_wrong_result_does_not_pass():
    program, _ = build(network("max pool", 7))
    program.data.kernels[:] = [k.__class__(k.name, k.symbol, k.code, k.source.replace("maximum", "minimum")) for k in program.data.kernels]
    assert not gpu_tasks.check_problem("max pool", program.data, "f32", 1, 7, EmulatedDevice)["passed"]


def test_both_ways_to_copy_are_compared():
    given = gpu_check.parser().parse_args(["--copies", "tma", "--copies", "cp_async", "--precision", "f16", "--also", "sm_90"])
    given.network, given.batch = ["small"], [8]
    tasks = list(gpu_check.tasks_of("speed", given, "sm_90a", 7))
    wanted = [("sm_90a", None, True), ("sm_90a", "cp_async", True), ("sm_90", None, False)]
    assert [(t["arch"], t.get("copies"), t["steps"]) for t in tasks] == wanted
    assert len({gpu_check.label(t) for t in tasks}) == len({gpu_tasks.file_of(t) for t in tasks}) == 3
    assert gpu_tasks.options_of("sm_90a", "f16", 8, "cp_async").isa == "sm_90a:f16:8:cp_async"
    assert [t.get("copies") for t in gpu_check.tasks_of("speed", given, "sm_90", 7)] == [None]


def test_without_a_gpu_it_says_so(tmp_path):
    try:
        CudaDevice()
    except CudaError:
        with pytest.raises(CudaError, match=r"driver|GPU"):
            gpu_check.main(["--seed", "1", "--json", str(tmp_path / "result.json")])
        assert "error" in json.loads((tmp_path / "result.json").read_text())["device"]
    else:
        pytest.skip("there is a GPU")


def test_table():
    text = gpu_check.table([{"a": 1, "b": 0.12345678}], ("a", "b"))
    assert text == "a  b\n1  0.1235"
