"""Small graphs for pass tests, and the check every rewrite must survive."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Graph, Value
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ir.verify import verify
from cnngraph.ops import BatchNorm, Conv, Dense, Elementwise
from cnngraph.ops.expression import Expression
from cnngraph.passes.base import Pass, PassContext, run_passes


class Net(Graph):
    """A graph with shorthand for common layers on a symbolic batch."""

    def __init__(self, *shape: int, seed: int = 0) -> None:
        super().__init__("test")
        self.rng = np.random.default_rng(seed)
        self.x = self.add_input("x", TensorType(DType.F32, (BATCH, *shape)))

    def weights(self, *shape: int) -> Value:
        return self.constant(self.rng.standard_normal(shape).astype(np.float32))

    def node(self, op: object, *inputs: Value | None, name: str = "") -> Value:
        return self.add(op, inputs, origin=(name or f"{type(op).__name__}{len(self)}",))[0]  # type: ignore[arg-type]

    def conv(self, x: Value, filters: int, *, kernel: int = 3, pad: int = 1, bias: bool = True, group: int = 1, name: str = "") -> Value:
        channels = x.type.shape[1]
        assert isinstance(channels, int)
        op = Conv((kernel,) * 2, (1, 1), (pad,) * 4, (1, 1), group)
        w = self.weights(filters, channels // group, kernel, kernel)
        return self.node(op, x, w, self.weights(filters) if bias else None, name=name)

    def dense(self, x: Value, outputs: int, name: str = "") -> Value:
        depth = x.type.shape[1]
        assert isinstance(depth, int)
        return self.node(Dense(), x, self.weights(depth, outputs), self.weights(outputs), name=name)

    def batchnorm(self, x: Value, name: str = "") -> Value:
        channels = x.type.shape[1]
        assert isinstance(channels, int)
        variance = self.constant(self.rng.uniform(0.5, 2, channels).astype(np.float32))
        parameters = [self.weights(channels) for _ in range(3)]
        return self.node(BatchNorm(epsilon=1e-3), x, *parameters, variance, name=name)

    def elementwise(self, fn: str, *inputs: Value, params: tuple[float, ...] = (), name: str = "") -> Value:
        return self.node(Elementwise(Expression.of(fn, len(inputs), params)), *inputs, name=name)

    def relu(self, x: Value, name: str = "") -> Value:
        return self.elementwise("relu", x, name=name)

    def names(self) -> list[str]:
        return [node.op.name for node in self.nodes]


def apply(net: Net, *passes: Pass, outputs: Sequence[Value] = (), tolerance: float = 1e-5) -> tuple[int, PassContext]:
    """Run passes on a finished net; results must stay the same. Returns the changes and the context with the refusals."""
    for i, value in enumerate(outputs):
        net.add_output(f"y{i}", value)
    feeds = {name: net.rng.standard_normal((3, *value.type.shape[1:])).astype(np.float32) for name, value in net.inputs}
    before = interpret(net, feeds, np.float64)
    context = PassContext()
    records = run_passes(net, passes, context, verify)
    after = interpret(net, feeds, np.float64)
    for name, array in before.items():
        scale = np.abs(array[np.isfinite(array)]).max(initial=0)
        np.testing.assert_allclose(after[name], array, rtol=tolerance, atol=tolerance * scale)
    return sum(r.changes for r in records), context
