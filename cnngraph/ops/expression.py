"""Scalar expressions: the element-wise arithmetic of a chain of nodes or of a kernel's epilogue.

An :class:`Expression` is a small SSA program over scalars. Values ``0 .. inputs-1`` are its inputs; instruction ``i``
defines value ``inputs + i``; the last value is the result. The same object is evaluated on NumPy arrays (the
reference) and rendered as vector code by the backends, so a fused kernel and its judge cannot drift apart.

The functions an instruction may name are in :data:`cnngraph.ops.scalar.FUNCTIONS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Instr:
    """One scalar operation: function name, operand value numbers, constant parameters (e.g. alpha, lo, hi)."""

    fn: str
    args: tuple[int, ...]
    params: tuple[float, ...] = ()


@dataclass(frozen=True)
class Expression:
    """``inputs`` operands and a sequence of instructions; no instructions means the identity on input 0."""

    inputs: int
    instrs: tuple[Instr, ...] = ()

    @staticmethod
    def of(fn: str, arity: int = 1, params: tuple[float, ...] = ()) -> Expression:
        """The expression of a single function applied to inputs 0 .. arity-1."""
        return Expression(arity, (Instr(fn, tuple(range(arity)), params),))

    @property
    def result(self) -> int:
        """Number of the resulting value."""
        return self.inputs + len(self.instrs) - 1 if self.instrs else 0

    def evaluate(self, operands: Sequence[np.ndarray]) -> np.ndarray:
        """Apply to arrays (broadcasting) by the NumPy definition of each function."""
        from cnngraph.ops.scalar import FUNCTIONS

        values = list(operands)
        for instr in self.instrs:
            values.append(FUNCTIONS[instr.fn].reference(*(values[a] for a in instr.args), *instr.params))
        return values[self.result]

    def substitute(self, index: int, inner: Expression) -> Expression:
        """Replace input ``index`` by ``inner``.

        Inputs of the result: those of ``self`` without ``index`` (order kept), then those of ``inner``.
        """
        kept = self.inputs - 1
        total = kept + inner.inputs
        inner_map = {i: kept + i for i in range(inner.inputs)}
        instrs: list[Instr] = []
        for i, instr in enumerate(inner.instrs):
            instrs.append(Instr(instr.fn, tuple(inner_map[a] for a in instr.args), instr.params))
            inner_map[inner.inputs + i] = total + len(instrs) - 1
        outer_map = {i: (inner_map[inner.result] if i == index else i - (i > index)) for i in range(self.inputs)}
        for i, instr in enumerate(self.instrs):
            instrs.append(Instr(instr.fn, tuple(outer_map[a] for a in instr.args), instr.params))
            outer_map[self.inputs + i] = total + len(instrs) - 1
        return Expression(total, tuple(instrs))

    def select(self, order: Sequence[int], inputs: int) -> Expression:
        """Renumber inputs: old input ``i`` becomes new input ``order[i]``; merging two inputs is allowed."""
        offset = inputs - self.inputs

        def renumber(value: int) -> int:
            return order[value] if value < self.inputs else value + offset

        return Expression(inputs, tuple(Instr(i.fn, tuple(renumber(a) for a in i.args), i.params) for i in self.instrs))

    def ordered(self) -> Expression:
        """Sums and products with their operands in ascending order, so that a + b and b + a are one kernel, of the same bits."""
        both = ("add", "mul")
        return Expression(self.inputs, tuple(Instr(i.fn, tuple(sorted(i.args)) if i.fn in both else i.args, i.params) for i in self.instrs))

    def __str__(self) -> str:
        names = [f"in{i}" for i in range(self.inputs)]
        for instr in self.instrs:
            parts = [names[a] for a in instr.args] + [f"{p:g}" for p in instr.params]
            names.append(f"{instr.fn}({', '.join(parts)})")
        return names[self.result]
