"""The knobs as Gradio components, derived from `Settings.knobs()`, and how they depend on each other."""

from __future__ import annotations

from typing import Any

import gradio as gr

from diffuspec.settings import Knob, Settings

# What a small machine and a projector bear; the engine itself allows more.
CAPS = {"passes": 4, "beam": 16, "m_max": 32, "delta": 20, "max_new_tokens": 512}
DRAFT_LENGTHS = ("k", "k_min", "k_max")
ADAPTIVE = ("k_min", "k_max", "delta", "rho")
SWITCHED = ("length", "search")  # shown as switches
GROUPS = {
    "Draft length": ("k", *ADAPTIVE, "passes"),
    "Path search": ("beam", "tau", "m_max", "lam", "proxy", "context_weight"),
    "Verify": ("temperature", "seed", "max_new_tokens"),
}


def knob_component(knob: Knob, max_draft: int) -> gr.components.Component:
    """A slider, or a dropdown where the knob has choices."""
    label = f"{knob.symbol} {knob.label.lower()}" if knob.symbol else knob.label
    common = {"label": label, "info": knob.meaning, "elem_id": f"knob-{knob.name}", "elem_classes": "knob"}
    if knob.choices:
        return gr.Dropdown(list(knob.choices), value=knob.default, **common)
    if knob.name == "seed":
        return gr.Number(knob.default, precision=0, minimum=knob.low, maximum=knob.high, **common)
    high = min(knob.high, max_draft if knob.name in DRAFT_LENGTHS else CAPS.get(knob.name, knob.high))
    return gr.Slider(
        knob.low, high, value=knob.default, step=knob.step, buttons=[],
        precision=0 if knob.kind is int else 2, **common,
    )  # fmt: skip


def applies(adl: bool, cps: bool, proxy: str, temperature: float) -> dict[str, bool]:
    """Which knobs have an effect under these choices."""
    searched = dict.fromkeys(("beam", "lam", "proxy"), cps)
    return {
        "k": not adl,
        **dict.fromkeys(ADAPTIVE, adl),
        **searched,
        # Pruning marks the lattice whatever the search does with it, but only CPS acts on it.
        "tau": cps,
        "m_max": cps,
        "context_weight": cps and proxy == "ngram+context",
        "seed": temperature > 0,
    }


def to_settings(adl: bool, cps: bool, values: dict[str, Any]) -> Settings:
    """Raises `SettingsError`."""
    chosen = {"length": "adl" if adl else "fixed", "search": "cps" if cps else "argmax"}
    return Settings.from_mapping({**values, **chosen})
