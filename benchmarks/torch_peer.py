"""An ONNX model run by PyTorch's operators, one by one, on float32 tensors in channels-last order: what eager PyTorch reaches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

Operation = Callable[[Sequence[Any], Mapping[str, Any]], Any]


def _pair(pads: Sequence[int], x: torch.Tensor, value: float) -> tuple[torch.Tensor, list[int]]:
    """The padding that an operator of PyTorch takes itself, the same on both sides; else ``x`` is padded before."""
    rank = len(pads) // 2
    if list(pads[:rank]) == list(pads[rank:]):
        return x, list(pads[:rank])
    ends = [n for axis in reversed(range(rank)) for n in (pads[axis], pads[rank + axis])]
    return functional.pad(x, ends, value=value), [0] * rank


def _pads(x: torch.Tensor, attributes: Mapping[str, Any], kernel: Sequence[int]) -> list[int]:
    rank = len(kernel)
    mode = attributes.get("auto_pad", b"NOTSET")
    if mode not in (b"SAME_UPPER", b"SAME_LOWER"):
        return list(attributes.get("pads", [0] * 2 * rank))
    begins, ends = [], []
    for size, k, s, d in zip(x.shape[2:], kernel, _ones(attributes, "strides", rank), _ones(attributes, "dilations", rank), strict=True):
        total = max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
        small = total // 2
        begins.append(small if mode == b"SAME_UPPER" else total - small)
        ends.append(total - begins[-1])
    return begins + ends


def _ones(attributes: Mapping[str, Any], name: str, rank: int) -> list[int]:
    return list(attributes.get(name, [1] * rank))


def _conv(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    x, w, *rest = inputs
    rank = w.dim() - 2
    x, padding = _pair(_pads(x, attributes, w.shape[2:]), x, 0.0)
    run = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    strides, dilations = (_ones(attributes, name, rank) for name in ("strides", "dilations"))
    return run(x, w, rest[0] if rest else None, strides, padding, dilations, attributes.get("group", 1))


def _pool(inputs: Sequence[Any], attributes: Mapping[str, Any], *, largest: bool) -> torch.Tensor:
    (x,) = inputs
    kernel, rank = list(attributes["kernel_shape"]), len(attributes["kernel_shape"])
    strides, ceil = _ones(attributes, "strides", rank), bool(attributes.get("ceil_mode", 0))
    pads = _pads(x, attributes, kernel)
    if largest:
        x, padding = _pair(pads, x, float("-inf"))
        run = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[rank - 1]
        return run(x, kernel, strides, padding, _ones(attributes, "dilations", rank), ceil)
    counted = bool(attributes.get("count_include_pad", 0))
    if not counted and pads[:rank] != pads[rank:]:
        raise ValueError("average pooling with unequal padding that does not count")
    x, padding = _pair(pads, x, 0.0)
    run = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[rank - 1]
    return run(x, kernel, strides, padding, ceil, counted)


def _gemm(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    a, b, *rest = inputs
    a = a.t() if attributes.get("transA", 0) else a
    b = b.t() if attributes.get("transB", 0) else b
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        raise ValueError("Gemm with alpha or beta")
    return torch.addmm(rest[0], a, b) if rest else a @ b


def _batch_norm(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    x, scale, bias, mean, variance = inputs
    return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, attributes.get("epsilon", 1e-5))


def _reshape(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    x, shape = inputs
    wanted = [int(n) for n in shape]
    keep = not attributes.get("allowzero", 0)
    return x.reshape([x.shape[i] if n == 0 and keep else n for i, n in enumerate(wanted)])


def _clip(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    x, low, high = (*inputs, None, None)[:3]
    return torch.clamp(
        x, attributes.get("min") if low is None else float(low), attributes.get("max") if high is None else float(high)
    )  # fmt: skip


def _mean(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    axes = [int(n) for n in inputs[1]] if len(inputs) > 1 else list(attributes["axes"])
    return inputs[0].mean(axes, keepdim=bool(attributes.get("keepdims", 1)))


def _split(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    axis = attributes.get("axis", 0)
    sizes = [int(n) for n in inputs[1]] if len(inputs) > 1 else attributes.get("split")
    return torch.split(inputs[0], list(sizes) if sizes is not None else inputs[0].shape[axis] // 2, axis)


def _softmax(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    return torch.softmax(inputs[0], attributes.get("axis", -1))


def _pad(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    x, pads, value = (*inputs, None)[:3]
    if attributes.get("mode", b"constant") != b"constant" or len(inputs) > 3:
        raise ValueError("Pad of another mode than constant, or with axes")
    rank, widths = x.dim(), [int(n) for n in pads]
    ends = [n for axis in reversed(range(rank)) for n in (widths[axis], widths[rank + axis])]
    return functional.pad(x, ends, value=0.0 if value is None else float(value))


def _slice(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    x, starts, stops, *rest = inputs
    axes = [int(n) for n in rest[0]] if rest else range(len(starts))
    steps = [int(n) for n in rest[1]] if len(rest) > 1 else [1] * len(starts)
    places = [slice(None)] * x.dim()
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        places[axis] = slice(int(start), int(stop), step)
    return x[tuple(places)]


def _constant_of_shape(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    value = numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
    return _tensor(np.full([int(n) for n in inputs[0]], value[0]))


OPERATIONS: dict[str, Operation] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "BatchNormalization": _batch_norm,
    "MaxPool": lambda i, a: _pool(i, a, largest=True),
    "AveragePool": lambda i, a: _pool(i, a, largest=False),
    "GlobalAveragePool": lambda i, a: i[0].mean(tuple(range(2, i[0].dim())), keepdim=True),
    "Relu": lambda i, a: functional.relu(i[0]),
    "Clip": _clip,
    "Sigmoid": lambda i, a: torch.sigmoid(i[0]),
    "Tanh": lambda i, a: torch.tanh(i[0]),
    "LeakyRelu": lambda i, a: functional.leaky_relu(i[0], a.get("alpha", 0.01)),
    "HardSigmoid": lambda i, a: torch.clamp(i[0] * a.get("alpha", 0.2) + a.get("beta", 0.5), 0.0, 1.0),
    "HardSwish": lambda i, a: functional.hardswish(i[0]),
    "Add": lambda i, a: i[0] + i[1],
    "Sub": lambda i, a: i[0] - i[1],
    "Mul": lambda i, a: i[0] * i[1],
    "Div": lambda i, a: i[0] / i[1],
    "MatMul": lambda i, a: i[0] @ i[1],
    "Concat": lambda i, a: torch.cat(list(i), a["axis"]),
    "Softmax": _softmax,
    "Flatten": lambda i, a: i[0].flatten(a.get("axis", 1)),
    "Reshape": _reshape,
    "Transpose": lambda i, a: i[0].permute(a["perm"]),
    "ReduceMean": _mean,
    "Split": _split,
    "Pad": _pad,
    "Slice": _slice,
    "ConstantOfShape": _constant_of_shape,
    "LRN": lambda i, a: functional.local_response_norm(i[0], a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0)),
    "Dropout": lambda i, a: i[0],
    "Identity": lambda i, a: i[0],
    "Constant": lambda i, a: torch.from_numpy(numpy_helper.to_array(a["value"]).copy()),
}


def runner(path: str, threads: int) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """The model at ``path`` in eager PyTorch with ``threads`` threads.

    Raises:
        ValueError: the model has operators or attributes that this translation lacks.
    """
    graph = onnx.load(path).graph
    missing = {node.op_type for node in graph.node} - set(OPERATIONS)
    if missing:
        raise ValueError(f"no translation for {', '.join(sorted(missing))}")
    constants = {t.name: _tensor(numpy_helper.to_array(t)) for t in graph.initializer}
    steps = []
    last: dict[str, int] = {}
    for number, node in enumerate(graph.node):
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        steps.append((OPERATIONS[node.op_type], list(node.input), attributes, list(node.output)))
        last.update(dict.fromkeys(node.input, number))
    names = [value.name for value in graph.output]
    dead = [[n for n in node.input if last[n] == i and n not in constants and n not in names] for i, node in enumerate(graph.node)]

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            values: dict[str, Any] = {"": None, **constants, **{name: _tensor(array) for name, array in feeds.items()}}
            for (operation, inputs, attributes, outputs), done in zip(steps, dead, strict=True):
                made = operation([values[name] for name in inputs], attributes)
                values.update(zip(outputs, made if isinstance(made, tuple) else [made], strict=False))
                for name in done:
                    values.pop(name, None)
            return {name: values[name].numpy() for name in names}

    return run


def _tensor(array: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(array, order="C"))
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
