"""Recognises nodes that compute ``x * scale + shift`` with one constant pair per channel (axis 1).

An element-wise expression is evaluated symbolically: every intermediate value is either a constant ``b`` or an affine
function ``a * x + b`` of the one tensor that is not constant. Sums and differences of such functions, and products and
quotients by constants, are again of that kind; anything else is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnngraph.ir.graph import Node, Value
from cnngraph.ops.elementwise import Elementwise
from cnngraph.ops.expression import Expression
from cnngraph.ops.norm import BatchNorm
from cnngraph.ops.scalar import FUNCTIONS
from cnngraph.passes.rewrite import channel_vector


@dataclass(frozen=True, eq=False)
class Affine:
    """``y = x * scale + shift`` along axis 1 of ``x``; both float64 of shape ``[channels]``."""

    x: Value
    scale: np.ndarray
    shift: np.ndarray


def affine_of(node: Node) -> Affine | None:
    """The per-channel affine function that ``node`` computes, or None. The shapes of ``x`` and the result are equal."""
    if isinstance(node.op, BatchNorm):
        return batchnorm_affine(node)
    if isinstance(node.op, Elementwise):
        return _elementwise_affine(node, node.op.expression)
    return None


def batchnorm_affine(node: Node) -> Affine | None:
    """``s = gamma / sqrt(var + epsilon)``, ``t = beta - mean * s`` of an inference-mode BatchNorm with constant parameters."""
    op, x = node.op, node.input(0)
    assert isinstance(op, BatchNorm)
    parameters = [v.data.astype(np.float64) for v in node.inputs[1:5] if v is not None and v.data is not None]
    if op.training or len(parameters) != 4 or x.is_constant or not x.type.dtype.is_float:
        return None
    gamma, beta, mean, var = parameters
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(var + op.epsilon)
        return Affine(x, scale, beta - mean * scale)


def _elementwise_affine(node: Node, expression: Expression) -> Affine | None:
    tensors = {v for v in node.inputs if v is not None and not v.is_constant}
    if len(tensors) != 1 or not expression.instrs:
        return None
    (x,) = tensors
    shape = node.output.type.shape
    if x.type != node.output.type or not x.type.dtype.is_float or len(shape) < 2 or not isinstance(shape[1], int):
        return None
    zero, one = np.zeros(shape[1]), np.ones(shape[1])
    values: list[_Linear] = []
    for value in node.inputs:
        if value is x:
            values.append((one, zero))
            continue
        vector = None if value is None else channel_vector(value, len(shape), shape[1])
        if vector is None:
            return None
        values.append((None, vector))
    with np.errstate(all="ignore"):
        for instr in expression.instrs:
            result = _apply(instr.fn, [values[a] for a in instr.args], instr.params)
            if result is None:
                return None
            values.append(result)
    scale, shift = values[expression.result]
    return None if scale is None else Affine(x, scale, shift)


_Linear = tuple[np.ndarray | None, np.ndarray]
"""Factor of x (None: the value is constant) and constant term."""


def _apply(fn: str, args: Sequence[_Linear], params: Sequence[float]) -> _Linear | None:
    if all(factor is None for factor, _ in args):
        constant = np.asarray(FUNCTIONS[fn].reference(*(term for _, term in args), *params))
        return None, constant
    a, b = args[0]
    if fn == "scale":
        return _times((a, b), np.float64(params[0]))
    if fn == "shift":
        return a, b + params[0]
    if fn == "neg":
        return _times((a, b), np.float64(-1))
    if fn in ("add", "sub"):
        c, d = args[1] if fn == "add" else _times(args[1], np.float64(-1))
        return (c if a is None else a if c is None else a + c), b + d
    if fn == "mul":
        c, d = args[1]
        return _times(args[0], d) if c is None else _times(args[1], b) if a is None else None
    if fn == "div":
        c, d = args[1]
        return (None if a is None else a / d, b / d) if c is None else None
    return None


def _times(value: _Linear, factor: np.ndarray | np.float64) -> _Linear:
    a, b = value
    return (None if a is None else a * factor), b * factor
