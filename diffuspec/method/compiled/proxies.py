"""p_proxy, as the searches ask for it.

The searches call `judge` and `propose`. Compiled, these read the tables of `method.proxy`; a proxy of any other kind
is asked itself, and the same searches are then run as plain Python (see `method.proxy.searching`).
"""

from __future__ import annotations

import math

import numpy as np
from numba.extending import overload

from diffuspec.compilation import compiled
from diffuspec.method.compiled.options import MIX, MIX2, OPTIONS

_ZERO = np.int64(0)  # a literal 0 would have a function compiled for itself


def judge(proxy, column, tail, ids, kept, p):
    """p[row] = p_proxy(ids[column, row] | tail) for the kept rows of a column; -1 in `tail`: before the text."""
    proxy.judge(column, tail, ids, kept, p)


@overload(judge)
def _judge(proxy, column, tail, ids, kept, p):
    def read(proxy, column, tail, ids, kept, p):
        look_up(proxy, column, tail, ids, kept, p)

    return read


@compiled(**OPTIONS)
def look_up(tables, column, tail, ids, kept, p):
    """`judge` from the tables of a proxy."""
    ngram, counted, fitted, here = tables
    p1, backoff1, starts2, words2, logp2, _, backoff2, starts3, words3, logp3, _ = ngram
    counts, uniform, discount = counted
    n = len(tail)
    u = tail[n - 2] if n > 1 else -1
    v = tail[n - 1] if n > 0 else -1
    if fitted > 0.0 and (u >= len(p1) or v >= len(p1)):
        raise IndexError("a token id is outside the vocabulary of the n-gram")

    first2, last2, weight2, first3, last3, weight3 = 0, 0, 1.0, 0, 0, 1.0
    if fitted > 0.0 and v >= 0:
        first2, last2, weight2 = starts2[v], starts2[v + 1], math.exp(np.float64(backoff1[v]))
        row = _find(words2, np.int64(starts2[u]), np.int64(starts2[u + 1]), v) if u >= 0 else -1
        if row >= 0:
            first3, last3, weight3 = starts3[row], starts3[row + 1], math.exp(np.float64(backoff2[row]))
    slot0, slot1, slot2 = -1, -1, -1
    if here > 0.0:
        slot0 = _slot(counts, _ZERO, _ZERO)
        if v >= 0:
            slot1 = _slot(counts, v + 1, _ZERO)
            slot2 = _slot(counts, (u + 1 << 32) + v + 1, _ZERO) if u >= 0 else -1

    for row in range(ids.shape[1]):
        if not kept[column, row]:
            continue
        token, x, y = np.int64(ids[column, row]), 1.0, uniform
        if fitted > 0.0:
            if not 0 <= token < len(p1):
                raise IndexError("a token id is outside the vocabulary of the n-gram")
            at = _find(words3, first3, last3, token)
            if at >= 0:
                x = math.exp(np.float64(logp3[at]))
            else:
                at = _find(words2, first2, last2, token)
                x = math.exp(np.float64(logp2[at])) if at >= 0 else weight2 * p1[token]
                x *= weight3
        if here > 0.0:
            y = _interpolated(counts, slot0, _ZERO, token, discount, y)
            y = _interpolated(counts, slot1, v + 1, token, discount, y)
            y = _interpolated(counts, slot2, (u + 1 << 32) + v + 1, token, discount, y)
        if here == 0.0:
            p[row] = x
        else:
            p[row] = y if fitted == 0.0 else fitted * x + here * y


def propose(proxy, tail, tokens, p):
    """The likeliest tokens that a fitted n-gram saw after `tail`: fills tokens[:n] and p[:n], falling, and gives n.

    A proxy that has no tables proposes nothing.
    """
    return 0


@overload(propose)
def _propose(proxy, tail, tokens, p):
    def read(proxy, tail, tokens, p):
        return followers(proxy, tail, tokens, p)

    return read


@compiled(**OPTIONS)
def followers(tables, tail, tokens, p):
    """`propose` from the tables of a proxy: what stood after the last two tokens, then what after the last alone."""
    ngram, _, share, _ = tables
    p1, _, starts2, words2, logp2, order2, backoff2, starts3, words3, logp3, order3 = ngram
    n, size, most = len(tail), 0, len(tokens)
    u = tail[n - 2] if n > 1 else -1
    v = tail[n - 1] if n > 0 else -1
    if share == 0.0 or v < 0 or most == 0:
        return 0
    if u >= len(p1) or v >= len(p1):
        raise IndexError("a token id is outside the vocabulary of the n-gram")
    first3, last3, weight3 = 0, 0, 0.0
    row = _find(words2, np.int64(starts2[u]), np.int64(starts2[u + 1]), v) if u >= 0 else -1
    if row >= 0:
        first3, last3, weight3 = np.int64(starts3[row]), np.int64(starts3[row + 1]), np.float64(backoff2[row])
        for i in range(first3, min(last3, first3 + most)):
            at = order3[i]
            size = _enter(tokens, p, size, words3[at], np.float64(logp3[at]))
    for i in range(np.int64(starts2[v]), np.int64(starts2[v + 1])):
        at = order2[i]
        value = weight3 + np.float64(logp2[at])
        if size == most and value <= p[size - 1]:
            break
        if _find(words3, first3, last3, words2[at]) < 0:
            size = _enter(tokens, p, size, words2[at], value)
    for i in range(size):
        p[i] = math.exp(p[i])
    return size


@compiled(**OPTIONS)
def _enter(tokens, p, size, token, value):
    """Insert into the first `size` of two lists, in falling order of p; the new size, at most their length."""
    at = size
    while at and p[at - 1] < value:
        at -= 1
    if at < len(tokens):
        size = min(size + 1, len(tokens))
        for j in range(size - 1, at, -1):
            tokens[j], p[j] = tokens[j - 1], p[j - 1]
        tokens[at], p[at] = token, value
    return size


@compiled(**OPTIONS)
def _find(words, first, last, word):
    """Where `word` stands in the sorted words[first:last], -1 where it does not."""
    end = last
    while first < last:
        middle = (first + last) >> 1
        if words[middle] < word:
            first = middle + 1
        else:
            last = middle
    return first if first < end and words[first] == word else -1


@compiled(**OPTIONS)
def _interpolated(counts, slot, history, token, discount, shorter):
    """p(token | history) from that of the shorter history; slot: of the history's totals."""
    if slot < 0 or counts[slot, 2] == 0:
        return shorter
    total = counts[slot, 2]
    p = discount * counts[slot, 3] / total * shorter
    seen = counts[_slot(counts, history, token + 1), 2]
    return p + (seen - discount) / total if seen else p


@compiled(**OPTIONS)
def _slot(counts, history, token):
    """Where the entry of a history and a token stands or would stand: open addressing, an empty one has count 0."""
    mask = len(counts) - 1
    mixed = (history + 1) * MIX ^ token * MIX2
    at = (mixed ^ mixed >> 29) & mask
    while counts[at, 2] and (counts[at, 0] != history or counts[at, 1] != token):
        at = at + 1 & mask
    return at


@compiled(**OPTIONS)
def count(counts, ids, first):
    """Count ids[first:], each after the none, one and two before it.

    counts: int64 [a power of 2, 4], a row holds (history, token + 1, its count, 0), or of the history itself
    (history, 0, count of all its followers, how many of them are distinct); history: (u + 1) 2^32 + v + 1, 0 for none.
    """
    for i in range(first, len(ids)):
        for n in range(min(i, 2) + 1):
            history = 0
            for j in range(i - n, i):
                history = (history << 32) + ids[j] + 1
            of = _slot(counts, history, _ZERO)
            counts[of, 0] = history
            counts[of, 2] += 1
            at = _slot(counts, history, ids[i] + 1)
            if counts[at, 2] == 0:
                counts[at, 0], counts[at, 1] = history, ids[i] + 1
                counts[of, 3] += 1
            counts[at, 2] += 1
