"""Hand-made programs over one tiny kernel, to test the driver, the team and the artifact without the compiler."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np

from cnngraph.runtime.program import ARENA, FIRST_IO, INTEGER, SCRATCH, WEIGHTS, Kernel, KernelStep, ProgramData, TensorSpec

LENGTH = 96
"""Elements of one image."""

KERNEL = '''
from cnngraph_cpu.simd import get, int_argument, pointer_argument, put

def rotate(args, tid, threads):
    """y[i] = x[i+1] / 2 + bias[0], cyclic over all images: each thread reads what another one wrote."""
    x, bias, y = pointer_argument(args, 0), pointer_argument(args, 1), pointer_argument(args, 2)
    scratch, n = pointer_argument(args, 3), int_argument(args, 4)
    put(scratch, 0, tid)
    for i in range(n * tid // threads, n * (tid + 1) // threads):
        put(y, i, get(x, (i + 1) % n) * 0.5 + get(bias, 0))
        if get(scratch, 0) != tid:
            put(y, i, -1000.0)
'''


@functools.cache
def compiled() -> tuple[Kernel, Kernel]:
    """The kernel and the driver."""
    from cnngraph_cpu.source import driver_source
    from cnngraph_cpu.worker import compile_kernel

    with tempfile.TemporaryDirectory() as folder:
        found = []
        for name, text in (("rotate", KERNEL), ("driver", driver_source().text)):
            path = Path(folder) / f"{name}.py"
            path.write_text(text, encoding="utf-8")
            found.append(Kernel(name, *compile_kernel(str(path), name), source=text))
    return found[0], found[1]


def program_data(steps: int = 6) -> ProgramData:
    """``steps`` rotations from input "x" [N,96] through the arena to output "y" [N,96]."""
    kernel, driver = compiled()
    image = LENGTH * 4
    weights = np.zeros(64, np.uint8)
    weights[:4] = np.array([1.0], np.float32).view(np.uint8)
    table = []
    for number in range(steps):
        source = (FIRST_IO, 0, 0) if number == 0 else (ARENA, (number + 1) % 2 * image, 0)
        target = (FIRST_IO + 1, 0, 0) if number == steps - 1 else (ARENA, number % 2 * image, 0)
        table.append(KernelStep(0, (source, (WEIGHTS, 0, 0), target, (SCRATCH, 0, 0), (INTEGER, LENGTH, 0)), f"step{number}"))
    return ProgramData(
        inputs=[TensorSpec("x", "float32", ("N", LENGTH))], outputs=[TensorSpec("y", "float32", ("N", LENGTH))], steps=[*table],
        kernels=[kernel], driver=driver, weights=weights, arena=2 * image, static_bytes=0, scratch=64, copies=[], isa="any",
        report={"memory": {"peak": 2 * image}},
    )  # fmt: skip


def expected(x: np.ndarray, steps: int = 6) -> np.ndarray:
    """What the program computes."""
    flat = x.reshape(-1)
    for _ in range(steps):
        flat = np.roll(flat, -1) * np.float32(0.5) + np.float32(1)
    return flat.reshape(x.shape)


def feed(batch: int, seed: int = 0) -> np.ndarray:
    """A batch of images of small integers, whose results are exact."""
    return np.random.default_rng(seed).integers(0, 1024, (batch, LENGTH)).astype(np.float32)
