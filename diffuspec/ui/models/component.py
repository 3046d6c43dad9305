"""Title, line and list of pairs as one Gradio component; its value is the JSON text of `models.view`."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

HERE = Path(__file__).parent
STYLE = HERE / "models.css"


def chooser(value: str, **options) -> gr.HTML:
    """Triggers `select` with {"act": "look", "use", "unload" or "own", "pair": key, "own": fields}."""
    return gr.HTML(
        value=value,
        html_template=(HERE / "chooser.html").read_text(encoding="utf-8"),
        js_on_load=(HERE / "chooser.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        padding=False,
        **options,
    )
