"""The glossary as the page's script reads it, and as a page of its own."""

from __future__ import annotations

import re
from typing import Any

from diffuspec.settings import Settings
from diffuspec.ui.learn.glossary import Term, glossary
from diffuspec.ui.learn.lessons import lessons

OTHERS = ("dtype", "preset")  # choices of the page that are no knobs of `Settings`


PAPER = "https://arxiv.org/html/2510.02358v1"
# The paper's equations that the app names: number -> what it says, and the section it stands in.
EQUATIONS = {
    2: ("accepted tokens a step", ""),
    5: ("refinement passes of the drafter", ""),
    7: ("what pruning keeps of a column", "3.2"),
    8: ("the score of a path", "3.3"),
    9: ("generated and accepted length", "3.4"),
    10: ("moving averages", "3.4"),
    11: ("the next draft length", "3.4"),
}


def entries() -> dict[str, dict[str, Any]]:
    """id -> name, text, choices of its knob, selectors of the knobs it explains, the lesson that shows it, and the
    paper's equations."""
    return {term.id: _entry(term) for term in glossary().values()}


def _entry(term: Term) -> dict[str, Any]:
    shown = next((lesson for lesson in lessons() if lesson.name == term.lesson), None)
    knob = term.knob and f"#{'' if term.knob in OTHERS else 'knob-'}{term.knob} [data-testid='block-info']"
    return {
        "name": term.name,
        "text": term.text,
        "choices": _choices(term.knob),
        "knobs": [knob] if knob else [],
        "lesson": shown and f"Lesson {shown.number}: {shown.title}",
        "href": shown and f"#learn/{shown.name}",
        "equations": [_equation(number) for number in term.equations],
    }


def _choices(knob: str | None) -> list[list[str]]:
    """(name, what it does) of each choice of a knob that has some, as its meaning tells."""
    found = Settings.knobs().get(knob or "")
    if found is None or not found.choices:
        return []
    told = {choice: re.search(rf"(?<![\w-]){re.escape(choice)}: ([^;]+)", found.meaning) for choice in found.choices}
    return [[choice, said[1]] for choice, said in told.items() if said]


def _equation(number: int) -> dict[str, str]:
    title, section = EQUATIONS[number]
    where = f" (section {section})" if section else ""
    return {"words": f"Paper, Eq. {number}: {title}{where}", "href": f"{PAPER}#S3.E{number}"}


def glossary_page() -> str:
    """All entries as Markdown."""
    parts = []
    for term in glossary().values():
        entry = _entry(term)
        text = re.sub(r"\[\[([\w-]+)\]\]", lambda m: f"[{glossary()[m[1]].name}](#term-{m[1]})", term.text)
        places = [(entry["lesson"], entry["href"])] if entry["lesson"] else []
        places += [(equation["words"], equation["href"]) for equation in entry["equations"]]
        where = " · ".join(f"[{words}]({href})" for words, href in places)
        parts.append(f"**{term.name}**. {text} {where}".strip())
    return "\n\n".join(parts)
