"""What the pages share: the models, the trace that is looked at, the notice line, prompt and settings."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from json import dumps
from typing import Any

import gradio as gr

from diffuspec.settings import Settings
from diffuspec.trace.model import Trace
from diffuspec.ui.player.merits import RECORDED, Source
from diffuspec.ui.player.payload import payload
from diffuspec.ui.shell.host import Host
from diffuspec.ui.shell.knobs import OFF
from diffuspec.ui.shell.notice import message

PRIVATE = {"api_visibility": "private"}
# Events that use the models: not held back here, for `Host` lets them wait in turn and tells them their place.
IN_TURN = {"concurrency_limit": None, "show_progress": "hidden", **PRIVATE}
QUIET = {"queue": False, "show_progress": "hidden", **PRIVATE}


@dataclass
class Shared:
    """Handles that one page makes and all may use.

    demo: for `load` and `unload`; host: the models of this process; first: the recorded trace of the
    first paint; trace: the visitor's present trace (`gr.State` of a `Trace` or None); notice: the
    line under the title; player, prompt, controls (knob name -> component), switches ("length",
    "search"): made by the Playground page.
    """

    demo: gr.Blocks
    host: Host
    first: Trace | None
    trace: gr.State
    notice: gr.HTML
    player: gr.HTML | None = None
    prompt: gr.Textbox | None = None
    controls: dict[str, gr.components.Component] = field(default_factory=dict)
    switches: dict[str, gr.Checkbox] = field(default_factory=dict)

    @property
    def shown(self) -> list[gr.components.Component]:
        """Outputs of an event that opens a trace; its handler returns `show(trace)`."""
        return [self.player, self.trace, self.notice]

    @property
    def setup(self) -> list[gr.components.Component]:
        """Outputs of an event that sets prompt and settings; its handler returns `set_up(...)`."""
        return [self.prompt, *self.knobs]

    @property
    def knobs(self) -> list[gr.components.Component]:
        """Switches, then knobs: what `knob_values` fills and `to_settings` reads."""
        return [self.switches["length"], self.switches["search"], *self.controls.values()]

    def knob_values(self, settings: Settings) -> list[Any]:
        """-> `knobs`."""
        values, default = settings.to_dict(), Settings().to_dict()
        on = {name: values[name] != off for name, off in OFF.items()}
        shown = {**values, **{name: default[name] for name in OFF if not on[name]}}
        return [*on.values(), *(shown[name] for name in self.controls)]

    def set_up(self, prompt: str, settings: Settings) -> list[Any]:
        """-> `setup`: the prompt and every knob."""
        return [prompt, *self.knob_values(settings)]


def show(trace: Trace, source: Source | None = None, at: tuple[int, str] | None = None) -> tuple[str, Trace, str]:
    """-> `Shared.shown`: make a trace the present one, on every page; at: step (from 0) and phase to open with."""
    return payload(trace, uuid.uuid4().hex, source or Source(RECORDED), at=at), trace, message(None)


def go_to_shown(page: str) -> str:
    """As `go_to`, with the notice as input: not where it tells why a trace was refused."""
    return f"(said) => {{ if (!JSON.parse(said || '{{}}').message) DiffuSpecPages.go({dumps(page)}); }}"


def go_to(page: str) -> str:
    """JavaScript, for an event's `js`, that brings a page of `page.PAGES` to the front."""
    return f"() => DiffuSpecPages.go({dumps(page)})"
