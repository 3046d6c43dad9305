"""Learn: the list of lessons, the lesson, and its question."""

from __future__ import annotations

import gradio as gr

from diffuspec.gallery import gallery
from diffuspec.ui.components.quiz import contents, quiz
from diffuspec.ui.events.learn import Learn
from diffuspec.ui.lessons import lessons
from diffuspec.ui.shared import QUIET, Shared, go_to
from diffuspec.ui.views.quiz import article
from diffuspec.ui.views.quiz import contents as listed

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
        text = gr.Markdown(article(first), latex_delimiters=KATEX, elem_id="learn-text", container=False)
        asked = quiz(learn.question(first), learn.revealer(), elem_id="learn-quiz")
    chosen.select(learn.open, None, [text, asked], **QUIET)
    asked.select(learn.enter, None, [*shared.shown, *shared.setup], **QUIET).then(None, js=go_to("playground"), **QUIET)
