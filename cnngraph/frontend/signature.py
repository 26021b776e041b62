"""Types of graph inputs: declared dimensions, the caller's shapes, and the batch size that stays free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral

import onnx

from cnngraph.errors import InvalidModelError, UnsupportedError, UsageError, printable
from cnngraph.frontend.errors import DeclaredShape, FreeDimensionsError, example, shown
from cnngraph.frontend.tensors import element_type, text
from cnngraph.ir.types import BATCH, Dim, DType, TensorType

RequestedShape = Sequence[int | str | None]


def declared_type(info: onnx.ValueInfoProto) -> tuple[DType, DeclaredShape]:
    """Element type and dimensions as the model declares them: a number, a name, or None where it says nothing.

    Raises:
        UnsupportedError: a sequence, a sparse tensor, an unsupported element type.
        InvalidModelError: no type, a dimension below -1.
    """
    kind = info.type.WhichOneof("value")
    if kind is None:
        raise InvalidModelError("no type is declared")
    if kind != "tensor_type":
        raise UnsupportedError(f"the type {kind.removesuffix('_type')} is not supported")
    tensor = info.type.tensor_type
    dtype = element_type(tensor.elem_type)
    if not tensor.HasField("shape"):
        return dtype, None
    dims: list[int | str | None] = []
    for dim in tensor.shape.dim:
        which = dim.WhichOneof("value")
        if which == "dim_value":
            if dim.dim_value < -1:
                raise InvalidModelError(f"the dimension {dim.dim_value} is negative")
            dims.append(None if dim.dim_value == -1 else int(dim.dim_value))
        else:
            dims.append(text(dim.dim_param, "dimension name") or None)
    return dtype, tuple(dims)


def declare(model: onnx.ModelProto, shapes: Mapping[str, RequestedShape]) -> None:
    """Let the inputs of ``model`` declare the caller's shapes, in place.

    Raises:
        UsageError: ``shapes`` names an unknown input or has another rank, or a size is negative.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = {info.name: info for info in model.graph.input if info.name not in stored}
    _check_request({name: declared_type(info) for name, info in inputs.items() if not is_direct(info)}, shapes, None)
    for name, request in shapes.items():
        shape = inputs[name].type.tensor_type.shape
        shape.Clear()
        for size in request:
            dim = shape.dim.add()
            if isinstance(size, str):
                dim.dim_param = size
            elif size is not None:
                dim.dim_value = int(size)


def is_direct(info: onnx.ValueInfoProto) -> bool:
    """Whether a value is a sequence, an optional or a tensor of strings, which only the tail can hold."""
    kind = info.type.WhichOneof("value")
    return kind in ("sequence_type", "optional_type") or (
        kind == "tensor_type" and info.type.tensor_type.elem_type == onnx.TensorProto.STRING
    )


def resolve_inputs(
    declared: Mapping[str, tuple[DType, DeclaredShape]], shapes: Mapping[str, RequestedShape] | None, batch: int | None
) -> dict[str, TensorType]:
    """The type of every graph input; a leading dimension that is free becomes N, or ``batch`` if given.

    A name that the caller's shapes fix for one input is fixed for all.

    Raises:
        UsageError: ``shapes`` names an unknown input or has another rank, or a size is negative.
        FreeDimensionsError: other dimensions are free.
    """
    _check_request(declared, shapes, batch)
    fixed: dict[str, int] = {}
    for name, request in (shapes or {}).items():
        pairs = zip(request, declared[name][1] or (), strict=False)
        fixed.update((dim, wanted) for wanted, dim in pairs if isinstance(wanted, int) and isinstance(dim, str))
    types: dict[str, TensorType] = {}
    free: dict[str, DeclaredShape] = {}
    for name, (dtype, dims) in declared.items():
        requested = shapes.get(name) if shapes else None
        sources = tuple(requested) if requested is not None else dims
        if sources is None:
            free[name] = None
            continue
        shape: list[Dim] = []
        for axis, source in enumerate(sources):
            size = fixed.get(source) if isinstance(source, str) else source
            if size is None and requested is not None and dims is not None:
                size = _declared_size(dims[axis], fixed) if axis else None
            if size is not None:
                shape.append(int(size))
            elif axis == 0:
                shape.append(BATCH if batch is None else batch)
            else:
                free[name] = dims if dims is not None else tuple(sources)
        types[name] = TensorType(dtype, tuple(shape))
    if free:
        raise FreeDimensionsError(
            f"dimensions other than the batch size are free: {shown(free)}. Give them, for instance {example(free)}", free
        )
    return types


def _declared_size(dim: int | str | None, fixed: Mapping[str, int]) -> int | None:
    return fixed.get(dim) if isinstance(dim, str) else dim


def _check_request(
    declared: Mapping[str, tuple[DType, DeclaredShape]], shapes: Mapping[str, RequestedShape] | None, batch: int | None
) -> None:
    if batch is not None and batch < 0:
        raise UsageError(f"the batch size {batch} is negative")
    for name, request in (shapes or {}).items():
        if isinstance(request, str) or not hasattr(request, "__len__"):
            raise UsageError(f"shapes gives {request!r} for '{printable(name)}'; it must be a sequence of dimensions")
        if name not in declared:
            raise UsageError(f"shapes names '{printable(name)}'; the model's inputs are {', '.join(map(printable, declared))}")
        for dim in request:
            if not (dim is None or isinstance(dim, (str, Integral))):
                raise UsageError(f"shapes gives {dim!r} as a dimension of '{printable(name)}': neither an integer, nor a name, nor None")
        dims = declared[name][1]
        if dims is not None and len(dims) != len(request):
            raise UsageError(f"shapes gives {len(request)} dimensions for '{printable(name)}', which has {len(dims)}")
        if any(isinstance(d, int) and d < 0 for d in request):
            raise UsageError(f"shapes gives a negative dimension for '{printable(name)}'")
