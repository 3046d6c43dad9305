"""What a sample of questions can carry: bootstrap intervals over questions, paired, and words of caution.

Questions are what was sampled: a statistic is computed again on 4,000 samples of as many questions, drawn from those
asked with replacement (Efron 1979). A question brings all its methods along, so that what is hard for all of them
leaves their ratio alone. Of the values so found the interval takes the middle 95 %, its tails widened for small
samples as Student's t is against the normal (Hesterberg, *What Teachers Should Know about the Bootstrap*, 2015,
section 5.3): plain percentiles are too narrow below some thirty questions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

DRAWS, SEED, LEVEL = 4000, 0, 0.95
FEWEST = 5  # questions that have an interval at all


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval; low, high: None where fewer than `FEWEST` questions were asked."""

    value: float
    low: float | None
    high: float | None
    questions: int

    def holds(self, value: float) -> bool:
        """Whether the interval holds `value`, or there is none to tell."""
        return self.low is None or self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.value:.2f}" + ("" if self.low is None else f" ({self.low:.2f} to {self.high:.2f})")


def estimate(
    values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], *, level: float = LEVEL, seed: int = SEED
) -> Estimate:
    """`statistic` of the sums of `values` over questions, with its interval.

    values: float [questions, c]; statistic: sums [draws, c] -> [draws], NaN where a draw does not define it.
    """
    values = np.asarray(values, float)
    n = len(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(statistic(values.sum(0, keepdims=True))[0])
        if n < FEWEST:
            return Estimate(value, None, None, n)
        found = statistic(_draws(n, seed) @ values)
    found = found[np.isfinite(found)]
    if not len(found):
        return Estimate(value, None, None, n)
    tail = _tail(n, level)
    low, high = np.quantile(found, (tail, 1 - tail))
    return Estimate(value, float(low), float(high), n)


@functools.lru_cache(16)
def _draws(n: int, seed: int) -> np.ndarray:
    """How often each of n questions is in each sample, float [draws, n]."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(float)


def _tail(n: int, level: float) -> float:
    """The share of the bootstrap's values left out on each side."""
    normal, df = NormalDist(), n - 1
    z = normal.inv_cdf((1 + level) / 2)
    # Student's t by its expansion around the normal (Abramowitz and Stegun 26.7.5): to a thousandth from 4 degrees on.
    t = z + sum(
        sum(c * z**p for c, p in zip(terms, range(2 * i + 1, 0, -2), strict=True)) / (of * df**i)
        for i, (terms, of) in enumerate(
            (((1, 1), 4), ((5, 16, 3), 96), ((3, 19, 17, -15), 384), ((79, 776, 1482, -1920, -945), 92160)), 1
        )
    )
    return normal.cdf(-math.sqrt(n / df) * t)


def ratio(over: Sequence[float], under: Sequence[float], **options) -> Estimate:
    """Sum of `over` by sum of `under`, both a value a question: of speeds the ratio of their means."""
    return estimate(np.column_stack([over, under]), lambda sums: sums[:, 0] / sums[:, 1], **options)
