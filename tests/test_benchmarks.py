"""The benchmark programs run and say what they promise; no times are judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnngraph_models
from cnngraph_cpu import machine as measured

ROOT = Path(__file__).resolve().parent.parent
pytest.importorskip("onnxruntime")


def run(tmp_path: Path, program: str, *arguments: str) -> tuple[Any, str]:
    """Run a benchmark; its JSON and what it printed."""
    path = tmp_path / "result.json"
    command = [sys.executable, str(ROOT / "benchmarks" / program), *arguments, "--json", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(path.read_text("utf-8")), result.stdout


def test_layers(tmp_path: Path) -> None:
    data, text = run(tmp_path, "layers.py", "--network", "lenet5", "--isa", "avx2", "--seconds", "0", "--batch", "2")
    assert data["machine"]["cpu"] and data["machine"]["versions"]["onnxruntime"] and data["machine"]["core"]["gflops"] > 0
    convolution = data["layers"][0]
    assert convolution["layer"].startswith("Conv 5x5 1x32x32 -> 6x28x28") and convolution["template"] == "conv_rows"
    assert convolution["gflops"] * convolution["milliseconds"] == pytest.approx(2 * 2 * 25 * 6 * 28 * 28 / 1e6, rel=0.2)  # and a bias
    assert all(row["peer_milliseconds"] > 0 and row["roofline"] > 0 for row in data["layers"])
    assert "its time / ours" in text and data["machine"]["cpu"] in text


def test_compare_takes_files_with_their_inputs(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(cnngraph_models.build("logistic_regression", batch=1).SerializeToString())
    shape = next(info.input_shape for info in cnngraph_models.list_models() if info.name == "logistic_regression")
    np.savez(folder / "inputs.npz", input=np.ones((1, *shape), np.float32))
    arguments = ("--math", "exact", "--isa", "avx2", "--threads", "1", "--batches", "1,4", "--seconds", "0")
    data, text = run(tmp_path, "compare.py", "--networks", f"{tmp_path}/models/*/model.onnx", "--peers", "onnxruntime", *arguments)
    assert {(row["network"], row["engine"]) for row in data["rows"]} == {("small", "onnxruntime"), ("small", "ours exact")}
    assert {row["batch"] for row in data["rows"]} == {1}
    assert ("fixed batch of 1" in text and "1 of 1 ahead" in text) or "0 of 1 ahead" in text
    assert max(row["error"] for row in data["rows"]) < 1e-5


def test_scaling(tmp_path: Path) -> None:
    arguments = ("--parts", "batch", "--networks", "logistic_regression", "--isa", "avx2", "--threads", "1", "--seconds", "0")
    data, _ = run(tmp_path, "scaling.py", *arguments)
    assert [row["batch"] for row in data["batch"]] == [1, 2, 4, 8, 16, 32, 64]
    assert data["batch"][0]["over_batch_1"] == 1


def test_the_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNGRAPH_CACHE_DIR", str(tmp_path))
    core = measured.Machine("some CPU", "avx2", 100.0, {1 << 10: 200.0, 1 << 20: 50.0})
    calls: list[str] = []

    def measure(isa: str) -> measured.Machine:
        calls.append(isa)
        return core

    monkeypatch.setattr(measured, "measure", measure)
    assert measured.machine("avx2") == core
    assert measured.machine("avx2") == core
    assert calls == ["avx2"]
    assert core.bandwidth(1 << 10) == 200 and core.bandwidth(1 << 11) == 50 and core.bandwidth(1 << 30) == 50
    assert core.seconds(1e9, 8) == pytest.approx(0.01)
    assert core.seconds(1.0, 1 << 20) == pytest.approx((1 << 20) / 50e9)
