"""How far the models are, said on every page."""

from __future__ import annotations

import gradio as gr

from diffuspec.ui.shell.explain import explain
from diffuspec.ui.shell.host import Host
from diffuspec.ui.shell.notice import loading


def tick(host: Host):
    """-> notice, timer"""
    status = host.status()
    if status.error is not None:
        text = f"The models could not be loaded. {explain(status.error)} Press Run to try again."
        return loading(text, tone="error"), gr.Timer(active=False)
    if status.ready:
        return loading(None), gr.Timer(active=False)
    return loading(status.text, status.fraction), gr.skip()
