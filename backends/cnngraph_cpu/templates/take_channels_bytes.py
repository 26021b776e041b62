"""As the module ``take_channels``, of 8-bit tensors: lanes pass through float32, which holds every byte."""

from __future__ import annotations

from cnngraph.ir.graph import Node
from cnngraph_cpu.language import (
    BytePointer,
    F32Pointer,
    I32Pointer,
    I64Pointer,
    byte_pointer_argument,
    get_byte,
    get_int,
    int_argument,
    load,
    load_bytes,
    load_words,
    permute,
    put_byte,
    registers,
    round_between,
    splat,
    store_bytes,
    to_floats,
    unroll,
    where_equal,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.copy_bytes import only_bytes
from cnngraph_cpu.templates.take_channels import TakeChannelsBlocked, TakeChannelsPlain

W = K = 0  # fixed by the plan


def take_channels_bytes(
    y: BytePointer, places: I64Pointer, orders: I32Pointer, shares: F32Pointer, images: int, y_batch: int, blocks: int, pixels: int,
    chunk: int, args: BytePointer, tid: int, threads: int,
) -> None:  # fmt: skip
    """Tables and arguments as those of ``take_channels``."""
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
            pointer[k] = byte_pointer_argument(args, 9 + 2 * part)
            at[k] = image * int_argument(args, 10 + 2 * part) + get_int(places, (cb * K + k) * 2 + 1) * pixels * W
            order[k] = load_words(orders, (cb * K + k) * W)
            share[k] = load(shares, (cb * K + k) * W)
        to = image * y_batch + cb * pixels * W
        for p in range(first, min(first + chunk, pixels)):
            out = permute(to_floats(load_bytes(pointer[0], at[0] + p * W)), order[0])
            for k in unroll(1, K):
                value = permute(to_floats(load_bytes(pointer[k], at[k] + p * W)), order[k])
                out = where_equal(share[k], splat(0.0), value, out)
            store_bytes(y, to + p * W, round_between(out, splat(0.0), splat(255.0)))


class TakeChannelsBytes(TakeChannelsBlocked):
    """TakeChannels on blocked 8-bit tensors."""

    name = "take_channels_bytes"
    code = Code(take_channels_bytes, {}, "Channels of blocked 8-bit tensors, put together vector by vector.")

    def refuse_type(self, node: Node) -> str | None:
        """A refusal of other elements than bytes."""
        return only_bytes(node)


def take_rows_bytes(
    y: BytePointer, places: I64Pointer, images: int, y_batch: int, channels: int, pixels: int, args: BytePointer, tid: int, threads: int
) -> None:
    """As ``take_rows``."""
    tasks = images * channels
    whole = pixels // W * W
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // channels
        m = task % channels
        part = get_int(places, 2 * m)
        x = byte_pointer_argument(args, 6 + 2 * part)
        at = image * int_argument(args, 7 + 2 * part) + get_int(places, 2 * m + 1) * pixels
        to = image * y_batch + m * pixels
        for i in range(0, whole, W):
            store_bytes(y, to + i, load_bytes(x, at + i))
        for i in range(whole, pixels):
            put_byte(y, to + i, get_byte(x, at + i))


class TakeChannelsPlainBytes(TakeChannelsPlain):
    """TakeChannels on plain 8-bit tensors."""

    name = "take_channels_plain_bytes"
    code = Code(take_rows_bytes, {}, "Channels of plain 8-bit tensors, copied one by one.")

    def refuse_type(self, node: Node) -> str | None:
        """A refusal of other elements than bytes."""
        return only_bytes(node)
