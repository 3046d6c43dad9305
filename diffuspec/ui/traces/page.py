"""Traces: the recorded ones, a file of one's own, and what the present one can be exported to."""

from __future__ import annotations

from functools import partial

import gradio as gr

from diffuspec.trace.gallery import gallery as recorded
from diffuspec.ui.shell.files import ENDINGS, FORMATS, open_trace
from diffuspec.ui.shell.shared import PRIVATE, QUIET, Shared, go_to_shown
from diffuspec.ui.traces.component import comparison, gallery
from diffuspec.ui.traces.events import Traces
from diffuspec.ui.traces.view import cards, my_runs

NAME, TITLE = "traces", "Traces"
NONE = '{"groups": []}'
# The file is made when it is asked for; then the hidden button is pressed.
SAVE = "() => setTimeout(() => document.querySelector('#export-ready').click(), 100)"
COPY = """(link) => {
  const whole = location.origin + location.pathname + link;
  navigator.clipboard?.writeText(whole);
  return whole;
}"""


def build(shared: Shared) -> None:
    traces = Traces(shared, recorded())
    with gr.Row(elem_id="traces", elem_classes="page", equal_height=False):
        with gr.Column(elem_id="trace-cards", min_width=280):
            mine = gallery(NONE, elem_id="my-runs")
            compared = comparison(elem_id="comparison")
            shown = gallery(cards(recorded()), elem_id="gallery")
        with gr.Column(elem_id="trace-tools", min_width=280):
            gr.HTML(
                "<h2>Open a file</h2><p>A trace saved here or recorded elsewhere; or what another engine wrote of its "
                "own speculation: a response of vLLM, SGLang, llama.cpp or LM Studio (.json), or both files of "
                "specspecs (.parquet).</p>"
            )
            opened = gr.UploadButton(
                "Open trace …", file_types=ENDINGS, file_count="multiple", size="sm", elem_id="import"
            )
            gr.HTML("<h2>Take the present trace along</h2><p>The one that stands on the Playground.</p>")
            buttons = {
                name: gr.Button(words, size="sm", elem_id=f"export-{name}") for name, (words, _) in FORMATS.items()
            }
            ready = gr.DownloadButton("file", elem_id="export-ready", visible="hidden")
            gr.HTML("<h2>Link</h2><p>An address that sets the Playground’s present prompt and settings.</p>")
            copy = gr.Button("Copy link", size="sm", elem_id="copy-link")
            link = gr.Textbox(
                label="Link",
                lines=3,
                max_lines=3,
                elem_id="link",
                buttons=["copy"],
                interactive=False,
                placeholder="The link appears here.",
            )
    for entered in (
        shown.select(traces.enter, None, [*shared.shown, *shared.setup], **QUIET),
        mine.select(traces.enter_mine, None, [*shared.shown, *shared.setup], **QUIET),
        opened.upload(
            partial(open_trace, shared), opened, [*shared.shown, *shared.setup], show_progress="hidden", **PRIVATE
        ),
    ):
        entered.success(None, shared.notice, js=go_to_shown("playground"), **QUIET)
    mine.expand(traces.compare, shared.trace, [compared, shared.notice], **QUIET)
    for when in (shared.demo.load, shared.followed.then):
        when(partial(my_runs, runs=shared.runs), shared.mine, mine, **QUIET)
    for name, button in buttons.items():
        button.click(
            traces.exporter(name), shared.trace, [ready, shared.notice], show_progress="hidden", **PRIVATE
        ).success(None, js=SAVE, **QUIET)
    copy.click(traces.link, shared.setup, [link, shared.notice], **QUIET).success(None, link, link, js=COPY, **QUIET)
    shared.demo.load(traces.follow, None, [*shared.shown, *shared.setup], **QUIET)
