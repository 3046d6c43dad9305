"""CPS (Eq. 8) against the enumeration of every path, on lattices small enough for it."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from diffuspec.method.lattice import prune
from diffuspec.method.proxy import NoProxy
from diffuspec.method.search import beam_search, exact_search

VOCAB = 9
EVERYTHING = 4**5 * 2  # more than all partial paths of the lattices below


class TableProxy:
    """A random trigram: log p(w | u, v) from a table; -1 stands before the text."""

    order = 3

    def __init__(self, seed: int):
        p = np.random.default_rng(seed).dirichlet(np.full(VOCAB, 0.5), (VOCAB + 1, VOCAB + 1))
        self.table = np.log(p + 1e-6)

    def one(self, u, v, w):
        return self.table[u, v, w]

    def over(self, candidates, column=0):
        return lambda history: [math.exp(self.table[(*history, w)]) for w in candidates]

    def extend(self, ids):
        raise AssertionError("a search must not teach the proxy")


@st.composite
def lattices(draw):
    k, width = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    q = np.sort(random.dirichlet(np.full(VOCAB, draw(st.sampled_from([0.3, 1.0, 5.0]))), k), axis=1)[:, ::-1]
    ids = np.array([random.permutation(VOCAB)[:width] for _ in range(k)])
    stop_ids = draw(st.frozensets(st.integers(0, VOCAB - 1), max_size=3))
    tau, m_max = draw(st.sampled_from([0.3, 0.6, 0.9, 1.0])), draw(st.integers(1, 4))
    return prune(ids, np.log(q[:, :width] + 1e-9), tau=tau, m_max=m_max, stop_ids=stop_ids), stop_ids


contexts = st.lists(st.integers(0, VOCAB - 1), max_size=4)
lams = st.sampled_from([0.0, 0.25, 0.5, 1.0])


def equation_8(lattice, ranks, proxy, context, lam) -> list[float]:
    """The running sum of Eq. 8 along a path, term by term."""
    text, sums, total = [-1, -1, *context], [], 0.0
    for i, rank in enumerate(ranks):
        token = int(lattice.ids[i, rank])
        log_proxy = 0.0 if proxy is None else proxy.one(text[-2], text[-1], token)
        total += lam * float(lattice.logq[i, rank]) + (1 - lam) * log_proxy
        sums.append(total)
        text.append(token)
    return sums


def all_paths(lattice, stop_ids) -> list[tuple[int, ...]]:
    """Every maximal path: through the last column, or to its first stop token."""
    found = set()
    for ranks in itertools.product(*(np.flatnonzero(row).tolist() for row in lattice.kept)):
        tokens = [int(lattice.ids[i, r]) for i, r in enumerate(ranks)]
        end = next((i + 1 for i, token in enumerate(tokens) if token in stop_ids), len(tokens))
        found.add(ranks[:end])
    return sorted(found)


def champion(lattice, stop_ids, proxy, context, lam):
    """The documented tournament over all paths: the best of the deepest, challenged from below.

    Returns (the winner, the smallest margin by which any comparison was decided).
    """
    scored = [(ranks, equation_8(lattice, ranks, proxy, context, lam)) for ranks in all_paths(lattice, stop_ids)]
    margin = math.inf

    def best(candidates):
        nonlocal margin
        ordered = sorted(candidates, key=lambda entry: -entry[1][-1])
        if len(ordered) > 1:
            margin = min(margin, ordered[0][1][-1] - ordered[1][1][-1])
        return ordered[0]

    deepest = max(len(ranks) for ranks, _ in scored)
    winner = best([entry for entry in scored if len(entry[0]) == deepest])
    for depth in range(deepest - 1, 0, -1):
        ended = [entry for entry in scored if len(entry[0]) == depth]
        if not ended:
            continue
        challenger = best(ended)
        lead = challenger[1][-1] - winner[1][depth - 1]
        margin = min(margin, abs(lead))
        if lead > 0:
            winner = challenger
    return winner, margin


def run(lattice, stop_ids, proxy, context, lam, beam):
    return beam_search(lattice, proxy or NoProxy(), context, beam=beam, lam=lam, stop_ids=stop_ids)


proxies = st.one_of(st.none(), st.integers(0, 2**16).map(TableProxy))


@given(lattices(), proxies, contexts, lams)
def test_a_beam_as_wide_as_the_lattice_finds_the_champion(lattice, proxy, context, lam):
    lattice, stop_ids = lattice
    assume(proxy is not None or lam > 0)  # else every path scores nought
    (ranks, sums), margin = champion(lattice, stop_ids, proxy, context, lam)
    assume(margin > 1e-4)
    result = run(lattice, stop_ids, proxy, context, lam, EVERYTHING)
    assert tuple(result.ranks.tolist()) == ranks
    np.testing.assert_allclose(result.score, sums, rtol=1e-4, atol=1e-5)


@given(lattices(), proxies, contexts, lams)
def test_the_exact_search_finds_the_champion_of_all_paths(lattice, proxy, context, lam):
    lattice, stop_ids = lattice
    assume(proxy is not None or lam > 0)
    (ranks, sums), margin = champion(lattice, stop_ids, proxy, context, lam)
    assume(margin > 1e-4)
    result = exact_search(lattice, proxy or NoProxy(), context, lam=lam, stop_ids=stop_ids)
    assert tuple(result.ranks.tolist()) == ranks
    np.testing.assert_allclose(result.score, sums, rtol=1e-4, atol=1e-5)
    wide = run(lattice, stop_ids, proxy, context, lam, EVERYTHING)
    assert np.array_equal(result.ids, wide.ids)
    np.testing.assert_allclose(result.proxy_logp, wide.proxy_logp, rtol=1e-5)


@given(lattices(), proxies, contexts, lams, st.integers(1, 6))
def test_the_score_of_the_chosen_path_is_equation_8(lattice, proxy, context, lam, beam):
    lattice, stop_ids = lattice
    result = run(lattice, stop_ids, proxy, context, lam, beam)
    n = len(result)
    assert 1 <= n <= lattice.k
    assert lattice.kept[np.arange(n), result.ranks].all()
    assert np.array_equal(result.ids, lattice.ids[np.arange(n), result.ranks])
    np.testing.assert_allclose(
        result.score, equation_8(lattice, result.ranks, proxy, context, lam), rtol=1e-4, atol=1e-5
    )
    stops = [token in stop_ids for token in result.ids.tolist()]
    assert not any(stops[:-1]) and (stops[-1] or n == lattice.k)


@given(lattices(), st.integers(0, 2**16).map(TableProxy), contexts, lams, st.integers(1, 6))
def test_the_recorded_proxy_is_that_of_every_kept_cell_after_the_chosen_path(lattice, proxy, context, lam, beam):
    lattice, stop_ids = lattice
    result = run(lattice, stop_ids, proxy, context, lam, beam)
    text = [-1, -1, *context]
    for i, token in enumerate(result.ids.tolist()):
        expected = [
            proxy.one(text[-2], text[-1], int(cell)) if kept else math.nan
            for cell, kept in zip(lattice.ids[i], lattice.kept[i], strict=True)
        ]
        np.testing.assert_allclose(result.proxy_logp[i], expected, rtol=1e-4)
        text.append(token)


@given(lattices(), proxies, contexts, lams, st.integers(1, 6))
def test_every_level_is_sorted_and_grows_from_the_survivors_of_the_last(lattice, proxy, context, lam, beam):
    lattice, stop_ids = lattice
    result = run(lattice, stop_ids, proxy, context, lam, beam)
    tokens = [()]
    for depth, level in enumerate(result.levels):
        size = len(level.rank)
        assert level.survivors == min(beam, size) and size <= 2 * beam
        assert (np.diff(level.score) <= 0).all()
        assert lattice.kept[depth, level.rank].all()
        assert len(set(zip(level.parent.tolist(), level.rank.tolist(), strict=True))) == size
        grown = [(*tokens[p], r) for p, r in zip(level.parent.tolist(), level.rank.tolist(), strict=True)]
        for ranks, score, ended in zip(grown, level.score.tolist(), level.ended.tolist(), strict=True):
            path = [int(lattice.ids[i, r]) for i, r in enumerate(ranks)]
            assert not set(path[:-1]) & stop_ids, "a path went on after its stop token"
            assert ended == (path[-1] in stop_ids)
            assert math.isclose(score, equation_8(lattice, ranks, proxy, context, lam)[-1], rel_tol=1e-4, abs_tol=1e-5)
        if depth:
            last = result.levels[depth - 1]
            assert (level.parent < last.survivors).all(), "a runner-up had children"
        tokens = grown
    assert result.levels[len(result) - 1].rank[result.chosen] == result.ranks[-1]
    assert result.chosen < result.levels[len(result) - 1].survivors


@given(lattices(), proxies, contexts, lams, st.integers(1, 4))
def test_no_beam_beats_the_exhaustive_one_at_equal_depth(lattice, proxy, context, lam, beam):
    lattice, stop_ids = lattice
    narrow = run(lattice, stop_ids, proxy, context, lam, beam)
    wide = run(lattice, stop_ids, proxy, context, lam, EVERYTHING)
    for some, every in zip(narrow.levels, wide.levels, strict=False):
        assert some.score[0] <= every.score[0] + 1e-5


@given(lattices(), contexts)
def test_without_a_proxy_the_drafters_own_favourites_win(lattice, context):
    lattice, stop_ids = lattice
    assume(not np.isin(lattice.ids[lattice.kept], list(stop_ids)).any())
    for proxy, lam, beam in ((None, 0.5, 1), (None, 1.0, 3), (TableProxy(0), 1.0, 2)):
        assert not run(lattice, stop_ids, proxy, context, lam, beam).ranks.any()


def test_a_stop_token_wins_only_against_the_champion_at_its_own_depth():
    """Plain sums would favour the short path; here it must be the better first token."""
    ids = np.array([[1, 2], [3, 4], [5, 6]])
    for stop_mass, ends in ((0.4, False), (0.6, True)):
        q = np.array([sorted([stop_mass, 1 - stop_mass], reverse=True), [0.3, 0.2], [0.3, 0.2]])
        first = [1, 2] if ends else [2, 1]
        lattice = prune(np.array([first, *ids[1:].tolist()]), np.log(q), tau=1.0, m_max=2, stop_ids={1})
        result = run(lattice, {1}, None, [], 1.0, 3)
        assert result.ids.tolist() == ([1] if ends else [2, 3, 5])
