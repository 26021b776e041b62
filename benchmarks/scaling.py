"""How time grows: with the batch, with channels, pixels and layers, and compile time with the number of distinct kernels.

    python benchmarks/scaling.py [--parts batch,size,compile] [--networks resnet18,vgg16] [--threads 1,2] [--json FILE] [--plots FOLDER]

* batch: images a second at batch 1, 2, 4 ... 64, and of which batch 1 reaches how much.
* size: a stack of 3x3 convolutions with ReLU, where channels, map width or layers grow and the rest stays.
* compile: seconds from ONNX to a program with an empty cache and with a full one, nodes and distinct kernels of several networks, the
  1001-layer ResNet among them, and the line through the points.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import facts, interleaved, lines, models, plot, print_facts, write_json
from onnx import TensorProto, helper, numpy_helper

import cnngraph
from cnngraph.cli.output import table
from cnngraph.tuning.layers import random_feeds

BATCHES = (1, 2, 4, 8, 16, 32, 64)
CHANNELS = (16, 32, 64, 128, 256, 512)
WIDTHS = (7, 14, 28, 56, 112, 224)
LAYERS = (1, 2, 4, 8, 16, 32, 64)
COMPILED = ("lenet5", "cifar_resnet29", "cifar_resnet1001", "squeezenet1_1", "resnet18", "mobilenet_v2", "resnet50", "densenet121")


def stack(channels: int, width: int, layers: int) -> bytes:
    """An ONNX model of ``layers`` 3x3 convolutions with ReLU on maps of ``channels`` x ``width`` x ``width``, the batch free."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "input"
    for number in range(layers):
        kernel = rng.standard_normal((channels, channels, 3, 3)) / np.sqrt(9 * channels / 2)
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{number}"))
        nodes.append(helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], kernel_shape=[3, 3], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        last = f"r{number}"
    shape = ["N", channels, width, width]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", last)]
    graph = helper.make_graph(nodes, "stack", ends[:1], ends[1:], weights)
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def time_of(program: Any, batch: int, threads: int, seconds: float) -> float:
    """Least seconds of a run."""
    feeds = random_feeds(program, batch)
    return min(interleaved({"ours": lambda: program.run(feeds, threads=threads)}, seconds, least=3)["ours"])


def by_batch(networks: str, threads: Sequence[int], math: str, isa: str | None, seconds: float) -> list[dict[str, Any]]:
    """Throughput of every network, number of threads and batch size."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, path in models(networks, folder):
            program = cnngraph.compile(path, math=math, isa=isa)
            if not any(isinstance(size, str) for size in program.inputs[0].shape):
                print(f"{name} has a fixed batch and is left out")
                continue
            for count in threads:
                one = 0.0
                for batch in BATCHES:
                    least = time_of(program, batch, count, seconds)
                    one = one or least
                    rows.append({"network": name, "threads": count, "batch": batch, "milliseconds": least * 1e3,
                                 "images_per_second": batch / least, "over_batch_1": batch * one / least})  # fmt: skip
    columns = ["network", "threads", "batch", "ms", "images/s", "images/s over batch 1's"]
    table("throughput by batch", columns, [list(row.values()) for row in rows])
    return rows


def by_size(threads: int, math: str, isa: str | None, seconds: float) -> list[dict[str, Any]]:
    """Time of stacks of convolutions as each of their extents grows."""
    rows = []
    grown = [("channels", c, (c, 28, 4)) for c in CHANNELS] + [("width", w, (64, w, 4)) for w in WIDTHS]
    for what, value, (channels, width, layers) in grown + [("layers", n, (64, 28, n)) for n in LAYERS]:
        start = time.perf_counter()
        program = cnngraph.compile(stack(channels, width, layers), math=math, isa=isa)
        compiling = time.perf_counter() - start
        least = time_of(program, 1, threads, seconds)
        flops = 2 * 9 * channels**2 * width**2 * layers
        rows.append({"grows": what, "value": value, "channels": channels, "width": width, "layers": layers, "milliseconds": least * 1e3,
                     "gflops": flops / least / 1e9, "arena": program.memory_report()["peak"], "compile_seconds": compiling})  # fmt: skip
    columns = ["grows", "to", "channels", "width", "layers", "ms", "GFLOP/s (direct)", "arena bytes", "compile s (cache as found)"]
    table("stacks of 3x3 convolutions with ReLU, batch 1", columns, [list(row.values()) for row in rows])
    return rows


def by_kernels(networks: str, math: str, isa: str | None) -> list[dict[str, Any]]:
    """Compile times with an empty and with a full cache of kernels; programs are not kept."""
    rows = []
    changed = {"CNNGRAPH_CACHE_DIR": "", "CNNGRAPH_CACHE_PROGRAMS": "0"}
    before = {name: os.environ.get(name) for name in changed}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, path in models(networks, folder):
                with tempfile.TemporaryDirectory() as cache:
                    os.environ.update(changed, CNNGRAPH_CACHE_DIR=cache)
                    taken = []
                    for _ in range(2):
                        start = time.perf_counter()
                        program = cnngraph.compile(path, math=math, isa=isa)
                        taken.append(time.perf_counter() - start)
                rows.append({"network": name, "nodes": program.report["passes"][-1]["nodes"], "kernels": len(program.kernels),
                             "cold_seconds": taken[0], "warm_seconds": taken[1], "each": taken[0] / len(program.kernels)})  # fmt: skip
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    table(
        "compile time", ["network", "nodes", "kernels", "cold s", "kernels cached s", "cold s / kernel"], [list(r.values()) for r in rows]
    )
    if len(rows) > 1:
        slope, base = np.polyfit([row["kernels"] for row in rows], [row["cold_seconds"] for row in rows], 1)
        print(f"cold: {base:.1f} s and {slope:.2f} s a kernel")
    return rows


def draw(results: dict[str, Any], folder: Path) -> None:
    """A plot for each part that was measured."""
    folder.mkdir(parents=True, exist_ok=True)
    if "batch" in results:
        curves: dict[str, list[tuple[float, float]]] = {}
        for row in results["batch"]:
            curves.setdefault(f"{row['network']}, {row['threads']} threads", []).append((row["batch"], row["over_batch_1"]))
        plot(folder / "batch.svg", lambda axes: (lines(axes, curves, "batch", "images/s over batch 1's"), axes.set_xscale("log", base=2)))
    for what in ("channels", "width", "layers") if "size" in results else ():
        points = [(row["value"], row["milliseconds"]) for row in results["size"] if row["grows"] == what]
        named = {"4 layers of 3x3" if what != "layers" else "64 channels, 28x28": points}
        plot(folder / f"{what}.svg", lambda axes, named=named, what=what: lines(axes, named, what, "ms", log=True))  # type: ignore[misc]
    if "compile" in results:

        def scatter(axes: Any) -> None:
            for row in results["compile"]:
                axes.scatter(row["kernels"], row["cold_seconds"], color="tab:blue")
                axes.annotate(row["network"], (row["kernels"], row["cold_seconds"]), fontsize=8)
            axes.set_xlabel("distinct kernels")
            axes.set_ylabel("compile time with an empty cache, s")

        plot(folder / "compile.svg", scatter)


def main() -> int:
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="batch,size,compile")
    parser.add_argument("--networks", default="resnet18,mobilenet_v2", help="of the part batch")
    parser.add_argument("--compiled", default=",".join(COMPILED), help="networks of the part compile")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--math", choices=["f32", "exact"], default="f32")
    parser.add_argument("--isa")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring for each row")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plots", type=Path, help="folder for SVG files, if matplotlib is installed")
    args = parser.parse_args()
    parts = args.parts.split(",")
    if not set(parts) <= {"batch", "size", "compile"}:
        parser.error("the parts are batch, size and compile")
    about = facts()
    print_facts(about)
    threads = [int(count) for count in args.threads.split(",")]
    results: dict[str, Any] = {}
    if "batch" in parts:
        results["batch"] = by_batch(args.networks, threads, args.math, args.isa, args.seconds)
    if "size" in parts:
        results["size"] = by_size(threads[0], args.math, args.isa, args.seconds)
    if "compile" in parts:
        results["compile"] = by_kernels(args.compiled, args.math, args.isa)
    write_json(args.json, {"machine": about, **results})
    if args.plots is not None:
        draw(results, args.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
