"""What draws the cases of each operator, a module for each family of operators."""

from tests.fuzz.families import convolution, dense, elementwise, fused, indexing, movement, norm, quantized, sequence

__all__ = ["convolution", "dense", "elementwise", "fused", "indexing", "movement", "norm", "quantized", "sequence"]

NOT_DRAWN: dict[str, str] = {
    "AffineGrid": "onnxruntime runs the body that ONNX gives, which fails for one image; tests/frontend/test_affine_grid.py has the cases",
    "com.microsoft::DynamicQuantizeLSTM": "onnxruntime rounds inputs and states to 8 bits, which the importer does not",
}
"""Operators that have no strategy, and why."""
