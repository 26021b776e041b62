"""Every failure is one message on standard error and the documented exit status; with --json also one object."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import onnx
import pytest
from onnx import TensorProto, helper

from cnngraph.cli import cli
from cnngraph.cli.errors import report_error
from cnngraph.errors import InvalidModelError, LimitExceededError, Problem, UnsupportedError

from .conftest import Call

BAD_FILES = {"empty": b"", "text": b"not a model at all\n", "truncated": None}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("verb", ["compile", "run", "bench", "summary", "inspect", "profile", "explain"])
def test_bad_model_files(call: Call, lenet: Path, tmp_path: Path, verb: str, kind: str) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(BAD_FILES[kind] if BAD_FILES[kind] is not None else lenet.read_bytes()[:-5000])
    outcome = call(verb, path)
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert "bad.onnx" in outcome.err
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("verb", ["compile", "run", "bench", "summary", "inspect", "profile", "explain"])
def test_missing_file_as_json(call: Call, tmp_path: Path, verb: str) -> None:
    outcome = call(verb, tmp_path / "none.onnx", "--json")
    assert outcome.code == 1
    error = outcome.json["error"]
    assert outcome.json["command"] == verb
    assert error["type"] == "InvalidModelError"
    assert error["exit_code"] == 1
    assert "does not exist" in error["message"]
    assert error["message"] in outcome.err


@pytest.mark.parametrize("verb", ["run", "inspect", "profile"])
def test_missing_artifact(call: Call, tmp_path: Path, verb: str) -> None:
    outcome = call(verb, tmp_path / "none.cnng")
    assert outcome.code == 1
    assert outcome.err == f"error: '{tmp_path / 'none.cnng'}': No such file or directory\n"


def test_unsupported_operators_are_listed_together(call: Call, tmp_path: Path) -> None:
    nodes = [helper.make_node("Multinomial", ["x"], ["a"], name="first"), helper.make_node("RandomNormalLike", ["x"], ["b"], name="second")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "ab"]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], outputs), opset_imports=[helper.make_opsetid("", 17)])
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    outcome = call("compile", path, "-o", tmp_path / "m.cnng", "--json")
    assert outcome.code == 3
    assert [(p["node"], p["op"]) for p in outcome.json["error"]["problems"]] == [("first", "Multinomial"), ("second", "RandomNormalLike")]
    assert "first" in outcome.err
    assert "second" in outcome.err
    assert not (tmp_path / "m.cnng").exists()


@pytest.mark.parametrize(
    ("dims", "axes", "wanted"),
    [(["N", 3, 4], [0, 1, 2], "x=1x3x4"), (["N", 3, "width"], [1, 2], "x=1x3x224")],
)
def test_shapes_that_are_asked_for_are_shapes_that_help(
    call: Call, tmp_path: Path, dims: list[int | str], axes: list[int], wanted: str
) -> None:
    x, y = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes = [helper.make_node("ReduceMax", ["x"], ["y"], axes=axes)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 13)])
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    refused = call("explain", path)
    assert refused.code == 2
    assert refused.err.rstrip().endswith(f"give them, such as --shape {wanted}")
    assert call("explain", path, "--shape", wanted).code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["compile"],
        ["run", "m.onnx", "--no-such-option"],
        ["run", "m.onnx", "--shape", "input=1x-3"],
        ["run", "m.onnx", "--batch", "0"],
        ["run", "m.onnx", "--mean", "a,b"],
        ["bench", "m.onnx", "--threads", "1,zero"],
        ["bench", "m.onnx", "--vs", "caffe"],
        ["compile", "m.onnx", "--emit", "wasm"],
        ["models", "build", "no_such_network"],
        ["models", "build", "lenet5", "--batch", "many"],
        ["ops", "--backend", "abacus"],
        ["ops", "--isa", "z80"],
    ],
)
def test_usage_errors(call: Call, arguments: list[str]) -> None:
    outcome = call(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "error: " in outcome.err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InvalidModelError("no graph", node="n1"), 1, "error: no graph [node n1]\n"),
        (UnsupportedError("no", [Problem("n", "Op", "because")]), 3, "error: no\n  n: Op: because\n"),
        (LimitExceededError("too large"), 4, "error: too large\n"),
        (MemoryError(), 4, "error: out of memory\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (click.Abort(), 130, "interrupted\n"),
        (click.UsageError("what?"), 2, "error: what?\n"),
        (KeyError("oops"), 1, "error: KeyError: 'oops' (unexpected; CNNGRAPH_DEBUG=1 shows where)\n"),
        (SystemExit(5), 5, ""),
    ],
)
def test_exit_status(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CNNGRAPH_DEBUG", raising=False)
    assert report_error(error, []) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == message


def test_traceback_only_on_request(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNGRAPH_DEBUG", "1")
    assert report_error(ValueError("x"), []) == 1
    assert "Traceback" not in capsys.readouterr().out


def test_group_help_imports_no_compiler() -> None:
    code = "import sys, cnngraph.cli; print(*(m for m in ('numpy', 'numba', 'onnx', 'llvmlite', 'rich') if m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_module_runs_as_a_program() -> None:
    result = subprocess.run([sys.executable, "-m", "cnngraph", "--version"], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert result.stdout.startswith("cnngraph, version ")


def test_closed_pipe_is_silent(lenet: Path) -> None:
    command = f"{sys.executable} -m cnngraph models list --json | head -c 1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.stdout == "{"
    assert result.stderr == ""


@pytest.mark.parametrize("verb", list(cli.list_commands(click.Context(cli))))
def test_every_verb_has_help_and_json(call: Call, verb: str) -> None:
    outcome = call(verb, "--help")
    assert outcome.code == 0
    group = cli.get_command(click.Context(cli), verb)
    commands = list(group.commands.values()) if isinstance(group, click.Group) else [group]
    for command in commands:
        assert command is not None
        assert command.help
        assert "--json" in {option for parameter in command.params for option in parameter.opts}
        names = [option for parameter in command.params for option in parameter.opts]
        assert len(names) == len(set(names))
