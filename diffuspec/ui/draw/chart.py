"""One figure as a Gradio component: built in Python, drawn by the plotly.js of the plotly wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import orjson

from diffuspec.ui.draw.plotly_url import plotly_url

HERE = Path(__file__).parent
DRAW_JS, THEME_CSS = HERE / "draw.js", HERE / "theme.css"


def chart(value: str | None = None, **options) -> gr.HTML:
    """value: what `drawn` gives. Needs draw.js on the page."""
    return gr.HTML(
        value=value,
        html_template=(HERE / "chart.html").read_text(encoding="utf-8"),
        js_on_load=(HERE / "chart.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        plotly_url=plotly_url(),
        **options,
    )


def drawn(picture: dict[str, Any]) -> str:
    """JSON text of a picture: title, hint, caption, label, name, figure, colours, table; an empty one hides."""
    return orjson.dumps(picture, option=orjson.OPT_SERIALIZE_NUMPY).decode()
