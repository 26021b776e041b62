"""The launch path: the driver's calls against a library that has all of them and no GPU."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cnngraph.ops import Conv, Dense, Reduce
from cnngraph.runtime.artifact import save
from cnngraph.runtime.program import FIRST_IO
from cnngraph_cuda import gpu_check, gpu_tasks
from cnngraph_cuda.driver import CudaDevice, CudaError, Library
from cnngraph_cuda.executor import CudaExecutor, plan_launch
from cnngraph_cuda.problems import PROBLEMS
from cnngraph_cuda.problems import network as problem
from cnngraph_cuda.tensor_maps import TensorMap

from .support import Net, build

COMPILER = shutil.which("gcc") or shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler for the fake driver")


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("driver") / "libfake.so"
    source = Path(__file__).with_name("fake_driver.c")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", str(path), str(source)], check=True)
    return str(path)


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "log"
    monkeypatch.setenv("FAKE_CUDA_LOG", str(path))
    return path


def network():
    net = Net(16, 12, 12)
    x = net.node(Conv((3, 3), (1, 1), (1,) * 4, (1, 1)), net.x, net.weights(64, 16, 3, 3), None)
    x = net.node(Reduce("mean", (2, 3), False), x)
    net.add_output("y", net.node(Dense(), x, net.weights(64, 8), None))
    program, _ = build(net, isa="sm_90:f16:64")
    kernels = [dataclasses.replace(k, code=b"\x7fELF" + k.code) for k in program.data.kernels]
    return dataclasses.replace(program.data, kernels=kernels)


@needs_compiler
def test_one_graph_for_each_batch_size(library, log):
    data = network()
    executor = CudaExecutor(data, lambda: CudaDevice(data.isa, library=Library(library)))
    for batch in (2, 3, 2):
        x, y = np.zeros((batch, 16, 12, 12), np.float32), np.zeros((batch, 8), np.float32)
        executor.run([x], [y], batch, 1)
    lines = log.read_text().splitlines()
    assert [line for line in lines if line in ("begin", "end")] == ["begin", "end"] * 2
    assert [line for line in lines if line.startswith("replay")] == [f"replay {len(data.steps)}"] * 3
    launches = [line.split() for line in lines if line.startswith("launch")]
    assert len(launches) == 2 * len(data.steps)
    for batch, found in ((2, launches[: len(data.steps)]), (3, launches[len(data.steps) :])):
        bases = executor.bind(batch).bases
        for step, words in zip(data.steps, found, strict=True):
            planned = plan_launch(step, batch, bases)
            assert words[1] == data.kernels[step.kernel].symbol
            assert tuple(map(int, words[2:5])) == planned.grid
            assert (int(words[5]), int(words[6])) == (planned.threads, planned.shared)
            assert int(words[7], 16) == planned.arguments[0][1]


@needs_compiler
def test_tensor_maps_are_encoded(library, log):
    """For each launch the maps it takes, as planned, and the launch gets their bytes."""
    net = Net(64, 12, 12)
    x = net.node(Conv((3, 3), (1, 1), (1,) * 4, (1, 1)), net.x, net.weights(64, 64, 3, 3), None)
    net.add_output("y", net.node(Conv((1, 1), (1, 1), (0,) * 4, (1, 1)), x, net.weights(64, 64, 1, 1), None))
    program, _ = build(net, isa="sm_90a:f16:64:64x64")
    kernels = [dataclasses.replace(k, code=b"\x7fELF" + k.code) for k in program.data.kernels]
    data = dataclasses.replace(program.data, kernels=kernels)
    executor = CudaExecutor(data, lambda: CudaDevice(data.isa, library=Library(library)))
    bases = executor.bind(3).bases
    lines = [line.split() for line in log.read_text().splitlines()]
    found, mapped = iter([words for words in lines if words[0] == "map"]), 0
    windows = 0
    for step, words in zip(data.steps, [words for words in lines if words[0] == "launch"], strict=True):
        planned = plan_launch(step, 3, bases)
        for argument in planned.arguments:
            if isinstance(argument, TensorMap):
                mapped += 1
                address, *rest = next(found)[1:]
                assert int(address, 16) == argument.address
                window = argument.window
                more = () if window is None else (*window.lower, *window.upper, *window.steps)
                wanted = (6, len(argument.sizes), *argument.sizes, *argument.strides, *argument.box, 3, 2, *more)
                assert tuple(map(int, rest)) == wanted
                windows += window is not None
        first = planned.arguments[0]
        assert int(words[7], 16) == (first.address if isinstance(first, TensorMap) else first[1])
    assert (mapped, windows) == (4, 1) and next(found, None) is None


@needs_compiler
def test_much_shared_memory_is_asked_for_before_capturing(library, log):
    data = network()
    executor = CudaExecutor(data, lambda: CudaDevice(library=Library(library)))
    executor.bind(1)
    lines = log.read_text().splitlines()
    asked = [line for line in lines if line.startswith("attribute")]
    large = [step for step in data.steps if step.arguments[5][2] > 48 * 1024]
    assert large and asked
    assert max(lines.index(line) for line in asked) < lines.index("begin")


@needs_compiler
def test_inputs_and_outputs_are_copied(library, log):
    data = network()
    device = CudaDevice(library=Library(library))
    executor = CudaExecutor(data, lambda: device)
    x = np.random.default_rng(0).standard_normal((1, 16, 12, 12)).astype(np.float32)
    y = np.zeros((1, 8), np.float32)
    executor.run([x], [y], 1, 1)
    back = np.empty_like(x)
    device.download(back, executor.bind(1).bases[FIRST_IO])
    np.testing.assert_array_equal(back, x)
    assert np.isnan(y).all()  # nothing has written the fake driver's memory


@needs_compiler
def test_times_are_those_of_the_device(library, log):
    data = network()
    row = gpu_tasks.time_network(data, 4, CudaDevice(library=Library(library)), 10, True)
    assert row["seconds"] == pytest.approx(0.0005)
    assert row["images_per_second"] == pytest.approx(8000)
    assert len(row["steps"]) == len(data.steps)


NAMES = ("max pool", "transpose", "response normalisation")


@pytest.fixture
def folder(library, log, monkeypatch, tmp_path):
    """Artifacts of three problems and a network, and the fake driver for processes that are started."""
    monkeypatch.setenv("CNNGRAPH_CUDA_LIBRARY", library)
    monkeypatch.setattr(gpu_check, "PROBLEMS", {name: PROBLEMS[name] for name in NAMES})
    (tmp_path / "settings.json").write_text('{"arch": "sm_90", "seed": 7}')
    for name in NAMES:
        program, _ = build(problem(name, 7), isa="sm_90:f32:2")
        made = [dataclasses.replace(k, code=b"\x7fELF" + k.code) for k in program.data.kernels]
        save(
            dataclasses.replace(program.data, kernels=made),
            tmp_path / gpu_tasks.file_of({"name": name, "arch": "sm_90", "precision": "f32"}),
        )
    save(network(), tmp_path / gpu_tasks.file_of({"name": "small", "arch": "sm_90", "precision": "f32", "compiled_for": 1}))
    return tmp_path


def check(folder, *more):
    """The command on the artifacts; its exit status and its file of results."""
    command = ["--artifacts", str(folder), "--precision", "f32", "--network", "small", "--batch", "1", "--no-torch"]
    status = gpu_check.main([*command, "--json", str(folder / "result.json"), *more])
    return status, json.loads((folder / "result.json").read_text())


@needs_compiler
def test_the_check_from_artifacts(folder, capsys):
    """The whole command; nothing computes here, so every problem must be reported as wrong, and a missing network as an error."""
    status, result = check(folder)
    assert status == 1 and result["finished"]
    assert [row["status"] for row in result["sections"]["conformance"]] == ["wrong"] * 9
    (row,) = result["sections"]["speed"]
    assert row["seconds"] == pytest.approx(0.0001) and row["steps"][0]["grid"]
    (row,) = result["sections"]["networks"]
    assert row["status"] == "error" and "small" in row["failure"]["error"]
    assert result["device"]["name"] == "a fake GPU" and result["device"]["driver"] == 13000
    assert "0 of 10 checks passed" in capsys.readouterr().out


@needs_compiler
@pytest.mark.parametrize(
    ("what", "telling"), [("CRASH", "ended with status -6"), ("HANG", "no answer in 3 s"), ("FAULT", "cuLaunchKernel failed")]
)
def test_a_case_that_ends_its_process_ends_nothing_else(folder, monkeypatch, what, telling):
    monkeypatch.setenv(f"FAKE_CUDA_{what}", "pool_sm")
    options = ["--section", "conformance", "--section", "speed", "--case-seconds", "3" if what == "HANG" else "60"]
    _, result = check(folder, *options)
    rows = {row["case"]: row for row in result["sections"]["conformance"]}
    assert len(rows) == 9
    for case, row in rows.items():
        assert row["status"] == ("error" if "max pool" in case else "wrong"), row
        assert telling in row["failure"]["error"] if "max pool" in case else "failure" not in row
    assert [row["status"] for row in result["sections"]["speed"]] == ["done"]


@needs_compiler
def test_sections_stop_in_time_and_are_resumed(folder):
    _, result = check(folder, "--section", "conformance", "--section-seconds", "0")
    assert result["sections"] == {} and len(result["left_out"]) == 9
    _, result = check(folder, "--section", "speed")
    before = (folder / "result.json").read_text()
    _, result = check(folder, "--section", "speed", "--section", "conformance", "--resume")
    assert result["sections"]["speed"] == json.loads(before)["sections"]["speed"]
    assert len(result["sections"]["conformance"]) == 9


@needs_compiler
def test_sanitizing_runs_in_one_process(folder):
    status, result = check(folder, "--sanitize")
    assert status == 1
    assert [row["batch"] for row in result["sections"]["conformance"]] == [2, 2, 2]


@needs_compiler
def test_old_batches_are_released(library, log):
    data = network()
    executor = CudaExecutor(data, lambda: CudaDevice(library=Library(library)))
    for batch in range(1, 11):
        executor.bind(batch)
    assert log.read_text().splitlines().count("forget") == 2


@needs_compiler
@pytest.mark.parametrize(
    ("isa", "capability", "runs"),
    [("sm_80", "8.9", True), ("sm_89", "8.0", False), ("sm_80", "9.0", False), ("sm_90a", "9.0", True), ("sm_100", "9.0", False)],
)
def test_architecture_must_suit(library, log, monkeypatch, isa, capability, runs):
    monkeypatch.setenv("FAKE_CUDA_CAPABILITY", capability)
    if runs:
        CudaDevice(isa, library=Library(library))
        return
    with pytest.raises(CudaError, match=f"compiled for {isa}.*--arch sm_"):
        CudaDevice(isa, library=Library(library))


@needs_compiler
def test_no_gpu(library, log, monkeypatch):
    monkeypatch.setenv("FAKE_CUDA_COUNT", "0")
    with pytest.raises(CudaError, match="no GPU 0"):
        CudaDevice(library=Library(library))


@needs_compiler
def test_failures_are_named(library, log):
    device = CudaDevice(library=Library(library))
    with pytest.raises(CudaError, match=r"cuModuleLoadData failed: fake failure \(200\)"):
        device.load(network().kernels[0].__class__("k", "k", b"no cubin"))


def test_no_driver():
    with pytest.raises(CudaError, match="needs an NVIDIA driver"):
        Library("libno_such_driver.so")
