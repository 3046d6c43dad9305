"""Measure: the paper's tables and figures on this machine, the paper's values beside ours."""

from __future__ import annotations

import gradio as gr

from diffuspec.assets import ASSETS
from diffuspec.measure.studies import STUDIES
from diffuspec.ui.draw.chart import chart
from diffuspec.ui.measure.component import results
from diffuspec.ui.measure.events import (
    Studies,
    choose,
    load,
    named,
    questions_label,
    recorded,
    save,
    take,
)
from diffuspec.ui.shell.shared import IN_TURN, PRIVATE, QUIET, Shared

NAME, TITLE = "measure", "Measure"
FIRST = "methods"


def build(shared: Shared) -> None:
    studies = Studies(shared.host, list(shared.controls))
    shelf = recorded(ASSETS / "results")
    first, picture = choose(FIRST, shelf)
    with gr.Column(elem_classes="page", elem_id="measure-page"):
        kept, file = gr.State(shelf), gr.State(None)
        ticket = gr.Textbox(visible="hidden", elem_id="measure-ticket", label="ticket", container=False)
        study = gr.Radio(
            [(f"{s.source}: {s.title}" if s.source else s.title, name) for name, s in STUDIES.items()],
            value=FIRST,
            label="What to measure",
            elem_id="measure-study",
        )
        with gr.Row(elem_id="measure-setup"):
            limit = gr.Number(
                6,
                precision=0,
                label=questions_label(None),
                elem_id="measure-limit",
                scale=1,
                min_width=140,
            )
            tokens = gr.Slider(
                16,
                256,
                value=64,
                step=16,
                precision=0,
                label="Max tokens an answer",
                elem_id="measure-tokens",
                buttons=[],
                scale=1,
                min_width=180,
            )
        with gr.Row(elem_id="measure-go"):
            start = gr.Button("Measure", variant="primary", elem_id="measure-run")
            stop = gr.Button("Cancel", elem_id="measure-stop", interactive=False)
            asked = gr.UploadButton(
                "Questions from a file …", size="sm", elem_id="measure-questions", file_types=[".jsonl"]
            )
            again = gr.Button("Our own questions", size="sm", elem_id="measure-own", visible=False)
            opened = gr.UploadButton("Open results …", size="sm", elem_id="measure-file", file_types=[".json"])
            saved = gr.Button("Save results", size="sm", elem_id="measure-save")
            download = gr.DownloadButton("results", elem_id="measure-ready", visible="hidden")
        shown = results(first, elem_id="results", padding=False)
        drawn = chart(picture, elem_id="study-chart", padding=False)

    start.click(
        studies.enter, [study, file, limit, tokens, *shared.knobs], [shared.notice, start, stop, ticket], **QUIET
    )
    ticket.change(studies.follow, [ticket, kept], [shown, drawn, kept, shared.notice, start, stop], **IN_TURN)
    stop.click(studies.stop, **QUIET)
    study.input(choose, [study, kept], [shown, drawn], **QUIET)
    asked.upload(take, asked, [shared.notice, file, limit, again], **QUIET)
    again.click(lambda: (None, named(None), gr.Button(visible=False)), None, [file, limit, again], **QUIET)
    opened.upload(load, [opened, kept], [study, shown, drawn, kept, shared.notice], **QUIET)
    saved.click(save, [study, kept], [download, shared.notice], **QUIET).success(
        None, js="() => setTimeout(() => document.querySelector('#measure-ready').click(), 100)", **PRIVATE
    )
    shared.demo.unload(studies.leave)
