"""Post-training static quantisation of ONNX models to 8 bits in the QDQ form, and reports on what it costs.

The line: :mod:`network` reads a model, :mod:`fold` merges what quantisation should see as one layer, :mod:`plan` decides which nodes
become integer, :mod:`quantizer` observes their tensors on data, :mod:`ranges` makes scales of that, :mod:`insert` writes pairs of
QuantizeLinear and DequantizeLinear, :mod:`report` measures signal-to-noise ratios and :mod:`sensitivity` finds the layers to leave out
for a wanted accuracy.
"""

from cnngraph.quantize.quantizer import QuantizeOptions, Quantizer

__all__ = ["QuantizeOptions", "Quantizer"]
