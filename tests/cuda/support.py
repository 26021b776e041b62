"""Networks of a few nodes through the whole CUDA pipeline, run in the emulator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnngraph.ir.graph import Graph, Value
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.kernels.template import CompiledKernel
from cnngraph.ops import Conv
from cnngraph.ops.base import Op
from cnngraph.options import CompileOptions
from cnngraph.passes.choose_layout import choose_layout
from cnngraph.passes.plan_memory import plan_memory
from cnngraph.passes.select_kernels import select_kernels
from cnngraph.runtime.build import build_program
from cnngraph.runtime.session import Program
from cnngraph_cuda import CudaBackend
from cnngraph_cuda import emulate as emulator
from cnngraph_cuda.bulk_copies import MappedTensor
from cnngraph_cuda.device import EmulatedDevice
from cnngraph_cuda.executor import CudaExecutor, check_buffers, plan_launch
from cnngraph_cuda.lanes import Pointer
from cnngraph_cuda.tensor_maps import TensorMap
from cnngraph_cuda.warpgroups import EmulationError

TOLERANCE = {"f32": 3e-6, "tf32": 2e-3, "f16": 4e-3, "bf16": 3e-2}
"""Relative to the largest element; against float64."""

ORDERS: dict[str, Any] = {
    "lockstep": None,
    "forward": lambda n: range(n),
    "backward": lambda n: range(n)[::-1],
    "shuffled": lambda n: np.random.default_rng(n).permutation(n),
}


class SourceOnly(CudaBackend):
    """The backend without its compiler: kernels are known by their source."""

    def compile(self, specs: Sequence[Any], target: Any, progress: Any = None) -> dict[Any, CompiledKernel]:
        return {spec: CompiledKernel(self.source(spec).name, self.source(spec).name, b"none") for spec in specs}

    def driver(self, target: Any) -> CompiledKernel:
        return CompiledKernel("fill", "fill", b"none")


class Net(Graph):
    """A graph with shorthand, on a symbolic batch unless ``batch`` says otherwise."""

    def __init__(self, *shape: int, seed: int = 0, batch: Any = BATCH, dtype: DType = DType.F32) -> None:
        super().__init__("test")
        self.rng = np.random.default_rng(seed)
        self.x = self.add_input("x", TensorType(dtype, (batch, *shape)))

    def weights(self, *shape: int, scale: float = 1.0) -> Value:
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def node(self, op: Op, *inputs: Value | None) -> Value:
        return self.add(op, inputs, origin=(f"{type(op).__name__}{len(self)}",))[0]


def build(graph: Graph, *, isa: str = "sm_90", options: CompileOptions | None = None) -> tuple[Program, Any]:
    """Lower a graph as the pipeline does after its passes; returns the program and the layout choice."""
    backend = SourceOnly()
    options = options or CompileOptions(backend="cuda", isa=isa)
    target = backend.target_of(options)
    backend.adapt(graph, target)
    choice = choose_layout(graph, backend.templates(), target)
    backend.check(choice, options)
    calls = select_kernels(graph, choice, target)
    plan = plan_memory(graph, calls)
    specs = [call.spec for node, call in calls.items() if call is not None and node not in plan.absorbed]
    program = build_program(
        graph, calls, plan, backend.compile(specs, target), backend, target, options=options, records=[], rejections=[],
        selections=choice.selections,
    )  # fmt: skip
    return program, choice


def emulate(program: Program, feeds: Mapping[str, np.ndarray], order: Any = None) -> tuple[dict[str, np.ndarray], EmulatedDevice]:
    """Run a program on an emulated device."""
    device = EmulatedDevice(order)
    program._executor = CudaExecutor(program.data, lambda: device)
    batches = {a.shape[0] for a in feeds.values() if a.ndim} or {1}
    check_buffers(program.data, next(iter(batches)))
    return program.run(feeds), device


def compare(
    graph: Graph, *, isa: str = "sm_90", batch: int = 2, orders: Sequence[str] = ("lockstep",), tolerance: float = 0.0
) -> list[str]:
    """Compile ``graph``, emulate it, and compare with float64; returns the names of the templates used."""
    rng = np.random.default_rng(99)
    feeds = {
        name: rng.standard_normal([d if isinstance(d, int) else d.scale * batch for d in v.type.shape]).astype(v.type.dtype.numpy)
        for name, v in graph.inputs
    }
    expected = interpret(graph, feeds, np.float64)
    program, choice = build(graph, isa=isa)
    allowed = tolerance or TOLERANCE[(isa + "::").split(":")[1] or "f32"]
    for order in orders:
        got, _ = emulate(program, feeds, ORDERS[order])
        for name, want in expected.items():
            assert got[name].shape == want.shape
            assert np.isfinite(got[name]).all(), f"{name} is not finite in order {order}"
            error = np.abs(got[name].astype(np.float64) - want).max() / max(np.abs(want).max(), 1e-30)
            assert error <= allowed, f"{name} differs by {error:.2e} in order {order}"
    return [s.chosen for s in choice.selections]


def single_product(isa: str, channels: int = 40, outputs: int = 16, kernel: int = 3) -> Any:
    """A convolution of one image in a 16-bit type or tf32: kernel, launch, arguments, where the result goes, the true result."""
    net = Net(channels, 5, 6, batch=1)
    weights = net.weights(outputs, channels, kernel, kernel, scale=0.3 / kernel)
    op = Conv((kernel, kernel), (1, 1), (kernel // 2,) * 4, (1, 1))
    net.add_output("y", net.node(op, net.x, weights, net.weights(outputs)))
    (node,) = net.nodes
    kind = np.dtype(np.float32) if ":tf32" in isa else np.dtype(np.float16)
    feed = np.random.default_rng(3).standard_normal((1, channels, 5, 6)).astype(kind)
    constants = (np.asarray(node.input(i).data, kind).astype(np.float64) for i in (1, 2))
    expected = node.op.reference(feed.astype(np.float64), *constants)[0].transpose(0, 2, 3, 1)
    program, _ = build(net, isa=isa)
    (step,) = [s for s in program.data.steps if program.data.kernels[s.kernel].name.startswith("conv_gemm")]
    launch = plan_launch(step, 1, [0] * 8)
    launch = dataclasses.replace(launch, grid=(*launch.grid[:2], 1))  # the whole sum in one block, so that buffers are refilled
    blob = program.data.weights
    image = np.ascontiguousarray(feed.transpose(0, 2, 3, 1))
    result = np.full((1, 5, 6, outputs), np.nan, kind)
    buffers = [(image, kind), (blob, kind), (blob, np.dtype(np.float32)), (result, kind)]
    arguments: list[Any] = []
    for (array, dtype), given in zip(buffers, launch.arguments[:4], strict=True):
        memory, mapped = array.reshape(-1).view(np.uint8), isinstance(given, TensorMap)
        at = 0 if array is not blob else given.address if mapped else given[1]
        arguments.append(MappedTensor(given, memory, at) if mapped else Pointer(memory, dtype, at))
    arguments += [given[1] for given in launch.arguments[4:] if not given[0]]
    arguments += [Pointer.to(np.zeros(1024, np.int32)), Pointer.to(np.zeros(program.data.scratch // 4, np.float32))]
    return program.data.kernels[step.kernel], launch, arguments, result, expected


def run_product(product: Any, spoil: Callable[[str], str] | None = None, order: str = "forward") -> tuple[float, emulator.Stats]:
    """Relative error of the kernel of :func:`single_product`, after ``spoil`` has changed its text."""
    kernel, launch, arguments, result, expected = product
    text = kernel.source if spoil is None else spoil(kernel.source)
    assert spoil is None or text != kernel.source
    result[...] = np.nan
    stats = emulator.launch(emulator.load(text, kernel.name), launch.grid, launch.threads, launch.shared, arguments, ORDERS[order])
    error = np.abs(result.astype(np.float64) - expected).max() / np.abs(expected).max()
    return (float(error) if np.isfinite(error) else np.inf), stats


def shown_by_some_order(is_wrong: Callable[[str], bool], orders: Sequence[str] = ("forward", "backward")) -> bool:
    """Whether under some order of warps ``is_wrong`` holds of the result, or the emulator refuses to go on; later orders are not run."""
    for order in orders:
        try:
            if is_wrong(order):
                return True
        except EmulationError:
            return True
    return False
