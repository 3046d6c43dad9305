"""Question files in Spec-Bench's format, and the ones that ship with the project."""

from __future__ import annotations

import codecs
import dataclasses
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffuspec.assets import ASSETS
from diffuspec.errors import DiffuSpecError

BUNDLED = ASSETS / "questions.jsonl"
FAMILIES = {
    **dict.fromkeys(("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"), "mt"),
    "math_reasoning": "math",
}


@dataclass(frozen=True)
class Question:
    """A question of a benchmark, with its turns.

    category: the Spec-Bench task family (its eight MT-Bench categories are one: mt).
    """

    id: str
    category: str
    turns: tuple[str, ...]


@dataclass(frozen=True)
class QuestionFile:
    """name, sha256: of the file the questions were read from, so that results say what they were measured on."""

    name: str
    sha256: str
    questions: tuple[Question, ...]

    def chosen(self, stride: int = 1, limit: int | None = None) -> QuestionFile:
        """Every `stride`-th question, at most `limit` of them."""
        return dataclasses.replace(self, questions=self.questions[::stride][:limit])

    def spread(self, limit: int) -> QuestionFile:
        """At most `limit` questions, evenly spaced: families stand one after another, and each is to be asked."""
        total, count = len(self.questions), min(limit, len(self.questions))
        return dataclasses.replace(self, questions=tuple(self.questions[i * total // count] for i in range(count)))


def read_questions(path: Path) -> QuestionFile:
    """Spec-Bench's format: {"question_id", "category", "turns": [...]} a line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DiffuSpecError(f"Cannot read {path.name}: {error.strerror}.") from error
    # Lines end with a line feed: JSON may hold U+2028 and U+0085 as they are, which str.splitlines would cut at.
    lines = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    questions = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                questions.append(_question(json.loads(line)))
            except (ValueError, RecursionError) as error:
                said = str(error) if type(error) is ValueError else "it is not JSON in UTF-8"
                raise DiffuSpecError(f"{path.name}, line {number}, is not a question: {said}.") from None
    if not questions:
        raise DiffuSpecError(f"{path.name} holds no question.")
    name, times = Counter(q.id for q in questions).most_common(1)[0]
    if times > 1:
        raise DiffuSpecError(f"{path.name} has the question_id {name} {times} times: each must have its own.")
    return QuestionFile(path.name, hashlib.sha256(data).hexdigest(), tuple(questions))


def _question(row: Any) -> Question:
    """A line's question; raises `ValueError` with what is wrong."""
    if not isinstance(row, dict) or not {"question_id", "category", "turns"} <= row.keys():
        raise ValueError('it must be an object with "question_id", "category" and "turns"')
    number, category, turns = row["question_id"], row["category"], row["turns"]
    if isinstance(number, bool) or not isinstance(number, str | int) or number == "":
        raise ValueError('its "question_id" must be a number or a text')
    if not isinstance(category, str) or not category:
        raise ValueError('its "category" must be a text')
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        raise ValueError('its "turns" must be a list of texts, at least one')
    return Question(str(number), FAMILIES.get(category, category), tuple(turns))


def bundled_questions() -> QuestionFile:
    """Our own: three of each of the six families, short, for a first look. Not Spec-Bench's."""
    return read_questions(BUNDLED)
