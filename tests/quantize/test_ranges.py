"""From observed numbers to scales and zero points."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.quantize.ranges import Observer, parameters, share


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 6.0), (-2.5, 0.0), (0.5, 3.0), (-4.0, -1.0), (-1e-3, 1e3)])
def test_zero_is_exact_and_the_range_is_covered(low: float, high: float) -> None:
    found = parameters(low, high)
    assert 0 <= found.zero_point <= 255
    assert found.low <= min(low, 0) + found.scale / 2 and found.high >= max(high, 0) - found.scale / 2
    assert found.high - found.low == pytest.approx(max(high, 0) - min(low, 0), rel=1e-5)


def test_a_tensor_of_zeros_gets_scale_one() -> None:
    assert parameters(0.0, 0.0) == parameters(1e-45, 0.0)
    assert (parameters(0.0, 0.0).scale, parameters(0.0, 0.0).zero_point) == (1, 0)


def observed(*arrays: np.ndarray) -> Observer:
    observer = Observer()
    for array in arrays:
        observer.extend(array)
    for array in arrays:
        observer.count(array)
    return observer


def test_min_max_spans_all_batches() -> None:
    assert observed(np.array([1.0, -2.0]), np.array([5.0, 0.0])).range("minmax", 99) == (-2.0, 5.0)


def test_percentile_cuts_both_ends() -> None:
    numbers = np.linspace(-1, 3, 100_001)
    low, high = observed(numbers).range("percentile", 90.0)
    assert (low, high) == pytest.approx((-0.8, 2.8), abs=0.01)
    assert observed(numbers).range("percentile", 100.0) == pytest.approx((-1, 3))


@pytest.mark.parametrize("signed", [False, True])
def test_entropy_cuts_rare_outliers_but_not_a_full_range(signed: bool) -> None:
    rng = np.random.default_rng(0)
    dense = rng.standard_normal(200_000) if signed else np.abs(rng.standard_normal(200_000))
    low, high = observed(np.append(dense, 100.0)).range("entropy", 99)
    assert 2.5 < high < 60
    assert -6 < low < -2.5 if signed else low == pytest.approx(float(dense.min()))
    even = rng.uniform(-1 if signed else 0, 1, 200_000)
    assert observed(even).range("entropy", 99)[1] > 0.95


def test_numbers_that_are_not_finite_are_left_out() -> None:
    found = observed(np.array([1.0, np.inf, np.nan, -1.0]))
    for method in ("minmax", "percentile", "entropy"):
        assert found.range(method, 100.0) == pytest.approx((-1.0, 1.0))
    assert observed(np.zeros((0, 3))).range("minmax", 99) == (0.0, 0.0)
    assert observed(np.array([np.nan])).range("entropy", 99) == (0.0, 0.0)


def test_movement_keeps_its_inputs_range() -> None:
    found = share({"a": (-1.0, 4.0), "b": (0.0, 3.0), "c": (0.0, 2.0)}, [("a", "b"), ("b", "c")], [])
    assert found == dict.fromkeys("abc", (-1.0, 4.0))


def test_operands_of_a_concatenation_share_a_range_if_none_loses_more_than_a_bit() -> None:
    near = share({"a": (0.0, 4.0), "b": (0.0, 2.5), "y": (0.0, 4.0)}, [], [("y", "a", "b")])
    assert near == dict.fromkeys("aby", (0.0, 4.0))
    far = share({"a": (0.0, 4.0), "b": (0.0, 0.5), "y": (0.0, 4.0)}, [], [("y", "a", "b")])
    assert far["b"] == (0.0, 0.5)
