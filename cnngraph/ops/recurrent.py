"""RNN, GRU and LSTM as ONNX defines them, for whole sequences, and the part of them that goes step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cnngraph.ir.types import Dim, DType, TensorType, numel, per_image
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import forbid_batch, in_result, match_dim, mixed_dtype, result, show, widened
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


def _inside(time: int, batch: int, lengths: np.ndarray | None) -> np.ndarray:
    """Which steps are within the sequences, [T, N, 1]."""
    return np.ones((time, batch, 1), bool) if lengths is None else np.arange(time)[:, None, None] < lengths[None, :, None]


@dataclass(frozen=True)
class Cell(Op):
    """Attributes and arithmetic of the cells; base of the two operators below.

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

    cell: str
    hidden: int
    directions: str
    activations: tuple[str, ...]
    parameters: tuple[tuple[float, ...], ...]
    clip: float = float("inf")
    linear_before_reset: bool = False
    input_forget: bool = False

    @property
    def biased_inside(self) -> bool:
        """Whether a bias stands inside what a gate multiplies, so that it cannot be added to the products of the inputs."""
        return self.cell == "gru" and self.linear_before_reset

    def _require(
        self, x: TensorType, given: Sequence[TensorType | None], wanted: Sequence[tuple[str, tuple[Dim, ...], bool]],
        to: DType | None = None,
    ) -> DType:  # fmt: skip
        """Check the attributes, and the types ``given`` beside x against (name, shape, needed); the type of the results."""
        require(self.cell in GATES, f"unknown cell {self.cell!r}")
        require(self.directions in ("f", "r", "fr"), f"unknown directions {self.directions!r}")
        per_direction = {"rnn": 1, "gru": 2, "lstm": 3}[self.cell]
        require(len(self.activations) == len(self.parameters) == per_direction * len(self.directions), "one activation a gate function")
        for name, parameters in zip(self.activations, self.parameters, strict=True):
            require(
                name in ACTIVATIONS and len(parameters) == ACTIVATIONS[name][0], f"activation {name!r} with {len(parameters)} parameters"
            )
        require(x.dtype.is_float and x.rank == 3, f"x {x} must be floats [time, batch, features]")
        floats = [x]
        for type_, (what, shape, required) in zip(given, wanted, strict=True):
            if type_ is None:
                require(not required, f"input {what} is missing")
                continue
            if what == "sequence_lens":
                require(type_.dtype is DType.I32, f"{what} is {type_.dtype.value}")
            else:
                floats.append(type_)
            require(type_.rank == len(shape), f"{what} has shape {show(type_.shape)}, not {show(shape)}")
            for a, b in zip(type_.shape, shape, strict=True):
                match_dim(a, b, f"{what} has shape {show(type_.shape)}, not {show(shape)}")
        lacking = (what for type_, (what, _, _) in zip(given, wanted, strict=True) if type_ is None)
        require(self.cell == "lstm" or {"initial_c", "p"} <= set(lacking), "only an LSTM has a cell state and peepholes")
        return mixed_dtype(floats, to, self.name)

    def _results(self, dtype: DType, y: tuple[Dim, ...], batch: Dim) -> tuple[TensorType, ...]:
        """Types of ``y``, the last h and, of an LSTM, the last c."""
        state = result(dtype, (len(self.directions), batch, self.hidden))
        return result(dtype, y), *[state] * (2 if self.cell == "lstm" else 1)

    def _walk(
        self, ahead: np.ndarray, r: np.ndarray, inner: np.ndarray | None, inside: np.ndarray, starts: Sequence[np.ndarray | None],
        p: np.ndarray | None,
    ) -> tuple[np.ndarray, ...]:  # fmt: skip
        """Step by step: ``y [T, D, N, H]``, the last h and, of an LSTM, the last c.

        Args:
            ahead: products of the inputs and biases, [T, N, D*G*H], in float32 or float64.
            r: [D, G*H, H].
            inner: the bias of :attr:`biased_inside`, [D, H].
            inside: which steps are within the sequences, [T, N, 1].
            starts: h0 and c0, or None for zeros.
            p: peepholes, [D, 3*H].
        """
        time, batch, _ = ahead.shape
        ys, hs, cs = [], [], []
        count = len(self.activations) // len(self.directions)
        step = getattr(self, f"_{self.cell}")
        for d, (direction, gates) in enumerate(zip(self.directions, np.split(ahead, len(self.directions), axis=2), strict=True)):
            h, c = (np.zeros((batch, self.hidden), ahead.dtype) if start is None else widened(start[d]) for start in starts)
            functions = [self._function(d * count + i) for i in range(count)]
            weights: Any = (
                widened(r[d]), 0 if inner is None else widened(inner[d]), None if p is None else np.split(widened(p[d]), 3),
            )  # fmt: skip
            y = np.zeros((time, batch, self.hidden), ahead.dtype)
            for t in range(time) if direction == "f" else range(time - 1, -1, -1):
                new_h, new_c = step(gates[t], h, c, weights, functions)
                h, c = np.where(inside[t], new_h, h), np.where(inside[t], new_c, c)
                y[t] = np.where(inside[t], new_h, 0)
            ys.append(y)
            hs.append(h)
            cs.append(c)
        return np.stack(ys, 1), np.stack(hs), *([np.stack(cs)] if self.cell == "lstm" else [])

    def _function(self, index: int) -> Callable[[np.ndarray], np.ndarray]:
        _, _, function = ACTIVATIONS[self.activations[index]]
        parameters, bound = self.parameters[index], self.clip
        return lambda x: function(np.clip(x, -bound, bound) if np.isfinite(bound) else x, *parameters)

    def _rnn(self, xw: np.ndarray, h: np.ndarray, c: np.ndarray, weights: Any, f: Any) -> tuple[np.ndarray, np.ndarray]:
        r, _, _ = weights
        return f[0](xw + _rows(h, r.T)), c

    def _gru(self, xw: np.ndarray, h: np.ndarray, c: np.ndarray, weights: Any, f: Any) -> tuple[np.ndarray, np.ndarray]:
        r, inner, _ = weights
        n = self.hidden
        gates = xw[:, : 2 * n] + _rows(h, r[: 2 * n].T)
        z, reset = f[0](gates[:, :n]), f[0](gates[:, n:])
        product = reset * (_rows(h, r[2 * n :].T) + inner) if self.linear_before_reset else _rows(reset * h, r[2 * n :].T)
        return (1 - z) * f[1](xw[:, 2 * n :] + product) + z * h, c

    def _lstm(self, xw: np.ndarray, h: np.ndarray, c: np.ndarray, weights: Any, f: Any) -> tuple[np.ndarray, np.ndarray]:
        r, _, p = weights
        i, o, forget, cell = np.split(xw + _rows(h, r.T), 4, axis=1)
        if p is not None:
            i, forget = i + p[0] * c, forget + p[2] * c
        i = f[0](i)
        forget = 1 - i if self.input_forget else f[0](forget)
        c = forget * c + i * f[1](cell)
        return f[0](o if p is None else o + p[1] * c) * f[2](c), c


@dataclass(frozen=True)
class Recurrent(Cell):
    """A recurrent layer over sequences, in one direction or both.

    Inputs: ``x [T, N, I]``, ``w [D, G*H, I]``, ``r [D, G*H, H]``, then optional ``b [D, 2*G*H]``, lengths int32 [N],
    ``h0 [D, N, H]``, ``c0 [D, N, H]`` and peepholes ``p [D, 3*H]`` (both LSTM only). Outputs ``y [T, D, N, H]``, the last
    ``h [D, N, H]``, and for an LSTM the last ``c [D, N, H]``. Gates in ONNX's order: LSTM i o f c, GRU z r h.
    """

    name: ClassVar[str] = "Recurrent"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        given = [*inputs, *[None] * (8 - len(inputs))]
        x = needed(given[0], "x")
        require(x.rank == 3, f"x {x} must be floats [time, batch, features]")
        time, batch = forbid_batch(x.shape[0], "the sequences' length must not be the batch size"), x.shape[1]
        features = forbid_batch(x.shape[2], "the features must not be the batch size")
        d, g, h = len(self.directions), GATES.get(self.cell, 0), self.hidden
        wanted: list[tuple[str, tuple[Dim, ...], bool]] = [
            ("w", (d, g * h, features), True),
            ("r", (d, g * h, h), True),
            ("b", (d, 2 * g * h), False),
            ("sequence_lens", (batch,), False),
            ("initial_h", (d, batch, h), False),
            ("initial_c", (d, batch, h), False),
            ("p", (d, 3 * h), False),
        ]
        return self._results(self._require(x, given[1:], wanted), (time, d, batch, h), batch)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        given: list[np.ndarray | None] = [*inputs, *[None] * (8 - len(inputs))]
        x, w, r, b, lengths, h0, c0, p = given
        assert x is not None and w is not None and r is not None
        dtype, x = x.dtype, widened(x)
        time, batch, _ = x.shape
        weights = widened(w).reshape(-1, w.shape[2]).T
        ahead = np.stack([np.ascontiguousarray(x[:, i]) @ weights for i in range(batch)], 1) if batch else x @ weights
        inner = None
        if b is not None:
            addend, inner = self.biases(widened(b))
            ahead = ahead + addend
        return tuple(a.astype(dtype) for a in self._walk(ahead, r, inner, _inside(time, batch, lengths), (h0, c0), p))

    def biases(self, b: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """What of ``b [D, 2*G*H]`` is added to the products of the inputs, [D*G*H]; and what stays inside, [D, H], or None."""
        of_inputs, of_states = np.split(b, 2, axis=1)
        if not self.biased_inside:
            return (of_inputs + of_states).reshape(-1), None
        outside = of_states.copy()
        outside[:, -self.hidden :] = 0
        return (of_inputs + outside).reshape(-1), of_states[:, -self.hidden :]

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        w, r = needed(inputs[1], "w"), needed(inputs[2], "r")
        steps = per_image(numel(outputs[0].shape)) // (self.hidden * len(self.directions))
        return Cost(macs=steps * (per_image(numel(w.shape)) + per_image(numel(r.shape))))


@dataclass(frozen=True)
class RecurrentSteps(Cell):
    """What of :class:`Recurrent` goes step by step, made by the pass ``lower_recurrent``: the products of the inputs are operands.

    Inputs: ``xw [T, N, D*G*H]``, the inputs times w with what is added before the activations; ``r [D, G*H, H]``, then optional
    ``inner [D, H]`` (the bias of :attr:`Cell.biased_inside`), lengths, ``h0``, ``c0`` and ``p`` as there. Outputs ``y [T, N, D*H]``, the
    last ``h [D, N, H]``, and for an LSTM the last ``c [D, N, H]``. ``to`` is as in :class:`~cnngraph.ops.conv.Conv`; between the steps no
    state is rounded to it.
    """

    name: ClassVar[str] = "RecurrentSteps"
    to: DType | None = None

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        given = [*inputs, *[None] * (7 - len(inputs))]
        xw = needed(given[0], "xw")
        require(xw.rank == 3, f"xw {xw} must be floats [time, batch, gates]")
        time, batch = forbid_batch(xw.shape[0], "the sequences' length must not be the batch size"), xw.shape[1]
        d, g, h = len(self.directions), GATES.get(self.cell, 0), self.hidden
        require(xw.shape[2] == d * g * h, f"xw {show(xw.shape)} does not hold {d * g} gates of {h}")
        wanted: list[tuple[str, tuple[Dim, ...], bool]] = [
            ("r", (d, g * h, h), True),
            ("inner", (d, h), False),
            ("sequence_lens", (batch,), False),
            ("initial_h", (d, batch, h), False),
            ("initial_c", (d, batch, h), False),
            ("p", (d, 3 * h), False),
        ]
        dtype = self._require(xw, given[1:], wanted, self.to)
        require(given[2] is None or self.biased_inside, "only a GRU with linear_before_reset has a bias inside")
        return self._results(dtype, (time, batch, d * h), batch)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        given: list[np.ndarray | None] = [*inputs, *[None] * (7 - len(inputs))]
        xw, r, inner, lengths, h0, c0, p = given
        assert xw is not None and r is not None
        time, batch, _ = xw.shape
        y, *states = self._walk(widened(xw), r, inner, _inside(time, batch, lengths), (h0, c0), p)
        return tuple(in_result(a, xw, self.to) for a in (y.transpose(0, 2, 1, 3).reshape(time, batch, -1), *states))

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        steps = per_image(numel(outputs[0].shape)) // (self.hidden * len(self.directions))
        return Cost(macs=steps * per_image(numel(needed(inputs[1], "r").shape)))
