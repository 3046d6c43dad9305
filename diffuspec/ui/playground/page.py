"""The Playground: prompt and knobs at the left, the walk through a trace at the right."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr
import orjson

from diffuspec.settings import PRESETS, Knob, Settings
from diffuspec.ui.player.component import player
from diffuspec.ui.player.payload import payload
from diffuspec.ui.playground.component import intro
from diffuspec.ui.playground.events import Runs
from diffuspec.ui.shell.examples import EXAMPLES, FIRST
from diffuspec.ui.shell.files import ENDINGS, open_trace, save_trace
from diffuspec.ui.shell.host import DTYPES
from diffuspec.ui.shell.knobs import groups, knob_component, preset_knobs, without_effect
from diffuspec.ui.shell.shared import IN_TURN, PRIVATE, QUIET, Shared

NAME, TITLE = "playground", "Playground"
# A reload brings the visitor's last run back; a new tab begins with the recorded trace.
RELOADED = "(mine) => performance.getEntriesByType('navigation')[0]?.type === 'reload' ? [mine] : [[]]"
MAX_DRAFT = 32  # positions the embedded drafter can fill

# The settings begin closed. Gradio makes what is in an accordion when it is first open, and an event cannot set what is
# not there: so it is open until its knobs are there, though not to be seen (page.css).
FOLD = """() => {
  const settings = document.querySelector("#settings");
  settings.querySelector(":scope > button").click();
  settings.dataset.ready = "";
}"""


def build(shared: Shared) -> None:
    first, said = shared.first, shared.notice
    # A textbox, because a change of `gr.State` starts no event after an unqueued one.
    ticket = gr.Textbox(visible="hidden", elem_id="ticket", label="ticket", container=False)
    intro(elem_id="intro", padding=False)
    with gr.Row(elem_id="playground", equal_height=False):
        with gr.Column(elem_id="controls", min_width=280):
            prompt = shared.prompt = gr.Textbox(
                value=first.prompt if first else FIRST,
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
            preset = gr.Radio(
                [(entry.title, name) for name, entry in PRESETS.items()],
                value="default",
                label="Settings",
                elem_id="preset",
            )
            with gr.Accordion("All settings", open=True, elem_id="settings"):
                shared.controls = _knobs(Settings.knobs())
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
            with gr.Row(elem_id="trace-files"):
                opened = gr.UploadButton(
                    "Open trace …", size="sm", elem_id="trace-file", file_types=ENDINGS, file_count="multiple"
                )
                save = gr.Button("Save trace", size="sm", elem_id="trace-download")
                download = gr.DownloadButton("trace", elem_id="trace-ready", visible="hidden")
        with gr.Column(elem_id="stage", min_width=320):
            shared.player = player(payload(first, "recorded") if first else None, elem_id="player")

    runs = Runs(shared)
    for trigger in (run.click, prompt.submit):
        trigger(
            runs.enter,
            [shared.mine, prompt, dtype, compare, *shared.knobs],
            [said, run, stop, ticket, shared.mine],
            **QUIET,
        )
    shared.followed = ticket.change(
        runs.follow,
        ticket,
        [shared.player, shared.trace, said, run, stop],
        **IN_TURN,
    )
    stop.click(runs.stop, **QUIET)
    opened.upload(
        partial(open_trace, shared), opened, [*shared.shown, *shared.setup], show_progress="hidden", **PRIVATE
    )
    save.click(save_trace, shared.trace, [download, said], show_progress="hidden", **PRIVATE).success(
        None, js="() => setTimeout(() => document.querySelector('#trace-ready').click(), 100)", **PRIVATE
    )
    for name, chip in chips.items():
        chip.click(None, None, prompt, js=f"() => {orjson.dumps(EXAMPLES[name]).decode()}", **PRIVATE)
    _depend(shared, preset)
    shared.demo.load(None, js=FOLD, **PRIVATE)
    shared.demo.load(runs.restore, shared.mine, [*shared.shown, *shared.setup], js=RELOADED, **QUIET)
    shared.demo.unload(runs.leave)


def _knobs(knobs: dict[str, Knob]) -> dict[str, gr.components.Component]:
    """name -> component, in the order of declaration."""
    made = {}
    for title, names in groups().items():
        with gr.Group(elem_classes="knob-group"):
            gr.HTML(html_template=f"<h2>{title}</h2>", apply_default_css=False, min_width=60, elem_classes="knob-head")
            with gr.Row(elem_classes="knobs"):
                for name in names:
                    made[name] = knob_component(knobs[name], MAX_DRAFT)
    return {name: made[name] for name in knobs}


def _depend(shared: Shared, preset: gr.Radio) -> None:
    """A preset sets its knobs, and is chosen while they have its values; knobs without effect are greyed and say why;
    k_min and k_max push each other."""
    controls = shared.controls
    names = preset_knobs()
    drafting = [controls[name] for name in names]
    usual = Settings()
    values = {
        name: [usual.replace(**entry.changes).to_dict()[knob] for knob in names] for name, entry in PRESETS.items()
    }
    table = orjson.dumps(values).decode()
    preset.input(None, preset, drafting, js=f"(name) => ({table})[name]", **PRIVATE)
    gr.on(
        [knob.change for knob in drafting],
        None,
        drafting,
        preset,
        js=f"""(...now) => {{
          const same = (a, b) => a === b || Math.abs(a - b) < 1e-9;
          const entry = Object.entries({table}).find(([, values]) => values.every((value, i) => same(value, now[i])));
          return entry ? entry[0] : null;
        }}""",
        **PRIVATE,
    )

    def depend(*values: Any) -> list[dict]:
        why = without_effect(dict(zip(controls, values, strict=True)))
        return [gr.update(interactive=not said, info=said) for said in why.values()]

    deciding = [controls[name] for name in ("length", "search", "proxy", "temperature")]
    gr.on([knob.change for knob in deciding], depend, shared.knobs, list(controls.values()), **QUIET)
    low, high = controls["k_min"], controls["k_max"]
    low.input(None, [low, high], [low, high], js="(a, b) => [a, Math.max(a, b)]", **PRIVATE)
    high.input(None, [low, high], [low, high], js="(a, b) => [Math.min(a, b), b]", **PRIVATE)
