"""What happens on the Traces page, and when the address names a trace, a prompt or settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from diffuspec.errors import DiffuSpecError
from diffuspec.settings import Settings
from diffuspec.trace.gallery import Gallery
from diffuspec.trace.model import Trace
from diffuspec.ui.gradio_internals import sent
from diffuspec.ui.shell import links
from diffuspec.ui.shell.files import export
from diffuspec.ui.shell.knobs import to_settings
from diffuspec.ui.shell.notice import message
from diffuspec.ui.shell.shared import Shared, show
from diffuspec.ui.traces.view import beside

GONE = "This run is no longer kept here. Run it again, or open a file that you saved."


class Traces:
    """The handlers of one page."""

    def __init__(self, shared: Shared, gallery: Gallery):
        self.shared, self.gallery = shared, gallery

    def enter(self, event: gr.EventData):
        """A card was opened. -> `Shared.shown`, `Shared.setup`"""
        try:
            return self._open(str(sent(event)["name"]))
        except DiffuSpecError as error:
            return self._said(message(str(error)))
        except (KeyError, TypeError):
            return self._said(message("There is no such trace: pick one of the cards."))

    def enter_mine(self, event: gr.EventData):
        """A run of the visitor's own was opened. -> `Shared.shown`, `Shared.setup`"""
        trace = self._mine(event)
        if trace is None:
            return self._said(message(GONE))
        return [*show(trace), *self.shared.set_up_as(trace)]

    def compare(self, front: Trace | None, event: gr.EventData):
        """Set a run of the visitor's own beside the one on the Playground. -> comparison, notice"""
        trace = self._mine(event)
        if trace is None or front is None:
            return gr.skip(), message(GONE)
        return beside(trace, front), message(None)

    def _mine(self, event: gr.EventData) -> Trace | None:
        asked = sent(event)
        return self.shared.runs.get(asked.get("name") if isinstance(asked, dict) else None)

    def follow(self, request: gr.Request):
        """The page was opened: do what its address asks for. -> `Shared.shown`, `Shared.setup`"""
        asked = links.read(request.query_params)
        if not asked:
            return self._said(gr.skip())
        try:
            if asked.problem:
                raise asked.problem
            if asked.trace is not None:
                at = None if asked.step is None else (asked.step - 1, asked.phase)
                return self._open(asked.trace, at)
            settings = Settings.from_mapping(asked.settings)
            said = message("Prompt and settings come from the address. Press Run.", "note")
            prompt = gr.skip() if asked.prompt is None else asked.prompt
            return [gr.skip(), gr.skip(), said, *self.shared.set_up(prompt, settings)]
        except DiffuSpecError as error:
            return self._said(message(f"The address cannot be followed. {error}"))

    def link(self, prompt: str, *knobs: Any):
        """-> link, notice"""
        try:
            settings = to_settings(zip(self.shared.controls, knobs, strict=True))
            return links.address(prompt, settings), message(None)
        except DiffuSpecError as error:
            return gr.skip(), message(str(error))

    def exporter(self, name: str) -> Callable[[Trace | None], tuple]:
        """A handler that writes the present trace in a format of `files.FORMATS`. -> download, notice"""

        def save(trace: Trace | None):
            try:
                return export(trace, name), message(None)
            except DiffuSpecError as error:
                raise gr.Error(str(error)) from None

        return save

    def _open(self, name: str, at: tuple[int, str] | None = None) -> list[Any]:
        trace = self.gallery.trace(name)
        return [*show(trace, at=at), *self.shared.set_up_as(trace)]

    def _said(self, words: Any) -> list[Any]:
        shown = [gr.skip(), gr.skip(), words]
        return [*shown, *[gr.skip()] * len(self.shared.setup)]
