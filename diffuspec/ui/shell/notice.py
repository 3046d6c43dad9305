"""What the page has to say: how far the models are, and what went wrong. Drawn with textContent only."""

from __future__ import annotations

import gradio as gr
import orjson

SCRIPT = """
const draw = () => {
  if (!props.value) return;
  for (const [slot, said] of Object.entries(JSON.parse(props.value))) {
    const node = element.querySelector(`.ds-${slot}`);
    node.hidden = !said;
    if (!said) continue;
    node.dataset.tone = said.tone;
    node.querySelector('span').textContent = said.text;
    const bar = node.querySelector('progress');
    if (!bar) continue;
    bar.hidden = said.tone === 'error';
    if (said.fraction === null) bar.removeAttribute('value');
    else bar.value = said.fraction;
  }
};
element.querySelector('button').addEventListener('click', (event) => {
  event.target.closest('.ds-message').hidden = true;
});
draw();
watch('value', draw);
"""

TEMPLATE = """
<div class="ds-loading" role="status" hidden>
  <span></span><progress max="1" aria-label="Loading the models"></progress>
</div>
<div class="ds-message" role="alert" hidden>
  <span></span><button type="button" aria-label="Dismiss">×</button>
</div>
"""


def notice(**options) -> gr.HTML:
    """value: what `loading` or `message` returns; each fills its own line and leaves the other alone."""
    return gr.HTML(html_template=TEMPLATE, js_on_load=SCRIPT, apply_default_css=False, **options)


def loading(text: str | None, fraction: float | None = None, tone: str = "wait") -> str:
    """The line on the models; None clears it. fraction: 0 to 1, None where unknown."""
    return _json("loading", text and {"tone": tone, "text": text, "fraction": fraction})


def message(text: str | None, tone: str = "error") -> str:
    """The line on what went wrong ("error") or is worth knowing ("note"); None clears it."""
    return _json("message", text and _said(text, tone))


def ended(text: str | None = None, tone: str = "error") -> str:
    """Nothing is waited for any more; text: what went wrong, or is worth knowing, None leaves that line alone."""
    if text is None:
        return _json("loading", None)
    return orjson.dumps({"loading": None, "message": _said(text, tone)}).decode()


def _said(text: str, tone: str = "error") -> dict:
    return {"tone": tone, "text": text}


def _json(slot: str, said: dict | None) -> str:
    return orjson.dumps({slot: said or None}).decode()
