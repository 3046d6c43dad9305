"""A diagnosis: queued part by part, cancelled, saved, opened, compared with another."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from diffuspec.errors import DiffuSpecError, SettingsError
from diffuspec.measure.diagnose.diagnosis import Diagnosis
from diffuspec.measure.diagnose.verdict import compare
from diffuspec.measure.questions import QuestionFile, bundled_questions
from diffuspec.ui.diagnose.report import body, page
from diffuspec.ui.measure.events import asked
from diffuspec.ui.player.merits import MEASURED, RECORDED
from diffuspec.ui.shell.explain import explain
from diffuspec.ui.shell.files import handed_out, without_folder
from diffuspec.ui.shell.host import DTYPES, Host, Status, Work
from diffuspec.ui.shell.knobs import to_settings
from diffuspec.ui.shell.notice import ended, message
from diffuspec.ui.shell.visitors import client_of

LOADED = "from the file you opened"
SAID = {MEASURED: "measured here, on this machine", RECORDED: "recorded earlier", LOADED: LOADED}
MOST_MINUTES = 30.0
# What a visitor's page shows: a diagnosis and where it comes from.
Shown = tuple[Diagnosis, str] | None


@dataclass
class DiagnosisWork(Work):
    """One visitor's diagnosis. said: what happens now; fraction: of its minutes."""

    settings: Any
    questions: QuestionFile
    minutes: float
    said: str = ""
    fraction: float = 0.0
    result: Diagnosis | None = None


class Diagnoses:
    """The handlers of the Diagnose page."""

    def __init__(self, host: Host, knob_names: list[str]):
        self.host, self.knob_names = host, knob_names
        self.works: dict[str, DiagnosisWork] = {}

    def enter(self, request: gr.Request, file: str | None, minutes: float, tokens: float, *knobs: Any):
        """Check the input. -> notice, diagnose button, cancel, ticket"""
        try:
            settings = to_settings(zip(self.knob_names, knobs, strict=True))
            settings = settings.replace(max_new_tokens=int(tokens), temperature=0)
            questions = asked(file) if file else bundled_questions()
            work = DiagnosisWork(settings, questions, minutes_given(minutes), client=client_of(request))
        except DiffuSpecError as error:
            return message(str(error)), gr.skip(), gr.skip(), gr.skip()
        self.leave(request)
        self.works[request.session_hash] = work
        return message(None), gr.Button(interactive=False), gr.Button(interactive=True), uuid.uuid4().hex

    def follow(self, ticket: str, shown: Shown, request: gr.Request) -> Iterator[tuple]:
        """Make the visitor's diagnosis. -> status, report, shown, notice, diagnose button, cancel"""
        work = self.works.get(request.session_hash)
        idle, keep = (gr.Button(interactive=True), gr.Button(interactive=False)), gr.skip()
        if work is None or not ticket:
            yield keep, keep, keep, keep, *idle
            return
        error = None
        try:
            for _ in self.run(work):
                error = work.cut or None
                yield progress(work.fraction, work.said), keep, keep, keep, keep, keep
        except Exception as caught:  # whatever a method raises must not take the page down
            error = explain(caught)
        finally:
            work.stop()
            if self.works.get(request.session_hash) is work:
                del self.works[request.session_hash]
        if work.result is None:
            told = "" if error else "Cancelled. What was on the page is kept."
            yield status(shown, told), keep, keep, ended(error), *idle
            return
        shown = work.result, MEASURED
        yield status(shown), body(work.result), shown, ended(error), *idle

    def run(self, work: DiagnosisWork) -> Iterator[None]:
        """A part at a time, each in its turn: other visitors come in between."""

        def waiting(at: Status) -> None:
            work.said = f"{at.text}. A diagnosis gives way to others after every answer."

        def running() -> None:
            pass

        pair = yield from self.host.pair(work, DTYPES[0], waiting)
        if pair is None:
            return
        stream = self.host.diagnose(pair, work.settings, work.questions, work.minutes, work.stopped.is_set)
        try:
            while at := (yield from self.host.in_turn(work, lambda: next(stream, None), waiting, running)):
                work.said, work.fraction, work.result = at.said, at.fraction, at.result
                yield
        finally:
            self.host.later(stream.close)

    def stop(self, request: gr.Request) -> None:
        work = self.works.get(request.session_hash)
        if work is not None:
            work.stop()

    def leave(self, request: gr.Request) -> None:
        """A closed tab, or another diagnosis, ends the one under way."""
        work = self.works.pop(request.session_hash, None)
        if work is not None:
            work.stop()


def minutes_given(minutes: float | None) -> float:
    """How long the page asks for. Raises `SettingsError`."""
    if not isinstance(minutes, int | float) or not 0.5 <= minutes <= MOST_MINUTES:  # NaN too
        raise SettingsError(f"Minutes: enter a number from 0.5 to {MOST_MINUTES:g}.")
    return float(minutes)


def progress(fraction: float, said: str) -> str:
    """The status line while it works: HTML whose text is escaped."""
    return (
        f'<div class="ds ds-diagnose-said"><progress max="1" value="{fraction:.3f}" aria-label="Of the minutes">'
        "</progress>"
        f'<span role="status">{escape(said)}</span></div>'
    )


def status(shown: Shown, told: str = "") -> str:
    """The line when it does not work."""
    said = told or "Nothing diagnosed yet: press Diagnose, or open one."
    if shown and not told:
        origin = shown[0].provenance
        where = f", on {origin.recorded_at[:10]}, {origin.machine}" if shown[1] != MEASURED else ""
        said = f"On the page: {SAID[shown[1]]}{where}."
    return f'<div class="ds ds-diagnose-said"><span role="status">{escape(said)}</span></div>'


def load(path: str | None, shown: Shown):
    """Open a saved diagnosis. -> status, report, shown, notice"""
    keep = gr.skip()
    if not path:
        return keep, keep, keep, keep
    try:
        found = Diagnosis.load(Path(path))
    except DiffuSpecError as error:
        return keep, keep, keep, message(f"{without_folder(error, path)} What is on the page is kept.")
    shown = found, LOADED
    return status(shown), body(found), shown, message(None)


def beside(path: str | None, shown: Shown):
    """Compare a saved diagnosis with the one on the page. -> comparison, notice"""
    if not path:
        return gr.skip(), gr.skip()
    if shown is None:
        return gr.skip(), message("There is nothing on the page to compare with: diagnose, or open a diagnosis, first.")
    try:
        other = Diagnosis.load(Path(path))
    except DiffuSpecError as error:
        return gr.skip(), message(f"{without_folder(error, path)} What is on the page is kept.")
    text = compare(shown[0], other, ("on the page", Path(path).stem[:40]))
    card = f'<section class="ds-card" aria-label="Comparison"><pre tabindex="0">{escape(text)}</pre></section>'
    return gr.HTML(f'<div class="ds">{card}</div>', visible=True), message(None)


def save(shown: Shown):
    """-> download, notice"""
    return _handed(shown, "diagnosis.json", lambda found: found.to_json())


def save_report(shown: Shown):
    """-> download, notice"""
    return _handed(shown, "diagnosis.html", lambda found: page(found).encode())


def _handed(shown: Shown, name: str, made):
    if shown is None:
        return gr.skip(), message("There is no diagnosis yet: press Diagnose first.")
    path = handed_out(f"diffuspec-{name}")
    path.write_bytes(made(shown[0]))
    return str(path), message(None)


def recorded(path: Path) -> Shown:
    """The diagnosis that comes along, if it can be read."""
    if not path.is_file():
        return None
    try:
        return Diagnosis.load(path), RECORDED
    except DiffuSpecError as error:
        explain(error)
        return None
