"""Layout of the playground: what is where, and which handler it calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from diffuspec.settings import Settings
from diffuspec.trace import Trace
from diffuspec.ui.components.notice import message, notice
from diffuspec.ui.components.player import CSS, player
from diffuspec.ui.events import Events
from diffuspec.ui.examples import EXAMPLES
from diffuspec.ui.host import DTYPES, Host
from diffuspec.ui.knobs import GROUPS, SWITCHED, applies, knob_component
from diffuspec.ui.views.payload import payload

HERE = Path(__file__).parent
MAX_DRAFT = 32  # positions the embedded drafter can fill
MODELS = "models"  # concurrency group of everything that computes with the models
PRIVATE = {"api_visibility": "private"}
FONT = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "DejaVu Sans", "sans-serif"]
MONO = ["ui-monospace", "Cascadia Code", "DejaVu Sans Mono", "Menlo", "Consolas", "monospace"]


def launch_options() -> dict[str, Any]:
    """Look and limits, for `Blocks.launch`."""
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=FONT, font_mono=MONO, radius_size="md")
    return {
        "theme": theme.set(
            button_primary_background_fill="#0072b2",
            button_primary_background_fill_dark="#0072b2",
            button_primary_background_fill_hover="#00639c",
            button_primary_background_fill_hover_dark="#00639c",
            button_primary_text_color="#ffffff",
            slider_color="#0072b2",
            slider_color_dark="#56b4e9",
            body_background_fill="#f4f6f8",
            body_background_fill_dark="#10161d",
        ),  # fmt: skip
        "css_paths": [HERE / "page.css", CSS],
        "footer_links": ["api"],
        "max_file_size": "64mb",
        "run_history": False,
        "ssr_mode": False,
        "show_error": True,
    }


def build(host: Host, first: Trace | None = None, problem: str | None = None) -> gr.Blocks:
    """The page. first: the recorded trace shown before anything runs; problem: said where there is none."""
    knobs = Settings.knobs()
    with gr.Blocks(title="DiffuSpec Playground", fill_width=True, analytics_enabled=False) as demo:
        trace = gr.State(first)
        # A textbox, because a change of `gr.State` starts no event after an unqueued one.
        ticket = gr.Textbox(visible="hidden", elem_id="ticket", label="ticket", container=False)
        with gr.Row(elem_id="playground", equal_height=False):
            with gr.Column(elem_id="controls", min_width=280):
                gr.HTML(
                    html_template="<h1>DiffuSpec Playground</h1><p>a diffusion model drafts, the target verifies</p>",
                    elem_id="title", apply_default_css=False, padding=False,
                )  # fmt: skip
                prompt = gr.Textbox(
                    value=first.prompt if first else EXAMPLES["maths"], label="Prompt", lines=3, max_lines=6,
                    elem_id="prompt", placeholder="Type a question",
                )  # fmt: skip
                with gr.Row(elem_id="examples"):
                    chips = {
                        name: gr.Button(name, size="sm", elem_id=f"example-{name}", elem_classes="chip")
                        for name in EXAMPLES
                    }
                with gr.Row(elem_id="go"):
                    run = gr.Button("Run", variant="primary", elem_id="run")
                    stop = gr.Button("Stop", elem_id="stop", interactive=False)
                said = notice(elem_id="notice", value=message(problem) if problem else None)
                compare = gr.Checkbox(True, label="compare with plain AR", elem_id="compare")
                with gr.Accordion("Settings", open=True, elem_id="settings"):
                    controls, switches = _knobs(knobs)
                    dtype = gr.Radio(
                        [("float32 · identical", DTYPES[0]), ("bfloat16 · faster, may differ", DTYPES[1])],
                        value=DTYPES[0], label="dtype", elem_id="dtype",
                    )  # fmt: skip
                    with gr.Row(elem_id="presets"):
                        defaults = gr.Button("Defaults", size="sm", elem_id="settings-default")
                        paper = gr.Button("Paper’s settings", size="sm", elem_id="settings-paper")
                with gr.Row(elem_id="trace-files"):
                    opened = gr.UploadButton(
                        "Open trace …", size="sm", elem_id="trace-file", file_types=[".jsonl", ".gz"]
                    )
                    save = gr.Button("Save trace", size="sm", elem_id="trace-download")
                    download = gr.DownloadButton("trace", elem_id="trace-ready", visible="hidden")
            with gr.Column(elem_id="stage", min_width=320):
                drawn = player(payload(first, "recorded") if first else None, elem_id="player")
        timer = gr.Timer(0.6)

        events = Events(host, list(controls))
        adl, cps = switches["length"], switches["search"]
        inputs = [prompt, adl, cps, dtype, compare, *controls.values()]
        for trigger in (run.click, prompt.submit):
            trigger(events.enter, inputs, [said, run, stop, ticket], queue=False, show_progress="hidden", **PRIVATE)
        ticket.change(
            events.follow, ticket, [drawn, trace, said, run, stop], concurrency_limit=1, concurrency_id=MODELS,
            show_progress="minimal", show_progress_on=said, **PRIVATE,
        )  # fmt: skip
        stop.click(events.stop, queue=False, show_progress="hidden", **PRIVATE)
        timer.tick(events.tick, None, [said, timer], queue=False, show_progress="hidden", **PRIVATE)
        opened.upload(events.open, opened, [drawn, trace, said], show_progress="hidden", **PRIVATE)
        save.click(events.save, trace, [download, said], show_progress="hidden", **PRIVATE).success(
            None, js="() => setTimeout(() => document.querySelector('#trace-ready').click(), 100)", **PRIVATE
        )
        for name, chip in chips.items():
            chip.click(None, None, prompt, js=f"() => {EXAMPLES[name]!r}", **PRIVATE)
        _depend(controls, adl, cps)
        for button, values in ((defaults, Settings()), (paper, Settings.paper())):
            button.click(
                lambda values=values: _values(values, controls), None, [adl, cps, *controls.values()],
                queue=False, show_progress="hidden", **PRIVATE,
            )  # fmt: skip
        demo.load(None, js="() => innerWidth > 1000 || document.querySelector('#settings > button').click()", **PRIVATE)
        demo.unload(events.leave)
        models = {"concurrency_limit": 1, "concurrency_id": MODELS}
        gr.api(events.api_run, api_name="run", **models)
        gr.api(events.api_trace, api_name="trace", **models)
    return demo


def _knobs(knobs: dict) -> tuple[dict[str, gr.components.Component], dict[str, gr.Checkbox]]:
    """(name -> component in the order of declaration, name -> switch)."""
    made, switches = {}, {}
    owner = {"Draft length": ("length", "ADL", "switch-adl"), "Path search": ("search", "CPS", "switch-cps")}
    effective = applies(True, True, knobs["proxy"].default, knobs["temperature"].default)
    for title, names in GROUPS.items():
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
                    made[name].interactive = effective.get(name, True)
    return {name: made[name] for name in knobs if name not in SWITCHED}, switches


def _depend(controls: dict[str, gr.components.Component], adl: gr.Checkbox, cps: gr.Checkbox) -> None:
    """Knobs without effect are greyed; k_min and k_max push each other."""
    names = list(applies(True, True, "", 0.0))
    for trigger in (adl.change, cps.change, controls["proxy"].change, controls["temperature"].change):
        trigger(
            lambda *choices: [gr.update(interactive=on) for on in applies(*choices).values()],
            [adl, cps, controls["proxy"], controls["temperature"]], [controls[name] for name in names],
            queue=False, show_progress="hidden", **PRIVATE,
        )  # fmt: skip
    low, high = controls["k_min"], controls["k_max"]
    low.input(None, [low, high], [low, high], js="(a, b) => [a, Math.max(a, b)]", **PRIVATE)
    high.input(None, [low, high], [low, high], js="(a, b) => [Math.min(a, b), b]", **PRIVATE)


def _values(settings: Settings, controls: dict) -> list[Any]:
    values = settings.to_dict()
    return [settings.length == "adl", settings.search == "cps", *(values[name] for name in controls)]
