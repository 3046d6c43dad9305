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
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from diffuspec.errors import SettingsError, WeightsError


class Proxy(Protocol):
    """order: tokens an n-gram spans; a path is judged by its last `order - 1` tokens."""

    order: int

    def logp(self, history: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """log p(candidate | history): history int [b, order - 1] (-1 before the text began),
        candidates int [m], result float64 [b, m]."""
        ...

    def extend(self, ids: Iterable[int]) -> None:
        """Tell the proxy that `ids` were added to the text."""
        ...


class NoProxy:
    """Knows nothing: every candidate scores 0, so that the drafter alone decides."""

    order = 1

    def logp(self, history, candidates):
        return np.zeros((len(history), len(candidates)))

    def extend(self, ids):
        pass


class NGram:
    """A 3-gram over token ids in back-off form.

    p(w | u, v) = exp(logp3[uvw])                    where the trigram was seen,
                  exp(backoff2[uv]) p(w | v)         otherwise (backoff2 = 0 for an unseen uv),
    p(w | v)    = exp(logp2[vw])  or  exp(backoff1[v]) p(w), likewise,
    p(w)        = exp(logp1[w]), float over the whole vocabulary.
    """

    order = 3

    def __init__(self, vocab_size, logp1, backoff1, keys2, logp2, backoff2, keys3, logp3):
        self.vocab_size = int(vocab_size)
        self.logp1, self.backoff1 = logp1, backoff1
        self.keys2, self.logp2, self.backoff2 = keys2, logp2, backoff2
        self.keys3, self.logp3 = keys3, logp3
        # A follower's row in keys2 is found by bisection; keys3 name their context by that row.
        self._starts3 = np.searchsorted(keys3, np.arange(len(keys2) + 1, dtype=np.int64) * self.vocab_size)
        self._starts2 = np.searchsorted(keys2, np.arange(self.vocab_size + 1, dtype=np.int64) * self.vocab_size)
        self._tokens2 = (keys2 % self.vocab_size).astype(np.int32)
        self._tokens3 = (keys3 % self.vocab_size).astype(np.int32)

    def extend(self, ids):
        pass

    def logp(self, history, candidates):
        out = np.empty((len(history), len(candidates)))
        unigram = self.logp1[candidates]
        for row, (u, v) in zip(out, history.tolist(), strict=True):
            if v < 0:
                row[:] = unigram
                continue
            first, last = self._starts2[v], self._starts2[v + 1]
            np.add(unigram, self.backoff1[v], out=row)
            self._overwrite(row, candidates, self._tokens2, self.logp2, first, last)
            if u < 0:
                continue
            low, high = self._starts2[u], self._starts2[u + 1]
            context = low + np.searchsorted(self._tokens2[low:high], v)
            if context < high and self._tokens2[context] == v:
                row += self.backoff2[context]
                first, last = self._starts3[context], self._starts3[context + 1]
                self._overwrite(row, candidates, self._tokens3, self.logp3, first, last)
        return out

    @staticmethod
    def _overwrite(row, candidates, tokens, logp, first, last):
        """Put logp[first:last] where tokens[first:last] (sorted) holds a candidate."""
        if first == last:
            return
        seen = tokens[first:last]
        at = np.searchsorted(seen, candidates)
        at[at == len(seen)] = 0
        hit = seen[at] == candidates
        row[hit] = logp[first:last][at[hit]]

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

    def p(self, history: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """As `logp`, without the logarithm."""
        place: dict[int, list[int]] = {}
        for index, token in enumerate(candidates.tolist()):
            place.setdefault(token, []).append(index)
        unigram = self._interpolate(np.full(len(candidates), 1.0 / self.vocab_size), (), place)
        out = np.empty((len(history), len(candidates)))
        for row, (u, v) in zip(out, history.tolist(), strict=True):
            row[:] = self._interpolate(self._interpolate(unigram, (v,), place), (u, v), place)
        return out

    def logp(self, history, candidates):
        return np.log(self.p(history, candidates))

    def _interpolate(self, shorter, history, place):
        total = self._totals.get(history)
        if not total:
            return shorter
        counts = self._followers[history]
        p = shorter * (self.discount * len(counts) / total)
        small, large = (counts, place) if len(counts) < len(place) else (place, counts)
        for token in small:
            if token in large:
                p[place[token]] += (counts[token] - self.discount) / total
        return p


class Mixture:
    """p = (1 - weight) p_ngram + weight p_context."""

    order = 3

    def __init__(self, ngram: NGram, context: ContextNGram, weight: float):
        self.ngram, self.context, self.weight = ngram, context, weight

    def extend(self, ids):
        self.context.extend(ids)

    def logp(self, history, candidates):
        p = np.exp(self.ngram.logp(history, candidates))
        p *= 1.0 - self.weight
        p += self.weight * self.context.p(history, candidates)
        return np.log(p)


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
