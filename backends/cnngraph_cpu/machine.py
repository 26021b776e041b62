"""What one core of this machine can do, measured by small generated kernels: multiply-adds, and bytes read from each level of memory.

The figures serve reports and tuning. No choice of a default compilation depends on them.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from cnngraph.kernels.template import KernelSource, KernelSpec
from cnngraph.runtime import cache
from cnngraph.runtime.execute import aligned
from cnngraph.runtime.features import cpu_model
from cnngraph.runtime.loader import load_kernels
from cnngraph.runtime.program import Kernel
from cnngraph_cpu.jit import compile_sources
from cnngraph_cpu.language import F32Pointer, add, fma, load, registers, store, unroll
from cnngraph_cpu.source import Code, generate
from cnngraph_cpu.target import ISAS

W = CHAINS = 0
_SIZES = (256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20)
_BYTES_A_RUN = 64 << 20
_FMA_ROUNDS = 200_000
_REPEAT = 7


def fma_rate(x: F32Pointer, y: F32Pointer, rounds: int, tid: int, threads: int) -> None:
    """Independent chains of multiply-adds, ``rounds`` in each."""
    acc = registers(CHAINS)
    factor = load(x, 0)
    term = load(x, W)
    for c in unroll(CHAINS):
        acc[c] = load(x, c * W)
    for _ in range(rounds):
        for c in unroll(CHAINS):
            acc[c] = fma(factor, acc[c], term)
    for c in unroll(CHAINS):
        store(y, c * W, acc[c])


def read_rate(x: F32Pointer, y: F32Pointer, rounds: int, count: int, tid: int, threads: int) -> None:
    """The sum of ``count`` elements, ``rounds`` times."""
    acc = registers(CHAINS)
    for c in unroll(CHAINS):
        acc[c] = load(x, c * W)
    for _ in range(rounds):
        for i in range(0, count, CHAINS * W):
            for c in unroll(CHAINS):
                acc[c] = add(acc[c], load(x, i + c * W))
    for c in unroll(CHAINS):
        store(y, c * W, acc[c])


FMA = Code(fma_rate, {}, "Independent chains of multiply-adds.")
READ = Code(read_rate, {}, "Reading memory in order.")


@dataclass(frozen=True)
class Machine:
    """One core of a machine.

    Attributes:
        cpu: the processor's model.
        isa: instruction set of the measuring kernels.
        gflops: float32 operations in a second, in billions; a multiply-add is two.
        gbytes: billions of bytes in a second read from an array of so many bytes (the key).
    """

    cpu: str
    isa: str
    gflops: float
    gbytes: Mapping[int, float]

    def bandwidth(self, nbytes: int) -> float:
        """Billions of bytes in a second at which ``nbytes`` that were used before can be read."""
        return next((rate for size, rate in self.gbytes.items() if nbytes <= size), list(self.gbytes.values())[-1])

    def seconds(self, flops: float, nbytes: int) -> float:
        """The roofline: the least time in which ``flops`` can be computed and ``nbytes`` be read or written."""
        return max(flops / self.gflops, nbytes / self.bandwidth(nbytes)) / 1e9


def sources(isa: str) -> tuple[KernelSource, KernelSource]:
    """The two measuring kernels."""
    chains = ISAS[isa].target.registers // 2
    return (
        generate(KernelSpec("fma_rate", isa, (("CHAINS", chains),)), FMA),
        generate(KernelSpec("read_rate", isa, (("CHAINS", chains // 2),)), READ),
    )


def measure(isa: str) -> Machine:
    """The rates of this machine now; takes about two seconds and 256 MiB of memory."""
    compiled = compile_sources(sources(isa), isa)
    kernels = [compiled[source.name] for source in sources(isa)]
    fma, read = (_callable(address) for address in load_kernels([Kernel(k.name, k.symbol, k.code) for k in kernels]))
    target = ISAS[isa].target
    chains = target.registers // 2
    out = aligned(chains * target.width * 4).view(np.float32)
    small = np.full(chains * target.width, 0.5, np.float32)
    seconds = _least(lambda: fma(small.ctypes.data, out.ctypes.data, _FMA_ROUNDS))
    gflops = 2.0 * target.width * chains * _FMA_ROUNDS / seconds / 1e9
    memory = aligned(_SIZES[-1]).view(np.float32)
    memory[:] = 1.0
    rates = {}
    for size in _SIZES:
        rounds = max(1, _BYTES_A_RUN // size)
        count = size // 4
        seconds = _least(lambda rounds=rounds, count=count: read(memory.ctypes.data, out.ctypes.data, rounds, count))  # type: ignore[misc]
        rates[size] = size * rounds / seconds / 1e9
    return Machine(cpu_model(), isa, gflops, rates)


def machine(isa: str) -> Machine:
    """The rates of this machine, measured once and kept in the cache folder."""
    text = "\0".join([cpu_model(), isa, *(source.text for source in sources(isa))])
    name = f"machine-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    try:
        kept = json.loads((cache.cache_dir() / name).read_text("utf-8"))
        return Machine(kept["cpu"], kept["isa"], float(kept["gflops"]), {int(k): float(v) for k, v in kept["gbytes"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        found = measure(isa)
        cache.write(name, [json.dumps(asdict(found)).encode()])
        return found


def _callable(address: int) -> Callable[..., None]:
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)

    def call(*arguments: int) -> None:
        words = (ctypes.c_int64 * len(arguments))(*arguments)
        entry(ctypes.addressof(words), 0, 1)

    return call


def _least(run: Callable[[], None]) -> float:
    best = float("inf")
    for _ in range(_REPEAT):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best
