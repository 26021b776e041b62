"""``cnngraph compile --backend cuda`` on a machine without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import cnngraph
import cnngraph_models
from cnngraph.errors import UsageError
from cnngraph.kernels.template import DeviceBackend
from cnngraph_cuda import backend
from cnngraph_cuda.driver import CudaError, Library
from cnngraph_cuda.jit import missing_packages

needs_compiler = pytest.mark.skipif(missing_packages() is not None, reason=str(missing_packages()))


def has_driver() -> bool:
    try:
        Library()
    except CudaError:
        return False
    return True


def test_importable_without_anything_of_cuda():
    code = "import sys, cnngraph_cuda.registry as r; print(*({'numba', 'numba_cuda', 'cuda', 'llvmlite'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == ""


def test_it_is_a_device_backend():
    assert isinstance(backend, DeviceBackend)


@pytest.mark.parametrize("isa", ["sm_70", "sm_90:f8", "sm_90:f16:0", "sm_90:f16:1:2", "sm_90:f16:1:64x32:1", "avx2"])
def test_unknown_targets(isa):
    with pytest.raises(UsageError):
        backend.target(isa)


@needs_compiler
def test_compile_store_load(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNGRAPH_CACHE_DIR", str(tmp_path / "cache"))
    model = tmp_path / "m.onnx"
    model.write_bytes(cnngraph_models.build("jpeg_dct").SerializeToString())
    command = [sys.executable, "-m", "cnngraph", "compile", str(model), "--backend", "cuda", "--arch", "sm_80", "--precision", "f16"]
    result = subprocess.run([*command, "-o", str(tmp_path / "m.cnng")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    program = cnngraph.load(tmp_path / "m.cnng")
    assert program.data.backend == "cuda"
    assert program.data.isa == "sm_80:f16"
    assert all(k.code.startswith(b"\x7fELF") for k in (*program.data.kernels, program.data.driver))
    if not has_driver():
        shape = [1 if isinstance(d, str) else d for d in program.inputs[0].shape]
        with pytest.raises(CudaError, match="needs an NVIDIA driver"):
            program.run({program.inputs[0].name: np.zeros(shape, np.float32)})
