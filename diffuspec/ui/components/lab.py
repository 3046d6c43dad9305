"""The Step lab as a Gradio component: knobs, the step before and after, the target's word, branches.

Its value is JSON text of `views.lab.dumps`, merged slot by slot. It triggers `input` (search again),
`submit` (needs the models), `stop` and `select` (open a branch); each carries what is asked.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import orjson

from diffuspec.ui.views.lab import knob_specs

HERE = Path(__file__).parent


def lab(**options) -> gr.HTML:
    return gr.HTML(
        html_template=(HERE / "lab.html").read_text(encoding="utf-8"),
        js_on_load=(
            "const options = {knobs: JSON.parse(props.knobs), trigger};"
            "const lab = DiffuSpecLab.mount(element.querySelector('.ds-lab'), options);"
            "lab.update(props.value); watch('value', () => lab.update(props.value));"
        ),
        knobs=orjson.dumps(knob_specs()).decode(),
        apply_default_css=False,
        **options,
    )
