"""Element-wise expressions in one loop, on blocked or plain tensors; other broadcasts stand in eltwise_strided.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import PLAIN, Dim, TensorType, numel, per_image
from cnngraph.kernels.operands import FULL, IMAGE_CHANNEL, PER_CHANNEL, operand_kind
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Pointer, Target
from cnngraph.ops import Elementwise
from cnngraph.ops.expression import Expression
from cnngraph_cpu.language import F32Pointer, epilogue, load, load_partial, store, store_partial
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked, epilogue_arguments, only_floats, operand_layouts, overwritable

W = 0
_CHUNK = 4096


def eltwise_blocked(
    x: F32Pointer, y: F32Pointer, images: int, x_batch: int, y_batch: int, blocks: int, pixels: int, tid: int, threads: int
) -> None:
    """``y = f(x, operands)`` over [images, blocks, pixels, W]."""
    tasks = images * blocks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // blocks
        cb = task % blocks
        for p in range(pixels):
            inner = (cb * pixels + p) * W
            value = load(x, image * x_batch + inner)
            out = epilogue(value, image, inner, cb * W)
            store(y, image * y_batch + inner, out)


def eltwise_plain(
    x: F32Pointer, y: F32Pointer, images: int, x_batch: int, y_batch: int, rows: int, columns: int, chunk: int, tid: int, threads: int
) -> None:
    """``y = f(x, operands)`` over [images, rows, columns]; a channel is a row (CHANNEL_SCALAR) or a column."""
    chunks = (columns + chunk - 1) // chunk
    tasks = images * rows * chunks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // (rows * chunks)
        row = task // chunks % rows
        first = task % chunks * chunk
        stop = min(first + chunk, columns)
        whole = first + (stop - first) // W * W
        for j in range(first, whole, W):
            inner = row * columns + j
            value = load(x, image * x_batch + inner)
            out = epilogue(value, image, inner, row if CHANNEL_SCALAR else j)
            store(y, image * y_batch + inner, out)
        if whole < stop:
            inner = row * columns + whole
            left = stop - whole
            value = load_partial(x, image * x_batch + inner, left)
            out = epilogue(value, image, inner, row if CHANNEL_SCALAR else whole, left)
            store_partial(y, image * y_batch + inner, out, left)


CHANNEL_SCALAR = 0


@dataclass(frozen=True)
class _Split:
    """The operand the loop walks, the others, and the expression with that operand first."""

    main: Value
    others: tuple[Value, ...]
    expression: Expression


def _split(node: Node) -> _Split | None:
    assert isinstance(node.op, Elementwise)
    output = node.output.type
    values = [v for v in node.inputs if v is not None]
    for i, value in enumerate(values):
        if value.type.shape == output.shape and not value.is_constant:
            others = values[:i] + values[i + 1 :]
            order = [1 + j if j < i else 0 if j == i else j for j in range(len(values))]
            return _Split(value, tuple(others), node.op.expression.select(order, len(values)))
    return None


def _kinds(split: _Split, output: TensorType) -> list[int | None]:
    return [operand_kind(v.type, output, constant=v.is_constant) for v in split.others]


class _ElementwiseBase:
    reorders_arithmetic = False

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses operands that broadcast otherwise than by scalar, channel or element."""
        if not isinstance(node.op, Elementwise):
            return "not element-wise"
        refusal = only_floats(node)
        if refusal:
            return refusal
        split = _split(node)
        if split is None:
            return "no computed operand has the shape of the result"
        for value, kind in zip(split.others, _kinds(split, node.output.type), strict=True):
            if kind is None:
                return f"operand {value.type} is broadcast in a way this kernel does not load"
            if kind in (FULL, IMAGE_CHANNEL) and value.is_constant:
                return "a constant operand of the full size"
        return self._shape_refusal(node.output.type, _kinds(split, node.output.type))

    def _shape_refusal(self, output: TensorType, kinds: Sequence[int | None]) -> str | None:
        raise TypeError("abstract")


class EltwiseBlocked(_ElementwiseBase):
    """Element-wise on blocked tensors of 3 to 5 axes."""

    name = "eltwise_blocked"
    code = Code(eltwise_blocked, {}, "Element-wise expression over a blocked tensor.")

    def _shape_refusal(self, output: TensorType, kinds: Sequence[int | None]) -> str | None:
        if not 3 <= output.rank <= 5 or not all(isinstance(d, int) and d > 0 for d in output.shape[1:]):
            return "not a tensor of 3 to 5 axes"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Everything blocked."""
        layout, split = blocked(target), _split(node)
        assert split is not None
        wanted = dict(zip(split.others, operand_layouts(split.others, node.output.type, layout), strict=True))
        return [LayoutRequest(tuple(layout if v is split.main else wanted[v] for v in node.inputs if v is not None), (layout,))]

    def cost(self, node: Node, target: Target) -> float:
        """Preferred unless the input is plain: then the plain kernel avoids two reorders."""
        split = _split(node)
        assert split is not None
        return per_image(node.output.type.physical_elements) * (1.0 if not split.main.type.layout.plain else 3.0)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task an image and channel block."""
        split, y = _split(node), node.output
        assert split is not None
        channels = y.type.shape[1]
        assert isinstance(channels, int)
        kinds, operands = epilogue_arguments(split.expression, split.others, y.type, target.width)
        pixels = numel(y.type.shape[2:])
        arguments: dict[str, Argument] = {
            "x": Pointer(split.main), "y": Pointer(y), "images": Extent(y.type.shape[0]), "x_batch": BatchStride(split.main),
            "y_batch": BatchStride(y), "blocks": Extent(-(-channels // target.width)), "pixels": Extent(pixels), **operands,
        }  # fmt: skip
        spec = KernelSpec(self.name, target.isa, tuple(kinds), split.expression)
        return KernelCall(spec, arguments, (), overwritable((split.main, *split.others), y))


class EltwisePlain(_ElementwiseBase):
    """Element-wise on plain tensors; channels on axis 1."""

    name = "eltwise_plain"
    code = Code(eltwise_plain, {}, "Element-wise expression over a plain tensor.")

    def _shape_refusal(self, output: TensorType, kinds: Sequence[int | None]) -> str | None:
        varied = any(k in (PER_CHANNEL, IMAGE_CHANNEL) for k in kinds)
        if varied and output.rank < 2:
            return "channels of a vector"
        if IMAGE_CHANNEL in kinds and output.rank == 2:
            return "one number per image and channel of a matrix is the full size"
        if any(isinstance(d, int) and d == 0 for d in output.shape):
            return "an empty tensor"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Everything plain."""
        return [LayoutRequest(tuple(PLAIN for _ in node.inputs), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """See :meth:`EltwiseBlocked.cost`."""
        split = _split(node)
        assert split is not None
        return per_image(node.output.type.physical_elements) * 2.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Rows are channels from three axes on; without channel operands the tensor is one long row."""
        split, y = _split(node), node.output
        assert split is not None
        shape = y.type.shape
        kinds, operands = epilogue_arguments(split.expression, split.others, y.type, target.width)
        used = {k for _, k in kinds}
        images: Dim = shape[0] if shape else 1
        rows: Dim = 1
        columns: Dim = numel(shape[1:])
        if used & {PER_CHANNEL, IMAGE_CHANNEL} and len(shape) > 2:
            rows, columns = shape[1], numel(shape[2:])
        if len(shape) == 1:
            images, columns = 1, shape[0]
        constants = [*kinds, ("CHANNEL_SCALAR", int(len(shape) > 2))]
        batch: Argument = BatchStride(split.main) if len(shape) > 1 else Extent(0)
        arguments: dict[str, Argument] = {
            "x": Pointer(split.main), "y": Pointer(y), "images": Extent(images), "x_batch": batch,
            "y_batch": BatchStride(y) if len(shape) > 1 else Extent(0), "rows": Extent(rows), "columns": Extent(columns),
            "chunk": Extent(_CHUNK), **operands,
        }  # fmt: skip
        if len(shape) <= 1:
            arguments = {k: Extent(0) if k.endswith("_batch") else a for k, a in arguments.items()}
        spec = KernelSpec(self.name, target.isa, tuple(constants), split.expression)
        return KernelCall(spec, arguments, (), overwritable((split.main, *split.others), y))
