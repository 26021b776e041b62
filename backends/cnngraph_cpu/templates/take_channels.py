"""Channels picked from several tensors. On blocked tensors an output vector is put together from the lanes of a few input vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, ceil_div, numel, per_image
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops.channels import TakeChannels
from cnngraph_cpu.language import (
    F32Pointer,
    I32Pointer,
    I64Pointer,
    get_int,
    int_argument,
    load,
    load_partial,
    load_words,
    permute,
    pointer_argument,
    registers,
    splat,
    store,
    store_partial,
    unroll,
    where_equal,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked, only_floats

W = K = 0  # fixed by the plan
_CHUNK = 512
_MOST_SOURCES = 8
_MOST_INPUTS = 64


def take_channels(
    y: F32Pointer, places: I64Pointer, orders: I32Pointer, shares: F32Pointer, images: int, y_batch: int, blocks: int, pixels: int,
    chunk: int, args: F32Pointer, tid: int, threads: int,
) -> None:  # fmt: skip
    """Each vector of output block cb from K input vectors.

    Source k of block cb stands at entry cb*K+k: in ``places`` its input and the input's block (twice an entry), in ``orders``
    the lane that each output lane takes, in ``shares`` 0 for the output lanes that it gives. Input p stands at arguments
    9+2p: pointer and batch stride.
    """
    pointer = registers(K)
    at = registers(K)
    order = registers(K)
    share = registers(K)
    chunks = (pixels + chunk - 1) // chunk
    tasks = images * blocks * chunks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // (blocks * chunks)
        cb = task // chunks % blocks
        first = task % chunks * chunk
        for k in unroll(K):
            part = get_int(places, (cb * K + k) * 2)
            pointer[k] = pointer_argument(args, 9 + 2 * part)
            at[k] = image * int_argument(args, 10 + 2 * part) + get_int(places, (cb * K + k) * 2 + 1) * pixels * W
            order[k] = load_words(orders, (cb * K + k) * W)
            share[k] = load(shares, (cb * K + k) * W)
        to = image * y_batch + cb * pixels * W
        for p in range(first, min(first + chunk, pixels)):
            out = permute(load(pointer[0], at[0] + p * W), order[0])
            for k in unroll(1, K):
                out = where_equal(share[k], splat(0.0), permute(load(pointer[k], at[k] + p * W), order[k]), out)
            store(y, to + p * W, out)


class TakeChannelsBlocked:
    """TakeChannels on blocked tensors."""

    name = "take_channels"
    reorders_arithmetic = False
    code = Code(take_channels, {}, "Channels of blocked tensors, put together vector by vector.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses output blocks that take their channels from many input blocks."""
        refusal = _refusal(node) or self.refuse_type(node)
        if refusal:
            return refusal
        most = max(len(sources) for sources in _sources(node, target.width))
        return f"a block takes its channels from {most} blocks" if most > _MOST_SOURCES else None

    def refuse_type(self, node: Node) -> str | None:
        """A refusal of elements that the kernel does not move."""
        return only_floats(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked."""
        return [LayoutRequest(tuple(blocked(target) for _ in node.inputs), (blocked(target),))]

    def cost(self, node: Node, target: Target) -> float:
        """Less than plain copies if an input is blocked."""
        any_blocked = any(v is not None and not v.type.layout.plain for v in node.inputs)
        return per_image(node.output.type.physical_elements) * (0.5 if any_blocked else 2.0)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Tables of sources, lanes and shares, every block with as many sources as the one that has most."""
        y, width = node.output, target.width
        sources = _sources(node, width)
        k = max(len(found) for found in sources)
        places = np.zeros((len(sources), k, 2), np.int64)
        orders = np.zeros((len(sources), k, width), np.int32)
        shares = np.ones((len(sources), k, width), np.float32)
        for cb, found in enumerate(sources):
            for i, (place, lanes) in enumerate(found.items()):
                places[cb, i] = place
                for to, lane in lanes:
                    orders[cb, i, to] = lane
                    shares[cb, i, to] = 0
            places[cb, len(found) :] = places[cb, 0]
        arguments: dict[str, Argument] = {
            "y": Pointer(y), "places": Packed(places), "orders": Packed(orders), "shares": Packed(shares),
            "images": Extent(y.type.shape[0]), "y_batch": BatchStride(y), "blocks": Extent(len(sources)),
            "pixels": Extent(numel(y.type.shape[2:])), "chunk": Extent(_CHUNK),
        }  # fmt: skip
        _add_inputs(node, arguments)
        return KernelCall(KernelSpec(self.name, target.isa, (("K", k),)), arguments)


def take_rows(
    y: F32Pointer, places: I64Pointer, images: int, y_batch: int, channels: int, pixels: int, args: F32Pointer, tid: int, threads: int
) -> None:
    """Channel m is channel ``places[2m+1]`` of input ``places[2m]``; input p stands at arguments 6+2p: pointer and batch stride."""
    tasks = images * channels
    whole = pixels // W * W
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // channels
        m = task % channels
        part = get_int(places, 2 * m)
        x = pointer_argument(args, 6 + 2 * part)
        at = image * int_argument(args, 7 + 2 * part) + get_int(places, 2 * m + 1) * pixels
        to = image * y_batch + m * pixels
        for i in range(0, whole, W):
            store(y, to + i, load(x, at + i))
        if whole < pixels:
            store_partial(y, to + whole, load_partial(x, at + whole, pixels - whole), pixels - whole)


class TakeChannelsPlain:
    """TakeChannels on plain tensors."""

    name = "take_channels_plain"
    reorders_arithmetic = False
    code = Code(take_rows, {}, "Channels of plain tensors, copied one by one.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other operators and empty tensors."""
        return _refusal(node) or self.refuse_type(node)

    def refuse_type(self, node: Node) -> str | None:
        """A refusal of elements that the kernel does not move."""
        return only_floats(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain."""
        return [LayoutRequest(tuple(PLAIN for _ in node.inputs), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements copied."""
        return 1.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task a channel of an image."""
        op, y = node.op, node.output
        assert isinstance(op, TakeChannels)
        owner = _owners(node)
        arguments: dict[str, Argument] = {
            "y": Pointer(y), "places": Packed(np.array([owner[c] for c in op.channels], np.int64)), "images": Extent(y.type.shape[0]),
            "y_batch": BatchStride(y), "channels": Extent(len(op.channels)), "pixels": Extent(numel(y.type.shape[2:])),
        }  # fmt: skip
        _add_inputs(node, arguments)
        return KernelCall(KernelSpec(self.name, target.isa, ()), arguments)


def _refusal(node: Node) -> str | None:
    if not isinstance(node.op, TakeChannels):
        return "not a choice of channels"
    if any(d == 0 for v in (*node.inputs, node.output) if v is not None for d in v.type.shape):
        return "an empty tensor"
    if not 3 <= node.output.type.rank <= 5:
        return "not a tensor of 3 to 5 axes"
    if len(node.inputs) > _MOST_INPUTS or any(v is None or v.is_constant for v in node.inputs):
        return f"constants, or more than {_MOST_INPUTS} tensors"
    return None


def _owners(node: Node) -> list[tuple[int, int]]:
    """(input, its channel) of every channel of the joined inputs."""
    return [(i, c) for i, v in enumerate(node.inputs) if v is not None for c in range(per_image(v.type.shape[1]))]


def _sources(node: Node, width: int) -> list[dict[tuple[int, int], list[tuple[int, int]]]]:
    """For each output block: the (input, block) it reads, with the (output lane, input lane) pairs taken from it."""
    op = node.op
    assert isinstance(op, TakeChannels)
    owner = _owners(node)
    out: list[dict[tuple[int, int], list[tuple[int, int]]]] = [{} for _ in range(ceil_div(len(op.channels), width))]
    for m, channel in enumerate(op.channels):
        part, c = owner[channel]
        out[m // width].setdefault((part, c // width), []).append((m % width, c % width))
    return out


def _add_inputs(node: Node, arguments: dict[str, Argument]) -> None:
    for i, value in enumerate(node.inputs):
        assert value is not None
        arguments[f"x{i}"] = Pointer(value)
        arguments[f"x{i}_batch"] = BatchStride(value)
