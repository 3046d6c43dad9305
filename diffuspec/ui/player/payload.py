"""A trace as the one JSON text that the player draws.

While a run goes on, every payload carries the outline of all steps, the full detail of the last few
only and the figures now and then; the player merges them by `run`, so a payload the browser drops
costs nothing in the end. The last payload carries everything.
"""

from __future__ import annotations

import time
from typing import Any

import orjson

from diffuspec.errors import PromptError
from diffuspec.trace.gallery import gallery
from diffuspec.trace.model import Trace
from diffuspec.trace.origin import UNKNOWN
from diffuspec.trace.steps import STAGES, Step
from diffuspec.ui.draw.palette import COLOURS
from diffuspec.ui.player import lattice
from diffuspec.ui.player.acceptance import acceptance_figure, reached
from diffuspec.ui.player.adl import adl_figure, decision
from diffuspec.ui.player.merits import Source, merits
from diffuspec.ui.player.stages import stages_figure
from diffuspec.ui.player.text import Unit, answer_units, prompt_units, token_label
from diffuspec.ui.shell.links import address

# Steps sent in full with each look at a run: those that a visitor who follows it may step back to before it ends.
RECENT = 16
# Seconds between two pictures of the figures of a run under way: to make and to draw them takes the engine's cores.
FIGURES_S = 3.0


class Stream:
    """The payloads of one run under way, made as cheaply as may be."""

    def __init__(self, run: str):
        self.run = run
        self._outlines: dict[int, dict[str, Any]] = {}
        self._sent, self._figures_at = -1, time.monotonic()

    def payload(self, trace: Trace, source: Source) -> str:
        """JSON text; steps that were sent in full before, and figures just sent, are left out."""
        count, now = len(trace.steps), time.monotonic()
        detail_from = max(count - RECENT, 0) if count != self._sent else count
        figures = count != self._sent and now - self._figures_at >= FIGURES_S
        self._sent, self._figures_at = count, now if figures else self._figures_at
        return payload(trace, self.run, source, detail_from=detail_from, figures=figures, outlines=self._outlines)


def payload(
    trace: Trace,
    run: str,
    source: Source | None = None,
    *,
    detail_from: int = 0,
    figures: bool = True,
    outlines: dict[int, dict[str, Any]] | None = None,
    at: tuple[int, str] | None = None,
) -> str:
    """JSON text. run: names the run whose payloads belong together; detail_from: first step sent in full;
    figures: whether they are sent; outlines: where those of steps that nothing can change any more are kept;
    at: the step (from 0) and phase that the player opens with, if not its own choice."""
    source, outlines = source or Source(), {} if outlines is None else outlines
    shown = set(trace.prompt_ids if detail_from == 0 else ())
    steps = []
    for step in trace.steps:
        entry = dict(outlines.get(step.index) or _outline(trace, step))
        # Its oracle is known once the answer has gone on past its lattice.
        if step.start + step.lattice.k <= trace.new_tokens:
            outlines[step.index] = dict(entry)
        if step.index >= detail_from:
            entry["detail"] = lattice.detail(step)
            shown |= lattice.tokens_shown(step)
        else:
            shown.update(entry["path"], entry["emitted"])
        steps.append(entry)
    body: dict[str, Any] = {
        "run": run,
        "at": at and {"step": at[0], "phase": at[1]},
        "live": trace.stop_reason == "running",
        "question": trace.prompt,
        **_links(trace),
        "settings": trace.settings.to_dict(),
        "pair": {"target": trace.pair.target, "drafter": trace.pair.drafter, "dtype": trace.pair.dtype},
        "merits": merits(trace, source),
        "stages": STAGES,
        "prompt": [_unit(unit) for unit in prompt_units(trace)],
        "units": [_unit(unit) for unit in answer_units(trace)],
        "origin": _origin(trace),
        "steps": steps,
        "labels": {token: token_label(trace, token) for token in sorted(shown)},
        "stops": trace.stop_ids,
        "figures": {
            "adl": adl_figure(trace).to_plotly_json(),
            "acceptance": acceptance_figure(trace).to_plotly_json(),
            "stages": stages_figure(trace).to_plotly_json(),
        }
        if figures
        else None,
        "colours": COLOURS,
    }
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()


def _links(trace: Trace) -> dict[str, str | None]:
    """trace: its name where it is a recorded one; link: query of an address that brings prompt and settings."""
    if trace.stop_reason == "running":
        return {"trace": None, "link": None}
    try:
        link = address(trace.prompt, trace.settings).removeprefix("?") if trace.prompt else None
    except PromptError:
        link = None
    return {"trace": gallery().name_of(trace), "link": link}


def _origin(trace: Trace) -> dict[str, Any] | None:
    """What the player must not show as known of another engine's trace; None for our own. text: the answer, where the
    tokens of its steps are not known; reached: steps that accepted so many tokens and more, where only sums are."""
    origin = trace.origin
    if origin is None:
        return None
    told = trace.token_ids and UNKNOWN not in trace.token_ids
    return {
        "engine": origin.engine,
        "knows": origin.knows,
        "times": origin.times,
        "candidates": origin.candidates,
        "target": origin.target,
        "text": "" if told else trace.text,
        "reached": None if trace.steps else reached(trace),
    }


def _outline(trace: Trace, step: Step) -> dict[str, Any]:
    made = lattice.outline(step)
    made["length"]["words"] = decision(step, trace.settings)
    made["oracle"] = trace.oracle(step.index)
    if trace.origin and not trace.origin.times:
        made["ms"] = None
    return made


def _unit(unit: Unit) -> dict[str, Any]:
    return {"t": unit.text, "s": unit.steps, "o": unit.origins, "x": unit.special}
