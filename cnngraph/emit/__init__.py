"""Compiled programs in other forms: a C library, a Python module, an ONNX model."""
