"""Rewrites before quantisation: constants become initialisers, normalisations and biases part of the layer before them."""

from __future__ import annotations

import numpy as np
import onnx

from cnngraph.errors import printable
from cnngraph.quantize.network import Network, attribute

_FOLDED = frozenset({"Constant", "ConstantOfShape", "Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Cast"})
_LARGEST = 1 << 24


def fold(network: Network) -> None:
    """Make every rewrite, in place."""
    fold_constants(network)
    drop_identities(network)
    fold_batch_norms(network)
    fold_biases(network)
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


def fold_biases(network: Network) -> None:
    """Conv or MatMul -> Add of one constant a channel => Conv with a bias, Gemm."""
    producers, readers = network.producers(), network.readers()
    for node in list(network.nodes):
        if node.op_type != "Add":
            continue
        for index in (0, 1):
            layer, constant = producers.get(node.input[index]), network.array(node.input[1 - index])
            if layer is None or constant is None or network.only_reader(layer.output[0], readers) is not node:
                continue
            if _add_bias(network, layer, constant):
                layer.output[0] = node.output[0]
                producers[node.output[0]] = layer
                network.nodes.remove(node)
                break


def _add_bias(network: Network, layer: onnx.NodeProto, constant: np.ndarray) -> bool:
    w = network.array(layer.input[1]) if len(layer.input) > 1 else None
    if w is None or w.dtype != np.float32:
        return False
    if layer.op_type == "Conv":
        b = _bias(network, layer)
        wanted = (w.shape[0], *[1] * (w.ndim - 2))
        if b is None or constant.ndim > w.ndim or constant.size != w.shape[0] or constant.shape[-len(wanted) :] != wanted:
            return False
        _set_weights(network, layer, None, b + constant.reshape(-1))
        return True
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
