"""A visitor's own state where Gradio does not hand it over, and what closed tabs leave behind.

Gradio keeps each session's `gr.State` for an hour and its page, with every value drawn on it, for good. Here a
page with a trace on it is megabytes, so a session goes as a whole once its tab has been closed for `KEPT_S`
seconds: long enough for a laptop that slept to come back to its trace.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

import gradio as gr

KEPT_S = 600.0


async def state_of(request: gr.Request, demo: gr.Blocks, state: gr.State) -> Any:
    """The visitor's value of `state`, for a component's server function: of the visitor that gets the request alone."""
    return demo.state_holder[(await request.json())["session_hash"]][state._id]


class Sessions:
    """The sessions of one app whose tabs are closed."""

    def __init__(self, demo: gr.Blocks, kept_s: float = KEPT_S):
        self.demo, self.kept = demo, timedelta(seconds=kept_s)

    def leave(self, request: gr.Request) -> None:
        """For `Blocks.unload`: forget the session later, unless it is used again before."""
        timer = threading.Timer(self.kept.total_seconds(), self._forget, [request])
        timer.daemon = True
        timer.start()

    def _forget(self, request: gr.Request) -> None:
        holder, name = self.demo.state_holder, request.session_hash
        used = holder.time_last_used.get(name)
        if used is None:
            return
        # The handlers of `unload` themselves are the last use of a tab that stayed closed.
        if datetime.now() - used < self.kept / 2:
            return self.leave(request)
        with holder.lock:
            holder.session_data.pop(name, None)
            holder.time_last_used.pop(name, None)
