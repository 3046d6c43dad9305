"""What is likely among many logits: asked of every pass, so it must not take long."""

from __future__ import annotations

import functools

import numpy as np
import torch

from diffuspec.compilation import compiled
from diffuspec.models.int8.ranks import likeliest_of, likeliest_one, no_ranks

FEW = 8  # likeliest tokens of a row that are written down


def likeliest(values: torch.Tensor) -> torch.Tensor:
    """As `values.argmax(-1)` of a float [rows, V] without NaN, but faster; ties: the first."""
    if values.device.type != "cpu" or values.dtype != torch.float32:
        return values.argmax(-1)
    return torch.from_numpy(likeliest_one(values.contiguous().numpy()))


class RankedLogits:
    """A pass's logits, float32 [n, V], of which a row is looked through once: by the threads of the pass itself where
    it gives its `ranks`, else when it is asked for. drawn: whether the rows' tokens were drawn already, by the target
    itself; they are not, and it has no requests that `took` time."""

    drawn, took = False, None

    def __init__(self, values: torch.Tensor, ranks: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None):
        self.values = values
        rows, width = values.shape
        self._ids, self._top, self._norm = ranks or no_ranks(rows, min(FEW, width))
        self._seen = np.full(rows, ranks is not None)
        self._all_seen = ranks is not None

    @functools.cached_property
    def array(self) -> np.ndarray:
        """The logits in numpy's hands."""
        return np.ascontiguousarray(self.values.cpu().numpy(), np.float32)

    @functools.cached_property
    def likeliest(self) -> np.ndarray:
        """Each row's argmax, int [n]; ties: the first."""
        return self._ids[:, 0] if self._all_seen else likeliest(self.values).cpu().numpy()

    def top(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of these rows, int64 [m]: ids and logits of the `FEW` likeliest tokens, best first, [m, ..], and
        logsumexp [m]."""
        if not self._all_seen:
            new = np.zeros(len(self._seen), bool)
            new[rows] = True
            new &= ~self._seen
            if new.any():
                found = likeliest_of(self.array, np.flatnonzero(new), self._ids.shape[1])
                self._ids[new], self._top[new], self._norm[new] = found
                self._seen |= new
        return self._ids[rows], self._top[rows], self._norm[rows]

    def gap(self, row: int, expected: int, got: int) -> float:
        """By how much one token's logit lies above another's."""
        return float(self.values[row, expected] - self.values[row, got])

    def are_numbers(self) -> bool:
        """False where a row holds NaN or +inf, or nothing but -inf."""
        return bool(np.isfinite(self.top(np.arange(len(self._norm)))[2]).all())

    def along(self, rows: np.ndarray, path: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """log p and 0-based rank of each token of a path, float32 and int32 [n], and log p of cells int32 [columns, W]
        beside it, float32 [n, W], NaN behind the last column; rows int64 [n]: what the target thought came there."""
        _, top, norm = self.top(rows)
        return _along(
            self.array, rows, top, norm, np.require(path, np.int32, ["C", "W"]), np.require(cells, np.int32, "CW")
        )

    def logp(self, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """log p of a token in each of these rows, float32 [m]."""
        return self.array[rows, tokens] - self.top(rows)[2]


@functools.cache
def warm_up() -> None:
    """Compile what the first step would wait for."""
    none = np.zeros((1, 1), np.int32)
    RankedLogits(torch.zeros(1, FEW)).along(np.zeros(1, np.int64), none[0], none)


@compiled(nogil=True, no_cfunc_wrapper=True)
def _along(logits, rows, top, norm, path, cells):
    n, width = len(path), cells.shape[1]
    logp, rank, beside = np.empty(n, np.float32), np.zeros(n, np.int32), np.full((n, width), np.nan, np.float32)
    for i in range(n):
        row = logits[rows[i]]
        value = row[path[i]]
        logp[i] = value - norm[i]
        for other in top[i]:
            rank[i] += other > value
        if rank[i] == top.shape[1]:  # whatever is larger than one of the top is among the top
            rank[i] = (row > value).sum()
        if i < len(cells):
            for j in range(width):
                beside[i, j] = row[cells[i, j]] - norm[i]
    return logp, rank, beside
