"""The glossary as the page's script reads it, and as a page of its own."""

from __future__ import annotations

import re
from typing import Any

from diffuspec.ui.learn.glossary import Term, glossary
from diffuspec.ui.learn.lessons import lessons

OTHERS = ("dtype", "preset")  # choices of the page that are no knobs of `Settings`


def entries() -> dict[str, dict[str, Any]]:
    """id -> name, text, selectors of the knobs it explains, and the lesson that shows it."""
    return {term.id: _entry(term) for term in glossary().values()}


def _entry(term: Term) -> dict[str, Any]:
    shown = next((lesson for lesson in lessons() if lesson.name == term.lesson), None)
    knob = term.knob and f"#{'' if term.knob in OTHERS else 'knob-'}{term.knob} [data-testid='block-info']"
    return {
        "name": term.name,
        "text": term.text,
        "knobs": [knob] if knob else [],
        "lesson": shown and f"Lesson {shown.number}: {shown.title}",
        "href": shown and f"#learn/{shown.name}",
    }


def glossary_page() -> str:
    """All entries as Markdown."""
    parts = ["# Glossary"]
    for term in glossary().values():
        entry = _entry(term)
        text = re.sub(r"\[\[([\w-]+)\]\]", lambda m: f"[{glossary()[m[1]].name}](#term-{m[1]})", term.text)
        where = f" [{entry['lesson']}]({entry['href']})" if entry["lesson"] else ""
        parts.append(f"**{term.name}**. {text}{where}")
    return "\n\n".join(parts)
