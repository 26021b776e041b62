"""From a planned graph and its compiled kernels to the data of a program."""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import cnngraph
from cnngraph.analysis.by_image import TOGETHER, Apart
from cnngraph.eager import tail
from cnngraph.errors import InternalError, printable
from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import Dim, Sym, TensorType
from cnngraph.kernels.template import (
    Backend,
    BatchStride,
    CompiledKernel,
    Extent,
    Flag,
    KernelCall,
    KernelSpec,
    Packed,
    Pointer,
    Scratch,
    Selection,
    Target,
)
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassRecord, Rejection
from cnngraph.passes.choose_layout import ALIASES, estimated_cycles
from cnngraph.passes.memory_links import natural_stride
from cnngraph.passes.plan_memory import MemoryPlan, Place
from cnngraph.runtime.execute import aligned
from cnngraph.runtime.host import encode
from cnngraph.runtime.program import (
    INTEGER,
    SCRATCH,
    WEIGHTS,
    HostStep,
    Kernel,
    KernelStep,
    ProgramData,
    TensorRef,
    TensorSpec,
)
from cnngraph.runtime.session import Program

_SHARED_BELOW = 1 << 20


class _Weights:
    """Constants laid out one after another; equal small ones are stored once."""

    def __init__(self) -> None:
        self.size = 0
        self._arrays: list[tuple[int, np.ndarray]] = []
        self._by_id: dict[int, int] = {}
        self._by_hash: dict[bytes, int] = {}

    def add(self, array: np.ndarray) -> int:
        """Byte offset of ``array``."""
        known = self._by_id.get(id(array))
        if known is not None:
            return known
        digest = b""
        if array.nbytes < _SHARED_BELOW:
            digest = hashlib.sha256(array.tobytes()).digest() + str(array.dtype).encode()
            if digest in self._by_hash:
                return self._by_hash[digest]
        offset = self.size
        self._arrays.append((offset, array))
        self._by_id[id(array)] = offset
        if digest:
            self._by_hash[digest] = offset
        self.size = -(-(offset + array.nbytes) // 64) * 64
        return offset

    def blob(self) -> np.ndarray:
        """All of it in one aligned buffer."""
        out = aligned(max(self.size, 64))
        for offset, array in self._arrays:
            out[offset : offset + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return out


class _Builder:
    def __init__(self, plan: MemoryPlan) -> None:
        self.plan = plan
        self.weights = _Weights()
        self.checks: list[tuple[int, str]] = []
        self.scratch = plan.scratch

    def place(self, value: Value) -> Place:
        """Where a value is; constants are added to the weights."""
        value = self.plan.aliases.get(value, value)
        if value.data is not None:
            return Place(WEIGHTS, 0, self.weights.add(value.data))
        return self.plan.places[value]

    def flag(self, flag: Flag, label: str) -> tuple[int, int, int]:
        """The place of a call's flag, behind the scratch memory and the flags before."""
        place = -(-self.scratch // 64) * 64
        self.scratch = place + 8
        self.checks.append((place, f"{label}: {flag.message}"))
        return SCRATCH, 0, place

    def argument(self, argument: object, scratch: int, label: str) -> tuple[int, int, int]:
        """An argument as (base, a, b)."""
        if isinstance(argument, Flag):
            return self.flag(argument, label)
        if isinstance(argument, Pointer):
            place = self.place(argument.value)
            return place.base, place.a, place.b + argument.offset * argument.value.type.dtype.itemsize
        if isinstance(argument, Extent):
            return (INTEGER, *_linear(argument.value))
        if isinstance(argument, BatchStride):
            return INTEGER, 0, self._batch_stride(argument.value)
        if isinstance(argument, Packed):
            return WEIGHTS, 0, self.weights.add(argument.data)
        if isinstance(argument, Scratch):
            return SCRATCH, 0, scratch
        raise InternalError(f"unknown kernel argument {argument!r}")

    def ref(self, value: Value) -> TensorRef:
        """A plain value for NumPy."""
        place = self.place(value)
        return TensorRef(place.base, place.a, place.b, value.type.dtype.value, tuple(_linear(d) for d in value.type.shape))

    def _batch_stride(self, value: Value) -> int:
        if value in self.plan.batch_strides:
            return self.plan.batch_strides[value]
        return natural_stride(value.type)


def _linear(dim: Dim) -> tuple[int, int]:
    return (dim.scale, 0) if isinstance(dim, Sym) else (0, int(dim))


def _spec(name: str, type_: TensorType) -> TensorSpec:
    return TensorSpec(name, type_.dtype.value, tuple(str(d) if isinstance(d, Sym) else int(d) for d in type_.shape))


def build_program(
    graph: Graph,
    calls: Mapping[Node, KernelCall | None],
    plan: MemoryPlan,
    compiled: Mapping[KernelSpec, CompiledKernel],
    backend: Backend,
    target: Target,
    *,
    options: CompileOptions,
    records: Sequence[PassRecord],
    rejections: Sequence[Rejection],
    selections: Sequence[Selection],
    apart: Apart = TOGETHER,
) -> Program:
    """Encode every step's arguments, gather the weights, and load the code.

    ``apart``: what of the graph is computed image by image, as ``plan`` expects it.
    """
    driver = backend.driver(target)
    builder = _Builder(plan)
    steps: list[KernelStep | HostStep] = []
    numbers: dict[KernelSpec, int] = {}
    users: dict[KernelSpec, list[Node]] = {}
    leading, by_image = set(graph.nodes[: apart.nodes]), 0
    for node, call in calls.items():
        if node in plan.absorbed:
            continue
        label = printable(node.label, 400)
        if call is None:
            if not isinstance(node.op, ALIASES):
                inputs = tuple(None if v is None else builder.ref(v) for v in node.inputs)
                steps.append(HostStep(encode(node.op), inputs, tuple(builder.ref(v) for v in node.outputs), label))
            continue
        number = numbers.setdefault(call.spec, len(numbers))
        users.setdefault(call.spec, []).append(node)
        scratch, encoded = 0, []
        for argument in call.arguments.values():
            encoded.append(builder.argument(argument, scratch, label))
            if isinstance(argument, Scratch):
                scratch += -(-argument.nbytes // 64) * 64
        steps.append(KernelStep(number, tuple(encoded), label))
        by_image += node in leading
    kernels = []
    for spec in numbers:
        code = compiled[spec]
        header = [f"{printable(n.label, 100)}: {n.input(0).type} -> {n.output.type}" for n in users[spec][:12]]
        source = backend.source(spec, header).text
        kernels.append(Kernel(code.name, code.symbol, code.code, source, code.seconds, code.cached))
    copies = [(index, builder.ref(value)) for index, value in plan.copies]
    report = _report(calls, plan, records, rejections, selections, steps)
    weights = builder.weights.blob()
    report["together"] = apart.reason
    return Program(
        ProgramData(
            inputs=[_spec(name, value.type) for name, value in graph.inputs],
            outputs=[_spec(name, value.type) for name, value in graph.outputs],
            steps=steps, kernels=kernels, driver=Kernel(driver.name, driver.symbol, driver.code), weights=weights,
            arena=plan.arena, static_bytes=plan.static_bytes, scratch=builder.scratch, copies=copies, isa=target.isa,
            required=backend.required_features(target), threads=options.threads,
            report={"options": _options(options), "versions": _versions(), **report},
            tail=None if graph.tail is None else tail.encode(graph.tail), backend=backend.name, apart=by_image,
            late_arena=plan.late_arena, handover=plan.handover, checks=builder.checks,
        )
    )  # fmt: skip


def give_back_memory() -> None:
    """Return what compiling has freed to the system, where the C library can: else 80 MB stay with the process after ResNet-50."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _versions() -> dict[str, str]:
    """Versions of all that took part in compiling."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"cnngraph": cnngraph.__version__}
    for name in ("numpy", "numba", "llvmlite", "onnx"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _options(options: CompileOptions) -> dict[str, object]:
    """What decides the code, besides the instruction set."""
    return {
        "math": options.math, "disabled_passes": list(options.disabled_passes), "precision": options.precision,
        "keep_f32": list(options.keep_f32),
    }  # fmt: skip


def _report(
    calls: Mapping[Node, KernelCall | None],
    plan: MemoryPlan,
    records: Sequence[PassRecord],
    rejections: Sequence[Rejection],
    selections: Sequence[Selection],
    steps: Sequence[KernelStep | HostStep],
) -> dict[str, Any]:
    rows = []
    for selection in selections:
        node, call = selection.node, calls.get(selection.node)
        work = node.op.cost(tuple(None if v is None else v.type for v in node.inputs), tuple(v.type for v in node.outputs))
        rows.append({
            "node": printable(node.label, 400), "op": node.op.name, "chosen": selection.chosen,
            "refused": selection.refused, "costs": selection.costs, "notes": list(call.notes) if call else [],
            "variant": selection.variant, "macs": work.macs, "flops": work.flops,
        })  # fmt: skip
    return {
        "passes": [dataclasses.asdict(r) for r in records],
        "rejections": [{"pass": r.pass_name, "node": printable(r.node, 400), "reason": r.reason} for r in rejections],
        "selection": rows,
        "cycles": estimated_cycles(selections),
        "memory": plan.report(),
        "reference_steps": [s.label for s in steps if isinstance(s, HostStep)],
    }
