"""Intervals over questions: as wide as they have to be, paired, and silent where there is nothing to say."""

from statistics import NormalDist

import numpy as np
import pytest

from diffuspec.measure.results import AGAIN, Measured, cautions, speedup, summarise
from diffuspec.measure.statistics import _tail, estimate, ratio


def answered(variant, question, seconds, category="mt", steps=10, tokens=20):
    return Measured(variant, question, category, tokens, seconds, steps, tokens - steps, 0, 0, 0, 0, 0, (), (), ())


def test_the_middle_95_percent_hold_the_truth_95_times_in_100():
    """Eight questions of uneven length: plain percentiles hold it 88 times."""
    random, held = np.random.default_rng(3), 0
    for seed in range(600):
        plain = random.gamma(4, 25, 8)
        fast = plain * 1.5 * random.lognormal(0, 0.2, 8)
        found = ratio(fast, plain, seed=seed)
        held += found.low <= 1.5 * np.exp(0.02) <= found.high
    assert 0.925 <= held / 600 <= 0.985


def test_a_against_a_stays_within_its_interval():
    """Two measurements of one method: noise of 5 % a question; in 19 of 20 repetitions 1 is within."""
    random = np.random.default_rng(5)
    within = sum(
        ratio(*(base * random.normal(1, 0.05, 12) for _ in range(2)), seed=seed).holds(1.0)
        for seed in range(400)
        for base in [random.gamma(4, 25, 12)]
    )
    assert within / 400 >= 0.93


def test_questions_keep_their_methods_together():
    plain = np.array([10.0, 100.0, 1000.0, 20.0, 50.0, 7.0])
    found = ratio(2 * plain, plain)
    assert found.value == found.low == found.high == 2
    assert str(found) == "2.00 (2.00 to 2.00)"


def test_too_few_questions_have_no_interval():
    found = ratio([2, 2, 2, 2], [1, 1, 1, 1])
    assert (found.value, found.low, found.high, found.questions) == (2, None, None, 4)
    assert found.holds(17) and str(found) == "2.00"
    assert np.isnan(estimate(np.zeros((6, 2)), lambda sums: sums[:, 0] / sums[:, 1]).value)


@pytest.mark.parametrize("n, t", [(5, 2.776), (10, 2.262), (30, 2.045)])
def test_tails_are_those_of_student(n, t):
    assert _tail(n, 0.95) == pytest.approx(NormalDist().cdf(-np.sqrt(n / (n - 1)) * t), rel=0.01)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).random((9, 2))
    first, second, other = (estimate(values, lambda s: s[:, 0] / s[:, 1], seed=seed) for seed in (1, 1, 2))
    assert first == second != other


def test_rows_of_a_table_have_intervals_where_they_can():
    results = [
        answered(variant, f"{family}{i}", seconds * (1 + i / 20) * (1 + noise * (i % 3)), family)
        for family, count in (("mt", 6), ("qa", 2))
        for i in range(count)
        for variant, seconds, noise in (("ar", 1.0, 0.0), ("x", 0.5, 0.1))
    ]
    rows = {(row["method"], row["category"]): row for row in summarise(results)}
    mean = rows["x", "mean"]
    assert mean["speedup_low"] < mean["speedup"] < mean["speedup_high"]
    assert mean["accepted_per_step_low"] == mean["accepted_per_step"] == mean["accepted_per_step_high"] == 1
    assert rows["x", "mt"]["speedup_low"] is not None and rows["x", "qa"]["speedup_low"] is None
    assert rows["ar", "mean"]["speedup_low"] == rows["ar", "mean"]["speedup_high"] == 1
    assert speedup(results, "x", "ar").value == mean["speedup"]


def test_what_a_sample_cannot_carry_is_said():
    random = np.random.default_rng(1)

    def sample(n, **speeds):
        return [
            answered(variant.replace("_", "-"), str(i), random.normal(1, 0.02) / speed)
            for i in range(n)
            for variant, speed in {"ar": 1.0, **speeds}.items()
        ]

    assert cautions(sample(3, fast=2.0)) == "3 questions carry no interval: ask 5 at least."
    assert cautions(sample(12, fast=2.0, slow=0.5)) == ""
    assert cautions(sample(12)) == "" == cautions([])
    said = cautions(sample(12, same=1.0, fast=2.0))
    assert said == "12 questions cannot tell same from plain AR."
    tie = [
        answered(variant, str(i), seconds * (1 + wobble * (-1) ** i))
        for i in range(10)
        for variant, seconds, wobble in (("ar", 1.0, 0.0), ("a", 0.5, 0.1), ("b", 0.51, -0.1))
    ]
    assert cautions(tie) == "10 questions cannot tell a, the fastest, from b."
    said = cautions(sample(12, **{AGAIN.replace("-", "_"): 1.0, "fast": 2.0}))
    assert said.startswith("Plain AR against itself: ") and said.endswith("is noise.")
