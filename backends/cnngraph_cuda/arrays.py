"""Run a program on arrays that lie on the GPU already: ``__cuda_array_interface__`` and DLPack, in and out.

Example::

    runner = DeviceRunner(cnngraph.load("model.cnng"))
    y = runner.run({"input": torch_tensor})["output"]
    torch.from_dlpack(y)
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnngraph.errors import InvalidInputError, UsageError, printable
from cnngraph.ir.types import DType
from cnngraph.runtime.program import FIRST_IO
from cnngraph.runtime.session import Program
from cnngraph_cuda.executor import CudaExecutor

_CUDA, _CUDA_MANAGED = 2, 13
"""DLPack's device types whose addresses a kernel can read."""

_CODES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"}


class _DLDevice(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("number", ctypes.c_int32))


class _DLType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device", _DLDevice), ("ndim", ctypes.c_int32), ("dtype", _DLType),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


class _DLManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_exported: dict[int, Any] = {}


@_Deleter
def _release(address: int) -> None:
    _exported.pop(address, None)


@_Deleter
def _destroy(capsule: int) -> None:
    """A capsule nobody took over ends: so does its tensor."""
    api = ctypes.pythonapi
    api.PyCapsule_IsValid.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    if api.PyCapsule_IsValid(capsule, b"dltensor"):
        api.PyCapsule_GetPointer.restype, api.PyCapsule_GetPointer.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
        _exported.pop(api.PyCapsule_GetPointer(capsule, b"dltensor"), None)


@dataclass(frozen=True)
class Where:
    """An array on a device: address, shape, dtype name."""

    address: int
    shape: tuple[int, ...]
    dtype: str


class DeviceArray:
    """A row-major array on the GPU that owns its memory.

    Attributes:
        address, shape, dtype: where and what it is.
    """

    def __init__(self, device: Any, shape: tuple[int, ...], dtype: DType, number: int = 0) -> None:
        self.shape, self.dtype = shape, dtype
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._device, self._number = device, number
        self.address = device.allocate(max(self.nbytes, 256))

    def __del__(self) -> None:
        address = getattr(self, "address", None)
        if address is not None:
            self._device.free(address)

    def numpy(self) -> np.ndarray:
        """A copy in the computer's memory."""
        out = np.empty(self.shape, self.dtype.numpy)
        self._device.download(out, self.address)
        return out

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3, "shape": self.shape, "typestr": self.dtype.numpy.str, "data": (self.address, False),
            "strides": None, "stream": None,
        }  # fmt: skip

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, self._number

    def __dlpack__(self, *, stream: Any = None, **others: Any) -> Any:
        """A capsule; the numbers are complete, whatever the stream."""
        shape = (ctypes.c_int64 * max(len(self.shape), 1))(*self.shape)
        code = 4 if self.dtype is DType.BF16 else 6 if self.dtype is DType.BOOL else {"f": 2, "i": 0, "u": 1}[self.dtype.numpy.kind]
        managed = _DLManagedTensor()
        managed.tensor.data, managed.tensor.device = self.address, _DLDevice(_CUDA, self._number)
        managed.tensor.ndim, managed.tensor.dtype = len(self.shape), _DLType(code, self.dtype.bits, 1)
        managed.tensor.shape = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64))
        managed.deleter = ctypes.cast(_release, ctypes.c_void_p)
        address = ctypes.addressof(managed)
        _exported[address] = (managed, shape, self)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(address, b"dltensor", ctypes.cast(_destroy, ctypes.c_void_p))


def _from_interface(array: Any) -> Where:
    facts = array.__cuda_array_interface__
    dtype = np.dtype(facts["typestr"])
    shape = tuple(int(d) for d in facts["shape"])
    strides = facts.get("strides")
    if strides is not None and not _contiguous(shape, [s // max(dtype.itemsize, 1) for s in strides]):
        raise InvalidInputError("an array on the GPU must be row-major without gaps")
    return Where(int(facts["data"][0]), shape, dtype.name)


def _from_dlpack(array: Any, stream: int) -> tuple[Where, Any]:
    kind, _ = array.__dlpack_device__()
    if kind not in (_CUDA, _CUDA_MANAGED):
        raise InvalidInputError("a DLPack array must lie on the GPU")
    capsule = array.__dlpack__(stream=stream)
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _DLManagedTensor.from_address(get(capsule, b"dltensor")).tensor
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    if bool(tensor.strides) and not _contiguous(shape, [tensor.strides[i] for i in range(tensor.ndim)]):
        raise InvalidInputError("an array on the GPU must be row-major without gaps")
    name = _CODES.get(tensor.dtype.code, "")
    dtype = "bool" if name == "bool" else f"{name}{tensor.dtype.bits}"
    return Where((tensor.data or 0) + tensor.byte_offset, shape, dtype), capsule


def _contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    expected = 1
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        if extent != 1 and stride != expected:
            return 0 in shape
        expected *= extent
    return True


class DeviceRunner:
    """Runs a CUDA program on arrays of the GPU or of NumPy, and leaves the results on the GPU.

    Raises:
        UsageError: the program is not one of this backend.
    """

    def __init__(self, program: Program) -> None:
        if not isinstance(program._executor, CudaExecutor):
            raise UsageError(f"the program is for the backend {printable(program.data.backend)}, not cuda")
        self.program = program
        self._executor = program._executor

    def run(self, feeds: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """Outputs by name.

        Args:
            feeds: for every input an array with ``__cuda_array_interface__`` or ``__dlpack__`` on the GPU, or a NumPy array.

        Raises:
            InvalidInputError: an unknown or missing name, a wrong dtype or shape, a stride, different batches.
        """
        executor, data = self._executor, self.program.data
        with executor._lock:
            device = executor.device()
            stream = int(getattr(getattr(device, "stream", None), "value", 0) or 0)
            places: dict[str, Where] = {}
            held: list[Any] = []
            shapes: dict[str, np.ndarray] = {}
            for name, feed in feeds.items():
                if isinstance(feed, np.ndarray):
                    shapes[name] = feed
                    continue
                if hasattr(feed, "__cuda_array_interface__"):
                    places[name] = _from_interface(feed)
                    waited = feed.__cuda_array_interface__.get("stream")
                    if waited:
                        device.wait_for(int(waited))
                elif hasattr(feed, "__dlpack__"):
                    places[name], capsule = _from_dlpack(feed, stream)
                    held.append(capsule)
                else:
                    raise InvalidInputError(f"input {printable(str(name))} is no array: {type(feed).__name__}")
                where = places[name]
                try:
                    shapes[name] = np.broadcast_to(np.zeros((), DType(where.dtype).numpy), where.shape)
                except ValueError:
                    raise InvalidInputError(f"input {printable(str(name))} has the unknown type {where.dtype}") from None
            batch = self._batch(shapes)
            bound = executor.bind(batch)
            for i, spec in enumerate(data.inputs):
                target = bound.bases[FIRST_IO + i]
                if spec.name in places:
                    where = places[spec.name]
                    device.copy(target, where.address, int(np.prod(where.shape, dtype=np.int64)) * DType(where.dtype).itemsize)
                else:
                    device.upload(target, np.ascontiguousarray(shapes[spec.name]))
            try:
                executor.replay(bound)
            finally:
                executor.check(bound)
            copied = dict(data.copies)
            results = {}
            for i, spec in enumerate(data.outputs):
                out = DeviceArray(device, tuple(a * batch + b for a, b in spec.factors()), DType(spec.dtype))
                ref = copied.get(i)
                source = bound.bases[FIRST_IO + len(data.inputs) + i] if ref is None else executor._address(ref, bound)
                device.copy(out.address, source, out.nbytes)
                results[spec.name] = out
            device.synchronize()
            held.clear()
            return results

    def _batch(self, shapes: Mapping[str, np.ndarray]) -> int:
        """The batch size of the feeds, which are checked as :meth:`Program.run` does."""
        known = {s.name for s in self.program.data.inputs}
        for name in shapes:
            if name not in known:
                raise InvalidInputError(f"no input is called {printable(str(name))}; there is {', '.join(map(printable, sorted(known)))}")
        missing = sorted(known - set(shapes))
        if missing:
            raise InvalidInputError(f"input {printable(missing[0])} is missing")
        batch: int | None = None
        for spec in self.program.data.inputs:
            array = shapes[spec.name]
            if array.dtype != DType(spec.dtype).numpy:
                raise InvalidInputError(f"input {printable(spec.name)} must be {spec.dtype}, got {array.dtype.name}")
            factors = spec.factors()
            fits = len(factors) == array.ndim
            for size, (a, b) in zip(array.shape, factors, strict=False):
                if a and size % a == 0 and size:
                    if batch is not None and batch != size // a:
                        raise InvalidInputError(f"input {printable(spec.name)} has batch {size // a}, another input {batch}")
                    batch = size // a
                else:
                    fits = fits and not a and size == b
            if not fits:
                raise InvalidInputError(f"input {printable(spec.name)} must have shape {spec.shape}, got {array.shape}")
        return 1 if batch is None else batch
