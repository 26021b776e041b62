"""The compiled program driver: runs a table of kernel calls on a team of threads, in one parallel region.

``driver`` has the ABI of a kernel, so it is compiled and stored like one. This module is its whole source: it imports
nothing of this project and is itself the text given to the compiler.

``driver(words, tid, mode)``:

* ``CALLER`` / ``HELPER``: ``words`` is a job (see the ``JOB_*`` word numbers). The caller is thread 0; it wakes the helpers when
  ``JOB_WAKE`` is set, runs its share and returns when every thread is done. A helper runs its share and returns.
* ``WORKER``: ``words`` is a team state. Serves jobs from mailbox ``tid`` until it gets the job 0.
* ``SERVE_ONE``: the same for one job, for systems where workers sleep outside of compiled code.
* ``STOP``: ``words`` is a team state. Gives the job 0 to workers 1 .. ``tid``-1.

A step is ``[kernel number, arguments, (base, a, b)...]``; an argument is ``bases[base] + a*N + b``, plus ``tid`` times the scratch
stride for base ``SCRATCH``. ``bases[0]`` is 0, which makes integers of the same form. Steps are separated by a barrier
on a counter that only ever grows. The end of a helper's job is counted by the worker loop, whose code is never unloaded, not by the
job's own driver, whose program may be freed as soon as the caller returns.

A job with ``JOB_IMAGES`` is done image by image: each thread runs all steps for its share of the images by itself, with a batch of 1 and
an arena of its own (they lie ``image_bytes[ARENA]`` apart); ``image_bytes`` of the caller's arrays lead from an image to the next. There
are no barriers between the steps then, but each thread still counts as many arrivals.

Waiting spins for a bounded number of pauses, then sleeps in a futex (Linux) or yields.
"""

from __future__ import annotations

import platform
import sys
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

CALLER, HELPER, WORKER, SERVE_ONE, STOP = 0, 1, 2, 3, 4

JOB_DRIVER, JOB_BATCH, JOB_THREADS, JOB_BASES, JOB_STEPS, JOB_COUNT, JOB_KERNELS = 0, 1, 2, 3, 4, 5, 6
JOB_ARGS, JOB_ARGS_STRIDE, JOB_SCRATCH_STRIDE, JOB_TEAM, JOB_START, JOB_SPINS, JOB_WAKE = 7, 8, 9, 10, 11, 12, 13
JOB_IMAGES, JOB_IMAGE_BYTES = 14, 15

TEAM_COUNTER, TEAM_SLEEPERS, TEAM_MAILBOXES, MAILBOX_WORDS = 0, 16, 32, 16
MAIL_SEQUENCE, MAIL_JOB, MAIL_SLEEPING, MAIL_SEEN = 0, 1, 2, 3
IDLE_SPINS = 1000

ARENA, SCRATCH = 1, 4

_FUTEX_NUMBERS = {"x86_64": 202, "aarch64": 98, "arm64": 98, "riscv64": 98, "ppc64le": 221}
_FUTEX = _FUTEX_NUMBERS.get(platform.machine(), 0) if sys.platform == "linux" else 0
_WAIT_PRIVATE, _WAKE_PRIVATE, _ALL = 128, 129, 0x7FFFFFFF
_I64, _I32 = ir.IntType(64), ir.IntType(32)
_POINTER = types.CPointer(types.int64)


@intrinsic
def words_at(typingctx: Any, address: Any) -> Any:
    """An integer address as a pointer to int64 words."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], ir.PointerType(_I64))

    return _POINTER(types.int64), codegen


@intrinsic
def address_of(typingctx: Any, words: Any) -> Any:
    """A pointer as an integer address."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.ptrtoint(values[0], _I64)

    return types.int64(_POINTER), codegen


@intrinsic
def get_word(typingctx: Any, words: Any, index: Any) -> Any:
    """``words[index]``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(builder.gep(values[0], [values[1]]))

    return types.int64(_POINTER, types.int64), codegen


@intrinsic
def set_word(typingctx: Any, words: Any, index: Any, value: Any) -> Any:
    """``words[index] = value``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], builder.gep(values[0], [values[1]]))
        return context.get_dummy_value()

    return types.void(_POINTER, types.int64, types.int64), codegen


@intrinsic
def load_atomic(typingctx: Any, words: Any, index: Any) -> Any:
    """Sequentially consistent load of ``words[index]``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load_atomic(builder.gep(values[0], [values[1]]), "seq_cst", 8)

    return types.int64(_POINTER, types.int64), codegen


@intrinsic
def store_atomic(typingctx: Any, words: Any, index: Any, value: Any) -> Any:
    """Sequentially consistent store to ``words[index]``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store_atomic(values[2], builder.gep(values[0], [values[1]]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(_POINTER, types.int64, types.int64), codegen


@intrinsic
def add_atomic(typingctx: Any, words: Any, index: Any, value: Any) -> Any:
    """Sequentially consistent ``words[index] += value``; returns the new value."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        old = builder.atomic_rmw("add", builder.gep(values[0], [values[1]]), values[2], "seq_cst")
        return builder.add(old, values[2])

    return types.int64(_POINTER, types.int64, types.int64), codegen


@intrinsic
def call_kernel(typingctx: Any, function: Any, args: Any, tid: Any, threads: Any) -> Any:
    """Call the kernel at the address ``function``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kernel = ir.FunctionType(ir.VoidType(), [ir.PointerType(_I64), _I64, _I64])
        builder.call(builder.inttoptr(values[0], ir.PointerType(kernel)), list(values[1:]))
        return context.get_dummy_value()

    return types.void(types.int64, _POINTER, types.int64, types.int64), codegen


@intrinsic
def pause(typingctx: Any) -> Any:
    """Tell the processor that this is a spin loop."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        machine = platform.machine()
        if machine in ("x86_64", "AMD64"):
            builder.call(_declare(builder.module, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
        elif machine in ("aarch64", "arm64"):
            builder.call(_declare(builder.module, "llvm.aarch64.hint", ir.VoidType(), [_I32]), [ir.Constant(_I32, 1)])
        return context.get_dummy_value()

    return types.void(), codegen


def _declare(module: Any, name: str, result: Any, parameters: list[Any], variadic: bool = False) -> Any:
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, parameters, var_arg=variadic), name)


def _futex(builder: Any, pointer: Any, operation: int, value: Any) -> None:
    """``syscall(SYS_futex, pointer, operation, value, NULL)``, or ``sched_yield()`` where there is no futex."""
    if not _FUTEX:
        builder.call(_declare(builder.module, "sched_yield", _I32, []), [])
        return
    syscall = _declare(builder.module, "syscall", _I64, [_I64], variadic=True)
    address, zero = builder.ptrtoint(pointer, _I64), ir.Constant(_I64, 0)
    builder.call(syscall, [ir.Constant(_I64, _FUTEX), address, ir.Constant(_I64, operation), value, zero])


@intrinsic
def sleep_while(typingctx: Any, words: Any, index: Any, value: Any) -> Any:
    """Sleep until woken unless the low half of ``words[index]`` differs from that of ``value``. May return at any time."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _futex(builder, builder.gep(values[0], [values[1]]), _WAIT_PRIVATE, builder.and_(values[2], ir.Constant(_I64, 0xFFFFFFFF)))
        return context.get_dummy_value()

    return types.void(_POINTER, types.int64, types.int64), codegen


@intrinsic
def wake(typingctx: Any, words: Any, index: Any) -> Any:
    """Wake everyone who sleeps on ``words[index]``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if _FUTEX:
            _futex(builder, builder.gep(values[0], [values[1]]), _WAKE_PRIVATE, ir.Constant(_I64, _ALL))
        return context.get_dummy_value()

    return types.void(_POINTER, types.int64), codegen


@njit(forceinline=True, error_model="numpy")
def arrive(team: Any, goal: int) -> None:
    """Count this thread in at the barrier that ends when the counter reaches ``goal``."""
    if add_atomic(team, TEAM_COUNTER, 1) == goal and load_atomic(team, TEAM_SLEEPERS) > 0:
        wake(team, TEAM_COUNTER)


@njit(forceinline=True, error_model="numpy")
def wait(team: Any, goal: int, spins: int) -> None:
    """Wait until the barrier counter has reached ``goal``."""
    for _ in range(spins):
        if load_atomic(team, TEAM_COUNTER) >= goal:
            return
        pause()
    add_atomic(team, TEAM_SLEEPERS, 1)
    count = load_atomic(team, TEAM_COUNTER)
    while count < goal:
        sleep_while(team, TEAM_COUNTER, count)
        count = load_atomic(team, TEAM_COUNTER)
    add_atomic(team, TEAM_SLEEPERS, -1)


@njit(forceinline=True, error_model="numpy")
def publish(address: int, team: Any, threads: int) -> None:
    """Give the job at ``address`` to workers 1 .. threads-1."""
    for tid in range(1, threads):
        mail = TEAM_MAILBOXES + tid * MAILBOX_WORDS
        store_atomic(team, mail + MAIL_JOB, address)
        add_atomic(team, mail + MAIL_SEQUENCE, 1)
        if load_atomic(team, mail + MAIL_SLEEPING) != 0:
            wake(team, mail + MAIL_SEQUENCE)


@njit(forceinline=True, error_model="numpy")
def run_steps(job: Any, tid: int, start: int) -> None:
    """This thread's share of a job: of its images, or of every step, with barriers between the steps."""
    threads, images = get_word(job, JOB_THREADS), get_word(job, JOB_IMAGES)
    if images == 0:
        run_image(job, tid, tid, threads, 0, 0, start)
        return
    image_bytes = words_at(get_word(job, JOB_IMAGE_BYTES))
    for image in range(images * tid // threads, images * (tid + 1) // threads):
        run_image(job, tid, 0, 1, image, tid * get_word(image_bytes, ARENA), start)
    if threads > 1:
        add_atomic(words_at(get_word(job, JOB_TEAM)), TEAM_COUNTER, get_word(job, JOB_COUNT) - 1)


@njit(forceinline=True, error_model="numpy")
def run_image(job: Any, tid: int, part: int, parts: int, image: int, arena: int, start: int) -> None:
    """Part ``part`` of ``parts`` of every step, for the images from ``image`` on, in the arena ``arena`` bytes after the first."""
    batch, image_bytes = get_word(job, JOB_BATCH), words_at(get_word(job, JOB_IMAGE_BYTES))
    bases, step = words_at(get_word(job, JOB_BASES)), words_at(get_word(job, JOB_STEPS))
    kernels, count = words_at(get_word(job, JOB_KERNELS)), get_word(job, JOB_COUNT)
    args = words_at(get_word(job, JOB_ARGS) + tid * get_word(job, JOB_ARGS_STRIDE))
    scratch = tid * get_word(job, JOB_SCRATCH_STRIDE)
    team, spins = words_at(get_word(job, JOB_TEAM)), get_word(job, JOB_SPINS)
    for number in range(count):
        arguments = get_word(step, 1)
        for i in range(arguments):
            base = get_word(step, 2 + 3 * i)
            value = get_word(bases, base) + get_word(step, 3 + 3 * i) * batch + get_word(step, 4 + 3 * i)
            if base == SCRATCH:
                value += scratch
            elif base == ARENA:
                value += arena
            elif image > 0:
                value += image * get_word(image_bytes, base)
            set_word(args, i, value)
        call_kernel(get_word(kernels, get_word(step, 0)), args, part, parts)
        step = words_at(address_of(step) + 8 * (2 + 3 * arguments))
        if parts > 1 and number + 1 < count:
            goal = start + (number + 1) * parts
            arrive(team, goal)
            wait(team, goal, spins)


@njit(forceinline=True, error_model="numpy")
def serve(team: Any, tid: int, forever: bool) -> None:
    """The life of a worker thread: sleep, run its share of a job, count itself out; until job 0 comes."""
    mail = TEAM_MAILBOXES + tid * MAILBOX_WORDS
    while True:
        seen = get_word(team, mail + MAIL_SEEN)
        for _ in range(IDLE_SPINS):
            if load_atomic(team, mail + MAIL_SEQUENCE) != seen:
                break
            pause()
        store_atomic(team, mail + MAIL_SLEEPING, 1)
        while load_atomic(team, mail + MAIL_SEQUENCE) == seen:
            sleep_while(team, mail + MAIL_SEQUENCE, seen)
        store_atomic(team, mail + MAIL_SLEEPING, 0)
        set_word(team, mail + MAIL_SEEN, seen + 1)
        address = load_atomic(team, mail + MAIL_JOB)
        if address == 0:
            return
        job = words_at(address)
        goal = get_word(job, JOB_START) + get_word(job, JOB_COUNT) * get_word(job, JOB_THREADS)
        call_kernel(get_word(job, JOB_DRIVER), job, tid, HELPER)
        arrive(team, goal)
        if not forever:
            return


def driver(words: Any, tid: int, mode: int) -> None:
    """See the module's description."""
    if mode == WORKER:
        serve(words, tid, True)
    elif mode == SERVE_ONE:
        serve(words, tid, False)
    elif mode == STOP:
        publish(0, words, tid)
    elif mode == HELPER:
        run_steps(words, tid, get_word(words, JOB_START))
    else:
        threads = get_word(words, JOB_THREADS)
        team = words_at(get_word(words, JOB_TEAM))
        start = 0
        if threads > 1:
            start = load_atomic(team, TEAM_COUNTER)
            set_word(words, JOB_START, start)
            if get_word(words, JOB_WAKE) != 0:
                publish(address_of(words), team, threads)
        run_steps(words, tid, start)
        if threads > 1:
            goal = start + get_word(words, JOB_COUNT) * threads
            arrive(team, goal)
            wait(team, goal, get_word(words, JOB_SPINS))
