"""The prefix tree against the enumeration of every path, and the walk through it."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from diffuspec.method.acceptance import verify, verify_tree
from diffuspec.method.copying import LONGEST, CopySource, copy_weight
from diffuspec.method.length import TreeBudget
from diffuspec.method.proxy import ContextNGram, NoProxy
from diffuspec.method.tree import COPIED, FOLLOWER, FOLLOWER_TRUST, PrefixTree, best_first_tree
from diffuspec.training.ngram import fit
from tests.property.test_search import VOCAB, TableProxy, contexts, lams, lattices

proxies = st.one_of(st.none(), st.integers(0, 2**16).map(TableProxy))
budgets = st.integers(1, 40)


texts = st.lists(st.integers(0, 3), min_size=1, max_size=14)  # few words, so that they come again


def grow(lattice, stop_ids, proxy, context, lam, nodes, **copying):
    return best_first_tree(lattice, proxy or NoProxy(), context, nodes=nodes, lam=lam, stop_ids=stop_ids, **copying)


def look_back(context, tail) -> tuple[int, int] | None:
    """(place, length): what followed the longest suffix of the tail that stood in the context, the newest first."""
    for length in range(min(LONGEST, len(tail)), 0, -1):
        for place in range(len(context) - 1, length - 1, -1):
            if context[place - length : place] == tail[-length:]:
                return place, length
    return None


def match_now(context) -> tuple[int, int] | None:
    found = look_back(context, context)
    if found is None or found[1] < LONGEST:
        return found
    place, length = found
    while context[: place - length] and context[place - length - 1] == context[-length - 1]:
        length += 1
    return place, length


class Fitted:
    """A small fitted 3-gram: as a proxy, and what it has seen after two tokens, by its tables."""

    ngram = fit([np.random.default_rng(0).integers(0, 4, 40).tolist() for _ in range(3)], VOCAB, (0, 1))

    @classmethod
    def one(cls, u, v, token):
        return math.log(cls.ngram.over((token,))((u, v))[0])

    @classmethod
    def followers(cls, u, v, most):
        """(token, p), likeliest first; of equally likely ones first those seen after both tokens."""
        ngram, pairs = cls.ngram, cls.ngram.keys2
        row = np.flatnonzero(pairs == u * VOCAB + v) if u >= 0 else []
        after_both = ngram.keys3[ngram.keys3 // VOCAB == row[0]] % VOCAB if len(row) else []
        after_one = pairs[pairs // VOCAB == v] % VOCAB
        seen = dict.fromkeys([*after_both, *after_one])
        found = [(int(token), math.exp(cls.one(u, v, int(token)))) for token in seen]
        return sorted(found, key=lambda entry: -round(entry[1], 6))[:most]


def every_prefix(lattice, stop_ids, proxy, context, lam, copied_after=None, deepest=None, followers=0):
    """Every path of one token or more, as (row, token) pairs -> log of its probability."""
    context = list(context)
    found, level = {}, {(): (0.0, match_now(context) if copied_after else None)}
    for column in range(lattice.k if deepest is None else deepest):
        grown = {}
        for path, (value, copy) in level.items():
            text = [*context, *(token for _, token in path)]
            if path and text[-1] in stop_ids:
                continue
            weight = copy_weight(copy[1]) if copy and copy[1] >= copied_after else 0.0
            chances, left = {}, 1 - weight
            u, v = ([-1, -1, *text])[-2:]
            if column < lattice.k:
                rows = np.flatnonzero(lattice.kept[column]).tolist()
                cells = [(row, int(lattice.ids[column, row])) for row in rows]
                causal = [0.0 if proxy is None else proxy.one(u, v, token) for _, token in cells]
                logq = [float(lattice.logq[column, row]) for row in rows]
                eq8 = np.exp([lam * q + (1 - lam) * c for q, c in zip(logq, causal, strict=True)])
                mass = min(1.0, float(np.exp(logq).sum()))
                chances = dict(zip(cells, (1 - weight) * mass * eq8 / eq8.sum(), strict=True))
                left *= 1 - mass
            token = context[copy[0]] if weight else None
            for follower, p in Fitted.followers(u, v, followers) if followers and left else ():
                if follower == token and token not in (cell[1] for cell in chances):
                    weight += FOLLOWER_TRUST * left * p
                elif follower not in (cell[1] for cell in chances):
                    chances[FOLLOWER, follower] = FOLLOWER_TRUST * left * p
            if weight:
                cell = next((cell for cell in chances if cell[1] == token), (COPIED, token))
                chances[cell] = chances.get(cell, 0.0) + weight
            for cell, p in chances.items():
                goes_on = copy and context[copy[0]] == cell[1] and copy[0] + 1 < len(context)
                after = (copy[0] + 1, copy[1] + 1) if goes_on else None
                if copied_after and not after:
                    after = look_back(context, [*text, cell[1]])
                grown[*path, cell] = value + float(np.log(p)), after
        found |= {path: value for path, (value, _) in grown.items()}
        level = grown
    return found


def cells_of(tree: PrefixTree) -> list[tuple[tuple[int, int], ...]]:
    paths = {-1: ()}
    for node in range(len(tree)):
        paths[node] = (*paths[int(tree.parent[node])], (int(tree.rank[node]), int(tree.ids[node])))
    return [paths[node] for node in range(len(tree))]


def holds_the_likeliest(tree, expected, nodes):
    best = sorted(expected.values(), reverse=True)
    assert len(tree) == min(nodes, len(expected))
    np.testing.assert_allclose(tree.score, best[: len(tree)], rtol=1e-4, atol=1e-5)
    found = cells_of(tree)
    assert len(set(found)) == len(found)
    np.testing.assert_allclose(tree.score, [expected[cells] for cells in found], rtol=1e-4, atol=1e-5)


@given(lattices(), proxies, contexts, lams, budgets)
def test_the_tree_holds_the_likeliest_prefixes_in_order(lattice, proxy, context, lam, nodes):
    lattice, stop_ids = lattice
    expected = every_prefix(lattice, stop_ids, proxy, context, lam)
    tree, _ = grow(lattice, stop_ids, proxy, context, lam, nodes)
    holds_the_likeliest(tree, expected, nodes)


@given(lattices(), proxies, texts, lams, budgets, st.integers(1, 3), st.integers(0, 6))
def test_copied_tokens_stand_among_the_likeliest(lattice, proxy, context, lam, nodes, copied_after, deepest):
    lattice, stop_ids = lattice
    expected = every_prefix(lattice, stop_ids, proxy, context, lam, copied_after, deepest)
    options = dict(source=CopySource(context), copied_after=copied_after, deepest=deepest)
    tree, _ = grow(lattice, stop_ids, proxy, context, lam, nodes, **options)
    holds_the_likeliest(tree, expected, nodes)


@given(lattices(), texts, lams, budgets, st.booleans(), st.integers(0, 4), st.integers(1, 5))
def test_followers_of_the_fitted_ngram_stand_among_the_likeliest(lattice, text, lam, nodes, copies, deepest, followers):
    lattice, stop_ids = lattice
    copied_after = 1 if copies else None
    expected = every_prefix(lattice, stop_ids, Fitted, text, lam, copied_after, deepest, followers)
    options = dict(source=CopySource(text) if copies else None, deepest=deepest, followers=followers)
    tree, _ = grow(lattice, stop_ids, Fitted.ngram, text, lam, nodes, **options)
    holds_the_likeliest(tree, expected, nodes)


@given(lattices(), texts, lams, budgets)
def test_only_a_fitted_ngram_has_followers(lattice, text, lam, nodes):
    lattice, stop_ids = lattice
    for proxy in (NoProxy(), ContextNGram(VOCAB, text), TableProxy(3)):
        one, other = (grow(lattice, stop_ids, proxy, text, lam, nodes, followers=n, deepest=5)[0] for n in (0, 4))
        assert np.array_equal(one.ids, other.ids) and np.array_equal(one.score, other.score)


@given(lattices(), proxies, texts, budgets, st.sampled_from([0.01, 0.1, 0.5]))
def test_a_budget_cuts_the_same_tree_where_nodes_cease_to_pay(lattice, proxy, context, nodes, row_ms):
    lattice, stop_ids = lattice
    source, budget = CopySource(context), TreeBudget(1.0 + row_ms, [row_ms, 2 * row_ms])
    whole, _ = grow(lattice, stop_ids, proxy, context, 0.5, nodes, source=source)
    cut, _ = grow(lattice, stop_ids, proxy, context, 0.5, nodes, source=source, budget=budget)
    chances = np.exp(whole.score.astype(float))
    ms = [1 + row_ms * (max(1, 2 * n)) for n in range(len(whole) + 1)]
    rates = [(1 + chances[:n].sum()) / ms[n] for n in range(len(whole) + 1)]
    assert budget.nodes == len(cut) and rates[len(cut)] > max(rates) - 1e-6
    assert np.array_equal(cut.ids, whole.ids[: len(cut)]) and np.array_equal(cut.parent, whole.parent[: len(cut)])


@given(texts, st.lists(st.integers(0, 3), max_size=3), st.integers(0, 14))
def test_the_copy_source_finds_the_longest_and_newest_match(text, more, cut):
    source = CopySource(text[:cut])
    source.extend(text[cut:])
    for tail, found in (([*text, *more], source.after([*text, *more])), (text, source.now())):
        expected = match_now(text) if tail is text else look_back(text, tail)
        assert (found and (found.place, found.length)) == expected
        assert found is None or found.token == text[found.place]


@given(lattices(), proxies, contexts, lams, budgets)
def test_parents_come_first_and_every_node_is_its_cell(lattice, proxy, context, lam, nodes):
    lattice, stop_ids = lattice
    tree, judged = grow(lattice, stop_ids, proxy, context, lam, nodes)
    assert (tree.parent < np.arange(len(tree))).all()
    assert np.array_equal(tree.depth, [len(cells) - 1 for cells in cells_of(tree)])
    assert np.array_equal(lattice.ids[tree.depth, tree.rank], tree.ids) and lattice.kept[tree.depth, tree.rank].all()
    stops = [int(token) in stop_ids for token in tree.ids]
    assert not any(stops[int(above)] for above in tree.parent if above >= 0)
    for above in {-1, *tree.parent.tolist()}:
        text = [-1, -1, *context, *(token for _, token in (cells_of(tree)[above] if above >= 0 else ()))]
        column = int(tree.depth[above]) + 1 if above >= 0 else 0
        expected = [
            (0.0 if proxy is None else proxy.one(text[-2], text[-1], int(token))) if kept else np.nan
            for token, kept in zip(lattice.ids[column], lattice.kept[column], strict=True)
        ]
        np.testing.assert_allclose(judged[above + 1], expected, rtol=1e-4, atol=1e-6)


@given(lattices(), st.integers(0, 2**16).map(TableProxy), contexts, budgets, st.data())
def test_the_walk_accepts_what_the_best_of_its_paths_would(lattice, proxy, context, nodes, data):
    """Verifying the tree is verifying all of its paths and keeping the longest."""
    lattice, stop_ids = lattice
    tree, _ = grow(lattice, stop_ids, proxy, context, 0.5, nodes)
    answer = [data.draw(st.sampled_from(row.tolist())) for row in lattice.ids] + [data.draw(st.integers(0, 8))]
    place = {-1: 0} | {node: int(tree.depth[node]) + 1 for node in range(len(tree))}
    verdict = verify_tree(tree, lambda row: answer[place[row - 1]], stop_ids)
    leaves = set(range(len(tree))) - set(tree.parent.tolist())
    single = [verify(tree.ids[tree.path_through(leaf)], answer.__getitem__, stop_ids) for leaf in leaves]
    best = max(single, key=lambda v: v.accepted)
    assert (verdict.accepted, verdict.token, verdict.draws) == (best.accepted, best.token, best.draws)
    path = tree.path_through(verdict.nodes[-1] if verdict.nodes else -1)
    assert path[: verdict.accepted] == list(verdict.nodes)
    assert (verdict.kind == "bonus") == (verdict.token is not None and len(path) == verdict.accepted)
    assert tree.ids[list(verdict.nodes)].tolist() == answer[: verdict.accepted]


@given(lattices(), st.integers(0, 2**16).map(TableProxy), contexts, budgets)
def test_a_path_goes_on_by_the_likeliest_child(lattice, proxy, context, nodes):
    lattice, stop_ids = lattice
    tree, _ = grow(lattice, stop_ids, proxy, context, 0.5, nodes)
    assume(len(tree) > 1)
    for node in range(-1, len(tree)):
        path = tree.path_through(node)
        assert (tree.parent[path] == [-1, *path[:-1]]).all() and not (tree.parent == path[-1]).any()
        for above, below in itertools.pairwise(path[path.index(node) :] if node >= 0 else [-1, *path]):
            rivals = np.flatnonzero(tree.parent == above)
            assert tree.score[below] == tree.score[rivals].max()
