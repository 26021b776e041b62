"""Files: what is not a model, and external data that must not leave the model's directory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnngraph.analysis.structure import Structure
from cnngraph.errors import InvalidModelError, LimitExceededError
from cnngraph.frontend import import_model
from cnngraph.options import Limits
from tests.frontend.support import floats, model, node, run

W = floats(3, 2)


def small() -> onnx.ModelProto:
    return model([node("MatMul", "x w", "y")], {"x": ["n", 3]}, weights={"w": W})


def external(**entries: str) -> onnx.ModelProto:
    proto = small()
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    return proto


def saved(folder: Path, proto: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_path_bytes_and_proto_are_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path, small())
    for source in (path, str(path), path.read_bytes(), small()):
        np.testing.assert_allclose(run(import_model(source), {"x": W.T})["y"], W.T @ W, rtol=1e-6)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match="does not exist"):
        import_model(tmp_path / "none.onnx")
    with pytest.raises(InvalidModelError, match="is a directory"):
        import_model(tmp_path)
    with pytest.raises(InvalidModelError, match="cannot be opened"):
        import_model("a\0b")


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidModelError, match="not a regular file"):
        import_model(tmp_path / "pipe")


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x08\x07", b"\x0a\x02hi", bytes(1000), b"\xff" * 64])
def test_not_onnx(data: bytes) -> None:
    with pytest.raises(InvalidModelError, match="ONNX model"):
        import_model(data)


def test_every_truncation_is_refused() -> None:
    data = small().SerializeToString()
    for length in range(len(data) - 1):
        with pytest.raises(InvalidModelError):
            import_model(data[:length])


def test_too_large(tmp_path: Path) -> None:
    path = saved(tmp_path, small())
    with pytest.raises(LimitExceededError, match="the limit is 10"):
        import_model(path, limits=Limits(max_model_bytes=10))
    with pytest.raises(LimitExceededError, match="the limit is 10"):
        import_model(path.read_bytes(), limits=Limits(max_model_bytes=10))
    with pytest.raises(LimitExceededError, match="initializer 'w'"):
        import_model(path, limits=Limits(max_tensor_bytes=8))
    with pytest.raises(LimitExceededError, match="weights pass the limit"):
        import_model(path, limits=Limits(max_total_bytes=8))
    with pytest.raises(LimitExceededError, match="1 nodes"):
        import_model(path, limits=Limits(max_nodes=0))


def test_external_data(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(bytes(8) + W.tobytes())
    path = saved(tmp_path, external(location="./sub/w.bin", offset="8", length="24"))
    np.testing.assert_allclose(run(import_model(path), {"x": W.T})["y"], W.T @ W, rtol=1e-6)
    with pytest.raises(InvalidModelError, match="given as a path"):
        import_model(path.read_bytes())


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "a/../../secret.bin",
        "sub/../../secret.bin",
        "/etc/passwd",
        "",
        ".",
        "x\0y",
        "..\\secret.bin",
        "C:secret",
        "missing.bin",
        "sub",
    ],
)
def test_locations_that_leave_the_directory(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(W.tobytes())
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    with pytest.raises(InvalidModelError, match=r"initializer 'w'.*external data"):
        import_model(saved(folder, external(location=location)))


def test_links_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(W.tobytes())
    (folder / "soft.bin").symlink_to(secret)
    (folder / "dir").symlink_to(tmp_path)
    os.link(secret, folder / "hard.bin")
    os.mkfifo(folder / "pipe")
    for location, reason in (
        ("soft.bin", "symbolic links are not followed"),
        ("dir/secret.bin", "symbolic links are not followed"),
        ("hard.bin", "is a hard link"),
        ("pipe", "not a regular file"),
    ):
        with pytest.raises(InvalidModelError, match=reason):
            import_model(saved(folder, external(location=location)))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"length": "1000000000000000"}, "length 1000000000000000"),
        ({"length": "23"}, "length 23"),
        ({"offset": "-8"}, "not a size"),
        ({"offset": "1e3"}, "not a size"),
        ({"offset": "1"}, "has only 24"),
        ({"offset": "9" * 18}, "has only 24"),
        ({"__class__": "x"}, "unknown key"),
    ],
)
def test_external_ranges(tmp_path: Path, entries: dict[str, str], reason: str) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    with pytest.raises(InvalidModelError, match=reason):
        import_model(saved(tmp_path, external(location="w.bin", **entries)))


def test_external_keys_are_unique(tmp_path: Path) -> None:
    proto = external(location="w.bin")
    proto.graph.initializer[0].external_data.add(key="location", value="v.bin")
    with pytest.raises(InvalidModelError, match="'location' twice"):
        import_model(saved(tmp_path, proto))


def test_tensor_data_must_match_exactly() -> None:
    def broken(change: str) -> onnx.ModelProto:
        proto = small()
        weight = proto.graph.initializer[0]
        if change == "short":
            weight.raw_data = weight.raw_data[:-1]
        elif change == "long":
            weight.raw_data += b"\0"
        elif change == "negative":
            weight.dims[0] = -3
        elif change == "both":
            weight.float_data.append(1)
        elif change == "field":
            weight.ClearField("raw_data")
            weight.double_data.extend([0.0] * 6)
        elif change == "huge":
            weight.ClearField("raw_data")
            weight.dims[:] = [2**31, 2**31, 4]
        elif change == "type":
            weight.data_type = 99
        elif change == "range":
            weight.CopyFrom(TensorProto(name="w", dims=[3, 2], data_type=TensorProto.UINT8, int32_data=[0, 0, 0, 0, 0, 256]))
        elif change == "rank":
            weight.dims[:] = [1] * 40
        return proto

    for change, reason in (
        ("short", "needs 24 bytes"),
        ("long", "needs 24 bytes"),
        ("negative", "negative dimension"),
        ("both", "both raw_data and float_data"),
        ("field", "keeps its data in double_data"),
        ("huge", "the limit is"),
        ("type", "element type 99"),
        ("range", "outside its range"),
        ("rank", "40 axes"),
    ):
        with pytest.raises((InvalidModelError, LimitExceededError), match=f"initializer 'w'.*{reason}"):
            import_model(broken(change))


def sparse(name: str, shape: tuple[int, ...], values: np.ndarray, places: np.ndarray) -> onnx.SparseTensorProto:
    proto = onnx.SparseTensorProto(dims=shape)
    proto.values.CopyFrom(numpy_helper.from_array(values, name))
    proto.indices.CopyFrom(numpy_helper.from_array(places, name + " places"))
    return proto


def with_sparse(values: np.ndarray, places: np.ndarray) -> onnx.ModelProto:
    proto = model([node("MatMul", "x w", "y")], {"x": ["n", 3]})
    proto.graph.sparse_initializer.append(sparse("w", (3, 2), values, places))
    return proto


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_initialisers_and_constants_are_dense_after_the_import(flat: bool) -> None:
    dense = np.array([[0, 2], [0, 0], [3, -1]], np.float32)
    places = np.flatnonzero(dense) if flat else np.argwhere(dense)
    proto = with_sparse(dense[dense != 0], places.astype(np.int64))
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["c"], sparse_value=sparse("c", (3, 2), dense[dense != 0], places)))
    proto.graph.node.append(node("MatMul", "x c", "z"))
    proto.graph.output.add().CopyFrom(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    x = floats(4, 3)
    results = run(import_model(proto), {"x": x})
    np.testing.assert_allclose(results["y"], x @ dense, rtol=1e-6)
    np.testing.assert_allclose(results["z"], x @ dense, rtol=1e-6)
    assert [c.shape for c in Structure(proto).constants.values()] == [(3, 2), (3, 2)]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([0, 6], "value outside"),
        ([-1, 2], "value outside"),
        ([2, 2], "do not ascend"),
        ([[1, 0], [0, 1]], "do not ascend"),
        ([[0, 0], [0, 2]], "value outside"),
        ([1, 2, 3], "has values"),
    ],
)
def test_sparse_tensors_that_contradict_themselves(places: list[object], message: str) -> None:
    with pytest.raises(InvalidModelError, match=f"'w'.*{message}"):
        import_model(with_sparse(floats(2), np.array(places, np.int64)))


def test_dense_size_of_a_sparse_tensor_counts() -> None:
    proto = model([node("Add", "x w", "y")], {"x": ["n"]})
    proto.graph.sparse_initializer.append(sparse("w", (1 << 40,), floats(1), np.array([7], np.int64)))
    with pytest.raises(LimitExceededError, match="'w'"):
        import_model(proto)
