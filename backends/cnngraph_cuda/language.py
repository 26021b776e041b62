"""Names a template function may use. They exist so that templates are legal, checkable Python.

The rules of the language: operators work on 32-bit integers (``//`` and ``%`` on numbers that are not negative), floats and
64-bit integers (``load_one`` of an integer type) go through functions.
``(*v,) = f(...)`` assigns the results of ``f`` to the registers ``v[0]``, ``v[1]``..., and ``f(a, *v)`` passes them.
``load_vector``, ``store_vector``, ``load_one`` and ``store_one`` mean 16 bytes or one element of the kernel's data type.
"""

from __future__ import annotations

from typing import Any

DataPointer = Any
F32Pointer = Any
I32Pointer = Any
SourcePointer = Any
WeightSource = Any
PixelSource = Any
"""A :data:`DataPointer`, or a tensor map where the constant ``TMA`` says so."""
FlagPointer = Any
Operand0 = Any
Operand1 = Any
Operand2 = Any
Operand3 = Any
Operand4 = Any
Operand5 = Any


def _only_specialised(*args: Any) -> Any:
    raise TypeError("template functions run only after specialisation")


absolute = ceil = floor = add = apply_epilogue = as_bits = as_float = below = block_x = block_y = block_z = both = _only_specialised
count_up = cp_async16 = cp_commit = cp_wait = div = dot4 = epilogue = exp = expression = fence = fma = _only_specialised
grid_x = grid_y = grid_z = ldcg4 = ldmatrix = lds1 = lds4 = load_float = load_floats = load_int = load_one = _only_specialised
load_source = load_source_vector = load_vector = log = maximum = minimum = mma = mul = power = registers = _only_specialised
relu = round_tf32 = select = shared_base = shuffle_xor = sqrt = store_float = store_floats = store_one = _only_specialised
store_quad = store_vector = sts1 = sts2 = sts4 = sub = sync = thread = to_float = unroll = _only_specialised
float_of_long = load_operand = store_operand = long_add = long_max = long_min = long_mul = _only_specialised
long_and = long_expression = long_fmod = long_mod = long_not = long_or = _only_specialised
long_shift_left = long_shift_right = long_xor = long_sub = order_unsigned = round_even = truncate = _only_specialised
finish_epilogue = fma4 = ldmatrix_transposed = load_epilogue = load_four_if = load_one = opaque = store_int = store_pair = _only_specialised
mbarrier_expect = mbarrier_fence = mbarrier_init = mbarrier_wait = tma_im2col = tma_load = _only_specialised
proxy_fence = wgmma = wgmma_commit = wgmma_fence = wgmma_wait = wgmma_zeros = _only_specialised
