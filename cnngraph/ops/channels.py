"""Channels of several tensors picked, repeated and reordered: what shuffles, splits and concatenations come to together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.types import TensorType, static
from cnngraph.ops.base import Op, needed, require
from cnngraph.ops.common import forbid_batch, match_dim, result, same_dtype, show


@dataclass(frozen=True)
class TakeChannels(Op):
    """``*xs[N,C_i,*d] -> y[N,M,*d]``: channel m of the result is channel ``channels[m]`` of the inputs joined along axis 1."""

    name: ClassVar[str] = "TakeChannels"
    channels: tuple[int, ...]

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        types = [needed(t, str(i)) for i, t in enumerate(inputs)]
        require(types, "TakeChannels without inputs")
        dtype, first = same_dtype(types, "TakeChannels"), types[0]
        require(first.rank >= 3, f"TakeChannels needs channels and pixels, the input is {show(first.shape)}")
        static(first.shape[2:])
        joined = 0
        for type_ in types:
            require(type_.rank == first.rank, f"TakeChannels of {show(first.shape)} and {show(type_.shape)}")
            for axis, (a, b) in enumerate(zip(first.shape, type_.shape, strict=True)):
                if axis != 1:
                    match_dim(a, b, f"TakeChannels of {show(first.shape)} and {show(type_.shape)}")
            joined += forbid_batch(type_.shape[1], "the channels must not depend on the batch size")
        require(all(0 <= c < joined for c in self.channels), f"a channel is outside the {joined} there are")
        return (result(dtype, (first.shape[0], len(self.channels), *first.shape[2:])),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        joined = np.concatenate([x for x in inputs if x is not None], axis=1)
        return (np.take(joined, np.array(self.channels, np.int64), axis=1),)
