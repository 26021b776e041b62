"""Models of operator sets 1 to 6, from before NumPy's broadcasting, are converted by onnx itself before they are imported."""

from __future__ import annotations

import onnx
from onnx import helper, shape_inference, version_converter

from cnngraph.errors import InvalidModelError, UnsupportedError, printable
from cnngraph.frontend.bodies import standard_domain
from cnngraph.frontend.registry import OLDEST_OPSET

_TARGET = 8
_ALIGNED = frozenset({"Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "PRelu", "Pow", "Sub", "Xor"})


def upgraded(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, or its conversion to a newer operator set if its own is older than any importer knows.

    Raises:
        InvalidModelError: an old model that onnx's checker refuses.
        UnsupportedError: an old model that onnx cannot convert.
    """
    versions = [entry.version for entry in model.opset_import if not standard_domain(entry.domain)]
    if len(versions) != 1 or not 1 <= versions[0] < OLDEST_OPSET:
        return model
    try:
        inferred = shape_inference.infer_shapes(model)
        onnx.checker.check_model(inferred)
        return version_converter.convert_version(_with_plain_broadcasts(inferred), _TARGET)
    except onnx.checker.ValidationError as error:
        raise InvalidModelError(f"the model of operator set {versions[0]} is invalid: {_first_line(error)}") from error
    except (version_converter.ConvertError, shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise UnsupportedError(f"the model uses operator set {versions[0]} and cannot be converted: {_first_line(error)}") from error


def _with_plain_broadcasts(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, whose shapes are inferred, with second operands whose shape says where they belong.

    Before operator set 7 the attribute ``axis`` says it, and one slope a channel is [C] for PRelu. onnx's converter places too many
    axes behind the former, and leaves the latter as it is.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    ranks = _ranks(model)
    for node in model.graph.node:
        axis = 1 if node.op_type == "PRelu" else next((a.i for a in node.attribute if a.name == "axis"), None)
        if node.op_type not in _ALIGNED or axis is None or len(node.input) != 2:
            copy.graph.node.append(node)
            continue
        rank, own = ranks.get(node.input[0]), ranks.get(node.input[1])
        if rank is None or own is None:
            raise UnsupportedError(f"the rank of an operand of {node.op_type} is not declared")
        behind = rank - own - (axis + rank if axis < 0 else axis)
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        del changed.attribute[:]
        changed.attribute.extend(a for a in node.attribute if a.name != "axis")
        if behind > 0 and (node.op_type != "PRelu" or own == 1):
            changed.input[1] = f"{node.output[0]} aligned"
            axes = list(range(own, own + behind))
            copy.graph.node.append(helper.make_node("Unsqueeze", [node.input[1]], [changed.input[1]], axes=axes))
        copy.graph.node.append(changed)
    return copy


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    infos = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    ranks = {i.name: len(i.type.tensor_type.shape.dim) for i in infos if i.type.tensor_type.HasField("shape")}
    return ranks | {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}


def _first_line(error: Exception) -> str:
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0], 300)
