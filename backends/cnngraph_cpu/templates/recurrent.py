"""The steps of recurrent layers: state times matrix, gates and new state, one step after the other.

Weights of the states are packed ``[direction][block][k][gate][W]``, a block being W neighbouring units: all gates of a block are multiplied
in one sweep over the state. The products of all blocks go to scratch before the first unit changes, so the state is replaced in place; the
arithmetic of the cell is a second, short loop over blocks. A GRU whose reset gate scales the state (not the product) sweeps twice.

A task is some rows of the batch in one direction. Tiles of rows share the weights that they load; each sum is one chain in the order of k,
from zero, to which the product of the input is added, so a row's bits do not depend on how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import PLAIN, Dim, DType, ceil_div, per_image, round_up
from cnngraph.kernels.template import Argument, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Scratch, Target
from cnngraph.ops import RecurrentSteps
from cnngraph.ops.recurrent import GATES
from cnngraph_cpu.language import (
    F32Pointer,
    I32Pointer,
    add,
    broadcast,
    fma,
    get_word,
    load,
    load_partial,
    maximum,
    minimum,
    mul,
    registers,
    relu,
    sigmoid,
    splat,
    store,
    store_partial,
    sub,
    tanh,
    unroll,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import refuse_types

W = MT = U = ALL = GATES_FIRST = TWICE = LINEAR = V = V1 = VS = VS1 = 0
LSTM = GRU = CLIP = COUPLED = PEEP = LENGTHS = H0 = C0 = A0 = A1 = A2 = 0

_CODES = {"sigmoid": 0, "tanh": 1, "relu": 2, "hardsigmoid": 3}
_CHAINS, _MOST_ROWS = 8, 6


def products(ROWS: int, COUNT: int, BLOCKS: int, j: int, at: int, state: int, gate0: int) -> None:
    """ROWS states times the weights of BLOCKS blocks from block ``j`` on, whose panels begin at ``at``, to gates from ``gate0`` on."""
    for r in unroll(ROWS):
        for i in unroll(BLOCKS * COUNT):
            acc[r, i] = splat(0.0)
    panel = hidden * COUNT * W
    place = at + j * panel
    for k in range(0, hidden, U):
        for u in unroll(U):
            for n in unroll(BLOCKS):
                for g in unroll(COUNT):
                    weight[n * COUNT + g] = load(w, place + n * panel + (u * COUNT + g) * W)
            for r in unroll(ROWS):
                value = broadcast(h, state + r * pitch + k + u)
                for i in unroll(BLOCKS * COUNT):
                    acc[r, i] = fma(weight[i], value, acc[r, i])
        place = place + U * COUNT * W
    for r in unroll(ROWS):
        for n in unroll(BLOCKS):
            for g in unroll(COUNT):
                store(gates, ((r * vectors + j + n) * ALL + gate0 + g) * W, acc[r, n * COUNT + g])


def rows_of_products(ROWS: int, COUNT: int, BLOCKS: int, at: int, state: int, gate0: int) -> None:
    """The same for every block, in every other step from the last: what of the weights is still in the cache comes first."""
    tiles = vectors // BLOCKS
    for i in range(tiles):
        j = i * BLOCKS
        if step % 2 == 1:
            j = (tiles - 1 - i) * BLOCKS
        products(ROWS, COUNT, BLOCKS, j, at, state, gate0)
    if BLOCKS > 1:
        for j in range(tiles * BLOCKS, vectors):
            products(ROWS, COUNT, 1, j, at, state, gate0)


def all_products(COUNT: int, BLOCKS: int, ALONE: int, at: int, state: int, gate0: int) -> None:
    """The same for every row of the task, in the least tile that holds them; rows beyond the task's are not read again."""
    if count == 1:
        rows_of_products(1, COUNT, ALONE, at, state, gate0)
    elif MT <= 2 or count == 2:
        rows_of_products(min(MT, 2), COUNT, BLOCKS, at, state, gate0)
    elif MT <= 4 or count > 4:
        rows_of_products(MT, COUNT, BLOCKS, at, state, gate0)
    else:
        rows_of_products(4, COUNT, BLOCKS, at, state, gate0)


def activate(CODE: int, WHICH: int, g: int) -> None:
    """Gate ``g`` through its activation."""
    if CLIP:
        gate[g] = minimum(maximum(gate[g], broadcast(numbers, 0)), broadcast(numbers, 1))
    if CODE == 0:
        gate[g] = sigmoid(gate[g])
    elif CODE == 1:
        gate[g] = tanh(gate[g])
    elif CODE == 2:
        gate[g] = relu(gate[g])
    else:
        line = fma(gate[g], broadcast(numbers, 2 + 2 * WHICH), broadcast(numbers, 3 + 2 * WHICH))
        gate[g] = minimum(maximum(line, splat(0.0)), splat(1.0))


def take_gate(g: int) -> None:
    """Product of the input and, of gates that add it, product of the state."""
    if left >= W:
        gate[g] = load(xw, source + g * hidden)
    else:
        gate[g] = load_partial(xw, source + g * hidden, left)
    if not (LINEAR and g == 2):
        gate[g] = add(gate[g], load(gates, ((r * vectors + j) * ALL + g) * W))


def lstm() -> None:
    """New states of one block of an LSTM."""
    for g in unroll(4):
        take_gate(g)
    old = load(c, here)
    if PEEP:
        gate[0] = fma(load(p, direction * 3 * pitch + column), old, gate[0])
        gate[2] = fma(load(p, (direction * 3 + 2) * pitch + column), old, gate[2])
    activate(A0, 0, 0)
    if COUPLED:
        gate[2] = sub(splat(1.0), gate[0])
    else:
        activate(A0, 0, 2)
    activate(A1, 1, 3)
    new = fma(gate[2], old, mul(gate[0], gate[3]))
    store(c, here, new)
    if PEEP:
        gate[1] = fma(load(p, (direction * 3 + 1) * pitch + column), new, gate[1])
    activate(A0, 0, 1)
    gate[3] = new
    activate(A2, 2, 3)
    gate[0] = mul(gate[1], gate[3])


def gru() -> None:
    """New state of one block of a GRU."""
    take_gate(0)
    take_gate(2)
    activate(A0, 0, 0)
    if LINEAR:
        take_gate(1)
        activate(A0, 0, 1)
        product = add(load(gates, ((r * vectors + j) * ALL + 2) * W), load(inner, direction * pitch + column))
        gate[2] = fma(gate[1], product, gate[2])
    activate(A1, 1, 2)
    gate[0] = fma(gate[0], load(h, here), mul(sub(splat(1.0), gate[0]), gate[2]))


def reset_states() -> None:
    """The states that the reset gate scales, behind the states."""
    for r in range(count):
        source = ((t * batch + first + r) * directions + direction) * ALL * hidden
        for j in range(vectors):
            left = hidden - j * W
            here = r * pitch + j * W
            take_gate(1)
            activate(A0, 0, 1)
            store(h, MT * pitch + here, mul(gate[1], load(h, here)))
            source = source + W


def new_states() -> None:
    """New states of row ``r``, and its results of step ``t``."""
    source = row * ALL * hidden
    for j in range(vectors):
        column = j * W
        left = hidden - column
        here = r * pitch + column
        if LSTM:
            lstm()
        elif GRU:
            gru()
        else:
            take_gate(0)
            activate(A0, 0, 0)
        out = gate[0]
        store(h, here, out)
        if left >= W:
            store(y, row * hidden + column, out)
        else:
            store_partial(y, row * hidden + column, out, left)
        source = source + W


def cells() -> None:
    """New states of the task's rows; behind the end of its sequence a row keeps its state, and the result is zero."""
    for r in range(count):
        row = (t * batch + first + r) * directions + direction
        if LENGTHS:
            if t < get_word(lengths, first + r):
                new_states()
            else:
                for j in range(vectors):
                    store_partial(y, row * hidden + j * W, splat(0.0), min(W, hidden - j * W))
        else:
            new_states()


def begin_states() -> None:
    """States before the first step, zeros where none are given and in rows beyond the task's."""
    for r in range(MT):
        row = direction * batch + first + r
        for j in range(vectors):
            start = splat(0.0)
            if H0:
                if r < count:
                    start = load_partial(h0, row * hidden + j * W, min(W, hidden - j * W))
            store(h, r * pitch + j * W, start)
            if LSTM:
                start = splat(0.0)
                if C0:
                    if r < count:
                        start = load_partial(c0, row * hidden + j * W, min(W, hidden - j * W))
                store(c, r * pitch + j * W, start)


def end_states() -> None:
    """States after the last step."""
    for r in range(count):
        row = direction * batch + first + r
        for j in range(vectors):
            store_partial(last_h, row * hidden + j * W, load(h, r * pitch + j * W), min(W, hidden - j * W))
            if LSTM:
                store_partial(last_c, row * hidden + j * W, load(c, r * pitch + j * W), min(W, hidden - j * W))


def recurrent(
    xw: F32Pointer, w: F32Pointer, inner: F32Pointer, p: F32Pointer, numbers: F32Pointer, lengths: I32Pointer, h0: F32Pointer,
    c0: F32Pointer, y: F32Pointer, last_h: F32Pointer, last_c: F32Pointer, h: F32Pointer, c: F32Pointer, gates: F32Pointer, time: int,
    batch: int, directions: int, backward: int, hidden: int, vectors: int, panels: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """Every step of every row, in directions ``backward`` and later from the last to the first.

    ``panels`` are the weights of one direction, ``numbers`` the bounds of clip and two parameters of each activation.
    """
    acc = registers(MT, 8)
    weight = registers(8)
    gate = registers(4)
    pitch = vectors * W
    block = max(1, min(MT, (batch * directions + threads - 1) // threads))
    parts = (batch + block - 1) // block
    tasks = directions * parts
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        direction = task // parts
        first = task % parts * block
        count = min(block, batch - first)
        begin_states()
        for step in range(time):
            t = step
            if direction >= backward:
                t = time - 1 - step
            all_products(GATES_FIRST, V, V1, direction * panels, 0, 0)
            if TWICE:
                reset_states()
                all_products(1, VS, VS1, direction * panels + vectors * hidden * GATES_FIRST * W, MT * pitch, 2)
            cells()
        end_states()


_HELPERS = (
    products, rows_of_products, all_products, activate, take_gate, lstm, gru, reset_states, new_states, cells, begin_states, end_states,
)  # fmt: skip


class RecurrentKernel:
    """Steps of an RNN, a GRU or an LSTM with constant weights."""

    name = "recurrent"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(recurrent, {f.__name__: f for f in _HELPERS}, "Steps of a recurrent layer.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses weights computed at run time, rare activations, and directions whose activations differ."""
        op = node.op
        if not isinstance(op, RecurrentSteps):
            return "not the steps of a recurrent layer"
        xw, r, inner, _, h0, c0, p = _operands(node)
        refusal = refuse_types((xw, r, inner, h0, c0, p, *node.outputs))
        if refusal:
            return refusal
        if any(value is not None and not value.is_constant for value in (r, inner, p)):
            return "the weights are computed at run time"
        if any(d == 0 for value in (node.input(0), *node.outputs) for d in value.type.shape):
            return "an empty tensor"
        rare = [name for name in op.activations if name not in _CODES]
        if rare:
            return f"the activation {rare[0]} runs by the reference; kernels have {', '.join(_CODES)}"
        functions = list(zip(op.activations, op.parameters, strict=True))
        half = len(functions) // len(op.directions)
        return None if functions[:half] == functions[-half:] else "the activations of the two directions differ"

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain."""
        return [LayoutRequest(tuple(None if v is None or v.is_constant else PLAIN for v in node.inputs), (PLAIN,) * len(node.outputs))]

    def cost(self, node: Node, target: Target) -> float:
        """Multiply-adds, and some twenty operations for each gate's activation."""
        op = node.op
        assert isinstance(op, RecurrentSteps)
        types = tuple(None if v is None else v.type for v in node.inputs)
        macs = op.cost(types, tuple(v.type for v in node.outputs)).macs
        return (macs + 20 * per_image(node.input(0).type.physical_elements)) / target.width

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Tiles of rows and blocks that fill the registers; for one row, as many chains of additions as hide their latency."""
        op = node.op
        assert isinstance(op, RecurrentSteps)
        xw, r, inner, lengths, h0, c0, p = _operands(node)
        assert xw is not None and r is not None and r.data is not None
        width, hidden = target.width, op.hidden
        time, batch, _ = xw.type.shape
        vectors, gates, lstm = ceil_div(hidden, width), GATES[op.cell], op.cell == "lstm"
        twice = op.cell == "gru" and not op.linear_before_reset
        sweeps = (2, 1) if twice else (gates,)
        blocks = [min(vectors, 4 // g) for g in sweeps]
        alone = [_even(vectors, ceil_div(_CHAINS, g)) for g in sweeps]
        rows = min((target.registers - 2) // (g * b) - 1 for g, b in zip(sweeps, blocks, strict=True))
        rows = max(1, min(rows, _MOST_ROWS, batch if isinstance(batch, int) else _MOST_ROWS))
        codes = [_CODES[name] for name in op.activations]
        functions = len(codes) // len(op.directions)
        constants = [
            ("LSTM", int(lstm)), ("GRU", int(op.cell == "gru")), ("ALL", gates), ("GATES_FIRST", sweeps[0]), ("TWICE", int(twice)),
            ("LINEAR", int(op.biased_inside)), ("MT", rows), ("U", 4 if hidden % 4 == 0 else 1), ("V", blocks[0]), ("V1", alone[0]),
            ("VS", blocks[-1]), ("VS1", alone[-1]), ("CLIP", int(math.isfinite(op.clip))), ("COUPLED", int(op.input_forget)),
            ("PEEP", int(p is not None)), ("LENGTHS", int(lengths is not None)), ("H0", int(h0 is not None)), ("C0", int(c0 is not None)),
            *((f"A{i}", code) for i, code in enumerate(codes[:functions])),
        ]  # fmt: skip
        numbers: dict[str, Dim] = {
            "time": time, "batch": batch, "directions": len(op.directions), "backward": 0 if op.directions == "r" else 1,
            "hidden": hidden, "vectors": vectors, "panels": vectors * hidden * gates * width,
        }  # fmt: skip
        state = rows * vectors * width * 4
        y, *states = node.outputs
        arguments: dict[str, Argument] = {
            "xw": Pointer(xw), "w": _panels(r.data, len(op.directions), sweeps, width), "inner": _by_lane(inner, op, width),
            "p": _by_lane(p, op, width, 3), "numbers": _numbers(op),
            "lengths": _NOTHING if lengths is None else Pointer(lengths), "h0": _NOTHING if h0 is None else Pointer(h0),
            "c0": _NOTHING if c0 is None else Pointer(c0), "y": Pointer(y), "last_h": Pointer(states[0]), "last_c": Pointer(states[-1]),
            "h": Scratch(state * (2 if twice else 1)), "c": Scratch(state if lstm else 4), "gates": Scratch(state * gates),
            **{name: Extent(value) for name, value in numbers.items()},
        }  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, tuple(constants)), arguments, (f"{rows} rows x {blocks[0]}x{width} units",))


_NOTHING = Packed(np.zeros(1, np.float32))


def _operands(node: Node) -> list[Value | None]:
    """xw, r, inner, lengths, h0, c0 and p."""
    return [*node.inputs, *[None] * (7 - len(node.inputs))]


def _even(vectors: int, most: int) -> int:
    """At most ``most`` vectors a tile, as few as make the same number of tiles."""
    return ceil_div(vectors, ceil_div(vectors, most))


def _panels(r: np.ndarray, directions: int, sweeps: Sequence[int], width: int) -> Packed:
    """``r [D, G*H, H]`` as [direction][sweep][block][k][gate][width]."""

    def pack() -> np.ndarray:
        hidden = r.shape[2]
        blocks = ceil_div(hidden, width)
        padded = np.zeros((directions, sum(sweeps), blocks * width, hidden), np.float32)
        padded[:, :, :hidden] = r.reshape(directions, -1, hidden, hidden)
        tiled = padded.reshape(directions, sum(sweeps), blocks, width, hidden).transpose(0, 2, 4, 1, 3)
        parts = np.split(tiled, np.cumsum(sweeps)[:-1], axis=3)
        return np.concatenate([part.reshape(directions, -1) for part in parts], axis=1).astype(r.dtype)

    return Packed(pack, DType.of(r))


def _by_lane(value: Value | None, op: RecurrentSteps, width: int, parts: int = 1) -> Packed:
    """A constant ``[D, parts*H]``, or None for zeros, with each part padded to whole vectors."""
    out = np.zeros((len(op.directions), parts, round_up(op.hidden, width)), np.float32)
    if value is not None:
        assert value.data is not None
        out[:, :, : op.hidden] = value.data.reshape(len(out), parts, -1)
    return Packed(out)


def _numbers(op: RecurrentSteps) -> Packed:
    """The bounds of clip, and alpha and beta of each activation."""
    count = len(op.activations) // len(op.directions)
    pairs = [(*given, 0.0, 0.0)[:2] for given in op.parameters[:count]]
    return Packed(np.array([-op.clip, op.clip, *(number for pair in pairs for number in pair)], np.float32))
