"""Fits the causal proxy: an interpolated Kneser-Ney 3-gram over token ids.

Chen & Goodman (1999), section 4.1.6, with one discount D_n = n1 / (n1 + 2 n2) per order:

    p(w | uv) = max(c(uvw) - D3, 0) / c(uv) + D3 N(uv.) / c(uv) p(w | v)
    p(w | v)  = max(N(.vw) - D2, 0) / N(.v.) + D2 N(v.) / N(.v.) p(w)
    p(w)      = max(N(.w) - D1, 0) / N(..) + D1 N(.) / N(..) 1 / V

c counts occurrences, N(.vw) distinct left neighbours: lower orders count continuations. The table
is kept in back-off form, so that each seen n-gram needs one number (see `method.proxy.NGram`).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from diffuspec.errors import DiffuSpecError
from diffuspec.method.proxy import NGram


def read_answers(path: Path) -> list[list[int]]:
    """The answers `r` (token ids) of a file of turns, one JSON object a line, gzip or plain."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as lines:
            return [json.loads(line)["r"] for line in lines]
    except (OSError, ValueError, KeyError) as error:
        raise DiffuSpecError(f'{path} is not a file of turns with answers "r" ({error}).') from error


def fit(answers: Iterable[list[int]], vocab_size: int, before: tuple[int, int]) -> NGram:
    """Count and smooth. before: the two ids that stand in front of every answer (the chat template's end)."""
    texts = [np.array([*before, *answer], np.int64) for answer in answers]
    if not texts or any(t.size and not (0 <= t.min() and t.max() < vocab_size) for t in texts):
        raise DiffuSpecError(f"Answers must hold token ids from 0 to {vocab_size - 1}, and there must be one.")
    v = vocab_size
    trigrams = np.concatenate([(t[:-2] * v + t[1:-1]) * v + t[2:] for t in texts])
    keys3, count3 = np.unique(trigrams, return_counts=True)
    ends, neighbours = np.unique(keys3 % (v * v), return_counts=True)
    contexts = keys3 // v
    keys2 = np.union1d(ends, contexts)
    count2 = np.zeros(len(keys2))
    count2[np.searchsorted(keys2, ends)] = neighbours
    left, right = np.divmod(keys2, v)
    row3 = np.searchsorted(keys2, contexts)

    mass1, left_over1 = _share(np.bincount(right, weights=count2 > 0, minlength=v), np.zeros(v, np.int64), 1)
    p1 = mass1 + left_over1[0] / v
    mass2, left_over2 = _share(count2, left, v)
    p2 = mass2 + left_over2[left] * p1[right]
    mass3, left_over3 = _share(count3, row3, len(keys2))
    p3 = mass3 + left_over3[row3] * p2[np.searchsorted(keys2, keys3 % (v * v))]
    log = lambda p: np.log(p).astype(np.float32)  # noqa: E731
    return NGram(v, log(p1), log(left_over2), keys2, log(p2), log(left_over3), row3 * v + keys3 % v, log(p3))


def _share(counts: np.ndarray, group: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Discounted relative frequency of each entry within its group, and what every group has left over."""
    once, twice = (counts == 1).sum(), (counts == 2).sum()
    discount = once / (once + 2 * twice) if once and twice else 0.5
    total = np.bincount(group, weights=counts, minlength=groups)
    mass = np.maximum(counts - discount, 0) / np.maximum(total, 1)[group]
    return mass, 1 - np.bincount(group, weights=mass, minlength=groups)
