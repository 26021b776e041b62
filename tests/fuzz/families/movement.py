"""Operators that reshape, select and repeat, and those that make tensors from shapes."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

from cnngraph.ir.types import DType
from tests.fuzz.case import PLAIN, Array, Case, Draw, strategy

I64 = np.int64


def vector(numbers: list[int], dtype: type = I64) -> Array:
    """Shape-like numbers."""
    return np.array(numbers, dtype)


def _factors(d: Draw, total: int) -> list[int]:
    """Extents whose product is ``total``."""
    out = []
    for _ in range(d.int(0, 3)):
        divisors = [k for k in range(1, total + 1) if total % k == 0] or [0]
        out.append(divisors[d.int(0, len(divisors) - 1)])
        total //= max(out[-1], 1)
    return [*out, total] if total != 1 or d.flag() else out


@strategy("Reshape")
def reshape(d: Draw) -> Case:
    shape = d.shape(0, 4, 0)
    total = int(np.prod(shape, dtype=int))
    zero = d.int(0, 1) if d.opset >= 14 and d.flag(0.3) else None
    if total == 0:
        wanted = list(shape) if zero else [0 if i < len(shape) and e == 0 else e for i, e in enumerate(shape)]
        if not zero and d.flag(0.3):
            wanted = [0] * len(shape)
    else:
        wanted = _factors(d, total)
        for i, extent in enumerate(wanted):
            if not zero and i < len(shape) and shape[i] == extent and d.flag(0.3):
                wanted[i] = 0
        if wanted and d.flag(0.4):
            wanted[d.int(0, len(wanted) - 1)] = -1
    return d.case([d.array(shape, d.dtype()), vector(wanted)], constants=(1,) if d.flag(0.8) else (), fixed=(1,), allowzero=zero)


@strategy("Flatten")
def flatten(d: Draw) -> Case:
    shape = d.shape(0, 4, 0)
    low = -len(shape) if d.opset >= 11 else 0
    if not shape:
        return d.case([d.array(shape, d.dtype())], axis=0)
    return d.case([d.array(shape, d.dtype())], **d.some(axis=lambda: d.int(low, len(shape))))


def _axes_case(d: Draw, x: Array, axes: list[int] | None, since: int, **attributes: object) -> Case:
    """Axes as an attribute before operator set ``since``, as an input from then on."""
    if axes is None:
        return d.case([x], **attributes)
    if d.opset < since:
        return d.case([x], axes=axes, **attributes)
    return d.case([x, vector(axes)], constants=(1,), fixed=(1,), **attributes)


@strategy("Squeeze", "Unsqueeze")
def squeeze(d: Draw) -> Case:
    shape = list(d.shape(0, 4, 0))
    negative = d.opset >= 11
    if d.op == "Squeeze":
        ones = d.axes(len(shape))
        for axis in ones:
            shape[axis] = 1
        axes = None if not ones or d.flag(0.2) else ones
        if axes is not None and not negative:
            axes = [a % len(shape) for a in axes]
    else:
        count = d.int(1, 3)
        rank = len(shape) + count
        axes = [a if negative else a % rank for a in d.axes(rank, rank)][:count]
        if not axes:
            axes = [0]
    return _axes_case(d, d.array(shape, d.dtype()), axes, 13)


@strategy("Transpose")
def transpose(d: Draw) -> Case:
    shape = d.shape(0, 5, 0)
    return d.case([d.array(shape, d.dtype())], perm=d.permutation(len(shape)) if shape and d.flag(0.8) else None)


@strategy("Concat")
def concat(d: Draw) -> Case:
    shape = list(d.shape(1, 4))
    axis = d.axis(len(shape)) if d.opset >= 11 else d.int(0, len(shape) - 1)
    parts = []
    for _ in range(d.int(1, 4)):
        shape[axis] = d.int(0 if d.flag(0.1) else 1, 5)
        parts.append(d.array(shape, d.dtype()))
    return d.case(parts, axis=axis)


@strategy("Split")
def split(d: Draw) -> Case:
    shape = list(d.shape(1, 4))
    axis = d.axis(len(shape)) if d.opset >= 11 else d.int(0, len(shape) - 1)
    count = d.int(1, 4)
    sizes = d.ints(count, 0 if d.flag(0.2) else 1, 4)
    equal = d.flag(0.4)
    given: dict[str, object] = {"axis": axis} if axis or d.flag() else {}
    second = None
    if equal and d.opset >= 18:
        part = d.int(1, 3)
        shape[axis] = part * (count - 1) + d.int(1, part)
        given["num_outputs"] = count
    elif equal:
        shape[axis] = sizes[0] * count
    else:
        shape[axis] = sum(sizes)
        if d.opset < 13:
            given["split"] = sizes
        else:
            second = vector(sizes)
    return d.case([d.array(shape, d.dtype()), second], count, constants=(1,), fixed=(1,), **given)


@strategy("Slice")
def slice_(d: Draw) -> Case:
    shape = d.shape(1, 4, 0)
    count = d.int(1, len(shape))
    axes = d.axes(len(shape), len(shape))[:count]
    far = 2**31 - 1 if d.flag(0.2) else 7
    starts, ends = d.ints(count, -7, 7), [far if d.flag(0.3) else d.int(-7, 7) for _ in range(count)]
    named = d.flag(0.7)
    if not named:
        axes = list(range(count))
    x = d.array(shape, d.dtype())
    if d.opset < 10:
        axes = [a % len(shape) for a in axes]
        return d.case([x], starts=starts, ends=ends, axes=axes if named else None)
    steps = [(-1 if d.flag(0.4) else 1) * d.int(1, 3) for _ in range(count)] if d.flag(0.7) else None
    index = np.int32 if d.flag(0.3) else np.int64
    if steps and d.flag(0.3):
        ends = [-(2**31) if s < 0 else e for s, e in zip(steps, ends, strict=True)]
    axes_input = vector(axes, index) if named else None
    rest = [vector(starts, index), vector(ends, index), axes_input, None if steps is None else vector(steps, index)]
    return d.case([x, *rest], constants=(1, 2, 3, 4), fixed=(1, 2, 3, 4))


@strategy("Pad")
def pad(d: Draw) -> Case:
    mode = d.pick("constant", "reflect", "edge", "wrap") if d.opset >= 19 else d.pick("constant", "reflect", "edge")
    shape = d.shape(1, 4, 1)
    rank = len(shape)
    axes = d.axes(rank) if d.opset >= 18 and d.flag(0.4) else None
    chosen = list(range(rank)) if axes is None else [a % rank for a in axes]
    pads = []
    for _ in range(2):
        for axis in chosen:
            most = min(shape[axis] - 1, 3) if mode == "reflect" else 3
            low = -1 if d.flag(0.15) and shape[axis] > 2 else 0
            pads.append(d.int(low, max(most, 0)))
    x = d.array(shape, d.dtype())
    named = {"mode": mode} if mode != "constant" or d.flag() else {}
    if d.opset < 11:
        return d.case([x], pads=pads, **named, **({"value": d.number(-2, 2)} if d.flag() else {}))
    value = d.array((), d.dtype(), special=False) if d.flag() else None
    return d.case([x, vector(pads), value, None if axes is None else vector(axes)], constants=(1, 2, 3), fixed=(1, 3), **named)


@strategy("Expand")
def expand(d: Draw) -> Case:
    shape = d.shape(0, 4, 0)
    wanted = [1 if d.flag(0.2) else e for e in shape]
    x = d.array(d.broadcast(shape), d.dtype())
    return d.case([x, vector(wanted)], constants=(1,) if d.flag(0.8) else (), fixed=(1,))


@strategy("Tile")
def tile(d: Draw) -> Case:
    shape = d.shape(1, 4, 0)
    return d.case([d.array(shape, d.dtype()), vector(d.ints(len(shape), 0 if d.flag(0.1) else 1, 3))], constants=(1,), fixed=(1,))


@strategy("DepthToSpace", "SpaceToDepth")
def blocks(d: Draw) -> Case:
    b, (n, c, h, w) = d.int(1, 3), d.ints(4, 1, 3)
    shape = (n, c * b * b, h, w) if d.op == "DepthToSpace" else (n, c, h * b, w * b)
    moded = (d.op == "DepthToSpace" and d.opset >= 11) or d.opset >= 28
    return d.case([d.array(shape, d.dtype())], blocksize=b, mode=d.pick("DCR", "CRD") if moded and d.flag() else None)


@strategy("Shape", "Size")
def shape_(d: Draw) -> Case:
    shape = d.shape(0, 4, 0)
    if d.op == "Size" or d.opset < 15:
        return d.case([d.array(shape, d.dtype())])
    return d.case([d.array(shape, d.dtype())], **d.some(start=lambda: d.int(-5, 5), end=lambda: d.int(-5, 5)))


@strategy("Constant")
def constant(d: Draw) -> Case:
    kind = d.pick("value", "value_float", "value_floats", "value_int", "value_ints") if d.opset >= 12 else "value"
    if kind == "value":
        dtype = d.one_of(PLAIN)
        return d.case([], value=numpy_helper.from_array(d.array(d.shape(0, 3, 0), dtype), "v"))
    numbers = d.ints(d.int(1, 3), -9, 9)
    single = kind in ("value_float", "value_int")
    shown = [n / 4 for n in numbers] if "float" in kind else numbers
    return d.case([], **{kind: shown[0] if single else shown})


@strategy("ConstantOfShape")
def constant_of_shape(d: Draw) -> Case:
    dtype = d.one_of([t for t in PLAIN if t is not DType.BF16 or d.opset >= 20])
    value = numpy_helper.from_array(d.array((1,), dtype), "v") if d.flag(0.7) else None
    return d.case([vector(list(d.shape(0, 4, 0)))], constants=(0,), fixed=(0,), value=value)


@strategy("EyeLike")
def eye_like(d: Draw) -> Case:
    dtype = d.one_of([t for t in d.dtypes(0) if t in PLAIN])
    to = int(helper.np_dtype_to_tensor_dtype(d.one_of([t for t in d.dtypes(0) if t in PLAIN]).numpy)) if d.flag(0.4) else None
    return d.case([d.array(d.shape(2, 2), dtype)], dtype=to, **d.some(k=lambda: d.int(-4, 4)))


@strategy("Range")
def range_(d: Draw) -> Case:
    dtype = d.dtype()
    step = d.int(1, 4) * (-1 if d.flag(0.3) and dtype.range[0] < 0 else 1) if not dtype.is_float else 0
    start, limit = (d.int(-9, 9), d.int(-9, 9)) if dtype.is_float or dtype.range[0] < 0 else (d.int(0, 9), d.int(0, 9))
    numbers = (start, limit, step) if step else (start / 4, limit / 2, d.pick(1.0, 0.25, 0.5, -0.75))
    return d.case([np.array(v, dtype.numpy) for v in numbers], constants=(0, 1, 2))


@strategy("Trilu")
def trilu(d: Draw) -> Case:
    shape = d.shape(2, 4, 0)
    k = np.array(d.int(-6, 6), I64) if d.flag() else None
    return d.case([d.array(shape, d.dtype()), k], constants=(1,), **d.some(upper=lambda: d.int(0, 1)))


@strategy("ReverseSequence")
def reverse_sequence(d: Draw) -> Case:
    shape = d.shape(2, 4)
    time = d.int(0, 1)
    lengths = d.array((shape[1 - time],), DType.I64, 1, shape[time])
    given = {"time_axis": time, "batch_axis": 1 - time} if time or d.flag() else {}
    return d.case([d.array(shape, d.dtype()), lengths], fixed=(1,), **given)


@strategy("CenterCropPad")
def center_crop_pad(d: Draw) -> Case:
    shape = d.shape(1, 4)
    axes = d.axes(len(shape), 1) if d.flag() else None
    wanted = d.ints(len(shape) if axes is None else len(axes), 1, 7)
    return d.case([d.array(shape, d.dtype()), vector(wanted)], constants=(1,), fixed=(1,), axes=axes)
