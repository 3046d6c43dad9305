"""What happens on the Learn page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from diffuspec.errors import DiffuSpecError
from diffuspec.settings import Settings
from diffuspec.trace.gallery import Gallery
from diffuspec.ui.gradio_internals import sent
from diffuspec.ui.learn import view as quiz
from diffuspec.ui.learn.lessons import Lesson, lesson
from diffuspec.ui.learn.lessons.puzzles import solve
from diffuspec.ui.shell.examples import FIRST
from diffuspec.ui.shell.notice import message
from diffuspec.ui.shell.shared import Shared, show

UNKNOWN = "There is no such lesson: pick one from the list."


class Learn:
    """The handlers; lessons are computed from the gallery's traces."""

    def __init__(self, shared: Shared, gallery: Gallery):
        self.shared, self.gallery = shared, gallery

    def question(self, name: str) -> str:
        return quiz.question(self.gallery, name)

    def revealer(self) -> Callable[[dict], dict]:
        """What the quiz asks on the server; a plain function, since Gradio marks it."""

        def reveal(asked: dict[str, Any]) -> dict[str, Any]:
            return quiz.reveal(self.gallery, asked)

        return reveal

    def open(self, event: gr.EventData):
        """A lesson from the list. -> text, picture, text after it, quiz"""
        try:
            name = str(sent(event)["lesson"])
            before, after = quiz.article(name)
            return (
                before,
                quiz.picture(self.gallery, name),
                gr.Markdown(after, visible=bool(after)),
                self.question(name),
            )
        except (KeyError, TypeError):
            raise gr.Error(UNKNOWN) from None

    def enter(self, event: gr.EventData):
        """The lesson's state on the Playground. -> `Shared.shown`, `Shared.setup`"""
        nothing = [gr.skip()] * (len(self.shared.shown) + len(self.shared.setup))
        try:
            shown = lesson(str(sent(event)["lesson"]))
            if shown.settings is not None:
                settings = settings_of(shown)
                words = f"The settings of lesson {shown.number} are set. Press Run."
                said = [gr.skip(), gr.skip(), message(words, "note")]
                return [*said, *self.shared.set_up(FIRST, settings)]
            outcome = solve(self.gallery, shown.compute)
            trace = self.gallery.trace(outcome.trace)
        except DiffuSpecError as error:
            nothing[2] = message(str(error))
            return nothing
        except (KeyError, TypeError):
            nothing[2] = message(UNKNOWN)
            return nothing
        return [*show(trace, at=(outcome.step, shown.phase)), *self.shared.set_up_as(trace)]


def settings_of(shown: Lesson) -> Settings:
    """What a lesson sets: the paper's settings, or knobs that differ from the defaults."""
    return Settings.paper() if shown.settings == "paper" else Settings.from_mapping(shown.settings)
