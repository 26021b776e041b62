"""Tensor types: dtype, shape with a symbolic batch, physical layout."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import total_ordering

import numpy as np

from cnngraph.errors import CnngraphError


class SymbolicBatchError(CnngraphError):
    """An expression of the batch size is not a multiple of it, so the batch cannot stay symbolic."""


class DType(enum.Enum):
    """Element types; the value is NumPy's (or ml_dtypes') name of the type.

    Types of fewer than 8 bits take one byte an element in memory.
    """

    F32 = "float32"
    F64 = "float64"
    F16 = "float16"
    BF16 = "bfloat16"
    I8 = "int8"
    I16 = "int16"
    I32 = "int32"
    I64 = "int64"
    U8 = "uint8"
    U16 = "uint16"
    U32 = "uint32"
    U64 = "uint64"
    BOOL = "bool"
    F8E4M3FN = "float8_e4m3fn"
    F8E4M3FNUZ = "float8_e4m3fnuz"
    F8E5M2 = "float8_e5m2"
    F8E5M2FNUZ = "float8_e5m2fnuz"
    F8E8M0 = "float8_e8m0fnu"
    F6E2M3 = "float6_e2m3fn"
    F6E3M2 = "float6_e3m2fn"
    F4E2M1 = "float4_e2m1fn"
    I4 = "int4"
    U4 = "uint4"
    I2 = "int2"
    U2 = "uint2"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy dtype."""
        if not self.is_extension:
            return np.dtype(self.value)
        import ml_dtypes  # here, so that a program of ordinary types runs without it

        return np.dtype(getattr(ml_dtypes, self.value))

    @property
    def onnx(self) -> str:
        """What ONNX and onnxruntime call the type, e.g. ``float`` and ``float8e4m3fn``."""
        return _ONNX_NAMES.get(self) or self.value.replace("_", "")

    @property
    def itemsize(self) -> int:
        """Bytes of one element in memory."""
        return self.numpy.itemsize

    @property
    def bits(self) -> int:
        """Bits of one element where ONNX packs them."""
        return _PACKED_BITS.get(self, 8 * self.itemsize)

    @property
    def is_extension(self) -> bool:
        """Whether the type comes from ml_dtypes, so that NumPy's own classification of dtypes does not know it."""
        return self in _EXTENSIONS

    @property
    def is_float(self) -> bool:
        """Whether the type is a floating-point one."""
        return "float" in self.value

    @property
    def range(self) -> tuple[int, int]:
        """The least and the greatest number of an integer type; of bool, 0 and 1."""
        if self is DType.BOOL:
            return 0, 1
        unsigned = self.value.startswith("u")
        return (0, (1 << self.bits) - 1) if unsigned else (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1)

    @staticmethod
    def of(array: np.ndarray) -> DType:
        """The DType of an array; raises ValueError for dtypes without one (strings, objects)."""
        return DType(array.dtype.name)


EXACT_F32 = 1 << 24
"""Every whole number of at most this magnitude is a float32, so sums that stay within it are exact, in any order."""

_EXTENSIONS = frozenset(d for d in DType if d.value == "bfloat16" or "_" in d.value or d.value.lstrip("u") in ("int4", "int2"))
_ONNX_NAMES = {
    DType.F32: "float", DType.F64: "double", DType.F8E8M0: "float8e8m0", DType.F6E2M3: "float6e2m3", DType.F6E3M2: "float6e3m2",
    DType.F4E2M1: "float4e2m1",
}  # fmt: skip
_PACKED_BITS = {DType.F6E2M3: 6, DType.F6E3M2: 6, DType.F4E2M1: 4, DType.I4: 4, DType.U4: 4, DType.I2: 2, DType.U2: 2}


@total_ordering
@dataclass(frozen=True)
class Sym:
    """``scale * N`` where N is the batch size, fixed only at run time. ``scale`` is at least 1."""

    scale: int = 1

    def __mul__(self, other: object) -> Dim:
        if isinstance(other, (int, np.integer)):
            return Sym(self.scale * int(other)) if other else 0
        raise SymbolicBatchError(f"{self} * {other} is not a multiple of the batch size")

    __rmul__ = __mul__

    def __floordiv__(self, other: object) -> Dim:
        if isinstance(other, Sym) and self.scale % other.scale == 0:
            return self.scale // other.scale
        if isinstance(other, (int, np.integer)) and other and self.scale % int(other) == 0:
            return Sym(self.scale // int(other))
        raise SymbolicBatchError(f"{self} // {other} is not a multiple of the batch size")

    __truediv__ = __floordiv__

    def __rfloordiv__(self, other: object) -> Dim:
        raise SymbolicBatchError(f"{other} // {self} is not a multiple of the batch size")

    __rtruediv__ = __rfloordiv__

    def __add__(self, other: object) -> Dim:
        if isinstance(other, Sym):
            return Sym(self.scale + other.scale)
        if isinstance(other, (int, np.integer)) and other == 0:
            return self
        raise SymbolicBatchError(f"{self} + {other} is not a multiple of the batch size")

    __radd__ = __add__

    def __sub__(self, other: object) -> Dim:
        if isinstance(other, Sym):
            if other.scale == self.scale:
                return 0
            if other.scale < self.scale:
                return Sym(self.scale - other.scale)
        elif isinstance(other, (int, np.integer)) and other == 0:
            return self
        raise SymbolicBatchError(f"{self} - {other} is not a multiple of the batch size")

    def __lt__(self, other: object) -> bool:
        if isinstance(other, Sym):
            return self.scale < other.scale
        if isinstance(other, (int, np.integer)) and other <= 1:
            return False
        raise SymbolicBatchError(f"{self} < {other} depends on the batch size")

    def __str__(self) -> str:
        return "N" if self.scale == 1 else f"{self.scale}N"

    __repr__ = __str__


Dim = int | Sym
Shape = tuple[Dim, ...]
BATCH = Sym(1)


@dataclass(frozen=True)
class Layout:
    """Physical order of a tensor's elements.

    ``block == 1``: plain row-major. Otherwise axis 1 (channels) is split in blocks of ``block``: the memory holds
    ``[d0, ceil(d1/block), d2.., dn, block]``, e.g. NCHW16c. The lanes that pad the last block hold
    unspecified numbers: kernels may write anything there and must never let them reach a real element.

    ``last``: channels last with ``block`` elements from one pixel to the next, which holds all channels. Here kernels leave whole
    16-byte pieces beyond the channels alone, so that a tensor with a wider block than it needs may lie between others' channels.
    """

    block: int = 1
    last: bool = False

    @property
    def plain(self) -> bool:
        """Whether this is row-major."""
        return self.block == 1

    def __str__(self) -> str:
        return "plain" if self.plain else f"{'last' if self.last else 'c'}{self.block}"


PLAIN = Layout()


@dataclass(frozen=True)
class TensorType:
    """dtype, logical shape (ONNX order, e.g. N,C,H,W) and physical layout of a value."""

    dtype: DType
    shape: Shape
    layout: Layout = PLAIN

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def physical_shape(self) -> Shape:
        """Shape of the memory: equal to ``shape`` when plain, ``[N, C/b, ..., b]`` when blocked."""
        if self.layout.plain:
            return self.shape
        block, channels = self.layout.block, self.shape[1]
        assert isinstance(channels, int)
        return (self.shape[0], -(-channels // block), *self.shape[2:], block)

    @property
    def physical_elements(self) -> Dim:
        """Elements in memory, channel padding included."""
        return numel(self.physical_shape)

    @property
    def nbytes(self) -> Dim:
        """Bytes in memory, channel padding included."""
        return numel((self.physical_elements, self.dtype.itemsize))

    def with_layout(self, layout: Layout) -> TensorType:
        """The same logical tensor in another physical order."""
        return TensorType(self.dtype, self.shape, layout)

    def bind(self, batch: int) -> TensorType:
        """This type with N replaced by ``batch``."""
        return TensorType(self.dtype, bind_shape(self.shape, batch), self.layout)

    def __str__(self) -> str:
        suffix = "" if self.layout.plain else f":{self.layout}"
        return f"{self.dtype.value}[{'x'.join(map(str, self.shape))}]{suffix}"


def keeps_blocks(source: TensorType, result: TensorType) -> bool:
    """Whether a reshape leaves images and channels alone, so that blocked memory is the same before and after it."""
    return min(source.rank, result.rank) > 2 and source.shape[:2] == result.shape[:2]


def numel(shape: Iterable[Dim]) -> Dim:
    """Product of the dimensions; raises SymbolicBatchError if N would appear twice."""
    scale, symbolic = 1, False
    for dim in shape:
        if isinstance(dim, Sym):
            if symbolic:
                raise SymbolicBatchError("the batch size appears twice in one shape")
            scale, symbolic = scale * dim.scale, True
        else:
            scale *= dim
    return Sym(scale) if symbolic and scale else scale


def bind_dim(dim: Dim, batch: int) -> int:
    """``dim`` with N replaced by ``batch``."""
    return dim.scale * batch if isinstance(dim, Sym) else dim


def bind_shape(shape: Iterable[Dim], batch: int) -> tuple[int, ...]:
    """``shape`` with N replaced by ``batch``."""
    return tuple(bind_dim(d, batch) for d in shape)


def per_image(dim: Dim) -> int:
    """The factor that multiplies N, or the number itself if it is independent of the batch."""
    return dim.scale if isinstance(dim, Sym) else dim


def static(shape: Iterable[Dim]) -> tuple[int, ...]:
    """``shape`` as plain integers; raises SymbolicBatchError if the batch is among them."""
    out = []
    for dim in shape:
        if isinstance(dim, Sym):
            raise SymbolicBatchError(f"dimension {dim} must not depend on the batch size here")
        out.append(dim)
    return tuple(out)


def strides_of(shape: Shape) -> Shape:
    """Row-major strides in elements; inner extents may hold N."""
    return tuple(numel(shape[i + 1 :]) for i in range(len(shape)))


def ceil_div(a: int, b: int) -> int:
    """ceil(a / b) for b > 0."""
    return -(-a // b)


def round_up(a: int, multiple: int) -> int:
    """The least multiple of ``multiple`` that is at least ``a``."""
    return ceil_div(a, multiple) * multiple


def product(values: Iterable[int]) -> int:
    """Product of integers."""
    return math.prod(values)
