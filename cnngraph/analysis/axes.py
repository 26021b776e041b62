"""What chains of reshapes and transposes do: the factors of a tensor's axes in another order.

A row-major tensor is read as a tensor of finer axes, whose extents multiply to those of its own: ``[N, 32, 16, 16]`` as
``[N, 32, 8, 2, 8, 2]``. A transpose moves its axes' factors, a reshape moves nothing but may ask the next transpose for finer
factors. A chain whose axes split and merge cleanly in this sense is one transpose of a finer view, as the patterns of einops
(Rogozhnikov 2022) write it.
"""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.types import Dim, Shape, Sym, numel


class _Factor:
    """A part of an axis; identity is the object."""

    __slots__ = ("extent",)

    def __init__(self, extent: Dim) -> None:
        self.extent = extent


class Axes:
    """The factors of a tensor's axes as they lie in memory, in the order that a chain of movements has given them.

    Attributes:
        shape: shape of the chain's result so far.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._memory = [_Factor(d) for d in shape if d != 1]
        self._order = list(self._memory)

    def reshape(self, shape: Shape) -> None:
        """Read the result so far, in row-major order, under another shape of as many elements."""
        self.shape = shape

    def transpose(self, perm: Sequence[int]) -> bool:
        """Axis ``i`` of the result becomes what axis ``perm[i]`` was; False, and nothing done, if an axis is no product of factors."""
        groups = self._groups(self._order, self.shape)
        if groups is None:
            return False
        self._order = [factor for axis in perm for factor in groups[axis]]
        self.shape = tuple(self.shape[axis] for axis in perm)
        self._join()
        return True

    def view(self) -> tuple[Shape, tuple[int, ...]]:
        """The fewest axes of the source, and their order in the result: ``transpose(reshape(x, extents), perm)`` up to a reshape."""
        place = {factor: i for i, factor in enumerate(self._memory)}
        return tuple(factor.extent for factor in self._memory), tuple(place[factor] for factor in self._order)

    def as_transpose(self, source: Shape) -> tuple[int, ...] | None:
        """The permutation of the axes of ``source`` that the chain is; None if it also splits or merges axes."""
        if len(source) != len(self.shape):
            return None
        after, before = self._groups(self._order, self.shape), self._groups(self._memory, source)
        after = after and self._groups(self._order, self.shape)  # again, as the source's axes may have split factors
        self._join()
        if before is None or after is None:
            return None
        axis_of = {tuple(group): axis for axis, group in enumerate(before) if group}
        ones = iter([axis for axis, group in enumerate(before) if not group])
        perm = [axis_of.get(tuple(group)) if group else next(ones, None) for group in after]
        return None if None in perm else tuple(axis for axis in perm if axis is not None)

    def _groups(self, order: list[_Factor], shape: Shape) -> list[list[_Factor]] | None:
        """The factors of each axis of ``shape``, which ``order`` is read as; factors are split where it takes that."""
        groups: list[list[_Factor]] = []
        at = 0
        for left in shape:
            group: list[_Factor] = []
            while left != 1:
                factor = order[at]
                rest = _quotient(left, factor.extent)
                if rest is None:
                    inner = _quotient(factor.extent, left)
                    if inner is None:
                        return None
                    self._split(factor, left, inner)
                    rest = 1
                group.append(order[at])
                left = rest
                at += 1
            groups.append(group)
        return groups

    def _split(self, factor: _Factor, outer: Dim, inner: Dim) -> None:
        parts = [_Factor(outer), _Factor(inner)]
        for factors in (self._memory, self._order):
            at = factors.index(factor)
            factors[at : at + 1] = parts

    def _join(self) -> None:
        """Join factors that are neighbours in memory and in the result."""
        follows = dict(zip(self._memory, self._memory[1:], strict=False))
        runs: list[list[_Factor]] = []
        for factor in self._order:
            if runs and follows.get(runs[-1][-1]) is factor:
                runs[-1].append(factor)
            else:
                runs.append([factor])
        joined = {run[0]: _Factor(numel(f.extent for f in run)) for run in runs}
        self._order = list(joined.values())
        self._memory = [joined[factor] for factor in self._memory if factor in joined]


def _quotient(a: Dim, b: Dim) -> Dim | None:
    """``a / b`` if that is a whole number for every batch size, or a multiple of the batch size."""
    over, under = (d.scale if isinstance(d, Sym) else d for d in (a, b))
    if over % under or (isinstance(b, Sym) and not isinstance(a, Sym)):
        return None
    return Sym(over // under) if isinstance(a, Sym) and not isinstance(b, Sym) else over // under
