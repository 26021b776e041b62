"""The tensor memory accelerator (sm_90a): what a kernel must do, what the emulator must catch, what a tensor map may be."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from cnngraph.errors import InternalError, UsageError
from cnngraph.ir.types import BATCH
from cnngraph_cuda import emulate
from cnngraph_cuda.bulk_copies import MappedTensor
from cnngraph_cuda.device import LAUNCH_WORDS
from cnngraph_cuda.executor import plan_launch
from cnngraph_cuda.lanes import Pointer
from cnngraph_cuda.problems import PROBLEMS
from cnngraph_cuda.problems import network as problem
from cnngraph_cuda.source import WEIGHT_BOXES, WINDOW_BOXES
from cnngraph_cuda.target import resolve
from cnngraph_cuda.templates.conv_plan import GROUP_TILES, Problem, choose_copies, window_of
from cnngraph_cuda.tensor_maps import MAP_WORDS, SWIZZLE_NONE, TensorMap, Window, map_of
from cnngraph_cuda.warpgroups import EmulationError

from .support import ORDERS, build, compare, run_product, shown_by_some_order, single_product
from .test_conv import network as conv_network
from .test_emulator import WRONG, without

PRODUCTS = {"weights": ("f16", 80, 3), "rows": ("f16", 400, 1), "rows in tf32": ("tf32", 400, 1), "windows": ("f16", 128, 3)}


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.slow) if "tf32" in n else n for n in PRODUCTS])
def product(request):
    precision, channels, kernel = PRODUCTS[request.param]
    return single_product(f"sm_90a:{precision}:1:128x64", channels, 72, kernel)


@pytest.mark.parametrize("order", ORDERS)
def test_sound_kernel(product, order):
    error, stats = run_product(product, order=order)
    assert error < 2e-3
    assert stats.boxes > 0


def replaced(pattern: str, replacement: str, count: int = 0):
    """Replace what matches a regular expression."""
    return lambda source: re.sub(pattern, replacement, source, count=count)


BYTES = r"mbarrier_expect\((.*), (\d+)\)"
MUTATIONS = {
    "no wait": without("mbarrier_wait(ready, parity)"),
    "the phase before": without("parity = i32(0)", "parity = i32(1)"),
    "always the first phase": replaced(r"parity = select\(.*", "pass"),
    "no bytes expected": replaced(r"mbarrier_expect\(.*", "pass"),
    "too few bytes expected": replaced(BYTES, lambda m: f"mbarrier_expect({m[1]}, {int(m[2]) - 128})"),
    "too many bytes expected": replaced(BYTES, lambda m: f"mbarrier_expect({m[1]}, {int(m[2]) + 128})"),
    "a box left out": replaced(r"tma_load\(.*", "pass", 1),
    "no fence of the initialisation": without("mbarrier_fence()"),
    "no fence between the proxies": without("mbarrier_fence()\n        proxy_fence()", "mbarrier_fence()"),
    "no barrier after the initialisation": without("    cuda.syncthreads()\n    refill", "    refill"),
    "no barrier before the refill": without("cuda.syncthreads()\n        if i32(tile", "if i32(tile"),
    "asked for by a whole warp": without("tid == 0", "tid < 32"),
    "one barrier for all refills": replaced(r"refill = select\(.*", "pass"),
    "another column": without("w, depth_at", "w, i32(depth_at + 8)"),
    "another row": without("depth_at, weight_row", "depth_at, i32(weight_row + 1)"),
    "columns not stepped": replaced(r"depth_at = i32\(depth_at.*", "pass"),
}


def is_caught(product, mutation=None):
    """Whether some order of warps shows that a kernel or its arguments are spoilt."""
    return shown_by_some_order(lambda order: run_product(product, mutation, order)[0] > WRONG)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_spoilt_kernels_are_caught(product, mutation):
    assert is_caught(product, MUTATIONS[mutation]), "no order of warps shows it"


WINDOWS = {
    "taps not stepped": replaced(r"tap_column = i32\(i32\(tap_column \+ step_column.*", "pass"),
    "offsets in the wrong order": replaced(
        r"i32\(tap_column \* dilation_w\), i32\(tap_row \* dilation_h\)\)", "i32(tap_row * dilation_h), i32(tap_column * dilation_w))"
    ),
    "another first pixel": without(", left, top, image,", ", i32(left + 1), top, image,"),
    "no padding": without("stride_w) - pad_w)", "stride_w))"),
    "a box of another matrix": replaced(r"tma_im2col\((.*), x, \w+, left, top, image, (\w+), .*", r"tma_load(\1, x, 0, 0, \2)"),
    "offsets beyond the limit": without("i32(tap_row * dilation_h))", "i32(i32(tap_row * dilation_h) + 256))"),
}


@pytest.fixture(scope="module")
def windows():
    return single_product("sm_90a:f16:1:128x64", 128, 72, 3)


@pytest.mark.parametrize("mutation", WINDOWS)
def test_spoilt_windows_are_caught(windows, mutation):
    assert is_caught(windows, WINDOWS[mutation]), "no order of warps shows it"


MAPS = {
    "no swizzle": lambda m: {"swizzle": SWIZZLE_NONE},
    "half a box": lambda m: {"box": (m.box[0], m.box[1] // 2)},
    "a longer pitch": lambda m: {"strides": (m.strides[0] + 16, *m.strides[1:])},
    "fewer rows": lambda m: {"sizes": (m.sizes[0], m.sizes[1] // 2, *m.sizes[2:])},
    "fewer columns": lambda m: {"sizes": (m.sizes[0] // 2, *m.sizes[1:])},
}
CORNERS = {
    "lower corner": Window((0, -1), (-1, -1), (1, 1)),
    "upper corner": Window((-1, -1), (0, -1), (1, 1)),
    "steps": Window((-1, -1), (-1, -1), (1, 2)),
}


@pytest.mark.parametrize("change", CORNERS)
def test_spoilt_corners_are_caught(windows, change):
    kernel, launch, (x, *arguments), result, expected = windows
    assert x.map.window == Window((-1, -1), (-1, -1), (1, 1))
    wrong = dataclasses.replace(x, map=dataclasses.replace(x.map, window=CORNERS[change]))
    assert is_caught((kernel, launch, [wrong, *arguments], result, expected))


SHAPES = {
    "3x3": {},
    "stride 2": {"stride": 2},
    "dilated": {"dilation": 2, "pad": 2, "hw": (9, 8)},
    "5x3": {"kernel": (5, 3), "pad": 2},
    "1x1, stride 2": {"kernel": (1, 1), "pad": 0, "stride": 2},
    "1x1, padded": {"kernel": (1, 1), "pad": 1},
    "no padding, three tiles a tap": {"pad": 0, "c": 96},
    "groups": {"group": 2, "c": 64},
    "channels that end within a piece": {"c": 63},
}


@pytest.mark.parametrize("precision", [pytest.param("f16", marks=pytest.mark.slow), "tf32"])
@pytest.mark.parametrize("shape", SHAPES)
def test_windows_of_convolutions(shape, precision):
    """Boxes go over the ends of lines and images, and over the last image."""
    given = {"c": 32, "k": 32, "hw": (6, 5)} | SHAPES[shape]
    given["c"] *= 1 if precision == "tf32" else 2
    isa = f"sm_90a:{precision}:8:64x64"
    program, _ = build(conv_network(**given), isa=isa)
    assert any("_tma3_" in kernel.name for kernel in program.data.kernels)
    compare(conv_network(**given), isa=isa, batch=3, orders=("lockstep", "backward") if shape == "3x3" else ("lockstep",))


@pytest.mark.parametrize("change", MAPS)
def test_spoilt_maps_are_caught(product, change):
    kernel, launch, arguments, result, expected = product
    for i, argument in enumerate(arguments[:2]):
        if isinstance(argument, MappedTensor):
            wrong = dataclasses.replace(argument, map=dataclasses.replace(argument.map, **MAPS[change](argument.map)))
            assert is_caught((kernel, launch, [*arguments[:i], wrong, *arguments[i + 1 :]], result, expected)), "xw"[i]


SOUND = """
def k(y, m, n, column, row, to):
    if thread() == 0:
        mbarrier_init(2048, 1)
        mbarrier_fence()
        proxy_fence()
        mbarrier_expect(2048, n)
        tma_load(to, m, column, row, 2048)
    cuda.syncthreads()
    mbarrier_wait(2048, 0)
    st1_f32(y, thread(), lds1(i32(to + i32(thread() * 4))))
"""
ARRAY = np.arange(1, 61, dtype=np.float32).reshape(5, 12)


def copied(column=0, row=0, nbytes=256, to=1024, source=SOUND, array=ARRAY, **changes):
    """64 numbers of shared memory after a copy of two rows of 32 elements of an array of 5 x 12."""
    given = TensorMap(0, 0, (12, 5), (48,), (32, 2))
    mapped = MappedTensor(dataclasses.replace(given, **changes), array.view(np.uint8).reshape(-1), 0)
    y = np.zeros(64, np.float32)
    arguments = (Pointer.to(y), mapped, nbytes, column, row, to)
    emulate.launch(emulate.load(source, "k"), (1, 1, 1), 64, 2176, arguments, ORDERS["shuffled"])
    return y.reshape(2, 32)


def test_box_with_swizzle_and_zeros_beyond_the_array():
    wanted = np.zeros((2, 32), np.float32)
    wanted[0, :8] = ARRAY[4, 4:]
    np.testing.assert_array_equal(copied(4, 4), wanted)  # the first row of a swizzled kibibyte stays as it is
    wanted = np.zeros((2, 8, 4), np.float32)
    wanted[1, 1:] = ARRAY[0, :28].reshape(-1, 4)[:3].tolist() + [[0] * 4] * 4
    wanted[1] = wanted[1][np.arange(8) ^ 1]  # the second has every piece beside its place
    np.testing.assert_array_equal(copied(-4, -1), wanted.reshape(2, 32))


@pytest.mark.parametrize(
    ("given", "telling"),
    [
        ({"nbytes": 272}, "nothing will end"),
        ({"nbytes": 128}, "256 bytes arrive at a barrier that expects 128"),
        ({"to": 1040}, "not aligned"),
        ({"to": 2048}, "of 2176"),
        ({"sizes": (12, 6)}, "beyond its memory"),
        ({"source": SOUND.replace("2048, 0)", "2056, 0)")}, "not been initialised"),
        ({"source": SOUND.replace("init(2048, 1)", "init(2044, 1)")}, "not aligned"),
        ({"source": SOUND.replace("init(2048, 1)", "init(2048, 2)")}, "nothing will end"),
        ({"source": SOUND.replace("mbarrier_expect(2048, n)", "mbarrier_expect(2048, n)\n        mbarrier_expect(2048, n)")}, "arrives"),
        ({"source": SOUND.replace("mbarrier_fence()", "pass")}, "fenced"),
        ({"source": SOUND.replace("proxy_fence()", "proxy_fence()\n        sts1(to, f32(0.0))")}, "wrote"),
    ],
)  # fmt: skip
def test_errors_by_name(given, telling):
    with pytest.raises(EmulationError, match=telling):
        copied(**given)


SMALL = TensorMap(4096, 1, (64, 10), (128,), (64, 8))


@pytest.mark.parametrize(
    "change",
    [
        {"address": 4104}, {"sizes": (64, 0)}, {"sizes": (64, (1 << 32) + 1)}, {"strides": (120,)}, {"strides": (1 << 40,)},
        {"box": (64, 257)}, {"box": (72, 8)}, {"box": (4, 8)}, {"strides": ()},
    ],
)  # fmt: skip
def test_maps_that_the_driver_would_refuse(change):
    with pytest.raises(InternalError, match="a tensor map with"):
        dataclasses.replace(SMALL, **change)


def mapped_steps(program):
    """Steps with tensor maps, and those maps' words for three images."""
    for step in program.data.steps:
        launch = plan_launch(step, 3, [1 << 20 for _ in range(8)])
        if any(isinstance(a, TensorMap) for a in launch.arguments):
            yield step, launch


@pytest.mark.parametrize("precision", ["f16", pytest.param("tf32", marks=pytest.mark.slow)])
def test_maps_of_a_program(precision):
    """Pixels lie one behind the other, weights fill whole boxes, and words say what the launch holds."""
    found = {1: 0, 2: 0, 3: 0}
    for name in PROBLEMS:
        program, _ = build(problem(name, 7), isa=f"sm_90a:{precision}:8:64x64")
        for step, launch in mapped_steps(program):
            source = program.data.kernels[step.kernel].source
            names = re.search(r"^def \w+\((.*)\):$", source, re.MULTILINE)[1].split(", ")
            given = dict(zip(names, launch.arguments, strict=True))
            types = dict(zip(names, re.search('^SIGNATURE = "(.*)"$', source, re.MULTILINE)[1].split(), strict=True))
            assert {n for n, t in types.items() if t == "map"} == {n for n, a in given.items() if isinstance(a, TensorMap)}
            item = 4 if precision == "tf32" else 2
            assert given["w"].sizes[0] == given["depth"][1] and given["w"].sizes[0] * item % 128 == 0
            assert given["w"].sizes[1] % given["w"].box[1] == 0 and given["w"].box == (128 // item, 64)
            found[1] += 1
            if isinstance(given["x"], TensorMap):
                groups = 1 if "SPLIT=1" in source else launch.grid[2]
                channels, *others = given["x"].sizes
                assert channels == given["x_group"][1] * groups
                if given["x"].window is None:
                    assert others == [given["rows"][1]]
                    assert given["x_batch"][1] * item == given["plane"][1] * given["x"].strides[0]
                else:
                    assert others == [given["width"][1], given["height"][1], 3]
                    assert given["x_batch"][1] * item == given["x"].strides[2]
                    places = [given["x"].window.places(given[what][1], axis) for axis, what in enumerate(("width", "height"))]
                    assert places[0] == given["out_width"][1] and places[0] * places[1] == given["plane"][1]
                found[2 if given["x"].window is None else 3] += 1
            words = [b for _, _, b in step.arguments[len(LAUNCH_WORDS) : len(LAUNCH_WORDS) + len(MAP_WORDS)]]
            assert words[0] in (0, 1)
    assert found[1] > 5 and found[2] > 1 and found[3] > 1


def test_words_of_a_map():
    words = {"argument": 1, "type": 2, "rank": 2, "size_0": 40, "size_1": 9, "pitch_1": 48, "box_0": 64, "box_1": 16}
    made = map_of(256, [words.get(name, 1) for name in MAP_WORDS])
    assert made == TensorMap(256, 2, (40, 9), (96,), (64, 16))
    assert (made.row_bytes, made.nbytes) == (128, 2048)


def test_words_of_a_window():
    words = {"argument": 0, "type": 1, "rank": 4, "size_0": 64, "size_1": 9, "size_2": 8, "pitch_1": 64, "pitch_2": 576, "pitch_3": 4608}
    words |= {"box_0": 64, "box_1": 16, "low_0": -1, "low_1": -2, "high_0": -1, "high_1": 0, "step_1": 2}
    made = map_of(256, [words.get(name, 1) for name in MAP_WORDS])
    window = Window((-1, -2), (-1, 0), (1, 2))
    assert made == TensorMap(256, 1, (64, 9, 8, 1), (128, 1152, 9216), (64, 16), window=window)
    assert (window.places(9, 0), window.places(8, 1)) == (9, 5)


@pytest.mark.parametrize(
    "corners", [((-129, 0), (0, 0), (1, 1)), ((0, 0), (0, 128), (1, 1)), ((0, 0), (0, 0), (9, 1)), ((2, 0), (-8, 0), (1, 1))]
)
def test_windows_that_the_driver_would_refuse(corners):
    with pytest.raises(InternalError, match="window"):
        TensorMap(0, 1, (64, 9, 8, 1), (128, 1152, 9216), (64, 16), window=Window(*corners))


@pytest.mark.parametrize(
    "change", [{"strides": (9, 1)}, {"dilations": (1, 128)}, {"pads": (200, 0, 0, 0)}, {"image": (400, 12)}, {"phases": (2, 2)}]
)
def test_windows_that_no_map_describes(change):
    """The pixels of these are copied thread by thread."""
    fits = Problem(BATCH, (12, 12), (12, 12), 64, 64, 1, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    tile, target = GROUP_TILES[-1], resolve("sm_90a:f16")
    assert window_of(fits) == Window((-1, -1), (-1, -1), (1, 1)) and choose_copies(fits, tile, target) == WINDOW_BOXES
    other = dataclasses.replace(fits, **change)
    assert window_of(other) is None and choose_copies(other, tile, target) == WEIGHT_BOXES
    assert choose_copies(dataclasses.replace(fits, channels=72), tile, target) == WEIGHT_BOXES  # tiles of several taps


def test_barriers_lie_behind_buffers_and_results():
    for tile in GROUP_TILES:
        buffers = tile.stages * (tile.bm + tile.bn) * 128
        assert tile.shared == buffers + 8 * tile.stages and tile.bm * (tile.bn + 8) * 4 <= buffers


def test_way_to_copy_by_name():
    assert resolve("sm_90a:f16:8:cp_async").copies == "cp_async"
    assert (resolve("sm_90a:f16:8:64x64:tma").tile, resolve("sm_90a:f16:8").copies) == ((64, 64), "tma")
    with pytest.raises(UsageError, match="no architecture"):
        resolve("sm_90a:f16:8:dma")
    program, _ = build(problem("conv 1x1 256->128"), isa="sm_90a:f16:8:64x64:cp_async")
    assert not list(mapped_steps(program))
