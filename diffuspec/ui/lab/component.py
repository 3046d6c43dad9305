"""The Step lab as a Gradio component: knobs, the step before and after, the target's word, branches.

Its value is JSON text of `lab.view.dumps`, merged slot by slot. To search again it calls the server function
`search_again`, which costs a third of an event: the page draws nothing but the answer. It triggers `input` (a search
was refused), `submit` (needs the models), `stop` and `select` (open a branch); each carries what is said or asked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gradio as gr
import orjson

from diffuspec.ui.lab.view import knob_specs

HERE = Path(__file__).parent
SCRIPT = HERE / "lab.js"


def lab(search_again: Callable, **options) -> gr.HTML:
    """search_again(data, request) -> JSON text of slots, or of {"refused": text}."""
    return gr.HTML(
        html_template=(HERE / "lab.html").read_text(encoding="utf-8"),
        js_on_load=(
            "const options = {knobs: JSON.parse(props.knobs), trigger, searchAgain: server.search_again};"
            "const lab = DiffuSpecLab.mount(element.querySelector('.ds-lab'), options);"
            "lab.update(props.value); watch('value', () => lab.update(props.value));"
        ),
        server_functions=[search_again],
        knobs=orjson.dumps(knob_specs()).decode(),
        apply_default_css=False,
        **options,
    )
