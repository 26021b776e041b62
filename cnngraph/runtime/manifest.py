"""A program as JSON data and back; everything read is checked before use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from cnngraph.errors import ArtifactError
from cnngraph.ir.types import DType
from cnngraph.runtime.cpus import MAX_THREADS
from cnngraph.runtime.program import (
    ARENA,
    FIRST_IO,
    INTEGER,
    SCRATCH,
    STATIC,
    WEIGHTS,
    HostStep,
    Kernel,
    KernelStep,
    Linear,
    ProgramData,
    TensorRef,
    TensorSpec,
)

_DTYPES = frozenset(d.value for d in DType)
_LIMIT = 1 << 62


def encode_program(data: ProgramData) -> dict[str, Any]:
    """Everything but the object code and the weights."""
    return {
        "inputs": [_spec_out(s) for s in data.inputs],
        "outputs": [_spec_out(s) for s in data.outputs],
        "steps": [_step_out(s) for s in data.steps],
        "copies": [[index, _ref_out(ref)] for index, ref in data.copies],
        "kernels": [{"name": k.name, "symbol": k.symbol, "source": k.source} for k in (*data.kernels, data.driver)],
        "arena": data.arena, "static": data.static_bytes, "scratch": data.scratch,
        "isa": data.isa, "required": list(data.required), "threads": data.threads, "report": data.report, "tail": data.tail,
        "backend": data.backend, "apart": data.apart, "late_arena": data.late_arena, "handover": data.handover,
        "checks": [list(check) for check in data.checks],
    }  # fmt: skip


def decode_program(manifest: dict[str, Any], codes: Sequence[bytes], weights: np.ndarray) -> ProgramData:
    """The program described by ``manifest``.

    Raises:
        ArtifactError: a field is missing or has an impossible value, or a step refers to memory that is not there.
    """
    try:
        return _Reader(manifest, codes, weights).program()
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactError(f"the manifest is inconsistent: {type(error).__name__} {error}") from None


def _spec_out(spec: TensorSpec) -> list[Any]:
    return [spec.name, spec.dtype, list(spec.shape)]


def _ref_out(ref: TensorRef | None) -> list[Any] | None:
    return None if ref is None else [ref.base, ref.a, ref.b, ref.dtype, [list(d) for d in ref.shape]]


def _step_out(step: KernelStep | HostStep) -> dict[str, Any]:
    if isinstance(step, KernelStep):
        return {"kernel": step.kernel, "arguments": [list(a) for a in step.arguments], "label": step.label}
    return {
        "op": step.op, "inputs": [_ref_out(r) for r in step.inputs], "outputs": [_ref_out(r) for r in step.outputs], "label": step.label,
    }  # fmt: skip


def _require(condition: object, what: str) -> None:
    if not condition:
        raise ArtifactError(f"the manifest is inconsistent: {what}")


def _text(value: Any) -> str:
    _require(isinstance(value, str), "expected a text")
    return cast(str, value)


def _int(value: Any, low: int, high: int = _LIMIT) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool) and low <= value < high, f"a number is not in [{low}, {high})")
    return cast(int, value)


class _Reader:
    def __init__(self, manifest: dict[str, Any], codes: Sequence[bytes], weights: np.ndarray) -> None:
        self._manifest, self._codes, self._weights = manifest, codes, weights
        self._inputs = [self._spec(s) for s in manifest["inputs"]]
        self._outputs = [self._spec(s) for s in manifest["outputs"]]
        handover = manifest.get("handover", [])
        _require(isinstance(handover, list), "what is handed over is no list")
        self._handover = [_int(size, 0) for size in handover]
        self._bases = FIRST_IO + len(self._inputs) + len(self._outputs) + len(self._handover)
        self._sizes = {
            ARENA: _int(manifest["arena"], 0), STATIC: _int(manifest["static"], 0), SCRATCH: _int(manifest["scratch"], 0),
            WEIGHTS: weights.nbytes,
        }  # fmt: skip

    def program(self) -> ProgramData:
        """The whole."""
        manifest = self._manifest
        named = manifest["kernels"]
        _require(isinstance(named, list) and len(named) == len(self._codes) >= 1, "kernels and their code differ in number")
        kernels = [Kernel(_text(k["name"]), _text(k["symbol"]), c, _text(k["source"])) for k, c in zip(named, self._codes, strict=True)]
        threads = manifest["threads"]
        _require(isinstance(manifest["report"], dict), "the report is no object")
        return ProgramData(
            inputs=self._inputs, outputs=self._outputs, steps=[self._step(s, len(kernels) - 1) for s in manifest["steps"]],
            kernels=kernels[:-1], driver=kernels[-1], weights=self._weights, arena=self._sizes[ARENA],
            static_bytes=self._sizes[STATIC], scratch=self._sizes[SCRATCH],
            copies=[(_int(i, 0, len(self._outputs)), self._ref(r)) for i, r in manifest["copies"]], isa=_text(manifest["isa"]),
            required=tuple(_text(f) for f in manifest["required"]),
            threads=None if threads is None else _int(threads, 1, MAX_THREADS + 1), report=manifest["report"], tail=self._tail(),
            backend=_text(manifest.get("backend", "cpu")), apart=self._apart(),
            late_arena=_int(manifest.get("late_arena", self._sizes[ARENA]), 0, self._sizes[ARENA] + 1), handover=self._handover,
            checks=[(_int(place, 0, self._sizes[SCRATCH] - 7), _text(text)) for place, text in manifest.get("checks", [])],
        )  # fmt: skip

    def _apart(self) -> int:
        """The number of steps computed image by image, if they allow it: they are kernels, and all that they use has one row an image."""
        steps, specs = self._manifest["steps"], [*self._inputs, *self._outputs]
        count = _int(self._manifest.get("apart", 0), 0, len(steps) + 1)
        for step in steps[:count]:
            _require("kernel" in step, "its images cannot be computed apart, for there is an operator without a kernel")
            for base, _, _ in step["arguments"]:
                _require(base != STATIC, "its images cannot be computed apart, for they share memory")
                rows = not 0 <= base - FIRST_IO < len(specs) or specs[base - FIRST_IO].shape[:1] == ("N",)
                _require(rows, "its images cannot be computed apart, for an array has no row an image")
        return count

    def _tail(self) -> dict[str, Any] | None:
        tail = self._manifest["tail"]
        _require(tail is None or isinstance(tail, dict), "the tail is no object")
        return cast("dict[str, Any] | None", tail)

    def _spec(self, data: Any) -> TensorSpec:
        name, dtype, shape = data
        _require(dtype in _DTYPES and isinstance(shape, list), "an input or output has no known type")
        for dim in shape:
            if isinstance(dim, str):
                _require(re.fullmatch("([1-9][0-9]{0,17})?N", dim, re.ASCII), "a dimension is neither a number nor a multiple of N")
            else:
                _int(dim, 0)
        return TensorSpec(_text(name), dtype, tuple(shape))

    def _ref(self, data: Any) -> TensorRef:
        base, a, b, dtype, shape = data
        _require(dtype in _DTYPES, "a tensor has no known dtype")
        dims: tuple[Linear, ...] = tuple((_int(p, 0), _int(q, 0)) for p, q in shape)
        _require(_int(base, ARENA, self._bases) != SCRATCH, "a tensor lies in scratch memory")
        ref = TensorRef(base, _int(a, 0), _int(b, 0), dtype, dims)
        itemsize = DType(dtype).itemsize
        if base in (STATIC, WEIGHTS):
            count, empty = 1, (0, 0) in dims
            for p, q in dims:
                _require(p == 0 or empty, "a tensor of changing size lies in fixed memory")
                count *= q
            _require(a == 0 and (count == 0 or b + count * itemsize <= self._sizes[base]), "a tensor lies outside its memory")
        return ref

    def _argument(self, data: Any) -> tuple[int, int, int]:
        base, a, b = data
        _int(base, INTEGER, self._bases)
        if base == INTEGER:
            return base, _int(a, -_LIMIT), _int(b, -_LIMIT)
        _int(a, 0)
        # an offset may be negative (a kernel adds to it), but not by more than the memory's size
        size = self._sizes.get(base)
        if size is not None:
            _int(b, -size, size + 1)
            _require(a <= size, "an argument lies outside its memory")
        else:
            _int(b, -_LIMIT)
        return base, a, b

    def _step(self, data: Any, kernels: int) -> KernelStep | HostStep:
        label = _text(data["label"])
        if "kernel" in data:
            return KernelStep(_int(data["kernel"], 0, kernels), tuple(self._argument(a) for a in data["arguments"]), label)
        op = data["op"]
        _require(isinstance(op, dict), "an operator is no object")
        inputs = tuple(None if r is None else self._ref(r) for r in data["inputs"])
        return HostStep(op, inputs, tuple(self._ref(r) for r in data["outputs"]), label)
