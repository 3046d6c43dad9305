"""Choosing, loading and unloading pairs."""

from __future__ import annotations

import gradio as gr

from diffuspec.errors import DiffuSpecError
from diffuspec.ui.gradio_internals import sent
from diffuspec.ui.models.view import chooser_payload
from diffuspec.ui.shell.explain import explain
from diffuspec.ui.shell.host import Host
from diffuspec.ui.shell.notice import ended, loading, message
from diffuspec.ui.shell.shelf import Unloaded


class Chooser:
    """Handlers of the list of pairs; `drawn` holds what each visitor's page shows, so that it is sent once."""

    def __init__(self, host: Host):
        self.host = host
        self.drawn: dict[str, str] = {}

    def act(self, request: gr.Request, told: gr.EventData):
        """Do what was pressed. -> chooser, notice, timer"""
        data, session, said = sent(told), request.session_hash, gr.skip()
        try:
            act, pair = data.get("act"), str(data.get("pair"))
            if act == "use":
                self.host.want(session, pair)
            elif act == "unload":
                self.host.unload(session, pair)
            elif act == "own" and isinstance(data.get("own"), dict):
                self.host.want(session, self.host.name_own(data["own"]))
        except DiffuSpecError as error:
            said = message(str(error))
        except Exception as error:
            said = message(explain(error))
        return self._draw(session), said, gr.Timer(active=True)

    def tick(self, request: gr.Request):
        """Look at what is being loaded. -> chooser, notice, timer"""
        session = request.session_hash
        pair, error = self.host.settle(session)
        status, busy = self.host.status(key=self.host.chosen(session)), self.host.busy(session)
        chooser = self._draw(session, again=False)
        if error is not None and not isinstance(error, Unloaded):
            return chooser, ended(f"{explain(error)} The pair in use before stays."), gr.skip()
        if busy is not None:
            return chooser, loading(busy.text, busy.fraction), gr.skip()
        if status.error is not None and not isinstance(status.error, Unloaded):
            text = f"The models could not be loaded. {explain(status.error)} Press Run to try again."
            return chooser, loading(text, tone="error"), gr.Timer(active=False)
        return chooser, loading(None), gr.Timer(active=pair is not None)

    def _draw(self, session: str, again: bool = True):
        made = chooser_payload(self.host, session)
        if not again and self.drawn.get(session) == made:
            return gr.skip()
        self.drawn[session] = made
        return made

    def leave(self, request: gr.Request) -> None:
        self.drawn.pop(request.session_hash, None)
        self.host.leave(request.session_hash)
