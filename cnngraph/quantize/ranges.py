"""From observed numbers to a scale and a zero point: min-max, percentile and entropy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METHODS = ("minmax", "percentile", "entropy")
BINS = 4096
_LEVELS = 128
_STEP = 32
_LARGEST_CONCAT_RATIO = 2.0


@dataclass(frozen=True)
class Parameters:
    """``scale * (q - zero_point)`` with q from 0 to 255.

    Attributes:
        low, high: the real numbers that the ends stand for.
    """

    scale: np.float32
    zero_point: int

    @property
    def low(self) -> float:
        """What 0 stands for."""
        return -float(self.scale) * self.zero_point

    @property
    def high(self) -> float:
        """What 255 stands for."""
        return float(self.scale) * (255 - self.zero_point)


def parameters(low: float, high: float) -> Parameters:
    """uint8 parameters for numbers from ``low`` to ``high``; 0 is always among them and exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255)
    if not scale > np.finfo(np.float32).tiny:
        return Parameters(np.float32(1), 0)
    return Parameters(scale, int(np.clip(np.rint(-low / float(scale)), 0, 255)))


class Observer:
    """Smallest and largest number of a tensor and, in a second pass over the data, a histogram between them."""

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")
        self.counts = np.zeros(BINS, np.int64)

    def extend(self, array: np.ndarray) -> None:
        """First pass. Numbers that are not finite are left out."""
        if not array.size:
            return
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            array = array[np.isfinite(array)]
            low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
        self.low, self.high = min(self.low, low), max(self.high, high)

    def count(self, array: np.ndarray) -> None:
        """Second pass."""
        if self.high > self.low:
            flat = array.reshape(-1)
            with np.errstate(invalid="ignore"):
                places = (flat.astype(np.float64) - self.low) * (BINS / (self.high - self.low))
            places = places[np.isfinite(places)]
            self.counts += np.bincount(np.clip(places.astype(np.int64), 0, BINS - 1), minlength=BINS)

    def range(self, method: str, percentile: float) -> tuple[float, float]:
        """The numbers to represent: everything seen, all but a few at each end, or where the distribution loses least."""
        if not self.low <= self.high:
            return 0.0, 0.0
        if method == "minmax" or not self.counts.any():
            return self.low, self.high
        return self._percentile(percentile) if method == "percentile" else self._entropy()

    def _edges(self) -> np.ndarray:
        return np.linspace(self.low, self.high, BINS + 1)

    def _percentile(self, percentile: float) -> tuple[float, float]:
        """The ends between which ``percentile`` percent of the numbers lie, the rest split evenly."""
        share = np.cumsum(self.counts) / self.counts.sum()
        rest = (1 - percentile / 100) / 2
        edges = self._edges()
        first, last = int(np.searchsorted(share, rest, "right")), int(np.searchsorted(share, 1 - rest, "left"))
        return float(edges[min(first, BINS - 1)]), float(edges[min(last, BINS - 1) + 1])

    def _entropy(self) -> tuple[float, float]:
        """The bound on the magnitude at which the 8-bit distribution diverges least from the observed one."""
        edges = self._edges()
        centres = np.abs((edges[:-1] + edges[1:]) / 2)
        bound = max(-self.low, self.high)
        places = np.minimum((centres * (BINS / bound)).astype(np.int64), BINS - 1)
        counts = np.bincount(places, self.counts, BINS)
        signed = self.low < 0 < self.high
        levels = _LEVELS if signed else 2 * _LEVELS
        ends = np.arange(levels, BINS + 1, _STEP)
        divergences = [_divergence(counts, int(end), levels) for end in ends]
        limit = bound * float(ends[int(np.argmin(divergences))]) / BINS
        return max(self.low, -limit), min(self.high, limit)


def _divergence(counts: np.ndarray, end: int, levels: int) -> float:
    """Kullback-Leibler divergence of the first ``end`` bins in ``levels`` steps from the distribution clipped there."""
    kept = counts[:end]
    clipped = kept.copy()
    clipped[-1] += counts[end:].sum()
    starts = (np.arange(levels) * end) // levels
    sums = np.add.reduceat(kept, starts)
    filled = np.add.reduceat((kept > 0).astype(np.float64), starts)
    steps = np.diff(np.append(starts, end))
    mean = np.divide(sums, filled, out=np.zeros(levels), where=filled > 0)
    coarse = np.repeat(mean, steps) * (kept > 0)
    p, q = clipped / clipped.sum(), coarse / max(coarse.sum(), 1e-30)
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-12))))


def share(
    ranges: dict[str, tuple[float, float]], groups: list[tuple[str, str]], joined: list[tuple[str, ...]]
) -> dict[str, tuple[float, float]]:
    """Ranges after tensors that must have one scale got one.

    Movement keeps the range of what it moves. The operands of a concatenation get that of its result where that costs none of them
    more than a bit, because then nothing has to be converted.
    """
    parents = {name: name for name in ranges}

    def root(name: str) -> str:
        while parents[name] != name:
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    merged = dict(ranges)

    def unite(a: str, b: str) -> None:
        first, second = root(a), root(b)
        if first != second:
            parents[second] = first
            merged[first] = _hull(merged[first], merged[second])

    for source, result in groups:
        first, second = root(source), root(result)
        if first != second:
            low, high = merged[first]
            parents[second] = first
            merged[first] = low, high
    for names in joined:
        spans = [_span(merged[root(name)]) for name in names[1:]]
        whole = _hull(*(merged[root(name)] for name in names[1:]))
        if min(spans) * _LARGEST_CONCAT_RATIO >= _span(whole):
            for name in names:
                unite(names[0], name)
    return {name: merged[root(name)] for name in ranges}


def _hull(*ranges: tuple[float, float]) -> tuple[float, float]:
    return min(r[0] for r in ranges), max(r[1] for r in ranges)


def _span(range_: tuple[float, float]) -> float:
    return max(range_[1], 0.0) - min(range_[0], 0.0)
