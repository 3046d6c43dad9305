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

from diffuspec.settings import Settings

LONGEST = 4  # the longest suffix that is looked up; a run that goes on matching counts on from there


# w(m), see `method.tree`, for m = 1, 2, 3, ... matching tokens; the last holds for all longer matches. Fitted by
# maximum likelihood of the mixture on 28,000 places in answers of the embedded target, unseen by its drafter.
COPY_WEIGHTS = (0.18, 0.48, 0.60, 0.75, 0.80, 0.80, 0.80, 0.80, 0.80, 0.80, 0.93)


def copy_weight(length: int) -> float:
    """w: the share of the copied token in P(v | node), `length` tokens matching before it."""
    return COPY_WEIGHTS[min(length, len(COPY_WEIGHTS)) - 1]


class Copy(NamedTuple):
    """Something to copy: `token`, which stands at `place` of the text after `length` tokens that match."""

    token: int
    place: int
    length: int


class CopySource:
    """The text so far, by its suffixes: the newest place where each n-gram stood, n <= `LONGEST`."""

    def __init__(self, ids: Iterable[int] = ()):
        self._text: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self.extend(ids)

    def extend(self, ids: Iterable[int]) -> None:
        for token in ids:
            end = len(self._text)
            for start in range(max(0, end - LONGEST), end):
                self._after[tuple(self._text[start:])] = end
            self._text.append(token)

    def after(self, tail: Sequence[int]) -> Copy | None:
        """What followed the longest suffix of `tail` that stood in the text before; at most `LONGEST` of it count."""
        tail = tuple(tail[-LONGEST:])
        for start in range(len(tail)):
            place = self._after.get(tail[start:])
            if place is not None:
                return Copy(self._text[place], place, len(tail) - start)
        return None

    def now(self) -> Copy | None:
        """What may be copied after the text as it stands; a match longer than `LONGEST` is counted to its end."""
        found = self.after(self._text)
        if found is None or found.length < LONGEST:
            return found
        text, length = self._text, found.length
        while length < found.place and text[found.place - 1 - length] == text[len(text) - 1 - length]:
            length += 1
        return found._replace(length=length)

    def chances(self, longest: int) -> list[float]:
        """How likely the first, the first two, ... of at most `longest` tokens copied now are the target's own."""
        found, copy, p = [], self.now(), 1.0
        while copy and len(found) < longest:
            found.append(p := p * copy_weight(copy.length))
            copy = self.next(copy)
        return found

    def next(self, copy: Copy) -> Copy | None:
        """What comes after a copied token, copying on; None where the text ends."""
        place = copy.place + 1
        return Copy(self._text[place], place, copy.length + 1) if place < len(self._text) else None


def make_source(settings: Settings, ids: Iterable[int]) -> CopySource | None:
    """What the settings let a tree copy from; `ids`: the text so far."""
    return CopySource(ids) if settings.search == "tree" and settings.copy else None
