"""A proxy with tables, which the searches read compiled, and the same one asked as any other: the same results."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuspec.method.copying import CopySource
from diffuspec.method.lattice import prune
from diffuspec.method.length import TreeBudget
from diffuspec.method.proxy import ContextNGram, Mixture, NoProxy
from diffuspec.method.search import beam_search, exact_search
from diffuspec.method.tree import best_first_tree
from diffuspec.training.ngram import fit
from tests.property.test_search import VOCAB, lams, lattices

texts = st.lists(st.integers(0, VOCAB - 1), max_size=30)
FITTED = fit([np.random.default_rng(0).integers(0, VOCAB, 40).tolist() for _ in range(3)], VOCAB, (0, 1))


class Asked:
    """Shows nothing of a proxy but what the protocol has."""

    def __init__(self, proxy):
        self.order, self.over, self.extend = proxy.order, proxy.over, proxy.extend


def proxies(text):
    context = ContextNGram(VOCAB, text)
    return NoProxy(), context, FITTED, Mixture(FITTED, context, 0.4)


def same(one, other):
    for name, value in vars(one).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)
            assert value.dtype == getattr(other, name).dtype


@given(lattices(), texts, lams, st.integers(1, 4))
def test_a_beam(lattice, text, lam, beam):
    lattice, stop_ids = lattice
    for proxy in proxies(text):
        options = dict(beam=beam, lam=lam, stop_ids=stop_ids)
        one, other = (beam_search(lattice, p, text, **options) for p in (proxy, Asked(proxy)))
        same(one, other)
        assert one.chosen == other.chosen
        for level, again in zip(one.levels, other.levels, strict=True):
            same(level, again)


@given(lattices(), texts, lams)
def test_the_exact_search(lattice, text, lam):
    lattice, stop_ids = lattice
    for proxy in proxies(text):
        same(*(exact_search(lattice, p, text, lam=lam, stop_ids=stop_ids) for p in (proxy, Asked(proxy))))


@given(lattices(), texts, lams, st.integers(1, 30), st.integers(0, 6), st.booleans())
def test_a_tree(lattice, text, lam, nodes, deepest, pays):
    lattice, stop_ids = lattice
    for proxy in proxies(text):
        budgets = [TreeBudget(10.0, [0.25, 0.5]) if pays else None for _ in range(2)]
        options = dict(nodes=nodes, lam=lam, stop_ids=stop_ids, source=CopySource(text), deepest=deepest)
        (one, judged), (other, again) = (
            best_first_tree(lattice, p, text, budget=budget, **options)
            for p, budget in zip((proxy, Asked(proxy)), budgets, strict=True)
        )
        same(one, other)
        np.testing.assert_array_equal(judged, again)
        assert not pays or (budgets[0].nodes, budgets[0].ms) == (budgets[1].nodes, budgets[1].ms)


@given(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5))
def test_equal_scores_keep_the_order_of_the_column(text):
    ids = np.array([[3, 1, 2], [5, 4, 6]])
    lattice = prune(ids, np.log(np.full((2, 3), 0.2)), tau=1.0, m_max=3, stop_ids=())
    found = beam_search(lattice, NoProxy(), text, beam=2, lam=0.5, stop_ids=())
    assert [level.rank.tolist() for level in found.levels] == [[0, 1, 2], [0, 1, 2, 0]]
    assert found.levels[1].parent.tolist() == [0, 0, 0, 1]
    assert exact_search(lattice, NoProxy(), text, lam=0.5, stop_ids=()).ids.tolist() == [3, 5]
    tree, _ = best_first_tree(lattice, NoProxy(), text, nodes=6, lam=0.5, stop_ids=())
    assert tree.ids.tolist() == [3, 1, 2, 5, 4, 6] and tree.parent.tolist() == [-1, -1, -1, 0, 0, 0]


def test_a_token_outside_the_vocabulary_is_an_error():
    lattice = prune(np.array([[VOCAB]]), np.zeros((1, 1)), tau=1.0, m_max=1, stop_ids=())
    inside = prune(np.array([[0]]), np.zeros((1, 1)), tau=1.0, m_max=1, stop_ids=())
    for cells, text in ((lattice, [0]), (inside, [VOCAB])):
        with pytest.raises(IndexError):
            beam_search(cells, FITTED, text, beam=1, lam=0.5, stop_ids=())
    none = prune(np.zeros((0, 0)), np.zeros((0, 0)), tau=1.0, m_max=1, stop_ids=())
    for text in ([VOCAB], [VOCAB, 0]):  # without a column only the followers are looked up
        with pytest.raises(IndexError):
            best_first_tree(none, FITTED, text, nodes=1, lam=0.5, stop_ids=(), followers=1, deepest=1)
