"""In-context continuations: what followed the same words earlier in this text.

An answer repeats its question, its own headings, names and code. Prompt lookup (Saxena 2023; LLMA,
arXiv 2304.04487) takes the longest suffix of the text that stood there before and copies what came
after it, at no cost. Here a copied token is one more candidate for the place after a node of the
prefix tree (see `method.tree`), so that a node may carry a token that no lattice column holds, and a
copied run may go deeper than the lattice has columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from diffuspec.method import compiled
from diffuspec.method.compiled.options import LONGEST, Copies
from diffuspec.method.lattice import id_array
from diffuspec.settings import Settings

# w(m), see `method.tree`, for m = 1, 2, 3, ... matching tokens; the last holds for all longer matches. Fitted by
# maximum likelihood of the mixture on 28,000 places in answers of the embedded target, unseen by its drafter.
COPY_WEIGHTS = (0.18, 0.48, 0.60, 0.75, 0.80, 0.80, 0.80, 0.80, 0.80, 0.80, 0.93)
_WEIGHTS = np.array(COPY_WEIGHTS)


def copy_weight(length: int) -> float:
    """w: the share of the copied token in P(v | node), `length` tokens matching before it."""
    return COPY_WEIGHTS[min(length, len(COPY_WEIGHTS)) - 1]


class Copy(NamedTuple):
    """Something to copy: `token`, which stands at `place` of the text after `length` tokens that match."""

    token: int
    place: int
    length: int


class CopySource:
    """The text so far, by its suffixes: the newest place where each n-gram stood, n <= `LONGEST`.

    Suffixes are looked up to that length; a run that goes on matching counts on from there.
    """

    def __init__(self, ids: Iterable[int] = ()):
        self.text, self.newest, self.size = np.zeros(1, np.int64), np.zeros(1, np.int64), 0
        self.extend(ids)

    def extend(self, ids: Iterable[int]) -> None:
        added = list(ids)
        known, self.size = self.size, self.size + len(added)
        if self.size > len(self.text):
            room = 1 << (2 * self.size).bit_length()
            self.text = np.concatenate([self.text[:known], np.zeros(room - known, np.int64)])
            self.newest, self.text[known : self.size] = np.zeros(2 * LONGEST * room, np.int64), added
            known = 0
        else:
            self.text[known : self.size] = added
        compiled.remember(self.text, known, self.size, self.newest)

    def copies(self, after: int) -> Copies:
        """As compiled code takes them, to be copied where at least `after` tokens match."""
        return self.text, self.newest, self.size, after, _WEIGHTS

    def after(self, tail: Sequence[int]) -> Copy | None:
        """What followed the longest suffix of `tail` that stood in the text before; at most `LONGEST` of it count."""
        last = id_array(tail[-LONGEST:])
        return self._copy(*compiled.look_back(self.text, self.newest, last, len(last)))

    def now(self) -> Copy | None:
        """What may be copied after the text as it stands; a match longer than `LONGEST` is counted to its end."""
        return self._copy(*compiled.look_back_now(self.text, self.newest, self.size))

    def _copy(self, place: int, length: int) -> Copy | None:
        return Copy(int(self.text[place]), place, length) if place >= 0 else None


def make_source(settings: Settings, ids: Iterable[int]) -> CopySource | None:
    """What the settings let a tree copy from; `ids`: the text so far."""
    return CopySource(ids) if settings.search == "tree" and settings.copy else None
