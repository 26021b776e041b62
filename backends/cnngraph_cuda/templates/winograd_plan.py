"""When and how Winograd convolution is used on a GPU: kinds of blocks, estimated times, transformed weights, arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnngraph.errors import UsageError
from cnngraph.ir.graph import Node
from cnngraph.ir.types import Dim, bind_dim, ceil_div, numel, product, round_up, static
from cnngraph.kernels.template import Argument, KernelCall, LayoutRequest, Packed, Target
from cnngraph.kernels.winograd import transform_filters
from cnngraph.ops import Conv
from cnngraph_cuda.source import Code
from cnngraph_cuda.target import CudaTarget
from cnngraph_cuda.templates import winograd as kernel
from cnngraph_cuda.templates.common import (
    cuda,
    epilogue_arguments,
    extents,
    floats,
    kernel_call,
    launch,
    layer_layouts,
    refuse_types,
    refuse_weights,
    tensors,
)
from cnngraph_cuda.templates.conv_plan import ConvGemm, Problem, choose_split, choose_tile, problem_of

TILES, STEP, POINTS, THREADS = kernel.BT, kernel.CB, kernel.P**2, 256
"""Tiles of a block, channels of a step, points of a tile, threads of a block."""

G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
"""The transform of filters: points 0, 1, -1 and infinity."""


@dataclass(frozen=True)
class Block:
    """Outputs of a block, share of the peak rate assumed, blocks that registers leave room for."""

    outputs: int
    rate: float
    blocks: int

    @property
    def shared(self) -> int:
        """Bytes of shared memory: two buffers of both operands, or the sums of 32 outputs that replace them at the end."""
        return max(2 * STEP * (kernel.PITCH + POINTS * self.outputs * 4), POINTS * TILES * 32 * 4)


BLOCKS = (Block(64, 0.7, 1), Block(32, 0.64, 2))
"""Kinds of blocks, with rates that are estimates, not measurements.

Of the instructions of a step (SASS of sm_90) 0.76 and 0.68 are multiply-adds; the rest reads shared memory and brings and transforms
pixels. A little is taken off for what eight or sixteen warps cannot hide. F(4x4, 3x3) has no block: 36 points of 32 tiles and 32 outputs
are 128 sums a thread on 9 warps, of which one quarter of a multiprocessor has three, which leaves 168 registers (tried: it spills beside
36 pixels); on more warps, or with fewer outputs, shared memory is read too often for what is multiplied.
"""

PRODUCT_RATE = 0.76
"""The same share of the implicit matrix product's best tile: 0.8 of its instructions, two blocks a multiprocessor."""

MULTIPLIERS = 128
"""Float32 multiply-adds of a multiprocessor in a clock (compute capability 8.6 and later; 8.0 has 64)."""

FINISH_BYTES = 32.0
"""Bytes of sums a clock that a block takes through shared memory (written and read, 128 bytes a clock each) and to memory."""

CACHE_BYTES = 24.0
"""Bytes that a multiprocessor gets from the second-level cache in a clock: 5.5 TB/s, as published for H100, by 132 at 1.75 GHz."""

MEMORY_BYTES = 18.0
"""Bytes that a multiprocessor moves from and to memory in a clock: 4.3 TB/s of an H200."""


def product_clocks(problem: Problem, target: CudaTarget) -> float:
    """Estimated clocks of the implicit matrix product of a problem: whole rounds of blocks, sums divided among blocks where they are."""
    rows = bind_dim(problem.rows, target.batch)
    tile = choose_tile(rows, problem.outputs, problem.copies, target)
    blocks = ceil_div(rows, tile.bm) * ceil_div(problem.outputs, tile.bn)
    depth = 8 * target.lanes
    steps = ceil_div(round_up(problem.channels, target.lanes) * product(problem.kernel), depth)
    most, slots = choose_split(rows, problem, tile, steps, target)
    share = max((z for z in range(1, most + 1) if blocks * z <= slots), default=1)
    multiply = ceil_div(steps, share) * depth * tile.bm * tile.bn / (MULTIPLIERS * PRODUCT_RATE * tile.rate)
    finish = tile.bm * tile.bn * 4 / FINISH_BYTES / tile.blocks
    return ceil_div(blocks * share, target.multiprocessors) * (multiply + finish)


def clocks(problem: Problem, block: Block, target: CudaTarget) -> float:
    """Estimated clocks of a problem: whole rounds of blocks, each as fast as it multiplies or as the second-level cache feeds it.

    A block reads its weights and, since neighbouring tiles share pixels in the first-level cache, half of the pixels of its tiles.
    """
    images = bind_dim(problem.rows, target.batch) // product(problem.plane)
    blocks = ceil_div(images * product(_grid(problem)), TILES) * ceil_div(problem.outputs, block.outputs)
    multiply = POINTS * STEP * TILES * block.outputs / (MULTIPLIERS * block.rate)
    feed = POINTS * STEP * (block.outputs + TILES / 2) * 4 / CACHE_BYTES
    finish = POINTS * TILES * block.outputs * 4 / FINISH_BYTES / block.blocks
    return ceil_div(blocks, target.multiprocessors) * (ceil_div(problem.channels, STEP) * max(multiply, feed) + finish)


def _grid(problem: Problem) -> tuple[int, int]:
    """Tiles of an image from top to bottom and from left to right."""
    return ceil_div(problem.plane[0], 2), ceil_div(problem.plane[1], 2)


def blocks_of(target: CudaTarget) -> tuple[Block, ...]:
    """The kinds of blocks that a target has room for; none in other precisions than f32."""
    return tuple(b for b in BLOCKS if b.shared <= target.shared) if target.precision == "f32" else ()


def choose_block(problem: Problem, target: CudaTarget) -> Block:
    """The kind of block with the least estimated time, or the one that the target names.

    Raises:
        UsageError: the target names none that it has room for.
    """
    fitting = blocks_of(target)
    if target.winograd is not None:
        fitting = tuple(b for b in fitting if b.outputs == target.winograd)
        if not fitting:
            raise UsageError(f"no Winograd kernel of {target.winograd} outputs for {target.isa}")
    return min(fitting, key=lambda b: clocks(problem, b, target))


def pack_weights(weights: np.ndarray, width: int) -> np.ndarray:
    """Filters ``[K, C, 3, 3]`` transformed in float64 and rounded once: ``[output block][step][point][channel][width]``."""
    outputs, channels = weights.shape[:2]
    parts, steps = ceil_div(outputs, width), ceil_div(channels, STEP)
    filters = np.zeros((3, 3, steps * STEP, parts * width), np.float32)
    filters[:, :, :channels, :outputs] = weights.transpose(2, 3, 1, 0)
    out = np.empty((parts, steps, POINTS, STEP, width), np.float32)
    for point, values in enumerate(transform_filters(filters, G)):
        out[:, :, point] = values.reshape(steps, STEP, parts, width).transpose(2, 0, 1, 3)
    return out


class Winograd:
    """3x3 convolutions of stride 1 in precision f32, without groups or dilation."""

    name = "winograd"
    reorders_arithmetic = True
    code = Code(
        kernel.winograd,
        {
            f.__name__: f
            for f in (
                kernel.locate_tile, kernel.load_patch, kernel.copy_weights, kernel.store_patch, kernel.read_operands, kernel.multiply,
                kernel.finish_tile, kernel.input_line, kernel.output_line,
            )
        },
        "Winograd convolution F(2x2, 3x3) in float32.",
    )  # fmt: skip
    _product = ConvGemm()

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other kernels, strides and precisions, and every node where the target names a tile of matrix products."""
        op, gpu = node.op, cuda(target)
        if not isinstance(op, Conv):
            return "not a convolution"
        if gpu.precision != "f32":
            return "Winograd convolution is for precision f32"
        if (op.kernel, op.strides, op.dilations, op.group) != ((3, 3), (1, 1), (1, 1), 1):
            return "Winograd F(2x2,3x3) needs a 3x3 kernel with stride, dilation and groups of 1"
        refusal = refuse_types(node, target)
        if refusal:
            return refusal
        if not blocks_of(gpu):
            return f"{gpu.arch} has too little shared memory"
        if gpu.tile is not None:
            return "a tile of matrix products is asked for"
        return refuse_weights(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Channels last."""
        return layer_layouts(node)

    def cost(self, node: Node, target: Target) -> float:
        """That of the implicit matrix product, times the ratio of the estimated clocks; the time of memory bounds both from below."""
        gpu, problem = cuda(target), problem_of(node)
        if gpu.winograd is not None:
            return 0.0
        moved = 4 * (problem.channels + problem.outputs) * bind_dim(problem.rows, gpu.batch)
        memory = moved / (MEMORY_BYTES * gpu.multiprocessors)
        ratio = max(memory, clocks(problem, choose_block(problem, gpu), gpu)) / max(memory, product_clocks(problem, gpu))
        return self._product.cost(node, target) * ratio

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Transform the weights, fix the kind of block."""
        op, weights, gpu = node.op, node.input(1).data, cuda(target)
        assert isinstance(op, Conv) and weights is not None
        x, y, bias, problem = node.input(0), node.output, node.inputs[2], problem_of(node)
        block = choose_block(problem, gpu)
        down, across = _grid(problem)
        tiles = numel((y.type.shape[0], down * across))
        height, width = static(x.type.shape[2:])
        parts = ceil_div(problem.outputs, block.outputs)
        kinds, operands = epilogue_arguments(op.epilogue, node.inputs[3:], y.type)
        numbers: dict[str, Dim] = {
            "tiles": tiles, "plane": down * across, "tiles_x": across, "channels": problem.channels, "outputs": problem.outputs,
            "steps": ceil_div(problem.channels, STEP), "height": height, "width": width, "pad_h": op.pads[0], "pad_w": op.pads[1],
            "out_height": problem.plane[0], "out_width": problem.plane[1],
        }  # fmt: skip
        arguments: dict[str, Argument] = {
            **launch(tiles, TILES, THREADS, y=parts, shared=block.shared, values=(x, y, *node.inputs[3:])),
            **tensors(x, y), "w": Packed(pack_weights(weights, block.outputs)),
            "b": floats(None if bias is None else bias.data, problem.outputs, parts * block.outputs), **extents(numbers), **operands,
        }  # fmt: skip
        constants = (("BK", block.outputs), ("AHEAD", int(block.blocks == 1)), ("BLOCKS", block.blocks))
        notes = (f"F(2x2,3x3), {TILES} tiles x {block.outputs} outputs a block",)
        return kernel_call(self, gpu, arguments, y, THREADS, constants, kinds, op.epilogue, notes)
