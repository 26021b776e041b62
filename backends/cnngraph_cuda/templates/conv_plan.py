"""Planning of implicit-GEMM convolutions and dense layers: tiles, packed weights, arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnngraph.errors import UsageError
from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import Dim, bind_dim, ceil_div, numel, per_image, product, round_up, static
from cnngraph.kernels.template import Argument, KernelCall, LayoutRequest, Packed, Scratch, Target
from cnngraph.ops import Conv, Dense
from cnngraph.ops.expression import Expression
from cnngraph_cuda.source import CP_ASYNC, FMA, ROW_BOXES, TF32, WEIGHT_BOXES, WINDOW_BOXES, Code
from cnngraph_cuda.target import CudaTarget
from cnngraph_cuda.templates.common import (
    cuda,
    epilogue_arguments,
    extents,
    floats,
    kernel_call,
    launch,
    layer_layouts,
    math_of,
    pair,
    pitch,
    refuse_types,
    refuse_weights,
    round_tf32,
    tensor_map,
    tensors,
)
from cnngraph_cuda.templates.conv_gemm import conv_gemm, copy_tile, load_boxes, multiply_groups, next_tile, share_result
from cnngraph_cuda.tensor_maps import CORNERS, MAP_WORDS, MOST_OFFSET, MOST_STEPS, Window


@dataclass(frozen=True)
class Tile:
    """Pixels x outputs of a block and of a warp, buffers, the share of the peak rate assumed, blocks that registers leave room for.

    With ``group``, pixels x outputs of a warpgroup instead of a warp.
    """

    bm: int
    bn: int
    wm: int
    wn: int
    stages: int
    rate: float
    blocks: int
    group: bool = False

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.bm // self.wm * (self.bn // self.wn) * (128 if self.group else 32)

    @property
    def shared(self) -> int:
        """Bytes of shared memory: the buffers, and of groups a barrier for each, or the results that replace the buffers at the end."""
        return max(self.stages * ((self.bm + self.bn) * 128 + (8 if self.group else 0)), self.bm * (self.bn + 8) * 4)


TENSOR_TILES = (
    Tile(256, 128, 64, 64, 3, 1.0, 1), Tile(128, 128, 64, 32, 3, 0.95, 2), Tile(128, 64, 32, 32, 3, 0.8, 2),
    Tile(64, 64, 32, 32, 3, 0.65, 4), Tile(64, 32, 32, 16, 3, 0.5, 5),
)  # fmt: skip
GROUP_TILES = (
    Tile(128, 256, 64, 256, 4, 1.7, 1, True), Tile(256, 128, 128, 128, 4, 1.6, 1, True), Tile(128, 128, 64, 128, 3, 1.6, 2, True),
    Tile(128, 64, 64, 64, 4, 1.2, 2, True), Tile(64, 128, 64, 128, 3, 1.2, 3, True), Tile(64, 64, 64, 64, 3, 0.9, 4, True),
)  # fmt: skip
"""Tiles of warpgroups; rates by the bytes of shared memory that a product reads (128 bytes a clock): an estimate, not a measurement."""
FMA_TILES = (Tile(128, 128, 32, 64, 3, 1.0, 2), Tile(64, 64, 32, 32, 3, 0.85, 4), Tile(64, 32, 32, 16, 3, 0.6, 5))


def tiles_of(target: CudaTarget) -> tuple[Tile, ...]:
    """The tiles that a target's kernels may have."""
    if math_of(target) == FMA:
        return FMA_TILES
    return (*(GROUP_TILES if target.arch == "sm_90a" else ()), *TENSOR_TILES)


def choose_tile(rows: int, outputs: int, groups: int, target: CudaTarget) -> Tile:
    """The tile with the least estimated time: whole rounds of blocks on all multiprocessors."""

    def time(tile: Tile) -> float:
        blocks = ceil_div(rows, tile.bm) * ceil_div(outputs, tile.bn) * groups
        return ceil_div(blocks, target.multiprocessors) * tile.bm * tile.bn / tile.rate

    fitting = [t for t in tiles_of(target) if t.shared <= target.shared]
    if target.tile is not None:
        fitting = [t for t in fitting if (t.bm, t.bn) == target.tile]
        if not fitting:
            raise UsageError(f"no tile of {target.tile[0]}x{target.tile[1]} for {target.isa}")
    return min(fitting, key=time)


COUNTERS = 1024
"""Results that split sums may share at once."""


def choose_split(rows: int, problem: Problem, tile: Tile, tiles: int, target: CudaTarget) -> tuple[int, int]:
    """(most blocks that share one result, blocks in all); (1, 0) where there are tiles enough."""
    blocks = ceil_div(rows, tile.bm) * ceil_div(problem.outputs, tile.bn)
    slots = 2 * target.multiprocessors
    if problem.copies > 1 or 2 * blocks > target.multiprocessors or tiles < 4:
        return 1, 0
    return min(tiles // 2, 16), slots


@dataclass(frozen=True)
class Problem:
    """A convolution or dense layer as the kernel sees it: two spatial axes, groups, taps."""

    rows: Dim
    plane: tuple[int, int]
    image: tuple[int, int]
    channels: int
    outputs: int
    groups: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    phases: tuple[int, int] = (1, 1)
    leads: tuple[int, int] = (0, 0)

    @property
    def copies(self) -> int:
        """Matrices of weights: one for each group and phase."""
        return self.groups * product(self.phases)

    @property
    def pointwise(self) -> bool:
        """Whether an output pixel reads the input pixel of the same number, and nothing else."""
        return (
            self.copies == self.groups
            and self.kernel == (1, 1)
            and self.strides == (1, 1)
            and self.plane == self.image
            and not any(self.pads)
        )


def window_of(problem: Problem) -> Window | None:
    """Where the convolution's first tap begins on an image; None if no im2col map can say so."""
    sides = range(1, -1, -1)  # columns before rows
    lower, steps = tuple(-problem.pads[i] for i in sides), tuple(problem.strides[i] for i in sides)
    upper = tuple(-problem.pads[i] + (problem.plane[i] - 1) * problem.strides[i] - (problem.image[i] - 1) for i in sides)
    offsets = [(taps - 1) * dilation for taps, dilation in zip(problem.kernel, problem.dilations, strict=True)]
    fits = all(corner in CORNERS for corner in (*lower, *upper)) and max(steps) <= MOST_STEPS and max(offsets) <= MOST_OFFSET
    if not fits or problem.copies > problem.groups:
        return None
    return Window((lower[0], lower[1]), (upper[0], upper[1]), (steps[0], steps[1]))


def choose_copies(problem: Problem, tile: Tile, target: CudaTarget) -> int:
    """The constant TMA.

    Boxes of pixels must not reach into another group's channels: zeros among the weights do not blot out infinities there. With a
    window, a box of one tap is a whole tile.
    """
    if not tile.group or target.copies == "cp_async":
        return CP_ASYNC
    if problem.groups == 1 or problem.channels % (8 * target.lanes) == 0:
        if problem.pointwise:
            return ROW_BOXES
        if ceil_div(problem.channels, target.lanes) % 8 == 0 and window_of(problem) is not None:
            return WINDOW_BOXES
    return WEIGHT_BOXES


def maps_of(copies: int, problem: Problem, tile: Tile, target: CudaTarget, x: Value, weights: np.ndarray) -> dict[str, Dim]:
    """The words of the tensor maps that the constant TMA asks for."""
    inner, step = 8 * target.lanes, pitch(x.type)
    channels, maps = problem.groups * problem.channels, dict[str, Dim]()
    if copies == ROW_BOXES:
        maps |= tensor_map("x", 0, target.dtype, (channels, problem.rows), (step,), (inner, tile.bm))
    elif copies == WINDOW_BOXES:
        height, width = problem.image
        sizes = (channels, width, height, x.type.shape[0])
        pitches = (step, width * step, height * width * step)
        maps |= tensor_map("x", 0, target.dtype, sizes, pitches, (inner, tile.bm), window_of(problem))
    if copies != CP_ASYNC:
        maps |= tensor_map("w", 1, target.dtype, weights.shape[::-1], (weights.shape[1],), (inner, tile.bn))
    return maps


def problem_of(node: Node) -> Problem:
    """The problem of a Conv with one or two spatial axes, or of a Dense."""
    op, x, y = node.op, node.input(0).type, node.output.type
    if isinstance(op, Dense):
        depth, columns = static(node.input(1).type.shape)
        return Problem(x.shape[0], (1, 1), (1, 1), depth, columns, 1, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
    assert isinstance(op, Conv)
    one = len(op.kernel) == 1
    pads = (0, op.pads[0], 0, op.pads[1]) if one else (op.pads[0], op.pads[1], op.pads[2], op.pads[3])
    channels, outputs = x.shape[1], y.shape[1]
    assert isinstance(channels, int) and isinstance(outputs, int)
    plane = pair(static(y.shape[2:]), 1)
    rows = numel((y.shape[0], product(plane)))
    return Problem(
        rows, plane, pair(static(x.shape[2:]), 1), channels // op.group, outputs // op.group, op.group,
        pair(op.kernel, 1), pair(op.strides, 1), pads, pair(op.dilations, 1),
    )  # fmt: skip


def pack_weights(weights: np.ndarray, groups: int, lanes: int, padded_rows: int, target: CudaTarget) -> np.ndarray:
    """Weights ``[K, C/g, R, S]`` as ``[g * padded_rows, depth]``: taps outside, channels padded to 16 bytes, rows to 128 bytes."""
    outputs, channels = weights.shape[:2]
    taps = product(weights.shape[2:])
    wide = round_up(channels, lanes)
    depth = round_up(taps * wide, 8 * lanes)
    ordered = np.zeros((outputs, taps, wide), np.float32)
    ordered[:, :, :channels] = weights.reshape(outputs, channels, taps).transpose(0, 2, 1)
    out = np.zeros((groups, padded_rows, depth), np.float32)
    out[:, : outputs // groups, : taps * wide] = ordered.reshape(groups, outputs // groups, taps * wide)
    if math_of(target) == TF32:
        out = round_tf32(out)
    return out.reshape(groups * padded_rows, depth).astype(target.dtype.numpy)


CODE = Code(
    conv_gemm,
    {
        "load_boxes": load_boxes,
        "copy_tile": copy_tile,
        "next_tile": next_tile,
        "multiply_groups": multiply_groups,
        "share_result": share_result,
    },
    "Convolution as a matrix product of pixels x (taps, channels) and weights.",
)


class ConvGemm:
    """Conv and Dense with constant weights as a matrix product."""

    name = "conv_gemm"
    reorders_arithmetic = False
    code = CODE

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses three spatial axes, run-time weights, and groups of channels that are not whole 16-byte pieces."""
        op = node.op
        if not isinstance(op, (Conv, Dense)):
            return "neither a convolution nor a dense layer"
        refusal = refuse_types(node, target)
        if refusal:
            return refusal
        refusal = refuse_weights(node)
        if refusal:
            return refusal
        if isinstance(op, Conv):
            if len(op.kernel) > 2:
                return "three spatial axes"
            lanes = cuda(target).lanes
            problem = problem_of(node)
            if problem.groups > 1 and (problem.channels % lanes or problem.outputs % lanes):
                return f"groups of {problem.channels} to {problem.outputs} channels are not whole vectors of {lanes}"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Channels last."""
        return layer_layouts(node)

    def cost(self, node: Node, target: Target) -> float:
        """Multiply-adds with channels padded."""
        problem = problem_of(node)
        wide = round_up(problem.channels, cuda(target).lanes)
        return per_image(problem.rows) * problem.groups * round_up(problem.outputs, 32) * wide * product(problem.kernel) / 512

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Pack the weights for the tile that suits the problem."""
        op, weights = node.op, node.input(1).data
        assert isinstance(op, (Conv, Dense)) and weights is not None
        if isinstance(op, Dense):
            weights = np.ascontiguousarray(weights.T)[:, :, None, None]
        return plan_product(self, node, op.epilogue, weights, problem_of(node), cuda(target))


def plan_product(
    family: Family, node: Node, epilogue: Expression | None, weights: np.ndarray, problem: Problem, gpu: CudaTarget
) -> KernelCall:
    """The call of the matrix product for a problem; ``weights`` are ``[copies * outputs, channels, taps...]`` (see :class:`Problem`)."""
    x, y, bias = node.input(0), node.output, node.inputs[2]
    lanes = gpu.lanes
    tile = choose_tile(bind_dim(problem.rows, gpu.batch), problem.outputs, problem.copies, gpu)
    group_rows = round_up(problem.outputs, tile.bn)
    packed = pack_weights(weights, problem.copies, lanes, group_rows, gpu)
    chunks = ceil_div(problem.channels, lanes)
    last = (problem.channels - (chunks - 1) * lanes) * gpu.dtype.itemsize
    (taps_h, taps_w), columns = problem.kernel, 8 // chunks
    biases = np.zeros((problem.groups, group_rows), np.float32)
    if bias is not None and bias.data is not None:
        biases[:, : problem.outputs] = bias.data.reshape(problem.groups, problem.outputs)
    tiles = packed.shape[1] // (8 * lanes)
    split, slots = choose_split(bind_dim(problem.rows, gpu.batch), problem, tile, tiles, gpu)
    workspace: dict[str, Argument] = {"counters": Scratch(0), "partial": Scratch(0)}
    if split > 1:  # the counters first, which stay where they are for every call
        workspace = {"counters": Scratch(COUNTERS * 4), "partial": Scratch(slots * tile.bm * tile.bn * 4)}
    kinds, operands = epilogue_arguments(epilogue, node.inputs[3:], y.type)
    full = pair(static(y.type.shape[2:]), 1) if y.type.rank > 2 else (1, 1)
    numbers: dict[str, Dim] = {
        "rows": problem.rows, "plane": product(problem.plane), "out_width": problem.plane[1], "outputs": problem.outputs,
        "x_group": problem.channels,
        "height": problem.image[0], "width": problem.image[1], "chunks": chunks, "last_bytes": last, "taps_h": taps_h,
        "taps_w": taps_w, "stride_h": problem.strides[0], "stride_w": problem.strides[1], "pad_h": problem.pads[0],
        "pad_w": problem.pads[1], "dilation_h": problem.dilations[0], "dilation_w": problem.dilations[1],
        "step_chunk": 8 if problem.pointwise else 8 % chunks, "step_column": columns % taps_w, "step_row": columns // taps_w,
        "depth": packed.shape[1], "tiles": tiles, "group_rows": group_rows, "phase_h": problem.phases[0], "phase_w": problem.phases[1],
        "lead_h": problem.leads[0], "lead_w": problem.leads[1], "full_height": full[0], "full_width": full[1],
    }  # fmt: skip
    copies = choose_copies(problem, tile, gpu)
    maps = maps_of(copies, problem, tile, gpu, x, packed)
    arguments: dict[str, Argument] = {
        **launch(
            problem.rows, tile.bm, tile.threads, y=ceil_div(problem.outputs, tile.bn), z=problem.copies, shared=tile.shared,
            values=(x, y, *node.inputs[3:]), split=split, slots=slots, maps=len(maps) // len(MAP_WORDS),
        ),
        **extents(maps),
        **tensors(x, y), "w": Packed(packed), "b": floats(biases, biases.size, biases.size), **extents(numbers), **workspace, **operands,
    }  # fmt: skip
    constants = [
        ("BM", tile.bm), ("BN", tile.bn), ("WM", tile.wm), ("WN", tile.wn), ("ST", tile.stages),
        ("BLOCKS", tile.blocks), ("AHEAD", min(4, tile.bm * tile.bn // (lanes * tile.threads))),
        *((("GROUP", 1),) if tile.group else ()), *((("TMA", copies),) if copies else ()),
        *((("PHASES", 1),) if problem.copies > problem.groups else ()),
        ("POINT", int(problem.pointwise)), ("SPLIT", int(split > 1)), ("MATH", math_of(gpu)),
    ]  # fmt: skip
    notes = (f"{tile.bm}x{tile.bn} tiles of {tile.wm}x{tile.wn} a {'warpgroup' if tile.group else 'warp'}",)
    return kernel_call(family, gpu, arguments, y, tile.threads, constants, kinds, epilogue, notes)
