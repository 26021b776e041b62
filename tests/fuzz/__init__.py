"""A differential fuzzer: random nodes of every operator, by cnngraph's kernels and references and by onnxruntime."""
