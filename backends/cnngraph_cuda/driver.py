"""The CUDA driver through ctypes: memory, kernels, graphs, events. Running a program needs nothing else of CUDA.

``libcuda`` comes with the driver, not with any package. No function here is called before the first run.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnngraph.errors import CnngraphError, printable
from cnngraph.runtime.program import Kernel
from cnngraph_cuda.device import Launch
from cnngraph_cuda.tensor_maps import TensorMap

_ATTRIBUTE_MAJOR, _ATTRIBUTE_MINOR = 75, 76
_FUNCTION_MAX_DYNAMIC_SHARED = 8
_STREAM_NON_BLOCKING = 1
_CAPTURE_THREAD_LOCAL = 1
_MAP_TYPES = (7, 6, 9)
"""The driver's codes of float32, float16 and bfloat16, by the constant ``DT``."""
_MAP_BYTES = 128
"""Of an encoded map, and what CUDA 13 aligns it to (the driver asks for 64)."""
_L2_PROMOTION_128 = 2


class CudaError(CnngraphError):
    """There is no usable GPU, or the driver reports a failure."""


class Library:
    """The driver library; calls raise :class:`CudaError` unless they succeed.

    Args:
        path: the library; None: that named by ``CNNGRAPH_CUDA_LIBRARY``, else the system's.
    """

    def __init__(self, path: str | None = None) -> None:
        name = path or os.environ.get("CNNGRAPH_CUDA_LIBRARY") or ("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise CudaError(f"running a CUDA program needs an NVIDIA driver, and there is none here: {error}") from None

    def __call__(self, function: str, *arguments: Any) -> None:
        """Call ``function``; arguments are ctypes values or byrefs."""
        status = getattr(self._library, function)(*arguments)
        if status:
            raise CudaError(f"{function} failed: {self._name(status)}")

    def _name(self, status: int) -> str:
        text = ctypes.c_char_p()
        try:
            self._library.cuGetErrorString(status, ctypes.byref(text))
        except AttributeError:
            return str(status)
        return f"{(text.value or b'unknown error').decode()} ({status})"


class CudaDevice:
    """One GPU (see :class:`cnngraph_cuda.device.Device`), with a stream of its own.

    Args:
        isa: what the kernels are compiled for; None skips the comparison with the GPU.
        number: which GPU.
        library: the driver library.

    Raises:
        CudaError: no driver, no GPU, or one that cannot run these kernels.
    """

    def __init__(self, isa: str | None = None, number: int | None = None, library: Library | None = None) -> None:
        self.call = library or Library()
        self.call("cuInit", ctypes.c_uint(0))
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        number = int(os.environ.get("CNNGRAPH_CUDA_DEVICE", "0")) if number is None else number
        if not 0 <= number < count.value:
            raise CudaError(f"there is no GPU {number}; the driver has {count.value}")
        device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(number))
        self._device = device
        self.capability = (self._attribute(_ATTRIBUTE_MAJOR), self._attribute(_ATTRIBUTE_MINOR))
        if isa is not None:
            self._require(isa)
        self._context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self._local = threading.local()
        self._enter()
        self.stream = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(self.stream), ctypes.c_uint(_STREAM_NON_BLOCKING))
        self._shared: dict[int, int] = {}

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), self._device)
        return value.value

    def name(self) -> str:
        """What the driver calls the GPU."""
        text = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", text, ctypes.c_int(256), self._device)
        return text.value.decode(errors="replace")

    def driver_version(self) -> int:
        """The newest CUDA version the driver serves, 13000 for 13.0."""
        version = ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(version))
        return version.value

    def _require(self, isa: str) -> None:
        from cnngraph_cuda.target import resolve

        target = resolve(isa)
        wanted, have = target.capability, self.capability
        suits = wanted == have if target.arch.endswith("a") else wanted[0] == have[0] and wanted[1] <= have[1]
        if not suits:
            raise CudaError(
                f"the program is compiled for {printable(target.arch)}, this GPU is sm_{have[0]}{have[1]}; "
                f"compile with --arch sm_{have[0]}{have[1]}"
            )

    def _enter(self) -> None:
        """Make the context current in this thread."""
        if not getattr(self._local, "entered", False):
            self.call("cuCtxSetCurrent", self._context)
            self._local.entered = True

    def allocate(self, nbytes: int) -> int:
        """See :class:`Device`."""
        self._enter()
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(nbytes))
        return address.value

    def free(self, address: int) -> None:
        """See :class:`Device`."""
        self._enter()
        self.call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: np.ndarray) -> None:
        """See :class:`Device`; the copy is over when this returns."""
        self._enter()
        if array.nbytes:
            self.call(
                "cuMemcpyHtoDAsync_v2",
                ctypes.c_uint64(address),
                ctypes.c_void_p(array.ctypes.data),
                ctypes.c_size_t(array.nbytes),
                self.stream,
            )
            self.synchronize()

    def download(self, array: np.ndarray, address: int) -> None:
        """See :class:`Device`."""
        self._enter()
        if array.nbytes:
            self.call(
                "cuMemcpyDtoHAsync_v2",
                ctypes.c_void_p(array.ctypes.data),
                ctypes.c_uint64(address),
                ctypes.c_size_t(array.nbytes),
                self.stream,
            )
        self.synchronize()

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy from device memory to device memory, in the stream's order."""
        self._enter()
        self.call("cuMemcpyDtoDAsync_v2", ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(nbytes), self.stream)

    def synchronize(self) -> None:
        """Wait for everything in the stream."""
        self._enter()
        self.call("cuStreamSynchronize", self.stream)

    def wait_for(self, stream: int) -> None:
        """See :class:`Device`; 1 and 2 are the default streams of the process and of this thread."""
        self._enter()
        self.call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def load(self, kernel: Kernel) -> Any:
        """The function in a cubin."""
        self._enter()
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(kernel.code))
        self.call("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(kernel.symbol.encode()))
        return function

    def start(self, launch: Launch, function: Any) -> None:
        """Launch one kernel into the stream."""
        self._enter()
        self._reserve(launch, function)
        words = [self._word(argument) for argument in launch.arguments]
        table = (ctypes.c_void_p * len(words))(*(ctypes.addressof(w) for w in words))
        sizes = [ctypes.c_uint(v) for v in (*launch.grid, launch.threads, 1, 1, launch.shared)]
        self.call("cuLaunchKernel", function, *sizes, self.stream, table, None)

    def _word(self, argument: tuple[bool, int] | TensorMap) -> Any:
        """An argument as the parameter of a kernel."""
        if isinstance(argument, TensorMap):
            return self._encode(argument)
        is_pointer, value = argument
        return ctypes.c_uint64(value) if is_pointer else ctypes.c_int32(value)

    def _encode(self, tensor: TensorMap) -> Any:
        """The bytes of a tensor map; zeros are read beyond the array, and nothing is interleaved."""
        room = ctypes.create_string_buffer(2 * _MAP_BYTES)
        out = (ctypes.c_uint8 * _MAP_BYTES).from_buffer(room, -ctypes.addressof(room) % _MAP_BYTES)
        rank, window = len(tensor.sizes), tensor.window
        sizes, strides = (ctypes.c_uint64 * rank)(*tensor.sizes), (ctypes.c_uint64 * (rank - 1))(*tensor.strides)
        array = [ctypes.c_int(_MAP_TYPES[tensor.dtype]), ctypes.c_uint32(rank), ctypes.c_void_p(tensor.address), sizes, strides]
        steps = (ctypes.c_uint32 * rank)(*([1] * rank if window is None else [1, *window.steps, 1]))
        settings = [ctypes.c_int(v) for v in (0, tensor.swizzle, _L2_PROMOTION_128, 0)]
        if window is None:
            box = (ctypes.c_uint32 * rank)(*tensor.box, *[1] * (rank - 2))
            self.call("cuTensorMapEncodeTiled", out, *array, box, steps, *settings)
        else:
            corners = [(ctypes.c_int * 2)(*corner) for corner in (window.lower, window.upper)]
            self.call("cuTensorMapEncodeIm2col", out, *array, *corners, *map(ctypes.c_uint32, tensor.box), steps, *settings)
        return out

    def record(self, launches: Sequence[Launch], kernels: Sequence[Any]) -> Any:
        """A CUDA graph of the launches, captured from the stream."""
        self._enter()
        for launch in launches:  # attributes of functions are set before capturing
            self._reserve(launch, kernels[launch.kernel])
        self.call("cuStreamBeginCapture_v2", self.stream, ctypes.c_int(_CAPTURE_THREAD_LOCAL))
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        try:
            for launch in launches:
                self.start(launch, kernels[launch.kernel])
        finally:
            self.call("cuStreamEndCapture", self.stream, ctypes.byref(graph))
        try:
            self.call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        finally:
            self.call("cuGraphDestroy", graph)
        return executable

    def _reserve(self, launch: Launch, function: Any) -> None:
        if launch.shared > self._shared.get(function.value, 48 * 1024):
            self.call("cuFuncSetAttribute", function, ctypes.c_int(_FUNCTION_MAX_DYNAMIC_SHARED), ctypes.c_int(launch.shared))
            self._shared[function.value] = launch.shared

    def replay(self, graph: Any) -> None:
        """See :class:`Device`."""
        self._enter()
        self.call("cuGraphLaunch", graph, self.stream)

    def forget(self, graph: Any) -> None:
        """See :class:`Device`."""
        self._enter()
        self.call("cuGraphExecDestroy", graph)

    def time(self, graph: Any, repeat: int) -> float:
        """Seconds of one replay, as the mean over ``repeat`` measured by events on the device."""
        self._enter()
        events = [ctypes.c_void_p(), ctypes.c_void_p()]
        for event in events:
            self.call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(0))
        try:
            self.replay(graph)
            self.call("cuEventRecord", events[0], self.stream)
            for _ in range(repeat):
                self.replay(graph)
            self.call("cuEventRecord", events[1], self.stream)
            self.call("cuEventSynchronize", events[1])
            milliseconds = ctypes.c_float()
            self.call("cuEventElapsedTime", ctypes.byref(milliseconds), *events)
        finally:
            for event in events:
                self.call("cuEventDestroy_v2", event)
        return milliseconds.value / 1000 / repeat
