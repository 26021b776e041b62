"""How the extra operands of an epilogue or an element-wise loop vary against the output they are broadcast to."""

from __future__ import annotations

from cnngraph.ir.types import TensorType

SCALAR, PER_CHANNEL, FULL, IMAGE_CHANNEL = 0, 1, 2, 3
"""One number; one per channel; one per output element (same shape); one per image and channel (N,C,1,1)."""

PARAMETER_SUFFIXES: dict[int, tuple[str, ...]] = {SCALAR: (), PER_CHANNEL: (), FULL: ("_batch",), IMAGE_CHANNEL: ("_batch",)}
"""Integer parameters that each kind adds after its pointer: the elements between images."""


def operand_kind(operand: TensorType, output: TensorType, *, constant: bool) -> int | None:
    """The kind of ``operand`` against ``output`` (logical shapes, channels on axis 1, or last for rank 2), or None.

    PER_CHANNEL needs a constant operand, because its lanes are padded at compile time. Operands that vary in another
    way, e.g. over columns only, have no kind: they stay in an element-wise kernel of their own.
    """
    if all(d == 1 for d in operand.shape):
        return SCALAR
    if operand.shape == output.shape:
        return FULL
    rank = output.rank
    if rank < 2 or operand.rank > rank:
        return None
    padded = (1,) * (rank - operand.rank) + operand.shape
    if any(d != 1 for d in padded[2:]) or padded[1] != output.shape[1]:
        return None
    if padded[0] == 1 and output.shape[0] != 1:
        return PER_CHANNEL if constant else None
    if constant:
        return PER_CHANNEL if padded[0] == 1 else None
    # of full rank only: the blocks of a lower one would lie along another axis
    return IMAGE_CHANNEL if padded[0] == output.shape[0] and operand.rank == rank else None
