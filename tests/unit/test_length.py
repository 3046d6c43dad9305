"""ADL against Eqs. 9-11 worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuspec import Settings
from diffuspec.method.length import AdaptiveDraftLength, FixedLength, make_policy

PAPER = dict(k_min=20, k_max=30, delta=10, rho=0.5)


def test_the_first_draft_is_the_longest():
    assert AdaptiveDraftLength(**PAPER).k == 30


def test_two_steps_by_hand():
    adl = AdaptiveDraftLength(k_min=2, k_max=12, delta=4, rho=0.25)
    first = adl.update(generated=8, accepted=2)
    # EMA_gen = 0.25 * 8 = 2, EMA_acc = 0.25 * 2 = 0.5: no growth, k' = 2
    assert (first.k, first.ema_gen, first.ema_acc, first.grew, first.wanted) == (12, 2.0, 0.5, False, 2.0)
    assert (first.next_k, first.decided) == (2, "EMA_gen")
    second = adl.update(generated=2, accepted=8)
    # EMA_gen = 0.75 * 2 + 0.25 * 2 = 2, EMA_acc = 0.75 * 0.5 + 0.25 * 8 = 2.375: growth, k' = 2 + 4
    assert (second.k, second.ema_gen, second.ema_acc, second.grew) == (2, 2.0, 2.375, True)
    assert (second.wanted, second.next_k, second.decided, adl.k) == (6.0, 6, "EMA_gen + δ", 6)


def test_the_papers_settings_fall_to_k_min_and_stay_even_at_95_percent():
    """Expected accepted tokens at 95 % a token: 15.6 of 30, 12.2 of 20. EMA_acc never meets EMA_gen."""
    adl, used = AdaptiveDraftLength(**PAPER), []
    for _ in range(30):
        used.append(adl.k)
        accepted = round(sum(0.95**i for i in range(1, adl.k + 1)))
        assert adl.update(generated=adl.k, accepted=accepted).next_k == adl.k
    assert used == [30] + [20] * 29


def test_the_papers_settings_grow_when_everything_is_accepted():
    adl = AdaptiveDraftLength(**PAPER)
    assert [adl.update(adl.k, adl.k).next_k for _ in range(3)] == [25, 30, 30]
    # 30 -> EMA 15, + 10 = 25; 25 -> EMA 20, + 10 = 30; 30 -> EMA 25, + 10 = 35, clipped


@pytest.mark.parametrize(("generated", "accepted", "next_k", "decided"), [
    (10, 0, 10, "EMA_gen"), (6, 6, 10, "EMA_gen + δ"), (2, 0, 5, "k_min"), (30, 30, 20, "k_max"), (0, 0, 5, "k_min"),
    (16, 16, 20, "EMA_gen + δ"), (5, 0, 5, "EMA_gen"), (25, 1, 20, "k_max"),
])  # fmt: skip
def test_the_decision_names_what_fixed_it(generated, accepted, next_k, decided):
    decision = AdaptiveDraftLength(k_min=5, k_max=20, delta=4, rho=1.0).update(generated, accepted)
    assert (decision.next_k, decision.decided) == (next_k, decided)


def test_halves_round_up():
    assert AdaptiveDraftLength(k_min=1, k_max=20, delta=0, rho=0.5).update(5, 0).next_k == 3
    assert AdaptiveDraftLength(k_min=1, k_max=20, delta=0, rho=0.5).update(9, 0).next_k == 5


@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 10), st.floats(0.05, 1.0),
       st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12))  # fmt: skip
def test_any_history_follows_the_equations(k_min, more, delta, rho, history):
    k_max = k_min + more
    adl, gen, acc = AdaptiveDraftLength(k_min, k_max, delta, rho), 0.0, 0.0
    for generated, accepted in history:
        used = adl.k
        decision = adl.update(generated, accepted)
        gen, acc = (1 - rho) * gen + rho * generated, (1 - rho) * acc + rho * accepted
        assert math.isclose(decision.ema_gen, gen, abs_tol=1e-9) and math.isclose(decision.ema_acc, acc, abs_tol=1e-9)
        assert (decision.k, decision.generated, decision.accepted) == (used, generated, accepted)
        if abs(acc - gen) > 1e-6:
            assert decision.grew == (acc > gen)
        wanted = gen + delta * decision.grew
        if abs(wanted % 1 - 0.5) > 1e-6:
            assert decision.next_k == adl.k == min(max(round(wanted), k_min), k_max)


def test_equal_averages_count_as_keeping_up():
    assert AdaptiveDraftLength(k_min=1, k_max=20, delta=3, rho=0.5).update(4, 4).grew


def test_a_fixed_length_stays_and_has_no_averages():
    policy = FixedLength(7)
    decision = policy.update(3, 2)
    assert (policy.k, decision.next_k, decision.decided) == (7, 7, "fixed")
    assert (decision.ema_gen, decision.ema_acc, decision.wanted, decision.grew) == (None, None, None, False)


def test_the_settings_choose_the_policy():
    assert make_policy(Settings(length="fixed", k=9)).k == 9
    adl = make_policy(Settings(k=9, k_min=2, k_max=11, delta=3, rho=0.25))
    assert (adl.k, adl.k_min, adl.k_max, adl.delta, adl.rho) == (11, 2, 11, 3, 0.25)
