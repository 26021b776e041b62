"""Time each layer of a network alone: how far it is from what one core can do, and from the same layer in onnxruntime.

    python benchmarks/layers.py --network resnet50 [--batch 1] [--threads 1] [--math f32] [--isa avx512] [--json FILE] [--plot FILE]

A layer is a node of the optimised graph, so activation and residual sum are part of the convolution. It runs as a program of its own, and
as an ONNX model of its own in onnxruntime, in turn, on the same threads; operands are where the layer before would have left them. Minima
count. Printed: kernel family, tile, milliseconds, GFLOP/s (of the direct algorithm: Winograd may pass the machine's peak), GB/s of
operands, weights and results, and the share of the roofline: the least time in which a core with the measured rates could do the
direct arithmetic and read those bytes once, over the time taken.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import facts, models, plot, print_facts, write_json

from cnngraph.backends import get_backend
from cnngraph.cli.model import ShapeType
from cnngraph.cli.output import table
from cnngraph.cli.peers import PEERS
from cnngraph.emit.onnx_model import model_of
from cnngraph.errors import CnngraphError
from cnngraph.frontend import import_model
from cnngraph.ir.types import Sym
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassContext
from cnngraph.passes.choose_layout import choose_layout
from cnngraph.pipeline import optimize
from cnngraph.runtime.session import Program
from cnngraph.tuning.keys import title_of
from cnngraph.tuning.layers import LAYER, Layer, alone, bytes_of, flops_of, layers_of, lower_layer, random_feeds
from cnngraph_cpu.machine import Machine, machine


def network_layers(path: str, options: CompileOptions, shapes: dict[str, Any]) -> tuple[list[Layer], Any, Any]:
    """The distinct layers of a model, the target, and the templates by name."""
    backend = get_backend("cpu")
    target = backend.target(options.isa)
    templates = {t.name: t for t in backend.templates() if options.math == "f32" or not t.reorders_arithmetic}
    graph = import_model(path, shapes=shapes)
    optimize(graph, options, PassContext())
    choice = choose_layout(graph, list(templates.values()), target)
    return layers_of(graph, choice), target, templates


def peer_of(layer: Layer, peer: str, folder: str, number: int, threads: int) -> tuple[Any, list[str]] | None:
    """The layer as a model of its own in ``peer``, and the names of its inputs; None if ONNX or the peer has no such model."""
    path = Path(folder) / f"{number}.onnx"
    try:
        model = model_of(alone(layer.node))
        path.write_bytes(model.SerializeToString())
        return PEERS[peer](str(path), threads), [value.name for value in model.graph.input]
    except CnngraphError:
        return None


def ours(program: Program, feeds: dict[str, np.ndarray], threads: int) -> float:
    """Seconds of the layer's steps, the least of three runs each."""
    return sum(row["seconds"] for row in program.profile(feeds, 3, threads=threads) if row["nodes"] == LAYER)


def measure(program: Program, peer: Any, names: list[str], batch: int, threads: int, seconds: float) -> tuple[float, float | None]:
    """Least seconds of our layer and of the peer's, in turn."""
    feeds = random_feeds(program, batch)
    theirs = dict(zip(names, feeds.values(), strict=True))
    best, other = float("inf"), float("inf")
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 5 or time.perf_counter() < end:
        best = min(best, ours(program, feeds, threads))
        for _ in range(3 if peer is not None else 0):
            start = time.perf_counter()
            peer(theirs)
            other = min(other, time.perf_counter() - start)
        rounds += 1
    return best, other if peer is not None else None


def row_of(layer: Layer, program: Program, times: tuple[float, float | None], batch: int, threads: int, core: Machine) -> dict[str, Any]:
    """One line of the table."""
    seconds, other = times
    flops, nbytes = flops_of(layer.node) * batch, bytes_of(layer.node) * batch
    notes = next(row["notes"] for row in program.report["selection"] if row["node"] == LAYER)
    return {
        "layer": title_of(layer.node), "key": layer.key, "count": layer.count, "template": layer.template, "tile": "; ".join(notes),
        "milliseconds": seconds * 1e3, "gflops": flops / seconds / 1e9, "gbytes": nbytes / seconds / 1e9,
        "roofline": core.seconds(flops / threads, nbytes) / seconds, "peer_milliseconds": None if other is None else other * 1e3,
        "ratio": None if other is None else other / seconds,
    }  # fmt: skip


def show(rows: list[dict[str, Any]], peer: str) -> None:
    """The table, and the sums over the network."""
    total = sum(row["milliseconds"] * row["count"] for row in rows)
    both = [row for row in rows if row["peer_milliseconds"] is not None]
    mine, theirs = (sum(row[name] * row["count"] for row in both) for name in ("milliseconds", "peer_milliseconds"))
    body = [
        [
            row["layer"], row["count"], row["template"], row["tile"], row["milliseconds"], 100 * row["milliseconds"] * row["count"] / total,
            row["gflops"], row["gbytes"], f"{row['roofline']:.0%}", row["peer_milliseconds"], row["ratio"],
        ]
        for row in rows
    ]  # fmt: skip
    columns = ["layer", "times", "kernel", "tile", "ms", "% of all", "GFLOP/s", "GB/s", "roofline", f"{peer} ms", "its time / ours"]
    table(None, columns, body)
    print(f"all layers {total:.2f} ms; those that {peer} runs too {mine:.2f} ms, {peer} {theirs:.2f} ms, {theirs / mine:.2f} times ours")


def main() -> int:
    """Measure every layer and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet50", help="a name of the zoo or an ONNX file")
    parser.add_argument("--shape", action="append", default=[], help="of an input whose declared shape is free: input=1x3x224x224")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--math", choices=["f32", "exact"], default="f32")
    parser.add_argument("--isa")
    parser.add_argument("--peer", choices=sorted(PEERS), default="onnxruntime")
    parser.add_argument("--seconds", type=float, default=0.3, help="of measuring for each layer")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="SVG or PNG: time of each layer, ours and the peer's")
    args = parser.parse_args()
    options = CompileOptions(isa=args.isa, math=args.math, threads=args.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        ((name, path),) = models(args.network, folder)
        layers, target, templates = network_layers(path, options, dict(ShapeType().convert(shape, None, None) for shape in args.shape))
        if args.batch > 1 and not any(isinstance(d, Sym) for layer in layers for d in layer.node.output.type.shape[:1]):
            parser.error(f"{name} has a fixed batch")
        about, core, backend = facts(), machine(target.isa), get_backend("cpu")
        print_facts(about)
        levels = ", ".join(f"{rate:.0f} GB/s from {size >> 10} KiB" for size, rate in core.gbytes.items())
        print(f"one core, {core.isa}: {core.gflops:.0f} GFLOP/s; {levels}")
        print(f"{name}, batch {args.batch}, {args.threads} threads, math {args.math}")
        for number, layer in enumerate(layers):
            program = lower_layer(layer, templates[layer.template], list(templates.values()), target).program(backend, target, options)
            peer, names = peer_of(layer, args.peer, folder, number, args.threads) or (None, [spec.name for spec in program.inputs])
            times = measure(program, peer, names, args.batch, args.threads, args.seconds)
            if times[0]:  # a concatenation may be left out, its parts written in place
                rows.append(row_of(layer, program, times, args.batch, args.threads, core))
    show(rows, args.peer)
    settings = {"network": name, "batch": args.batch, "threads": args.threads, "math": args.math, "isa": target.isa, "peer": args.peer}
    core_facts = {"gflops": core.gflops, "gbytes": {str(size): rate for size, rate in core.gbytes.items()}}
    write_json(args.json, {"machine": {**about, "core": core_facts}, **settings, "layers": rows})
    if args.plot is not None:
        plot(args.plot, lambda axes: draw(axes, rows, args.peer), size=(9, 1 + 0.3 * len(rows)))
    return 0


def draw(axes: Any, rows: list[dict[str, Any]], peer: str) -> None:
    """Horizontal bars, a pair a layer."""
    places = np.arange(len(rows))
    axes.barh(places - 0.2, [row["milliseconds"] for row in rows], 0.4, label="cnngraph")
    axes.barh(places + 0.2, [row["peer_milliseconds"] or 0.0 for row in rows], 0.4, label=peer)
    axes.set_yticks(places, [row["layer"] for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    axes.legend()


if __name__ == "__main__":
    sys.exit(main())
