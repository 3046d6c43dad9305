"""The cards of traces, recorded or one's own, and the comparison of two, from the JSON text of `traces.view`."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

HERE = Path(__file__).parent


def gallery(value: str, **options) -> gr.HTML:
    """Triggers `select` with {"name": trace} when a card is opened, `expand` with it when it is to be compared."""
    return gr.HTML(
        value=value,
        html_template='<div class="ds ds-gallery"></div>',
        js_on_load=(HERE / "traces.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        **options,
    )


def comparison(**options) -> gr.HTML:
    """Two runs beside each other; empty at first."""
    return gr.HTML(
        value="",
        html_template='<div class="ds ds-comparison" role="status"></div>',
        js_on_load=(HERE / "comparison.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        **options,
    )
