"""The node tests that ship with onnx, imported and run by the operators' references."""

from __future__ import annotations

import glob
import os
import re
import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from cnngraph.errors import UnsupportedError
from cnngraph.frontend import ContentsNeededError, import_model, supported_ops
from cnngraph.ir.graph import Graph
from tests.frontend.support import run

# element types that cnngraph does not have, sequences and optionals, and dropout that really drops
_OUT_OF_SCOPE = re.compile(
    r"FLOAT8|FLOAT4|U?INT[24](?![0-9])|e8m0|_STRING|identity_(sequence|opt)|training_dropout(_default)?(_mask)?$|equal_string"
)


@cache
def _cases() -> dict[str, Any]:
    known = {row.op for row in supported_ops()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    return {c.name: c for c in cases if (c.model or c.model_dir) and all(n.op_type in known and not n.domain for n in _load(c).graph.node)}


def _load(case: Any) -> onnx.ModelProto:
    return case.model if case.model is not None else onnx.load(os.path.join(case.model_dir, "model.onnx"))


def _data(case: Any) -> tuple[list[Any], list[Any]]:
    if case.data_sets is not None:
        return case.data_sets[0]
    folder = os.path.join(case.model_dir, "test_data_set_0")
    out = []
    for kind in ("input", "output"):
        files = sorted(glob.glob(f"{folder}/{kind}_*.pb"), key=lambda p: int(p.rpartition("_")[2][:-3]))
        out.append([onnx.load_tensor(f) for f in files])
    return out[0], out[1]


def _array(item: Any) -> np.ndarray:
    return numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else np.asarray(item)


_SUPPORTED = sorted(name for name in _cases() if not _OUT_OF_SCOPE.search(name))
_REFUSED = sorted(name for name in _cases() if _OUT_OF_SCOPE.search(name))


def test_the_corpus_is_there() -> None:
    assert len(_SUPPORTED) > 500


@pytest.mark.parametrize("name", _SUPPORTED)
def test_node_case(name: str) -> None:
    case = _cases()[name]
    proto = _load(case)
    inputs, outputs = _data(case)
    feeds = {info.name: _array(a) for info, a in zip(proto.graph.input, inputs, strict=True)}
    results = run(_import_with(proto, feeds), feeds)
    for info, item in zip(proto.graph.output, outputs, strict=True):
        expected, got = _array(item), results[info.name]
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        if got.dtype.kind in "biu":
            np.testing.assert_array_equal(got, expected)
        else:
            np.testing.assert_allclose(got.astype(np.float64), expected.astype(np.float64), rtol=case.rtol, atol=case.atol)


def _import_with(proto: onnx.ModelProto, feeds: dict[str, Any]) -> Graph:
    """Import, making constants of the feeds that shapes need."""
    try:
        return import_model(proto)
    except ContentsNeededError as error:
        return import_model(proto, constants={n: _array(feeds[n]) for n in error.inputs})


@pytest.mark.parametrize("name", _REFUSED)
def test_refused_case_says_what_is_unsupported(name: str) -> None:
    case = _cases()[name]
    proto = _load(case)
    feeds = {info.name: item for info, item in zip(proto.graph.input, _data(case)[0], strict=True)}
    with pytest.raises(UnsupportedError) as caught:
        _import_with(proto, feeds)
    assert caught.value.problems
    assert all(p.reason for p in caught.value.problems)
