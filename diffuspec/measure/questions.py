"""Question files in Spec-Bench's format, and the ones that ship with the project."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from diffuspec.assets import ASSETS
from diffuspec.errors import DiffuSpecError

BUNDLED = ASSETS / "questions.jsonl"
FAMILIES = {
    **dict.fromkeys(
        ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"), "mt"
    ),
    "math_reasoning": "math",
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """category: the Spec-Bench task family (its eight MT-Bench categories are one: mt)."""

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
        rows = [json.loads(line) for line in data.decode("utf-8").splitlines() if line.strip()]
        questions = tuple(
            Question(str(r["question_id"]), FAMILIES.get(r["category"], r["category"]), tuple(map(str, r["turns"])))
            for r in rows
        )
    except OSError as error:
        raise DiffuSpecError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DiffuSpecError(
            f'{path} is not a question file: each line must hold "question_id", "category" and "turns" ({error!r}).'
        ) from error
    if not questions:
        raise DiffuSpecError(f"{path} holds no question.")
    name, times = Counter(q.id for q in questions).most_common(1)[0]
    if times > 1:
        raise DiffuSpecError(f"{path} has the question_id {name} {times} times: each must have its own.")
    return QuestionFile(path.name, hashlib.sha256(data).hexdigest(), questions)


def bundled_questions() -> QuestionFile:
    """Our own: three of each of the six families, short, for a first look. Not Spec-Bench's."""
    return read_questions(BUNDLED)
