"""Other engines behind one small interface, to time and compare against in the same process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from cnngraph.errors import InvalidModelError, UsageError, printable

Runner = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def onnxruntime_runner(path: str, threads: int) -> Runner:
    """A session of onnxruntime's CPU provider with all its optimisations.

    Raises:
        UsageError: onnxruntime is not installed.
        InvalidModelError: it refuses the model.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise UsageError("onnxruntime is not installed: pip install 'cnngraph[bench]'") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Its threads spin while it runs, but not on into the turn of the next engine.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise InvalidModelError(f"onnxruntime refuses the model: {printable(str(error), 300)}") from error
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


def openvino_runner(path: str, threads: int, precision: str = "f32") -> Runner:
    """OpenVINO's CPU plug-in, one stream; ``precision`` is its hint: f32 or bf16.

    Raises:
        UsageError: OpenVINO is not installed.
        InvalidModelError: it refuses the model.
    """
    try:
        import openvino as ov
    except ImportError as error:
        raise UsageError("openvino is not installed: pip install openvino") from error
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    try:
        compiled = ov.Core().compile_model(path, "CPU", settings)
    except RuntimeError as error:
        raise InvalidModelError(f"OpenVINO refuses the model: {printable(str(error), 300)}") from error
    request = compiled.create_infer_request()
    names = [output.get_names() for output in compiled.outputs]  # those of tensors that its passes made the same, too

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        request.infer(dict(feeds))
        results = [request.get_output_tensor(index).data.copy() for index in range(len(names))]
        return {name: result for known, result in zip(names, results, strict=True) for name in known}

    return run


PEERS: dict[str, Callable[[str, int], Runner]] = {
    "onnxruntime": onnxruntime_runner, "openvino": openvino_runner, "openvino-bf16": partial(openvino_runner, precision="bf16"),
}  # fmt: skip
