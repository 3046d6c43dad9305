"""The Playground: prompt and knobs at the left, the walk through a trace at the right."""

from __future__ import annotations

from typing import Any

import gradio as gr
import orjson

from diffuspec.settings import Settings
from diffuspec.ui.player.component import player
from diffuspec.ui.player.payload import payload
from diffuspec.ui.playground.events import Runs
from diffuspec.ui.shell.examples import EXAMPLES
from diffuspec.ui.shell.files import open_trace, save_trace
from diffuspec.ui.shell.host import DTYPES
from diffuspec.ui.shell.knobs import applies, groups, knob_component
from diffuspec.ui.shell.shared import IN_TURN, PRIVATE, QUIET, Shared

NAME, TITLE = "playground", "Playground"
MAX_DRAFT = 32  # positions the embedded drafter can fill


def build(shared: Shared) -> None:
    first, said = shared.first, shared.notice
    # A textbox, because a change of `gr.State` starts no event after an unqueued one.
    ticket = gr.Textbox(visible="hidden", elem_id="ticket", label="ticket", container=False)
    with gr.Row(elem_id="playground", equal_height=False):
        with gr.Column(elem_id="controls", min_width=280):
            prompt = shared.prompt = gr.Textbox(
                value=first.prompt if first else EXAMPLES["maths"],
                label="Prompt",
                lines=3,
                max_lines=6,
                elem_id="prompt",
                placeholder="Type a question",
            )
            with gr.Row(elem_id="examples"):
                chips = {
                    name: gr.Button(name, size="sm", elem_id=f"example-{name}", elem_classes="chip")
                    for name in EXAMPLES
                }
            with gr.Row(elem_id="go"):
                run = gr.Button("Run", variant="primary", elem_id="run")
                stop = gr.Button("Stop", elem_id="stop", interactive=False)
            compare = gr.Checkbox(True, label="compare with plain AR", elem_id="compare")
            with gr.Accordion("Settings", open=True, elem_id="settings"):
                shared.controls, shared.switches = _knobs(Settings.knobs())
                dtype = gr.Radio(
                    [
                        ("int8 · identical, fastest", "int8"),
                        ("float32 · identical", "float32"),
                        ("bfloat16 · may differ", "bfloat16"),
                    ],
                    value=DTYPES[0],
                    label="dtype",
                    elem_id="dtype",
                )
                with gr.Row(elem_id="presets"):
                    defaults = gr.Button("Defaults", size="sm", elem_id="settings-default")
                    paper = gr.Button("Paper’s settings", size="sm", elem_id="settings-paper")
            with gr.Row(elem_id="trace-files"):
                opened = gr.UploadButton("Open trace …", size="sm", elem_id="trace-file", file_types=[".jsonl", ".gz"])
                save = gr.Button("Save trace", size="sm", elem_id="trace-download")
                download = gr.DownloadButton("trace", elem_id="trace-ready", visible="hidden")
        with gr.Column(elem_id="stage", min_width=320):
            shared.player = player(payload(first, "recorded") if first else None, elem_id="player")

    runs = Runs(shared.host, list(shared.controls))
    for trigger in (run.click, prompt.submit):
        trigger(runs.enter, [prompt, dtype, compare, *shared.knobs], [said, run, stop, ticket], **QUIET)
    ticket.change(
        runs.follow,
        ticket,
        [shared.player, shared.trace, said, run, stop],
        **IN_TURN,
    )
    stop.click(runs.stop, **QUIET)
    opened.upload(open_trace, opened, shared.shown, show_progress="hidden", **PRIVATE)
    save.click(save_trace, shared.trace, [download, said], show_progress="hidden", **PRIVATE).success(
        None, js="() => setTimeout(() => document.querySelector('#trace-ready').click(), 100)", **PRIVATE
    )
    for name, chip in chips.items():
        chip.click(None, None, prompt, js=f"() => {orjson.dumps(EXAMPLES[name]).decode()}", **PRIVATE)
    _depend(shared)
    for button, values in ((defaults, Settings()), (paper, Settings.paper())):
        button.click(lambda values=values: shared.knob_values(values), None, shared.knobs, **QUIET)
    shared.demo.load(
        None, js="() => innerWidth > 1000 || document.querySelector('#settings > button').click()", **PRIVATE
    )
    shared.demo.unload(runs.leave)


def _knobs(knobs: dict) -> tuple[dict[str, gr.components.Component], dict[str, gr.Checkbox]]:
    """(name -> component in the order of declaration, name -> switch)."""
    made, switches = {}, {}
    owner = {"Draft length": ("length", "ADL", "switch-adl"), "Path search": ("search", "CPS", "switch-cps")}
    effective = applies(True, True, Settings().to_dict())
    for title, names in groups().items():
        with gr.Group(elem_classes="knob-group"):
            with gr.Row(elem_classes="knob-head"):
                gr.HTML(html_template=f"<h2>{title}</h2>", apply_default_css=False, min_width=60)
                if title in owner:
                    name, label, elem_id = owner[title]
                    switches[name] = gr.Checkbox(
                        True, label=label, elem_id=elem_id, elem_classes="switch", min_width=70, container=False
                    )
            with gr.Row(elem_classes="knobs"):
                for name in names:
                    made[name] = knob_component(knobs[name], MAX_DRAFT)
                    made[name].interactive = effective[name]
    return {name: made[name] for name in knobs}, switches


def _depend(shared: Shared) -> None:
    """Knobs without effect are greyed; k_min and k_max push each other."""
    controls, switches = shared.controls, list(shared.switches.values())

    def depend(adl: bool, cps: bool, *values: Any) -> list[dict]:
        return [
            gr.update(interactive=on) for on in applies(adl, cps, dict(zip(controls, values, strict=True))).values()
        ]

    deciding = [controls[name] for name in ("length", "search", "proxy", "temperature")]
    for component in (*switches, *deciding):
        component.change(depend, shared.knobs, list(controls.values()), **QUIET)
    low, high = controls["k_min"], controls["k_max"]
    low.input(None, [low, high], [low, high], js="(a, b) => [a, Math.max(a, b)]", **PRIVATE)
    high.input(None, [low, high], [low, high], js="(a, b) => [Math.min(a, b), b]", **PRIVATE)
