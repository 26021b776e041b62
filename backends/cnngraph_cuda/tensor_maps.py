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
    "low_0", "low_1", "high_0", "high_1", "step_0", "step_1",
)  # fmt: skip
"""Number of the argument, ``DT``, axes, elements along each (innermost first), elements from one to the next along each but the
innermost, elements and rows of a box, and of an im2col map, which has four axes, the numbers of its :class:`Window`. Axes beyond the
rank are 1."""

MOST_STEPS, MOST_OFFSET, CORNERS = 8, 255, range(-128, 128)
"""Limits of an im2col map of four axes: steps, offsets given with a copy (PTX ISA, im2col mode), corners."""


@dataclass(frozen=True)
class Window:
    """Where a tap of a convolution begins on the pixels of an image, by column and row.

    Attributes:
        lower: first place.
        upper: last place, counted from the image's last pixel.
        steps: pixels from one place to the next.
    """

    lower: tuple[int, int]
    upper: tuple[int, int]
    steps: tuple[int, int]

    def places(self, size: int, axis: int) -> int:
        """Places along an axis of ``size`` pixels; axis 0 is that of columns."""
        return (size - 1 + self.upper[axis] - self.lower[axis]) // self.steps[axis] + 1


@dataclass(frozen=True)
class TensorMap:
    """Boxes of a row-major array, or of pixels as a convolution reads them.

    With a window (an im2col map, of channels, columns, rows and images) the rows of a box are successive places of the window, first
    along the columns, then rows, then images; a copy says how many columns and rows beyond the place its pixels lie.

    Attributes:
        address: of its first element.
        dtype: the constant ``DT`` of its elements.
        sizes: elements along each axis, innermost first; what lies beyond is read as zeros.
        strides: bytes from one element to the next along each axis but the innermost.
        box: elements and rows that one copy brings.
        swizzle: how 16-byte pieces are permuted in shared memory.
        window: of an im2col map.
    """

    address: int
    dtype: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, int]
    swizzle: int = SWIZZLE_128
    window: Window | None = None

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
        if self.window is None:
            return None
        if not all(corner in CORNERS for corner in (*self.window.lower, *self.window.upper)):
            return "a window beyond 128 pixels around the image"
        if len(self.sizes) != 4 or not all(1 <= s <= MOST_STEPS for s in self.window.steps):
            return "a window on another array than of four axes, or of steps of more than 8 pixels"
        if min(self.window.places(self.sizes[1 + axis], axis) for axis in range(2)) < 1:
            return "an empty window"
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
    window = None
    if rank == 4:
        window = Window(*((given[f"{name}_0"], given[f"{name}_1"]) for name in ("low", "high", "step")))
    return TensorMap(address, given["type"], sizes, strides, (given["box_0"], given["box_1"]), window=window)
