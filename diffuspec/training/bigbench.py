"""Prompts of five families from BIG-bench's tasks (Srivastava et al., arXiv 2206.04615; the PyPI package `bigbench`).

Its tasks hold what people wrote for other ends: German and British news, how-to articles, plots of films, questions
that were asked of a search engine, passages with questions over them, word problems. Here they are asked in the manner
of Spec-Bench's families, whose own questions are kept out by `overlap.Kept`. Of several turns (mt) there is nothing:
those prompts are `prompts.Prompts`' part.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from diffuspec.errors import DiffuSpecError
from diffuspec.training.prompts import tokenised
from diffuspec.training.text import sentences

RAG_WORDS, ARTICLE_WORDS = 510, 900  # the most words of passages, as Spec-Bench has them, and of an article


def questions(folder: Path, seed: int = 0) -> dict[str, list[str]]:
    """User turns by Spec-Bench category, shuffled. folder: where `bigbench` is unpacked, or any folder above its tasks.

    Raises `DiffuSpecError` where the tasks are not there.
    """
    tasks = next((path.parent for path in sorted(folder.rglob("squad_shifts"))), None)
    if tasks is None:
        raise DiffuSpecError(f"{folder} holds no tasks of BIG-bench: unpack the source package `bigbench` there.")
    makers: dict[str, Callable[[Path, random.Random], Iterator[str]]] = {
        "translation": _translations,
        "summarization": _articles,
        "qa": _facts,
        "rag": _passages,
        "math_reasoning": _word_problems,
    }
    made = {}
    for category, make in makers.items():
        rng = random.Random(f"{seed}/{category}")
        made[category] = list(dict.fromkeys(make(tasks, rng)))
        rng.shuffle(made[category])
    return made


def _translations(tasks: Path, rng: random.Random) -> Iterator[str]:
    for article in _inputs(tasks / "gem/mlsum_de"):
        found = [s for s in sentences(_clean(article)) if 7 <= len(s.split()) <= 42]
        for sentence in rng.sample(found, min(4, len(found))):
            yield f"Translate German to English: {tokenised(rng, sentence)}"


def _articles(tasks: Path, rng: random.Random) -> Iterator[str]:
    natural = tasks / "natural_instructions"
    stories = [*_inputs(tasks / "gem/xsum"), *_inputs(tasks / "gem/wikilingua_en")]
    stories += [" ".join(paragraph for paragraph, _ in article) for article in _squad(tasks, "nyt_v1.0")]
    for task in ("subtask001_quoref_question_generation", "subtask026_drop_question_generation"):
        stories += dict.fromkeys(
            text.removeprefix("Passage: ").split("\nQuestion:")[0] for text in _inputs(natural / task)
        )
    for story in stories:
        words = _clean(story).split()
        if len(words) >= 120:
            yield "Summarize: " + " ".join(words[:ARTICLE_WORDS])


def _facts(tasks: Path, rng: random.Random) -> Iterator[str]:
    yield from (question for question, _ in _searched(tasks))
    yield from (_clean(question) for question in rng.sample(list(_inputs(tasks / "strategyqa")), 400))


def _passages(tasks: Path, rng: random.Random) -> Iterator[str]:
    """Neighbouring paragraphs and a question over one of them; or one that answers a question, among others."""
    for name, most in (("new_wiki_v1.0", 2), ("squaddev_v1.1", 2), ("nyt_v1.0", 1)):
        for article in _squad(tasks, name):
            for first in range(0, len(article), 4):
                part = article[first : first + 5]
                text = _first_words(paragraph for paragraph, _ in part)
                asked = [question for _, own in part[:3] for question in own]
                if len(text.split()) >= 150:
                    yield from (f"{text}\n{question}" for question in rng.sample(asked, min(most, len(asked))))
    known = [(question, context) for question, context in _searched(tasks) if len(context.split()) > 60]
    for question, context in rng.sample(known, min(1600, len(known))):
        texts = [context, *(other for _, other in rng.sample(known, 4))]
        rng.shuffle(texts)
        yield f"{_first_words(texts)}\n{question}"


def _word_problems(tasks: Path, rng: random.Random) -> Iterator[str]:
    for text in _inputs(tasks / "elementary_math_qa/question_only"):
        text = re.sub(r" ([?.,])", r"\1", _clean(text))
        if 12 <= len(text.split()) <= 90:
            yield text[0].upper() + text[1:]


def _searched(tasks: Path) -> Iterator[tuple[str, str]]:
    """(a question that was asked of a search engine, a text that was made to answer it)."""
    for text in _inputs(tasks / "contextual_parametric_knowledge_conflicts"):
        question, context = text.split("\nContext: ", 1)
        question = _clean(question).removeprefix("Question: ")
        yield question[0].upper() + question[1:], _clean(context)


def _squad(tasks: Path, name: str) -> Iterator[list[tuple[str, list[str]]]]:
    """Articles: of each, its paragraphs, and the questions over them."""
    for article in _read(tasks / "squad_shifts" / f"{name}.json")["data"]:
        yield [
            (_clean(part["context"]), [_clean(asked["question"]) for asked in part["qas"]])
            for part in article["paragraphs"]
        ]


def _inputs(task: Path) -> Iterator[str]:
    return (example["input"] for example in _read(task / "task.json")["examples"])


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DiffuSpecError(f"{path} cannot be read ({error}): is BIG-bench unpacked there as a whole?") from error


def _first_words(texts) -> str:
    return " ".join(" ".join(texts).split()[:RAG_WORDS])


def _clean(text: str) -> str:
    return " ".join(text.replace("``", '"').replace("''", '"').split())
