"""Cases that the fuzzer found, in the smallest form."""

from __future__ import annotations

import numpy as np
import pytest

from tests.frontend.against_onnxruntime import compare, ours, single_node

I64 = np.int64


def test_shifting_64_unsigned_bits_is_exact() -> None:
    x = np.array([11749869230777074271], np.uint64)
    for direction in ("LEFT", "RIGHT"):
        compare("BitShift", [x, np.array([2, 3, 63], np.uint64)], direction=direction)


@pytest.mark.parametrize("known", [True, False])
def test_a_backward_slice_that_starts_before_the_axis_takes_its_first_element(known: bool) -> None:
    x = np.array([5, 6, 7], I64)
    indices = [np.array([v], I64) for v in (-9, -(2**31), 0, -1)]
    compare("Slice", [x, *indices], constants=range(5) if known else range(1, 5))


@pytest.mark.parametrize("op", ["Sub", "ReduceSum"])
def test_integers_of_constants_wrap(op: str) -> None:
    x = np.array([3, 2**32 - 1], np.uint32)
    inputs = [x, x[::-1].copy()] if op == "Sub" else [x]
    (y,) = ours(single_node(op, inputs, 1, 12, constants=range(2)), [])
    np.testing.assert_array_equal(y, x - x[::-1] if op == "Sub" else x.sum(keepdims=True, dtype=np.uint32))


@pytest.mark.parametrize("count", [1, 2])
def test_a_free_batch_beside_operands_of_fixed_extents(count: int) -> None:
    """The batch must then have that extent, which is no contradiction."""
    x = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    with pytest.raises(Exception, match="batch"):
        ours(single_node("ScatterElements", [x, np.zeros((count, 1), I64), x[:, :1]], 1, 17, constants=(1,), batch=(0, 2)), [])


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_the_last_partial_window_may_be_the_only_one(op: str) -> None:
    x = np.arange(20, dtype=np.float32).reshape(1, 2, 5, 2)
    compare(op, [x], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, opset=19)
