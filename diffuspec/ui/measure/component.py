"""A study's results as a Gradio component: its value is the JSON text of `measure.view`."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

HERE = Path(__file__).parent


def results(value: str | None = None, **options) -> gr.HTML:
    """The table of a study, the paper's values marked; needs its style sheet and draw.js on the page."""
    return gr.HTML(
        value=value,
        html_template=(HERE / "measure.html").read_text(encoding="utf-8"),
        js_on_load=(HERE / "measure.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        **options,
    )
