"""Seeded weights that are the same bits on every machine, and the statistics that keep activations of order one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_CHUNK = 1 << 18


class UniformSource:
    """Uniform float32 numbers from the raw stream of a Philox generator.

    NumPy promises the raw stream of a bit generator for ever, but not the stream of ``Generator.standard_normal``; the numbers here
    are 24 bits of the raw stream and one exact scaling, so a seed gives the same bytes with every NumPy and on every machine.

    Args:
        seed: non-negative seed of the generator.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.Philox(seed)

    def uniform(self, count: int, low: float, high: float) -> np.ndarray:
        """Return ``count`` float32 numbers in [low, high]."""
        out = np.empty(count, np.float32)
        scale = np.float32((high - low) / (1 << 24))
        start = np.float32(low)
        for begin in range(0, count, _CHUNK):
            size = min(_CHUNK, count - begin)
            raw = self._bits.random_raw((size + 1) // 2).astype("<u8", copy=False).view("<u4")[:size]
            part = out[begin : begin + size]
            part[:] = raw >> np.uint32(8)
            part *= scale
            part += start
        return out

    def spread(self, count: int, deviation: float) -> np.ndarray:
        """Return ``count`` float32 numbers, uniform about zero with the given standard deviation."""
        limit = math.sqrt(3.0) * deviation
        return self.uniform(count, -limit, limit)


@dataclass(frozen=True)
class Moments:
    """Estimated mean and variance of the elements of a tensor, for inputs in the range the network is made for."""

    mean: float = 0.0
    variance: float = 1.0

    @property
    def second(self) -> float:
        """The second moment, mean^2 + variance."""
        return self.mean * self.mean + self.variance

    def scaled(self, factor: float) -> Moments:
        """The moments of ``factor * x``."""
        return Moments(self.mean * factor, self.variance * factor * factor)

    def plus(self, other: Moments) -> Moments:
        """The moments of the sum of two independent tensors."""
        return Moments(self.mean + other.mean, self.variance + other.variance)

    def rectified(self) -> Moments:
        """The moments of max(x, 0) for a normal x (the rectified normal distribution)."""
        deviation = math.sqrt(self.variance)
        ratio = self.mean / deviation
        below = 0.5 * (1.0 + math.erf(ratio / math.sqrt(2.0)))
        density = math.exp(-0.5 * ratio * ratio) / math.sqrt(2.0 * math.pi)
        mean = self.mean * below + deviation * density
        second = (self.mean * self.mean + self.variance) * below + self.mean * deviation * density
        return Moments(mean, max(second - mean * mean, 1e-6))

    def through(self, function: Callable[[float], float]) -> Moments:
        """The moments of ``function(x)`` for a normal x, by a sum over five deviations to each side."""
        deviation = math.sqrt(self.variance)
        places = [step / 8 for step in range(-40, 41)]
        chances = [math.exp(-0.5 * place * place) for place in places]
        values = [function(self.mean + deviation * place) for place in places]
        total = sum(chances)
        mean = sum(chance * value for chance, value in zip(chances, values, strict=True)) / total
        second = sum(chance * value * value for chance, value in zip(chances, values, strict=True)) / total
        return Moments(mean, max(second - mean * mean, 1e-6))


def weight_deviation(fan_in: int, source: Moments) -> float:
    """Standard deviation of the weights that gives a sum over ``fan_in`` inputs unit variance (He et al. 2015, measured moments)."""
    return float(f"{1.0 / math.sqrt(fan_in * source.second):.3g}")
