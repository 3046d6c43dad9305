"""Hidden states of a target, kept beside its cache for drafters that read them.

Entries are counted as in `hidden_states` of `transformers`: 0 is the embedding, j the output of decoder layer j - 1,
and the last one, j = number of layers, is taken after the final normalisation. The output of layer i, counted from 0,
is entry i + 1: drafters of z-lab count layers, those of `speculators` entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

CHUNK = 256  # grows by this many positions at least


class HiddenStates:
    """Of each position of one cache the hidden states of some entries, one behind the other.

    entries: which; rows: float [length, len(entries) * h]; derived: what drafters made of them and keep, by drafter, an
    object with `forget(length)`.
    """

    def __init__(self, entries: Sequence[int]):
        self.entries = tuple(entries)
        self.length = 0
        self.derived: dict[object, object] = {}
        self._store: torch.Tensor | None = None

    @property
    def rows(self) -> torch.Tensor:
        return self._store[: self.length]

    def put(self, first: int, states: Sequence[torch.Tensor]) -> None:
        """Write down those of the positions from `first` on; states: by entry, float [n, h]."""
        new = torch.cat(list(states), -1)
        end = first + len(new)
        if self._store is None:
            self._store = new.new_empty(0, new.shape[1])
        if end > len(self._store):
            grown = new.new_empty(max(end, len(self._store) + max(CHUNK, len(self._store) // 4)), new.shape[1])
            grown[:first] = self._store[:first]
            self._store = grown
        self._store[first:end] = new
        self.forget(first)
        self.length = end

    def forget(self, length: int) -> None:
        """Forget the positions from `length` on."""
        self.length = min(self.length, length)
        for made in self.derived.values():
            made.forget(length)

    def keep(self, first: int, rows: Sequence[int]) -> None:
        """Move the positions first + rows (increasing) to first, first + 1, ...; forget all behind them."""
        same = next((i for i, row in enumerate(rows) if row != i), len(rows))
        if same < len(rows):
            chosen = torch.tensor([first + row for row in rows[same:]], device=self._store.device)
            self._store[first + same : first + len(rows)] = self._store[chosen]
        self.forget(first + same)
        self.length = first + len(rows)


def hidden_of(cache) -> HiddenStates | None:
    """What is kept beside a cache, None where nothing is."""
    return getattr(cache, "hidden", None)
