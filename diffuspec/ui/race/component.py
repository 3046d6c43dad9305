"""The race as a Gradio component: its value is the JSON text of `race.view`, replayed in the browser."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

HERE = Path(__file__).parent


def race(value: str | None = None, **options) -> gr.HTML:
    """Lanes with their replay, and the table of the result; needs its style sheet and draw.js on the page."""
    return gr.HTML(
        value=value,
        html_template=(HERE / "race.html").read_text(encoding="utf-8"),
        js_on_load=(HERE / "race.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        **options,
    )
