"""ADL against Eqs. 9-11 worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuspec import Settings
from diffuspec.method.length import (
    AdaptiveDraftLength,
    ConfidentLength,
    FixedLength,
    StepCost,
    ThroughputLength,
    make_policy,
)

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


@pytest.mark.parametrize(
    ("generated", "accepted", "next_k", "decided"),
    [
        (10, 0, 10, "EMA_gen"),
        (6, 6, 10, "EMA_gen + δ"),
        (2, 0, 5, "k_min"),
        (30, 30, 20, "k_max"),
        (0, 0, 5, "k_min"),
        (16, 16, 20, "EMA_gen + δ"),
        (5, 0, 5, "EMA_gen"),
        (25, 1, 20, "k_max"),
    ],
)
def test_the_decision_names_what_fixed_it(generated, accepted, next_k, decided):
    decision = AdaptiveDraftLength(k_min=5, k_max=20, delta=4, rho=1.0).update(generated, accepted)
    assert (decision.next_k, decision.decided) == (next_k, decided)


def test_halves_round_up():
    assert AdaptiveDraftLength(k_min=1, k_max=20, delta=0, rho=0.5).update(5, 0).next_k == 3
    assert AdaptiveDraftLength(k_min=1, k_max=20, delta=0, rho=0.5).update(9, 0).next_k == 5


@given(
    st.integers(1, 30),
    st.integers(0, 30),
    st.integers(0, 10),
    st.floats(0.05, 1.0),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12),
)
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


def test_a_confident_draft_keeps_the_columns_above_the_threshold():
    policy = ConfidentLength(k_min=1, k_max=6, threshold=0.25)
    halves = [math.log(0.5)] * 6  # 0.5, 0.25, 0.125, ...
    assert policy.columns([math.log(0.9), math.log(0.5), math.log(0.5), math.log(0.9)]) == 2
    decision = policy.update(generated=2, accepted=1)
    assert (decision.k, decision.wanted, decision.decided, decision.next_k) == (2, 2.0, "confidence", 6)
    assert policy.columns([value + 1e-9 for value in halves]) == 2
    assert policy.columns([0.0] * 6) == 6 and policy.update(6, 6).decided == "k_max"
    assert policy.columns([math.log(0.1)] * 6) == 1 and policy.update(1, 0).decided == "k_min"
    assert policy.columns([]) == 0


@given(st.lists(st.floats(-3, 0), max_size=12), st.integers(1, 12), st.floats(0.001, 1.0))
def test_what_a_confident_draft_keeps_follows_the_definition(best, k_min, threshold):
    kept = ConfidentLength(k_min, 12, threshold).columns(best)
    sure = 0
    while sure < len(best) and math.exp(sum(best[: sure + 1])) >= threshold * (1 - 1e-9):
        sure += 1
    if all(abs(math.exp(sum(best[:n])) - threshold) > 1e-6 for n in range(1, len(best) + 1)):
        assert kept == min(max(sure, k_min), len(best))


COST = StepCost(draft=((1, 8.0), (17, 16.0)), verify=((1, 30.0), (11, 50.0)))


def test_costs_are_straight_lines():
    assert COST.draft_ms(0) == 0.0 and COST.draft_ms(5) == pytest.approx(10.0)
    assert COST.verify_ms(21).tolist() == pytest.approx([28.0 + 2 * n for n in range(1, 22)])


def test_a_row_never_costs_less_than_the_one_before_it():
    bent = StepCost(draft=((1, 1.0),), verify=((1, 5.0), (2, 7.0), (4, 7.0), (8, 15.0), (12, 19.0)))
    ms = bent.verify_ms(16)
    assert ms[[0, 3]].tolist() == [5.0, 7.0] and (np.diff(ms, 2) > -1e-9).all()
    assert all(ms[n - 1] <= cost + 1e-9 for n, cost in bent.verify) and ms[15] == pytest.approx(23.0)
    assert StepCost(draft=((1, 1.0),), verify=((1, 5.0),)).verify_ms(3).tolist() == [5.0] * 3


@given(st.lists(st.floats(0.001, 1.0), max_size=20), st.integers(0, 8))
def test_a_budget_takes_the_nodes_that_promise_most(chances, drafted):
    chances.sort(reverse=True)
    policy = ThroughputLength(1, 8, COST)
    policy.columns([0.0] * drafted)
    budget = policy.tree_budget()
    for p in chances:
        if p <= budget.least:
            break
        budget.take(p)
    ms = COST.draft_ms(drafted) + 28
    rates = [(1 + sum(chances[:n])) / (ms + 2 * (n + 1)) for n in range(len(chances) + 1)]
    assert rates[budget.nodes] == pytest.approx(max(rates))


def drafts(share: float, steps: int = 300) -> list[int]:
    """k of every step of a run in which this share of drafts is accepted whole and the others not at all."""
    policy, used = ThroughputLength(1, 8, COST), []
    for step in range(steps):
        used.append(policy.k)
        policy.columns([0.0] * policy.k)
        policy.update(policy.k, policy.k if (step * 37) % 100 < 100 * share else 0)
    return used


def test_the_length_follows_what_is_accepted():
    """At 99 % all eight tokens are worth their rows; at 3 % no draft is, though one is tried now and then."""
    assert drafts(0.99)[20:] == [8] * 280
    hardly = drafts(0.03)[50:]
    assert hardly.count(0) > 0.6 * len(hardly) and any(hardly)


def undrafted(*chances):
    """A tree of nodes that are reached with these probabilities, of which those are taken that pay."""

    def grow(budget):
        for p in chances:
            if p > budget.least:
                budget.take(p)

    return grow


def test_a_step_that_promises_enough_for_nothing_needs_no_draft():
    policy = ThroughputLength(1, 8, COST)
    policy.columns([0.0] * 8)
    assert policy.update(8, 2, undrafted(0.1)).next_k > 0
    decision = policy.update(8, 2, undrafted(*(0.95**i for i in range(1, 12))))
    assert (decision.next_k, policy.k, decision.decided) == (0, 0, "no draft")
    # 1 + sum of 0.95^i over the n nodes that pay, in 28 + 2 (n + 1) ms
    best = max((1 + sum(0.95**i for i in range(1, n + 1))) / (30 + 2 * n) for n in range(12))
    assert decision.rate == pytest.approx(1e3 * best)


def test_what_a_step_spends_beside_its_passes_is_counted():
    """20 ms of searching and writing down make a row cheap beside them: of a long copy more is taken."""
    chances, rates = [0.9**i for i in range(1, 12)], []
    for other in (0.0, 20.0):
        policy = ThroughputLength(1, 8, COST)
        policy.took(other)
        policy.columns([0.0] * 8)
        decision = policy.update(8, 2, undrafted(*chances))
        best = max((1 + sum(chances[:n])) / (30 + 2 * n + other) for n in range(12))
        assert decision.rate == pytest.approx(1e3 * best)
        budget = policy.tree_budget()
        assert budget.ms == pytest.approx(COST.draft_ms(8) + 30 + other)
        rates.append(budget.least)
    assert rates[1] < rates[0]


def test_the_length_promises_the_best_rate_of_its_own_estimates():
    policy = ThroughputLength(1, 8, COST)
    for step in range(60):
        policy.columns([0.0] * policy.k)
        decision = policy.update(policy.k, (step * 7) % 4)
    # Accepted 0, 1, 2, 3 tokens equally often: A = 3/4, 1/2, 1/4, 0, so that k = 3 promises
    # 2.5 tokens in 9 + 36 ms, more than 2.25 in 8.5 + 34 or 2.5 in 9.5 + 38.
    assert policy.k in (2, 3, 4) and decision.rate == pytest.approx(1e3 * 2.5 / 45, rel=0.12)


def test_the_settings_choose_the_other_policies():
    sure = make_policy(Settings(length="confidence", k_min=2, k_max=9, confidence=0.2))
    assert (sure.k, sure.k_min, sure.threshold) == (9, 2, 0.2)
    fast = make_policy(Settings(length="throughput", k_min=2, k_max=9), COST)
    assert (fast.k, fast.k_min, fast.cost) == (9, 2, COST)
