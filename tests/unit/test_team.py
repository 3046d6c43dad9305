"""Whether a pass is given to all threads or to one: what is faster, learnt from passes alone."""

from __future__ import annotations

import random

import pytest

from diffuspec.models.int8.team import Choice, Team


def passes(choice: Choice, n: int, together: float, alone: float, noise: float = 0.0) -> tuple[float, float]:
    """Seconds of n passes, and the share of them that all threads took part in."""
    rng, total, all_threads = random.Random(n), 0.0, 0
    for _ in range(n):
        if now := choice.next():
            all_threads += 1
        seconds = (together if now else alone) * (1 + noise * rng.random())
        choice.took(now, seconds)
        total += seconds
    return total, all_threads / n


def test_on_an_idle_machine_trying_one_thread_costs_less_than_one_percent():
    choice = Choice()
    passes(choice, 500, 1.0, 1.8, 0.2)  # the first answers, in which tries are frequent
    seconds, _ = passes(choice, 20_000, 1.0, 1.8)
    assert seconds < 20_000 * 1.01


def test_beside_busy_neighbours_one_thread_goes_on_alone_and_all_return_afterwards():
    choice = Choice()
    passes(choice, 5_000, 1.0, 1.8)
    passes(choice, 100, 6.0, 2.7, 0.5)
    seconds, share = passes(choice, 5_000, 6.0, 2.7)
    assert seconds < 5_000 * 2.7 * 1.02 and share < 0.02
    passes(choice, 100, 1.0, 1.8)
    seconds, share = passes(choice, 5_000, 1.0, 1.8)
    assert seconds < 5_000 * 1.02 and share > 0.98


def test_one_slow_try_does_not_settle_it_for_good():
    choice = Choice()
    passes(choice, 200, 1.0, 0.7)
    assert not choice.together


@pytest.mark.parametrize("rows, others", [(1, (2, 8)), (2, (1, 4)), (8, (7, 16)), (12, (4, 16))])
def test_passes_of_unlike_size_learn_apart(rows, others):
    team = Team()
    passes(team.choice(rows), 200, 2.0, 1.0)
    assert not team.choice(rows).together
    assert all(team.choice(n).together for n in others)
