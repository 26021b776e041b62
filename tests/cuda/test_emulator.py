"""The emulator catches what it is there to catch: kernels with one line spoilt."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cnngraph_cuda import emulate
from cnngraph_cuda.lanes import Pointer
from cnngraph_cuda.warpgroups import EmulationError

from .support import ORDERS, run_product, shown_by_some_order, single_product

WRONG = 0.05


@pytest.fixture(scope="module")
def product():
    return single_product("sm_90:f16:1")


@pytest.mark.parametrize("order", ORDERS)
def test_sound_kernel(product, order):
    error, stats = run_product(product, order=order)
    assert error < 2e-3
    assert stats.conflicts == 0
    assert stats.mma > 0


def without(text: str, replacement: str = "pass") -> Callable[[str], str]:
    """Replace every occurrence of a piece of text."""
    return lambda source: source.replace(text, replacement)


def loop_barrier(source: str) -> str:
    """Without the barrier in the loop."""
    return source.replace("        cp_wait1()\n        cuda.syncthreads()", "        cp_wait1()")


def late_barrier(source: str) -> str:
    """The barrier of the loop behind the copies that overwrite the oldest buffer."""
    moved = source.replace("        cp_wait1()\n        cuda.syncthreads()", "        cp_wait1()")
    return moved.replace("        cp_commit()\n        fa_0_0", "        cp_commit()\n        cuda.syncthreads()\n        fa_0_0")


MUTATIONS = {
    "no wait": without("cp_wait1()"),
    "wait for too few": without("cp_wait1()", "cp_wait2()"),
    "no barrier": loop_barrier,
    "barrier after the refill": late_barrier,
    "no swizzle when reading": lambda s: s.replace("^ i32(lane & 7)", "^ i32(0)"),
    "no padding of the image": without("below(i32(wide_0", "below(i32(0 * wide_0"),
    "one tap too few": without("tap_row < taps_h", "tap_row < i32(taps_h - 1)"),
    "no barrier before the store": without("    cuda.syncthreads()\n    column", "    column"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_spoilt_kernels_are_caught(product, mutation):
    def is_wrong(order):
        error, stats = run_product(product, MUTATIONS[mutation], order)
        return error > WRONG or stats.conflicts > 0

    assert shown_by_some_order(is_wrong, ("forward", "backward", "shuffled")), "no order of warps shows it"


def test_access_outside_a_buffer(product):
    with pytest.raises(EmulationError, match="global bytes"):
        run_product(product, without("m < rows", "m < i32(rows + 1)"))


def source_of(*lines: str) -> Callable:
    return emulate.load("def k(y, n):\n" + "\n".join("    " + line for line in lines), "k")


def launch(kernel, *arguments, threads=64, order="forward", shared=1024):
    return emulate.launch(kernel, (1, 1, 1), threads, shared, arguments, ORDERS[order])


def test_barrier_that_some_threads_miss():
    kernel = source_of("if thread() < n:", "    cuda.syncthreads()")
    y = Pointer.to(np.zeros(4, np.float32))
    launch(kernel, y, 64)
    for threads in (32, 20):
        with pytest.raises(EmulationError, match="barrier"):
            launch(kernel, y, threads)
        with pytest.raises(EmulationError, match="barrier"):
            launch(kernel, y, threads, order="lockstep")


def test_shuffle_that_some_lanes_miss():
    kernel = source_of("if thread() < n:", "    v = shuffle_xor(f32(1.0), 1)")
    with pytest.raises(EmulationError, match="shuffle"):
        launch(kernel, Pointer.to(np.zeros(4, np.float32)), 20)


def test_shared_memory_begins_as_nan():
    y = np.zeros(64, np.float32)
    launch(source_of("st1_f32(y, thread(), lds1(i32(thread() * 4)))"), Pointer.to(y), 0)
    assert np.isnan(y).all()


def test_misaligned_vector():
    with pytest.raises(EmulationError, match="aligned"):
        launch(source_of("v, w, s, t = ld4_f32(y, 1)"), Pointer.to(np.zeros(400, np.float32)), 0)


def test_loops_and_branches_by_thread():
    y = np.zeros(64, np.float32)
    lines = ["total = f32(0.0)", "for i in range(thread(), n, 7):", "    if i32(i & 1) == 0:", "        total = add(total, to_float(i))"]
    lines += ["    else:", "        total = sub(total, f32(1.0))", "st1_f32(y, thread(), total)"]
    kernel = source_of(*lines)
    launch(kernel, Pointer.to(y), 50)
    expected = [sum(i if i % 2 == 0 else -1 for i in range(t, 50, 7)) for t in range(64)]
    np.testing.assert_array_equal(y, expected)


def test_counter_of_blocks():
    y = np.zeros(1, np.int32)
    kernel = source_of("if thread() == 0:", "    old = count_up(y, 0, n)")
    for _ in range(5):
        launch(kernel, Pointer.to(y), 2)
    assert y[0] == 2


def test_every_primitive_is_emulated():
    assert emulate.unknown_primitives() == set()
