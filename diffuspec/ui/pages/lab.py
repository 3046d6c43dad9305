"""The Step lab: one recorded step under other settings, another path, another draft; branches side by side."""

from __future__ import annotations

import gradio as gr

from diffuspec.ui.components.lab import lab
from diffuspec.ui.events.lab import Lab
from diffuspec.ui.shared import IN_TURN, QUIET, Shared, go_to

NAME, TITLE = "lab", "Step lab"


def build(shared: Shared) -> None:
    branches = gr.State([])
    with gr.Column(elem_classes="page"):
        drawn = lab(elem_id="lab")
    events = Lab(shared.host)
    drawn.input(events.search, shared.trace, [drawn, shared.notice], trigger_mode="always_last", **QUIET)
    drawn.submit(events.ask, [shared.trace, branches], [drawn, branches, shared.notice], **IN_TURN)
    drawn.stop(events.leave, **QUIET)
    drawn.select(events.open, branches, shared.shown, **QUIET).then(None, js=go_to("playground"))
    shared.demo.unload(events.leave)
