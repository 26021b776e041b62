"""What each verb prints and writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from .conftest import Call


def test_compile_writes_the_artifact_and_reports_the_passes(call: Call, lenet: Path, tmp_path: Path) -> None:
    outcome = call("compile", lenet, "-o", tmp_path / "m.cnng", "--json")
    assert outcome.code == 0, outcome.err
    data = outcome.json
    assert data["schema"] == 1
    assert data["files"] == {"cnng": str(tmp_path / "m.cnng")}
    assert data["artifact_bytes"] == (tmp_path / "m.cnng").stat().st_size
    names = [p["name"] for p in data["passes"]]
    assert names.index("fold_constants") < names.index("fuse_epilogue") < names.index("choose_layout") < names.index("plan_memory")
    assert next(p for p in data["passes"] if p["name"] == "fuse_epilogue")["changes"] == 4
    assert all(p["seconds"] >= 0 for p in data["passes"])
    assert data["reference_steps"] == []
    assert {node for kernel in data["kernels"] for node in kernel["nodes"]} >= {"conv1+tanh1", "fc5"}


def test_compile_prints_tables_for_people(call: Call, lenet: Path, tmp_path: Path) -> None:
    outcome = call("compile", lenet, "-o", tmp_path / "m.cnng", "--print-passes", "--explain", "--print-ir-after", "fuse_epilogue")
    assert outcome.code == 0, outcome.err
    assert "fuse_epilogue" in outcome.out
    assert "epilogue=tanh(x0)" in outcome.out
    assert "Winograd" in outcome.out
    assert "kernels (" in outcome.out
    assert outcome.err == ""


def test_compile_names_the_artifact_after_the_model(call: Call, lenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("compile", lenet).code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["lenet5.cnng"]


def test_compile_emits_readable_sources(call: Call, lenet: Path, tmp_path: Path) -> None:
    outcome = call("compile", lenet, "-o", tmp_path / "m.cnng", "--emit", "source")
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "m.cnng").exists()
    sources = sorted((tmp_path / "m.kernels").glob("kernel_*.py"))
    assert len(sources) == len((tmp_path / "m.kernels" / "INDEX.txt").read_text().splitlines())
    for path in sources:
        compile(path.read_text(), path.name, "exec")
    again = call("compile", lenet, "-o", tmp_path / "m.cnng", "--emit", "source")
    assert again.code == 1
    assert "exists already" in again.err


@pytest.mark.parametrize("output", ["no/such/folder/m.cnng", "."])
def test_compile_checks_the_destination_first(
    call: Call, lenet: Path, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = call("compile", lenet, "-o", output)
    assert outcome.code in (1, 2)
    assert list(tmp_path.iterdir()) == []


def test_compile_refuses_an_unknown_pass(call: Call, lenet: Path, tmp_path: Path) -> None:
    outcome = call("compile", lenet, "-o", tmp_path / "m.cnng", "--print-ir-after", "nonsense")
    assert outcome.code == 2
    assert "fuse_epilogue" in outcome.err


def test_run_gives_the_same_numbers_from_model_and_artifact(call: Call, lenet: Path, artifact: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 1, 32, 32), np.float32)
    np.save(tmp_path / "x.npy", x)
    results = []
    for number, model in enumerate((lenet, artifact)):
        outcome = call("run", model, "-i", tmp_path / "x.npy", "-o", tmp_path / f"{number}.npz", "--threads", 1, "--json")
        assert outcome.code == 0, outcome.err
        assert outcome.json["outputs"][0]["shape"] == [3, 10]
        with np.load(tmp_path / f"{number}.npz") as found:
            results.append(found["logits"])
    np.testing.assert_array_equal(*results)


def test_run_without_input_is_random(call: Call, artifact: Path) -> None:
    outcome = call("run", artifact, "--batch", 2, "--print-top", 3, "--threads", 1, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["inputs"] == [{"name": "input", "shape": [2, 1, 32, 32], "dtype": "float32", "source": "random, seed 0"}]
    assert [len(row) for row in outcome.json["top"]] == [3, 3]
    values = [entry["value"] for entry in outcome.json["top"][0]]
    assert values == sorted(values, reverse=True)


def test_run_on_an_image_with_labels(call: Call, artifact: Path, tmp_path: Path) -> None:
    Image.new("L", (64, 48), 200).save(tmp_path / "i.png")
    (tmp_path / "labels.txt").write_text("".join(f"class {i}\n" for i in range(10)))
    outcome = call("run", artifact, "--image", tmp_path / "i.png", "--print-top", 2, "--labels", tmp_path / "labels.txt")
    assert outcome.code == 0, outcome.err
    assert "class " in outcome.out
    assert "i.png" in outcome.out


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 1, 32, 32)), "must be float32"),
        (np.zeros((1, 1, 31, 32), np.float32), "must have shape Nx1x32x32"),
        (np.zeros((32, 32), np.float32), "must have shape"),
    ],
)
def test_run_refuses_wrong_inputs(call: Call, artifact: Path, tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "x.npy", array)
    outcome = call("run", artifact, "-i", tmp_path / "x.npy", "-o", tmp_path / "o.npz")
    assert outcome.code == 1
    assert message in outcome.err
    assert not (tmp_path / "o.npz").exists()


def test_run_writes_only_arrays(call: Call, artifact: Path, tmp_path: Path) -> None:
    outcome = call("run", artifact, "-o", tmp_path / "o.txt")
    assert outcome.code == 2
    assert not (tmp_path / "o.txt").exists()


def test_bench_interleaves_and_compares(call: Call, lenet: Path) -> None:
    outcome = call("bench", lenet, "--vs", "onnxruntime", "--threads", "1", "--batch", "1,3", "--rounds", 4, "--warmup", 1, "--json")
    assert outcome.code == 0, outcome.err
    results = outcome.json["results"]
    assert [(r["threads"], r["batch"], r["rounds"]) for r in results] == [(1, 1, 4), (1, 3, 4)]
    for result in results:
        ours, theirs = result["engines"]["cnngraph"], result["engines"]["onnxruntime"]
        assert 0 < ours["min_ms"] <= ours["median_ms"]
        assert ours["ratio_min"] == 1
        assert theirs["ratio_min"] == pytest.approx(theirs["min_ms"] / ours["min_ms"])
        assert theirs["max_difference"] < 1e-4


def test_bench_of_an_artifact_has_no_peer(call: Call, artifact: Path) -> None:
    assert call("bench", artifact, "--vs", "onnxruntime").code == 2
    outcome = call("bench", artifact, "--threads", "1", "--rounds", 2)
    assert outcome.code == 0, outcome.err
    assert "cnngraph" in outcome.out


def test_profile_covers_every_step(call: Call, artifact: Path) -> None:
    outcome = call("profile", artifact, "--repeat", 2, "--json")
    assert outcome.code == 0, outcome.err
    steps = outcome.json["steps"]
    assert sum(step["percent"] for step in steps) == pytest.approx(100)
    assert {step["nodes"] for step in steps} >= {"conv1+tanh1", "pool1", "conv2+tanh2", "fc5"}
    assert {step["nodes"]: step["flops"] for step in steps}["fc5"] == 2 * 84 * 10 + 10
    merged = call("profile", artifact, "--repeat", 2, "--by", "kernel", "--sort", "--json").json["steps"]
    assert sorted(row["kernel"] for row in merged) == sorted({step["kernel"] for step in steps})
    assert [row["milliseconds"] for row in merged] == sorted((row["milliseconds"] for row in merged), reverse=True)


def test_inspect_model_and_artifact(call: Call, lenet: Path, artifact: Path) -> None:
    facts = call("inspect", lenet, "--json").json
    assert facts["inputs"] == [{"name": "input", "dtype": "float", "shape": ["N", 1, 32, 32]}]
    assert facts["operators"]["Conv"] == 2
    assert facts["opset"] == {"ai.onnx": 17}
    assert facts["initializer_elements"] == 61706
    facts = call("inspect", artifact, "--json").json
    assert facts["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["N", 1, 32, 32]}]
    assert facts["weight_bytes"] >= 61706 * 4
    assert call("inspect", artifact, "--kernels").code == 0


def test_explain_filters_by_node(call: Call, lenet: Path) -> None:
    outcome = call("explain", lenet, "--node", "conv1", "--json")
    assert outcome.code == 0, outcome.err
    (entry,) = outcome.json["selection"]
    assert entry["node"] == "conv1+tanh1"
    assert entry["chosen"] in entry["costs"]
    assert "winograd" in entry["refused"]


def test_models_list_and_build(call: Call, tmp_path: Path) -> None:
    names = [entry["name"] for entry in call("models", "list", "--json").json["models"]]
    assert {"lenet5", "resnet50", "vgg19"} <= set(names)
    path = tmp_path / "m.onnx"
    outcome = call("models", "build", "lenet5", "-o", path, "--seed", 7, "--batch", 2, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["bytes"] == path.stat().st_size
    model = onnx.load(path)
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [2, 1, 32, 32]
    first = path.read_bytes()
    call("models", "build", "lenet5", "-o", path, "--seed", 7, "--batch", 2)
    assert path.read_bytes() == first


def test_ops_executes_a_sample_of_every_operator(call: Call) -> None:
    outcome = call("ops", "--json")
    assert outcome.code == 0, outcome.err
    entries = {entry["op"]: entry for entry in outcome.json["operators"]}
    assert [op for op, entry in entries.items() if entry["cpu"] == "unsupported"] == []
    standard = [entry for op, entry in entries.items() if not op.startswith("ai.onnx.")]
    assert all(entry["reference"] and 7 <= entry["since"] <= entry["until"] for entry in standard)
    assert entries["Conv"]["cpu"] == entries["MaxPool"]["cpu"] == entries["Relu"]["cpu"] == "kernel"
    assert entries["Dropout"]["cpu"] == "folded"
    assert entries["HardSwish"]["since"] == 14
    assert {entry["how"] for entry in entries.values()} == {"importer", "function body", "control flow", "tail"}
    assert entries["NonZero"]["cpu"] == entries["Loop"]["cpu"] == "tail"
    assert entries["SwiGLU"]["cpu"] == "kernel"
    assert "Bernoulli" not in entries  # its function draws random numbers
    assert set(call("ops", "--filter", "relu", "--json").json["operators"][0]) == set(entries["Relu"])


def test_cache_lists_verifies_and_prunes(call: Call, lenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNGRAPH_CACHE_DIR", str(tmp_path / "cache"))
    assert call("cache", "ls", "--json").json["entries"] == []
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "0123.kernel").write_bytes(b"damaged")
    assert call("cache", "ls", "--json").json["bytes"] == 7
    outcome = call("cache", "verify")
    assert outcome.code == 1
    assert "0123.kernel" in outcome.err
    assert call("cache", "prune", "--json").json["removed"] == 1
    assert call("cache", "verify").code == 0


def test_doctor_names_what_matters(call: Call) -> None:
    data = call("doctor", "--json").json
    assert data["threads"] >= 1
    assert data["packages"]["numpy"]
    assert "cpu" in {backend["name"] for backend in data["backends"]}
    assert "CNNGRAPH_THREADS" in data["variables"]
    assert call("doctor").code == 0


def test_summary_counts_and_shows_the_convention(call: Call, lenet: Path) -> None:
    outcome = call("summary", lenet, "--json")
    assert outcome.code == 0, outcome.err
    data = outcome.json
    assert data["totals"]["parameters"] == 61706
    assert data["totals"]["macs"] == sum(layer["macs"] or 0 for layer in data["layers"]) == 416520
    conv = next(layer for layer in data["layers"] if layer["name"] == "conv1")
    assert conv == {"name": "conv1", "type": "Conv", "output_shape": [None, 6, 28, 28], "parameters": 156, "macs": 117600}
    text = call("summary", lenet, "--count", "keras").out
    assert "(None, 6, 28, 28)" in text
    assert "--count keras" in text
    assert "61,706" in text


def test_summary_with_memory(call: Call, lenet: Path) -> None:
    outcome = call("summary", lenet, "--memory", "--json")
    assert outcome.code == 0, outcome.err
    memory = outcome.json["memory"]
    assert memory["lower_bound"] <= memory["peak"] <= 1.1 * memory["lower_bound"]
    assert memory["ratio"] == pytest.approx(memory["peak"] / memory["lower_bound"])
    assert "arena / lower bound" in call("summary", lenet, "--memory").out


def test_summary_takes_the_shapes_that_are_given(call: Call, lenet: Path, tmp_path: Path) -> None:
    model = onnx.load(lenet)
    (image,) = model.graph.input
    for axis, name in ((2, "height"), (3, "width")):
        image.type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(model, tmp_path / "free.onnx")
    free = call("summary", tmp_path / "free.onnx")
    assert "not counted, because a shape is not known: " in free.out
    given = call("summary", tmp_path / "free.onnx", "--shape", f"{image.name}=1x1x32x32", "--json").json["totals"]
    assert given == call("summary", lenet, "--json").json["totals"] and given["unknown_macs"] == 0
    for wrong in ("other=1", f"{image.name}=1x28"):
        refused = call("summary", tmp_path / "free.onnx", "--shape", wrong)
        assert refused.code == 2 and "shapes" in refused.err


def test_summary_needs_the_model(call: Call, artifact: Path) -> None:
    assert call("summary", artifact).code == 2


@pytest.mark.parametrize(
    "option", [("--math", "exact"), ("--precision", "bf16"), ("--backend", "cuda"), ("--isa", "avx2"), ("--allow-cpu-ops",)]
)
def test_compile_options_are_refused_where_nothing_is_compiled(call: Call, lenet: Path, tmp_path: Path, option: tuple[str, ...]) -> None:
    path = tmp_path / "m.cnng"
    assert call("compile", lenet, "-o", path).code == 0
    for verb in (("run",), ("bench",), ("profile",), ("compile", "--emit", "python")):
        outcome = call(*verb, path, *option)
        assert outcome.code != 0 and "compiled already" in outcome.err
