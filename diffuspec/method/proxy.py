"""Causal proxies: cheap judges of left-to-right fluency (DiffuSpec, section 3.3).

The paper fits a word 3-gram per data set. Here the 3-gram counts *token ids*, so it never has to
re-tokenise fragments of words. Two estimators, both proper distributions over the vocabulary:

NGram         interpolated Kneser-Ney (Kneser & Ney 1995; Chen & Goodman 1999), fitted once on
              the target's own answers and kept as a back-off table
ContextNGram  interpolated absolute discounting on the prompt and the output so far; it knows the
              names and phrases of this very text

`Mixture` is their weighted sum. `Following` is what some drafters learned of the order of tokens, for one lattice.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from diffuspec.errors import SettingsError, WeightsError
from diffuspec.method import compiled
from diffuspec.method.compiled.options import Counted, Tables

ENTRIES = 6  # that a token adds to a table of counts, at most: one n-gram and one history of each length

# What a proxy makes of a column: the last order - 1 token ids (-1 before the text began) -> p of each candidate.
Judge = Callable[[Sequence[int]], list[float]]


def last_tokens(context: Sequence[int], n: int) -> tuple[int, ...]:
    """The last n token ids of the context, -1 where it is shorter."""
    tail = tuple(context[-n:]) if n else ()
    return (-1,) * (n - len(tail)) + tail


class Proxy(Protocol):
    """A cheap judge of left-to-right fluency.

    order: tokens an n-gram spans; a path is judged by its last `order - 1` tokens.
    """

    order: int

    def over(self, candidates: Sequence[int], column: int = 0) -> Judge:
        """Prepare to judge these token ids of a lattice column, after any history. A column is judged after many:
        what does not depend on the history is looked up here, once."""
        ...

    def extend(self, ids: Iterable[int]) -> None:
        """Tell the proxy that `ids` were added to the text."""
        ...


class _Tabled:
    """A proxy that compiled searches read for themselves."""

    order = 3

    @property
    def tables(self) -> Tables:
        raise NotImplementedError

    def over(self, candidates, column=0):
        ids = np.array([candidates], np.int32)
        kept, p = np.ones(ids.shape, np.bool_), np.empty(len(candidates))

        def judge(history):
            compiled.look_up(self.tables, 0, np.array(history, np.int64), ids, kept, p)
            return p.tolist()

        return judge

    def extend(self, ids):
        pass


class _Asked:
    """What takes the place of tables where a proxy has none (see `compiled.proxies.judge`)."""

    def __init__(self, proxy: Proxy):
        self._proxy, self._judges = proxy, {}

    def judge(self, column, tail, ids, kept, p):
        rows = np.flatnonzero(kept[column])
        if column not in self._judges:
            self._judges[column] = self._proxy.over(tuple(ids[column, rows].tolist()), column)
        p[rows] = self._judges[column](tuple(tail[len(tail) - self._proxy.order + 1 :].tolist()))


def searching(search: Any, proxy: Proxy) -> tuple[Callable, Tables | _Asked]:
    """A search of `method.compiled` and what to give it for this proxy: compiled where the proxy has tables."""
    return (search, proxy.tables) if isinstance(proxy, _Tabled) else (search.py_func, _Asked(proxy))


_NO_FITTED = tuple(np.zeros(0, kind) for kind in ("f8", "f4", "i4", "i4", "f4", "i4", "f4", "i4", "i4", "f4", "i4"))
_NO_COUNTED = np.zeros((1, 4), np.int64), 0.0, 0.0


class NoProxy(_Tabled):
    """Knows nothing: every candidate scores 1, so that the drafter alone decides."""

    order = 1

    @property
    def tables(self) -> Tables:
        return _NO_FITTED, _NO_COUNTED, 0.0, 0.0


class NGram(_Tabled):
    """A 3-gram over token ids in back-off form.

    p(w | u, v) = exp(logp3[uvw])                    where the trigram was seen,
                  exp(backoff2[uv]) p(w | v)         otherwise (backoff2 = 0 for an unseen uv),
    p(w | v)    = exp(logp2[vw])  or  exp(backoff1[v]) p(w), likewise,
    p(w)        = exp(logp1[w]), float over the whole vocabulary.

    keys2 and keys3 are sorted int64: keys2 = v V + w, keys3 = (row of uv in keys2) V + w. Kept are the words w alone,
    where those after each v, or uv, start, and their rows by falling probability, history by history.
    """

    def __init__(self, vocab_size, logp1, backoff1, keys2, logp2, backoff2, keys3, logp3):
        self.vocab_size = int(vocab_size)
        self.logp1, self.backoff1, self.logp2, self.backoff2, self.logp3 = (
            np.require(table, np.float32, ["C", "W"]) for table in (logp1, backoff1, logp2, backoff2, logp3)
        )
        self._starts2, self._words2 = _by_history(keys2, self.vocab_size, self.vocab_size)
        self._starts3, self._words3 = _by_history(keys3, len(keys2), self.vocab_size)
        self.fitted = (
            np.exp(logp1, dtype=np.float64),
            self.backoff1,
            self._starts2,
            self._words2,
            self.logp2,
            _likeliest_first(self._starts2, self.logp2),
            self.backoff2,
            self._starts3,
            self._words3,
            self.logp3,
            _likeliest_first(self._starts3, self.logp3),
        )

    @property
    def tables(self) -> Tables:
        return self.fitted, _NO_COUNTED, 1.0, 0.0

    @property
    def keys2(self) -> np.ndarray:
        return _keys(self._starts2, self._words2, self.vocab_size)

    @property
    def keys3(self) -> np.ndarray:
        return _keys(self._starts3, self._words3, self.vocab_size)

    def save(self, path: Path) -> None:
        np.savez_compressed(
            path,
            vocab_size=np.int64(self.vocab_size),
            logp1=self.logp1.astype(np.float32),
            backoff1=self.backoff1.astype(np.float32),
            delta2=np.diff(self.keys2, prepend=0).astype(np.uint32),
            logp2=self.logp2.astype(np.float32),
            backoff2=self.backoff2.astype(np.float32),
            delta3=np.diff(self.keys3, prepend=0),
            logp3=self.logp3.astype(np.float32),
        )

    @classmethod
    def load(cls, path: Path) -> NGram:
        try:
            with np.load(path, allow_pickle=False) as table:
                return cls(
                    table["vocab_size"],
                    table["logp1"],
                    table["backoff1"],
                    np.cumsum(table["delta2"].astype(np.int64)),
                    table["logp2"],
                    table["backoff2"],
                    np.cumsum(table["delta3"]),
                    table["logp3"],
                )
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise WeightsError(
                f"The n-gram table {path} is missing or damaged ({error}). Restore it with `git checkout -- assets`."
            ) from error


def _by_history(keys: np.ndarray, histories: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Of sorted keys, history V + w: where each history's start, int32 [histories + 1], and the words w, int32."""
    starts = np.searchsorted(keys, np.arange(histories + 1, dtype=np.int64) * vocab_size)
    return starts.astype(np.int32), (keys % vocab_size).astype(np.int32)


def _likeliest_first(starts: np.ndarray, logp: np.ndarray) -> np.ndarray:
    """The rows of each history in turn, its likeliest word's first; ties: the smaller token id. int32."""
    # Without their signs, floats are ordered as integers are; one sort of one key takes a tenth of a sort by two.
    size = np.abs(logp, dtype=np.float32).view(np.int32)
    return np.argsort(_histories(starts) << 32 | size, kind="stable").astype(np.int32)


def _keys(starts: np.ndarray, words: np.ndarray, vocab_size: int) -> np.ndarray:
    return _histories(starts) * vocab_size + words


def _histories(starts: np.ndarray) -> np.ndarray:
    """Of each row, the history that it belongs to."""
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


class ContextNGram(_Tabled):
    """A 3-gram of the text so far, by interpolated absolute discounting.

    p(w | h) = max(c(hw) - D, 0) / c(h) + D n(h) / c(h) p(w | shorter h), down to 1 / V,
    where n(h) counts the distinct followers of h.
    """

    def __init__(self, vocab_size: int, ids: Sequence[int] = (), discount: float = 0.5):
        self.vocab_size, self.discount = vocab_size, discount
        self._ids: list[int] = []
        self._counts = np.zeros((1, 4), np.int64)
        self.extend(ids)

    @property
    def counted(self) -> Counted:
        return self._counts, 1.0 / self.vocab_size, self.discount

    @property
    def tables(self) -> Tables:
        return _NO_FITTED, self.counted, 0.0, 1.0

    def extend(self, ids):
        known = len(self._ids)
        self._ids.extend(ids)
        room = 2 * ENTRIES * len(self._ids)  # at most half full
        if len(self._counts) < room:
            self._counts, known = np.zeros((1 << (2 * room - 1).bit_length(), 4), np.int64), 0
        start = max(0, known - 2)
        compiled.count(self._counts, np.array(self._ids[start:], np.int64), known - start)


class Mixture(_Tabled):
    """p = (1 - weight) p_ngram + weight p_context."""

    def __init__(self, ngram: NGram, context: ContextNGram, weight: float):
        self.ngram, self.context, self.weight = ngram, context, float(weight)

    @property
    def tables(self) -> Tables:
        return self.ngram.fitted, self.context.counted, 1.0 - self.weight, self.weight

    def extend(self, ids):
        self.context.extend(ids)


def possible_proxy(kind: str, ngram: NGram | None) -> str:
    """The proxy asked for, or where it needs a fitted n-gram that the pair lacks, the n-gram of the text so far."""
    return "context" if ngram is None and "ngram" in kind else kind


LEARNED = ("markov", "selector")  # of the drafter, where it has one
LEAST = 1e-30  # p of a candidate that a learned term all but rules out


class Following:
    """A drafter's learned left-to-right term over the lattice that it drafted.

        p(v | path) = exp(log q_i(v) + added_i(path, v)) / sum of the same over the candidates asked for

    so that with lam = 0 and a beam of 1 the search takes the drafter's own walk. ids, logq: [k, W], of the lattice.
    added: float32 [k, P, W], by the row of the token before in column i - 1; column 0 is after the anchor, row 0. After
    a token that is no cell, such as a copied one, nothing is added. along: instead, of a term that depends on all of
    the path: (column, token ids from the anchor on) -> float32 [W].
    """

    def __init__(
        self,
        anchor: int,
        ids: np.ndarray,
        logq: np.ndarray,
        *,
        added: np.ndarray | None = None,
        along: Callable[[int, Sequence[int]], np.ndarray] | None = None,
    ):
        self._logq, self._added, self._along = logq, added, along
        self._row = [{token: row for row, token in enumerate(column)} for column in ids.tolist()]
        self._before = [{anchor: 0}, *self._row[:-1]]
        self._ids, self.anchor = ids, anchor
        self.order = 2 if along is None else len(ids) + 1

    def over(self, candidates, column=0):
        rows = [self._row[column][token] for token in candidates]
        logq, known = self._logq[column, rows].astype(float), {}

        def judge(history):
            path = tuple(history[-1:]) if self._along is None else tuple(history[len(history) - column - 1 :])
            if path not in known:
                score = logq + self._term(column, path)[rows]
                weights = np.exp(score - score.max())
                known[path] = np.maximum(weights / weights.sum(), LEAST).tolist()
            return known[path]

        return judge

    def _term(self, column: int, path: Sequence[int]) -> np.ndarray:
        if self._along is not None:
            return self._along(column, path)
        before = self._before[column].get(path[-1])
        if before is None or self._added is None:
            return np.zeros(self._logq.shape[1], np.float32)
        return self._added[column, before]

    def extend(self, ids):
        pass

    def walk(self) -> list[int]:
        """The drafter's own path: the best token of each column after the one before it; k token ids."""
        path: list[int] = [self.anchor]
        for column in range(len(self._ids)):
            term = self._term(column, path if self._along is not None else path[-1:])
            path.append(int(self._ids[column, np.argmax(self._logq[column] + term)]))
        return path[1:]


def make_proxy(kind: str, *, ngram: NGram | None, vocab_size: int, weight: float, prompt_ids: Sequence[int]) -> Proxy:
    """The proxy a run uses; `kind` as in `Settings.proxy`, as `possible_proxy` leaves it."""
    if kind == "context":
        return ContextNGram(vocab_size, prompt_ids)
    if kind not in ("ngram", "ngram+context"):
        return NoProxy()
    if ngram is None:
        raise SettingsError(f"There is no fitted n-gram here, so proxy = {kind} is not possible: use context or none.")
    return ngram if kind == "ngram" else Mixture(ngram, ContextNGram(vocab_size, prompt_ids), weight)
