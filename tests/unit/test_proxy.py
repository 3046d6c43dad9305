"""The n-gram proxies are probability distributions, and Kneser-Ney is Kneser-Ney."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuspec import assets
from diffuspec.assets import ASSETS, NGRAM_EDITIONS
from diffuspec.errors import DiffuSpecError, SettingsError, WeightsError
from diffuspec.method.proxy import ContextNGram, Mixture, NGram, NoProxy, make_proxy
from diffuspec.training.ngram import fit

V = 11
BEFORE = (9, 10)
ALL = np.arange(V)
HISTORIES = np.array([(u, v) for v in range(V) for u in range(-1, V)] + [(-1, -1)])


def p_of(proxy, candidates=ALL, histories=HISTORIES):
    """p(candidate | history), [histories, candidates]."""
    judge = proxy.over(candidates.tolist())
    return np.array([judge(history) for history in histories.tolist()])


corpora = st.lists(st.lists(st.integers(0, V - 1), max_size=12), min_size=1, max_size=6)


@given(corpora)
@settings(max_examples=40)
def test_a_fitted_ngram_sums_to_one_after_every_history(corpus):
    p = p_of(fit(corpus, V, BEFORE))
    np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-5)
    assert (p > 0).all()


class SlowKneserNey:
    """Interpolated Kneser-Ney straight from the formula, by counting at every call."""

    def __init__(self, corpus):
        texts = [[*BEFORE, *answer] for answer in corpus]
        self.c3 = Counter((t[i], t[i + 1], t[i + 2]) for t in texts for i in range(len(t) - 2))
        self.n2 = Counter((v, w) for _, v, w in self.c3)
        self.n1 = Counter(w for _, w in self.n2)
        self.d3, self.d2, self.d1 = (self.discount(c) for c in (self.c3, self.n2, self.n1))

    @staticmethod
    def discount(counts):
        once, twice = (sum(c == n for c in counts.values()) for n in (1, 2))
        return once / (once + 2 * twice) if once and twice else 0.5

    @staticmethod
    def level(counts, context, w, discount, lower):
        followers = {gram: c for gram, c in counts.items() if gram[:-1] == context}
        total = sum(followers.values())
        if not total:
            return lower
        return (max(followers.get((*context, w), 0) - discount, 0) + discount * len(followers) * lower) / total

    def p(self, u, v, w):
        p = self.level({(k,): c for k, c in self.n1.items()}, (), w, self.d1, 1 / V)
        if v >= 0:
            p = self.level(self.n2, (v,), w, self.d2, p)
        if u >= 0 and v >= 0:
            p = self.level(self.c3, (u, v), w, self.d3, p)
        return p


@given(corpora.filter(any))
@settings(max_examples=25)
def test_a_fitted_ngram_equals_the_formula(corpus):
    slow = SlowKneserNey(corpus)
    expected = [[slow.p(u, v, w) for w in range(V)] for u, v in HISTORIES.tolist()]
    np.testing.assert_allclose(p_of(fit(corpus, V, BEFORE)), expected, rtol=2e-5)


@given(corpora, st.permutations(range(V)), st.integers(1, V))
@settings(max_examples=25)
def test_candidates_may_come_in_any_order_and_number(corpus, order, n):
    ngram, some = fit(corpus, V, BEFORE), np.array(order[:n])
    np.testing.assert_array_equal(p_of(ngram, some), p_of(ngram)[:, some])


@given(st.lists(st.integers(0, V - 1), max_size=20))
@settings(max_examples=40)
def test_the_in_context_ngram_sums_to_one_and_equals_its_formula(text):
    context = ContextNGram(V, text)
    p = p_of(context)
    np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-9)
    grams = {n: Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1)) for n in (1, 2, 3)}
    for row, (u, v) in zip(p, HISTORIES.tolist(), strict=True):
        for w in range(V):
            expected = 1 / V
            for history in ((), (v,), (u, v)):
                expected = SlowKneserNey.level(grams[len(history) + 1], history, w, 0.5, expected)
            assert math.isclose(row[w], expected, rel_tol=1e-9)


@given(st.lists(st.integers(0, V - 1), max_size=20), st.integers(0, 20))
@settings(max_examples=25)
def test_the_in_context_ngram_learns_in_pieces_as_at_once(text, cut):
    pieces = ContextNGram(V, text[:cut])
    pieces.extend(text[cut:])
    np.testing.assert_array_equal(p_of(pieces), p_of(ContextNGram(V, text)))


@given(corpora, st.lists(st.integers(0, V - 1), max_size=12), st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=25)
def test_a_mixture_is_the_weighted_sum(corpus, text, weight):
    ngram, context = fit(corpus, V, BEFORE), ContextNGram(V, text)
    mixed = Mixture(ngram, ContextNGram(V), weight)
    mixed.extend(text)
    p = p_of(mixed)
    expected = (1 - weight) * p_of(ngram) + weight * p_of(context)
    np.testing.assert_allclose(p, expected, rtol=1e-9)
    np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-5)


def test_a_repeated_candidate_is_scored_each_time():
    context, twice = ContextNGram(V, [1, 2, 3, 1, 2]), np.array([3, 3, 4])
    p = context.over(twice.tolist())((1, 2))
    assert p[0] == p[1] > p[2]


def test_saving_and_loading_keeps_every_probability(tmp_path):
    random = np.random.default_rng(0)
    ngram = fit([random.integers(0, V, 30).tolist() for _ in range(5)], V, BEFORE)
    ngram.save(tmp_path / "table.npz")
    loaded = NGram.load(tmp_path / "table.npz")
    np.testing.assert_array_equal(p_of(loaded), p_of(ngram))


@pytest.mark.parametrize("pair", NGRAM_EDITIONS)
def test_each_table_that_ships_sums_to_one_and_is_small(pair):
    ngram = assets.ngram(pair)
    everything = np.arange(ngram.vocab_size)
    random = np.random.default_rng(0)
    seen2 = random.choice(len(ngram.keys2), 20)
    pairs = np.stack(np.divmod(ngram.keys2[seen2], ngram.vocab_size), axis=1)
    unseen = random.integers(0, ngram.vocab_size, (10, 2))
    half_seen = np.stack([unseen[:, 0], pairs[:10, 0]], axis=1)
    for history in np.concatenate([pairs, unseen, half_seen, [[-1, -1], [-1, 1], [-1, 198]]]):
        total = p_of(ngram, everything, history[None]).sum()
        assert abs(total - 1) < 1e-4, history


def test_one_table_a_pair_ships_and_is_small():
    files = list((ASSETS / "ngram").iterdir())
    assert sorted(path.name for path in files) == ["3.npz", "coder-1.npz"]
    assert all(path.stat().st_size <= 10 * 2**20 for path in files)


def test_the_assets_together_stay_small():
    weights = [path for path in ASSETS.rglob("*") if path.suffix in (".npz", ".safetensors", ".json")]
    assert sum(path.stat().st_size for path in weights) <= 40 * 2**20


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "flipped", "other"])
def test_a_damaged_table_is_a_weights_error(tmp_path, damage):
    path = tmp_path / "table.npz"
    fit([[1, 2, 3, 1, 2, 4]] * 3, V, BEFORE).save(path)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other":
        np.savez(path, something=np.zeros(3))
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes(255 - b for b in data[middle : middle + 40]) + data[middle + 40 :]
        path.write_bytes({"empty": b"", "text": b"hello", "cut": data[: len(data) // 2], "flipped": flipped}[damage])
    with pytest.raises(WeightsError, match="missing or damaged"):
        NGram.load(path)


@pytest.mark.parametrize("corpus", [[], [[V]], [[-1]]])
def test_a_corpus_that_cannot_be_counted_is_an_error(corpus):
    with pytest.raises(DiffuSpecError):
        fit(corpus, V, BEFORE)


def test_each_kind_of_proxy_is_made_and_a_missing_table_is_explained():
    ngram = fit([[1, 2, 3]], V, BEFORE)
    kinds = {"ngram": NGram, "context": ContextNGram, "ngram+context": Mixture, "none": NoProxy}
    for kind, made in kinds.items():
        assert isinstance(make_proxy(kind, ngram=ngram, vocab_size=V, weight=0.5, prompt_ids=[1]), made)
    for kind in ("ngram", "ngram+context"):
        with pytest.raises(SettingsError, match="no fitted n-gram"):
            make_proxy(kind, ngram=None, vocab_size=V, weight=0.5, prompt_ids=[1])
