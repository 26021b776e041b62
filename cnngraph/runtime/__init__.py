"""Running compiled programs; imports neither Numba nor onnx."""
