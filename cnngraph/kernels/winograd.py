"""The transform of filters for Winograd convolution F(MxM, 3x3), done when a network is compiled (Lavin and Gray, arXiv:1509.09308)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def transform_filters(taps: np.ndarray, rule: Sequence[Sequence[float]]) -> Iterator[np.ndarray]:
    """G g G^T of filters g, in float64: one array ``[...]`` for each pair of rows of G, row by row.

    The sums are written out, because a matrix product's bits depend on the machine.

    Args:
        taps: the filters ``[3, 3, ...]``, rows and columns first.
        rule: G, with M + 2 rows of 3 numbers.
    """
    wide = taps.astype(np.float64)
    for line in rule:
        row = [_weighted(line, [wide[i, j] for i in range(3)]) for j in range(3)]
        for across in rule:
            yield _weighted(across, row)


def _weighted(factors: Sequence[float], arrays: Sequence[np.ndarray]) -> np.ndarray:
    total = np.zeros_like(arrays[0])
    for factor, array in zip(factors, arrays, strict=True):
        if factor:
            total = total + factor * array
    return total
