"""Whole networks in bfloat16: accuracy, policy, the same bits for any threads and batch, artifacts and emitted forms."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cnngraph
import cnngraph_models
from cnngraph.analysis.differences import Comparison
from cnngraph.cli import cli
from cnngraph.errors import UsageError
from cnngraph.options import CompileOptions
from cnngraph.runtime.library import Library
from cnngraph_cpu.target import available
from cnngraph_models import digits

DIGITS = cnngraph_models.trained_path("digits_lenet.onnx")
ISAS = [isa for isa in ("avx512bf16", "avx512", "avx2") if isa in available(special=True)]


def _images(program: Any, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {s.name: rng.standard_normal([d if isinstance(d, int) else batch for d in s.shape]).astype(np.float32) for s in program.inputs}


@pytest.mark.parametrize("isa", [ISAS[0], *(pytest.param(isa, marks=pytest.mark.slow) for isa in ISAS[1:])])
def test_digits_are_recognised_as_in_float32(isa: str) -> None:
    wide, narrow = cnngraph.compile(DIGITS), cnngraph.compile(DIGITS, precision="bf16", isa=isa)
    images = digits.preprocess(digits.held_out()[0][:200])
    (want,), (got,) = (program.run({"input": images}).values() for program in (wide, narrow))
    assert got.dtype == np.float32
    assert np.abs(got - want).max() <= 0.02 * np.abs(want).max()
    assert np.array_equal(got.argmax(axis=1), want.argmax(axis=1))
    assert not narrow.report["reference_steps"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2", "unet"])
def test_networks_of_the_zoo_stay_within_two_percent(name: str) -> None:
    """Weights are random, but normalised; outputs of 3 % of the scale and more are what a broken layer gives."""
    model = cnngraph_models.build(name).SerializeToString()
    wide, narrow = cnngraph.compile(model), cnngraph.compile(model, precision="bf16")
    feeds = _images(wide, 1)
    for name, want in wide.run(feeds).items():
        got = narrow.run(feeds)[name]
        assert np.abs(got - want).max() <= 0.02 * np.abs(want).max()
    assert narrow.report["precision"]["nodes"] > 4
    assert set(narrow.report["reference_steps"]) == set(wide.report["reference_steps"])


def test_bits_do_not_depend_on_threads_or_batch() -> None:
    program = cnngraph.compile(cnngraph_models.build("residual_block"), precision="bf16")
    feeds = _images(program, 3)
    (whole,) = program.run(feeds, threads=2).values()
    for i in range(3):
        (one,) = program.run({name: array[i : i + 1] for name, array in feeds.items()}, threads=1).values()
        assert np.array_equal(one[0], whole[i])


def _kept(program: Any) -> dict[str, str]:
    return {entry["node"]: entry["reason"] for entry in program.report["precision"]["kept_f32"]}


def test_what_stays_float32_is_told_and_can_be_asked_for() -> None:
    kept = _kept(cnngraph.compile(DIGITS, precision="bf16"))
    assert kept == {"fc5": "no layer follows: its result stays float32", "softmax": "after the last layer"}
    asked = _kept(cnngraph.compile(DIGITS, precision="bf16", keep_f32=["conv*", "pool1"]))
    assert asked == {"conv1+tanh1": "asked for", "pool1": "asked for", "conv2+tanh2": "asked for", **kept}
    with pytest.raises(UsageError, match="no node is called 'conv9'"):
        cnngraph.compile(DIGITS, precision="bf16", keep_f32=["conv9"])
    with pytest.raises(UsageError, match="keep_f32"):
        cnngraph.compile(DIGITS, keep_f32=["conv1"])


def test_every_node_asked_for_is_float32_again() -> None:
    wide, narrow = cnngraph.compile(DIGITS), cnngraph.compile(DIGITS, precision="bf16", keep_f32=["*"], isa=available()[0])
    feeds = _images(wide, 2)
    for name, want in wide.run(feeds).items():
        assert np.array_equal(narrow.run(feeds)[name], want)


def test_the_target_with_dot_products_is_taken_for_bfloat16_only(caplog: pytest.LogCaptureFixture) -> None:
    assert cnngraph.compile(DIGITS).data.isa == available()[0]
    program = cnngraph.compile(DIGITS, precision="bf16")
    if "avx512bf16" in available(special=True) and available()[0] == "avx512":
        assert program.data.isa == "avx512bf16"
        assert not program.report["notices"]
    with_avx2 = cnngraph.compile(DIGITS, precision="bf16", isa="avx2")
    assert "no dot products of bfloat16" in with_avx2.report["notices"][0]


def test_errors_of_every_tensor() -> None:
    rows = Comparison(DIGITS, CompileOptions(precision="bf16"), CompileOptions())
    found = {row.tensor: row for row in rows.run(_images(rows.program, 4))}
    assert [name for name, row in found.items() if row.stored == "float32"] == ["fc5.out", "probabilities"]
    assert all(0 < row.error < 0.03 and row.sqnr_db > 35 for row in found.values())
    same = Comparison(DIGITS, CompileOptions(), CompileOptions())
    assert all(row.error == 0 and row.sqnr_db == float("inf") and row.stored == "float32" for row in same.run(_images(same.program, 4)))


def _command(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_command_line(tmp_path: Path) -> None:
    code, out, _ = _command("compare", DIGITS, "--precision", "bf16", "--max-error", "0.02", "--json")
    assert code == 0
    report = json.loads(out)
    assert not report["failed"] and report["tensors"][-1]["tensor"] == "probabilities"
    code, out, _ = _command("compare", DIGITS, "--precision", "bf16", "--max-error", "1e-9", "--top", "2")
    assert code == 1 and "tanh1.out" in out and "flatten.out" not in out
    assert "asked for" in _command("explain", DIGITS, "--precision", "bf16", "--keep-f32", "conv2")[1]
    assert "no layer follows" in _command("summary", DIGITS, "--precision", "bf16")[1]
    code, _, err = _command("compile", DIGITS, "--precision", "bf16", "--emit", "onnx", "-o", tmp_path / "x.onnx")
    assert code == 2 and "float32, not in bf16" in err
    code, _, err = _command("compile", DIGITS, "--precision", "f16", "-o", tmp_path / "x.cnng")
    assert code == 2 and "f16" in err
    assert _command("compile", DIGITS, "--precision", "bf16", "-o", tmp_path / "x.cnng")[0] == 0
    code, _, err = _command("run", tmp_path / "x.cnng", "--precision", "bf16")
    assert code == 2 and "compiled already" in err


def test_artifact_library_and_module_give_the_same_bits(tmp_path: Path) -> None:
    program = cnngraph.compile(DIGITS, precision="bf16")
    feeds = _images(program, 3)
    want = program.run(feeds)["probabilities"]
    program.save(tmp_path / "digits.cnng")
    assert np.array_equal(cnngraph.load(tmp_path / "digits.cnng").run(feeds)["probabilities"], want)
    assert _command("compile", tmp_path / "digits.cnng", "--emit", "so,python", "-o", tmp_path / "digits.so")[0] == 0
    with Library(tmp_path / "digits.so") as library:
        assert np.array_equal(library.run(feeds)["probabilities"], want)
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    np.save(tmp_path / "x.npy", feeds["input"])
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nimport network, numpy as np\n"
        "np.save(sys.argv[2] + '/y.npy', network.run({'input': np.load(sys.argv[2] + '/x.npy')})['probabilities'])\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code, str(folder), str(tmp_path)], check=True, timeout=300)
    assert np.array_equal(np.load(tmp_path / "y.npy"), want)


def test_weights_are_exchanged_in_bfloat16() -> None:
    program = cnngraph.compile(DIGITS, precision="bf16")
    feeds = _images(program, 1)
    want = program.run(feeds)["probabilities"]
    program.load_weights(DIGITS)
    assert np.array_equal(program.run(feeds)["probabilities"], want)
