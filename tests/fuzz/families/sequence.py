"""Recurrent layers and Fourier transforms."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from cnngraph.ir.types import DType
from tests.fuzz.case import Array, Case, Draw, strategy

I64 = np.int64
WIDE = (DType.F32, DType.F64, DType.F16)
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
ACTIVATIONS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}


@strategy("RNN", "GRU", "LSTM")
def recurrent(d: Draw) -> Case:
    dtype = d.dtype(0, WIDE)
    length, batch, size, hidden = d.int(1, 4), d.int(1, 7), d.int(1, 4), d.pick(1, 2, 3, 4, 9, 20)
    direction = d.pick("forward", "reverse", "bidirectional")
    ways, rows = 2 if direction == "bidirectional" else 1, GATES[d.op] * hidden
    first = d.opset >= 14 and d.flag(0.2)
    given: dict[str, object] = {"hidden_size": hidden}
    if direction != "forward" or d.flag():
        given["direction"] = direction
    if first:
        given["layout"] = 1
    if d.flag(0.3):
        given["activations"] = [d.pick(a, "Relu", "Sigmoid", "Tanh", "HardSigmoid") for a in ACTIVATIONS[d.op] * ways]
    if d.flag(0.2):
        given["clip"] = d.number(0.5, 3)
    if d.op == "GRU" and d.flag():
        given["linear_before_reset"] = 1
    if d.op == "LSTM" and d.flag(0.2):
        given["input_forget"] = 1

    def unit(*shape: int) -> Array:
        return d.array(shape, dtype, -1, 1)

    def state() -> Array:
        return unit(batch, ways, hidden) if first else unit(ways, batch, hidden)

    x = unit(batch, length, size) if first else unit(length, batch, size)
    weights = [unit(ways, rows, size), unit(ways, rows, hidden), unit(ways, 2 * rows) if d.flag() else None]
    lengths = d.array((batch,), DType.I32, 1, length) if d.flag(0.3) else None
    states = [state() if d.flag(0.4) else None]
    if d.op == "LSTM":
        states += [state() if d.flag(0.4) else None, unit(ways, 3 * hidden) if d.flag(0.3) else None]
    outputs = d.pick([0], [1], [0, 1], [0, 1, 2] if d.op == "LSTM" else [0, 1])
    return d.case(
        [x, *weights, lengths, *states],
        outputs,
        constants=(1, 2, 3) if d.flag(0.8) else (),
        fixed=range(8),
        absolute=1e-5,
        single=True,
        **given,
    )


@strategy("DFT")
def dft(d: Draw) -> Case:
    dtype = d.dtype(0, WIDE)
    shape = [*d.shape(2, 3, 1, 6), d.pick(1, 2)]
    axis = d.int(1 if d.opset < 20 else 0, len(shape) - 2)
    inverse, onesided = int(d.flag(0.3)), int(d.flag(0.4))
    if d.opset < 20 and inverse:
        onesided = 0  # what both together mean, operator set 20 says
    if onesided and not inverse:
        shape[-1] = 1
    if onesided and inverse:
        shape[-1] = 2
    length = np.array(d.int(1, 7), I64) if d.flag(0.4) else None
    if length is None and inverse and onesided and shape[axis] < 2:
        shape[axis] = 2
    given = {"inverse": inverse or None, "onesided": onesided or None}
    x = d.array(shape, dtype, -2, 2)
    if d.opset < 20:
        return d.case([x, length], constants=(1,), fixed=(1,), scaled=True, single=True, absolute=1e-5, axis=axis, **given)
    signed = axis - len(shape) if d.flag(0.3) else axis
    return d.case([x, length, np.array(signed, I64)], constants=(1, 2), fixed=(1, 2), scaled=True, single=True, absolute=1e-5, **given)


@strategy("STFT")
def stft(d: Draw) -> Case:
    dtype = d.dtype(0, WIDE)
    frame, step = d.int(2, 6), d.int(1, 4)
    signal = frame + d.int(0, 8)
    x = d.array((d.int(1, 2), signal, 1), dtype, -2, 2)
    window = d.array((frame,), dtype, 0.25, 1) if d.flag() else None
    size = np.array(frame, I64) if window is None or d.flag() else None
    onesided = d.pick(None, 1, 0)
    return d.case(
        [x, np.array(step, I64), window, size],
        constants=(1, 3),
        fixed=(1, 2, 3),
        scaled=True,
        single=True,
        absolute=1e-5,
        onesided=onesided,
    )


@strategy("MelWeightMatrix")
def mel_weight_matrix(d: Draw) -> Case:
    rate = d.pick(8000, 8192, 16000)
    low = d.pick(0.0, 20.0, 125.0)
    numbers = [np.array(d.int(1, 8), I64), np.array(d.pick(16, 32, 64, 33), I64), np.array(rate, I64)]
    edges = [np.array(v, np.float32) for v in (low, d.pick(rate / 2, 3000.0))]
    to = d.pick(None, TensorProto.FLOAT, TensorProto.DOUBLE)
    return d.case([*numbers, *edges], constants=range(5), single=True, absolute=1e-6, output_datatype=to)
