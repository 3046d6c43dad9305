"""The token lattice and its pruning (DiffuSpec, section 3.2, Eq. 7).

One drafter pass gives a distribution q_i per masked position i. Its likeliest tokens, ranked,
are column i of the lattice. Pruning keeps, per column,

    m_i = min { m : sum of the m largest q_i  >=  tau },   m_i <= M_max

and keeps every stop token that the drafter ranked among its top M_max, so that an early end
of the answer stays reachable.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from diffuspec.method import compiled
from diffuspec.method.compiled.options import Cells


@dataclass(frozen=True)
class TokenLattice:
    """k columns of W ranked candidates.

    ids:  int32 [k, W], token ids, best first.
    logq: float32 [k, W], natural log of the drafter's probability, descending along a row.
    kept: bool [k, W], True where the candidate survives pruning.

    W may exceed M_max: what was pruned is still there to be looked at.
    """

    ids: Annotated[np.ndarray, np.int32, 2]
    logq: Annotated[np.ndarray, np.float32, 2]
    kept: Annotated[np.ndarray, np.bool_, 2]

    @property
    def k(self) -> int:
        return self.ids.shape[0]

    @property
    def width(self) -> int:
        return self.ids.shape[1]

    @property
    def raw_draft(self) -> np.ndarray:
        """The likeliest token of every column, int32 [k]."""
        return self.ids[:, 0] if self.k else np.zeros(0, np.int32)

    def kept_cells(self) -> list[tuple[list[int], list[int], list[float]]]:
        """Rows, token ids and log q of the kept cells of each column: a search reads them one by one."""
        found = []
        for kept, ids, logq in zip(self.kept.tolist(), self.ids.tolist(), self.logq.tolist(), strict=True):
            rows = [row for row, stays in enumerate(kept) if stays]
            found.append((rows, [ids[row] for row in rows], [logq[row] for row in rows]))
        return found

    def cells(self) -> Cells:
        """ids, logq and kept as compiled code takes them: contiguous, and not read-only."""
        return (
            np.require(self.ids, np.int32, ["C", "W"]),
            np.require(self.logq, np.float32, ["C", "W"]),
            np.require(self.kept, np.bool_, ["C", "W"]),
        )

    def rank_of(self, column: int, token: int) -> int | None:
        """0-based rank of `token` in a column, None where the lattice does not hold it."""
        hits = np.flatnonzero(self.ids[column] == token)
        return int(hits[0]) if hits.size else None


def id_array(ids: Collection[int]) -> np.ndarray:
    """Token ids as compiled code takes them, int64 [n]; of a frozen set always the same array, never written to."""
    return _frozen(ids) if isinstance(ids, frozenset) else np.fromiter(ids, np.int64, len(ids))


@functools.lru_cache(64)
def _frozen(ids: frozenset[int]) -> np.ndarray:
    return np.fromiter(ids, np.int64, len(ids))


def prune(ids: np.ndarray, logq: np.ndarray, *, tau: float, m_max: int, stop_ids: Collection[int]) -> TokenLattice:
    """Eq. 7 for every column of ranked candidates `ids`, `logq` (both [k, W]).

    A column whose W candidates do not reach `tau` keeps min(W, m_max) of them.
    """
    ids, logq = np.require(ids, np.int32, ["C", "W"]), np.require(logq, np.float32, ["C", "W"])
    kept = compiled.pruned(ids, logq, id_array(stop_ids), float(tau), m_max)
    return TokenLattice(ids, logq, kept)


def generated_length(raw_draft: np.ndarray, stop_ids: Collection[int]) -> int:
    """L_gen (Eq. 9): tokens of the raw draft [k] before its first stop token, at most k."""
    for position, token in enumerate(raw_draft.tolist()):
        if token in stop_ids:
            return position
    return len(raw_draft)
