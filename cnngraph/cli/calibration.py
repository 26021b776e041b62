"""The samples that quantisation looks at: folders of images or arrays, and .npz files, with labels where there are any."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
import numpy as np

from cnngraph.cli.arrays import read_arrays
from cnngraph.cli.feeds import numpy_dtype
from cnngraph.cli.images import SUFFIXES, Normalization, image_axes, read_input_image, resize_pixels
from cnngraph.cli.output import dims
from cnngraph.cli.run import FloatListType
from cnngraph.errors import InvalidInputError, UsageError, printable

if TYPE_CHECKING:
    from cnngraph.quantize import QuantizeOptions
    from cnngraph.quantize.network import InputSpec
    from cnngraph.quantize.quantizer import Progress

LABELS = ("labels", "label", "y", "targets", "target")
F = TypeVar("F")


@dataclass
class Samples:
    """Inputs in batches.

    Attributes:
        batches: feeds of equal batch sizes, but for the last.
        labels: int64, one a sample, or None.
        count: number of samples.
    """

    batches: list[dict[str, np.ndarray]]
    labels: np.ndarray | None
    count: int


@dataclass(frozen=True)
class Reading:
    """How samples are read, as given on the command line."""

    data: Path
    samples: int
    batch: int
    image: Normalization


def data_options(function: F) -> F:
    """Add --data, --samples, --batch and the options of images; the verb gets them as one argument ``reading``."""
    import functools

    @functools.wraps(cast(Any, function))
    def collect(*args: Any, data: Path, samples: int, batch: int, **kwargs: Any) -> Any:
        names = ("mean", "std", "scale", "fit", "order")
        image = Normalization(**{name: kwargs.pop(name) for name in names})
        return cast(Any, function)(*args, reading=Reading(data, samples, batch, image), **kwargs)

    for option in (
        click.option("--order", type=click.Choice(["rgb", "bgr"]), default="rgb", show_default=True, help="Channel order of images."),
        click.option("--fit", type=click.Choice(["crop", "stretch"]), default="crop", show_default=True, help="How images get their size."),
        click.option("--scale", type=float, default=1 / 255, help="Multiplies the pixels of images; default 1/255."),
        click.option("--std", type=FloatListType(), default="1", show_default=True, help="Of images, after --scale."),
        click.option("--mean", type=FloatListType(), default="0", show_default=True, help="Of images, after --scale."),
        click.option("--batch", type=click.IntRange(min=1), default=4, show_default=True, help="Samples a run, where the batch is free."),
        click.option("--samples", type=click.IntRange(min=1), default=128, show_default=True, help="Use at most this many."),
        click.option(
            "--data", type=click.Path(path_type=Path), required=True, metavar="FOLDER|NPZ",
            help="Images, .npy or .npz files in a folder (subfolders are classes), or one .npz with a row a sample.",
        ),
    ):  # fmt: skip
        option(collect)
    return cast(F, collect)


def read_samples(specs: Sequence[InputSpec], how: Reading) -> Samples:
    """The samples, evenly spread over all there are if there are more than asked for.

    Raises:
        InvalidInputError: nothing is there, or it does not fit the inputs.
        UsageError: image options do not fit.
    """
    path = how.data
    shown = f"'{printable(str(path))}'"
    if path.is_dir():
        arrays, labels = _read_folder(specs, path, how)
    elif path.suffix in (".npz", ".npy"):
        arrays, labels = _from_file(specs, path, how)
        count = min(len(a) for a in arrays.values())
        chosen = _spread(count, how.samples)
        arrays = {name: a[chosen] for name, a in arrays.items()}
        labels = None if labels is None else labels[chosen]
    else:
        raise InvalidInputError(f"{shown} is neither a folder nor an .npz file")
    arrays = {spec.name: _fitting(spec, arrays[spec.name], how.image, shown) for spec in specs}
    count = min(len(a) for a in arrays.values())
    if not count:
        raise InvalidInputError(f"{shown} holds no samples")
    fixed = [spec.shape[0] for spec in specs if spec.shape and spec.shape[0] is not None]
    size = fixed[0] if fixed else how.batch
    assert size is not None
    if fixed and count < size:
        raise InvalidInputError(f"{shown} holds {count} samples, but a run of the model takes {size}")
    starts = range(0, count - size + 1 if fixed else count, size)
    batches = [{name: np.ascontiguousarray(a[i : i + size]) for name, a in arrays.items()} for i in starts]
    used = sum(len(next(iter(b.values()))) for b in batches)
    return Samples(batches, None if labels is None else labels[:used], used)


def _spread(count: int, most: int) -> np.ndarray:
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).round().astype(np.int64)


def _from_file(specs: Sequence[InputSpec], path: Path, how: Reading) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Arrays by input name, a row a sample; an array that is no input and no label feeds the only input."""
    found = read_arrays(path)
    names = {spec.name for spec in specs}
    shown = f"'{printable(str(path))}'"
    labels = next((found[key] for key in LABELS if key in found and key not in names and found[key].ndim == 1), None)
    arrays = {name: array for name, array in found.items() if name in names and name is not None}
    rest = [key for key in found if key not in names and key not in LABELS]
    if len(specs) == 1 and not arrays:
        if len(rest) != 1:
            raise InvalidInputError(f"{shown} has no array {printable(specs[0].name)!r}, the input's name")
        arrays = {specs[0].name: found[rest[0]]}
    missing = sorted(names - set(arrays))
    if missing:
        raise InvalidInputError(f"{shown} has no array {printable(missing[0])!r}, an input's name")
    if any(a.ndim == 0 for a in arrays.values()):
        raise InvalidInputError(f"{shown} holds a single number; an array has a row a sample")
    if labels is not None and (labels.dtype.kind not in "iu" or len(labels) != len(next(iter(arrays.values())))):
        labels = None
    return arrays, None if labels is None else labels.astype(np.int64)


def _read_folder(specs: Sequence[InputSpec], path: Path, how: Reading) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    files = sorted(f for f in path.rglob("*") if f.is_file() and f.suffix.lower() in (*SUFFIXES, ".npy", ".npz"))
    if not files:
        raise InvalidInputError(f"'{printable(str(path))}' holds no images and no arrays")
    classes = sorted({f.relative_to(path).parts[0] for f in files if len(f.relative_to(path).parts) > 1})
    labelled = bool(classes) and all(len(f.relative_to(path).parts) > 1 for f in files)
    rows: dict[str, list[np.ndarray]] = {spec.name: [] for spec in specs}
    labels: list[int] = []
    for file in (files[i] for i in _spread(len(files), how.samples)):
        if file.suffix.lower() in SUFFIXES:
            if len(specs) != 1:
                raise UsageError("images are for models with one input; give an .npz with an array for each")
            arrays = {specs[0].name: _read_picture(specs[0], file, how.image)[None]}
        else:
            arrays, _ = _from_file(specs, file, how)
            arrays = {
                spec.name: a[None] if a.ndim == len(spec.shape) - 1 else a for spec, a in ((spec, arrays[spec.name]) for spec in specs)
            }
        for name, array in arrays.items():
            rows[name].extend(array)
        if labelled:
            labels.extend([classes.index(file.relative_to(path).parts[0])] * len(next(iter(arrays.values()))))
    try:
        stacked = {name: np.stack(parts[: how.samples]) for name, parts in rows.items()}
    except ValueError as error:
        raise InvalidInputError(f"the files of '{printable(str(path))}' differ in shape") from error
    return stacked, np.array(labels[: how.samples], np.int64) if labelled else None


def _image_size(spec: InputSpec) -> tuple[int, int, int]:
    sizes = [dim for dim in spec.shape[1:] if dim is not None]
    if len(spec.shape) != 4 or len(sizes) != 3:
        raise UsageError(f"input {printable(spec.name)!r} is no image of known size; give arrays of its shape")
    return sizes[0], sizes[1], sizes[2]


def _read_picture(spec: InputSpec, file: Path, how: Normalization) -> np.ndarray:
    return read_input_image(file, _image_size(spec), how).astype(numpy_dtype(spec.dtype))


def _fitting(spec: InputSpec, array: np.ndarray, how: Normalization, shown: str) -> np.ndarray:
    """``array`` as the input takes it, channels first or last; pixels (N,H,W), (N,H,W,C) or (N,C,H,W) of bytes like image files."""
    fits = array.ndim == len(spec.shape) and all(want in (None, got) for want, got in zip(spec.shape[1:], array.shape[1:], strict=True))
    wanted = numpy_dtype(spec.dtype)
    if fits and (array.dtype == wanted or array.dtype.kind == wanted.kind == "f"):
        return array.astype(wanted, copy=False)
    if array.dtype == np.uint8 and wanted.kind == "f" and array.ndim in (3, 4) and len(spec.shape) == 4:
        channels, height, width, last = image_axes(_image_size(spec))
        pixels = array[..., None] if array.ndim == 3 else array
        if array.ndim == 4 and array.shape[1] == channels and array.shape[3] != channels:
            pixels = array.transpose(0, 2, 3, 1)
        if pixels.shape[3] == channels:
            images = np.stack([resize_pixels(row, height, width, how) for row in pixels]).astype(wanted)
            return np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if last else images
    takes = f"{wanted} of {dims('?' if dim is None else dim for dim in spec.shape)}"
    holds = f"{array.dtype} of shape {dims(array.shape)}"
    raise InvalidInputError(f"{shown} holds {holds}; the input {printable(spec.name)!r} takes {takes}")


@contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """A progress bar on standard error, one row a phase; None where that is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total or None)
            bar.update(tasks[what], completed=done, total=total or None)

        yield update


def quantize_options(function: F) -> F:
    """Add the options of quantisation; the verb gets them as one argument ``choices`` (a mapping)."""
    import functools

    @functools.wraps(cast(Any, function))
    def collect(*args: Any, method: str, percentile: float, exclude: tuple[str, ...], exclude_from: Path | None, **kwargs: Any) -> Any:
        bits = kwargs.pop("weight_bits")
        names = (*exclude, *(_read_names(exclude_from) if exclude_from is not None else ()))
        choices = {"method": method, "percentile": percentile, "exclude": tuple(dict.fromkeys(names)), "weight_bits": int(bits)}
        return cast(Any, function)(*args, choices=choices, **kwargs)

    for option in (
        click.option(
            "--weight-bits", type=click.Choice(["7", "8"]), default="8", show_default=True,
            help="7: for onnxruntime on CPUs before VNNI, whose products of bytes saturate.",
        ),
        click.option("--exclude-from", type=click.Path(path_type=Path), metavar="FILE", help="Text file with the name of a node a line."),
        click.option("--exclude", multiple=True, metavar="NODE", help="A node that stays float; repeat for more."),
        click.option("--percentile", type=float, default=99.99, show_default=True, help="Of the numbers kept by --method percentile."),
        click.option(
            "--method", type=click.Choice(["minmax", "percentile", "entropy"]), default="minmax", show_default=True,
            help="How ranges come from the numbers seen.",
        ),
    ):  # fmt: skip
        option(collect)
    return cast(F, collect)


def make_options(choices: Mapping[str, Any], how: Any) -> QuantizeOptions:
    """The options of quantisation from both groups of the command line."""
    from cnngraph.quantize import QuantizeOptions

    return QuantizeOptions(**choices, compile=how.options(), shapes=dict(how.shapes))


def _read_names(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the list '{printable(str(path))}' cannot be read: {printable(str(error))}") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
