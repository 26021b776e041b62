"""``cnngraph inspect``: what a model file or an artifact contains."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from cnngraph.cli.model import Compilation, compile_options, is_artifact, model_argument, open_fixed_program
from cnngraph.cli.output import dims, emit, json_option, size, table
from cnngraph.errors import printable

if TYPE_CHECKING:
    from cnngraph.runtime.session import KernelInfo


@click.command("inspect")
@model_argument
@click.option("--kernels", is_flag=True, help="Of an artifact: list its kernels too.")
@compile_options
@json_option
def command(model: str, kernels: bool, how: Compilation, as_json: bool) -> None:
    """Show inputs, outputs, operators and sizes of MODEL (an ONNX file or a .cnng artifact). Nothing is compiled or run."""
    data = artifact_facts(model, how) if is_artifact(model) else onnx_facts(model)

    def show() -> None:
        rows = [[kind, x["name"], x["dtype"], dims(x["shape"])] for kind in ("inputs", "outputs") for x in data[kind]]
        table(None, ["", "name", "type", "shape"], [[row[0].removesuffix("s"), *row[1:]] for row in rows])
        table(None, ["what", "value"], [[key, _fact(key, value)] for key, value in data.items() if not isinstance(value, (list, dict))])
        if "operators" in data:
            table(None, ["operator", "nodes"], data["operators"].items())
        if kernels and "kernels" in data:
            table(None, ["kernel", "steps", "bytes"], [[k["name"], len(k["nodes"]), k["bytes"]] for k in data["kernels"]])

    emit("inspect", data, as_json, show)


def onnx_facts(path: str) -> dict[str, Any]:
    """What is written in an ONNX file, without importing it."""
    import onnx

    from cnngraph.frontend.reader import read_model
    from cnngraph.options import Limits

    model, _ = read_model(path, Limits())
    stored = {tensor.name for tensor in model.graph.initializer}
    operators = Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in model.graph.node)

    def describe(value: onnx.ValueInfoProto) -> dict[str, Any]:
        tensor = value.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else (printable(dim.dim_param) or None) for dim in tensor.shape.dim]
        return {"name": value.name, "dtype": onnx.TensorProto.DataType.Name(tensor.elem_type).lower(), "shape": shape}

    return {
        "model": path,
        "kind": "onnx",
        "graph": model.graph.name,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "ir_version": model.ir_version,
        "opset": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        "opsets": ", ".join(f"{printable(opset.domain) or 'ai.onnx'} {opset.version}" for opset in model.opset_import),
        "inputs": [describe(value) for value in model.graph.input if value.name not in stored],
        "outputs": [describe(value) for value in model.graph.output],
        "nodes": len(model.graph.node),
        "initializers": len(model.graph.initializer),
        "initializer_elements": sum(_elements(tensor.dims) for tensor in model.graph.initializer),
        "operators": dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
    }


def artifact_facts(path: str, how: Compilation) -> dict[str, Any]:
    """What is stored in an artifact."""
    from cnngraph.runtime.artifact import variants

    program = open_fixed_program(path, how)
    memory = program.memory_report()
    return {
        "model": path,
        "kind": "cnng",
        "isa": program.data.isa,
        "isas": variants(path),
        "inputs": [{"name": s.name, "dtype": s.dtype, "shape": s.shape} for s in program.inputs],
        "outputs": [{"name": s.name, "dtype": s.dtype, "shape": s.shape} for s in program.outputs],
        "versions": program.report.get("versions", {}),
        "required_features": list(program.data.required),
        "steps": len(program.data.steps),
        "weight_bytes": memory["weights"],
        "memory": memory,
        "kernels": [kernel_facts(kernel) for kernel in program.kernels],
    }


def kernel_facts(kernel: KernelInfo) -> dict[str, Any]:
    """A generated kernel without its source: name, ONNX nodes, size, what compiling took and whether the cache had it."""
    return {"name": kernel.name, "nodes": kernel.nodes, "bytes": kernel.nbytes, "seconds": kernel.seconds, "cached": kernel.cached}


def _elements(dims: Any) -> int:
    count = 1
    for dim in dims:
        count *= max(int(dim), 0)
    return count


def _fact(key: str, value: object) -> object:
    return size(value) if key.endswith("bytes") and isinstance(value, int) else value
