"""Make the inputs of a run from files, images or a generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from cnngraph.cli.arrays import read_arrays
from cnngraph.cli.images import SUFFIXES, Normalization, read_input_image
from cnngraph.errors import InvalidInputError, UsageError, printable
from cnngraph.ir.types import DType

FILLS = ("zeros", "ones", "random")


class Spec(Protocol):
    """What is needed of an input's description; a dimension that is no integer is free."""

    @property
    def name(self) -> str:
        """Name of the input."""
        ...

    @property
    def dtype(self) -> str:
        """NumPy's name of the element type."""
        ...

    @property
    def shape(self) -> Sequence[int | str | None]:
        """Shape."""
        ...


@dataclass
class Feeds:
    """Inputs of a run.

    Attributes:
        arrays: by input name.
        sources: where each came from, for the report.
        files: the image files in the order of the batch, if there are any.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)


def make_feeds(
    specs: Sequence[Spec],
    given: Sequence[str] = (),
    *,
    fill: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    image: Normalization | None = None,
) -> Feeds:
    """Read the files of ``given`` (``file`` or ``name=file``) and generate the inputs that remain.

    A file without a name goes to the first input that has nothing yet; several images for one input form a batch. If nothing at
    all is given, inputs are random.

    Raises:
        UsageError: ``given`` is malformed, or inputs remain and there is no ``fill``.
        InvalidInputError: a file cannot be read, or names an unknown input.
    """
    feeds = Feeds()
    by_name = {spec.name: spec for spec in specs}
    images: dict[str, list[np.ndarray]] = {}
    for argument in given:
        name, path = _split(argument, by_name)
        if path.suffix.lower() in SUFFIXES:
            target = name or _first_free(specs, {**feeds.arrays, **{k: v for k, v in images.items() if len(images) > 1}})
            images.setdefault(target, []).append(_image_for(by_name[target], path, image or Normalization()))
            feeds.files.append(str(path))
            continue
        for key, array in read_arrays(path).items():
            wanted = name or key
            target = wanted if wanted in by_name else "" if wanted is not None else _first_free(specs, feeds.arrays)
            if not target:
                raise InvalidInputError(f"'{printable(str(path))}' has an array {printable(wanted)!r}; the inputs are {_names(specs)}")
            feeds.arrays[target], feeds.sources[target] = array, str(path)
    for target, pictures in images.items():
        feeds.arrays[target], feeds.sources[target] = np.stack(pictures), f"{len(pictures)} images"
    missing = [spec for spec in specs if spec.name not in feeds.arrays]
    if missing and fill is None and given:
        raise UsageError(f"nothing is given for {_names(missing)}; add --input NAME=FILE, or --fill")
    rows = batch or _batch_of(specs, feeds.arrays) or 1
    for index, spec in enumerate(missing):
        feeds.arrays[spec.name] = generate(spec, fill or "random", seed + index, rows)
        feeds.sources[spec.name] = f"random, seed {seed + index}" if (fill or "random") == "random" else str(fill)
    return feeds


def generate(spec: Spec, fill: str, seed: int, batch: int) -> np.ndarray:
    """An array for ``spec``: zeros, ones, or random numbers (normal for floats, small and non-negative for integers)."""
    shape = concrete(spec.shape, batch)
    dtype = numpy_dtype(spec.dtype)
    if fill in ("zeros", "ones"):
        return np.full(shape, int(fill == "ones"), dtype)
    rng = np.random.default_rng(seed)
    if dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape, np.float32).astype(dtype)


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """The dtype of NumPy, or of ml_dtypes, with this name."""
    return DType(name).numpy


def concrete(shape: Sequence[int | str | None], batch: int) -> tuple[int, ...]:
    """``shape`` with a free first dimension replaced by ``batch``; other free dimensions must be given with --shape."""
    if any(not isinstance(dim, int) for dim in shape[1:]):
        raise UsageError(f"the shape {'x'.join(map(str, shape))} has free dimensions; fix them with --shape")
    return tuple(dim if isinstance(dim, int) else batch for dim in shape)


def _split(argument: str, by_name: Mapping[str, Spec]) -> tuple[str | None, Path]:
    name, separator, file = argument.partition("=")
    if separator and name in by_name:
        return name, Path(file)
    if separator and not Path(argument).exists():
        raise InvalidInputError(f"there is no input {printable(name)!r}; the inputs are {_names(list(by_name.values()))}")
    return None, Path(argument)


def _first_free(specs: Sequence[Spec], taken: Mapping[str, object]) -> str:
    for spec in specs:
        if spec.name not in taken:
            return spec.name
    raise InvalidInputError(f"more files than inputs; the inputs are {_names(specs)}")


def _image_for(spec: Spec, path: Path, how: Normalization) -> np.ndarray:
    sizes = spec.shape[1:]
    if len(spec.shape) != 4 or not all(isinstance(dim, int) for dim in sizes):
        raise UsageError(f"input {printable(spec.name)!r} is not an image of known size; its shape is {'x'.join(map(str, spec.shape))}")
    return read_input_image(path, [int(dim) for dim in sizes if isinstance(dim, int)], how).astype(numpy_dtype(spec.dtype))


def _batch_of(specs: Sequence[Spec], arrays: Mapping[str, np.ndarray]) -> int | None:
    for spec in specs:
        if spec.name in arrays and spec.shape and not isinstance(spec.shape[0], int) and arrays[spec.name].ndim:
            return int(arrays[spec.name].shape[0])
    return None


def _names(specs: Sequence[Spec]) -> str:
    return ", ".join(printable(spec.name) for spec in specs) or "none"
