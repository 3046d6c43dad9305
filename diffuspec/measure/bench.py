"""Measures methods side by side by Spec-Bench's protocol (Xia et al., arXiv 2401.07851).

Batch 1, greedy, prefill included, several turns a question. Methods take turns question by question,
each question beginning with another one, so that a drift of the machine hits all alike; before the
first, every method answers once unmeasured. A method's speed-up is the mean over questions of its
tokens per second, divided by the mean of plain AR's in the same run. Every answer is compared with
AR's. Later turns follow AR's answers, so that all methods see the same prompts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from diffuspec import assets
from diffuspec.errors import PromptError
from diffuspec.measure.baselines import first_difference
from diffuspec.measure.journal import Journal
from diffuspec.measure.methods import METHODS, Emission, Variant, never
from diffuspec.measure.questions import Question, QuestionFile
from diffuspec.measure.results import YARDSTICK, Difference, Measured
from diffuspec.models.pair import Pair
from diffuspec.models.presets import EMBEDDED
from diffuspec.provenance import fingerprint, provenance, weights_fingerprint
from diffuspec.trace.steps import STAGES

WARM_UP_TOKENS = 16


@dataclass(frozen=True)
class Progress:
    """How far a measurement is.

    done, total: answers, one a variant and question; now: what comes next; results: of finished questions;
    skipped: (question id, why) of questions, or of their later turns, that could not be asked.
    """

    done: int
    total: int
    now: str
    results: tuple[Measured, ...]
    skipped: tuple[tuple[str, str], ...] = ()


def measure(
    pair: Pair,
    questions: Sequence[Question],
    variants: Sequence[Variant],
    *,
    journal: Journal | None = None,
    should_stop: Callable[[], bool] = never,
    heard: Callable[[Question, int, str, list[int], list[Emission]], None] | None = None,
) -> Iterator[Progress]:
    """Every variant on every question, greedily; a `Progress` after every answer.

    One variant must be named "ar". A journal is asked for questions measured before and told of each one
    finished; leaving the iterator, or should_stop() turning true, loses the question under way at most. heard is told
    of every answer: its question, turn (from 0), variant, prompt's token ids and emissions.
    """
    variants = [dataclasses.replace(v, settings=v.settings.replace(temperature=0)) for v in variants]
    known = journal.results if journal else {}
    skipped = {q.id: journal.skipped[q.id] for q in questions if journal and q.id in journal.skipped}
    results = {q.id: known[q.id] for q in questions if q.id in known}
    open_ = [(i, q) for i, q in enumerate(questions) if q.id not in known]
    total = len(questions) * len(variants)
    longest = max(variant.settings.max_new_tokens for variant in variants)

    def progress(done: int, now: str) -> Progress:
        finished = tuple(row for q in questions for row in results.get(q.id, ()))
        return Progress(done, total, now, finished, tuple(skipped.items()))

    done = len(results) * len(variants)
    first = next(
        (ids for _, q in open_ if not isinstance(ids := _asked(pair, [_user(q.turns[0])], longest), str)), None
    )
    if first is not None:
        for variant in variants:
            yield progress(done, f"warming up {variant.name}")
            short = dataclasses.replace(variant, settings=variant.settings.replace(max_new_tokens=WARM_UP_TOKENS))
            if _decode(pair, short, first, should_stop) is None:
                return
    for index, question in open_:
        sums = {variant.name: _Sum(variant.name, question) for variant in variants}
        shift = index % len(variants)
        order = [*variants[shift:], *variants[:shift]]
        messages: list[dict[str, str]] = []
        answered = 0
        for number, turn in enumerate(question.turns):
            messages.append(_user(turn))
            ids = _asked(pair, messages, longest)
            if isinstance(ids, str):
                skipped[question.id] = ids if number == 0 else f"from turn {number + 1} on: {ids}"
                break
            answers = {}
            for variant in order:
                # Answers count towards progress once all turns are done: turns of one question are one answer.
                yield progress(done + answered, f"question {question.id}, {variant.name}")
                emissions = _decode(pair, variant, ids, should_stop)
                if emissions is None:
                    return
                if heard:
                    heard(question, number, variant.name, ids, emissions)
                answers[variant.name] = [token for emission in emissions for token in emission.tokens]
                for emission in emissions:
                    sums[variant.name].add(emission)
                answered += number == len(question.turns) - 1
            expected = answers[YARDSTICK]
            for variant in variants:
                difference = first_difference(pair, ids, expected, answers[variant.name])
                if difference:
                    sums[variant.name].differences.append(Difference(number, **vars(difference)))
            text = pair.tokenizer.decode(expected, skip_special_tokens=True)
            messages.append({"role": "assistant", "content": text})
        results[question.id] = tuple(sums[variant.name].measured() for variant in variants)
        done += len(variants)
        if journal:
            journal.append(question.id, results[question.id], skipped.get(question.id))
    yield progress(done, "")


def _user(turn: str) -> dict[str, str]:
    return {"role": "user", "content": turn}


def _asked(pair: Pair, messages: Sequence[dict[str, str]], longest: int) -> list[int] | str:
    """Token ids of a question to which there is room for `longest` tokens, or why it cannot be asked."""
    try:
        ids = pair.encode(messages)
        room = pair.room(ids)
    except PromptError as error:
        return str(error)
    if room < longest:
        return f"its {len(ids)} tokens leave room for {room} of the {longest} that an answer may have"
    return ids


def _decode(pair: Pair, variant: Variant, ids: Sequence[int], should_stop: Callable[[], bool]) -> list[Emission] | None:
    """All emissions of one answer, None where it was stopped."""
    emissions = []
    for emission in METHODS[variant.method].start(pair, variant.settings, ids, should_stop):
        emissions.append(emission)
        if should_stop():
            return None
    return None if should_stop() else emissions


class _Sum:
    """Adds up what one variant did on one question."""

    def __init__(self, variant: str, question: Question):
        self.variant, self.question = variant, question
        self.tokens = self.steps = self.accepted = 0
        self.ms = 0.0
        self.stages = dict.fromkeys(STAGES, 0.0)
        self.positions: list[list[int]] = []
        self.lengths: dict[int, list[int]] = {}
        self.differences: list[Difference] = []

    def add(self, emission: Emission) -> None:
        self.tokens += len(emission.tokens)
        self.steps += 1
        self.accepted += emission.accepted
        self.ms += emission.ms
        step = emission.step
        if step is None:
            return
        for stage, ms in step.timing.stages().items():
            self.stages[stage] += ms
        while len(self.positions) < len(step.path):
            self.positions.append([0, 0, 0])
        for position in range(len(step.path)):
            counts = self.positions[position]
            counts[0] += 1
            counts[1] += step.verification.accepted >= position
            counts[2] += step.verification.accepted > position
        counts = self.lengths.setdefault(step.draft_length, [0, 0, 0])
        for i, n in enumerate((1, step.length.generated, step.length.accepted)):
            counts[i] += n

    def measured(self) -> Measured:
        return Measured(
            variant=self.variant,
            question=self.question.id,
            category=self.question.category,
            tokens=self.tokens,
            seconds=self.ms / 1e3,
            steps=self.steps,
            accepted=self.accepted,
            **{f"{stage}_ms": ms for stage, ms in self.stages.items()},
            positions=tuple(map(tuple, self.positions)),
            lengths=tuple((k, *counts) for k, counts in sorted(self.lengths.items())),
            differences=tuple(self.differences),
        )


def key(kind: str, pair: Pair, variants: Sequence[Variant], questions: QuestionFile) -> dict:
    """Everything that two halves of one measurement must have in common, for a `Journal`."""
    made_by = provenance()
    return {
        "measurement": kind,
        "questions": questions.sha256,
        "pair": vars(pair.info),
        "variants": {v.name: {"method": v.method, **v.settings.to_dict()} for v in variants},
        "machine": made_by.machine,
        "threads": made_by.threads,
        "versions": made_by.versions,
        "program": fingerprint("engine.py", "method", "models", "trace", "measure"),
        "weights": weights_fingerprint(assets.drafter(), assets.ASSETS / "ngram") if pair.info.name == EMBEDDED else "",
    }
