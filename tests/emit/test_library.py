"""A compiled network as a C library: the same bits in every way of calling it, clean under sanitizers, clear refusals."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

import cnngraph
from cnngraph.analysis import by_image
from cnngraph.emit.shared import CompilerMissingError, emit_library, library_name
from cnngraph.errors import UsageError
from cnngraph.runtime.library import Library
from cnngraph.runtime.program import ProgramData
from cnngraph.runtime.session import Program
from cnngraph_models import digits, trained_path
from tests.cli.conftest import Call, call  # noqa: F401  a fixture
from tests.runtime.support import expected, feed, program_data
from tests.runtime.test_by_image import by_image_data, halves_data, rotated
from tests.runtime.test_weights import X, model

ROOT = Path(__file__).parents[2]
COMPILER = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), "")

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or not COMPILER, reason="needs Linux on x86-64 with a C compiler"
)


def compiled(isa: str = "avx2", seed: int = 1) -> Program:
    program = cnngraph.compile(model(seed), isa=isa)
    assert isinstance(program, Program)
    return program


@dataclass
class Case:
    """A network of several kernels, something to feed it, and the bytes that come out."""

    data: list[ProgramData]
    wanted: np.ndarray


@pytest.fixture(scope="module")
def case() -> Case:
    program = compiled()
    return Case([program.data], program.run({"x": X})["y"])


@pytest.mark.parametrize("inside", [True, False])
def test_the_same_bits_from_python(case: Case, tmp_path: Path, inside: bool) -> None:
    made = emit_library(case.data, tmp_path / "net.so", inside=inside)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["net.so", "net.h", *([] if inside else ["net.weights"])])
    for threads in (0, 1, 2, 3):
        with Library(made["library"], threads=threads) as library:
            assert library.isa == "avx2"
            assert library.inputs == {"x": (np.float32, ((1, 0), (0, 3), (0, 12), (0, 12)))}
            for batch in (1, 2, 0, 2):
                np.testing.assert_array_equal(library.run({"x": X[:batch]})["y"], case.wanted[:batch])
            np.testing.assert_array_equal(library.run({"x": np.asfortranarray(X)})["y"], case.wanted)


def test_a_team_of_threads(tmp_path: Path) -> None:
    emit_library([program_data()], tmp_path / "rotate.so")
    with Library(tmp_path / "rotate.so", threads=3) as library:
        wrong: list[int] = []

        def work(number: int) -> None:
            for i in range(20):
                x = feed(1 + (number + i) % 5, number)
                if not np.array_equal(library.run({"x": x})["y"], expected(x)):
                    wrong.append(number)

        callers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert not wrong


def test_another_library_at_the_same_place(case: Case, tmp_path: Path) -> None:
    for seed in (1, 2):
        program = compiled(seed=seed)
        emit_library([program.data], tmp_path / "net.so")
        with Library(tmp_path / "net.so") as library:
            np.testing.assert_array_equal(library.run({"x": X})["y"], program.run({"x": X})["y"])
    library.close()
    with pytest.raises(ValueError, match="closed"):
        library.run({"x": X})


@pytest.mark.parametrize("op", ["Pow", "Sin", "Softmax", "ReduceSum"])
def test_functions_of_the_mathematical_library(tmp_path: Path, op: str) -> None:
    tensor = onnx.helper.make_tensor_value_info
    inputs = ["x", "p"] if op == "Pow" else ["x"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, inputs, ["y"])], "g", [tensor("x", 1, ["N", 37])], [tensor("y", 1, None)],
        initializer=[onnx.numpy_helper.from_array(np.full(37, 1.7, np.float32), "p")] if op == "Pow" else [],
    )  # fmt: skip
    opset = 11 if op == "ReduceSum" else 17
    if op == "ReduceSum":
        graph.node[0].attribute.append(onnx.helper.make_attribute("axes", [1]))
    program = cnngraph.compile(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8))
    emit_library([program.data], tmp_path / "net.so")
    x = np.random.default_rng(0).random((5, 37)).astype(np.float32)
    with Library(tmp_path / "net.so", threads=2) as library:
        np.testing.assert_array_equal(library.run({"x": x})["y"], program.run({"x": x})["y"])


def test_wrong_feeds(case: Case, tmp_path: Path) -> None:
    emit_library(case.data, tmp_path / "net.so")
    with Library(tmp_path / "net.so") as library:
        for feeds in ({}, {"z": X}, {"x": X.astype(np.float64)}, {"x": X[0]}, {"x": X[:, :2]}):
            with pytest.raises(ValueError, match="input"):
                library.run(feeds)


def test_the_best_code_that_runs_here(tmp_path: Path) -> None:
    import dataclasses

    data = [dataclasses.replace(compiled("avx2").data, isa="never", required=("avx2", "avxvnni", "avx512vnni", "avx512f"))]
    data += [compiled("sse4").data, compiled("avx2").data]
    emit_library(data, tmp_path / "net.so")
    with Library(tmp_path / "net.so") as library:
        if library.isa == "never":
            pytest.skip("this CPU has everything")
        assert library.isa == "sse4"
        np.testing.assert_array_equal(library.run({"x": X})["y"], compiled("sse4").run({"x": X})["y"])
    emit_library(data[:1], tmp_path / "none.so")
    with pytest.raises(RuntimeError, match="lacks instructions"):
        Library(tmp_path / "none.so")
    unknown = dataclasses.replace(data[0], required=("avx9000",))
    with pytest.raises(UsageError, match="avx9000"):
        emit_library([unknown], tmp_path / "unknown.so")


def test_weights_that_are_not_there_or_not_these(case: Case, tmp_path: Path) -> None:
    library = emit_library(case.data, tmp_path / "net.so", inside=False)["library"]
    weights = tmp_path / "net.weights"
    sound = weights.read_bytes()
    with pytest.raises(RuntimeError, match="cannot be opened"):
        Library(library, weights=str(tmp_path / "none"))
    other = emit_library([compiled(seed=2).data], tmp_path / "other.so", inside=False)["weights"]
    for content in (sound[:-1], sound + b"\0", b"", b"\0" * len(sound), other.read_bytes()):
        weights.write_bytes(content)
        with pytest.raises(RuntimeError, match="damaged or of another network"):
            Library(library)
    weights.unlink()
    with pytest.raises(RuntimeError, match="argument"):
        Library(library)


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"),
        ("-fsanitize=thread", "-g"),
        ("valgrind", "-g"),
    ],
    ids=["plain", "address-undefined", "thread", "valgrind"],
)
@pytest.mark.parametrize("inside", [True, False])
def test_every_way_of_calling_from_c(case: Case, tmp_path: Path, flags: Sequence[str], inside: bool) -> None:
    run = []
    if flags[:1] == ("valgrind",):
        if not shutil.which("valgrind") or not inside:
            pytest.skip("no valgrind, or one run is enough")
        run, flags = ["valgrind", "-q", "--error-exitcode=77", "--leak-check=full", "--errors-for-leak-kinds=all"], flags[1:]
    if flags and not run and not sanitizes(flags, tmp_path):
        pytest.skip("the compiler lacks this sanitizer, or it does not run here")
    emit_library(case.data, tmp_path / "net.so", inside=inside, flags=flags)
    (tmp_path / "x").write_bytes(X.tobytes())
    (tmp_path / "y").write_bytes(case.wanted.tobytes())
    program = tmp_path / "check"
    build = [
        COMPILER, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread",
        "-DPREFIX=net", '-DHEADER="net.h"', "-I", str(tmp_path), *flags,
        "-o", str(program), str(Path(__file__).with_name("check.c")), str(tmp_path / "net.so"), f"-Wl,-rpath,{tmp_path}",
    ]  # fmt: skip
    subprocess.run(build, check=True)
    arguments = [str(tmp_path / "x"), str(tmp_path / "y"), "2", *([] if inside else [str(tmp_path / "net.weights")])]
    result = subprocess.run([*run, str(program), *arguments], capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout) == (0, "ok\n"), result.stderr[-3000:]


def sanitizes(flags: Sequence[str], folder: Path) -> bool:
    """Whether a trivial program builds and runs with these flags."""
    (folder / "trivial.c").write_text("int main(void) { return 0; }\n")
    build = [COMPILER, *flags, "-o", str(folder / "trivial"), str(folder / "trivial.c")]
    return all(subprocess.run(c, capture_output=True).returncode == 0 for c in (build, [str(folder / "trivial")]))


@pytest.mark.skipif(not shutil.which("readelf"), reason="needs readelf")
def test_it_needs_the_c_library_alone(case: Case, tmp_path: Path) -> None:
    emit_library(case.data, tmp_path / "net.so")
    listing = subprocess.run(["readelf", "-dW", str(tmp_path / "net.so")], capture_output=True, text=True, check=True).stdout
    needed = {line.split("[")[1].split(".")[0] for line in listing.splitlines() if "(NEEDED)" in line}
    assert needed <= {"libc", "libm", "libpthread"}
    assert "TEXTREL" not in listing
    segments = subprocess.run(["readelf", "-lW", str(tmp_path / "net.so")], capture_output=True, text=True, check=True).stdout
    assert not [line for line in segments.splitlines() if " RWE " in line]
    symbols = subprocess.run(["readelf", "--dyn-syms", "-W", str(tmp_path / "net.so")], capture_output=True, text=True, check=True).stdout
    defined = {f[7] for line in symbols.splitlines() if len(f := line.split()) == 8 and f[4] == "GLOBAL" and f[6] != "UND"}
    functions = "begin create destroy input inputs isa memory message output outputs run share"
    assert defined == {f"net_{name}" for name in functions.split()}


def test_names_of_tensors_are_only_text(tmp_path: Path) -> None:
    hostile = 'a"; system("x"); /* */ \\ ??/ \n é'
    changed = model(1)
    changed.graph.input[0].name = changed.graph.node[0].input[0] = hostile
    program = cnngraph.compile(changed, isa="avx2")
    emit_library([program.data], tmp_path / "net.so")
    with Library(tmp_path / "net.so") as library:
        assert list(library.inputs) == [hostile]
        np.testing.assert_array_equal(library.run({hostile: X})["y"], program.run({hostile: X})["y"])
    if shutil.which("g++"):
        (tmp_path / "main.cpp").write_text('#include "net.h"\n#include "net.h"\nint main() { return net_inputs() - 1; }\n')
        command = ["g++", "-Wall", "-Wextra", "-Werror", str(tmp_path / "main.cpp"), str(tmp_path / "net.so"), "-o", str(tmp_path / "main")]
        subprocess.run(command, check=True)
        assert subprocess.run([str(tmp_path / "main")], env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}).returncode == 0


def test_outputs_that_no_kernel_writes_and_a_fixed_batch(tmp_path: Path) -> None:
    make, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [make("Relu", ["x"], ["r"]), make("Identity", ["x"], ["same"]), make("Flatten", ["r"], ["flat"])],
        "g", [tensor("x", 1, [2, 3, 4])], [tensor(n, 1, None) for n in ("r", "same", "flat")],
    )  # fmt: skip
    program = cnngraph.compile(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), isa="avx2")
    assert program.data.copies
    emit_library([program.data], tmp_path / "net.so")
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    with Library(tmp_path / "net.so") as library:
        got = library.run({"x": x})
        for name, array in program.run({"x": x}).items():
            np.testing.assert_array_equal(got[name], array)
        pointers = (ctypes.c_void_p * 3)(*[array.ctypes.data for array in got.values()])
        inputs = (ctypes.c_void_p * 1)(x.ctypes.data)
        assert library._function("run")(library._model, 2, inputs, pointers) == 1  # the batch is fixed
        assert library._function("run")(library._model, 1, inputs, pointers) == 0


def test_names() -> None:
    for path, name in (
        ("libres-net50.so.1", "res_net50"), ("3d.so", "_3d"),
        ("int.so", "int_"), (".so", "model"), ("kernel.so", "kernel_"), ("exp.so", "exp"),
    ):  # fmt: skip
        assert library_name(Path("/x") / path) == name


def test_keywords_as_names(tmp_path: Path) -> None:
    emit_library([program_data(1)], tmp_path / "share.so")
    with Library(tmp_path / "share.so", name="share_") as library:
        np.testing.assert_array_equal(library.run({"x": feed(1)})["y"], expected(feed(1), 1))


def test_no_compiler(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nonexistent/cc -O2")
    with pytest.raises(CompilerMissingError, match="CC names"):
        emit_library(case.data, tmp_path / "net.so")
    monkeypatch.setenv("CC", "false")
    with pytest.raises(CompilerMissingError, match="fails"):
        emit_library(case.data, tmp_path / "net.so")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilerMissingError, match="there is none of cc, gcc, clang"):
        emit_library(case.data, tmp_path / "net.so")
    assert not list(tmp_path.iterdir())


def test_nodes_without_a_kernel_are_refused_by_name(tmp_path: Path) -> None:
    make, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    opset = [onnx.helper.make_opsetid("", 17)]
    det = onnx.helper.make_graph([make("Det", ["x"], ["y"], name="the-det")], "g", [tensor("x", 1, [2, 3, 3])], [tensor("y", 1, [2])])
    with pytest.raises(UsageError, match=r"without a kernel.*the-det"):
        emit_library([cnngraph.compile(onnx.helper.make_model(det, opset_imports=opset, ir_version=8)).data], tmp_path / "net.so")
    nodes = [make("Relu", ["x"], ["r"]), make("NonZero", ["r"], ["y"], name="the-tail")]
    tail = onnx.helper.make_graph(nodes, "g", [tensor("x", 1, [2, 3])], [tensor("y", 7, [2, "n"])])
    with pytest.raises(UsageError, match=r"depend on data.*the-tail"):
        emit_library([cnngraph.compile(onnx.helper.make_model(tail, opset_imports=opset, ir_version=8)).data], tmp_path / "net.so")
    assert not list(tmp_path.iterdir())


def pgm(path: Path, image: np.ndarray) -> Path:
    path.write_bytes(b"P5\n%d %d\n255\n" % (image.shape[1], image.shape[0]) + np.round(image * 255).astype(np.uint8).tobytes())
    return path


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_the_example(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(ROOT / "examples" / "c", folder, ignore=shutil.ignore_patterns("classify", "digits.*"))
    command = [
        "make", "-s", "-C", str(folder), f"MODEL={trained_path('digits_lenet.onnx')}", f"CNNGRAPH={sys.executable} -m cnngraph",
        "CFLAGS=-std=c11 -O2 -Wall -Wextra -Werror",
    ]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.DEVNULL)
    images, labels = digits.held_out()
    pictures = [pgm(tmp_path / f"{i}.pgm", image[0]) for i, image in enumerate(digits.preprocess(images[:12]))]
    result = subprocess.run([str(folder / "classify"), *map(str, pictures)], capture_output=True, text=True, check=True)
    found = [int(line.split(": ")[1].split()[0]) for line in result.stdout.splitlines()]
    assert sum(a == b for a, b in zip(found, labels[:12], strict=True)) >= 11
    (tmp_path / "bad.pgm").write_text("P2 1 1 1")
    result = subprocess.run([str(folder / "classify"), str(tmp_path / "bad.pgm")], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, f"error: {tmp_path / 'bad.pgm'}: is no binary PGM\n")
    assert len((folder / "classify.c").read_text().splitlines()) <= 60


def test_on_the_command_line(call: Call, tmp_path: Path) -> None:  # noqa: F811
    onnx.save(model(1), tmp_path / "m.onnx")
    outcome = call("compile", tmp_path / "m.onnx", "--emit", "cnng,so", "--isa", "avx2,sse4", "-o", tmp_path / "net.cnng", "--json")
    assert outcome.code == 0, outcome.err
    assert set(outcome.json["files"]) == {"cnng", "so", "header"}
    wanted = cnngraph.load(tmp_path / "net.cnng").run({"x": X})["y"]
    outcome = call("compile", tmp_path / "net.cnng", "--emit", "so", "--weights", "beside", "-o", tmp_path / "again.so")
    assert outcome.code == 0, outcome.err
    for name in ("net", "again"):
        with Library(tmp_path / f"{name}.so") as library:
            np.testing.assert_array_equal(library.run({"x": X})["y"], wanted)
    assert call("compile", tmp_path / "net.cnng", "--emit", "cnng").code == 2
    assert call("compile", tmp_path / "net.cnng", "--emit", "so", "--isa", "avx2").code == 2
    assert call("compile", tmp_path / "m.onnx", "--emit", "so,dll").code == 2


def test_what_leading_steps_hand_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs whose leading steps are computed image by image have memory beside the arena; several of them have the most of any."""
    monkeypatch.setattr(by_image, "_MOST_WEIGHTS", 1000)
    monkeypatch.setattr(by_image, "_LEAST_RESULTS", 0)
    halves = compiled("avx2")
    assert halves.data.handover
    monkeypatch.setattr(by_image, "_MOST_WEIGHTS", 1 << 20)
    whole = compiled("sse4")
    assert not whole.data.handover
    made = emit_library([halves.data, whole.data], tmp_path / "net.so")
    for threads in (1, 2):
        with Library(made["library"], threads=threads) as library:
            for batch in (1, 2):
                np.testing.assert_array_equal(library.run({"x": X[:batch]})["y"], halves.run({"x": X[:batch]})["y"])


@pytest.mark.parametrize("halves", [False, True])
def test_images_apart_in_runs_of_other_batches(tmp_path: Path, halves: bool) -> None:
    """A thread that is late at the end of a run must not take the next one's batch for its own."""
    emit_library([halves_data() if halves else by_image_data()], tmp_path / "rotate.so")
    with Library(tmp_path / "rotate.so", threads=2) as library:
        for number in range(400):
            x = feed(4 - number % 2, number)
            np.testing.assert_array_equal(library.run({"x": x})["y"], rotated(x, 2, *((3, 3) if halves else (6,))))
