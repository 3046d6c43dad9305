"""The Step lab: one recorded step under other settings, another path, another draft; branches side by side."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
import gradio as gr

from diffuspec.ui.gradio_internals import state_of
from diffuspec.ui.lab.component import lab
from diffuspec.ui.lab.events import Lab
from diffuspec.ui.shell.shared import IN_TURN, QUIET, Shared, go_to

NAME, TITLE = "lab", "Step lab"


def build(shared: Shared) -> None:
    branches = gr.State([])
    events = Lab(shared.host)

    async def search_again(asked: Any, request: gr.Request) -> str:
        trace = await state_of(request, shared.demo, shared.trace)
        return await anyio.to_thread.run_sync(events.search, trace, asked)

    with gr.Column(elem_classes="page"):
        drawn = lab(search_again, elem_id="lab")
    drawn.input(events.refused, None, shared.notice, **QUIET)
    drawn.submit(events.ask, [shared.trace, branches], [drawn, branches, shared.notice], **IN_TURN)
    drawn.stop(events.leave, **QUIET)
    drawn.select(events.open, branches, shared.shown, **QUIET).then(None, js=go_to("playground"))
    shared.demo.unload(events.leave)
