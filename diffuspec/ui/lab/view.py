"""A recorded step searched again, the target's word on another path, and branches side by side, for the Step lab."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from diffuspec.method.search import oracle_accepted
from diffuspec.settings import Settings
from diffuspec.trace.model import Trace
from diffuspec.trace.steps import Step
from diffuspec.trace.whatif import Again, as_step, context, continuation, judged, proxies, search_again, why_not
from diffuspec.ui.player import lattice
from diffuspec.ui.player.text import answer_units, token_label
from diffuspec.ui.shell.knobs import WHEN

# The knobs that a search can be changed by, without a model.
KNOBS = ("search", "beam", "nodes", "copy", "followers", "tau", "m_max", "lam", "proxy", "context_weight")
COMPILED_MS = 3000.0  # a search that takes longer had to be compiled first, as the first one on a machine has
Spell = Callable[[str, Iterable[int]], dict[int, str]]  # of a pair by its name: token id -> its bytes, as in `Trace`
LEAD = 14  # tokens of the text before the step that are shown


def knob_specs() -> list[dict[str, Any]]:
    """Symbol, label, meaning and bounds of each of KNOBS, and under which other choices it has an effect."""
    knobs = Settings.knobs()
    return [
        {
            "name": name,
            "symbol": knobs[name].symbol,
            "label": knobs[name].label,
            "meaning": knobs[name].meaning,
            "low": knobs[name].low,
            "high": knobs[name].high,
            "step": knobs[name].step,
            "choices": list(knobs[name].choices),
            "when": WHEN.get(name, {}),
        }
        for name in KNOBS
    ]


def opening_settings(trace: Trace) -> Settings:
    """The run's own settings, with a proxy that can be had here."""
    possible = proxies(trace)
    return trace.settings if trace.settings.proxy in possible else trace.settings.replace(proxy=possible[0])


def again(trace: Trace, index: int, settings: Settings, spell: Spell = lambda pair_name, tokens: {}) -> dict[str, Any]:
    """Step `index` before and after; `after` is None where nothing was drafted.

    spell: gives the pieces of tokens that the trace does not know, as an n-gram may add to a tree.
    """
    step = trace.steps[index]
    body: dict[str, Any] = {
        "index": index,
        "count": len(trace.steps),
        "lead": "".join(token_label(trace, token) for token in context(trace, index)[-LEAD:]),
        "settings": settings.to_dict(),
        "recorded": trace.settings.to_dict(),
        "proxies": proxies(trace),
        "missing": why_not(trace, trace.settings.proxy),
        "width": step.lattice.width,
        "stops": trace.stop_ids,
        "before": before(step),
        "after": None,
        "labels": {},
    }
    if not step.lattice.k:
        return body
    found = search_again(trace, index, settings)
    if found.ms > COMPILED_MS:
        found = search_again(trace, index, settings)
    known = continuation(trace, index)
    body["known"] = known[: step.lattice.k + 1]
    after = as_step(trace, index, found)
    body["after"] = drawn(trace, after)
    body["after"]["oracle"] = oracle_accepted(found.lattice, known)
    body["certain"] = found.certain
    body["judged"] = judged(trace.settings)
    body["ms"] = round(found.ms, 2)
    body["score"] = scores(trace, found)
    shown = {t for t in lattice.tokens_shown(step) | lattice.tokens_shown(after) | set(body["known"]) if t >= 0}
    pieces = {**spell(trace.pair.name, shown - trace.pieces.keys()), **trace.pieces}
    spelt = dataclasses.replace(trace, pieces=pieces)
    body["labels"] = {token: token_label(spelt, token) for token in shown}
    return body


def before(step: Step) -> dict[str, Any]:
    """The recorded path: tokens, ranks, what became of it."""
    search, check = step.search, step.verification
    return {
        "path": search.ids.tolist(),
        "ranks": search.ranks.tolist(),
        "accepted": check.accepted,
        "token": check.token,
        "kind": check.kind,
        "kept": int(step.lattice.kept.sum()),
        "score": float(search.score[-1]) if len(search) else None,
        "method": search.method,
        "nodes": None if search.tree is None else len(search.tree),
    }


def drawn(trace: Trace, step: Step) -> dict[str, Any]:
    """A step as lattice.js and reason.js read it, its columns counted from its own start."""
    entry = lattice.outline(step)
    entry["start"] = 0
    entry["detail"] = lattice.detail(step)
    return entry


def scores(trace: Trace, found: Again) -> dict[str, Any]:
    return {
        "kept": int(found.lattice.kept.sum()),
        "score": float(found.search.score[-1]) if len(found.search) else None,
    }


def verified(trace: Trace, step: Step) -> dict[str, Any]:
    """What the target said of a path of the visitor's own."""
    entry = drawn(trace, step)
    shown = lattice.tokens_shown(step)
    return {"step": entry, "labels": {token: token_label(trace, token) for token in shown}}


def branch(trace: Trace, label: str, since: int = 0, forced: str = "") -> dict[str, Any]:
    """One column of the comparison: the text from step `since` on and its figures; forced: text put before it."""
    steps = trace.steps[since:]
    made = sum(len(step.emitted) for step in steps)
    return {
        "label": label,
        "forced": forced,
        "units": [
            {"t": unit.text, "o": unit.origins, "x": unit.special}
            for unit in answer_units(trace)
            if unit.steps[-1] >= since
        ],
        "tokens": made,
        "steps": len(steps),
        "tokens_per_step": round(made / len(steps), 2) if steps else None,
        "accepted_per_step": round(sum(step.accepted for step in steps) / len(steps), 2) if steps else None,
        "ended": trace.stop_reason,
    }


def dumps(**slots: Any) -> str:
    """The JSON text that the component merges, slot by slot."""
    return orjson.dumps(slots, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()
