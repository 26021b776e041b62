"""Loops over strided tensors: merging axes, and addressing up to four outer axes and an inner one."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.types import Dim, Shape, numel, strides_of

OUTER = 4


def broadcast_strides(shape: Shape, output: Shape) -> list[Dim]:
    """Strides in elements of a plain tensor for each axis of the shape it is broadcast to; 0 where it does not vary."""
    padded = (1,) * (len(output) - len(shape)) + tuple(shape)
    return [0 if d == 1 and o != 1 else s for d, o, s in zip(padded, output, strides_of(padded), strict=True)]


def merge_axes(extents: Sequence[Dim], strides: Sequence[Sequence[Dim]]) -> tuple[list[Dim], list[list[Dim]]]:
    """Drop axes of extent 1 and merge neighbours that every stride list steps through evenly.

    ``strides`` has one list for each tensor. The result has at least one axis.
    """
    kept = [i for i, d in enumerate(extents) if d != 1]
    if not kept:
        return [1], [[1] for _ in strides]
    out: list[Dim] = [extents[kept[0]]]
    merged: list[list[Dim]] = [[s[kept[0]]] for s in strides]
    for i in kept[1:]:
        if all(m[-1] == numel((s[i], extents[i])) for m, s in zip(merged, strides, strict=True)):
            out[-1] = numel((out[-1], extents[i]))
            for m, s in zip(merged, strides, strict=True):
                m[-1] = s[i]
        else:
            out.append(extents[i])
            for m, s in zip(merged, strides, strict=True):
                m.append(s[i])
    return out, merged


def outer_axes(values: Sequence[Dim], fill: Dim) -> list[Dim]:
    """Exactly OUTER numbers, padded in front."""
    return [fill] * (OUTER - len(values)) + list(values)
