"""The strip above the player: what is shown here, on a step of the run in front, and a guided tour of the page.

It holds no trace of its own: it draws what the player draws, and says nothing before there is one.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from diffuspec.ui.shell.origin import links

HERE = Path(__file__).parent
TOUR_JS = HERE / "tour.js"


def intro(**options) -> gr.HTML:
    """Needs `TOUR_JS` and the player's scripts in the page's head."""
    return gr.HTML(
        html_template=(HERE / "intro.html").read_text(encoding="utf-8"),
        js_on_load=(HERE / "intro.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        links=links(),
        **options,
    )
