"""Tuning with a clock and a measurer of its own: order, budget, resuming, what replaces the default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from cnngraph.errors import InvalidInputError, UsageError
from cnngraph.ir.graph import Graph, Node
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ir.verify import verify
from cnngraph.ops import Conv
from cnngraph.options import CompileOptions
from cnngraph.passes.choose_layout import choose_layout
from cnngraph.pipeline import compile_graph
from cnngraph.runtime.session import Program
from cnngraph.tuning.keys import key_of
from cnngraph.tuning.layers import Layer, layers_of
from cnngraph.tuning.records import Records
from cnngraph.tuning.search import State, Tuned, Variant, tune
from cnngraph_cpu import backend

Rule = Callable[[Layer, Variant], float]
HEAD = '{{"schema": {}, "cpu": "", "versions": {{}}, "records": {}}}'
TARGET = backend.target("avx2")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Table:
    """Times by a rule; every measurement takes one second of the clock."""

    def __init__(self, rule: Rule, clock: Clock) -> None:
        self.rule, self.clock = rule, clock
        self.measured: list[tuple[str, str]] = []

    def prepare(self, wanted: Sequence[tuple[Layer, Variant]]) -> None:
        assert all(key_of(layer.node) == layer.key for layer, _ in wanted)

    def single(self, layer: Layer, default: Variant) -> float:
        return self.pair(layer, default, default)[1]

    def pair(self, layer: Layer, default: Variant, other: Variant) -> tuple[float, float]:
        self.clock.now += 1.0
        self.measured.append((layer.key, f"{other.template.name} {other.name}".rstrip()))
        return self.rule(layer, default), self.rule(layer, other)


def convolutions(*sizes: int) -> Graph:
    """3x3 convolutions of 16 channels, each of an input of its own, as wide as ``sizes`` say."""
    rng = np.random.default_rng(0)
    graph = Graph("convolutions")
    for number, size in enumerate(sizes):
        x = graph.add_input(f"x{number}", TensorType(DType.F32, (BATCH, 16, size, size)))
        w = graph.constant(rng.standard_normal((16, 16, 3, 3)).astype(np.float32))
        (y,) = graph.add(Conv((3, 3), (1, 1), (1,) * 4, (1, 1), 1), [x, w, None], origin=[f"conv{number}"])
        graph.add_output(f"y{number}", y)
    graph.stage = "fused"
    return graph


def alike(layer: Layer, variant: Variant) -> float:
    return 1e-3


def search(
    graph: Graph, rule: Rule, budget: float | None, records: Path | None, math: str = "f32", progress: Callable[[State], None] | None = None
) -> tuple[Tuned, Table]:
    clock = Clock()
    table = Table(rule, clock)
    options = CompileOptions(isa="avx2", math=math, threads=1, tune_budget=budget, tune_records=records)
    templates = [t for t in backend.templates() if math == "f32" or not t.reorders_arithmetic]
    return tune(graph, templates, backend, TARGET, options, progress, table, clock), table


def test_the_graph_is_left_as_it_was(tmp_path: Path) -> None:
    graph = convolutions(32)
    before = [(node.op, [v.type for v in node.outputs]) for node in graph.nodes]
    search(graph, alike, 100, tmp_path / "r.json")
    verify(graph, "tune")
    assert graph.stage == "fused"
    assert [(node.op, [v.type for v in node.outputs]) for node in graph.nodes] == before


def test_what_is_not_faster_replaces_nothing(tmp_path: Path) -> None:
    tuned, table = search(convolutions(32), alike, 1000, tmp_path / "r.json")
    assert tuned.choices == {} and tuned.report["choices"] == []
    assert len({name for _, name in table.measured}) == len(table.measured) > 5
    tuned, _ = search(convolutions(32), lambda layer, v: 0.985e-3 if v.name else 1e-3, 1000, tmp_path / "s.json")
    assert tuned.choices == {}  # 1.5 % is within the noise


def test_the_best_of_what_is_faster_is_chosen(tmp_path: Path) -> None:
    times = {"conv_direct": 0.9e-3, "winograd": 1e-3}

    def rule(layer: Layer, variant: Variant) -> float:
        return times.get(variant.template.name, 2e-3) if not variant.name else 0.8e-3 if variant.name.startswith("tile 1x") else 2e-3

    graph = convolutions(32)
    tuned, _ = search(graph, rule, 1000, tmp_path / "r.json")
    ((template, variant),) = tuned.choices.values()
    assert template == "conv_direct" and variant.startswith("tile 1x")
    (row,) = tuned.report["choices"]
    assert row["seconds"] == 0.8e-3 and row["default_seconds"] == 1e-3 and row["default"] == "winograd"
    choice = choose_layout(graph, backend.templates(), TARGET, tuned.choices)
    (selection,) = (s for s in choice.selections if isinstance(s.node.op, Conv))
    assert (selection.chosen, selection.variant) == (template, variant) and choice.unknown == []
    call = next(t for n, t in choice.templates.items() if isinstance(n.op, Conv))
    assert call is not None
    node = selection.node
    rows, cols, vectors = map(int, variant.removeprefix("tile ").split("x"))
    spec = call.plan(node, TARGET).spec
    assert [spec.constant(name) for name in ("TR", "TC", "TV")] == [rows, cols, vectors]


def test_a_gain_counts_only_if_it_is_seen_twice(tmp_path: Path) -> None:
    seen: dict[str, int] = {}

    def rule(layer: Layer, variant: Variant) -> float:
        if not variant.name:
            return 1e-3
        seen[variant.name] = seen.get(variant.name, 0) + 1
        return 0.5e-3 if seen[variant.name] == 1 else 1e-3

    tuned, _ = search(convolutions(32), rule, 1000, tmp_path / "r.json")
    assert tuned.choices == {} and max(seen.values()) == 2


def test_the_budget_is_respected_and_the_search_goes_on_from_there(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    graph = convolutions(32, 64)
    _, whole = search(graph, alike, 1000, tmp_path / "whole.json")
    _, first = search(graph, alike, 5, path)
    assert len(first.measured) == 5
    later = list(first.measured)
    while True:
        _, table = search(graph, alike, 5, path)
        assert len(table.measured) <= 5
        later += table.measured
        if not table.measured:
            break
    assert later == whole.measured
    assert len(set(later)) == len(later)


def test_no_budget_measures_nothing(tmp_path: Path) -> None:
    _, table = search(convolutions(32), alike, 0, tmp_path / "r.json")
    assert table.measured == []


def test_slow_layers_come_first(tmp_path: Path) -> None:
    graph = convolutions(32, 64, 64)
    small, large = (key_of(node) for node in graph.nodes[:2])
    _, table = search(graph, lambda layer, v: 1e-3 if layer.key == small else 1.5e-3, 1000, tmp_path / "r.json")
    order = [key for key, _ in table.measured[2:]]
    assert order[:4] == [large, large, small, large]  # 3 ms, 3 / 2, 1, 3 / 3 (the node comes twice); ties by order in the graph


def test_exact_arithmetic_measures_no_winograd_and_takes_none(tmp_path: Path) -> None:
    path = tmp_path / "r.json"

    def rule(layer: Layer, variant: Variant) -> float:
        return 0.1e-3 if variant.template.name == "winograd" else 1e-3

    tuned, table = search(convolutions(32), rule, 1000, path, math="exact")
    assert table.measured and not any("winograd" in name for _, name in table.measured)
    assert tuned.choices == {}
    records = Records.read(path)
    records.found = [r.__class__(**{**r.__dict__, "template": "winograd", "confirmed": True, "seconds": 1e-6}) for r in records.found]
    records.write()
    tuned, _ = search(convolutions(32), rule, None, path, math="exact")
    assert tuned.choices == {}


def test_progress_is_told_and_ends_complete(tmp_path: Path) -> None:
    states: list[State] = []
    search(convolutions(32), lambda layer, v: 0.5e-3 if v.name else 1e-3, 1000, tmp_path / "r.json", progress=states.append)
    assert [s.done for s in states] == list(range(1, 1 + len(states)))
    assert states[-1].done == states[-1].total and states[-1].improved == 1
    assert states[-1].layer.startswith("Conv 3x3 16x32x32")


def test_records_of_another_machine_decide_but_are_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    graph = convolutions(32)
    here, _ = search(graph, lambda layer, v: 0.5e-3 if v.name == "half the rows a block" else 1e-3, 1000, path)
    path.write_text(path.read_text().replace(Records(None).cpu, "another CPU"))
    there, table = search(graph, alike, None, path)
    assert table.measured == [] and there.choices == here.choices != {}
    with pytest.raises(UsageError, match="records of another CPU"):
        search(graph, alike, 10, path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", HEAD.format(2, "[]"), HEAD.format(1, "[{}]"), HEAD.format(1, '[{"isa": 1}]')]
)  # fmt: skip
def test_files_that_hold_no_records_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match="no tuning records"):
        search(convolutions(32), alike, None, path)
    with pytest.raises(UsageError, match="absent"):
        search(convolutions(32), alike, None, tmp_path / "absent.json")


def test_records_stay_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNGRAPH_CACHE_DIR", str(tmp_path))
    graph = convolutions(32)
    _, first = search(graph, alike, 3, None)
    assert [path.name.startswith("tuning-") for path in tmp_path.iterdir()] == [True]
    _, second = search(graph, alike, 3, None)
    assert not set(first.measured) & set(second.measured)


def test_choices_that_this_version_lacks_are_named(tmp_path: Path) -> None:
    graph = convolutions(32)
    key = key_of(graph.nodes[0])
    choice = choose_layout(graph, backend.templates(), TARGET, {key: ("conv_direct", "tile 99x99x9")})
    assert choice.unknown == ["conv0: conv_direct tile 99x99x9"]


def conv_node(graph: Graph) -> Node:
    return next(node for node in graph.nodes if isinstance(node.op, Conv))


@pytest.mark.parametrize("template", ["conv_direct", "winograd"])
def test_variants_compute_the_same_with_any_number_of_threads(template: str, tmp_path: Path) -> None:
    graph = convolutions(24)
    layers = {layer.node: layer for layer in layers_of(graph, choose_layout(graph, backend.templates(), TARGET))}
    layer = layers[conv_node(graph)]
    chosen = next(t for t in backend.templates() if t.name == template)
    names = chosen.candidates(layer.node, TARGET)  # type: ignore[attr-defined]
    assert len(names) >= 4
    x = np.random.default_rng(1).standard_normal((2, 16, 24, 24)).astype(np.float32)
    results = []
    for name in ("", *list(names)[:: len(names) // 2]):
        program = compile_graph(convolutions(24), CompileOptions(isa="avx2", threads=1), choices={layer.key: (template, name)})
        assert isinstance(program, Program)
        (row,) = (row for row in program.report["selection"] if row["op"] == "Conv")
        assert (row["chosen"], row["variant"]) == (template, name)
        one, three = (program.run({"x0": x}, threads=n)["y0"] for n in (1, 3))
        np.testing.assert_array_equal(one, three)
        results.append(one)
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=0, atol=2e-5 * np.abs(results[0]).max())
