"""A study: chosen, queued answer by answer, cancelled, taken up again, saved, loaded."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import orjson

from diffuspec.errors import DiffuSpecError, SettingsError
from diffuspec.measure.questions import QuestionFile, bundled_questions, read_questions
from diffuspec.measure.studies import STUDIES, StudyResult
from diffuspec.settings import Settings
from diffuspec.ui.draw.chart import drawn
from diffuspec.ui.measure.figures import study_chart
from diffuspec.ui.measure.view import LOADED, results_payload
from diffuspec.ui.player.merits import MEASURED, RECORDED
from diffuspec.ui.shell.explain import explain
from diffuspec.ui.shell.files import handed_out, without_folder
from diffuspec.ui.shell.host import DTYPES, Host, Status, Work
from diffuspec.ui.shell.knobs import to_settings
from diffuspec.ui.shell.notice import ended, message
from diffuspec.ui.shell.visitors import client_of

DIAGNOSIS = "diagnosis.json"  # lies there too, and is another page's
MOST_QUESTIONS, MOST_QUESTION_BYTES = 500, 4 * 2**20
# Results on a visitor's page: study -> (result, where it comes from).
Shelf = dict[str, tuple[StudyResult, str]]


@dataclass
class StudyWork(Work):
    """One visitor's study. said: what happens now."""

    study: str
    settings: Settings
    questions: QuestionFile
    state: Path
    said: str = ""
    result: StudyResult | None = None


class Studies:
    """The handlers of the Measure page."""

    def __init__(self, host: Host, knob_names: list[str]):
        self.host, self.knob_names = host, knob_names
        self.works: dict[str, StudyWork] = {}
        self.folders: dict[str, Path] = {}

    def enter(
        self,
        request: gr.Request,
        study: str,
        file: str | None,
        limit: float,
        tokens: float,
        *knobs: Any,
    ):
        """Check the input. -> notice, measure button, stop, ticket"""
        try:
            settings = to_settings(zip(self.knob_names, knobs, strict=True))
            settings = settings.replace(max_new_tokens=int(tokens), temperature=0)
            work = self._work(request.session_hash, study, file, questions_asked(limit), settings)
            work.client = client_of(request)
        except DiffuSpecError as error:
            return message(str(error)), gr.skip(), gr.skip(), gr.skip()
        self._end(request.session_hash)
        self.works[request.session_hash] = work
        return message(None), gr.Button(interactive=False), gr.Button(interactive=True), uuid.uuid4().hex

    def _work(self, session: str, study: str, file: str | None, limit: int, settings: Settings) -> StudyWork:
        if study not in STUDIES:
            raise SettingsError(f"There is no study {study!r}.")
        questions = (asked(file) if file else bundled_questions()).spread(limit)
        same = orjson.dumps([study, settings.to_dict(), questions.sha256, len(questions.questions)])
        folder = self.folders.get(session)
        if folder is None:
            folder = self.folders[session] = Path(tempfile.mkdtemp(prefix="diffuspec-study-"))
        return StudyWork(study, settings, questions, folder / f"{hashlib.sha256(same).hexdigest()[:16]}.jsonl")

    def follow(self, ticket: str, shelf: Shelf, request: gr.Request) -> Iterator[tuple]:
        """Run the visitor's study. -> results, chart, shelf, notice, measure button, stop"""
        work = self.works.get(request.session_hash)
        idle, keep = (gr.Button("Measure", interactive=True), gr.Button(interactive=False)), gr.skip()
        if work is None or not ticket:
            yield keep, keep, keep, keep, *idle
            return
        error = None
        shown = None
        try:
            for _ in self.run(work):
                picture = keep
                if work.result is not shown:
                    shown = work.result
                    picture = _picture(shown)
                if work.cut:
                    error = work.cut
                yield (
                    results_payload(work.study, work.result, MEASURED, work.said, live=True),
                    picture,
                    keep,
                    keep,
                    keep,
                    keep,
                )
        except Exception as caught:  # whatever a method raises must not take the page down
            error = explain(caught)
        finally:
            work.stop()
            if self.works.get(request.session_hash) is work:
                del self.works[request.session_hash]
        if work.result is not None and work.result.rows:
            shelf = {**shelf, work.study: (work.result, MEASURED)}
        result, kind = shelf.get(work.study, (None, MEASURED))
        said = (
            ""
            if result is None or result.complete
            else "Cancelled. Press Measure with the same choices to go on from here."
        )
        yield results_payload(work.study, result, kind, said), _picture(result), shelf, ended(error), *idle

    def run(self, work: StudyWork) -> Iterator[None]:
        """An answer at a time, each in its turn: other visitors come in between."""

        def waiting(status: Status) -> None:
            work.said = f"{status.text}. A study gives way to others after every answer."

        def running() -> None:
            work.said = work.result.now if work.result and work.result.now else "Starting"
            work.said = f"Measuring: {work.said}."

        pair = yield from self.host.pair(work, DTYPES[0], waiting)
        if pair is None:
            return
        stream = self.host.study(work.study, pair, work.settings, work.questions, work.state, work.stopped.is_set)
        try:
            while result := (yield from self.host.in_turn(work, lambda: next(stream, None), waiting, running)):
                work.result = result
        finally:
            self.host.later(stream.close)

    def stop(self, request: gr.Request) -> None:
        work = self.works.get(request.session_hash)
        if work is not None:
            work.stop()

    def leave(self, request: gr.Request) -> None:
        """A closed tab frees its study and what was kept to take it up again."""
        self._end(request.session_hash)
        folder = self.folders.pop(request.session_hash, None)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _end(self, session: str) -> None:
        work = self.works.pop(session, None)
        if work is not None:
            work.stop()


def questions_asked(limit: float | None) -> int:
    """How many questions the page asks for. Raises `SettingsError`."""
    if not isinstance(limit, int | float) or limit != limit or not 1 <= limit <= MOST_QUESTIONS or limit != int(limit):
        raise SettingsError(f"Questions at most: enter a whole number from 1 to {MOST_QUESTIONS}.")
    return int(limit)


def choose(study: str, shelf: Shelf):
    """-> results, chart"""
    result, kind = shelf.get(study, (None, RECORDED))
    return results_payload(study, result, kind), _picture(result)


def take(path: str | None):
    """Check an uploaded question file. -> notice, file, limit, own-questions button"""
    keep = gr.skip()
    if not path:
        return keep, keep, keep, keep
    try:
        questions = asked(path)
    except DiffuSpecError as error:
        return message(f"{error} The questions chosen before are kept."), keep, keep, keep
    return message(None), path, named(questions), gr.Button(visible=True)


def named(questions: QuestionFile | None) -> gr.Number:
    """The limit, its label saying which questions it counts."""
    return gr.Number(label=questions_label(questions))


def questions_label(questions: QuestionFile | None) -> str:
    whose = "of our own" if questions is None else f"in {questions.name}"
    return f"Questions at most, of {len((questions or bundled_questions()).questions)} {whose}"


def asked(path: str) -> QuestionFile:
    """The questions of an untrusted file."""
    if Path(path).stat().st_size > MOST_QUESTION_BYTES:
        raise SettingsError(f"The question file is larger than {MOST_QUESTION_BYTES >> 20} MB.")
    try:
        return read_questions(Path(path))
    except DiffuSpecError as error:
        raise DiffuSpecError(without_folder(error, path)) from None


def load(path: str | None, shelf: Shelf):
    """Open a results file. -> study, results, chart, shelf, notice"""
    keep = gr.skip()
    if not path:
        return keep, keep, keep, keep, keep
    try:
        result = StudyResult.load(Path(path))
        shelf = {**shelf, result.study: (result, LOADED)}
        return result.study, *choose(result.study, shelf), shelf, message(None)
    except DiffuSpecError as error:
        return keep, keep, keep, keep, message(f"{without_folder(error, path)} The results on the page are kept.")


def save(study: str, shelf: Shelf):
    """Write the results on the page to a file. -> download, notice"""
    if study not in shelf:
        return gr.skip(), message("There are no results of this study yet: measure first.")
    path = handed_out(f"diffuspec-{study}.json")
    shelf[study][0].save(path)
    return str(path), message(None)


def recorded(folder: Path) -> Shelf:
    """The results that come along, those that can be read."""
    shelf = {}
    for path in sorted(folder.glob("*.json")):
        if path.name == DIAGNOSIS:
            continue
        try:
            result = StudyResult.load(path)
        except DiffuSpecError as error:
            explain(error)
            continue
        shelf[result.study] = (result, RECORDED)
    return shelf


def _picture(result: StudyResult | None) -> str:
    return drawn((result and study_chart(result)) or {})
