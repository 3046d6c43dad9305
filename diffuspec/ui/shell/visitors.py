"""Who asks, and whether anybody still listens."""

from __future__ import annotations

import time

import gradio as gr

from diffuspec.ui import gradio_internals
from diffuspec.ui.shell.queue import Client

# A client that has fetched nothing for so long has gone: a page fetches at once, a script that polls within seconds.
PATIENCE_S = 30.0


def client_of(request: gr.Request | None, script: bool = False) -> Client:
    """The client of a request; None where a handler was called outside the app."""
    if request is None:
        return Client(script=script)
    address = getattr(getattr(request, "client", None), "host", None)
    return Client(getattr(request, "session_hash", None) or "", address or "", script)


class Listener:
    """Whether the messages to one session are fetched."""

    def __init__(self, demo: gr.Blocks, session: str, patience_s: float | None = None):
        self.demo, self.session = demo, session
        self.patience_s = PATIENCE_S if patience_s is None else patience_s
        self.heard, self.waiting = time.monotonic(), 0

    def listens(self) -> bool:
        """False once messages have lain unread for `patience_s` seconds."""
        waiting = gradio_internals.unread(self.demo, self.session)
        if not waiting or waiting < self.waiting:
            self.heard = time.monotonic()
        self.waiting = waiting
        return time.monotonic() - self.heard < self.patience_s
