"""The distribution a target is sampled from: temperature, then top-k, then top-p.

Top-p (nucleus sampling, Holtzman et al., arXiv 1904.09751) keeps the smallest set of likeliest
tokens whose mass reaches it; top-k keeps the k likeliest. What remains is renormalised. This is *the*
target for the acceptance rules: they are exact with respect to the filtered distribution.
"""

from __future__ import annotations

import numpy as np

from diffuspec.errors import ModelError

_NUCLEUS = 256
NOT_NUMBERS = (
    "The target computed logits that are not numbers (NaN or infinity): a damaged checkpoint, or an overflow in half "
    "precision. Check the weights, or try the dtype float32."
)


def distribution(logits: np.ndarray, temperature: float, top_k: int = 0, top_p: float = 1.0) -> np.ndarray:
    """p float64 [V] from logits [V] at a temperature above 0; top_k = 0 and top_p = 1 filter nothing.

    Raises `ModelError` where the logits are not numbers; -inf is one, for a token of probability 0.
    Of equally likely tokens the one with the smaller id counts as the likelier.
    """
    p = np.exp((logits - logits.max()) / temperature, dtype=np.float64)
    total = p.sum()
    if not np.isfinite(total):
        raise ModelError(NOT_NUMBERS)
    p /= total
    if 0 < top_k < len(p):
        p = _only(p, _likeliest(p, top_k))
    if top_p < 1.0:
        order = _likeliest(p, min(_NUCLEUS, len(p)))
        if p[order].sum() < top_p:
            order = _likeliest(p, len(p))
        before = np.cumsum(p[order]) - p[order]
        p = _only(p, order[before < top_p])
    return p


def draw(p: np.ndarray, u: float) -> int:
    """The token that u in [0, 1) falls on, by the inverse of the running sum; p [V] need not sum to 1."""
    total = np.cumsum(p)
    below = np.nextafter(total[-1], 0.0)  # else u near 1 could round up to the end
    return int(np.searchsorted(total, min(u * total[-1], below), side="right"))


def _likeliest(p: np.ndarray, n: int) -> np.ndarray:
    """Ids of the n largest, largest first."""
    if n < len(p):
        least = np.partition(p, len(p) - n)[len(p) - n]
        above, ties = np.flatnonzero(p > least), np.flatnonzero(p == least)
        found = np.concatenate([above, ties[: n - len(above)]])
    else:
        found = np.arange(len(p))
    return found[np.argsort(-p[found], kind="stable")]


def _only(p: np.ndarray, ids: np.ndarray) -> np.ndarray:
    kept = np.zeros_like(p)
    kept[ids] = p[ids]
    return kept / kept.sum()
