"""A program as C: tables of steps, tensors and CPU features, put into the templates of the library."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cnngraph
from cnngraph.errors import InternalError, UsageError, printable
from cnngraph.ir.types import DType
from cnngraph.runtime.execute import ALONE_CYCLES
from cnngraph.runtime.program import KernelStep, ProgramData, TensorRef, TensorSpec

_ONNX_TYPES = {
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11,
    "uint32": 12, "uint64": 13, "bfloat16": 16, "float8_e4m3fn": 17, "float8_e4m3fnuz": 18, "float8_e5m2": 19, "float8_e5m2fnuz": 20,
    "uint4": 21, "int4": 22, "float4_e2m1fn": 23, "float8_e8m0fnu": 24,
}  # fmt: skip

_EAX, _EBX, _ECX, _EDX = 0, 1, 2, 3
_AVX, _AVX512, _TILES = 0x6, 0xE6, 0x60000
_FEATURES = {  # CPUID leaf, subleaf, register, bit, and the register states that the operating system must keep
    "ssse3": (1, 0, _ECX, 9, 0), "sse4.1": (1, 0, _ECX, 19, 0), "sse4.2": (1, 0, _ECX, 20, 0), "popcnt": (1, 0, _ECX, 23, 0),
    "fma": (1, 0, _ECX, 12, _AVX), "f16c": (1, 0, _ECX, 29, _AVX), "avx": (1, 0, _ECX, 28, _AVX),
    "avx2": (7, 0, _EBX, 5, _AVX), "bmi2": (7, 0, _EBX, 8, 0), "avxvnni": (7, 1, _EAX, 4, _AVX),
    "avx512f": (7, 0, _EBX, 16, _AVX512), "avx512dq": (7, 0, _EBX, 17, _AVX512), "avx512cd": (7, 0, _EBX, 28, _AVX512),
    "avx512bw": (7, 0, _EBX, 30, _AVX512), "avx512vl": (7, 0, _EBX, 31, _AVX512), "avx512vnni": (7, 0, _ECX, 11, _AVX512),
    "avx512bf16": (7, 1, _EAX, 5, _AVX512), "amx-bf16": (7, 0, _EDX, 22, _TILES), "amx-tile": (7, 0, _EDX, 24, _TILES),
    "amx-int8": (7, 0, _EDX, 25, _TILES),
}  # fmt: skip


def text_literal(text: str) -> str:
    """A C string literal of any text, in UTF-8; everything but plain characters is written as octal numbers."""
    plain = set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:- ")
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode("utf-8", "replace")) + '"'


def numbers(values: Sequence[int]) -> str:
    """The inside of an array of 64-bit integers; at least one, as C wants it."""
    return ", ".join("INT64_MIN" if v == -(1 << 63) else str(v) for v in values or [0])


def variant_tables(number: int, data: ProgramData, symbols: Sequence[str]) -> list[str]:
    """Definitions of one variant's tables: features, steps, kernels, sizes of what is handed over, copies."""
    steps: list[int] = []
    for step in data.steps:
        assert isinstance(step, KernelStep)
        steps += [step.kernel, len(step.arguments), *(part for argument in step.arguments for part in argument)]
    features = []
    for name in data.required:
        if name not in _FEATURES:
            raise UsageError(f"libraries cannot ask a CPU for the feature {printable(name)}")
        features.append("{" + ", ".join(map(str, _FEATURES[name])) + "}")
    copies = [f"{{{numbers([index, ref.base, ref.a, ref.b, *ref_bytes(ref)])}}}" for index, ref in data.copies]
    return [
        f"static const feature features{number}[] = {{{', '.join(features) or '{0}'}}};",
        f"static const int64_t steps{number}[] = {{{numbers(steps)}}};",
        *(f"extern kernel {symbol};" for symbol in dict.fromkeys(symbols)),
        f"static kernel *const kernels{number}[] = {{{', '.join(symbols) or 'NULL'}}};",
        f"static const int64_t handover{number}[] = {{{numbers(data.handover)}}};",
        f"static const copy copies{number}[] = {{{', '.join(copies) or '{0}'}}};",
    ]


def variant_entry(number: int, data: ProgramData, weights: str, weights_at: int) -> str:
    """One variant as the initialiser of its struct."""
    most = max((len(step.arguments) for step in data.steps if isinstance(step, KernelStep)), default=0)
    cycles = float(data.report.get("cycles", ALONE_CYCLES))
    fields = [
        text_literal(data.isa), f"features{number}", len(data.required), f"steps{number}", len(data.steps), f"kernels{number}",
        f"copies{number}", len(data.copies), data.apart, f"handover{number}", len(data.handover), weights, weights_at,
        data.arena, data.late_arena, data.static_bytes, data.scratch, most, repr(cycles),
    ]  # fmt: skip
    return f"    {{{', '.join(map(str, fields))}}},"


def ref_bytes(ref: TensorRef) -> tuple[int, int]:
    """Bytes of a tensor as (for each image, besides)."""
    a, b = 0, DType(ref.dtype).itemsize
    for per_image, fixed in ref.shape:
        if per_image and a:
            raise InternalError("a tensor grows with the square of the batch")
        a, b = a * fixed + b * per_image, b * fixed
    return a, b


def tensor_tables(specs: Sequence[TensorSpec]) -> list[str]:
    """Definitions of the descriptions of inputs and outputs, and of the bytes from one image of each to the next."""
    lines, entries = [], []
    for i, spec in enumerate(specs):
        if spec.dtype not in _ONNX_TYPES:
            raise UsageError(f"libraries have no number for the type {spec.dtype}")
        factors = spec.factors()
        rows = ", ".join(f"{{{numbers([factor[part] for factor in factors])}}}" for part in (0, 1))
        lines.append(f"static const int64_t dims{i}[2][{max(len(factors), 1)}] = {{{rows}}};")
        fields = [text_literal(spec.name), _ONNX_TYPES[spec.dtype], len(factors), DType(spec.dtype).itemsize, f"dims{i}[0]", f"dims{i}[1]"]
        entries.append(f"    {{{', '.join(map(str, fields))}}},")
    images = f"static const int64_t image_bytes[] = {{{numbers([spec.image_bytes for spec in specs])}}};"
    return [*lines, "static const cnngraph_tensor tensors[] = {", *(entries or ["    {0},"]), "};", images]


def header(name: str, data: ProgramData, isas: Sequence[str], inside: bool) -> str:
    """The C header."""
    rows = []
    for kind, specs in (("input", data.inputs), ("output", data.outputs)):
        for i, spec in enumerate(specs):
            shape = "x".join(map(str, spec.shape)) or "scalar"
            shown = "".join(c if c.isascii() and (c.isalnum() or c in "_.-:") else "?" for c in spec.name)[:60]
            rows.append(f" *   {kind} {i}  {shown}  {spec.dtype} {shape}")
    return _fill("library.h.in", {
        "NAME": name, "GUARD": f"{name.upper()}_H", "VERSION": cnngraph.__version__, "ISAS": ", ".join(isas), "TENSORS": "\n".join(rows),
        "WEIGHTS_ARGUMENT": "NULL" if inside else f'"{name}.weights"',
    })  # fmt: skip


def source(name: str, data: ProgramData, tables: Sequence[str], handover: int) -> str:
    """The C file; no variant hands over more than ``handover`` tensors."""
    free = any(isinstance(dim, str) for spec in data.inputs for dim in spec.shape)
    grows = all(any(isinstance(dim, str) for dim in spec.shape) for spec in data.outputs)
    return _fill("library.c.in", {
        "NAME": name, "VERSION": cnngraph.__version__, "INPUTS": str(len(data.inputs)), "OUTPUTS": str(len(data.outputs)),
        "FREE_BATCH": str(int(free)), "LEAST_BATCH": "0" if free and grows else "1", "ALONE_CYCLES": str(float(ALONE_CYCLES)),
        "HANDOVER": str(handover), "TABLES": "\n".join(tables),
    })  # fmt: skip


@cache
def taken_names() -> frozenset[str]:
    """Words of C, and names that the library's own source uses."""
    words = "auto break case char continue default do double extern float for goto inline long main register restrict short signed union"
    template = (Path(__file__).parent / "library.c.in").read_text("utf-8")
    return frozenset([*words.split(), *re.findall(r"[A-Za-z_]\w*", template)])


def _fill(template: str, values: dict[str, str]) -> str:
    text = (Path(__file__).parent / template).read_text("utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text
