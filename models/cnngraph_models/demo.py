"""``make demo``: compile the trained digit network, classify digits it has never seen, and show what was compiled."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

import cnngraph
from cnngraph.cli.memory import show_memory
from cnngraph.errors import CnngraphError
from cnngraph.runtime.session import Program
from cnngraph_models import digits, trained_path

REQUIRED_ACCURACY = 0.98
SHOWN = 12


def main() -> int:
    """Run the demonstration; returns 1 if the accuracy is below 98 %, else 0."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--picture", type=Path, default=Path("digits.png"), help="where the picture goes (default: digits.png)")
    parser.add_argument("--threads", type=int, help="threads of a run; default: what affinity and cgroup allow")
    arguments = parser.parse_args()
    try:
        return demonstrate(arguments.picture, arguments.threads)
    except (CnngraphError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def demonstrate(picture: Path, threads: int | None) -> int:
    """Print the demonstration and write the picture; returns the exit status."""
    start = time.perf_counter()
    program = cnngraph.compile(str(trained_path("digits_lenet.onnx")), threads=threads)
    seconds = time.perf_counter() - start
    assert isinstance(program, Program)
    cached = sum(kernel.cached for kernel in program.kernels)
    print(f"compiled the digit network in {seconds:.1f} s: {len(program.kernels)} kernels, {cached} of them from the cache\n")

    images, labels = digits.held_out()
    (name,), (output,) = [spec.name for spec in program.inputs], [spec.name for spec in program.outputs]
    inputs = digits.preprocess(images)
    probabilities = program.run({name: inputs})[output]
    predictions = probabilities.argmax(axis=1)
    correct = int((predictions == labels).sum())
    accuracy = correct / len(labels)

    chosen = selection(predictions, labels)
    confidence = [float(probabilities[i, predictions[i]]) for i in chosen]
    print(digits.as_text(images[chosen], predictions[chosen].tolist(), confidence))
    wrong = [f"{predictions[i]} is really a {labels[i]}" for i in chosen if predictions[i] != labels[i]]
    if wrong:
        print(f"wrong among these: {', '.join(wrong)}")
    digits.save_sheet(images[chosen], predictions[chosen].tolist(), confidence, labels[chosen].tolist(), picture)
    print(f"{picture}: the same as a picture")
    print(f"accuracy on {len(labels)} held-out digits: {accuracy:.2%} ({len(labels) - correct} wrong)\n")

    for batch in (1, 64):
        milliseconds = time_per_run(program, {name: np.resize(inputs, (batch, *inputs.shape[1:]))}) * 1e3
        print(f"batch {batch:2}: {milliseconds:.3f} ms a run, {milliseconds / batch * 1e3:.1f} us an image")
    print_kernels(program)
    print()
    show_memory(program.memory_report())
    if accuracy < REQUIRED_ACCURACY:
        print(f"error: the accuracy is below {REQUIRED_ACCURACY:.0%}", file=sys.stderr)
        return 1
    return 0


def selection(predictions: np.ndarray, labels: np.ndarray) -> list[int]:
    """Which digits are shown: the first two that are wrong, if there are any, then one of each class, in order."""
    wrong = np.flatnonzero(predictions != labels)[:2].tolist()
    first = [int(np.flatnonzero(labels == digit)[0]) for digit in range(10)]
    chosen = list(dict.fromkeys([*first, *wrong]))
    rest = (i for i in range(len(labels)) if i not in chosen)
    while len(chosen) < min(SHOWN, len(labels)):
        chosen.append(next(rest))
    return chosen


def time_per_run(program: Program, feeds: dict[str, np.ndarray]) -> float:
    """Median seconds of a run."""
    times = []
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:
        start = time.perf_counter()
        program.run(feeds)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def print_kernels(program: Program) -> None:
    """List the generated kernels and the layers that use each."""
    print("\ngenerated kernels (the source of each: cnngraph compile MODEL --emit source)")
    for kernel in program.kernels:
        print(f"  {kernel.name}: {len(kernel.text.splitlines())} lines, {kernel.nbytes:,} bytes of code")
        print(f"      {', '.join(kernel.nodes)}")


if __name__ == "__main__":
    sys.exit(main())
