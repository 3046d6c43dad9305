"""Race: the methods on one prompt, measured in turn, replayed side by side; and the break-even map."""

from __future__ import annotations

import gradio as gr

from diffuspec.assets import ASSETS
from diffuspec.measure.methods import METHODS
from diffuspec.measure.race import YARDSTICK
from diffuspec.measure.results import AGAIN
from diffuspec.ui.draw.chart import chart
from diffuspec.ui.race.breakeven import FLAT, MEASURED
from diffuspec.ui.race.component import race as race_component
from diffuspec.ui.race.events import MOST_TOKENS, Races, recorded, save
from diffuspec.ui.shell.examples import FIRST
from diffuspec.ui.shell.shared import IN_TURN, PRIVATE, QUIET, Shared

NAME, TITLE = "race", "Race"
LANES = ("plain", "diffuspec", "throughput", "prompt-lookup", "ar-drafter")
K_MOST = 32


def build(shared: Shared) -> None:
    labels = {name: (method.label, method.about) for name, method in METHODS.items() if name != AGAIN}
    races = Races(shared.host, labels, list(shared.controls))
    first = recorded(ASSETS / "race.json")
    drawn, _, map_drawn, k_first = races.show(first, MEASURED) if first else (None, None, None, 6)
    usual = [name for name in LANES if name in labels]
    choices = [(labels[name][0], name) for name in (*usual, *labels) if name != YARDSTICK]
    choices = list(dict.fromkeys(choices))
    with gr.Column(elem_classes="page", elem_id="race-page"):
        state = gr.State(first)
        ticket = gr.Textbox(visible="hidden", elem_id="race-ticket", label="ticket", container=False)
        with gr.Row(elem_id="race-setup"):
            prompt = gr.Textbox(
                value=first.prompt if first else FIRST,
                label="Prompt",
                lines=2,
                max_lines=4,
                elem_id="race-prompt",
                placeholder="Type a question",
                scale=3,
                min_width=280,
            )
            tokens = gr.Slider(
                16,
                MOST_TOKENS,
                value=96,
                step=16,
                precision=0,
                label="Max tokens",
                elem_id="race-tokens",
                buttons=[],
                info="for every method",
                scale=1,
                min_width=160,
            )
        methods = gr.CheckboxGroup(
            choices,
            value=usual,
            label="Lanes, besides plain AR, which is the yardstick; the Playground’s settings apply",
            elem_id="race-methods",
        )
        with gr.Row(elem_id="race-go"):
            start = gr.Button("Race", variant="primary", elem_id="race-run")
            stop = gr.Button("Stop", elem_id="race-stop", interactive=False)
            opened = gr.UploadButton("Open race …", size="sm", elem_id="race-file", file_types=[".json"])
            saved = gr.Button("Save race", size="sm", elem_id="race-save")
            download = gr.DownloadButton("race", elem_id="race-ready", visible="hidden")
        shown = race_component(drawn, elem_id="race", padding=False)
        with gr.Row(elem_id="map-setup"):
            k = gr.Slider(
                1,
                K_MOST,
                value=k_first,
                step=1,
                precision=0,
                label="k draft length of the map",
                elem_id="map-k",
                buttons=[],
                scale=1,
            )
            verify = gr.Radio(
                [("as this race measured it", MEASURED), ("free, as on a large GPU", FLAT)],
                value=MEASURED,
                label="A target pass over k + 1 tokens instead of one costs",
                elem_id="map-verify",
                scale=2,
            )
        picture = chart(map_drawn, elem_id="map", padding=False)

    start.click(races.enter, [prompt, methods, tokens, *shared.knobs], [shared.notice, start, stop, ticket], **QUIET)
    ticket.change(
        races.follow, [ticket, state, verify], [shown, state, picture, k, shared.notice, start, stop], **IN_TURN
    )
    stop.click(races.stop, **QUIET)
    opened.upload(races.open, [opened, verify], [shown, state, picture, k, shared.notice], **QUIET)
    saved.click(save, state, [download, shared.notice], **QUIET).success(
        None, js="() => setTimeout(() => document.querySelector('#race-ready').click(), 100)", **PRIVATE
    )
    for change in (k.change, verify.change):
        change(races.draw_map, [state, k, verify], picture, trigger_mode="always_last", **QUIET)
    shared.demo.unload(races.leave)
