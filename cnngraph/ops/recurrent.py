"""RNN, GRU and LSTM as ONNX defines them, one operator each for whole sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cnngraph.ir.types import Dim, DType, TensorType, numel, per_image
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import forbid_batch, match_dim, result, show, widened
from cnngraph.ops.scalar import FUNCTIONS

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
"""Gates of each cell: the rows of its weights are that many times the hidden size."""

ACTIVATIONS: dict[str, tuple[int, tuple[float, ...], Callable[..., Any]]] = {
    "affine": (2, (1.0, 0.0), lambda x, alpha, beta: alpha * x + beta),
    "relu": (0, (), FUNCTIONS["relu"].reference),
    "leakyrelu": (1, (0.01,), FUNCTIONS["leaky_relu"].reference),
    "thresholdedrelu": (1, (1.0,), FUNCTIONS["thresholded_relu"].reference),
    "tanh": (0, (), np.tanh),
    "scaledtanh": (2, (1.0, 1.0), lambda x, alpha, beta: alpha * np.tanh(beta * x)),
    "sigmoid": (0, (), FUNCTIONS["sigmoid"].reference),
    "hardsigmoid": (2, (0.2, 0.5), FUNCTIONS["hard_sigmoid"].reference),
    "elu": (1, (1.0,), FUNCTIONS["elu"].reference),
    "softsign": (0, (), lambda x: x / (1 + np.abs(x))),
    "softplus": (0, (), FUNCTIONS["softplus"].reference),
}
"""By lower-case name: number of parameters, their defaults, definition."""


def _rows(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``x @ weights`` image by image: a product of all of them has other bits for another batch."""
    return np.stack([row @ weights for row in x]) if len(x) else x @ weights


@dataclass(frozen=True)
class Recurrent(Op):
    """A recurrent layer over sequences, in one direction or both.

    Inputs: ``x [T, N, I]``, ``w [D, G*H, I]``, ``r [D, G*H, H]``, then optional ``b [D, 2*G*H]``, lengths int32 [N],
    ``h0 [D, N, H]``, ``c0 [D, N, H]`` and peepholes ``p [D, 3*H]`` (both LSTM only). Outputs ``y [T, D, N, H]``, the last
    ``h [D, N, H]``, and for an LSTM the last ``c [D, N, H]``. Gates in ONNX's order: LSTM i o f c, GRU z r h.

    Attributes:
        cell: "rnn", "gru" or "lstm".
        hidden: H.
        directions: "f", "r" or "fr".
        activations: names as in :data:`ACTIVATIONS`, those of the first direction first.
        parameters: parameters of each activation.
        clip: bound of what enters an activation, infinity for none.
        linear_before_reset: GRU: the reset gate scales the product, not the state.
        input_forget: LSTM: the forget gate is one minus the input gate.
    """

    name: ClassVar[str] = "Recurrent"
    cell: str
    hidden: int
    directions: str
    activations: tuple[str, ...]
    parameters: tuple[tuple[float, ...], ...]
    clip: float = float("inf")
    linear_before_reset: bool = False
    input_forget: bool = False

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(self.cell in GATES, f"unknown cell {self.cell!r}")
        require(self.directions in ("f", "r", "fr"), f"unknown directions {self.directions!r}")
        per_direction = {"rnn": 1, "gru": 2, "lstm": 3}[self.cell]
        require(len(self.activations) == len(self.parameters) == per_direction * len(self.directions), "one activation a gate function")
        for name, parameters in zip(self.activations, self.parameters, strict=True):
            require(
                name in ACTIVATIONS and len(parameters) == ACTIVATIONS[name][0], f"activation {name!r} with {len(parameters)} parameters"
            )
        given = [*inputs, *[None] * (8 - len(inputs))]
        x = needed(given[0], "x")
        require(x.dtype.is_float and x.rank == 3, f"x {x} must be floats [time, batch, features]")
        time, batch = forbid_batch(x.shape[0], "the sequences' length must not be the batch size"), x.shape[1]
        features = forbid_batch(x.shape[2], "the features must not be the batch size")
        d, g, h = len(self.directions), GATES[self.cell], self.hidden
        wanted: list[tuple[str, tuple[Dim, ...], bool]] = [
            ("w", (d, g * h, features), True),
            ("r", (d, g * h, h), True),
            ("b", (d, 2 * g * h), False),
            ("sequence_lens", (batch,), False),
            ("initial_h", (d, batch, h), False),
            ("initial_c", (d, batch, h), False),
            ("p", (d, 3 * h), False),
        ]
        for type_, (what, shape, required) in zip(given[1:], wanted, strict=True):
            if type_ is None:
                require(not required, f"input {what} is missing")
                continue
            require(type_.dtype is (DType.I32 if what == "sequence_lens" else x.dtype), f"{what} is {type_.dtype.value}")
            require(type_.rank == len(shape), f"{what} has shape {show(type_.shape)}, not {show(shape)}")
            for a, b in zip(type_.shape, shape, strict=True):
                match_dim(a, b, f"{what} has shape {show(type_.shape)}, not {show(shape)}")
        require(self.cell == "lstm" or (given[6] is None and given[7] is None), "only an LSTM has a cell state and peepholes")
        states = 2 if self.cell == "lstm" else 1
        outputs = [result(x.dtype, (time, d, batch, h)), *[result(x.dtype, (d, batch, h))] * states]
        return tuple(outputs)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        given: list[np.ndarray | None] = [*inputs, *[None] * (8 - len(inputs))]
        x, w, r, b, lengths, h0, c0, p = given
        assert x is not None and w is not None and r is not None
        dtype, x = x.dtype, widened(x)
        time, batch, _ = x.shape
        inside = np.ones((time, batch, 1), bool) if lengths is None else np.arange(time)[:, None, None] < lengths[None, :, None]
        ys, hs, cs = [], [], []
        count = len(self.activations) // len(self.directions)
        for d, direction in enumerate(self.directions):
            state = np.zeros((2, batch, self.hidden), x.dtype)
            for i, start in enumerate((h0, c0)):
                if start is not None:
                    state[i] = start[d]
            functions = [self._function(d * count + i) for i in range(count)]
            bias = np.zeros(2 * GATES[self.cell] * self.hidden, x.dtype) if b is None else widened(b[d])
            step = getattr(self, f"_{self.cell}")
            weights: Any = (widened(w[d]), widened(r[d]), *np.split(bias, 2), None if p is None else np.split(widened(p[d]), 3))
            ahead = np.stack([np.ascontiguousarray(x[:, i]) @ weights[0].T for i in range(batch)], 1) if batch else x @ weights[0].T
            y = np.zeros((time, batch, self.hidden), x.dtype)
            h, c = state
            for t in range(time) if direction == "f" else range(time - 1, -1, -1):
                new_h, new_c = step(ahead[t], h, c, weights, functions)
                h, c = np.where(inside[t], new_h, h), np.where(inside[t], new_c, c)
                y[t] = np.where(inside[t], new_h, 0)
            ys.append(y)
            hs.append(h)
            cs.append(c)
        results = [np.stack(ys, 1), np.stack(hs), *([np.stack(cs)] if self.cell == "lstm" else [])]
        return tuple(a.astype(dtype) for a in results)

    def _function(self, index: int) -> Callable[[np.ndarray], np.ndarray]:
        _, _, function = ACTIVATIONS[self.activations[index]]
        parameters, bound = self.parameters[index], self.clip
        return lambda x: function(np.clip(x, -bound, bound) if np.isfinite(bound) else x, *parameters)

    def _rnn(self, xw: np.ndarray, h: np.ndarray, c: np.ndarray, weights: Any, f: Any) -> tuple[np.ndarray, np.ndarray]:
        _, r, wb, rb, _ = weights
        return f[0](xw + _rows(h, r.T) + wb + rb), c

    def _gru(self, xw: np.ndarray, h: np.ndarray, c: np.ndarray, weights: Any, f: Any) -> tuple[np.ndarray, np.ndarray]:
        _, r, wb, rb, _ = weights
        n = self.hidden
        gates = xw[:, : 2 * n] + _rows(h, r[: 2 * n].T) + wb[: 2 * n] + rb[: 2 * n]
        z, reset = f[0](gates[:, :n]), f[0](gates[:, n:])
        if self.linear_before_reset:
            inner = xw[:, 2 * n :] + wb[2 * n :] + reset * (_rows(h, r[2 * n :].T) + rb[2 * n :])
        else:
            inner = xw[:, 2 * n :] + wb[2 * n :] + _rows(reset * h, r[2 * n :].T) + rb[2 * n :]
        return (1 - z) * f[1](inner) + z * h, c

    def _lstm(self, xw: np.ndarray, h: np.ndarray, c: np.ndarray, weights: Any, f: Any) -> tuple[np.ndarray, np.ndarray]:
        _, r, wb, rb, p = weights
        i, o, forget, cell = np.split(xw + _rows(h, r.T) + wb + rb, 4, axis=1)
        if p is not None:
            i, forget = i + p[0] * c, forget + p[2] * c
        i = f[0](i)
        forget = 1 - i if self.input_forget else f[0](forget)
        c = forget * c + i * f[1](cell)
        return f[0](o if p is None else o + p[1] * c) * f[2](c), c

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        w, r = needed(inputs[1], "w"), needed(inputs[2], "r")
        steps = per_image(numel(outputs[0].shape)) // (self.hidden * len(self.directions))
        return Cost(macs=steps * (per_image(numel(w.shape)) + per_image(numel(r.shape))))
