"""Other engines behind one interface."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from cnngraph.cli.peers import openvino_runner


def test_openvino_gives_its_results_under_all_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of its own may make a second tensor the same as an output, and either name be the first."""
    tensors = [np.full(2, 1.0, np.float32), np.full(3, 2.0, np.float32)]
    request = SimpleNamespace(infer=lambda feeds: None, get_output_tensor=lambda index: SimpleNamespace(data=tensors[index]))
    outputs = [SimpleNamespace(get_names=lambda: {"scores", "330"}), SimpleNamespace(get_names=lambda: {"boxes"})]
    compiled = SimpleNamespace(outputs=outputs, create_infer_request=lambda: request)
    core = SimpleNamespace(compile_model=lambda path, device, settings: compiled)
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=lambda: core))
    found = openvino_runner("model.onnx", 1)({})
    assert set(found) == {"scores", "330", "boxes"}
    assert (found["scores"] == 1).all() and (found["boxes"] == 2).all()
