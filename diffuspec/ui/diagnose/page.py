"""Diagnose: is it worth it on this machine, with this pair and these settings?"""

from __future__ import annotations

import gradio as gr

from diffuspec.assets import ASSETS
from diffuspec.ui.diagnose.events import Diagnoses, beside, load, recorded, save, save_report, status
from diffuspec.ui.diagnose.report import body
from diffuspec.ui.measure.events import DIAGNOSIS, take
from diffuspec.ui.shell.shared import IN_TURN, PRIVATE, QUIET, Shared

NAME, TITLE = "diagnose", "Diagnose"
READY = "() => setTimeout(() => document.querySelector('#diagnose-ready').click(), 100)"
OWN = "Our own questions"


def build(shared: Shared) -> None:
    diagnoses = Diagnoses(shared.host, list(shared.controls))
    first = recorded(ASSETS / "results" / DIAGNOSIS)
    with gr.Column(elem_classes="page", elem_id="diagnose-page"):
        shown, file = gr.State(first), gr.State(None)
        ticket = gr.Textbox(visible="hidden", elem_id="diagnose-ticket", label="ticket", container=False)
        gr.HTML(
            "<p>Measures this machine, the pair and the Playground’s settings against plain decoding, and says in a "
            "few sentences whether speculation pays here, where the time goes, and which settings would gain.</p>",
            elem_id="diagnose-about",
            padding=False,
        )
        with gr.Row(elem_id="diagnose-setup"):
            minutes = gr.Number(3, label="Minutes it may take", elem_id="diagnose-minutes", scale=1, min_width=140)
            tokens = gr.Slider(
                16,
                256,
                value=64,
                step=16,
                precision=0,
                label="Max tokens an answer",
                elem_id="diagnose-tokens",
                buttons=[],
                scale=1,
                min_width=180,
            )
        with gr.Row(elem_id="diagnose-go"):
            start = gr.Button("Diagnose", variant="primary", elem_id="diagnose-run")
            stop = gr.Button("Cancel", elem_id="diagnose-stop", interactive=False)
            asked = gr.UploadButton(
                "Questions from a file …", size="sm", elem_id="diagnose-questions", file_types=[".jsonl"]
            )
            again = gr.Button(OWN, size="sm", elem_id="diagnose-own", visible=False)
            opened = gr.UploadButton("Open …", size="sm", elem_id="diagnose-file", file_types=[".json"])
            other = gr.UploadButton("Compare with …", size="sm", elem_id="diagnose-other", file_types=[".json"])
            saved = gr.Button("Save data", size="sm", elem_id="diagnose-save")
            told = gr.Button("Save report", size="sm", elem_id="diagnose-report")
            download = gr.DownloadButton("diagnosis", elem_id="diagnose-ready", visible="hidden")
        said = gr.HTML(status(first), elem_id="diagnose-said", padding=False)
        comparison = gr.HTML("", elem_id="diagnose-comparison", padding=False, visible=False)
        report = gr.HTML(body(first[0]) if first else "", elem_id="diagnosis", padding=False)

    start.click(diagnoses.enter, [file, minutes, tokens, *shared.knobs], [shared.notice, start, stop, ticket], **QUIET)
    ticket.change(diagnoses.follow, [ticket, shown], [said, report, shown, shared.notice, start, stop], **IN_TURN)
    stop.click(diagnoses.stop, **QUIET)
    asked.upload(lambda path: _taken(path), asked, [shared.notice, file, again], **QUIET)
    again.click(lambda: (None, gr.Button(visible=False)), None, [file, again], **QUIET)
    opened.upload(load, [opened, shown], [said, report, shown, shared.notice], **QUIET)
    other.upload(beside, [other, shown], [comparison, shared.notice], **QUIET)
    for button, make in ((saved, save), (told, save_report)):
        button.click(make, shown, [download, shared.notice], **QUIET).success(None, js=READY, **PRIVATE)
    shared.demo.unload(diagnoses.leave)


def _taken(path: str | None):
    """Check an uploaded question file. -> notice, file, own-questions button"""
    notice, file, _, again = take(path)
    return notice, file, again
