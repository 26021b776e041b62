"""Run generated kernels without a GPU: a lock-step SIMT emulator of the same source text that the compiler gets.

The source is rewritten so that one Python execution serves a *group* of threads: every number is a NumPy array with one
element a thread, a branch runs under a mask, tensor-core operations, shuffles and asynchronous copies are done for whole warps. Two ways
to form groups:

* by warp: each warp is a generator that stops at barriers, and the order in which warps run is the caller's choice. What one warp
  must not see before a barrier shows as a wrong number under some order.
* by grid: all threads of all blocks in lock step, for speed.

What the hardware would not tell: shared memory begins as NaN; asynchronous copies land only when waited for, and their destination is NaN
until then; every global access is checked for bounds and alignment; a barrier or a warp-wide operation that
not all threads reach is an error; bank conflicts of ldmatrix are counted; tf32 operands lose their 13 low bits. For tensor cores of
a warpgroup see :mod:`cnngraph_cuda.warpgroups`, for the copies of the tensor memory accelerator :mod:`cnngraph_cuda.bulk_copies`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from cnngraph_cuda.arithmetic import as_i32, pure_functions
from cnngraph_cuda.bulk_copies import MappedTensor
from cnngraph_cuda.lanes import LANE_FUNCTIONS, Lanes, Pointer, SharedMemory, Stats
from cnngraph_cuda.primitives import PRIMITIVES
from cnngraph_cuda.warpgroups import EmulationError

ENDLESS = "a wait for copies that nothing will end"

Order = Callable[[int], Sequence[int]]
"""The warps of a block (their number given) in the order in which they run between barriers."""


class _Rewrite(ast.NodeTransformer):
    """Kernel source as a generator over a group of threads."""

    def __init__(self) -> None:
        self.assigned: set[str] = set()

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Operations on threads get the group as their first argument."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in LANE_FUNCTIONS:
            node.args.insert(0, ast.Name("lanes", ast.Load()))
        return node

    def visit_Expr(self, node: ast.Expr) -> list[ast.stmt] | ast.stmt:
        """A barrier is checked, and is where a warp stops; so is a wait for copies, until they are there."""
        text = ast.unparse(node)
        if text == "cuda.syncthreads()":
            return _statements("lanes.barrier()\nyield False")
        node.value = self.visit(node.value)
        if text.startswith("mbarrier_wait("):
            (wait,) = _statements("while True:\n    yield True")
            assert isinstance(wait, ast.While)
            wait.test = node.value
            return [wait]
        return node

    def visit_Assign(self, node: ast.Assign) -> list[ast.stmt] | ast.stmt:
        """A variable changes for the threads under the mask only."""
        text = ast.unparse(node)
        if "cuda.shared.array" in text:
            return _statements("shared = None")
        node.value = self.visit(node.value)
        target = node.targets[0]
        names = [target.id] if isinstance(target, ast.Name) else [e.id for e in target.elts if isinstance(e, ast.Name)]  # type: ignore[attr-defined]
        self.assigned.update(names)
        old = names[0] if isinstance(target, ast.Name) else f"({', '.join(names)},)"
        node.value = _expression(f"lanes.put({old}, 0)", node.value)
        return node

    def visit_If(self, node: ast.If) -> list[ast.stmt]:
        """Both branches run, each under its mask, unless no thread takes it."""
        condition = f"condition_{node.lineno}_{node.col_offset}"
        test = self.visit(node.test)
        out: list[ast.stmt] = [ast.Assign([ast.Name(condition, ast.Store())], test)]
        for text, body in ((condition, node.body), (f"np.logical_not({condition})", node.orelse)):
            if body:
                inner = _statements(f"if lanes.enter({text}):\n    pass")[0]
                assert isinstance(inner, ast.If)
                inner.body = [*self._block(body), *_statements("lanes.leave()")]
                out.append(inner)
        return out

    def visit_While(self, node: ast.While) -> list[ast.stmt]:
        """The loop goes round while some thread's condition holds."""
        node.test = _expression("lanes.again(0)", self.visit(node.test))
        node.body = self._block(node.body)
        return [*_statements("lanes.begin_loop()"), node]

    def visit_For(self, node: ast.For) -> ast.stmt:
        """Bounds may differ from thread to thread."""
        assert isinstance(node.iter, ast.Call)
        node.iter = ast.Call(
            ast.Attribute(ast.Name("lanes", ast.Load()), "count_to", ast.Load()), [self.visit(a) for a in node.iter.args], []
        )
        node.body = self._block(node.body)
        return node

    def _block(self, statements: Sequence[ast.stmt]) -> list[ast.stmt]:
        out: list[ast.stmt] = []
        for statement in statements:
            made = self.visit(statement)
            out.extend(made if isinstance(made, list) else [made])
        return out


def _statements(text: str) -> list[ast.stmt]:
    return ast.parse(text).body


def _expression(text: str, value: ast.expr) -> ast.expr:
    """``text``, a call, with its last argument replaced."""
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    call.args[-1] = value
    return call


def load(source: str, name: str) -> Callable[..., Iterator[bool]]:
    """Kernel ``name`` of a generated module as a generator ``f(lanes, *arguments)``."""
    tree = ast.parse(source)
    (function,) = [s for s in tree.body if isinstance(s, ast.FunctionDef) and s.name == name]
    rewrite = _Rewrite()
    body = rewrite._block(function.body)
    function.args.args.insert(0, ast.arg("lanes"))
    start = [f"{v} = None" for v in sorted(rewrite.assigned)] + ["if False:\n    yield False"]
    function.body = [*_statements("\n".join(start)), *body]
    module = ast.fix_missing_locations(ast.Module([function], []))
    scope: dict[str, Any] = {"np": np, **pure_functions(), **LANE_FUNCTIONS}
    exec(compile(module, f"<{name}>", "exec"), scope)  # generated by this package from numbers only
    return scope[name]


def launch(
    kernel: Callable[..., Iterator[bool]], grid: tuple[int, int, int], threads: int, shared: int, arguments: Sequence[Any],
    order: Order | None = None,
) -> Stats:  # fmt: skip
    """Run a kernel.

    Args:
        kernel: from :func:`load`.
        grid: blocks in x, y and z.
        threads: threads of a block, a multiple of 32.
        shared: bytes of dynamic shared memory.
        arguments: a :class:`Pointer`, a tensor map or an int for every parameter.
        order: run warp by warp in this order between barriers; None runs all blocks in lock step.
    """
    stats = Stats()
    values = [a if isinstance(a, (Pointer, MappedTensor)) else as_i32(a) for a in arguments]
    blocks = np.stack(np.meshgrid(*(np.arange(g, dtype=np.int32) for g in grid), indexing="ij"), -1).reshape(-1, 3)
    numbers = np.arange(threads, dtype=np.int32)
    with np.errstate(all="ignore"):
        if order is None:
            memory = SharedMemory(len(blocks) * shared)
            slots = np.repeat(np.arange(len(blocks)), threads)
            lanes = Lanes(grid, np.repeat(blocks, threads, 0), np.tile(numbers, len(blocks)), slots, memory, shared, stats)
            for waits in kernel(lanes, *values):
                if waits:
                    raise EmulationError(ENDLESS)
            return stats
        for block in blocks:
            _block_by_warps(kernel, grid, block, numbers, shared, values, order, stats)
    return stats


def _block_by_warps(
    kernel: Callable[..., Iterator[bool]], grid: tuple[int, int, int], block: np.ndarray, numbers: np.ndarray, shared: int,
    values: Sequence[Any], order: Order, stats: Stats,
) -> None:  # fmt: skip
    memory = SharedMemory(shared)
    warps = []
    for first in range(0, len(numbers), 32):
        part = numbers[first : first + 32]
        lanes = Lanes(grid, np.repeat(block[None], 32, 0), part, np.zeros(32, np.int64), memory, shared, stats)
        warps.append(kernel(lanes, *values))
    while True:
        ended, running = 0, list(order(len(warps)))
        while running:
            before, waiting = stats.progress, []
            for number in running:
                try:
                    if next(warps[number]):
                        waiting.append(number)
                except StopIteration:
                    ended += 1
            if len(waiting) == len(running) and stats.progress == before:
                raise EmulationError(ENDLESS)
            running = waiting
        if ended == len(warps):
            return
        if ended:
            raise EmulationError("a barrier is reached by some warps only")


def unknown_primitives() -> set[str]:
    """Primitives that the emulator cannot run; none, if it is complete."""
    return set(PRIMITIVES) - set(pure_functions()) - set(LANE_FUNCTIONS)
