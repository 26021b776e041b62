"""Names a template function may use. They exist so that templates are legal, checkable Python.

The rules of the language: operators work on 32-bit integers (``//`` and ``%`` on numbers that are not negative), floats go through
functions. ``(*v,) = f(...)`` assigns the results of ``f`` to the registers ``v[0]``, ``v[1]``..., and ``f(a, *v)`` passes them.
``load_vector``, ``store_vector``, ``load_one`` and ``store_one`` mean 16 bytes or one element of the kernel's data type.
"""

from __future__ import annotations

from typing import Any

DataPointer = Any
F32Pointer = Any
I32Pointer = Any
SourcePointer = Any


def _only_specialised(*args: Any) -> Any:
    raise TypeError("template functions run only after specialisation")


thread = grid_x = grid_z = block_x = block_y = block_z = sync = shared_base = below = both = select = to_float = as_float = as_bits = (
    _only_specialised
)
mma = dot4 = ldmatrix = round_tf32 = cp_async16 = cp_commit = cp_wait = fence = count_up = shuffle_xor = _only_specialised
load_source = load_source_vector = store_float = _only_specialised
load_vector = store_vector = load_one = store_one = load_floats = store_floats = load_float = _only_specialised
store_quad = ldcg4 = lds1 = lds4 = sts1 = sts2 = sts4 = fma = add = sub = mul = div = maximum = minimum = exp = log = relu = power = (
    sqrt
) = _only_specialised
load_int = registers = unroll = epilogue = expression = apply_epilogue = _only_specialised
