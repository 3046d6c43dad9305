"""The player as a Gradio component: its value is the JSON text of `views.payload`, drawn in the browser.

The template is constant and the text never becomes part of it: Gradio evaluates rendered templates
as JavaScript, so a token `${...}` in one would run. A function, not a subclass of `gr.HTML`: for a
subclass Gradio writes a stub file beside the source.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import plotly

HERE = Path(__file__).parent
HTML = HERE / "player.html"
PLOTLY_JS = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
SCRIPTS = [HERE / name for name in ("draw.js", "reason.js", "lattice.js", "player.js", "lab.js")]
STYLES = [HERE / name for name in ("lattice.css", "player.css", "lab.css")]


def plotly_url() -> str:
    """Where the page finds the plotly.js of the installed plotly; a prop of each component that draws figures."""
    gr.set_static_paths([PLOTLY_JS])
    return f"gradio_api/file={PLOTLY_JS.as_posix()}"


def player(value: str | None = None, **options) -> gr.HTML:
    """Draws and steps through one trace; needs `SCRIPTS` in the page's head and `STYLES` on the page."""
    return gr.HTML(
        value=value,
        html_template=HTML.read_text(encoding="utf-8"),
        js_on_load=(HERE / "player_gradio.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        plotly_url=plotly_url(),
        **options,
    )
