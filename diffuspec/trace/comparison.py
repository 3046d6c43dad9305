"""Two runs beside each other: what was set otherwise, where their texts and their steps part, and what it gave."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

from diffuspec.trace.model import Trace


@dataclass(frozen=True)
class Comparison:
    """What tells run `b` from run `a`.

    same_prompt: whether the target saw the same ids; pairs: (of a, of b), None where they are the same; settings: knob
    -> (value in a, in b) of those that differ; tokens_alike: leading tokens that both answers share; same_text: whether
    one answer begins with the whole of the other; step: the first step (from 0) whose start, draft or verdict differs,
    None where all of the shorter run's are the same.
    """

    same_prompt: bool
    pairs: tuple[str, str] | None
    settings: dict[str, tuple[object, object]]
    tokens_alike: int
    same_text: bool
    step: int | None


def compare(a: Trace, b: Trace) -> Comparison:
    """Set two runs side by side."""
    before, after = a.settings.to_dict(), b.settings.to_dict()
    alike = 0
    for one, other in zip(a.token_ids, b.token_ids, strict=False):
        if one != other:
            break
        alike += 1
    names = tuple(f"{t.pair.target} + {t.pair.drafter}, {t.pair.dtype}, {t.pair.device}" for t in (a, b))
    return Comparison(
        same_prompt=a.prompt_ids == b.prompt_ids,
        pairs=None if names[0] == names[1] else names,
        settings={name: (before[name], after[name]) for name in before if before[name] != after[name]},
        tokens_alike=alike,
        same_text=alike == min(len(a.token_ids), len(b.token_ids)),
        step=_first_unlike(a, b),
    )


def _first_unlike(a: Trace, b: Trace) -> int | None:
    for index, (one, other) in enumerate(zip_longest(a.steps, b.steps)):
        if one is None or other is None:
            return None
        if (one.start, one.path, one.emitted) != (other.start, other.path, other.emitted):
            return index
    return None
