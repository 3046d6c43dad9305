"""The recorded traces as cards: what was asked, what to look at, the figures, and where they come from."""

from __future__ import annotations

from typing import Any

import orjson

from diffuspec.errors import DiffuSpecError
from diffuspec.trace.gallery import Gallery, Recorded
from diffuspec.ui.player.merits import RECORDED, Source, merits

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
    found = merits(trace, Source(RECORDED))
    return {
        **card,
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
