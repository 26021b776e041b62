"""Limits on what a model may ask for, checked before memory is allocated."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True)
class Limits:
    """Upper bounds for one model; passing one raises :class:`cnngraph.errors.LimitExceededError`.

    Attributes:
        max_model_bytes: size of the model file (protobuf itself ends at 2 GiB).
        max_tensor_bytes: size of one tensor: a weight, or a value for one image when the batch is symbolic.
        max_total_bytes: all weights together, external data included.
        max_nodes: ONNX nodes in the graph.
        max_fold_bytes: size of a constant that is computed while importing or folding rather than read from the file.
        max_rank: axes of a tensor.
    """

    max_model_bytes: int = 2 * GIB
    max_tensor_bytes: int = 4 * GIB
    max_total_bytes: int = 16 * GIB
    max_nodes: int = 100_000
    max_fold_bytes: int = 64 * MIB
    max_rank: int = 16
