"""A lesson as the page shows it: text with the numbers filled in, the question, and what is revealed."""

from __future__ import annotations

import math
from typing import Any

import orjson

from diffuspec.errors import DiffuSpecError
from diffuspec.trace.gallery import Gallery
from diffuspec.ui.draw.palette import COLOURS
from diffuspec.ui.learn.lessons import Lesson, lesson, lessons
from diffuspec.ui.learn.lessons.puzzles import Outcome, Table, solve
from diffuspec.ui.learn.pictures import picture as draw
from diffuspec.ui.learn.terms import glossary_page

GLOSSARY = "glossary"
PICTURE = "<!-- picture -->"


def contents() -> str:
    """JSON text: the lessons in order, then the glossary."""
    entries: list[dict[str, Any]] = [
        {"name": entry.name, "number": entry.number, "title": entry.title} for entry in lessons()
    ]
    return _json({"lessons": [*entries, {"name": GLOSSARY, "number": None, "title": "Glossary"}]})


def article(name: str) -> tuple[str, str]:
    """A lesson's text before and after its picture, or the glossary, as Markdown. Raises `KeyError` for an unknown
    name."""
    if name == GLOSSARY:
        return "# Glossary", glossary_page()
    shown = lesson(name)
    before, _, after = shown.body.partition(PICTURE)
    return f"# {shown.number}. {shown.title}\n\n{before.strip()}", after.strip()


def picture(gallery: Gallery, name: str) -> str:
    """JSON text of a lesson's picture; of the search field where the glossary stands; null where there is none."""
    if name == GLOSSARY:
        return _json({"search": "Find a term"})
    try:
        return _json(draw(gallery, name))
    except DiffuSpecError as error:
        return _json({"rows": [], "caption": str(error)})


def question(gallery: Gallery, name: str) -> str:
    """JSON text of the quiz: the question without its answer; none for the glossary, or where a trace is missing."""
    if name == GLOSSARY:
        return _json({"lesson": None, "problem": None})
    asked = lesson(name)
    try:
        outcome = solve(gallery, asked.compute)
    except DiffuSpecError as error:
        return _json({"lesson": None, "problem": str(error)})
    fill = outcome.facts.__getitem__
    following = [entry for entry in lessons() if entry.number == asked.number + 1]
    return _json(
        {
            "lesson": asked.name,
            "question": asked.question.format_map(outcome.facts),
            "choices": list(asked.choices.items()),
            "unit": asked.unit,
            "step": asked.step,
            "low": _bound(asked.low, fill),
            "high": _bound(asked.high, fill),
            "table": _table(outcome.table),
            "inputs": asked.inputs,
            "open": _open_words(asked, outcome),
            "colours": COLOURS,
            "next": {"name": following[0].name, "title": following[0].title} if following else None,
        }
    )


def _bound(value: float | str, fill) -> float:
    return float(fill(value.strip("{}"))) if isinstance(value, str) else value


def _open_words(asked: Lesson, outcome: Outcome) -> str:
    if asked.settings is not None:
        return "Set these settings on the Playground"
    return f"Open step {outcome.step + 1} of this run on the Playground"


def reveal(gallery: Gallery, asked: dict[str, Any]) -> dict[str, Any]:
    """Answer a prediction: right, verdict, words, figure, about, after; or error. `asked` is untrusted."""
    try:
        shown = lesson(asked["lesson"])
        inputs = {
            name: _within(asked.get("inputs", {}).get(name, bounds["value"]), bounds)
            for name, bounds in shown.inputs.items()
        }
        first = solve(gallery, shown.compute)
        outcome = solve(gallery, shown.compute, inputs)
        right, verdict = _judge(shown, first, asked.get("guess"))
        figure = outcome.figure.to_plotly_json() if outcome.figure else None
        body = {
            "right": right,
            "verdict": verdict,
            "words": shown.reveal.format_map(outcome.facts),
            "figure": figure,
            "about": f"Figure to the lesson “{shown.title}”",
            "after": _table(outcome.after),
        }
    except DiffuSpecError as error:
        body = {"error": str(error)}
    except (KeyError, TypeError, ValueError, AttributeError):
        body = {"error": "This question cannot be answered: it names no lesson, or no number."}
    return orjson.loads(_json(body))


def _within(value: Any, bounds: dict[str, Any]) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    number = min(max(number, bounds["low"]), bounds["high"])
    return int(number) if isinstance(bounds["step"], int) else number


def _judge(shown: Lesson, outcome: Outcome, guess: Any) -> tuple[bool, str]:
    if shown.choices:
        right = guess == outcome.answer
        said, truth = (shown.choices.get(key, "nothing") for key in (guess, outcome.answer))
        return right, "✓ As you predicted." if right else f"✗ You predicted “{said}”. It is “{truth}”."
    number = float(guess)
    off = abs(number - outcome.answer)
    right = off <= shown.within + 1e-9
    digits = 0 if shown.within == 0 else 2
    truth = f"{outcome.answer:.{digits}f} {shown.unit}"
    if right:
        return (
            True,
            f"✓ {truth}, as you predicted." if off < 10**-digits / 2 else f"✓ {truth}; {number:g} is close enough.",
        )
    return False, f"✗ You predicted {number:g}. It is {truth}."


def _table(table: Table | None) -> dict[str, Any] | None:
    return table and {"head": table.head, "rows": table.rows}


def _json(body: dict[str, Any] | None) -> str:
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY).decode()
