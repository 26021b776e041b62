"""Run a library made by ``cnngraph compile --emit so`` from Python. This file needs NumPy alone and may be copied anywhere.

>>> with Library("resnet50.so") as model:
...     probabilities = model.run({"input": images})["output"]
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
import re
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

_TYPES = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16,
    11: np.float64, 12: np.uint32, 13: np.uint64,
}  # fmt: skip


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p), ("type", ctypes.c_int32), ("rank", ctypes.c_int32), ("element_bytes", ctypes.c_int64),
        ("per_image", ctypes.POINTER(ctypes.c_int64)), ("fixed", ctypes.POINTER(ctypes.c_int64)),
    )  # fmt: skip


class Library:
    """A model of a library. Safe to call from several threads, which take turns.

    Attributes:
        inputs, outputs: name -> (NumPy type, dimensions as (a, b), meaning ``a * batch + b``).
        isa: instruction set of the code in use.
    """

    def __init__(self, path: str | os.PathLike[str], *, weights: str | None = None, threads: int = 0, name: str | None = None) -> None:
        """Create one.

        Args:
            path: the library.
            weights: the file of weights, if they are not inside; default: the one beside the library, if there is one.
            threads: threads of a run; 0 for all CPUs that the process may use.
            name: what its functions are called after; default: the file's name.

        Raises:
            OSError: the library cannot be loaded.
            RuntimeError: it cannot run here; the message says why.
        """
        path = os.path.abspath(path)
        name = name or re.sub(r"[^A-Za-z0-9_]", "_", os.path.basename(path).split(".")[0].removeprefix("lib"))
        self._library: Any = ctypes.CDLL(path)
        self._name, self._model = name, ctypes.c_void_p()
        for function in ("input", "output"):
            self._function(function).restype = ctypes.POINTER(_Tensor)
        self._function("message").restype = self._function("isa").restype = ctypes.c_char_p
        self._function("destroy").argtypes = self._function("isa").argtypes = [ctypes.c_void_p]
        self._function("run").argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
        beside = os.path.join(os.path.dirname(path), f"{name}.weights")
        file = weights or (beside if os.path.exists(beside) else None)
        self._check(self._function("create")(ctypes.byref(self._model), None if file is None else os.fsencode(file), ctypes.c_int(threads)))
        self.inputs = self._describe("input")
        self.outputs = self._describe("output")
        self.isa = self._function("isa")(self._model).decode()

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Compute the network: outputs by name.

        Raises:
            ValueError: an input is missing or has a wrong type or shape.
        """
        arrays, batch = [], None
        if set(feeds) != set(self.inputs):
            raise ValueError(f"the inputs are {', '.join(self.inputs)}")
        for name, (dtype, dims) in self.inputs.items():
            array = np.ascontiguousarray(feeds[name]).reshape(np.shape(feeds[name]))
            if array.dtype != dtype or array.ndim != len(dims):
                raise ValueError(f"input {name} must be {np.dtype(dtype)} with {len(dims)} dimensions")
            for size, (a, b) in zip(array.shape, dims, strict=True):
                if batch is None and a and size % a == 0:
                    batch = size // a
                if size != a * (batch or 0) + b:
                    raise ValueError(f"input {name} has shape {array.shape}, which does not suit the model or the other inputs")
            arrays.append(array)
        count = 1 if batch is None else batch
        results = {name: np.empty([a * count + b for a, b in dims], dtype) for name, (dtype, dims) in self.outputs.items()}
        self._check(self._function("run")(self._model, count, _pointers(arrays), _pointers(results.values())))
        return results

    def close(self) -> None:
        """End the model and its threads, and let go of the library: another file at its place can then be loaded."""
        if self._library is not None:
            self._function("destroy")(self._model)
            _ctypes.dlclose(self._library._handle)
            self._library = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _function(self, suffix: str) -> Any:
        if self._library is None:
            raise ValueError("the library is closed")
        return getattr(self._library, f"{self._name}_{suffix}")

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(f"{self._name}: {self._function('message')(status).decode()}")

    def _describe(self, kind: str) -> dict[str, tuple[Any, tuple[tuple[int, int], ...]]]:
        found = {}
        for i in range(self._function(f"{kind}s")()):
            t = self._function(kind)(i).contents
            found[t.name.decode()] = (_TYPES[t.type], tuple((t.per_image[d], t.fixed[d]) for d in range(t.rank)))
        return found


def _pointers(arrays: Any) -> Any:
    addresses = [array.ctypes.data for array in arrays]
    return (ctypes.c_void_p * max(len(addresses), 1))(*addresses)
