"""Where the text so far holds the same words: suffixes by a hash (see `method.copying`)."""

from __future__ import annotations

from diffuspec.compilation import compiled
from diffuspec.method.compiled.options import LONGEST, MIX, OPTIONS


@compiled(**OPTIONS)
def _suffix(text, newest, tail, end, n):
    """Where the entry of the n tokens tail[end - n : end] stands or would stand."""
    mask, mixed = len(newest) - 1, n
    for i in range(end - n, end):
        mixed = mixed * MIX + tail[i]
    at = (mixed ^ mixed >> 29) & mask
    while newest[at]:
        place = newest[at] >> 3
        same = newest[at] & 7 == n
        i = 1
        while same and i <= n:
            same = text[place - i] == tail[end - i]
            i += 1
        if same:
            return at
        at = at + 1 & mask
    return at


@compiled(**OPTIONS)
def remember(text, first, last, newest):
    """Enter the n-grams before text[first:last], n <= LONGEST.

    newest: int64 [a power of 2], 8 place + n for the newest place that an n-gram stands before, 0 for none.
    """
    for place in range(first, last):
        for n in range(1, min(place, LONGEST) + 1):
            newest[_suffix(text, newest, text, place, n)] = 8 * place + n


@compiled(**OPTIONS)
def look_back(text, newest, tail, end):
    """(place, length): what followed the longest suffix of tail[:end] in the text, (-1, 0) for nothing."""
    for n in range(min(end, LONGEST), 0, -1):
        entry = newest[_suffix(text, newest, tail, end, n)]
        if entry:
            return entry >> 3, n
    return -1, 0


@compiled(**OPTIONS)
def look_back_now(text, newest, size):
    """As `look_back` for text[:size] itself; a match of LONGEST is counted on to its beginning."""
    place, length = look_back(text, newest, text, size)
    if length == LONGEST:
        while length < place and text[place - 1 - length] == text[size - 1 - length]:
            length += 1
    return place, length
