"""The verbs quantize and quant-report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import helper, numpy_helper
from PIL import Image

from cnngraph.cli import cli
from cnngraph_models import trained_path

from . import support

DIGITS = trained_path("digits_lenet.onnx")
HELD_OUT = ("--data", trained_path("digits_test.npz"), "--scale", "0.0625")


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    assert "Traceback" not in result.output
    return result


def parsed(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    path = tmp_path / "mixed.onnx"
    path.write_bytes(support.mixed().SerializeToString())
    return path


def test_quantize_writes_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = parsed(call("quantize", DIGITS, *HELD_OUT, "--samples", 40, "--json"))
    assert data["file"] == "digits_lenet.int8.onnx" and data["samples"] == 40 and data["method"] == "minmax"
    assert {"node": "conv1", "kind": "Conv"} in data["quantized"] and data["left"] == []
    assert next(t for t in data["tensors"] if t["name"] == "input")["observed"] == [0, 1]
    model = onnx.load(tmp_path / "digits_lenet.int8.onnx")
    onnx.checker.check_model(model, full_check=True)
    text = call("quantize", DIGITS, *HELD_OUT, "--samples", 40, "-o", "again.onnx")
    assert text.exit_code == 0 and "5 of them with weights" in text.stdout and text.stderr == ""
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "digits_lenet.int8.onnx").read_bytes()


def test_report_and_search(tmp_path: Path) -> None:
    listed = tmp_path / "exclude.txt"
    arguments = ("quant-report", DIGITS, *HELD_OUT, "--samples", 360, "--batch", 60, "--max-loss", 0.5, "--write-exclude", listed)
    data = parsed(call(*arguments, "--json"))
    assert data["accuracy"]["measure"] == "labels" and data["accuracy"]["quantized"] >= data["accuracy"]["float"] - 0.5
    ratios = [layer["alone_db"] for layer in data["layers"]]
    assert ratios == sorted(ratios) and len(ratios) == 12 and all(25 < r < 80 for r in ratios)
    assert data["search"]["reached"] and data["search"]["exclude"] == [] and listed.read_text() == ""
    text = call("quant-report", DIGITS, *HELD_OUT, "--samples", 20, "--top", 2)
    assert text.exit_code == 0 and "SQNR alone dB" in text.stdout and "labels: float" in text.stdout
    assert (
        sum(line.split()[:1] != [] and line.split()[0] in {layer["name"] for layer in data["layers"]} for line in text.stdout.splitlines())
        == 2
    )


def test_lists_of_excluded_nodes(mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# sensitive\nconv2\n\n")
    np.savez(tmp_path / "data.npz", x=support.samples(1, 6)[0]["x"])
    arguments = ("quantize", mixed, "--data", tmp_path / "data.npz", "-o", tmp_path / "out.onnx", "--json")
    data = parsed(call(*arguments, "--exclude-from", tmp_path / "list.txt", "--exclude", "gate"))
    assert {entry["node"] for entry in data["left"] if entry["reason"] == "excluded"} == {"conv2", "gate"}
    assert call(*arguments, "--exclude", "nonsense").exit_code == 2
    assert call(*arguments, "--exclude-from", tmp_path / "missing.txt").exit_code == 1


def test_folders_of_images_and_arrays(mixed: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cats/1.png", "cats/2.png", "dogs/1.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)).save(path)
    data = parsed(call("quant-report", mixed, "--data", tmp_path / "images", "--mean", "0.5,0.5,0.5", "--std", "0.25", "--json"))
    assert data["samples"] == 3 and data["accuracy"]["measure"] == "labels"
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    for index, feeds in enumerate(support.samples(3, 2)):
        np.savez(arrays / f"{index}.npz", **feeds)
    np.save(arrays / "single.npy", support.samples(1, 1)[0]["x"][0])
    data = parsed(call("quantize", mixed, "--data", arrays, "-o", tmp_path / "out.onnx", "--json"))
    assert data["samples"] == 7
    data = parsed(call("quantize", mixed, "--data", arrays, "-o", tmp_path / "out.onnx", "--samples", 2, "--method", "entropy", "--json"))
    assert data["samples"] == 2


def test_images_of_inputs_with_channels_last(tmp_path: Path) -> None:
    """Files and pixels in memory come to the same ranges."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    pixels = rng.integers(0, 256, (3, 9, 12, 3)).astype(np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / f"{index}.png")
    np.savez(tmp_path / "pixels.npz", pixels)
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), helper.make_node("Conv", ["t", "w"], ["y"], "conv")]
    weights = {"w": np.ones((4, 3, 9, 1), np.float32)}
    onnx.save(support.build(nodes, weights, ["N", 9, 12, 3], {"y": ["N", 4, 1, 12]}), tmp_path / "last.onnx")
    models = []
    for data in ("images", "pixels.npz"):
        result = call("quantize", tmp_path / "last.onnx", "--data", tmp_path / data, "--scale", 1, "-o", tmp_path / "out.onnx")
        assert result.exit_code == 0, result.stderr
        models.append((tmp_path / "out.onnx").read_bytes())
    scales = [numpy_helper.to_array(t) for t in onnx.load_from_string(models[0]).graph.initializer if t.name == "y/float/scale"]
    assert models[0] == models[1] and float(scales[0]) == np.float32(pixels.astype(int).sum(axis=(1, 3)).max() / 255)


def test_errors(mixed: Path, tmp_path: Path) -> None:
    def failure(*arguments: object) -> tuple[int, str]:
        result = call("quantize", *arguments, "-o", tmp_path / "out.onnx")
        assert not (tmp_path / "out.onnx").exists() and result.stdout == ""
        return result.exit_code, result.stderr

    empty = tmp_path / "empty"
    empty.mkdir()
    assert failure(mixed, "--data", empty) == (1, f"error: '{empty}' holds no images and no arrays\n")
    assert failure(mixed, "--data", tmp_path / "none.npz")[0] == 1
    assert "neither a folder nor" in failure(mixed, "--data", mixed)[1]
    np.savez(tmp_path / "wrong.npz", x=np.zeros((2, 3, 9, 9), np.float32))
    code, message = failure(mixed, "--data", tmp_path / "wrong.npz")
    assert code == 1 and "holds float32 of shape 2x3x9x9; the input 'x' takes float32 of ?x3x16x16" in message
    np.savez(tmp_path / "two.npz", a=np.zeros(2, np.float32), b=np.zeros(2, np.float32))
    assert "has no array 'x'" in failure(mixed, "--data", tmp_path / "two.npz")[1]
    np.savez(tmp_path / "none.npz", x=np.zeros((0, 3, 16, 16), np.float32))
    assert "holds no samples" in failure(mixed, "--data", tmp_path / "none.npz")[1]
    np.savez(tmp_path / "nan.npz", x=np.full((2, 3, 16, 16), np.nan, np.float32))
    assert "hold numbers that are not finite" in failure(mixed, "--data", tmp_path / "nan.npz")[1]
    assert call("quant-report", mixed, "--data", empty, "--write-exclude", "x").exit_code == 2
