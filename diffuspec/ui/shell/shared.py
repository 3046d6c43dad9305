"""What the pages share: the models, the trace that is looked at, the notice line, prompt and settings."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from json import dumps
from typing import Any

import gradio as gr

from diffuspec.settings import Settings
from diffuspec.trace.model import Trace
from diffuspec.ui.player.merits import RECORDED, Source
from diffuspec.ui.player.payload import payload
from diffuspec.ui.shell.host import Host
from diffuspec.ui.shell.mine import RecentRuns
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
    line under the title; mine: the visitor's list of runs (see `mine.listed`), runs: their traces; player, prompt,
    controls (knob name -> component): made by the Playground page.
    """

    demo: gr.Blocks
    host: Host
    first: Trace | None
    trace: gr.State
    notice: gr.HTML
    mine: gr.BrowserState
    runs: RecentRuns
    player: gr.HTML | None = None
    prompt: gr.Textbox | None = None
    controls: dict[str, gr.components.Component] = field(default_factory=dict)
    followed: gr.events.Dependency | None = None  # after its `then` a run is over

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
        """What `knob_values` fills and `to_settings` reads."""
        return list(self.controls.values())

    def knob_values(self, settings: Settings, keep: Collection[str] = ()) -> list[Any]:
        """-> `knobs`; keep: names of those that stay as the visitor has them. What a slider does not reach is set to
        its end."""
        values = settings.to_dict()
        return [
            gr.skip() if name in keep else _within(control, values[name]) for name, control in self.controls.items()
        ]

    def set_up(self, prompt: str | None, settings: Settings, keep: Collection[str] = ()) -> list[Any]:
        """-> `setup`: the prompt, None for none, and every knob but those to `keep`."""
        return [prompt or "", *self.knob_values(settings, keep)]

    def set_up_as(self, trace: Trace) -> list[Any]:
        """-> `setup`: as a trace was made. How long the next answer may be stays the visitor's own choice; where
        another engine made the trace, all settings do."""
        if trace.origin:
            return [trace.prompt or gr.skip(), *[gr.skip()] * len(self.knobs)]
        return self.set_up(trace.prompt, trace.settings, keep=("max_new_tokens",))


def _within(control: gr.components.Component, value: Any) -> Any:
    return min(value, control.maximum) if isinstance(control, gr.Slider) else value


def show(trace: Trace, source: Source | None = None, at: tuple[int, str] | None = None) -> tuple[str, Trace, str]:
    """-> `Shared.shown`: make a trace the present one, on every page; at: step (from 0) and phase to open with."""
    return payload(trace, uuid.uuid4().hex, source or Source(RECORDED), at=at), trace, message(None)


def go_to_shown(page: str) -> str:
    """As `go_to`, with the notice as input: not where it tells why a trace was refused."""
    return f"(said) => {{ if (!JSON.parse(said || '{{}}').message) DiffuSpecPages.go({dumps(page)}); }}"


def go_to(page: str) -> str:
    """JavaScript, for an event's `js`, that brings a page of `page.PAGES` to the front."""
    return f"() => DiffuSpecPages.go({dumps(page)})"
