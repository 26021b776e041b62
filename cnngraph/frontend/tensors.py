"""From TensorProto to NumPy arrays; every size is checked before memory is allocated."""

from __future__ import annotations

from dataclasses import dataclass

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
        UnsupportedError: strings, complex numbers and the 8- and 4-bit floats and 4-bit integers.
        InvalidModelError: the code is none that ONNX knows.
    """
    if code in ELEMENT_TYPES:
        return ELEMENT_TYPES[code]
    if code == TensorProto.UNDEFINED or code not in TensorProto.DataType.values():
        raise InvalidModelError(f"element type {code} does not exist in ONNX")
    raise UnsupportedError(f"element type {TensorProto.DataType.Name(code)} is not supported")


def schema_name(dtype: DType) -> str:
    """How ONNX operator schemas spell a tensor of ``dtype``, e.g. ``tensor(float)``."""
    special = {DType.F32: "float", DType.F64: "double"}
    return f"tensor({special.get(dtype, dtype.value)})"


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
        """The array; int8 ... float64, bool and bfloat16. Errors do not name the tensor: the caller knows the name."""
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
            array = self._external(tensor, dtype, nbytes)
        elif raw is not None and (raw or not filled):
            if filled:
                raise InvalidModelError(f"a tensor has both raw_data and {filled[0]}")
            array = _from_raw(raw, dtype, nbytes, shape)
        else:
            array = _from_field(tensor, dtype, count, filled)
        self.total += nbytes
        return array.reshape(shape)

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

    def _external(self, tensor: onnx.TensorProto, dtype: DType, nbytes: int) -> np.ndarray:
        entries: dict[str, str] = {}
        for entry in tensor.external_data:
            if entry.key in entries:
                raise InvalidModelError(f"external data has the key '{printable(entry.key)}' twice")
            entries[text(entry.key, "external data key")] = text(entry.value, "external data value")
        location, offset = parse_external(entries, nbytes)
        return _reinterpret(read_external(self.base, location, offset, nbytes), dtype)


def text(value: str | bytes, what: str) -> str:
    """A protobuf string that is valid UTF-8; the parser hands others out as bytes."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidModelError(f"the {what} {ascii(value)[:60]} is not valid UTF-8") from None
    return value


def _from_raw(raw: bytes, dtype: DType, nbytes: int, shape: tuple[int, ...]) -> np.ndarray:
    if len(raw) != nbytes:
        raise InvalidModelError(f"a tensor of shape {list(shape)} and type {dtype.value} needs {nbytes} bytes, but has {len(raw)}")
    return _reinterpret(np.frombuffer(raw, np.uint8), dtype)


def _reinterpret(data: np.ndarray, dtype: DType) -> np.ndarray:
    """Little-endian bytes as ``dtype``; any non-zero byte is True."""
    if dtype is DType.BOOL:
        return data.astype(np.bool_)
    if dtype is DType.BF16:
        return data.view("<u2").astype(np.uint16, copy=False).view(dtype.numpy)
    array: np.ndarray = data.view(dtype.numpy.newbyteorder("<")).astype(dtype.numpy, copy=False)
    return array


def _from_field(tensor: onnx.TensorProto, dtype: DType, count: int, filled: list[str]) -> np.ndarray:
    field = _FIELDS.get(dtype, "int32_data")
    if [name for name in filled if name != field]:
        raise InvalidModelError(f"a tensor of type {dtype.value} keeps its data in {filled[0]}")
    stored = getattr(tensor, field)
    if len(stored) != count:
        raise InvalidModelError(f"a tensor of shape {list(tensor.dims)} needs {count} elements, but has {len(stored)}")
    if dtype in (DType.F32, DType.F64):
        return np.array(stored, dtype.numpy)
    numbers = np.array(stored, np.uint64 if field == "uint64_data" else np.int64)
    bits = "uint16" if dtype in (DType.F16, DType.BF16) else "uint8" if dtype is DType.BOOL else dtype.value
    low, high = int(np.iinfo(bits).min), int(np.iinfo(bits).max)
    if count and not (low <= int(numbers.min()) and int(numbers.max()) <= high):
        raise InvalidModelError(f"a tensor of type {dtype.value} has data outside its range")
    narrow: np.ndarray = numbers.astype(bits)
    if dtype is DType.BOOL:
        return narrow.astype(np.bool_)
    typed: np.ndarray = narrow.view(dtype.numpy)
    return typed
