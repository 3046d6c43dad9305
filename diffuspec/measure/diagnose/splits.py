"""Whom the gain comes from: measured steps by task, language, code or prose, turn, context, entropy and repetition.

"2.3 times" may be an average over answers that repeat themselves; a table with counts tells.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffuspec.measure.statistics import Estimate, ratio
from diffuspec.trace.steps import Step

COMMON = {  # the commonest short words of a language
    "English": "the of and to in is that it for you with on as are this be have not",
    "German": "der die und das ist zu den von mit nicht ein eine auf für im sich des",
    "French": "le la les et des est que dans pour une du pas sur avec il au ce",
    "Spanish": "el la los que de en un por con para una es se del las como",
    "Italian": "il di che la per un non è con una del della sono le gli",
    "Portuguese": "o que de e do da em um para com não uma os no se na",
}
WORDS = {
    word: [name for name, others in COMMON.items() if word in others.split()]
    for words in COMMON.values()
    for word in words.split()
}
SCRIPTS = {
    "Cyrillic": r"[\u0400-\u04ff]",
    "Chinese or Japanese": r"[\u3040-\u30ff\u4e00-\u9fff]",
    "Korean": r"[\uac00-\ud7af]",
    "Arabic": r"[\u0600-\u06ff]",
    "Devanagari": r"[\u0900-\u097f]",
    "Greek": r"[\u0370-\u03ff]",
}
OPENINGS = "def class import from return for if while #include function const let var public".split()
CODE = re.compile(rf"```|^\s*({'|'.join(OPENINGS)})\b.*[:;({{]\s*$", re.MULTILINE)
CONTEXTS, REPEATED = (128, 256, 512, 1024, 4096), (0.2, 0.4, 0.6)
MATCH = 3  # tokens that stood before, for what follows to count as repeated


@dataclass(frozen=True)
class Answer:
    """One measured answer. text: its question's turn and its own; entropy: of each of its tokens, None where it was not
    asked for; plain_ms: of a token in plain decoding."""

    question: str
    category: str
    turn: int
    text: str
    prompt_ids: Sequence[int]
    steps: Sequence[Step]
    entropy: np.ndarray | None
    plain_ms: float


@dataclass(frozen=True)
class Split:
    """Of the steps on one side: speed-up is of decoding alone, prompts left out."""

    by: str
    value: str
    answers: int
    steps: int
    tokens: int
    tokens_per_step: float
    speedup: Estimate


def language(text: str) -> str:
    """By script, and of Latin letters by the commonest words; "other" where they do not tell."""
    for name, letters in SCRIPTS.items():
        if len(re.findall(letters, text)) > 0.2 * len(text):
            return name
    votes = Counter(name for word in re.findall(r"[^\W\d_]+", text.lower()) for name in WORDS.get(word, ()))
    (best, most), *rest = [*votes.most_common(2), ("other", 0)]
    return best if most >= 2 and most > (rest[0][1] if rest else 0) else "other"


def repetition(prompt_ids: Sequence[int], answer: Sequence[int]) -> float:
    """Share of the answer's tokens that followed the same three tokens before."""
    text, seen, repeated = list(prompt_ids) + list(answer), {}, 0
    for place in range(MATCH, len(text)):
        key = tuple(text[place - MATCH : place])
        if place >= len(prompt_ids):
            repeated += seen.get(key) == text[place]
        seen[key] = text[place]
    return repeated / len(answer) if answer else 0.0


def _between(value: float, edges: Sequence[float], form: str = "g") -> str:
    if value < edges[0]:
        return f"below {edges[0]:{form}}"
    below = max(edge for edge in edges if edge <= value)
    above = [edge for edge in edges if edge > value]
    return f"{below:{form}} to {above[0]:{form}}" if above else f"{below:{form}} and more"


def splits(answers: Sequence[Answer]) -> tuple[Split, ...]:
    """All of them, the overall one first."""
    rows: dict[tuple[str, str], list[tuple[Answer, Step]]] = {}
    known = [a.entropy for a in answers if a.entropy is not None and len(a.entropy)]
    thirds = np.quantile(np.concatenate(known), (1 / 3, 2 / 3)) if known else None
    for answer in answers:
        whole = [token for step in answer.steps for token in step.emitted]
        sides = [
            ("all", "all"),
            ("task", answer.category),
            ("language", language(answer.text)),
            ("text", "code" if CODE.search(answer.text) else "prose"),
            ("turn", "later" if answer.turn else "first"),
            ("repeated", _between(repetition(answer.prompt_ids, whole), REPEATED, ".0%")),
        ]
        for step in answer.steps:
            mine = [*sides, ("context", _between(len(answer.prompt_ids) + step.start, CONTEXTS))]
            if thirds is not None and answer.entropy is not None and step.start < len(answer.entropy):
                third = ("low", "middle", "high")[int(np.searchsorted(thirds, answer.entropy[step.start]))]
                mine.append(("entropy", third))
            for side in mine:
                rows.setdefault(side, []).append((answer, step))
    order = ("all", "task", "language", "text", "turn", "context", "entropy", "repeated")
    return tuple(
        _split(*side, mine) for by in order for side, mine in sorted(rows.items(), key=_place) if side[0] == by
    )


def _place(row) -> tuple:
    value = row[0][1]
    number = re.match(r"\d+", value)
    first = {"below": -1, "low": 0, "middle": 1, "high": 2, "first": 0, "later": 1}.get(value.split()[0])
    return (first if first is not None else int(number[0]) if number else 0, value)


def _split(by: str, value: str, mine: Sequence[tuple[Answer, Step]]) -> Split:
    plain: dict[str, float] = {}
    took: dict[str, float] = {}
    for answer, step in mine:
        plain[answer.question] = plain.get(answer.question, 0.0) + len(step.emitted) * answer.plain_ms
        took[answer.question] = took.get(answer.question, 0.0) + step.timing.total_ms
    tokens = sum(len(step.emitted) for _, step in mine)
    found = ratio(list(plain.values()), list(took.values()))
    return Split(by, value, len({(a.question, a.turn) for a, _ in mine}), len(mine), tokens, tokens / len(mine), found)
