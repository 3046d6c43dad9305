"""Learn: the list of lessons, the lesson, and its question."""

from __future__ import annotations

import gradio as gr

from diffuspec.trace.gallery import gallery
from diffuspec.ui.learn.component import contents, picture, quiz
from diffuspec.ui.learn.events import Learn
from diffuspec.ui.learn.lessons import lessons
from diffuspec.ui.learn.view import article
from diffuspec.ui.learn.view import contents as listed
from diffuspec.ui.learn.view import picture as drawn
from diffuspec.ui.shell.shared import QUIET, Shared, go_to

NAME, TITLE = "learn", "Learn"
KATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "$", "right": "$", "display": False},
]


def build(shared: Shared) -> None:
    learn = Learn(shared, gallery())
    first = lessons()[0].name
    with gr.Row(elem_id="learn", elem_classes="page", equal_height=False):
        chosen = contents(listed(), elem_id="learn-contents")
        with gr.Column(elem_id="learn-text", min_width=280):
            before, after = article(first)
            markdown = {"latex_delimiters": KATEX, "container": False, "elem_classes": "learn-prose"}
            text = gr.Markdown(before, **markdown)
            shown = picture(drawn(learn.gallery, first), elem_id="learn-picture")
            rest = gr.Markdown(after, **markdown)
        asked = quiz(learn.question(first), learn.revealer(), elem_id="learn-quiz")
    chosen.select(learn.open, None, [text, shown, rest, asked], **QUIET)
    asked.select(learn.enter, None, [*shared.shown, *shared.setup], **QUIET).then(None, js=go_to("playground"), **QUIET)
