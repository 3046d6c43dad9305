"""Tokens as readable text: white space made visible, bytes of one character brought together."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from diffuspec.trace.model import Trace
from diffuspec.trace.origin import UNKNOWN
from diffuspec.trace.steps import Step

ACCEPTED, PROMPT = "accepted", "prompt"
REPEATED_SPAN = 6  # tokens that are no chance repetition any more
LOOPING, FEW = 0.25, 24  # from this share on an answer of so many tokens loops
WHITE = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}


class Spelling(Protocol):
    """What knows the tokens of a vocabulary: a `Trace` or a `Race`."""

    special: tuple[int, ...]
    stop_ids: tuple[int, ...]

    def piece(self, token: int) -> bytes: ...


@dataclass(frozen=True)
class Unit:
    """Smallest piece of text that can be shown: one token, or the tokens that share a character.

    steps, origins: of each of its tokens; origin is "prompt", "accepted", "correction" or "bonus".
    """

    text: str
    tokens: tuple[int, ...]
    steps: tuple[int, ...]
    origins: tuple[str, ...]
    special: bool = False


def visible(text: str) -> str:
    """White space and control characters as printable signs."""
    return "".join(WHITE.get(c) or (c if _printable(c) else f"⟨U+{ord(c):04X}⟩") for c in text)


def _printable(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def token_label(spelling: Spelling, token: int) -> str:
    """One token as a cell shows it: `·speed`, `↵`, `⟨im_end⟩`, `⟨E2 80⟩` for a part of a character."""
    if token == UNKNOWN:
        return "▯"
    raw = spelling.piece(token)
    if token in spelling.special or token in spelling.stop_ids:
        return f"⟨{raw.decode('utf-8', 'replace').strip('<|>') or token}⟩"
    if not raw:
        return f"⟨{token}⟩"
    try:
        return visible(raw.decode())
    except UnicodeDecodeError:
        return f"⟨{raw.hex(' ').upper()}⟩"


def origins(step: Step) -> tuple[str, ...]:
    """Where each emitted token of a step came from."""
    return tuple(
        ACCEPTED if place < step.accepted else step.verification.kind or ACCEPTED for place in range(len(step.emitted))
    )


def repeated_share(tokens: Sequence[int], span: int = REPEATED_SPAN) -> float:
    """Share of the tokens, 0 to 1, that stand in a run of `span` tokens or more that occurred before."""
    seen: set[tuple[int, ...]] = set()
    repeated = [False] * len(tokens)
    for start in range(len(tokens) - span + 1):
        run = tuple(tokens[start : start + span])
        if run in seen:
            repeated[start : start + span] = [True] * span
        seen.add(run)
    return sum(repeated) / len(tokens) if tokens else 0.0


def looping(tokens: Sequence[int]) -> str:
    """What to know of an answer that goes round in circles, as a sentence; empty where it does not."""
    share = repeated_share(tokens)
    if share < LOOPING or len(tokens) < FEW:
        return ""
    part = "Nearly all" if share >= 0.9 else "Half" if 0.45 <= share <= 0.55 else f"{share:.0%}"
    return f"{part} of this text repeats: such text is easier to draft."


def answer_units(trace: Trace) -> list[Unit]:
    """The answer as units, in order."""
    marked = [
        (token, step.index, origin)
        for step in trace.steps
        for token, origin in zip(step.emitted, origins(step), strict=True)
    ]
    return units(trace, marked)


def prompt_units(trace: Trace) -> list[Unit]:
    """The prompt as the target saw it, chat template included; its step is -1."""
    return units(trace, [(token, -1, PROMPT) for token in trace.prompt_ids])


def units(spelling: Spelling, marked: Sequence[tuple[int, int, str]]) -> list[Unit]:
    """Tokens marked (id, step, origin), in order, as units."""
    special = set(spelling.special) | set(spelling.stop_ids)
    made, held, raw = [], [], b""
    for entry in marked:
        token = entry[0]
        nameless = not spelling.piece(token)
        if token in special or nameless:
            if held:
                made.append(_unit(raw.decode("utf-8", "replace"), held))
            made.append(_unit(token_label(spelling, token), [entry], special=token in special or token != UNKNOWN))
            held, raw = [], b""
            continue
        held, raw = [*held, entry], raw + spelling.piece(token)
        if _whole(raw):
            made.append(_unit(raw.decode("utf-8", "replace"), held))
            held, raw = [], b""
    if held:
        made.append(_unit(raw.decode("utf-8", "replace"), held))
    return made


def _whole(raw: bytes) -> bool:
    """False while `raw` ends inside a character that further bytes could complete."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return error.reason != "unexpected end of data"
    return True


def _unit(text: str, held: Sequence[tuple[int, int, str]], special: bool = False) -> Unit:
    tokens, steps, came = zip(*held, strict=True)
    return Unit(text, tokens, steps, came, special)
