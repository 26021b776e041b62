"""``cnngraph bench``: time a model, alone or against other engines in the same run."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Mapping
from typing import Any

import click
import numpy as np

from cnngraph.cli.feeds import make_feeds
from cnngraph.cli.model import Compilation, IntListType, compile_options, is_artifact, model_argument, open_program
from cnngraph.cli.output import emit, json_option, table
from cnngraph.cli.peers import PEERS, Runner
from cnngraph.errors import UsageError

OURS = "cnngraph"


class PeersType(click.ParamType):
    """``onnxruntime,openvino``."""

    name = "ENGINES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Parse the list, or fail with a usage error."""
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(str(value).split(",")))
        if not set(names) <= set(PEERS):
            self.fail(f"{value!r} is not a list of {', '.join(PEERS)}", param, ctx)
        return names


@click.command("bench")
@model_argument
@click.option("--vs", "peers", type=PeersType(), default=(), help="Engines to compare with: onnxruntime, openvino.")
@click.option("--threads", type=IntListType(), help="Numbers of threads to try, e.g. 1,2; default: all that may be used.")
@click.option("--batch", "batches", type=IntListType(), default="1", show_default=True, help="Batch sizes to try, e.g. 1,8.")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds; each runs every engine once. Overrides --time.")
@click.option("--time", "budget", type=click.FloatRange(min=0.0), default=3.0, show_default=True, help="Seconds for each row.")
@click.option("--warmup", type=click.IntRange(min=1), default=3, show_default=True, help="Rounds that are not counted.")
@functools.partial(compile_options, with_threads=False)
@json_option
def command(
    model: str,
    peers: tuple[str, ...],
    threads: tuple[int, ...] | None,
    batches: tuple[int, ...],
    rounds: int | None,
    budget: float,
    warmup: int,
    how: Compilation,
    as_json: bool,
) -> None:
    """Time MODEL (an ONNX file or a .cnng artifact) on random inputs.

    Engines run in turn, one run each a round, so that a drift of the machine's speed hits all alike. A ratio above 1 means that
    cnngraph is faster; it is the peer's minimum over ours.
    """
    from cnngraph.runtime.cpus import default_threads

    if peers and is_artifact(model):
        raise UsageError("--vs needs the ONNX model, not an artifact")
    results = []
    for count in threads or (None,):
        program = open_program(model, how, threads=count)
        used = program.threads or default_threads()
        engines: dict[str, Runner] = {OURS: program.run}
        engines |= {name: PEERS[name](model, used) for name in peers}
        for batch in batches:
            feeds = make_feeds(program.inputs, fill="random", batch=batch).arrays
            times, differences = measure(engines, feeds, rounds, budget, warmup)
            results.append(
                {
                    "threads": used,
                    "batch": batch,
                    "rounds": len(times[OURS]),
                    "engines": {name: timing(times[name], batch, times[OURS], differences.get(name)) for name in engines},
                }
            )
    emit("bench", {"model": model, "results": results}, as_json, lambda: show(results))


def measure(
    engines: Mapping[str, Runner], feeds: Mapping[str, np.ndarray], rounds: int | None, budget: float, warmup: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every run by engine, and each peer's largest difference from cnngraph over the output's scale."""
    results: dict[str, dict[str, np.ndarray]] = {}
    for _ in range(warmup):
        for name, run in engines.items():
            results[name] = run(feeds)
    differences = {name: difference(results[OURS], results[name]) for name in engines if name != OURS}
    times: dict[str, list[float]] = {name: [] for name in engines}
    end = time.perf_counter() + budget
    while len(times[OURS]) < rounds if rounds is not None else (time.perf_counter() < end or not times[OURS]):
        for name, run in engines.items():
            start = time.perf_counter()
            run(feeds)
            times[name].append(time.perf_counter() - start)
    return times, differences


def difference(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    """Largest absolute difference of any output, divided by that output's largest absolute value; not a number if a result is none."""
    worst = 0.0
    for name, array in ours.items():
        other = theirs[name].astype(np.float64)
        scale = float(np.max(np.abs(other), initial=0.0)) or 1.0
        worst = float(np.maximum(worst, np.max(np.abs(array.astype(np.float64) - other), initial=0.0) / scale))
    return worst


def timing(times: list[float], batch: int, ours: list[float], difference: float | None) -> dict[str, float | None]:
    """Milliseconds a run, images a second, and ratios to ``ours``."""
    return {
        "median_ms": statistics.median(times) * 1e3,
        "min_ms": min(times) * 1e3,
        "images_per_second": batch / statistics.median(times),
        "ratio_median": statistics.median(times) / statistics.median(ours),
        "ratio_min": min(times) / min(ours),
        "max_difference": difference,
    }


def show(results: list[dict[str, Any]]) -> None:
    """Print the table for people."""
    rows = []
    for result in results:
        for name, t in result["engines"].items():
            difference = "" if t["max_difference"] is None else f"{t['max_difference']:.1e}"
            ratio = "" if name == OURS else f"{t['ratio_min']:.2f}x"
            rows.append([result["threads"], result["batch"], name, t["median_ms"], t["min_ms"], t["images_per_second"], ratio, difference])
    columns = ["threads", "batch", "engine", "median ms", "min ms", "images/s", "its time / ours", "difference"]
    if all(len(result["engines"]) == 1 for result in results):
        columns, rows = columns[:-2], [row[:-2] for row in rows]
    table(None, columns, rows)
