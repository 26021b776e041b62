"""Names a template function may use. They exist so that templates are legal, checkable Python.

Templates are never run as they stand: :mod:`cnngraph.kernels.specialize` turns them into source whose primitives come
from :mod:`cnngraph_cpu.simd` (compiled) or :mod:`cnngraph.kernels.emulate` (plain Python).
"""

from __future__ import annotations

from typing import Any

F32Pointer = Any
I64Pointer = Any
BytePointer = Any
I32Pointer = Any


def _only_specialised(*args: Any) -> Any:
    raise TypeError("template functions run only after specialisation")


load = store = load_partial = store_partial = broadcast = splat = _only_specialised
fma = add = sub = mul = div = maximum = minimum = relu = exp = log = neg = sqrt = sigmoid = tanh = _only_specialised
get = put = get_int = put_int = to_float = advance = reduce_add = reduce_max = _only_specialised
int_argument = pointer_argument = scalar_log = prefetch = ask_operands = _only_specialised
reduce_mul = reduce_min = select_negative = transpose_tile = absolute = where_equal = where_less_equal = permute = _only_specialised
even_lanes = odd_lanes = _only_specialised
load_bytes = load_signed_bytes = load_bytes_partial = load_signed_bytes_partial = store_bytes = store_bytes_partial = _only_specialised
load_words = store_words = load_words_partial = store_words_partial = broadcast_word = splat_int = _only_specialised
dot4 = to_floats = round_between = add_int = sub_int = mul_int = xor_int = max_int = _only_specialised
get_byte = get_signed_byte = put_byte = get_word = fma_single = load_interleaved = store_four_bytes = _only_specialised
load_shorts = load_signed_shorts = add_shorts = sub_shorts = shift_shorts = dot_shorts = shift_left = shift_right = _only_specialised
largest_magnitude = to_shorts = words_as_floats = _only_specialised
translate = transpose_bytes = store_four_rounded = byte_pointer_argument = _only_specialised
int_pointer_argument = truncated = long_expression = _only_specialised
half_pointer_argument = load_pairs = broadcast_pair = dot2 = store_joined = _only_specialised
tile_configure = tile_release = tile_zero = tile_load = tile_store = tile_dot_bf16 = tile_dot_bytes = _only_specialised
fill_row = store_halves = store_half_blocks = store_split = store_byte_blocks = store_four_lanes = prefetch_row = _only_specialised
registers = unroll = epilogue = expression = _only_specialised
