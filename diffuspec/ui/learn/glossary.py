"""The glossary: one Markdown file, `lessons/glossary.md`, behind every linked term of the app."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent / "lessons" / "glossary.md"


@dataclass(frozen=True)
class Term:
    """An entry of the glossary.

    text: plain, with `[[id]]` where it names another term; knob: the setting it explains; lesson: name of the one
    that shows it; equations: numbers of the paper's that it names or belongs to.
    """

    id: str
    name: str
    text: str
    knob: str | None = None
    lesson: str | None = None
    equations: tuple[int, ...] = ()


@functools.cache
def glossary() -> dict[str, Term]:
    """id -> `Term`, in alphabetical order of the names."""
    _, *entries = FILE.read_text(encoding="utf-8").split("\n## ")
    terms = (_parse(entry) for entry in entries)
    return {term.id: term for term in sorted(terms, key=lambda term: term.name.lower())}


def _parse(entry: str) -> Term:
    head, _, text = entry.partition("\n\n")
    name, *lines = head.split("\n")
    keys = dict(line.split(": ", 1) for line in lines)
    identity = keys.pop("id", re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-"))
    equations = {int(number) for number in keys.pop("eq", "").split()}
    for first, last in re.findall(r"\bEqs?\. (\d+)(?: to (\d+))?", text):
        equations |= set(range(int(first), int(last or first) + 1))
    return Term(identity, name, " ".join(text.split()), equations=tuple(sorted(equations)), **keys)
