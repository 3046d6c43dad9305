"""The knobs as Gradio components, derived from `Settings.knobs()`, and how they depend on each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gradio as gr

from diffuspec.settings import Knob, Settings

# What a small machine and a projector bear; the engine itself allows more.
CAPS = {"passes": 4, "beam": 16, "m_max": 32, "delta": 20, "max_new_tokens": 512}
DRAFT_LENGTHS = ("k", "k_min", "k_max")
# Each knob's conditions: under other choices it does nothing. Pruning marks the lattice whatever the search does with
# it, but only a search acts on it.
_CHOICES = {name: knob.choices for name, knob in Settings.knobs().items() if knob.choices}
_SEARCHED = {"search": tuple(name for name in _CHOICES["search"] if name != "argmax")}
_ADAPTIVE = {"length": tuple(name for name in _CHOICES["length"] if name != "fixed")}
_TREE = {"search": ("tree",)}
WHEN: dict[str, dict[str, tuple[str, ...]]] = {
    "k": {"length": ("fixed",)},
    "k_min": _ADAPTIVE,
    "k_max": _ADAPTIVE,
    "delta": {"length": ("adl",)},
    "rho": {"length": ("adl",)},
    "confidence": {"length": ("confidence", "failfast", "predicted")},
    "nodes": _TREE,
    "copy": _TREE,
    "followers": {**_TREE, "proxy": ("ngram", "ngram+context")},
    "beam": {"search": ("cps",)},
    "tau": _SEARCHED,
    "m_max": _SEARCHED,
    "lam": _SEARCHED,
    "proxy": _SEARCHED,
    "context_weight": {**_SEARCHED, "proxy": ("ngram+context",)},
}
SAMPLING = ("top_k", "top_p", "rule", "seed")  # at temperature 0 the target's likeliest token is taken
GROUPS = {"Draft length": ("length", "draft"), "Path search": ("search",), "Verify": ("verify",)}


def groups() -> dict[str, list[str]]:
    """Title -> names of the knobs below it, in the order of their declaration."""
    knobs = Settings.knobs()
    return {title: [name for name in knobs if knobs[name].group in parts] for title, parts in GROUPS.items()}


def knob_component(knob: Knob, max_draft: int) -> gr.components.Component:
    """A slider, or a dropdown where the knob has choices; greyed where it has no effect at the defaults."""
    label = f"{knob.symbol} {knob.label.lower()}" if knob.symbol else knob.label
    why = without_effect(Settings().to_dict())[knob.name]
    common = {
        "label": label,
        "info": why,
        "interactive": not why,
        "elem_id": f"knob-{knob.name}",
        "elem_classes": "knob",
    }
    if knob.choices:
        return gr.Dropdown(list(knob.choices), value=knob.default, **common)
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


def without_effect(values: Mapping[str, Any]) -> dict[str, str]:
    """Why each knob does nothing under these choices, in a few words; empty where it has an effect."""
    return {name: _why_not(name, values) for name in values}


def _why_not(name: str, values: Mapping[str, Any]) -> str:
    if name in SAMPLING:
        return "" if values["temperature"] > 0 else "only at a temperature above 0"
    for other, wanted in WHEN.get(name, {}).items():
        if values[other] not in wanted:
            label = Settings.knobs()[other].label.lower()
            if len(wanted) == len(_CHOICES[other]) - 1:
                return f"not with {label} {values[other]}"
            return f"only with {label} {', '.join(wanted[:-1])}{' or ' if wanted[1:] else ''}{wanted[-1]}"
    return ""


def preset_knobs() -> list[str]:
    """What a preset sets on the page: how drafts are made. Temperature, seed and length of the answer stay."""
    return [name for name, knob in Settings.knobs().items() if knob.group != "verify"]


def to_settings(values: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> Settings:
    """Raises `SettingsError`."""
    return Settings.from_mapping(dict(values))
