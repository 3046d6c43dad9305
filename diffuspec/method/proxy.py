"""Causal proxies: cheap judges of left-to-right fluency (DiffuSpec, section 3.3).

The paper fits a word 3-gram per data set. Here the 3-gram counts *token ids*, so it never has to
re-tokenise fragments of words. Two estimators, both proper distributions over the vocabulary:

NGram         interpolated Kneser-Ney (Kneser & Ney 1995; Chen & Goodman 1999), fitted once on
              the target's own answers and kept as a back-off table
ContextNGram  interpolated absolute discounting on the prompt and the output so far; it knows the
              names and phrases of this very text

`Mixture` is their weighted sum.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from diffuspec.errors import SettingsError, WeightsError

# What a proxy makes of a column: the last order - 1 token ids (-1 before the text began) -> p of each candidate.
Judge = Callable[[Sequence[int]], list[float]]


def last_tokens(context: Sequence[int], n: int) -> tuple[int, ...]:
    """The last n token ids of the context, -1 where it is shorter."""
    tail = tuple(context[-n:]) if n else ()
    return (-1,) * (n - len(tail)) + tail


class Proxy(Protocol):
    """order: tokens an n-gram spans; a path is judged by its last `order - 1` tokens."""

    order: int

    def over(self, candidates: Sequence[int]) -> Judge:
        """Prepare to judge these token ids, after any history. A column is judged after many: what does not
        depend on the history is looked up here, once."""
        ...

    def extend(self, ids: Iterable[int]) -> None:
        """Tell the proxy that `ids` were added to the text."""
        ...


class NoProxy:
    """Knows nothing: every candidate scores 1, so that the drafter alone decides."""

    order = 1

    def over(self, candidates):
        ones = [1.0] * len(candidates)
        return lambda history: ones

    def extend(self, ids):
        pass


class _Unpacked(dict):
    """Part of a table as Python numbers, which cost less to look up; an entry is made when it is first met."""

    def __init__(self, unpack: Callable):
        self._make = unpack

    def __missing__(self, key):
        value = self[key] = self._make(key)
        return value


def _places(candidates: Sequence[int]) -> dict[int, list[int]]:
    """Where each token id stands; a column may be asked to hold one twice."""
    place: dict[int, list[int]] = {}
    for index, token in enumerate(candidates):
        place.setdefault(token, []).append(index)
    return place


def _put(p: list[float], place: dict[int, list[int]], seen: dict[int, float]) -> None:
    """Put what was seen in the place of its candidate."""
    for token in place.keys() & seen.keys():
        for index in place[token]:
            p[index] = seen[token]


class NGram:
    """A 3-gram over token ids in back-off form.

    p(w | u, v) = exp(logp3[uvw])                    where the trigram was seen,
                  exp(backoff2[uv]) p(w | v)         otherwise (backoff2 = 0 for an unseen uv),
    p(w | v)    = exp(logp2[vw])  or  exp(backoff1[v]) p(w), likewise,
    p(w)        = exp(logp1[w]), float over the whole vocabulary.

    keys2 and keys3 are sorted int64: keys2 = v V + w, keys3 = (row of uv in keys2) V + w.
    """

    order = 3

    def __init__(self, vocab_size, logp1, backoff1, keys2, logp2, backoff2, keys3, logp3):
        self.vocab_size = int(vocab_size)
        self.logp1, self.backoff1 = logp1, backoff1
        self.keys2, self.logp2, self.backoff2 = keys2, logp2, backoff2
        self.keys3, self.logp3 = keys3, logp3
        self._starts3 = np.searchsorted(keys3, np.arange(len(keys2) + 1, dtype=np.int64) * self.vocab_size)
        self._starts2 = np.searchsorted(keys2, np.arange(self.vocab_size + 1, dtype=np.int64) * self.vocab_size)
        self._p1: list[float] = np.exp(logp1, dtype=np.float64).tolist()
        self._after1 = _Unpacked(self._unpack1)
        self._rows = _Unpacked(self._unpack_rows)
        self._after2 = _Unpacked(self._unpack2)

    def extend(self, ids):
        pass

    def over(self, candidates):
        place = _places(candidates)
        unigram = [self._p1[token] for token in candidates]

        def judge(history):
            u, v = history
            if v < 0:
                return unigram
            backoff, followers = self._after1[v]
            p = [backoff * x for x in unigram]
            _put(p, place, followers)
            if u >= 0 and (row := self._rows[u].get(v)) is not None:
                backoff, followers = self._after2[row]
                if backoff != 1.0:
                    p = [backoff * x for x in p]
                _put(p, place, followers)
            return p

        return judge

    def _unpack1(self, v: int) -> tuple[float, dict[int, float]]:
        """The weight of p(w), and p(w | v) of what was seen after v."""
        rows = slice(self._starts2[v], self._starts2[v + 1])
        return self._unpack(self.backoff1[v], self.keys2[rows], self.logp2[rows])

    def _unpack2(self, row: int) -> tuple[float, dict[int, float]]:
        """The weight of p(w | v), and p(w | u, v) of what was seen after the pair in this row of keys2."""
        rows = slice(self._starts3[row], self._starts3[row + 1])
        return self._unpack(self.backoff2[row], self.keys3[rows], self.logp3[rows])

    def _unpack_rows(self, v: int) -> dict[int, int]:
        """{w: row of vw in keys2}."""
        first, last = self._starts2[v], self._starts2[v + 1]
        return dict(zip((self.keys2[first:last] % self.vocab_size).tolist(), range(first, last), strict=True))

    def _unpack(self, backoff, keys, logp) -> tuple[float, dict[int, float]]:
        p = np.exp(logp, dtype=np.float64).tolist()
        return float(np.exp(backoff)), dict(zip((keys % self.vocab_size).tolist(), p, strict=True))

    def save(self, path: Path) -> None:
        np.savez_compressed(
            path,
            vocab_size=np.int64(self.vocab_size),
            logp1=self.logp1.astype(np.float32), backoff1=self.backoff1.astype(np.float32),
            delta2=np.diff(self.keys2, prepend=0).astype(np.uint32), logp2=self.logp2.astype(np.float32),
            backoff2=self.backoff2.astype(np.float32),
            delta3=np.diff(self.keys3, prepend=0), logp3=self.logp3.astype(np.float32),
        )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> NGram:
        try:
            with np.load(path, allow_pickle=False) as table:
                return cls(
                    table["vocab_size"], table["logp1"], table["backoff1"],
                    np.cumsum(table["delta2"].astype(np.int64)), table["logp2"], table["backoff2"],
                    np.cumsum(table["delta3"]), table["logp3"],
                )  # fmt: skip
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise WeightsError(
                f"The n-gram table {path} is missing or damaged ({error}). Restore it with `git checkout -- assets`."
            ) from error


class ContextNGram:
    """A 3-gram of the text so far, by interpolated absolute discounting.

    p(w | h) = max(c(hw) - D, 0) / c(h) + D n(h) / c(h) p(w | shorter h), down to 1 / V,
    where n(h) counts the distinct followers of h.
    """

    order = 3

    def __init__(self, vocab_size: int, ids: Sequence[int] = (), discount: float = 0.5):
        self.vocab_size, self.discount = vocab_size, discount
        self._followers: dict[tuple[int, ...], dict[int, int]] = {}
        self._totals: dict[tuple[int, ...], int] = {}
        self._tail: list[int] = []
        self.extend(ids)

    def extend(self, ids):
        for token in ids:
            for start in range(len(self._tail) + 1):
                history = tuple(self._tail[start:])
                counts = self._followers.setdefault(history, {})
                counts[token] = counts.get(token, 0) + 1
                self._totals[history] = self._totals.get(history, 0) + 1
            self._tail = [*self._tail, token][-(self.order - 1) :]

    def over(self, candidates):
        place = _places(candidates)
        unigram = self._interpolate([1.0 / self.vocab_size] * len(candidates), (), place)

        def judge(history):
            u, v = history
            return self._interpolate(self._interpolate(unigram, (v,), place), (u, v), place)

        return judge

    def _interpolate(self, shorter, history, place):
        total = self._totals.get(history)
        if not total:
            return shorter
        counts = self._followers[history]
        left = self.discount * len(counts) / total
        p = [left * x for x in shorter]
        for token in place.keys() & counts.keys():
            share = (counts[token] - self.discount) / total
            for index in place[token]:
                p[index] += share
        return p


class Mixture:
    """p = (1 - weight) p_ngram + weight p_context."""

    order = 3

    def __init__(self, ngram: NGram, context: ContextNGram, weight: float):
        self.ngram, self.context, self.weight = ngram, context, weight

    def extend(self, ids):
        self.context.extend(ids)

    def over(self, candidates):
        fitted, here = self.ngram.over(candidates), self.context.over(candidates)
        rest, weight = 1.0 - self.weight, self.weight

        def judge(history):
            return [rest * x + weight * y for x, y in zip(fitted(history), here(history), strict=True)]

        return judge


def make_proxy(kind: str, *, ngram: NGram | None, vocab_size: int, weight: float, prompt_ids: Sequence[int]) -> Proxy:
    """The proxy a run uses; `kind` as in `Settings.proxy`."""
    if kind in ("ngram", "ngram+context") and ngram is None:
        raise SettingsError(f"This pair has no fitted n-gram, so proxy = {kind} is not possible: use context or none.")
    if kind == "ngram":
        return ngram
    if kind == "context":
        return ContextNGram(vocab_size, prompt_ids)
    if kind == "ngram+context":
        return Mixture(ngram, ContextNGram(vocab_size, prompt_ids), weight)
    return NoProxy()
