"""Eq. 7 and its neighbours against the plainest possible code."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffuspec.method.acceptance import verify
from diffuspec.method.lattice import generated_length, prune
from diffuspec.method.search import argmax_path, oracle_accepted


@st.composite
def columns(draw, max_k=6, max_width=8, vocab=12):
    """Ranked candidates ids, logq [k, W]: distinct ids a column, descending log q, masses of at most one."""
    k, width = draw(st.integers(1, max_k)), draw(st.integers(1, max_width))
    ids = [draw(st.permutations(range(vocab)))[:width] for _ in range(k)]
    logq = []
    for _ in range(k):
        weights = draw(st.lists(st.integers(1, 1000), min_size=width, max_size=width))
        rest = draw(st.integers(0, 1000))
        logq.append([math.log(w / (sum(weights) + rest)) for w in sorted(weights, reverse=True)])
    return np.array(ids, np.int32), np.array(logq, np.float32)


stops = st.frozensets(st.integers(0, 11), max_size=3)


@given(columns(), st.floats(0.05, 1.0), st.integers(1, 10), stops)
def test_pruning_is_equation_7(column, tau, m_max, stop_ids):
    ids, logq = column
    lattice = prune(ids, logq, tau=tau, m_max=m_max, stop_ids=stop_ids)
    for i in range(lattice.k):
        mass = [math.exp(float(x)) for x in logq[i]]
        sums = [math.fsum(mass[:m]) for m in range(1, len(mass) + 1)]
        if any(abs(s - tau) < 1e-6 for s in sums):
            continue  # a matter of rounding
        m = next((m for m, s in enumerate(sums, 1) if s >= tau), len(mass))
        expected = {rank for rank in range(len(mass)) if rank < m or int(ids[i, rank]) in stop_ids}
        expected = {rank for rank in expected if rank < m_max}
        assert set(np.flatnonzero(lattice.kept[i]).tolist()) == expected


@given(columns(), st.floats(0.05, 1.0), st.integers(1, 10), stops)
def test_every_column_keeps_its_best_and_at_most_m_max(column, tau, m_max, stop_ids):
    lattice = prune(*column, tau=tau, m_max=m_max, stop_ids=stop_ids)
    assert lattice.kept[:, 0].all()
    assert lattice.kept.sum(1).max() <= m_max
    assert np.array_equal(lattice.ids, column[0]) and np.array_equal(lattice.logq, column[1])


def test_the_smallest_sufficient_top_is_kept():
    logq = np.log(np.array([[0.5, 0.25, 0.25]]))
    ids = np.array([[4, 5, 6]])
    for tau, m in ((0.49, 1), (0.51, 2), (0.74, 2), (0.76, 3), (1.0, 3)):
        assert prune(ids, logq, tau=tau, m_max=3, stop_ids=()).kept.sum() == m


def test_a_stop_token_survives_only_within_the_top_m_max():
    logq = np.log(np.array([[0.9, 0.05, 0.03, 0.02]]))
    ids = np.array([[4, 5, 6, 7]])
    for stop, m_max, kept in ((7, 4, [1, 0, 0, 1]), (7, 3, [1, 0, 0, 0]), (6, 3, [1, 0, 1, 0])):
        lattice = prune(ids, logq, tau=0.8, m_max=m_max, stop_ids={stop})
        assert lattice.kept.astype(int).tolist() == [kept]


@given(columns())
def test_rank_of_finds_every_candidate_and_nothing_else(column):
    lattice = prune(*column, tau=0.8, m_max=4, stop_ids=())
    for i in range(lattice.k):
        row = column[0][i].tolist()
        assert [lattice.rank_of(i, token) for token in range(12)] == [
            row.index(token) if token in row else None for token in range(12)
        ]


@given(st.lists(st.integers(0, 11), max_size=10), stops)
def test_generated_length_counts_up_to_the_first_stop(draft, stop_ids):
    kept = "".join("x" if token in stop_ids else "." for token in draft).split("x")[0]
    assert generated_length(np.array(draft, np.int32), stop_ids) == len(kept)


@given(columns(), stops)
def test_argmax_path_is_the_first_row_through_its_first_stop(column, stop_ids):
    lattice = prune(*column, tau=0.8, m_max=15, stop_ids=stop_ids)
    result, expected = argmax_path(lattice, stop_ids), []
    for token in column[0][:, 0].tolist():
        expected.append(token)
        if token in stop_ids:
            break
    assert result.ids.tolist() == expected and not result.ranks.any()
    np.testing.assert_allclose(result.score, np.cumsum(column[1][: len(expected), 0]), rtol=1e-5)


@given(columns(max_k=5), st.floats(0.05, 1.0), st.integers(1, 8), st.lists(st.integers(0, 11), max_size=8))
def test_oracle_is_the_best_of_all_paths(column, tau, m_max, continuation):
    lattice = prune(*column, tau=tau, m_max=m_max, stop_ids=())

    def best(position: int) -> int:
        if position == lattice.k or position == len(continuation):
            return 0
        kept = lattice.ids[position][lattice.kept[position]].tolist()
        return max((1 + best(position + 1) if token == continuation[position] else 0) for token in kept)

    assert oracle_accepted(lattice, continuation) == best(0)


@given(
    st.lists(st.integers(0, 3), max_size=8),
    st.lists(st.integers(0, 3), min_size=9, max_size=9),
    st.frozensets(st.integers(0, 3), max_size=2),
)
def test_greedy_verification_emits_a_prefix_of_the_targets_own_text(path, target, stop_ids):
    if any(token in stop_ids for token in path[:-1]):
        path = path[: next(i for i, token in enumerate(path) if token in stop_ids) + 1]
    verdict = verify(np.array(path, np.int32), target.__getitem__, stop_ids)
    emitted = [*path[: verdict.accepted], *([] if verdict.token is None else [verdict.token])]

    expected = []  # plain decoding, as far as the path foresaw it, and one further
    for position, token in enumerate(target):
        expected.append(token)
        if token in stop_ids or position == len(path) or token != path[position]:
            break
    assert emitted == expected
    assert list(verdict.draws) == expected
    assert verdict.accepted == sum(a == b for a, b in zip(path, expected, strict=False))
    ended = len(path) >= len(expected) and path[: len(expected)] == expected
    assert verdict.kind == (None if ended else "bonus" if len(expected) > len(path) else "correction")
