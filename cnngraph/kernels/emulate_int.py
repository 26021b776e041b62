"""The integer functions of the kernel language as plain Python; see :mod:`cnngraph.kernels.emulate`.

Vectors of int32 are NumPy arrays; sums and products wrap around. A pointer to bytes sees its array as uint8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def _bytes(p: Any, offset: int, count: int) -> np.ndarray:
    """The checked bytes, as a view."""
    array: np.ndarray = p.array.view(np.uint8)
    assert p.array.itemsize == 1, "a pointer to bytes into other elements"
    return array[p.span(offset, count)]


def _words(p: Any, offset: int, count: int) -> np.ndarray:
    assert p.array.itemsize == 4, "a pointer to int32 into other elements"
    array: np.ndarray = p.array.view(np.int32)
    return array[p.span(offset, count)]


def _wrap(value: np.ndarray) -> np.ndarray:
    return (value.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def integer_primitives(width: int) -> dict[str, Callable[..., Any]]:
    """The integer functions for ``width`` lanes by their names in templates."""

    def load_bytes(p: Any, offset: int) -> np.ndarray:
        return _bytes(p, offset, width).astype(np.int32)

    def load_signed_bytes(p: Any, offset: int) -> np.ndarray:
        return _bytes(p, offset, width).view(np.int8).astype(np.int32)

    def load_bytes_partial(p: Any, offset: int, count: int) -> np.ndarray:
        out = np.zeros(width, np.int32)
        if count > 0:
            out[: min(count, width)] = _bytes(p, offset, min(count, width))
        return out

    def load_signed_bytes_partial(p: Any, offset: int, count: int) -> np.ndarray:
        return load_bytes_partial(p, offset, count).astype(np.uint8).view(np.int8).astype(np.int32)

    def store_bytes(p: Any, offset: int, value: np.ndarray) -> None:
        _bytes(p, offset, width)[:] = value & 255

    def store_bytes_partial(p: Any, offset: int, value: np.ndarray, count: int) -> None:
        if count > 0:
            _bytes(p, offset, min(count, width))[:] = (value & 255)[: min(count, width)]

    def load_words(p: Any, offset: int) -> np.ndarray:
        return _words(p, offset, width).copy()

    def load_words_partial(p: Any, offset: int, count: int) -> np.ndarray:
        out = np.zeros(width, np.int32)
        if count > 0:
            out[: min(count, width)] = _words(p, offset, min(count, width))
        return out

    def store_words(p: Any, offset: int, value: np.ndarray) -> None:
        _words(p, offset, width)[:] = value

    def store_words_partial(p: Any, offset: int, value: np.ndarray, count: int) -> None:
        if count > 0:
            _words(p, offset, min(count, width))[:] = value[: min(count, width)]

    def broadcast_word(p: Any, offset: int) -> np.ndarray:
        return np.full(width, _bytes(p, offset, 4).copy().view(np.int32)[0], np.int32)

    def load_interleaved(p: Any, offset: int) -> np.ndarray:
        return np.ascontiguousarray(_bytes(p, offset, 4 * width).reshape(4, width).T).view(np.int32).reshape(width)

    def store_four_bytes(p: Any, offset: int, *parts: np.ndarray) -> None:
        _bytes(p, offset, 4 * width)[:] = np.stack(parts, axis=1).reshape(-1) & 255

    def splat_int(value: Any) -> np.ndarray:
        return _wrap(np.full(width, int(value), np.int64))

    def dot4(acc: np.ndarray, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        left = x.astype(np.int32).view(np.uint8).reshape(width, 4).astype(np.int64)
        right = w.astype(np.int32).view(np.int8).reshape(width, 4).astype(np.int64)
        return _wrap(acc.astype(np.int64) + (left * right).sum(axis=1))

    def load_shorts(p: Any, first: int, second: int) -> np.ndarray:
        return np.concatenate([_bytes(p, at, width) for at in (first, second)]).astype(np.int16).view(np.int32)

    def load_signed_shorts(p: Any, first: int, second: int) -> np.ndarray:
        return np.concatenate([_bytes(p, at, width).view(np.int8) for at in (first, second)]).astype(np.int16).view(np.int32)

    def dot_shorts(acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        left, right = (v.astype(np.int32).view(np.int16).reshape(width, 2).astype(np.int64) for v in (a, b))
        return _wrap(acc.astype(np.int64) + (left * right).sum(axis=1))

    def to_shorts(low: np.ndarray, high: np.ndarray, factor: np.ndarray) -> np.ndarray:
        exact = (value.astype(np.float64) * factor for value in (low, high))
        units = [np.rint(np.nan_to_num(value, nan=0, posinf=0, neginf=0)).astype(np.int64) & 0xFFFF for value in exact]
        return _wrap(units[0] | units[1] << 16)

    def round_between(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        bounded = np.where(value > low, value, low)
        return np.rint(np.where(bounded < high, bounded, high)).astype(np.int32)

    def store_four_rounded(p: Any, offset: int, *values: Any) -> None:
        rounded = np.clip(np.rint(np.concatenate(values[:4]).astype(np.float64)), -(2**15), 2**15 - 1).astype(np.int64)
        zero, low, high = (int(v) for v in values[4:])
        _bytes(p, offset, 4 * width)[:] = np.clip(np.clip(rounded + zero, 0, 255), low, high)

    def translate(table: Any, x: Any, offset: int, y: Any, to: int) -> None:
        _bytes(y, to, 4 * width)[:] = _bytes(table, 0, 256)[_bytes(x, offset, 4 * width)]

    def transpose_bytes(x: Any, at: int, step: int, y: Any, to: int, pitch: int) -> None:
        tile = np.stack([_bytes(x, at + i * step, 16) for i in range(16)])
        for i in range(16):
            _bytes(y, to + i * pitch, 16)[:] = tile[:, i]

    def put_byte(p: Any, offset: int, value: Any) -> None:
        _bytes(p, offset, 1)[:] = int(value) & 255

    return {
        "load_bytes": load_bytes, "load_signed_bytes": load_signed_bytes, "load_bytes_partial": load_bytes_partial,
        "load_signed_bytes_partial": load_signed_bytes_partial, "store_bytes": store_bytes,
        "store_bytes_partial": store_bytes_partial, "load_words": load_words, "store_words": store_words,
        "load_words_partial": load_words_partial, "store_words_partial": store_words_partial, "broadcast_word": broadcast_word,
        "splat_int": splat_int, "load_interleaved": load_interleaved, "store_four_bytes": store_four_bytes,
        "transpose_bytes": transpose_bytes,
        "translate": translate, "store_four_rounded": store_four_rounded, "dot4": dot4, "round_between": round_between,
        "load_shorts": load_shorts, "load_signed_shorts": load_signed_shorts, "dot_shorts": dot_shorts, "to_shorts": to_shorts,
        "largest_magnitude": lambda a, b: np.maximum(a.view(np.int32), b.view(np.int32) & 0x7FFFFFFF).view(np.float32),
        "words_as_floats": lambda v: v.view(np.float32),
        "add_shorts": lambda a, b: (a.view(np.int16) + b.view(np.int16)).view(np.int32),
        "sub_shorts": lambda a, b: (a.view(np.int16) - b.view(np.int16)).view(np.int32),
        "shift_shorts": lambda a, bits: (a.view(np.int16) << np.int16(bits)).view(np.int32),
        "shift_left": lambda a, bits: _wrap(a.astype(np.int64) << bits),
        "shift_right": lambda a, bits: a >> np.int32(bits),
        "fma_single": lambda a, b, c: (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(np.float32),
        "to_floats": lambda v: v.astype(np.float32),
        "add_int": lambda a, b: _wrap(a.astype(np.int64) + b),
        "sub_int": lambda a, b: _wrap(a.astype(np.int64) - b),
        "mul_int": lambda a, b: _wrap(a.astype(np.int64) * b),
        "xor_int": lambda a, b: a ^ b,
        "max_int": np.maximum,
        "get_byte": lambda p, offset: int(_bytes(p, offset, 1)[0]),
        "get_signed_byte": lambda p, offset: int(_bytes(p, offset, 1).view(np.int8)[0]),
        "put_byte": put_byte,
        "get_word": lambda p, offset: int(_words(p, offset, 1)[0]),
        "byte_pointer_argument": lambda args, i: args[i],
        "word_pointer_argument": lambda args, i: args[i],
    }  # fmt: skip
