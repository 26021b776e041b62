"""Time networks against installed peers, in one interleaved run.

    python benchmarks/compare.py --networks resnet18,resnet50,vgg16 --batches 1 --threads 1,2 [--math f32,exact] [--json FILE] [--plot FILE]
    python benchmarks/compare.py --networks 'models/*/model.onnx' --peers onnxruntime,openvino,torch
    python benchmarks/compare.py --precision bf16 --peers onnxruntime,openvino --batches 1,8
    python benchmarks/compare.py --precision int8 --peers onnxruntime,openvino --batches 1,8

With --precision bf16 cnngraph and OpenVINO compute in bfloat16, other engines in float32 beside them.

A network is a name of the zoo, an ONNX file, or a pattern of files. Inputs are random, or come from ``inputs.npz`` beside the file; a
fixed batch is kept. With --precision int8 the networks of the zoo are quantised by cnngraph first, and every engine runs the same QDQ
file; the error is then that of the integer arithmetic (against onnxruntime without optimisation, which dequantises), not that of
quantisation.

Every round runs each engine once, in turn, so that a drift of the machine's speed hits all alike. Printed: the minimum and
the median over the rounds in milliseconds, the ratio of the best peer's minimum to ours, and the largest difference from
onnxruntime's unoptimised result over the output's scale. What an engine refuses is said, and the others go on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import facts, interleaved, models, plot, print_facts, write_json

import cnngraph
import cnngraph_models
from cnngraph.cli.bench import difference
from cnngraph.cli.peers import PEERS, Runner
from cnngraph.ir.types import DType

SHOWN = 110
"""Characters of a refusal that are printed."""


def reference_runner(path: str) -> Runner:
    """Onnxruntime without optimisation, whose results count as right."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


def torch_runner(path: str, threads: int) -> Runner:
    """PyTorch's operators one by one, channels last (:mod:`torch_peer`).

    Its threads would go on spinning for milliseconds after a run and slow the engine whose turn is next.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before the first import
    from torch_peer import runner

    return runner(path, threads)


ENGINES: dict[str, Callable[[str, int], Runner]] = {**PEERS, "torch": torch_runner}


def our_runner(path: str, threads: int, isa: str | None, math: str, precision: str) -> Runner:
    """A compiled program."""
    return cnngraph.compile(path, threads=threads, isa=isa, math=math, precision=precision).run


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


def feeds_of(path: str, batch: int) -> tuple[dict[str, np.ndarray], int]:
    """Arrays for the inputs of a model, and the batch size that they have.

    They come from ``inputs.npz`` in the file's folder if it is there and the batch is 1, or are random: normally distributed floats,
    and integers below 100 (bytes) or 2. A free first dimension is ``batch``, others are 1.
    """
    graph = onnx.load(path, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    wanted = {value.name: value.type.tensor_type for value in graph.input if value.name not in stored}
    kept = Path(path).parent / "inputs.npz"
    if kept.exists() and Path(path).stem == "model" and batch == 1:
        with np.load(kept, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in wanted}, 1
    rng, feeds = np.random.default_rng(0), {}
    for name, type_ in wanted.items():
        dtype = onnx.helper.tensor_dtype_to_np_dtype(type_.elem_type)
        shape = [dim.dim_value or (batch if axis == 0 else 1) for axis, dim in enumerate(type_.shape.dim)]
        drawn = rng.standard_normal(shape) if DType(dtype.name).is_float else rng.integers(0, 100 if dtype.itemsize == 1 else 2, shape)
        feeds[name] = np.asarray(drawn).astype(dtype)
    firsts = {array.shape[0] for array in feeds.values() if array.ndim}
    return feeds, firsts.pop() if len(firsts) == 1 else 1


def attempt(name: str, make: Callable[[], Runner], feeds: Mapping[str, np.ndarray]) -> tuple[Runner, dict[str, np.ndarray]] | None:
    """The engine and its first result; None, after a line that says why, if it refuses the model."""
    try:
        run = make()
        return run, run(feeds)
    except Exception as error:  # engines' exceptions have no common base
        print(f"  {name}: {type(error).__name__}: {' '.join(str(error).split())[:SHOWN]}", flush=True)
        return None


def compare(name: str, path: str, batch: int, threads: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every engine that runs the network."""
    feeds, actual = feeds_of(path, batch)
    if actual != batch:
        print(f"  {name} has a fixed batch of {actual}")
        if batch != min(args.batch_list):
            return []
    expected = reference_runner(path)(feeds)
    makers: dict[str, Callable[[], Runner]] = {}
    for peer in filter(None, args.peers.split(",")):
        engine = "openvino-bf16" if (peer, args.precision) == ("openvino", "bf16") else peer
        makers[engine] = lambda engine=engine: ENGINES[engine](path, threads)  # type: ignore[misc]
    precision = "bf16" if args.precision == "bf16" else "f32"
    for math in args.math.split(","):
        mode = args.precision if args.precision != "f32" else math
        makers[f"ours {mode}"] = lambda math=math: our_runner(path, threads, args.isa, math, precision)  # type: ignore[misc]
    ready = {engine: found for engine, make in makers.items() if (found := attempt(engine, make, feeds)) is not None}
    times = interleaved({engine: lambda run=run: run(feeds) for engine, (run, _) in ready.items()}, args.seconds) if ready else {}
    best = min((min(t) for engine, t in times.items() if not engine.startswith("ours")), default=float("nan"))
    rows = []
    for engine, values in times.items():
        ratio = best / min(values) if engine.startswith("ours") else float("nan")
        rows.append({
            "network": name, "batch": actual, "threads": threads, "engine": engine, "min_ms": min(values) * 1e3,
            "median_ms": statistics.median(values) * 1e3, "ratio": ratio if ratio == ratio else None,
            "error": difference(expected, ready[engine][1]),
        })  # fmt: skip
        shown = f"{ratio:9.2f}" if ratio == ratio else " " * 9
        timing = f"{rows[-1]['min_ms']:9.3f} {rows[-1]['median_ms']:9.3f}"
        print(f"{name:26} {actual:5} {threads:2} {engine:14} {timing} {shown} {rows[-1]['error']:8.1e}", flush=True)
    return rows


def summary(rows: list[dict[str, Any]]) -> None:
    """For each of our modes, batches and threads: how many networks beat the best peer, and the least ratio."""
    groups: dict[tuple[str, int, int], list[tuple[float, str]]] = {}
    for row in rows:
        if row["ratio"] is not None:
            groups.setdefault((row["engine"], row["batch"], row["threads"]), []).append((row["ratio"], row["network"]))
    for (engine, batch, threads), ratios in groups.items():
        least, where = min(ratios)
        ahead = sum(ratio >= 1 for ratio, _ in ratios)
        mean = float(np.exp(np.mean(np.log([ratio for ratio, _ in ratios]))))
        print(f"{engine}, batch {batch}, {threads}T: {ahead} of {len(ratios)} ahead, mean {mean:.2f}, least {least:.2f} ({where})")


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Bars of the ratios, a group a network."""
    ours = [row for row in rows if row["ratio"] is not None]
    networks = list(dict.fromkeys(row["network"] for row in ours))
    kinds = list(dict.fromkeys((row["engine"], row["batch"], row["threads"]) for row in ours))
    for number, kind in enumerate(kinds):
        found = {row["network"]: row["ratio"] for row in ours if (row["engine"], row["batch"], row["threads"]) == kind}
        places = np.arange(len(networks)) + (number - (len(kinds) - 1) / 2) * 0.8 / len(kinds)
        axes.bar(places, [found.get(name, 0.0) for name in networks], 0.8 / len(kinds), label="{}, batch {}, {}T".format(*kind))
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xticks(np.arange(len(networks)), networks, rotation=45, ha="right")
    axes.set_ylabel("best peer's time / ours")
    axes.legend(fontsize=8)


def main() -> int:
    """Run the comparison and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="resnet18,resnet50,vgg16")
    parser.add_argument("--batches", default="1")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--math", help="default: f32,exact; with another --precision f32")
    parser.add_argument("--precision", choices=["f32", "bf16", "int8"], default="f32")
    parser.add_argument("--isa")
    parser.add_argument("--peers", default="onnxruntime", help=f"a list of {', '.join(ENGINES)}")
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring for each row")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="SVG or PNG of the ratios, if matplotlib is installed")
    args = parser.parse_args()
    args.math = args.math or ("f32,exact" if args.precision == "f32" else "f32")
    args.batch_list = [int(batch) for batch in args.batches.split(",")]
    if not set(filter(None, args.peers.split(","))) <= set(ENGINES):
        parser.error(f"the peers are {', '.join(ENGINES)}")
    about = facts()
    print_facts(about)
    print(f"{'network':26} {'batch':>5} {'T':>2} {'engine':14} {'min ms':>9} {'median ms':>9} {'peer/ours':>9} {'error':>8}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for name in args.networks.split(","):
            quantized = args.precision == "int8" and not name.endswith(".onnx")
            found += [(name, quantized_file(name, folder))] if quantized else models(name, folder)
        for name, path in found:
            for threads in map(int, args.threads.split(",")):
                for batch in args.batch_list:
                    rows += compare(name, path, batch, threads, args)
    summary(rows)
    write_json(args.json, {"machine": about, "precision": args.precision, "rows": rows})
    if args.plot is not None and rows:
        plot(args.plot, lambda axes: draw(axes, rows), size=(max(6, len({row["network"] for row in rows}) * 0.8), 5))
    return 0


if __name__ == "__main__":
    sys.exit(main())
