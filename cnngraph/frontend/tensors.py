"""From TensorProto to NumPy arrays; every size is checked before memory is allocated."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from cnngraph.errors import InvalidModelError, LimitExceededError, UnsupportedError, printable
from cnngraph.frontend.reader import parse_external, read_external
from cnngraph.ir.types import DType
from cnngraph.options import Limits

ELEMENT_TYPES: dict[int, DType] = {
    TensorProto.FLOAT: DType.F32,
    TensorProto.DOUBLE: DType.F64,
    TensorProto.FLOAT16: DType.F16,
    TensorProto.BFLOAT16: DType.BF16,
    TensorProto.INT8: DType.I8,
    TensorProto.INT16: DType.I16,
    TensorProto.INT32: DType.I32,
    TensorProto.INT64: DType.I64,
    TensorProto.UINT8: DType.U8,
    TensorProto.UINT16: DType.U16,
    TensorProto.UINT32: DType.U32,
    TensorProto.UINT64: DType.U64,
    TensorProto.BOOL: DType.BOOL,
}
_NARROW_TYPES = {
    "FLOAT8E4M3FN": DType.F8E4M3FN,
    "FLOAT8E4M3FNUZ": DType.F8E4M3FNUZ,
    "FLOAT8E5M2": DType.F8E5M2,
    "FLOAT8E5M2FNUZ": DType.F8E5M2FNUZ,
    "FLOAT8E8M0": DType.F8E8M0,
    "FLOAT6E2M3": DType.F6E2M3,
    "FLOAT6E3M2": DType.F6E3M2,
    "FLOAT4E2M1": DType.F4E2M1,
    "INT4": DType.I4,
    "UINT4": DType.U4,
    "INT2": DType.I2,
    "UINT2": DType.U2,
}
# older releases of onnx and ml_dtypes lack some of them
ELEMENT_TYPES.update(
    (TensorProto.DataType.Value(name), dtype)
    for name, dtype in _NARROW_TYPES.items()
    if name in frozenset(TensorProto.DataType.keys()) and hasattr(ml_dtypes, dtype.value)
)

_FIELDS: dict[DType, str] = {
    DType.F32: "float_data",
    DType.F64: "double_data",
    DType.I64: "int64_data",
    DType.U32: "uint64_data",
    DType.U64: "uint64_data",
}
_ALL_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def element_type(code: int) -> DType:
    """The DType of an ONNX element type.

    Raises:
        UnsupportedError: strings and complex numbers.
        InvalidModelError: the code is none that ONNX knows.
    """
    if code in ELEMENT_TYPES:
        return ELEMENT_TYPES[code]
    if code == TensorProto.UNDEFINED or code not in TensorProto.DataType.values():
        raise InvalidModelError(f"element type {code} does not exist in ONNX")
    raise UnsupportedError(f"element type {TensorProto.DataType.Name(code)} is not supported")


def onnx_code(dtype: DType) -> int:
    """The ONNX element type of a DType."""
    return next(code for code, known in ELEMENT_TYPES.items() if known is dtype)


def schema_name(dtype: DType) -> str:
    """How ONNX operator schemas spell a tensor of ``dtype``, e.g. ``tensor(float)``."""
    return f"tensor({dtype.onnx})"


@dataclass
class TensorReader:
    """Decodes the tensors of one model.

    Attributes:
        base: directory of external data, None if the model came from memory.
        limits: sizes that are refused.
        total: bytes decoded so far.
    """

    base: str | None
    limits: Limits
    total: int = 0

    def decode(self, tensor: onnx.TensorProto) -> np.ndarray:
        """The array; types of fewer than 8 bits take a byte an element. Errors do not name the tensor: the caller knows the name."""
        dtype = element_type(tensor.data_type)
        shape = tuple(tensor.dims)
        count = self.checked_numel(shape)
        nbytes = count * dtype.itemsize
        self.check_bytes(nbytes)
        if tensor.HasField("segment"):
            raise UnsupportedError("tensors in segments are not supported")
        filled = [name for name in _ALL_FIELDS if len(getattr(tensor, name))]
        raw = tensor.raw_data if tensor.HasField("raw_data") else None
        if tensor.data_location == TensorProto.EXTERNAL:
            if filled or raw:
                raise InvalidModelError("a tensor has both external and internal data")
            array = self._external(tensor, dtype, count)
        elif raw is not None and (raw or not filled):
            if filled:
                raise InvalidModelError(f"a tensor has both raw_data and {filled[0]}")
            array = _from_raw(raw, dtype, count, shape)
        else:
            array = _from_field(tensor, dtype, count, filled)
        self.total += nbytes
        return array.reshape(shape)

    def decode_strings(self, tensor: onnx.TensorProto) -> np.ndarray:
        """A tensor of strings, as an object array of str."""
        count = self.checked_numel(tuple(tensor.dims))
        if len(tensor.string_data) != count:
            raise InvalidModelError(f"a tensor of shape {list(tensor.dims)} needs {count} strings, but has {len(tensor.string_data)}")
        out = np.empty(count, object)
        out[:] = [text(item, "string") for item in tensor.string_data]
        return out.reshape(tuple(tensor.dims))

    def decode_sparse(self, tensor: onnx.SparseTensorProto) -> np.ndarray:
        """The dense array of a sparse tensor, zero wherever it stores nothing. Its places are flat, or one row of coordinates each."""
        values, places, shape = self.decode(tensor.values), self.decode(tensor.indices), tuple(tensor.dims)
        count = self.checked_numel(shape)
        nbytes = count * values.dtype.itemsize
        self.check_bytes(nbytes)
        if values.ndim != 1 or places.dtype != np.int64 or places.shape not in ((values.size,), (values.size, len(shape))):
            raise InvalidModelError(
                f"a sparse tensor of shape {list(shape)} has values {list(values.shape)} at places {places.dtype}{list(places.shape)}"
            )
        extents = np.array([count] if places.ndim == 1 else shape, np.int64)
        if np.any(places.reshape(values.size, -1) < 0) or np.any(places.reshape(values.size, -1) >= extents):
            raise InvalidModelError(f"a sparse tensor of shape {list(shape)} has a value outside")
        flat = places if places.ndim == 1 else np.ravel_multi_index(tuple(places.T), shape) if shape else np.zeros(values.size, np.int64)
        if np.any(np.diff(flat) <= 0):
            raise InvalidModelError("the places of a sparse tensor do not ascend")
        dense = np.zeros(count, values.dtype)
        dense[flat] = values
        self.total += nbytes
        return dense.reshape(shape)

    def decode_any(self, tensor: onnx.TensorProto) -> np.ndarray:
        """:meth:`decode` or, for strings, :meth:`decode_strings`."""
        return self.decode_strings(tensor) if tensor.data_type == TensorProto.STRING else self.decode(tensor)

    def checked_numel(self, shape: tuple[int, ...]) -> int:
        """Number of elements; refuses negative dimensions and too many axes."""
        if len(shape) > self.limits.max_rank:
            raise LimitExceededError(f"a tensor has {len(shape)} axes; the limit is {self.limits.max_rank}")
        if any(dim < 0 for dim in shape):
            raise InvalidModelError(f"a tensor has a negative dimension: {list(shape)}")
        count = 1
        for dim in shape:
            count *= dim
        return count

    def check_bytes(self, nbytes: int) -> None:
        """Refuse a tensor of ``nbytes`` bytes if it is too large, alone or with those before it."""
        if nbytes > self.limits.max_tensor_bytes:
            raise LimitExceededError(f"a tensor has {nbytes} bytes; the limit is {self.limits.max_tensor_bytes}")
        if self.total + nbytes > self.limits.max_total_bytes:
            raise LimitExceededError(f"the weights pass the limit of {self.limits.max_total_bytes} bytes")

    def _external(self, tensor: onnx.TensorProto, dtype: DType, count: int) -> np.ndarray:
        entries: dict[str, str] = {}
        for entry in tensor.external_data:
            if entry.key in entries:
                raise InvalidModelError(f"external data has the key '{printable(entry.key)}' twice")
            entries[text(entry.key, "external data key")] = text(entry.value, "external data value")
        nbytes = _raw_bytes(dtype, count)
        location, offset = parse_external(entries, nbytes)
        return _reinterpret(read_external(self.base, location, offset, nbytes), dtype, count)


def stored_name(tensor: onnx.TensorProto | onnx.SparseTensorProto) -> str:
    """The name of an initializer; that of a sparse one is its values' name."""
    return tensor.values.name if isinstance(tensor, onnx.SparseTensorProto) else tensor.name


def text(value: str | bytes, what: str) -> str:
    """A protobuf string that is valid UTF-8; the parser hands others out as bytes."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidModelError(f"the {what} {ascii(value)[:60]} is not valid UTF-8") from None
    return value


def _raw_bytes(dtype: DType, count: int) -> int:
    """Bytes of ``count`` elements as raw or external data."""
    return -(-count * dtype.bits // 8)


def _from_raw(raw: bytes, dtype: DType, count: int, shape: tuple[int, ...]) -> np.ndarray:
    nbytes = _raw_bytes(dtype, count)
    if len(raw) != nbytes:
        raise InvalidModelError(f"a tensor of shape {list(shape)} and type {dtype.value} needs {nbytes} bytes, but has {len(raw)}")
    return _reinterpret(np.frombuffer(raw, np.uint8), dtype, count)


def _reinterpret(data: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    """Little-endian bytes as ``count`` elements of ``dtype``; any non-zero byte is True."""
    if dtype is DType.BOOL:
        return data.astype(np.bool_)
    if dtype.bits < 8:
        return _unpack(data, dtype, count)
    if dtype is DType.BF16:
        return data.view("<u2").astype(np.uint16, copy=False).view(dtype.numpy)
    if dtype.is_extension:
        return data.view(dtype.numpy)
    array: np.ndarray = data.view(dtype.numpy.newbyteorder("<")).astype(dtype.numpy, copy=False)
    return array


def _unpack(data: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    """Elements of 6, 4 or 2 bits from a stream of bytes, the lowest bits first, each into the low bits of a byte."""
    bits = np.unpackbits(data, bitorder="little", count=count * dtype.bits).reshape(count, dtype.bits)
    return np.packbits(bits, axis=1, bitorder="little").reshape(-1).view(dtype.numpy)


def _from_field(tensor: onnx.TensorProto, dtype: DType, count: int, filled: list[str]) -> np.ndarray:
    field = _FIELDS.get(dtype, "int32_data")
    if [name for name in filled if name != field]:
        raise InvalidModelError(f"a tensor of type {dtype.value} keeps its data in {filled[0]}")
    stored = getattr(tensor, field)
    packed = dtype.bits in (4, 2)
    entries = _raw_bytes(dtype, count) if packed else count
    if len(stored) != entries:
        raise InvalidModelError(f"a tensor of shape {list(tensor.dims)} needs {entries} elements, but has {len(stored)}")
    if dtype in (DType.F32, DType.F64):
        return np.array(stored, dtype.numpy)
    numbers = np.array(stored, np.uint64 if field == "uint64_data" else np.int64)
    bits = "uint8" if packed or dtype is DType.BOOL else f"uint{8 * dtype.itemsize}" if dtype.is_float else dtype.value
    low, high = (0, 63) if dtype in (DType.F6E2M3, DType.F6E3M2) else DType(bits).range
    if count and not (low <= int(numbers.min()) and int(numbers.max()) <= high):
        raise InvalidModelError(f"a tensor of type {dtype.value} has data outside its range")
    narrow: np.ndarray = numbers.astype(bits)
    if dtype is DType.BOOL:
        return narrow.astype(np.bool_)
    typed: np.ndarray = _unpack(narrow, dtype, count) if packed else narrow.view(dtype.numpy)
    return typed
