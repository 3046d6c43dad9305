"""How far the models are, said on every page."""

from __future__ import annotations

import gradio as gr

from diffuspec.ui.components.notice import loading
from diffuspec.ui.events.explain import explain
from diffuspec.ui.host import Host


def tick(host: Host):
    """-> notice, timer"""
    status = host.status()
    if status.error is not None:
        text = f"The models could not be loaded. {explain(status.error)} Press Run to try again."
        return loading(text, tone="error"), gr.Timer(active=False)
    if status.ready:
        return loading(None), gr.Timer(active=False)
    return loading(status.text, status.fraction), gr.skip()
