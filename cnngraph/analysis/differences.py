"""What a precision costs: every tensor of a network computed in two ways, and how far the results lie apart.

Both programs are compiled by the same passes, which stop before precision comes in; there every intermediate tensor becomes an
output of the graph, so that layers stay fused as they are in the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cnngraph.errors import UsageError, printable
from cnngraph.ir.types import DType

if TYPE_CHECKING:
    from cnngraph.ir.graph import Graph
    from cnngraph.options import CompileOptions
    from cnngraph.passes.base import PassRecord
    from cnngraph.pipeline import Source
    from cnngraph.runtime.session import Program


@dataclass(frozen=True)
class TensorDifference:
    """One tensor in both programs.

    Attributes:
        tensor: ONNX name of the tensor.
        node: names of the ONNX nodes that are fused into its layer.
        stored: type of its elements in memory: bfloat16 or float32.
        output: whether it is an output of the network.
        scale: largest absolute value by the reference.
        error: largest absolute difference over ``scale``.
        sqnr_db: 10 log10 of the reference's energy over the differences' energy; infinite without differences.
    """

    tensor: str
    node: str
    stored: str
    output: bool
    scale: float
    error: float
    sqnr_db: float


class Comparison:
    """The programs of one model for two sets of options, which give every tensor as an output."""

    def __init__(self, source: Source, options: CompileOptions, reference: CompileOptions, shapes: Mapping[str, Any] | None = None) -> None:
        """Compile both.

        Raises:
            UsageError: shapes of the model are free or depend on data.
            CnngraphError: whatever compiling raises.
        """
        self._places: list[tuple[str, str, bool]] = []
        self.program = _program(source, options, shapes, self._expose)
        self._reference = _program(source, reference, shapes, self._expose)
        kept = self.program.report.get("precision", {}).get("kept_f32", [])
        self._wide = {entry["node"] for entry in kept}
        self._narrow = "precision" in self.program.report

    def _expose(self, graph: Graph, record: PassRecord) -> None:
        from cnngraph.pipeline import FUSED

        if record.name != FUSED[-1].name or graph.stage != "canonical":
            return
        places = [(name, _label(value.producer), True) for name, value in graph.outputs]
        known = {value for _, value in graph.outputs}
        taken = {name for name, _, _ in places}
        for node in graph.nodes:
            for value in node.outputs:
                if value.type.dtype is not DType.F32 or value in known:
                    continue
                name = value.names[-1] if value.names else node.label
                while name in taken:
                    name += "'"
                taken.add(name)
                places.append((name, _label(node), False))
                graph.add_output(name, value)
        self._places = places

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[TensorDifference]:
        """The differences on one batch, in the order of the graph, outputs of the network last."""
        ours, theirs = self.program.run(feeds), self._reference.run(feeds)
        rows = [
            _difference(name, node, "bfloat16" if self._narrow and node not in self._wide else "float32", output, ours[name], theirs[name])
            for name, node, output in self._places
            if ours[name].dtype.kind == "f"
        ]
        return sorted(rows, key=lambda row: row.output)


def _label(node: Any) -> str:
    return "" if node is None else printable(node.label, 400)


def _program(
    source: Source, options: CompileOptions, shapes: Mapping[str, Sequence[Any]] | None, after: Callable[[Graph, PassRecord], None]
) -> Program:
    from cnngraph.pipeline import compile as compile_now
    from cnngraph.runtime.session import Program

    program = compile_now(source, options=options, shapes=shapes, after=after)
    if not isinstance(program, Program):
        raise UsageError("tensors are compared where shapes are known: free dimensions are given by shapes; a tail has none")
    return program


def _difference(name: str, node: str, stored: str, output: bool, ours: np.ndarray, theirs: np.ndarray) -> TensorDifference:
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    with np.errstate(all="ignore"):
        distance = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        scale = float(np.max(np.abs(b), initial=0.0))
        error = float(np.max(distance, initial=0.0)) / (scale or 1.0)
        noise = float(np.sum(distance * distance))
        sqnr = float("inf") if noise == 0 else float(10 * np.log10(np.sum(b * b) / noise))
    return TensorDifference(name, node, stored, output, scale, error, sqnr)
