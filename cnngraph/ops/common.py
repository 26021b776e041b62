"""What the operator families share: symbolic broadcasting, window arithmetic, and the precision of references."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from cnngraph.errors import InvalidModelError
from cnngraph.ir.types import Dim, DType, Shape, Sym, SymbolicBatchError, TensorType, ceil_div, numel
from cnngraph.ops.base import require

MIXED = (DType.F32, DType.F16, DType.BF16)
"""Types that an operator with an attribute ``to`` takes beside each other."""


def show(shape: Sequence[Dim]) -> str:
    """A shape as messages print it, e.g. ``[Nx3x224x224]``."""
    return f"[{'x'.join(map(str, shape))}]"


def result(dtype: DType, shape: Sequence[Dim]) -> TensorType:
    """The plain type of an output; raises SymbolicBatchError if its size is no multiple of N."""
    numel(shape)
    return TensorType(dtype, tuple(shape))


def match_dim(a: Dim, b: Dim, what: str) -> Dim:
    """``a`` if both are the same dimension.

    Raises:
        SymbolicBatchError: they agree for some batch sizes only.
        InvalidModelError: they never agree.
    """
    if a == b:
        return a
    if isinstance(a, Sym) != isinstance(b, Sym):
        raise SymbolicBatchError(f"{what}: {a} and {b} agree only for one batch size")
    raise InvalidModelError(f"{what}: {a} and {b} differ")


def match_shape(a: Sequence[Dim], b: Sequence[Dim], what: str) -> None:
    """Make sure that both are the same shape.

    Raises:
        SymbolicBatchError: they agree for some batch sizes only.
        InvalidModelError: they never agree.
    """
    require(len(a) == len(b), f"{what}: {show(a)} and {show(b)} differ")
    for one, other in zip(a, b, strict=True):
        match_dim(one, other, what)


def broadcast(*shapes: Shape) -> Shape:
    """NumPy's broadcast of the shapes; a symbolic dimension goes with 1 and with its equal only."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dim] = [1] * rank
    for shape in shapes:
        for i, dim in enumerate(shape, rank - len(shape)):
            if out[i] == 1:
                out[i] = dim
            elif dim != 1:
                match_dim(out[i], dim, f"shapes {' and '.join(map(show, shapes))} do not broadcast")
    return tuple(out)


def require_broadcastable_to(shape: Shape, target: Shape, what: str) -> None:
    """Raise InvalidModelError unless ``shape`` broadcasts against ``target`` without enlarging it."""
    require(
        len(shape) <= len(target) and broadcast(shape, target) == target,
        f"{what} of shape {show(shape)} does not broadcast to {show(target)}",
    )


def same_dtype(types: Sequence[TensorType], what: str) -> DType:
    """The one dtype of all ``types`` (at least one)."""
    require(types, f"{what} needs at least one input")
    dtypes = {t.dtype for t in types}
    require(len(dtypes) == 1, f"{what} mixes element types {', '.join(sorted(d.value for d in dtypes))}")
    return types[0].dtype


def mixed_dtype(types: Sequence[TensorType], to: DType | None, what: str) -> DType:
    """The dtype of a result: that of all ``types``, or ``to``, which lets float32 and 16-bit floats mix."""
    if to is None:
        return same_dtype(types, what)
    require(to in MIXED and all(t.dtype in MIXED for t in types), f"{what} mixes float32 and 16-bit floats only")
    return to


def in_result(y: np.ndarray, x: np.ndarray, to: DType | None) -> np.ndarray:
    """``y`` in the type of a result: ``to`` if it is given, else that of ``x``; references in float64 stay there."""
    return np.asarray(y.astype(x.dtype if to is None or x.dtype == np.float64 else to.numpy))


def require_axis(axis: int, rank: int, what: str) -> None:
    """Raise InvalidModelError unless ``axis``, already resolved, is one of a tensor of rank ``rank``."""
    require(0 <= axis < rank, f"{what} axis {axis} is outside a tensor of rank {rank}")


def forbid_batch(dim: Dim, sentence: str) -> int:
    """``dim`` as an integer, or SymbolicBatchError with ``sentence`` if it depends on the batch size."""
    if isinstance(dim, Sym):
        raise SymbolicBatchError(f"{sentence} (dimension {dim})")
    return dim


def require_window(rank: int, kernel: tuple[int, ...], strides: tuple[int, ...], pads: tuple[int, ...], dilations: tuple[int, ...]) -> None:
    """Check the attributes of a sliding window over an input of rank ``rank`` (batch, channels, 1 to 3 spatial axes)."""
    spatial = len(kernel)
    require(1 <= spatial <= 3, f"kernel {show(kernel)} has {spatial} spatial axes, not 1 to 3")
    require(rank == spatial + 2, f"input of rank {rank} does not suit a kernel of {spatial} spatial axes")
    for what, values, count in (("strides", strides, spatial), ("dilations", dilations, spatial), ("pads", pads, 2 * spatial)):
        require(len(values) == count, f"{what} {values} do not suit a kernel of {spatial} spatial axes")
    require(all(k >= 1 for k in kernel), f"kernel {show(kernel)} has an extent below 1")
    require(all(s >= 1 for s in strides), f"strides {strides} must be at least 1")
    require(all(d >= 1 for d in dilations), f"dilations {dilations} must be at least 1")
    require(all(p >= 0 for p in pads), f"pads {pads} must not be negative")


def window_extents(
    spatial: Sequence[int],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    ceil_mode: bool = False,
) -> tuple[int, ...]:
    """Number of windows along each spatial axis (ONNX Conv and Pool).

    With ``ceil_mode`` a last partial window counts if it starts inside the input or its left padding, and so does the only one where the
    kernel is larger than the padded input by less than a stride.
    """
    out = []
    for i, extent in enumerate(spatial):
        begin, end = pads[i], pads[i + len(kernel)]
        reach = dilations[i] * (kernel[i] - 1) + 1
        room = extent + begin + end - reach
        windows = (ceil_div(room, strides[i]) if ceil_mode else room // strides[i]) + 1
        require(
            windows >= 1,
            f"kernel {show(kernel)} with dilations {dilations} is larger than the input {show(spatial)} padded by {pads}",
        )
        if ceil_mode and (windows - 1) * strides[i] >= extent + begin:
            windows -= 1
        out.append(windows)
    return tuple(out)


def taps(
    kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...], out: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """For each kernel position: its index, and the slices of the padded spatial axes that it meets, one per window."""
    for tap in product(*(range(k) for k in kernel)):
        yield (
            tap,
            tuple(slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, s, o in zip(tap, dilations, strides, out, strict=True)),
        )


def widened(array: np.ndarray) -> np.ndarray:
    """``array`` in the precision references compute in: 16-bit floats become float32, others stay."""
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array
