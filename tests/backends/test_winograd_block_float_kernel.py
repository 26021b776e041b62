"""Winograd of bfloat16 in block floating point: within bounds of its units, never beyond int32, and NaN where a tile is not finite."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import BATCH, DType
from cnngraph.ops import Conv, Expression
from cnngraph_cpu.registry import TEMPLATES
from cnngraph_cpu.target import ISAS, available
from cnngraph_cpu.templates.conv_geometry import geometry
from cnngraph_cpu.templates.winograd_block_float_plan import largest_activation, round_weights
from tests.backends import template_cases
from tests.backends.template_cases import HALF_STEP, Case, Compiled, build, expected, feeds_of, plan, requests, run_compiled, run_emulated
from tests.backends.template_table import RELU, RESIDUAL

ISA = "avx512bf16"
TARGET = ISAS[ISA].target
POINTS = np.array([0, 2 / 3, -2 / 3, 3 / 2, -3 / 2])


def _conv(x: tuple[int, ...], m: int, pad: int = 1, epilogue: Expression | None = RELU, *, bias: bool = True, batch: int = 2) -> Case:
    rng = np.random.default_rng(sum(x) + m)
    op = Conv((3, 3), (1, 1), (pad,) * 4, (1, 1), 1, epilogue)
    weights = rng.standard_normal((m, x[0], 3, 3)).astype(np.float32)
    size = tuple(s + 2 * pad - 2 for s in x[1:])
    rest = ((BATCH, m, *size),) if epilogue is RESIDUAL else ()
    b = rng.standard_normal(m).astype(np.float32) if bias else None
    return Case("winograd_block_float", op, ((BATCH, *x), weights, b, *rest), batch=batch, half=True, tolerance=np.inf)


CASES = [
    _conv((32, 6, 9), 40, epilogue=RESIDUAL),
    _conv((50, 7, 5), 17),
    _conv((97, 3, 2), 70, bias=False),
    _conv((40, 9, 1), 5, pad=2),
    _conv((64, 8, 8), 16, pad=0, epilogue=None, batch=1),
]


def _transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B^T, G and A^T of F(4, 3) by Toom and Cook from the points and infinity, in float64."""
    b, g, a = np.zeros((6, 6)), np.zeros((6, 3)), np.zeros((4, 6))
    for i, point in enumerate(POINTS):
        others = np.delete(POINTS, i)
        b[i, :5] = np.poly(others)[::-1]
        g[i] = point ** np.arange(3) / np.prod(point - others)
        a[:, i] = point ** np.arange(4)
    b[5], g[5, 2], a[3, 5] = np.poly(POINTS)[::-1], 1, 1
    return b, g, a


def _tiles(x: np.ndarray, pad: int, out: tuple[int, int]) -> np.ndarray:
    """Tiles of 6 x 6 of the padded images: ``[image, row of tiles, column, channel, 6, 6]``."""
    rows, columns = (-(-n // 4) for n in out)
    whole = np.zeros((*x.shape[:2], 4 * rows + 2, 4 * columns + 2))
    whole[:, :, pad : pad + x.shape[2], pad : pad + x.shape[3]] = x
    tiles = [[whole[:, :, 4 * i : 4 * i + 6, 4 * j : 4 * j + 6] for j in range(columns)] for i in range(rows)]
    return np.array(tiles).transpose(2, 0, 1, 3, 4, 5)


def _bounds(case: Case, node: Node, x: np.ndarray) -> np.ndarray:
    """The largest error of a sum and its bias, before epilogue and rounding.

    Half a unit of an activation is ``top / limit / 2`` for ``top`` the largest magnitude of the tile, less where 3/2 and -3/2 are points.
    """
    b, g, a = _transforms()
    geo, weights = geometry(node), np.asarray(node.input(1).data, np.float64)
    v = b @ _tiles(x.astype(np.float64), case.op.pads[0], geo.out[1:]) @ b.T  # type: ignore[attr-defined]
    finer = np.where(np.abs(POINTS) > 1, 1.5, 1.0)
    finer = np.append(finer, 1.0)[:, None] * np.append(finer, 1.0)
    top = np.abs(v * finer).max(axis=(3, 4, 5), keepdims=True)
    half = top / largest_activation(geo) / 2 / finer + 1e-6 * top
    u = g @ weights @ g.T
    mass, most = np.abs(u).sum(axis=1, keepdims=True), np.abs(u).max(axis=1, keepdims=True)
    room = (2**31 - 1) / largest_activation(geo) - geo.channels / 2 - 1
    half_weight = np.maximum(mass / room, most / 32767) / 2 * np.ones_like(u)
    error = np.einsum("nyxcij,mcij->nyxmij", half, np.abs(u)) + np.einsum("nyxcij,mcij->nyxmij", np.abs(v) + half, half_weight)
    size = np.einsum("nyxcij,mcij->nyxmij", np.abs(v), np.abs(u))
    spread = np.abs(a) @ (error + 1e-6 * size) @ np.abs(a).T
    images, rows, columns, m = spread.shape[:4]
    return spread.transpose(0, 3, 1, 4, 2, 5).reshape(images, m, 4 * rows, 4 * columns)[:, :, : geo.out[1], : geo.out[2]]


def _check(case: Case, got: np.ndarray, spread: float = 1.0) -> None:
    """Within ``spread`` of the bound, and that of rounding to bfloat16; the epilogues here do not enlarge errors."""
    node = build(case)
    feeds = template_cases.feeds_of(case, node)
    want, bound = expected(case, node, feeds), spread * _bounds(case, node, feeds[node.input(0)])
    assert (np.abs(got - want) <= bound + HALF_STEP * (np.abs(want) + bound)).all()


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[np.ndarray], np.ndarray]], None]:
    """Replaces the random images by a function of them."""

    def give(change: Callable[[np.ndarray], np.ndarray]) -> None:
        def changed(case: Case, node: Node, seed: int = 0) -> dict[Value, np.ndarray]:
            feeds = feeds_of(case, node, seed)
            x = node.input(0)
            with np.errstate(over="ignore"):
                feeds[x] = change(feeds[x].astype(np.float64)).astype(x.type.dtype.numpy)
            return feeds

        monkeypatch.setattr(template_cases, "feeds_of", changed)

    return give


def _emulated(case: Case, threads: int = 3, isa: str = ISA) -> np.ndarray:
    (request,) = requests(case, isa)
    return run_emulated(case, isa, request, threads=threads)


@pytest.mark.parametrize("case", CASES, ids=lambda c: str(c.inputs[0]))
def test_results_are_within_the_bounds(case: Case) -> None:
    got = _emulated(case)
    _check(case, got)
    if case is CASES[0]:
        assert np.array_equal(got, _emulated(case, threads=1))
        with pytest.raises(AssertionError):
            _check(case, got + 0.02 * np.abs(got).max())
        for isa in ("avx2vnni", "sse4"):
            _check(case, _emulated(case, isa=isa))


def test_compiled_results_are_the_emulated_ones() -> None:
    if ISA not in available(special=True):
        pytest.skip(f"this machine has no {ISA}")
    cases = CASES[::2]
    kernels = Compiled([plan(case, ISA, requests(case, ISA)[0])[1] for case in cases], ISA)
    for case in cases:
        assert np.array_equal(run_compiled(case, requests(case, ISA)[0], ISA, kernels), _emulated(case))


def test_an_image_s_bits_depend_on_nothing_else(given: Callable[..., None]) -> None:
    """The same image behind another one of a thousand times its size, and alone."""
    case = dataclasses.replace(CASES[1], batch=3)
    given(lambda x: np.stack([x[0], 1000 * x[-1], x[0]]) if len(x) == 3 else x)
    got = _emulated(case)
    assert np.array_equal(got[0], got[2])
    given(lambda x: x)
    first = feeds_of(case, build(case))
    given(lambda x: next(iter(first.values()))[:1].astype(np.float64))
    assert np.array_equal(_emulated(dataclasses.replace(case, batch=1), threads=1)[0], got[0])


def test_less_is_lost_than_storing_the_result_loses(given: Callable[..., None]) -> None:
    """On what convolutions meet, numbers behind a ReLU: below a half of rounding's share, where F(2x2, 3x3) of pairs loses twice that."""
    case = _conv((64, 12, 12), 32, epilogue=None, bias=False, batch=1)
    given(lambda x: np.maximum(x, 0))
    node = build(case)
    want = expected(case, node, template_cases.feeds_of(case, node))
    rounding = (want.astype(DType.BF16.numpy).astype(np.float64) - want).std()
    assert rounding < (_emulated(case) - want).std() < np.hypot(1, 0.5) * rounding
    pairs = dataclasses.replace(case, template="winograd_pairs")
    assert (_emulated(pairs) - want).std() > 1.8 * rounding


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_not_finite_makes_its_tiles_nan_and_no_others(bad: float, given: Callable[..., None]) -> None:
    """Of numbers near the greatest float32 the transform is infinite, too."""
    case = dataclasses.replace(CASES[4], batch=2)
    clean = _emulated(case)

    def spoil(x: np.ndarray) -> np.ndarray:
        x[1, 37, 1, 4] = bad
        return x

    given(spoil)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template_cases, "compare", lambda *_: None)
        got = _emulated(case)
    spoilt = np.zeros(got.shape, bool)
    spoilt[1, :, :4] = True  # tiles of columns 0 to 5 and 4 to 9 and rows 0 to 5
    assert np.isnan(got[spoilt]).all() and np.array_equal(got[~spoilt], clean[~spoilt])


@pytest.mark.parametrize("scale", [1e30, 1e-25, 1e-36, 0])
def test_any_scale_of_numbers(scale: float, given: Callable[..., None]) -> None:
    """Units follow the numbers down to 1e-30; below, results are as good in absolute terms."""
    case = dataclasses.replace(CASES[4], inputs=(CASES[4].inputs[0], 1e-3 * np.asarray(CASES[4].inputs[1]), None))
    given(lambda x: scale * x)
    got = _emulated(case)
    if scale in (1e30, 1e-25):
        _check(case, got)
    else:
        assert np.abs(got).max() <= (1e-33 if scale else 0)


def test_a_spoilt_filter_spoils_its_channel_only() -> None:
    x, w, b = CASES[1].inputs[:3]
    weights = np.array(w)
    weights[3, 44, 1, 2] = np.nan
    weights[11, 0, 0, 0] = np.inf
    with pytest.MonkeyPatch.context() as patch, np.errstate(invalid="ignore"):
        patch.setattr(template_cases, "compare", lambda *_: None)
        got = _emulated(dataclasses.replace(CASES[1], inputs=(x, weights, b)))
    clean = _emulated(CASES[1])
    good = [k for k in range(17) if k not in (3, 11)]
    assert np.isnan(got[:, [3, 11]]).all() and np.array_equal(got[:, good], clean[:, good])


@pytest.mark.parametrize("channels", [32, 33, 128, 1000, 5000])
@pytest.mark.parametrize("kind", ["alike", "normal", "one", "heavy", "none"])
def test_no_sum_leaves_int32(channels: int, kind: str) -> None:
    rng = np.random.default_rng(channels)
    w = {
        "alike": np.ones((2, channels, 3, 3)),
        "normal": rng.standard_normal((2, channels, 3, 3)),
        "one": np.eye(channels)[:2, :, None, None] * np.ones((3, 3)),
        "heavy": rng.standard_cauchy((2, channels, 3, 3)) * 1e20,
        "none": np.zeros((2, channels, 3, 3)),
    }[kind].astype(np.float32)
    geo = geometry(build(_conv((channels, 4, 4), 2)))
    whole, units = round_weights(w, geo, 16)
    limit = largest_activation(geo)
    sums = np.abs(whole.astype(np.int64)).sum(axis=1) * limit
    assert limit < 1 << 15 and np.abs(whole.astype(np.int64)).max() < 1 << 15
    assert sums.max() < 1 << 31 and np.isfinite(units).all()
    if kind in ("alike", "normal"):
        assert sums.max() > 0.9 * min(1 << 31, 32767 * limit * channels), "bits are wasted"


def test_the_largest_sums_come_out(given: Callable[..., None]) -> None:
    """Channels all alike: every one adds the most that a unit admits, with one sign."""
    case = _conv((64, 4, 4), 16, pad=0, epilogue=None, bias=False, batch=1)
    case = dataclasses.replace(case, inputs=(case.inputs[0], np.full((16, 64, 3, 3), -1.5, np.float32), None))
    given(lambda x: 0 * x + 3)
    got = _emulated(case)
    _check(case, got)
    assert np.abs(got + 9 * 64 * 4.5).max() <= HALF_STEP * 9 * 64 * 4.5


def test_refusals() -> None:
    template = TEMPLATES["winograd_block_float"]
    cases = [
        (_conv((31, 4, 4), 16), ISA, "fewer input channels"),
        (_conv((15, 4, 4), 16), "avx2", "fewer input channels"),
        (dataclasses.replace(_conv((32, 4, 4), 16), half=False), ISA, "not a convolution in bfloat16"),
    ]
    for case, isa, reason in cases:
        assert reason in (template.accepts(build(case), ISAS[isa].target) or "")


def test_it_is_taken_where_weights_are_read_for_some_tiles() -> None:
    names = ("winograd_block_float", "winograd_pairs", "conv_pairs")
    chosen = {}
    for channels, size in ((64, 56), (128, 28), (256, 14), (512, 7), (512, 4)):
        node = build(_conv((channels, size, size), channels))
        chosen[size] = min(names, key=lambda name: TEMPLATES[name].cost(node, TARGET))
    taken = {size for size, name in chosen.items() if name == "winograd_block_float"}
    assert taken == {56, 28, 14}  # four tiles at 7x7 wait for 18.9 MB of weights, F(2x2) for 8.4
