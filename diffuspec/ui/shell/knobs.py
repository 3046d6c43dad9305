"""The knobs as Gradio components, derived from `Settings.knobs()`, and how they depend on each other."""

from __future__ import annotations

from typing import Any

import gradio as gr

from diffuspec.settings import Knob, Settings

# What a small machine and a projector bear; the engine itself allows more.
CAPS = {"passes": 4, "beam": 16, "m_max": 32, "delta": 20, "max_new_tokens": 512}
DRAFT_LENGTHS = ("k", "k_min", "k_max")
# A switch turns each of these off; what it does when on is a knob of its own.
OFF = {"length": "fixed", "search": "argmax"}
GROUPS = {"Draft length": ("length", "draft"), "Path search": ("search",), "Verify": ("verify",)}


def groups() -> dict[str, list[str]]:
    """Title -> names of the knobs below it, in the order of their declaration."""
    knobs = Settings.knobs()
    return {title: [name for name in knobs if knobs[name].group in parts] for title, parts in GROUPS.items()}


def knob_component(knob: Knob, max_draft: int) -> gr.components.Component:
    """A slider, or a dropdown where the knob has choices."""
    label = f"{knob.symbol} {knob.label.lower()}" if knob.symbol else knob.label
    common = {"label": label, "info": knob.meaning, "elem_id": f"knob-{knob.name}", "elem_classes": "knob"}
    if knob.choices:
        return gr.Dropdown([c for c in knob.choices if c != OFF.get(knob.name)], value=knob.default, **common)
    if knob.name == "seed":
        return gr.Number(knob.default, precision=0, minimum=knob.low, maximum=knob.high, **common)
    high = min(knob.high, max_draft if knob.name in DRAFT_LENGTHS else CAPS.get(knob.name, knob.high))
    return gr.Slider(
        knob.low,
        high,
        value=knob.default,
        step=knob.step,
        buttons=[],
        precision=0 if knob.kind is int else 2,
        **common,
    )


def applies(adl: bool, cps: bool, values: dict[str, Any]) -> dict[str, bool]:
    """Whether each knob has an effect under these choices."""
    length = values["length"] if adl else OFF["length"]
    search = values["search"] if cps else OFF["search"]
    # Pruning marks the lattice whatever the search does with it, but only a search acts on it.
    effect = {
        **dict.fromkeys(values, True),
        "length": adl,
        "search": cps,
        "k": not adl,
        **dict.fromkeys(("k_min", "k_max"), adl),
        **dict.fromkeys(("delta", "rho"), length == "adl"),
        "confidence": length in ("confidence", "failfast", "predicted"),
        **dict.fromkeys(("lam", "proxy", "tau", "m_max"), cps),
        "beam": search == "cps",
        **dict.fromkeys(("nodes", "copy"), search == "tree"),
        "followers": search == "tree" and values["proxy"].startswith("ngram"),
        "context_weight": cps and values["proxy"] == "ngram+context",
        "seed": values["temperature"] > 0,
    }
    return {name: effect[name] for name in values}


def to_settings(adl: bool, cps: bool, values: dict[str, Any]) -> Settings:
    """Raises `SettingsError`."""
    off = {name: choice for (name, choice), on in zip(OFF.items(), (adl, cps), strict=True) if not on}
    return Settings.from_mapping({**values, **off})
