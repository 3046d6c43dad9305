"""The player as a Gradio component: its value is the JSON text of `player.payload`, drawn in the browser.

The template is constant and the text never becomes part of it: Gradio evaluates rendered templates
as JavaScript, so a token `${...}` in one would run. A function, not a subclass of `gr.HTML`: for a
subclass Gradio writes a stub file beside the source.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from diffuspec.ui.draw.chart import DRAW_JS, THEME_CSS
from diffuspec.ui.draw.plotly_url import plotly_url
from diffuspec.ui.player.qr import qr_code

HERE = Path(__file__).parent
HTML = HERE / "player.html"
SCRIPTS = [
    DRAW_JS,
    *(HERE / name for name in ("address.js", "reason.js", "lattice.js", "print.js", "present.js", "player.js")),
]
STYLES = [THEME_CSS, *(HERE / name for name in ("lattice.css", "player.css", "present.css", "embed.css", "print.css"))]


def player(value: str | None = None, **options) -> gr.HTML:
    """Draws and steps through one trace; needs `SCRIPTS` in the page's head and `STYLES` on the page."""
    return gr.HTML(
        value=value,
        html_template=HTML.read_text(encoding="utf-8"),
        js_on_load=(HERE / "player_gradio.js").read_text(encoding="utf-8"),
        server_functions=[qr_code],
        apply_default_css=False,
        plotly_url=plotly_url(),
        **options,
    )
