"""What draws the cases of each operator, a module for each family of operators."""

from tests.fuzz.families import convolution, dense, elementwise, fused, indexing, movement, norm, quantized, sequence

__all__ = ["convolution", "dense", "elementwise", "fused", "indexing", "movement", "norm", "quantized", "sequence"]

NOT_DRAWN: dict[str, str] = {}
"""Operators that have no strategy, and why."""
