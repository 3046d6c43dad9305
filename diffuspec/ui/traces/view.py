"""The recorded traces as cards: what was asked, what to look at, the figures, and where they come from."""

from __future__ import annotations

from typing import Any

import orjson

from diffuspec.errors import DiffuSpecError
from diffuspec.settings import PRESETS, Settings
from diffuspec.trace.comparison import compare
from diffuspec.trace.gallery import Gallery, Recorded
from diffuspec.trace.model import Trace
from diffuspec.ui.player.merits import RECORDED, Source, merits
from diffuspec.ui.player.text import token_label
from diffuspec.ui.shell.mine import RecentRuns, listed

GROUPS = {
    "tasks": ("One of each task family", "the six families of Spec-Bench"),
    "failures": ("Curated failures", "where drafting goes wrong in an instructive way"),
}


def cards(gallery: Gallery) -> str:
    """JSON text: groups of cards; a trace that cannot be read says so on its card."""
    groups = []
    for key, (title, about) in GROUPS.items():
        entries = [_card(gallery, entry) for entry in gallery if entry.group == key]
        if entries:
            groups.append({"id": key, "title": title, "about": about, "cards": entries})
    return orjson.dumps({"groups": groups}).decode()


def _card(gallery: Gallery, entry: Recorded) -> dict[str, Any]:
    card: dict[str, Any] = {"name": entry.name, "title": entry.title, "prompt": entry.prompt, "look": entry.look}
    try:
        trace = gallery.trace(entry.name)
    except DiffuSpecError as error:
        return {**card, "problem": str(error)}
    return {**card, **_figures(trace)}


def _figures(trace: Trace) -> dict[str, Any]:
    found = merits(trace, Source(RECORDED))
    return {
        "problem": None,
        "badge": found["provenance"]["badge"],
        "origin": found["provenance"]["title"],
        "pair": f"{trace.pair.name} pair, {trace.pair.dtype}",
        "models": f"{trace.pair.target} + {trace.pair.drafter}",
        "tokens": trace.new_tokens,
        "steps": len(trace.steps),
        "tokens_per_step": found["tokens_per_step"],
        "accepted_per_step": found["accepted_per_step"],
        "speedup": found["speedup"],
        "verdict": found["verdict"]["headline"],
        "state": found["verdict"]["state"],
    }


def my_runs(mine: Any, runs: RecentRuns) -> str:
    """JSON text of one group: a card for each run of a visitor's list that this server still has."""
    cards = []
    for entry in listed(mine):
        trace = runs.get(entry["key"])
        if trace is not None:
            about = {"name": entry["key"], "title": "", "at": entry["at"], "prompt": trace.prompt or entry["prompt"]}
            cards.append({**about, "look": settings_in_words(trace), **_figures(trace)})
    about = "the last twelve of this browser, kept for a day; set one beside the run on the Playground"
    group = {"id": "mine", "title": "My runs", "about": about, "cards": cards}
    return orjson.dumps({"groups": [group] if cards else []}).decode()


def settings_in_words(trace: Trace) -> str:
    """The preset that a run's settings are nearest to, and the knobs that differ from it."""
    values = trace.settings.to_dict()
    unlike = {
        preset.title: {
            name: values[name] for name, usual in Settings(**preset.changes).to_dict().items() if values[name] != usual
        }
        for preset in PRESETS.values()
    }
    title = min(unlike, key=lambda name: len(unlike[name]))
    changed = unlike[title]
    return ", ".join([title, *(f"{name} = {_plain(value)}" for name, value in changed.items())])


def beside(a: Trace, b: Trace) -> str:
    """JSON text of a comparison: notes in words, and rows (what, in a, in b)."""
    found = compare(a, b)
    notes = []
    if not found.same_prompt:
        notes.append("The prompts differ, so the texts say nothing about the settings.")
    elif found.same_text:
        notes.append(f"The texts are the same as far as the shorter goes: {found.tokens_alike} tokens.")
    else:
        here, there = (token_label(trace, trace.token_ids[found.tokens_alike]) for trace in (a, b))
        notes.append(f"The texts part at token {found.tokens_alike + 1}: “{here}” there, “{there}” here.")
    if found.same_prompt and found.step is not None:
        notes.append(f"Step {found.step + 1} is the first that differs.")
    rows = [(name, *map(_plain, values)) for name, values in found.settings.items()]
    if found.pairs:
        rows.insert(0, ("models", *found.pairs))
    rows += [
        ("tokens in steps", *(f"{trace.new_tokens} in {trace.totals.steps}" for trace in (a, b))),
        ("tokens/step", *(f"{trace.tokens_per_step:.2f}" for trace in (a, b))),
        ("accepted/step", *(f"{trace.accepted_per_step:.2f}" for trace in (a, b))),
        ("tokens/s", *(f"{trace.tokens_per_second:.1f}" for trace in (a, b))),
        ("over plain AR, each in its own run", *map(_speedup, (a, b))),
    ]
    notes.append("Speeds were measured one after the other: what else the machine did then is in them.")
    return orjson.dumps({"notes": notes, "rows": rows}).decode()


def _speedup(trace: Trace) -> str:
    return "not measured" if trace.speedup is None else f"{trace.speedup:.2f}×"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
