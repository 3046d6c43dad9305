"""The prefix tree against the enumeration of every path, and the walk through it."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from test_search import TableProxy, contexts, lams, lattices

from diffuspec.method.acceptance import verify, verify_tree
from diffuspec.method.proxy import NoProxy
from diffuspec.method.tree import PrefixTree, best_first_tree

proxies = st.one_of(st.none(), st.integers(0, 2**16).map(TableProxy))
budgets = st.integers(1, 40)


def grow(lattice, stop_ids, proxy, context, lam, nodes):
    return best_first_tree(lattice, proxy or NoProxy(), context, nodes=nodes, lam=lam, stop_ids=stop_ids)


def every_prefix(lattice, stop_ids, proxy, context, lam) -> dict[tuple[int, ...], float]:
    """Every path of one token or more as its rows of the lattice -> log of its probability."""
    found = {}
    level = {(): 0.0}
    for column in range(lattice.k):
        rows = np.flatnonzero(lattice.kept[column]).tolist()
        grown = {}
        for path, value in level.items():
            text = [-1, -1, *context, *(int(lattice.ids[i, r]) for i, r in enumerate(path))]
            if path and text[-1] in stop_ids:
                continue
            terms = []
            for row in rows:
                causal = 0.0 if proxy is None else proxy.one(text[-2], text[-1], int(lattice.ids[column, row]))
                terms.append(lam * float(lattice.logq[column, row]) + (1 - lam) * causal)
            norm = np.logaddexp.reduce(terms)
            grown |= {(*path, row): value + term - norm for row, term in zip(rows, terms, strict=True)}
        found |= grown
        level = grown
    return found


def rows_of(tree: PrefixTree) -> list[tuple[int, ...]]:
    paths = {-1: ()}
    for node in range(len(tree)):
        paths[node] = (*paths[int(tree.parent[node])], int(tree.rank[node]))
    return [paths[node] for node in range(len(tree))]


@given(lattices(), proxies, contexts, lams, budgets)
def test_the_tree_holds_the_likeliest_prefixes_in_order(lattice, proxy, context, lam, nodes):
    lattice, stop_ids = lattice
    expected = every_prefix(lattice, stop_ids, proxy, context, lam)
    tree, _ = grow(lattice, stop_ids, proxy, context, lam, nodes)
    best = sorted(expected.values(), reverse=True)
    assert len(tree) == min(nodes, len(expected))
    np.testing.assert_allclose(tree.score, best[: len(tree)], rtol=1e-4, atol=1e-5)
    found = rows_of(tree)
    assert len(set(found)) == len(found)
    np.testing.assert_allclose(tree.score, [expected[rows] for rows in found], rtol=1e-4, atol=1e-5)


@given(lattices(), proxies, contexts, lams, budgets)
def test_parents_come_first_and_every_node_is_its_cell(lattice, proxy, context, lam, nodes):
    lattice, stop_ids = lattice
    tree, inner = grow(lattice, stop_ids, proxy, context, lam, nodes)
    assert (tree.parent < np.arange(len(tree))).all()
    assert np.array_equal(tree.depth, [len(rows) - 1 for rows in rows_of(tree)])
    assert np.array_equal(lattice.ids[tree.depth, tree.rank], tree.ids) and lattice.kept[tree.depth, tree.rank].all()
    stops = [int(token) in stop_ids for token in tree.ids]
    assert not any(stops[int(above)] for above in tree.parent if above >= 0)
    assert set(tree.parent.tolist()) <= inner.keys()


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
