"""Tensor maps: what the tensor memory accelerator (sm_90 and later) must know of an array to copy boxes of it to shared memory.

A step's launch words say how many of its arguments are maps; :data:`MAP_WORDS` of each follow, ``a*N + b`` like every argument.
The driver encodes a map into 128 bytes, which are a parameter of the kernel.

Requirements are those of ``cuTensorMapEncodeTiled`` and ``cuTensorMapEncodeIm2col`` (CUDA driver API, tensor map object management).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnngraph.errors import InternalError

SWIZZLE_NONE, SWIZZLE_128 = 0, 3
"""The driver's codes; with the latter, bits 4 to 6 of a shared address are combined with bits 7 to 9 by exclusive or."""

ITEM_BYTES = (4, 2, 2)
"""Bytes of an element by the constant ``DT``: float32, float16, bfloat16."""

MAP_WORDS = (
    "argument", "type", "rank", "size_0", "size_1", "size_2", "size_3", "pitch_1", "pitch_2", "pitch_3", "box_0", "box_1",
)  # fmt: skip
"""Number of the argument, ``DT``, axes, elements along each (innermost first), elements from one to the next along each but the
innermost, and elements and rows of a box. Axes beyond the rank are 1."""


@dataclass(frozen=True)
class TensorMap:
    """A tiled map: boxes of a row-major array.

    Attributes:
        address: of its first element.
        dtype: the constant ``DT`` of its elements.
        sizes: elements along each axis, innermost first; what lies beyond is read as zeros.
        strides: bytes from one element to the next along each axis but the innermost.
        box: elements and rows that one copy brings.
        swizzle: how 16-byte pieces are permuted in shared memory.
    """

    address: int
    dtype: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, int]
    swizzle: int = SWIZZLE_128

    def __post_init__(self) -> None:
        """Refuse what the driver refuses."""
        wrong = self._refusal()
        if wrong:
            raise InternalError(f"a tensor map with {wrong}: {self}")

    def _refusal(self) -> str | None:
        if self.address % 16:
            return "an address that is no multiple of 16"
        if not all(1 <= s <= 1 << 32 for s in self.sizes):
            return "no or too many elements"
        if len(self.strides) != len(self.sizes) - 1 or not all(0 < s < 1 << 40 and s % 16 == 0 for s in self.strides):
            return "strides that are no multiples of 16"
        if not all(1 <= n <= 256 for n in self.box) or self.row_bytes % 16:
            return "a box of another size than 1 to 256 elements and rows, or of rows that are no multiples of 16 bytes"
        if self.swizzle == SWIZZLE_128 and self.row_bytes > 128:
            return "rows of a box that are longer than the swizzle"
        return None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a box."""
        return self.box[0] * ITEM_BYTES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes that arrive for one copy, zeros beyond the array among them."""
        return self.box[1] * self.row_bytes


def map_of(address: int, words: Sequence[int]) -> TensorMap:
    """The map of the array at ``address`` that :data:`MAP_WORDS` describe."""
    given = dict(zip(MAP_WORDS, words, strict=True))
    rank, item = given["rank"], ITEM_BYTES[given["type"]]
    sizes = tuple(given[f"size_{i}"] for i in range(rank))
    strides = tuple(given[f"pitch_{i}"] * item for i in range(1, rank))
    return TensorMap(address, given["type"], sizes, strides, (given["box_0"], given["box_1"]))
