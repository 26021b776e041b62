"""Input files are untrusted; output files appear whole or not at all."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnngraph.cli.arrays import read_arrays, write_arrays
from cnngraph.cli.feeds import concrete, make_feeds
from cnngraph.cli.images import Normalization, read_image
from cnngraph.cli.output import OutputError, atomic_folder, atomic_write, plain, size
from cnngraph.errors import InvalidInputError, LimitExceededError, UsageError
from cnngraph.runtime.program import TensorSpec

X = TensorSpec("x", "float32", ("N", 3, 4, 6))
MASK = TensorSpec("mask", "int64", ("N", 2))


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=np.float32).reshape(2, 3), np.asfortranarray(np.ones((2, 3))), np.int64(3), np.zeros((0, 2))]
)
def test_npy_round_trip(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    (found,) = read_arrays(tmp_path / "a.npy").values()
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_npz_round_trip_with_hostile_names(tmp_path: Path) -> None:
    arrays = {"a/b": np.ones(2), "../evil": np.zeros(3), "file": np.arange(3), "": np.ones(1), "x" * 500: np.ones(1)}
    members = write_arrays(tmp_path / "o.npz", arrays)
    with zipfile.ZipFile(tmp_path / "o.npz") as archive:
        assert all(".." not in name and not name.startswith("/") for name in archive.namelist())
    with np.load(tmp_path / "o.npz", allow_pickle=False) as found:
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[members[name]], array)
    assert members["a/b"] == "a/b"
    assert members["../evil"] == "output_1"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        npy(np.array([{}], dtype=object)),
        npy(np.ones(10))[:-1],
        npy(np.ones(10))[:20],
        npy(np.ones(10)).replace(b"(10,)", b"(-1,)"),
        npy(np.ones(10)).replace(b"\x01\x00", b"\x09\x00", 1),
    ],
    ids=["empty", "text", "objects", "short", "header", "negative", "version"],
)
def test_bad_npy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"a\.npy"):
        read_arrays(tmp_path / "a.npy")


def test_npy_that_claims_too_much(tmp_path: Path) -> None:
    header = npy(np.ones(10)).replace(b"(10,), }        ", b"(10000000000,), }", 1)
    (tmp_path / "a.npy").write_bytes(header)
    with pytest.raises(LimitExceededError):
        read_arrays(tmp_path / "a.npy")


def test_bad_npz(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(InvalidInputError, match="archive"):
        read_arrays(tmp_path / "a.npz")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_arrays(tmp_path / "none.npz")


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


def test_atomic_write_into_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"), atomic_write(tmp_path / "no" / "f") as file:
        file.write(b"x")


def test_atomic_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "d") as folder:
        (folder / "a").write_text("x")
        raise RuntimeError
    assert not os.listdir(tmp_path)
    with atomic_folder(tmp_path / "d") as folder:
        (folder / "a").write_text("x")
    assert (tmp_path / "d" / "a").read_text() == "x"
    with pytest.raises(OutputError, match="exists already"), atomic_folder(tmp_path / "d"):
        pass


def test_feeds_by_name_by_position_and_generated(tmp_path: Path) -> None:
    x, mask = np.ones((2, 3, 4, 6), np.float32), np.zeros((2, 2), np.int64)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "all.npz", x=x, mask=mask)
    assert set(make_feeds([X, MASK], [str(tmp_path / "all.npz")]).arrays) == {"x", "mask"}
    feeds = make_feeds([X, MASK], [f"x={tmp_path / 'x.npy'}"], fill="ones")
    np.testing.assert_array_equal(feeds.arrays["mask"], np.ones((2, 2), np.int64))
    feeds = make_feeds([X, MASK], [str(tmp_path / "x.npy")], fill="zeros")
    np.testing.assert_array_equal(feeds.arrays["x"], x)
    with pytest.raises(UsageError, match="mask"):
        make_feeds([X, MASK], [str(tmp_path / "x.npy")])
    with pytest.raises(InvalidInputError, match="no input 'y'"):
        make_feeds([X], [f"y={tmp_path / 'x.npy'}"])
    with pytest.raises(InvalidInputError, match="more files than inputs"):
        make_feeds([X], [str(tmp_path / "x.npy")] * 2)


def test_generated_inputs_depend_on_the_seed_only() -> None:
    first = make_feeds([X, MASK], seed=1, batch=2).arrays
    again = make_feeds([X, MASK], seed=1, batch=2).arrays
    other = make_feeds([X, MASK], seed=2, batch=2).arrays
    assert first["x"].shape == (2, 3, 4, 6)
    assert first["mask"].dtype == np.int64
    np.testing.assert_array_equal(first["x"], again["x"])
    assert not np.array_equal(first["x"], other["x"])


def test_free_dimensions_need_a_shape() -> None:
    assert concrete(("N", 3), 4) == (4, 3)
    with pytest.raises(UsageError, match="--shape"):
        concrete(("N", 3, "?"), 4)


def test_images_are_cropped_scaled_and_normalised(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 2:6] = (255, 0, 51)
    Image.fromarray(pixels).save(tmp_path / "i.png")
    found = read_image(tmp_path / "i.png", 3, 4, 4, Normalization(mean=(0.0, 0.0, 0.2), std=(0.5,)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.broadcast_to(np.array([2, 0, 0], np.float32).reshape(3, 1, 1), (3, 4, 4)), atol=1e-6)
    bgr = read_image(tmp_path / "i.png", 3, 4, 4, Normalization(order="bgr", scale=1.0))
    np.testing.assert_array_equal(bgr[0], 51)
    stretched = read_image(tmp_path / "i.png", 3, 4, 8, Normalization(fit="stretch", scale=1.0))
    np.testing.assert_array_equal(stretched[0, 0], [0, 0, 255, 255, 255, 255, 0, 0])


def test_images_form_a_batch(tmp_path: Path) -> None:
    for i in range(2):
        Image.fromarray(np.full((4, 6, 3), i * 255, np.uint8)).save(tmp_path / f"{i}.png")
    feeds = make_feeds([X], [str(tmp_path / "0.png"), str(tmp_path / "1.png")])
    assert feeds.arrays["x"].shape == (2, 3, 4, 6)
    np.testing.assert_array_equal(feeds.arrays["x"][1], 1)
    assert [Path(f).name for f in feeds.files] == ["0.png", "1.png"]


def test_bad_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InvalidInputError, match="known format"):
        read_image(tmp_path / "a.png", 3, 4, 4, Normalization())
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_image(tmp_path / "none.png", 3, 4, 4, Normalization())
    with pytest.raises(UsageError, match="channels"):
        read_image(tmp_path / "a.png", 7, 4, 4, Normalization())
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    with pytest.raises(UsageError, match="--mean has 2"):
        read_image(tmp_path / "b.png", 3, 4, 4, Normalization(mean=(1.0, 2.0)))
    with pytest.raises(UsageError, match="zero"):
        read_image(tmp_path / "b.png", 3, 4, 4, Normalization(std=(0.0,)))


def test_plain_data_is_json() -> None:
    assert plain({"a": (np.float32(1.5), np.int64(2), float("nan"), None, True), 3: Path("p")}) == {
        "a": [1.5, 2, "nan", None, True],
        "3": "p",
    }


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.50 kB"), (25_900_000, "25.90 MB"), (3 * 10**9, "3.00 GB")]
)
def test_sizes(nbytes: int, text: str) -> None:
    assert size(nbytes) == text
