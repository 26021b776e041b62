"""Signal-to-noise ratios by layer, and the search for layers to leave float."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from cnngraph.quantize import QuantizeOptions, Quantizer
from cnngraph.quantize.report import agreement, layer_reports, predictions, sqnr
from cnngraph.quantize.sensitivity import search

from . import support


def test_sqnr() -> None:
    assert sqnr(100.0, 1.0) == pytest.approx(20.0)
    assert sqnr(1.0, 0.0) == math.inf and sqnr(0.0, 1.0) == -math.inf


def test_a_layer_with_a_stray_channel_is_reported_worst() -> None:
    """One channel of huge numbers takes the range from the others; only the sum of squares without it shows that."""
    model = support.mixed()
    quantizer = Quantizer(model, QuantizeOptions())
    samples = support.samples()
    quantizer.calibrate(samples)
    sound = quantizer.quantize()
    parameters = dict(sound.parameters)
    found = parameters["c2"]
    from cnngraph.quantize.quantizer import Quantized
    from cnngraph.quantize.ranges import Parameters

    parameters["c2"] = Parameters(np.float32(found.scale * 16), found.zero_point)
    from cnngraph.quantize.insert import insert

    network, dequantized = insert(quantizer.network, sound.plan, parameters)
    broken = Quantized(network.model(), sound.plan, parameters, sound.observed, dequantized)
    reports = layer_reports(quantizer, broken, samples)
    assert reports[0].name == "conv2" and reports[0].alone_db < 30
    assert {r.name for r in reports} == {unit.name for unit in sound.plan.units}
    by_name = {r.name: r for r in reports}
    assert by_name["add1"].network_db < by_name["add1"].alone_db
    assert by_name["conv1"].alone_db > 30 and by_name["conv1"].weight_db is not None and by_name["conv1"].weight_db > 35
    assert by_name["pool1"].weight_db is None
    low, high = by_name["conv1"].observed
    assert low >= 0 and high <= 6.0001 and by_name["conv1"].represented[1] == pytest.approx(high, rel=1e-5)


def test_agreement_with_labels() -> None:
    quantizer = Quantizer(support.mixed())
    samples = support.samples()
    expected = predictions(quantizer, quantizer.float_model(), samples)
    assert expected.shape == (12,)
    assert agreement(quantizer, quantizer.float_model(), samples, expected) == 100.0
    assert agreement(quantizer, quantizer.float_model(), samples, expected + 1) == 0.0


def test_a_first_output_that_is_one_number() -> None:
    model = support.mixed()
    first = model.graph.output[0].name
    model.graph.node.append(onnx.helper.make_node("ReduceMax", [first], ["top"], keepdims=0))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("top", onnx.TensorProto.FLOAT, []))
    quantizer = Quantizer(model)
    assert predictions(quantizer, quantizer.float_model(), support.samples()[:1]).tolist() == [0]


def evaluator(costs: dict[str, float]) -> tuple[list[tuple[str, ...]], object]:
    calls: list[tuple[str, ...]] = []

    def evaluate(excluded: Sequence[str]) -> float:
        calls.append(tuple(excluded))
        return 90.0 - sum(cost for name, cost in costs.items() if name not in excluded)

    return calls, evaluate


def test_search_excludes_nothing_where_nothing_is_lost() -> None:
    calls, evaluate = evaluator({"a": 0.1, "b": 0.1})
    found = search(["a", "b"], evaluate, 89.5)  # type: ignore[arg-type]
    assert found.exclude == () and found.reached and found.accuracy == pytest.approx(89.8) and calls == [()]


def test_search_finds_the_layers_that_cost_and_drops_the_others() -> None:
    costs = {f"l{i}": 0.001 for i in range(40)} | {"l2": 3.0, "l7": 2.0}
    ranked = [f"l{i}" for i in range(40)]
    _, evaluate = evaluator(costs)
    found = search(ranked, evaluate, 89.5)  # type: ignore[arg-type]
    assert found.exclude == ("l2", "l7") and found.reached and found.accuracy >= 89.5
    assert len(found.trials) < 20 and found.trials[0].excluded == 0


def test_search_says_when_the_wish_cannot_be_met() -> None:
    _, evaluate = evaluator({"a": 1.0, "b": 1.0})
    found = search(["a"], evaluate, 89.5)  # type: ignore[arg-type]
    assert not found.reached and found.exclude == ("a",) and found.accuracy == pytest.approx(89.0)
    _, evaluate = evaluator({"a": 1.0})
    assert search(["a"], evaluate, 89.5).exclude == ("a",)  # type: ignore[arg-type]


def test_search_keeps_to_its_trials() -> None:
    ranked = [f"l{i}" for i in range(500)]
    _, evaluate = evaluator(dict.fromkeys(ranked, 0.1))
    found = search(ranked, evaluate, 80.0, most_trials=12)  # type: ignore[arg-type]
    assert len(found.trials) <= 12 and found.reached and found.accuracy >= 80.0
