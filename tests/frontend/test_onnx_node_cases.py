"""The node tests that ship with onnx, by the operators' references alone, without compiled code: a third here, the others when slow."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from cnngraph.frontend import ContentsNeededError, import_model
from tests.conformance.onnx_suites import all_cases, compare, data, load, must_pass, value
from tests.frontend.support import run

NAMES = [name for name in must_pass() if name.startswith("node/")]


@pytest.mark.parametrize("name", [name if i % 3 == 0 else pytest.param(name, marks=pytest.mark.slow) for i, name in enumerate(NAMES)])
def test_node_case(name: str) -> None:
    if name not in all_cases():
        pytest.skip(f"onnx {onnx.__version__} has no such case")
    case = all_cases()[name]
    proto = load(case)
    inputs, outputs = data(case, proto)
    feeds = {info.name: value(a) for info, a in zip(proto.graph.input, inputs, strict=True)}
    known: dict[str, np.ndarray] = {}
    while True:
        try:
            graph = import_model(proto, constants=known)
            break
        except ContentsNeededError as error:  # shapes depend on them: import again, knowing them
            missing = [n for n in error.inputs if n not in known]
            if not missing:
                raise
            known |= {n: feeds[n] for n in missing}
    results = run(graph, feeds)
    for info, expected in zip(proto.graph.output, outputs, strict=True):
        compare(results[info.name], value(expected), case.rtol, case.atol)
