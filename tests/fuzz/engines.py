"""The three implementations that are compared: references, compiled programs, onnxruntime."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import cnngraph
from cnngraph.errors import CnngraphError, InvalidModelError, UnsupportedError
from cnngraph.frontend import BatchNotSymbolicError, ContentsNeededError, import_model
from cnngraph.ir.types import DType
from tests.frontend.support import run
from tests.fuzz.case import Array, Case

LACKING = (
    "NOT_IMPLEMENTED", "not implemented", "Could not find an implementation", "is not supported with", "not supported for",
    "is under development", "Opset ", "is not a registered function/op", "not supported yet", "isn't supported", "not been implemented",
    "isn't implemented", "cannot be cast from", "invalid type", "unsupported data type", "bound to different types",
    "does not support double", "is invalid",
)  # fmt: skip
"""Parts of onnxruntime's messages that say that it lacks an operator, a type or an attribute."""

FED = {"float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"}


class Refused(Exception):
    """An implementation does not run the model.

    Attributes:
        valid: it says that the model is valid, only lacking here.
    """

    def __init__(self, message: str, valid: bool) -> None:
        self.valid = valid
        super().__init__(message)


@cache
def isas() -> tuple[str, ...]:
    """The instruction sets this machine can run, best first."""
    from cnngraph_cpu.target import available

    return tuple(available(special=True))


def fixed(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> onnx.ModelProto:
    """``model`` with every input of the extents that its feed has."""
    out = onnx.ModelProto.FromString(model.SerializeToString())
    for info in out.graph.input:
        for dim, extent in zip(info.type.tensor_type.shape.dim, feeds[info.name].shape, strict=True):
            dim.dim_value = extent
    return out


def references(case: Case) -> list[Array]:
    """Outputs by the references of the operators, in the graph as imported.

    Raises:
        Refused: cnngraph does not take the model, or not these inputs.
    """
    names = [info.name for info in case.model.graph.output]
    try:
        try:
            graph = import_model(case.model)
        except BatchNotSymbolicError:
            graph = import_model(fixed(case.model, case.feeds))
        except ContentsNeededError:
            graph = import_model(case.model, shapes={k: v.shape for k, v in case.feeds.items()}, constants=_small(case))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            results = run(graph, case.feeds)
    except UnsupportedError as error:
        raise Refused(f"unsupported: {error}", True) from error
    except InvalidModelError as error:
        raise Refused(f"invalid: {error}", False) from error
    except CnngraphError as error:
        raise Refused(f"{type(error).__name__}: {error}", False) from error
    return [np.asarray(results[name]) for name in names]


def _small(case: Case) -> dict[str, Array]:
    """Feeds of inputs that shapes may depend on: all but the first."""
    return {k: v for k, v in case.feeds.items() if k != "x0" and v.size <= 1024}


def compiled(case: Case, isa: str) -> list[Array]:
    """Outputs of the program for one instruction set.

    Raises:
        Refused: cnngraph does not take the model, or not these inputs.
    """
    try:
        results = cnngraph.compile(case.model, isa=isa, threads=1).run(case.feeds)
    except UnsupportedError as error:
        raise Refused(f"unsupported: {error}", True) from error
    except CnngraphError as error:
        raise Refused(f"{type(error).__name__}: {error}", False) from error
    return [np.asarray(results[info.name]) for info in case.model.graph.output]


@cache
def _options() -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def onnxruntime_result(case: Case) -> list[Array]:
    """Outputs of onnxruntime without its optimisations.

    Types that NumPy lacks go in as constants and come out cast to a type that it has; the caller compares values.

    Raises:
        Refused: it does not run the model.
    """
    import onnxruntime

    model, feeds = portable(case)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), _options(), providers=["CPUExecutionProvider"])
        return [np.asarray(v) for v in session.run(None, feeds)]
    except Exception as error:
        raise Refused(str(error), any(text in str(error) for text in LACKING)) from error


@cache
def newest_opset() -> int:
    """The newest operator set of the standard domain that onnxruntime takes."""
    import onnxruntime

    for opset in range(int(onnx.defs.onnx_opset_version()), 6, -1):
        graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(np.zeros(1, np.float32), "w")])
        graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), _options(), providers=["CPUExecutionProvider"])
        except Exception:
            continue
        return opset
    return 7


def _lowered(model: onnx.ModelProto) -> None:
    """Give ``model`` the newest operator set that onnxruntime takes, if no operator of it has changed since."""
    newest = newest_opset()
    for entry in model.opset_import:
        if entry.domain or entry.version <= newest:
            continue
        names = {node.op_type for node in model.graph.node if not node.domain}
        if all(onnx.defs.get_schema(name, entry.version).since_version <= newest for name in names):
            entry.version = newest
            model.ir_version = min(model.ir_version, 10)


def portable(case: Case) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model with typed outputs, whose inputs and outputs all have types that NumPy has, and its feeds."""
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    feeds = {}
    for name, array in case.feeds.items():
        if array.dtype.name in FED:
            feeds[name] = array
            continue
        model.graph.initializer.append(numpy_helper.from_array(array, name))
        kept = [info for info in model.graph.input if info.name != name]
        del model.graph.input[:]
        model.graph.input.extend(kept)
    types = {} if "::" in case.op else output_types(case)
    for info in model.graph.output:
        element = types.get(info.name, 0)
        known = _dtype(element)
        if known is not None and known.value not in FED:
            wide = TensorProto.FLOAT if known.is_float else TensorProto.INT32
            original = f"{info.name}_narrow"
            for node in model.graph.node:
                node.output[:] = [original if o == info.name else o for o in node.output]
            model.graph.node.append(helper.make_node("Cast", [original], [info.name], to=wide))
            element = wide
        if element:
            info.type.tensor_type.elem_type = element
    _lowered(model)
    return model, feeds


def _dtype(element: int) -> DType | None:
    try:
        return DType.of(np.empty(0, helper.tensor_dtype_to_np_dtype(element)))
    except (KeyError, TypeError, ValueError):
        return None


def output_types(case: Case) -> dict[str, int]:
    """Element types of the outputs by ONNX's inference."""
    inferred = onnx.shape_inference.infer_shapes(case.model, strict_mode=False)
    return {info.name: info.type.tensor_type.elem_type for info in inferred.graph.output}


def comparable(array: Array) -> Array:
    """``array`` in a type that NumPy calculates with: float64 for floats, integers of 4 and 2 bits as int32."""
    name = array.dtype.name
    if name in ("bool", "object") or (name in FED and array.dtype.kind in "iu"):
        return array
    dtype = DType(name)
    return array.astype(np.float64) if dtype.is_float else array.astype(np.int32)
