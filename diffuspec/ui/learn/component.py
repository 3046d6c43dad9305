"""Predict, then reveal: a lesson's question. Its value is the JSON text of `learn.view.question`.

The answer is not on the page until the reader has predicted: `reveal` is called on the server then, and again whenever
a slider of the computation is moved.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gradio as gr

from diffuspec.ui.draw.plotly_url import plotly_url

HERE = Path(__file__).parent


def quiz(value: str, reveal: Callable[[dict], dict], **options) -> gr.HTML:
    """reveal(asked) answers {"lesson": name, "guess": key or number, "inputs": {name: value}}.

    Triggers `select` when the reader asks for the lesson's place on the Playground.
    """
    return gr.HTML(
        value=value,
        html_template='<section class="ds ds-quiz" aria-label="Predict, then reveal"></section>',
        js_on_load=(HERE / "quiz.js").read_text(encoding="utf-8"),
        server_functions=[reveal],
        apply_default_css=False,
        plotly_url=plotly_url(),
        **options,
    )


def picture(value: str, **options) -> gr.HTML:
    """The picture in a lesson's text, or the glossary's search field, from the JSON text of `learn.view.picture`."""
    return gr.HTML(
        value=value,
        html_template='<div class="ds ds-picture"></div>',
        js_on_load=(HERE / "picture.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        **options,
    )


def contents(value: str, **options) -> gr.HTML:
    """The list of lessons, from the JSON text of `learn.view.contents`. Triggers `select` with {"lesson": name}."""
    return gr.HTML(
        value=value,
        html_template='<nav class="ds ds-contents" aria-label="Lessons"></nav>',
        js_on_load=(HERE / "contents.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        **options,
    )
