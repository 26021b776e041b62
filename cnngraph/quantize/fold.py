"""Rewrites before quantisation: constants become initialisers; normalisations, factors, biases and padding part of their layer."""

from __future__ import annotations

import numpy as np
import onnx

from cnngraph.errors import printable
from cnngraph.quantize.channels import permutation, sink_transposes
from cnngraph.quantize.network import Network, attribute

_FOLDED = frozenset({"Constant", "ConstantOfShape", "Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Cast"})
_LARGEST = 1 << 24


def fold(network: Network) -> None:
    """Make every rewrite, in place."""
    fold_constants(network)
    drop_identities(network)
    sink_transposes(network)
    name_bounds(network)
    fold_pads(network)
    fold_batch_norms(network)
    fold_affine(network)
    normalize_gemms(network)


def fold_constants(network: Network) -> None:
    """Nodes that move or create constants become initialisers."""
    from onnx.reference import ReferenceEvaluator

    kept = []
    for node in network.nodes:
        inputs = [name for name in node.input if name]
        foldable = node.op_type in _FOLDED and node.domain in ("", "ai.onnx") and all(name in network.constants for name in inputs)
        if not foldable or node.output[0] in network.output_names or not _is_small(network, node):
            kept.append(node)
            continue
        graph = onnx.helper.make_graph([node], "constant", [], [onnx.helper.make_tensor_value_info(node.output[0], 0, None)])
        graph.initializer.extend(onnx.numpy_helper.from_array(network.constants[name], name) for name in inputs)
        model = onnx.helper.make_model(graph, opset_imports=network.header.opset_import, ir_version=network.header.ir_version)
        try:
            (array,) = ReferenceEvaluator(model).run(None, {})
        except Exception:  # whatever it is, the compiler will name it with the node
            kept.append(node)
            continue
        network.constants[node.output[0]] = np.asarray(array)
    network.nodes = kept


def _is_small(network: Network, node: onnx.NodeProto) -> bool:
    if node.op_type != "ConstantOfShape":
        return True
    shape = network.constants[node.input[0]]
    return bool((shape >= 0).all()) and float(np.prod(shape.astype(np.float64))) <= _LARGEST


def drop_identities(network: Network) -> None:
    """Identity(x), Dropout(x) => x, except where the result is an output of the graph."""
    renamed: dict[str, str] = {}
    kept = []
    outputs = set(network.output_names)
    for node in network.nodes:
        _rename_inputs(node, renamed)
        training = len(node.input) > 2 and node.input[2] and bool(np.any(network.constants.get(node.input[2], np.True_)))
        alone = len([name for name in node.output if name]) == 1 or not any(name in outputs for name in node.output[1:])
        if (node.op_type == "Identity" or (node.op_type == "Dropout" and not training and alone)) and node.output[0] not in outputs:
            mask = node.output[1] if len(node.output) > 1 else ""
            if not (mask and any(mask in other.input for other in network.nodes)):
                renamed[node.output[0]] = node.input[0]
                continue
        kept.append(node)
    network.nodes = kept


def _rename_inputs(node: onnx.NodeProto, renamed: dict[str, str]) -> None:
    for index, name in enumerate(node.input):
        if name in renamed:
            node.input[index] = renamed[name]
    for entry in node.attribute:
        if entry.type == onnx.AttributeProto.GRAPH:
            for inner in entry.g.node:
                _rename_inputs(inner, renamed)


def fold_batch_norms(network: Network) -> None:
    """Conv -> BatchNormalization => Conv with scaled weights and a bias."""
    producers, readers = network.producers(), network.readers()
    for node in list(network.nodes):
        if node.op_type != "BatchNormalization" or attribute(node, "training_mode", 0):
            continue
        conv = producers.get(node.input[0])
        if conv is None or conv.op_type != "Conv" or network.only_reader(conv.output[0], readers) is not node:
            continue
        parameters = [network.array(name) for name in node.input[1:5]]
        w, b = network.array(conv.input[1]), _bias(network, conv)
        if w is None or b is None or any(p is None for p in parameters) or w.dtype != np.float32:
            continue
        gamma, beta, mean, variance = (np.asarray(p, np.float64) for p in parameters)
        factor = gamma / np.sqrt(variance + float(attribute(node, "epsilon", 1e-5)))
        if not np.isfinite(factor).all():
            continue
        scaled = w.astype(np.float64) * factor.reshape(-1, *[1] * (w.ndim - 1))
        _set_weights(network, conv, scaled, (b - mean) * factor + beta)
        conv.output[0] = node.output[0]
        producers[node.output[0]] = conv
        network.nodes.remove(node)


def name_bounds(network: Network) -> None:
    """Min(Relu(x), c) => Clip(x, 0, c); Min and Max of a tensor and one number => Clip."""
    producers, readers = network.producers(), network.readers()
    for node in list(network.nodes):
        if node.op_type not in ("Min", "Max") or len(node.input) != 2:
            continue
        numbers = [network.array(name) for name in node.input]
        at = next((i for i, array in enumerate(numbers) if array is not None and array.size == 1 and array.dtype == np.float32), None)
        if at is None or numbers[1 - at] is not None or numbers[at].ndim > network.ranks.get(node.input[1 - at], 0):  # type: ignore[union-attr]
            continue
        source, bound = node.input[1 - at], numbers[at]
        assert bound is not None
        limits = ["", ""]
        limits[node.op_type == "Min"] = _scalar(network, node, "bound", float(bound.reshape(())))
        relu = producers.get(source)
        if node.op_type == "Min" and relu is not None and relu.op_type == "Relu" and network.only_reader(source, readers) is node:
            source, limits[0] = relu.input[0], _scalar(network, node, "zero", 0.0)
            network.nodes.remove(relu)
        node.op_type = "Clip"
        del node.input[:]
        node.input.extend([source, *(limits if limits[1] else limits[:1])])


def _scalar(network: Network, node: onnx.NodeProto, what: str, number: float) -> str:
    name = network.fresh(f"{printable(node.name)}.{what}")
    network.constants[name] = np.array(number, np.float32)
    return name


def fold_pads(network: Network) -> None:
    """Pad by zeros -> Conv => Conv with pads; a Transpose may stand between them."""
    producers, readers = network.producers(), network.readers()
    for conv in network.nodes:
        pad = producers.get(conv.input[0]) if conv.op_type == "Conv" else None
        between = pad if pad is not None and pad.op_type == "Transpose" and network.only_reader(pad.output[0], readers) is conv else None
        pad = producers.get(between.input[0]) if between is not None else pad
        perm = permutation(between) if between is not None else None
        if pad is None or pad.op_type != "Pad" or network.only_reader(pad.output[0], readers) is not (between or conv):
            continue
        if between is not None and perm is None:
            continue
        mode = next((entry.s for entry in pad.attribute if entry.name == "mode"), b"constant")
        value = network.array(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(())
        pads, own = network.array(pad.input[1]), next((list(e.ints) for e in conv.attribute if e.name == "pads"), None)
        automatic = next((e.s for e in conv.attribute if e.name == "auto_pad"), b"NOTSET")
        if mode != b"constant" or value is None or value.any() or pads is None or (len(pad.input) > 3 and pad.input[3]):
            continue
        begins, ends = ([part[axis] for axis in perm or range(part.size)] for part in pads.reshape(2, -1))
        if automatic not in (b"NOTSET", b"VALID") or min(*begins, *ends) < 0 or any((*begins[:2], *ends[:2])) or len(begins) < 3:
            continue
        more = [int(p) for p in (*begins[2:], *ends[2:])]
        kept = [entry for entry in conv.attribute if entry.name not in ("pads", "auto_pad")]
        del conv.attribute[:]
        total = more if own is None or automatic == b"VALID" else [a + b for a, b in zip(more, own, strict=True)]
        conv.attribute.extend([*kept, onnx.helper.make_attribute("pads", total)])
        (between or conv).input[0] = pad.input[0]
    used = {name for node in network.nodes for name in node.input} | set(network.output_names)
    network.nodes = [node for node in network.nodes if node.op_type != "Pad" or node.output[0] in used]


def fold_affine(network: Network) -> None:
    """Conv or MatMul -> Add, Sub, Mul or Div by one constant a channel => Conv with other weights and a bias, Gemm."""
    producers, readers = network.producers(), network.readers()
    for node in list(network.nodes):
        if node.op_type not in ("Add", "Sub", "Mul", "Div"):
            continue
        for index in (0, 1) if node.op_type in ("Add", "Mul") else (0,):
            layer, constant = producers.get(node.input[index]), network.array(node.input[1 - index])
            if layer is None or constant is None or network.only_reader(layer.output[0], readers) is not node:
                continue
            if _apply(network, layer, node.op_type, constant):
                layer.output[0] = node.output[0]
                producers[node.output[0]] = layer
                network.nodes.remove(node)
                break


def _apply(network: Network, layer: onnx.NodeProto, kind: str, constant: np.ndarray) -> bool:
    w = network.array(layer.input[1]) if len(layer.input) > 1 else None
    if w is None or w.dtype != np.float32 or constant.dtype != np.float32:
        return False
    numbers = constant.astype(np.float64)
    if kind == "Div":
        with np.errstate(divide="ignore"):
            numbers = 1 / numbers
    if layer.op_type == "Conv":
        b = _bias(network, layer)
        wanted = (w.shape[0], *[1] * (w.ndim - 2))
        by_channel = constant.size == w.shape[0] and constant.shape[-len(wanted) :] == wanted
        if b is None or constant.ndim > w.ndim or not (by_channel or constant.size == 1) or not np.isfinite(numbers).all():
            return False
        numbers = np.broadcast_to(numbers.reshape(-1), b.shape)
        if kind in ("Add", "Sub"):
            _set_weights(network, layer, None, b + numbers if kind == "Add" else b - numbers)
        else:
            _set_weights(network, layer, w * numbers.reshape(-1, *[1] * (w.ndim - 1)), b * numbers)
        return True
    if kind != "Add":
        return False
    if layer.op_type == "MatMul" and network.ranks.get(layer.input[0]) == 2 and w.ndim == 2 and constant.size == w.shape[1]:
        if constant.ndim > 2 or constant.shape[-1] != w.shape[1]:
            return False
        layer.op_type = "Gemm"
        layer.input.append("")
        _set_weights(network, layer, None, constant.reshape(-1))
        return True
    return False


def normalize_gemms(network: Network) -> None:
    """Gemm with factors => Gemm of scaled constants, so that the integer form has none."""
    for node in network.nodes:
        if node.op_type != "Gemm":
            continue
        alpha, beta = float(attribute(node, "alpha", 1.0)), float(attribute(node, "beta", 1.0))
        w = network.array(node.input[1])
        c = network.array(node.input[2]) if len(node.input) > 2 else None
        has_c = len(node.input) > 2 and bool(node.input[2])
        if w is None or w.dtype != np.float32 or (has_c and c is None) or (alpha, beta) == (1.0, 1.0):
            continue
        _set_weights(network, node, w.astype(np.float64) * alpha, None if c is None else c.astype(np.float64) * beta)
        kept = [entry for entry in node.attribute if entry.name not in ("alpha", "beta")]
        del node.attribute[:]
        node.attribute.extend(kept)


def _bias(network: Network, conv: onnx.NodeProto) -> np.ndarray | None:
    """The bias of a convolution in float64, zeros where it has none; None if it is not constant."""
    if len(conv.input) > 2 and conv.input[2]:
        b = network.array(conv.input[2])
        return None if b is None else b.astype(np.float64)
    w = network.array(conv.input[1])
    return None if w is None else np.zeros(w.shape[0])


def _set_weights(network: Network, node: onnx.NodeProto, weights: np.ndarray | None, bias: np.ndarray | None) -> None:
    """Give ``node`` constants of its own, since others may share those that it has."""
    for index, array, what in ((1, weights, "weight"), (2, bias, "bias")):
        if array is None:
            continue
        name = network.fresh(f"{printable(node.name)}.{what}")
        network.constants[name] = array.astype(np.float32)
        while len(node.input) <= index:
            node.input.append("")
        node.input[index] = name
