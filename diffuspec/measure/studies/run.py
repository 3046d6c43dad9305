"""Runs a study, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffuspec.measure.methods import never
from diffuspec.measure.questions import QuestionFile
from diffuspec.measure.results import Measured, cautions
from diffuspec.measure.studies.catalogue import STUDIES
from diffuspec.measure.studies.result import MAX_TEXT, QuestionsUsed, StudyResult
from diffuspec.measure.studies.study import Row, Study
from diffuspec.settings import Settings

if TYPE_CHECKING:
    from diffuspec.models.pair import Pair


def stream_study(
    study: str | Study,
    pair: Pair,
    settings: Settings,
    questions: QuestionFile,
    *,
    state: Path | None = None,
    should_stop: Callable[[], bool] = never,
) -> Iterator[StudyResult]:
    """Run a study; yields after every answer, and once at the end unless it was stopped.

    state: a `Journal` file from which an interrupted run of the same study goes on; raises `ResultsError`
    where another measurement wrote it. Studies without questions start afresh each time.
    """
    from diffuspec.measure import bench
    from diffuspec.measure.journal import Journal
    from diffuspec.provenance import provenance

    study = STUDIES[study] if isinstance(study, str) else study
    made_by = provenance()
    used = QuestionsUsed(questions.name, questions.sha256, len(questions.questions) if study.variants else 0)

    def result(
        done: int,
        total: int,
        now: str,
        rows: list[Row],
        differences: Sequence[Row] = (),
        skipped: Sequence[Row] = (),
        carried: str = "",
    ) -> StudyResult:
        remark = " ".join(filter(None, [study.remark(rows) if rows else "", carried]))
        return StudyResult(
            study.name,
            tuple(rows),
            remark,
            done,
            total,
            now,
            settings,
            pair.info,
            made_by,
            used,
            tuple(differences),
            tuple(skipped),
        )

    if study.probe:
        for step in study.probe(pair, settings, should_stop):
            yield result(*step)
        return
    variants = study.variants(settings, pair.info.max_draft)
    key = bench.key(study.name, pair, variants, questions)
    journal = Journal(state, key) if state else None
    try:
        for at in bench.measure(pair, questions.questions, variants, journal=journal, should_stop=should_stop):
            rows = study.rows(at.results, variants) if at.results else []
            yield result(
                at.done, at.total, at.now, rows, _differences(at.results), _skipped(at.skipped), cautions(at.results)
            )
    finally:
        if journal:
            journal.close()


def run_study(
    study: str | Study,
    pair: Pair,
    settings: Settings,
    questions: QuestionFile,
    *,
    state: Path | None = None,
    on_progress: Callable[[StudyResult], None] = lambda result: None,
    should_stop: Callable[[], bool] = never,
) -> StudyResult:
    """`stream_study` to its end; the newest result, incomplete where should_stop() turned true."""
    for result in stream_study(study, pair, settings, questions, state=state, should_stop=should_stop):
        on_progress(result)
    return result


def _skipped(skipped: Sequence[tuple[str, str]]) -> list[Row]:
    return [{"question": question, "why": why[:MAX_TEXT]} for question, why in skipped]


def _differences(results: Sequence[Measured]) -> list[Row]:
    return [
        {"variant": r.variant, "question": r.question, "turn": d.turn, "position": d.position, "gap": d.gap}
        for r in results
        for d in r.differences[:1]
    ]
