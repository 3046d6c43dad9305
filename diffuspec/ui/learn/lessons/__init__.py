"""The lessons: Markdown with front matter, in the order of their file names.

    title      what the lesson is called
    compute    a function of `puzzles`: finds a real step or computes a real example, and gives the answer and the
               numbers that the question and the reveal name in braces
    question   what the reader is to predict before anything is revealed
    choices    key -> words, where the answer is one of a few; else
    unit, low, high, step, within   of a number, and how far a prediction may be off and still count as right
    reveal     what is said afterwards
    inputs     sliders of the computation: name -> label, low, high, step, value
    phase      the phase in which the step is opened on the Playground; `settings` where the lesson sets knobs instead

The body has a line `<!-- picture -->` where the picture of `learn.pictures` stands, equations in KaTeX and links
`#term-ID` into the glossary.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Lesson:
    """One lesson as written; braces in question, reveal and bounds are not filled in yet."""

    name: str
    number: int
    title: str
    body: str
    compute: str
    question: str
    reveal: str
    choices: dict[str, str] = field(default_factory=dict)
    unit: str = ""
    low: float | str = 0
    high: float | str = 0
    step: float = 1
    within: float = 0
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    phase: str | None = None
    settings: str | dict[str, Any] | None = None


@functools.cache
def lessons() -> tuple[Lesson, ...]:
    """All of them, in order."""
    files = sorted(HERE.glob("[0-9][0-9]-*.md"))
    return tuple(_parse(path, number) for number, path in enumerate(files, 1))


def lesson(name: str) -> Lesson:
    """Raises `KeyError` for an unknown name."""
    return {entry.name: entry for entry in lessons()}[name]


def _parse(path: Path, number: int) -> Lesson:
    _, head, body = path.read_text(encoding="utf-8").split("---\n", 2)
    return Lesson(name=path.stem[3:], number=number, body=body.strip(), **yaml.safe_load(head))
