"""Fused float operators of com.microsoft."""

from __future__ import annotations

import numpy as np

from cnngraph.ir.types import DType
from tests.fuzz.case import Case, Draw, strategy
from tests.fuzz.families.convolution import convolution
from tests.fuzz.families.dense import general_product, operands
from tests.fuzz.families.norm import spread

MS = "com.microsoft::"


def _activation(d: Draw, with_params: bool) -> dict[str, object]:
    kind = d.pick(*([""] if with_params else []), "Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid")
    if not kind:
        return {}
    out: dict[str, object] = {"activation": kind}
    parameters = {"LeakyRelu": [0.25], "Clip": [-1.0, 2.5], "HardSigmoid": [0.25, 0.5]}.get(kind)
    if parameters and with_params:
        out["activation_params"] = parameters
    elif parameters:
        out |= dict(zip(("activation_alpha", "activation_beta"), parameters, strict=False))
    return out


@strategy(MS + "FusedConv")
def fused_conv(d: Draw) -> Case:
    return convolution(d, DType.F32, **_activation(d, True))


@strategy(MS + "FusedGemm")
def fused_gemm(d: Draw) -> Case:
    return general_product(d, DType.F32, **_activation(d, False))


@strategy(MS + "FusedMatMul")
def fused_matmul(d: Draw) -> Case:
    a, b = operands(d, DType.F32, DType.F32)
    given: dict[str, object] = {}
    for letter in "AB":
        array = a if letter == "A" else b
        if array.ndim < 2:
            continue
        if d.flag(0.4):
            given[f"trans{letter}"] = 1
            array = np.ascontiguousarray(np.swapaxes(array, -1, -2))
        if letter == "A":
            a = array
        else:
            b = array
    if a.ndim == b.ndim >= 3 and d.flag(0.3):
        lead = a.ndim - 2
        if a.shape[:lead] == b.shape[:lead]:
            for letter in "AB":
                array = a if letter == "A" else b
                moved = np.ascontiguousarray(np.moveaxis(array, -2, 0))
                given[f"transBatch{letter}"] = 1
                if letter == "A":
                    a = moved
                else:
                    b = moved
    return d.case([a, b], fixed=(1,), scaled=True, **given, **d.some(alpha=lambda: d.number(-1, 2)))


@strategy(MS + "Gelu", MS + "QuickGelu")
def gelu(d: Draw) -> Case:
    given = d.some(alpha=lambda: d.number(0, 2)) if d.op.endswith("QuickGelu") else {}
    return d.case([d.array(d.shape(1, 4), DType.F32, -6, 6)], absolute=2e-6, **given)


@strategy(MS + "BiasGelu", MS + "FastGelu")
def bias_gelu(d: Draw) -> Case:
    shape = d.shape(1, 4)
    bias = d.floats(shape[-1:]) if d.op.endswith("BiasGelu") or d.flag() else None
    return d.case([d.array(shape, DType.F32, -6, 6), bias], fixed=(1,), absolute=2e-6)


@strategy(MS + "SkipLayerNormalization")
def skip_layer_normalization(d: Draw) -> Case:
    shape = d.shape(3, 3, 1, 6) if d.flag(0.8) else d.shape(2, 2, 1, 6)
    depth = shape[-1:]
    skip = spread(d, shape, DType.F32) if d.flag(0.8) or len(shape) < 3 else d.floats(shape[1:] if d.flag() else (1, *shape[1:]))
    shift = d.floats(depth) if d.flag(0.7) else None
    bias = d.floats(depth) if d.flag() else None
    outputs = d.pick([0], [0, 3])
    return d.case(
        [spread(d, shape, DType.F32), skip, d.floats(depth), shift, bias], outputs, fixed=(1, 2, 3, 4), scaled=True, tolerance=1e-3,
        epsilon=d.pick(1e-5, 0.125),
    )  # fmt: skip
