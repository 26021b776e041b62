"""Time networks against installed peers, in one interleaved run.

    python benchmarks/compare.py --networks resnet18,resnet50,vgg16 --batches 1 --threads 1,2 [--math f32,exact] [--json FILE]
    python benchmarks/compare.py --precision int8 --peers onnxruntime,openvino --batches 1,8

With --precision int8 the networks are quantised by cnngraph first, and every engine runs the same QDQ file; the error is then that of
the integer arithmetic (against onnxruntime without optimisation, which dequantises), not that of quantisation.

Every round runs each engine once, in turn, so that a drift of the machine's speed hits all alike. Printed: the minimum and
the median over the rounds in milliseconds, the ratio of the best peer's minimum to ours, and the largest difference from
onnxruntime's unoptimised result over the output's scale.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

import cnngraph
import cnngraph_models

Runner = Callable[[np.ndarray], np.ndarray]


def onnxruntime_runner(path: str, threads: int, *, optimise: bool = True) -> Runner:
    """A session of onnxruntime's CPU provider with ``threads`` threads."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or its idle threads would run during our turn
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def openvino_runner(path: str, threads: int) -> Runner:
    """OpenVINO in float32 with ``threads`` threads and one stream."""
    import openvino as ov

    core = ov.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(path, "CPU", settings).create_infer_request()
    return lambda x: request.infer({0: x})[0]


def quantized_file(network: str, folder: str, seed: int = 0) -> str:
    """The network as a QDQ file with scales from a few random images."""
    from cnngraph.quantize import Quantizer

    quantizer = Quantizer(cnngraph_models.build(network))
    (spec,) = quantizer.inputs
    rng = np.random.default_rng(seed)
    shape = [size or 2 for size in spec.shape]
    quantizer.calibrate([{spec.name: rng.standard_normal(shape).astype(np.float32)} for _ in range(4)])
    path = Path(folder) / f"{network}.int8.onnx"
    path.write_bytes(quantizer.quantize().model.SerializeToString())
    return str(path)


def input_shape(path: str) -> list[int]:
    """Shape of the first graph input that is no initialiser; free dimensions as 1."""
    graph = onnx.load(path, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    first = next(value for value in graph.input if value.name not in stored)
    return [dim.dim_value or 1 for dim in first.type.tensor_type.shape.dim]


def our_runner(path: str, threads: int, isa: str | None, math: str) -> Runner:
    """A compiled program."""
    program = cnngraph.compile(path, threads=threads, isa=isa, math=math)
    name, output = program.inputs[0].name, program.outputs[0].name
    return lambda x: program.run({name: x})[output]


def measure(runners: dict[str, Runner], x: np.ndarray, seconds: float) -> dict[str, list[float]]:
    """Interleaved wall times in seconds, at least five rounds."""
    for run in runners.values():
        run(x)
    times: dict[str, list[float]] = {name: [] for name in runners}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, run in runners.items():
            start = time.perf_counter()
            run(x)
            times[name].append(time.perf_counter() - start)
    return times


def main() -> int:
    """Run the comparison and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="resnet18,resnet50,vgg16")
    parser.add_argument("--batches", default="1")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--math", help="default: f32,exact; with --precision int8 f32, for there is nothing to reorder")
    parser.add_argument("--precision", choices=["f32", "int8"], default="f32")
    parser.add_argument("--isa")
    parser.add_argument("--peers", default="onnxruntime")
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring for each row")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    print(f"load {os.getloadavg()[0]:.1f}; {platform.processor() or platform.machine()}, {sys.version.split()[0]}")
    print(f"{'network':18} {'batch':>5} {'T':>2} {'engine':14} {'min ms':>9} {'median ms':>9} {'peer/ours':>9} {'error':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for network in args.networks.split(","):
            path = network
            if args.precision == "int8" and not network.endswith(".onnx"):
                path = quantized_file(network, folder)
            elif not network.endswith(".onnx"):
                path = str(Path(folder) / f"{network}.onnx")
                Path(path).write_bytes(cnngraph_models.build(network).SerializeToString())
            for threads in map(int, args.threads.split(",")):
                runners: dict[str, Runner] = {}
                for peer in filter(None, args.peers.split(",")):
                    runners[peer] = {"onnxruntime": onnxruntime_runner, "openvino": openvino_runner}[peer](path, threads)
                for math in (args.math or ("f32" if args.precision == "int8" else "f32,exact")).split(","):
                    runners[f"ours {args.precision if args.precision != 'f32' else math}"] = our_runner(path, threads, args.isa, math)
                reference = onnxruntime_runner(path, 2, optimise=False)
                shape = input_shape(path)[1:]
                for batch in map(int, args.batches.split(",")):
                    x = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
                    expected = reference(x)
                    times = measure(runners, x, args.seconds)
                    best_peer = min((min(t) for n, t in times.items() if not n.startswith("ours")), default=float("nan"))
                    for name, values in times.items():
                        error = float(np.abs(runners[name](x) - expected).max() / np.abs(expected).max())
                        ratio = best_peer / min(values) if name.startswith("ours") else float("nan")
                        row = {
                            "network": Path(network).stem, "batch": batch, "threads": threads, "engine": name,
                            "min_ms": min(values) * 1e3, "median_ms": statistics.median(values) * 1e3, "ratio": ratio, "error": error,
                        }  # fmt: skip
                        rows.append(row)
                        shown = f"{ratio:9.2f}" if ratio == ratio else " " * 9
                        timing = f"{row['min_ms']:9.2f} {row['median_ms']:9.2f}"
                        print(f"{row['network']:18} {batch:5} {threads:2} {name:14} {timing} {shown} {error:8.1e}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
