"""Where onnxruntime departs from ONNX, or cannot be compared: each entry says when, as narrowly as possible, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.fuzz.case import Array, Case
from tests.fuzz.compare import Difference
from tests.fuzz.engines import comparable

When = Callable[[Case, Difference], bool]


@dataclass(frozen=True)
class Known:
    """A difference that is onnxruntime's own.

    Attributes:
        ops: operators concerned.
        what: kinds of the difference (see Difference).
        when: whether it is this one.
        reason: what onnxruntime does instead of what ONNX says.
    """

    ops: tuple[str, ...]
    what: tuple[str, ...]
    when: When
    reason: str


def _wrong(difference: Difference) -> tuple[Array, Array]:
    """The numbers of both sides, as float64, where they differ."""
    assert difference.got is not None and difference.wanted is not None
    a, b = (np.atleast_1d(comparable(v)).astype(np.float64) for v in (difference.got, difference.wanted))
    apart = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    return a[apart], b[apart]


def _message(*parts: str) -> When:
    """Whether onnxruntime's message contains all of these."""
    return lambda case, difference: all(part in difference.message for part in parts)


def _same_with_dilations(case: Case, difference: Difference) -> bool:
    return str(case.attribute("auto_pad", "")).startswith("SAME") and max(case.attribute("dilations", [1])) > 1


def _unbounded_infinities(case: Case, difference: Difference) -> bool:
    got, wanted = _wrong(difference)
    return bool(np.isinf(got).all()) and bool((np.abs(wanted) > 6e4).all() and np.isfinite(wanted).all())


def _ours_is_nan(case: Case, difference: Difference) -> bool:
    return bool(np.isnan(_wrong(difference)[0]).all())


def _stride_beyond_kernel(case: Case, difference: Difference) -> bool:
    pairs = zip(case.attribute("strides", []), case.attribute("kernel_shape", []), strict=False)
    return str(case.attribute("auto_pad", "")).startswith("SAME") and any(stride > kernel for stride, kernel in pairs)


def _unchanged_shape(case: Case, difference: Difference) -> bool:
    x = case.input(0)
    scales = [case.attribute("scales"), case.input(1 if case.op == "Upsample" or case.opset < 11 else 2)]
    if x is None or difference.wanted is None or not any(v is not None and (np.asarray(v) != 1).any() for v in scales):
        return False
    return bool(np.array_equal(x.astype(difference.wanted.dtype), difference.wanted))


def _transposed_beside_a_vector(case: Case, difference: Difference) -> bool:
    vector = any(a is not None and a.ndim == 1 for a in case.inputs)
    return vector and bool(case.attribute("transA") or case.attribute("transB"))


def _fewer_bins_than_given(case: Case, difference: Difference) -> bool:
    x, length = case.input(0), case.input(1)
    if not (case.attribute("inverse") and case.attribute("onesided")) or x is None or length is None:
        return False
    given = case.input(2)
    axis = case.attribute("axis", 1) if case.opset < 20 or given is None else int(given)
    return int(length) // 2 + 1 < x.shape[axis]


def _antialiased_signed_bytes(case: Case, difference: Difference) -> bool:
    got, wanted = _wrong(difference)
    return case.dtype() == "int8" and bool(case.attribute("antialias")) and bool(((wanted >= 0) | (np.abs(got - wanted) <= 1)).all())


def _fractional_length(case: Case, difference: Difference) -> bool:
    x, scales = case.input(0), case.input(2)
    transform = case.attribute("coordinate_transformation_mode")
    if transform not in ("align_corners", "tf_crop_and_resize") or x is None or scales is None or not scales.size:
        return False
    axes = list(case.attribute("axes", range(x.ndim)))
    return any(not float(scale * x.shape[axis]).is_integer() for scale, axis in zip(scales, axes, strict=True))


def _too_large_output_padding(case: Case, difference: Difference) -> bool:
    pairs = zip(case.attribute("output_padding", []), case.attribute("strides", []), strict=False)
    return "nput spatial dimensions" in difference.message and any(extra >= stride for extra, stride in pairs)


def _backward_to_the_largest(case: Case, difference: Difference) -> bool:
    ends, steps = case.input(2), case.input(4)
    return ends is not None and steps is not None and bool(((ends >= 2**31 - 1) & (steps < 0)).any())


def _region_of_an_unscaled_axis(case: Case, difference: Difference) -> bool:
    x, roi, y = case.input(0), case.input(1), difference.wanted
    if case.attribute("coordinate_transformation_mode") != "tf_crop_and_resize" or x is None or roi is None or y is None:
        return False
    axes = case.attribute("axes", range(x.ndim))
    regions = zip(axes, roi[: len(axes)], roi[len(axes) :], strict=True)
    return any(x.shape[axis] == y.shape[axis] and (start, end) != (0, 1) for axis, start, end in regions)


def _rounded_to_four_bits(case: Case, difference: Difference) -> bool:
    x = case.input(0)
    assert x is not None and difference.got is not None and difference.wanted is not None
    wide = np.asarray(x, np.float64)
    return bool((comparable(difference.got) == np.trunc(wide)).all()) and bool((np.abs(comparable(difference.wanted) - wide) <= 0.5).all())


def _truncated_interpolation(case: Case, difference: Difference) -> bool:
    got, wanted = _wrong(difference)
    return case.attribute("mode") != "nearest" and bool((np.abs(got - wanted) <= 1).all())


def _large_integers(case: Case, difference: Difference) -> bool:
    return case.dtype() in ("int64", "uint64") and any(a is not None and np.abs(a.astype(np.float64)).max() > 2**53 for a in case.inputs)


def _empty(case: Case, difference: Difference) -> bool:
    x = case.input(0)
    return x is not None and x.size == 0


def _odd_axes(case: Case, difference: Difference) -> bool:
    return case.attribute("axes", [0, 2, 3]) not in ([0, 2, 3], [0, 1, 2, 3])


def _two_types(case: Case, difference: Difference) -> bool:
    return case.dtype(0) != case.dtype(1)


REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
    "ReduceSumSquare",
)  # fmt: skip

POOLS = ("MaxPool", "AveragePool", "LpPool")

KNOWN: list[Known] = [
    Known(
        POOLS, ("shape",), _same_with_dilations,
        "auto_pad SAME_* computes the pads of an undilated kernel, so that the result is not ceil(extent / stride)",
    ),
    Known(
        ("Clip",), ("floats",), _unbounded_infinities,
        "a bound left out is the largest finite number; in ONNX's function body it bounds nothing, so that infinities stay",
    ),
    Known(
        ("Cast", "CastLike"), ("integers",), _rounded_to_four_bits,
        "floats are rounded to 4-bit integers; ONNX truncates them as for wider ones (onnx.reference agrees)",
    ),
    Known(
        ("ConvInteger",), ("lacking",), _message("conv_integer.cc"),
        "zero points of the weights for each output channel are not implemented",
    ),
    Known(
        ("MaxUnpool",), ("floats",), lambda case, _: case.input(2) is not None,
        "indices count in the tensor of the given output_shape; ONNX's node tests count them in the one inferred from the kernel",
    ),
    Known(
        ("Mod",), ("integers",), lambda case, d: bool(case.attribute("fmod")) and _large_integers(case, d),
        "fmod of 64-bit integers is computed in float64, which does not hold them",
    ),
    Known(("MeanVarianceNormalization",), ("floats",), _odd_axes, "only the axes [0, 2, 3] and [0, 1, 2, 3] are told apart"),
    Known(
        ("QuantizeLinear",), ("lacking",), lambda case, _: case.opset >= 23 and _two_types(case, _),
        "x and the scale must have one type; ONNX lets them differ since operator set 23",
    ),
    Known(("RMSNormalization",), ("lacking",), _two_types, "x and the scale must have one type; in ONNX the result has that of the scale"),
    Known(REDUCTIONS, ("shape",), _empty, "a reduced axis of an empty tensor stays 0; ONNX makes it 1"),
    Known(("ReduceMax", "ReduceMin"), ("floats",), _ours_is_nan, "NaN is left out of maxima and minima; onnx.reference propagates it"),
    Known(
        ("ReduceLogSumExp",), ("integers",), lambda case, _: True,
        "integers are exponentiated in integers; ONNX's function body computes in float64 and truncates the result",
    ),
    Known(("ReduceMean",), ("floats", "integers"), _empty, "the mean of no numbers is 0; ONNX leaves it undefined, and 0 / 0 is NaN"),
    Known(
        ("Resize", "Upsample"), ("integers",), _truncated_interpolation,
        "interpolated integers are truncated; onnx.reference and cnngraph round them",
    ),
    Known(
        ("Shrink",), ("integers", "floats"), lambda case, _: case.dtype() in ("int32", "uint32", "int64", "uint64", "float64"),
        "all types are computed in float32, which does not hold large integers and double precision",
    ),
    Known(
        (*POOLS, "com.microsoft::QLinearAveragePool"), ("lacking",), _message("padding values must be non-negative"),
        "auto_pad SAME_* with a stride above the kernel gives negative pads, which it then refuses",
    ),
    Known(("Clip",), ("lacking",), _message("min_ <= max_"), "attributes min above max are refused; ONNX says min(max(x, min), max)"),
    Known(
        ("GridSample",), ("floats",),
        lambda case, _: case.attribute("mode") in ("bicubic", "cubic") and case.attribute("padding_mode") == "border",
        "padding border clamps the coordinates before a cubic interpolation; onnx.reference clamps the pixels that it reads",
    ),
    Known(
        ("Resize", "Upsample"), ("floats", "integers"), _unchanged_shape,
        "a result of the shape of the input is a copy of it, whatever the scales that were rounded down to it",
    ),
    Known(
        ("Slice",), ("shape",), _backward_to_the_largest,
        "an end of INT_MAX means the beginning of the axis where steps go backwards; ONNX clamps it to the last element",
    ),
    Known(
        ("Resize",), ("integers",), _antialiased_signed_bytes,
        "antialiasing clamps int8 at 0 after each axis, as if it were uint8, and rounds halves up",
    ),
    Known(
        ("com.microsoft::FusedMatMul",), ("floats", "shape", "lacking"),
        _transposed_beside_a_vector,
        "transA and transB are left out where the other operand is a vector",
    ),
    Known(
        ("MeanVarianceNormalization",), ("floats",), lambda _, d: not _wrong(d)[0].any() and bool(np.isnan(_wrong(d)[1]).all()),
        "a variance of 0 divides by 0; ONNX's function body adds 1e-9",
    ),
    Known(("RNN", "GRU", "LSTM"), ("lacking",), _message("layout_ == 0"), "layout 1 (the batch first) is not implemented"),
    Known(
        ("MelWeightMatrix",), ("lacking",), _message("upper_edge_hertz produces a mel triangle"),
        "a triangle that ends at the last bin of an odd dft_length is refused",
    ),
    Known(
        ("DFT",), ("floats",), _fewer_bins_than_given,
        "an inverse of one side that is shorter than its bins does not drop the last ones; onnx.reference and NumPy do",
    ),
    Known(
        ("Resize",), ("floats", "integers"), _fractional_length,
        "align_corners and tf_crop_and_resize divide by the extent rounded down; in ONNX's node tests by scale * extent",
    ),
    Known(
        ("LSTM",), ("floats",), lambda case, _: case.attribute("clip") is not None,
        "the cell is not clipped before its activation; ONNX says that clip applies to the input of activations",
    ),
    Known(
        ("Col2Im",), ("floats",), lambda case, _: len(case.attribute("dilations", [])) in (1, 3) and max(case.attribute("dilations")) > 1,
        "dilations of images of one or three axes are applied wrongly; onnx.reference agrees with cnngraph",
    ),
    Known(
        ("ConvTranspose",), ("lacking",), _too_large_output_padding,
        "output_padding must be less than the stride; it may also be less than the dilation",
    ),
    Known(
        ("Resize",), ("floats", "integers"), _region_of_an_unscaled_axis,
        "the region of an axis of scale 1 is left out; in onnx.reference it applies to every axis",
    ),
    Known(
        ("Sign",), ("floats",), lambda case, d: case.dtype() in ("float16", "bfloat16") and _ours_is_nan(case, d),
        "the sign of a 16-bit NaN is 0",
    ),
    Known(
        (*POOLS, "com.microsoft::QLinearAveragePool"), ("floats", "integers"), _stride_beyond_kernel,
        "auto_pad SAME_* with a stride above the kernel gives negative pads, so that the first elements are left out",
    ),
    Known(
        ("QuantizeLinear", "DequantizeLinear"), ("lacking",), _message("block_size must be 0"),
        "one scale for one block is taken for a scale of the whole tensor, which has no blocks",
    ),
    Known(
        ("Resize",), ("lacking",), lambda case, _: case.attribute("mode") == "cubic" and case.dtype() != "float32",
        "cubic interpolation exists for float32 only",
    ),
    Known(("com.microsoft::FusedGemm",), ("lacking",), lambda case, _: case.attribute("activation") == "Clip", "Clip is not implemented"),
    Known(
        ("Dropout",), ("integers", "floats"), lambda case, d: case.opset < 12 and d.message.startswith("output 1"),
        "the mask of an inference is all False; ONNX says all True since operator set 12 and nothing before",
    ),
]  # fmt: skip


def known(case: Case, difference: Difference) -> Known | None:
    """The entry that explains a difference between references and onnxruntime, or None."""
    for entry in KNOWN:
        if case.op in entry.ops and difference.what in entry.what and entry.when(case, difference):
            return entry
    return None
