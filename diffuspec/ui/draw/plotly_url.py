"""The plotly.js that draws: the one inside the installed plotly package, so that figures and library agree."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import plotly

PLOTLY_JS = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def plotly_url() -> str:
    """The address under which the page finds plotly.js; a prop of each component that draws figures."""
    gr.set_static_paths([PLOTLY_JS])
    return f"gradio_api/file={PLOTLY_JS.as_posix()}"
