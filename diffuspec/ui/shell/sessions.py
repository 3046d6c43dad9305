"""What closed tabs leave behind.

Gradio keeps each session's `gr.State` for an hour and its page, with every value drawn on it, for good. Here a
page with a trace on it is megabytes, so a session goes as a whole once its tab has been closed for `KEPT_S`
seconds: long enough for a laptop that slept to come back to its trace.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta

import gradio as gr

from diffuspec.ui import gradio_internals

KEPT_S = 600.0


class Sessions:
    """The sessions of one app whose tabs are closed, and one thread that forgets them, while there are any."""

    def __init__(self, demo: gr.Blocks, kept_s: float = KEPT_S):
        self.demo, self.kept_s = demo, kept_s
        self._due: dict[str, float] = {}  # session -> when it goes, in the order of leaving
        self._lock = threading.Lock()
        self._sweeping = False

    def leave(self, request: gr.Request) -> None:
        """For `Blocks.unload`: forget the session later, unless it is used again before."""
        with self._lock:
            self._due[request.session_hash] = time.monotonic() + self.kept_s
            if not self._sweeping:
                self._sweeping = True
                threading.Thread(target=self._sweep, name="closed tabs", daemon=True).start()

    def _sweep(self) -> None:
        while True:
            with self._lock:
                if not self._due:
                    self._sweeping = False
                    return
                session, due = min(self._due.items(), key=lambda item: item[1])
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(min(wait, 1.0))
                continue
            used = gradio_internals.last_used(self.demo, session)
            # The handlers of `unload` themselves are the last use of a tab that stayed closed.
            back = used is not None and datetime.now() - used < timedelta(seconds=self.kept_s / 2)
            with self._lock:
                if back:
                    self._due[session] = time.monotonic() + self.kept_s
                else:
                    del self._due[session]
            if not back:
                gradio_internals.forget(self.demo, session)
