"""Run specialised kernel source as plain Python, on bounds-checked pointers: the first test of every template.

Vectors are NumPy arrays of ``width`` lanes; loads widen arrays of 16-bit floats and stores round to them. A load or store outside its
array raises IndexError, so an emulated run proves that the generated code stays within its buffers for that problem.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnngraph.kernels.emulate_int import integer_primitives
from cnngraph.kernels.emulate_long import long_primitives
from cnngraph.kernels.emulate_tile import TileUnit, packing_primitives
from cnngraph.kernels.specialize import VECTOR_NAMES
from cnngraph.ops.scalar import FUNCTIONS


class EmulatedPointer:
    """A pointer into a one-dimensional array; element offsets are checked."""

    def __init__(self, array: np.ndarray, offset: int = 0) -> None:
        self.array = array.reshape(-1)
        self.offset = offset
        self.half = array.dtype.name in ("bfloat16", "float16")

    def span(self, offset: int, count: int) -> slice:
        """The checked slice of ``count`` elements at ``offset``."""
        start = self.offset + int(offset)
        if start < 0 or start + count > self.array.size:
            raise IndexError(f"elements {start}..{start + count} of {self.array.size}")
        return slice(start, start + count)


def primitives(width: int) -> dict[str, Callable[..., Any]]:
    """The vector primitives of the kernel language for ``width`` lanes of float32, by their names in templates."""

    def load(p: EmulatedPointer, offset: int) -> np.ndarray:
        return p.array[p.span(offset, width)].astype(np.float32) if p.half else p.array[p.span(offset, width)].copy()

    def store(p: EmulatedPointer, offset: int, value: np.ndarray) -> None:
        p.array[p.span(offset, width)] = value

    def load_partial(p: EmulatedPointer, offset: int, count: int) -> np.ndarray:
        out = np.zeros(width, np.float32)
        if count > 0:
            count = min(count, width)
            out[:count] = p.array[p.span(offset, count)]
        return out

    def store_partial(p: EmulatedPointer, offset: int, value: np.ndarray, count: int) -> None:
        if count > 0:
            count = min(count, width)
            p.array[p.span(offset, count)] = value[:count]

    def broadcast(p: EmulatedPointer, offset: int) -> np.ndarray:
        element = p.array[p.span(offset, 1)]
        return (element if element.dtype == np.float32 else element.astype(np.float32)).repeat(width)

    def get(p: EmulatedPointer, offset: int) -> Any:
        value = p.array[p.span(offset, 1)][0]
        return np.float32(value) if p.half else value

    def pairs(p: EmulatedPointer, offset: int, count: int) -> np.ndarray:
        """[count, 2] in float64, in which products of two bfloat16 are exact."""
        assert p.array.dtype.name == "bfloat16", "pairs of other elements than bfloat16"
        return p.array[p.span(offset, 2 * count)].astype(np.float64).reshape(count, 2)

    def put(p: EmulatedPointer, offset: int, value: Any) -> None:
        p.array[p.span(offset, 1)] = value

    def store_joined(p: EmulatedPointer, offset: int, *channels: np.ndarray) -> None:
        p.array[p.span(offset, len(channels) * width)] = np.stack(channels, axis=1).reshape(-1)

    def transpose_tile(source: EmulatedPointer, at: int, step: int, target: EmulatedPointer, to: int, pitch: int) -> None:
        tile = np.stack([load(source, at + i * step) for i in range(width)])
        for i in range(width):
            store(target, to + i * pitch, tile[:, i])

    table: dict[str, Callable[..., Any]] = {
        "load": load,
        "store": store,
        "load_partial": load_partial,
        "store_partial": store_partial,
        "broadcast": broadcast,
        "get": get,
        "get_int": lambda p, offset: int(get(p, offset)),
        "put": put,
        "put_int": put,
        "permute": lambda v, order: v[order],
        "in_order": lambda v: v,
        "even_lanes": lambda a, b: np.concatenate([a[::2], b[::2]]),
        "odd_lanes": lambda a, b: np.concatenate([a[1::2], b[1::2]]),
        "splat": lambda x: np.full(width, x, np.float32),
        "fma": lambda a, b, c: (a.astype(np.float64) * b + c).astype(np.float32),
        "to_float": np.float32,
        "reduce_add": lambda v: np.float32(v.sum(dtype=np.float64)),
        "reduce_mul": lambda v: np.float32(v.prod(dtype=np.float64)),
        "reduce_max": lambda v: v.max(),
        "reduce_min": lambda v: v.min(),
        "select_negative": lambda x, negative, other: np.where(x < 0, negative, other),
        "transpose_tile": transpose_tile,
        "scalar_log": lambda x: np.float32(math.log(x)) if x > 0 else np.float32(-np.inf if x == 0 else np.nan),
        "sigmoid_half": FUNCTIONS["sigmoid"].reference,
        "store_joined": store_joined,
        "load_pairs": lambda p, offset: pairs(p, offset, width),
        "broadcast_pair": lambda p, offset: np.repeat(pairs(p, offset, 1), width, axis=0),
        "dot2": lambda acc, x, w: ((acc + x[:, 1] * w[:, 1]).astype(np.float32) + x[:, 0] * w[:, 0]).astype(np.float32),
        "prefetch": lambda p, offset: None,
        "advance": lambda p, offset: EmulatedPointer(p.array, p.offset + int(offset)),
    }
    for name, function in FUNCTIONS.items():
        if name not in VECTOR_NAMES:
            table[name] = function.reference
    for name, vector_name in VECTOR_NAMES.items():
        table[vector_name] = FUNCTIONS[name].reference
    return table


def run(source: str, name: str, arguments: Sequence[Any], width: int, threads: int = 1) -> None:
    """Execute generated kernel ``name`` once per thread id, sequentially.

    Args:
        source: the module text a backend generated.
        name: the function in it.
        arguments: an array (or an EmulatedPointer into one) for every pointer parameter and an int for every other, in order.
        width: lanes of a vector.
        threads: how many threads share the work.
    """
    table = primitives(width)
    tree = ast.parse(source)
    tree.body = [s for s in tree.body if isinstance(s, ast.FunctionDef)]  # without the import of compiled primitives
    code = compile(tree, f"<{name}>", "exec")
    values = [EmulatedPointer(a) if isinstance(a, np.ndarray) else a if isinstance(a, EmulatedPointer) else int(a) for a in arguments]
    unit = TileUnit()
    table.update(integer_primitives(width))
    table.update(long_primitives())
    table.update(packing_primitives(width))
    table.update(unit.primitives())
    table["pointer_argument"] = lambda args, i: args[i]
    table["int_pointer_argument"] = table["half_pointer_argument"] = table["float16_pointer_argument"] = lambda args, i: args[i]
    table["int_argument"] = lambda args, i: args[i]
    module: dict[str, Any] = dict(table, __name__="emulated")
    exec(code, module)  # generated by this package from numbers only; nothing of a model's text is in it
    for tid in range(threads):
        module[name](values, tid, threads)
        unit.finish()
