"""A trace as the one JSON text that the player draws.

While a run goes on, every payload carries the outline of all steps and the full detail of the last
few only; the player merges them by `run`, so a payload the browser drops costs nothing in the end.
The last payload carries everything.
"""

from __future__ import annotations

from typing import Any

import orjson

from diffuspec.trace import Trace
from diffuspec.ui.views import lattice
from diffuspec.ui.views.acceptance import acceptance_figure
from diffuspec.ui.views.adl import adl_figure, decision
from diffuspec.ui.views.merits import Source, merits
from diffuspec.ui.views.palette import COLOURS
from diffuspec.ui.views.stages import stages_figure
from diffuspec.ui.views.text import Unit, answer_units, prompt_units, token_label


def payload(
    trace: Trace, run: str, source: Source | None = None, *, detail_from: int = 0, at: tuple[int, str] | None = None
) -> str:
    """JSON text. run: names the run whose payloads belong together; detail_from: first step sent in full;
    at: the step (from 0) and phase that the player opens with, if not its own choice."""
    source = source or Source()
    shown = set(trace.prompt_ids if detail_from == 0 else ())
    steps = []
    for step in trace.steps:
        entry = lattice.outline(step)
        entry["length"]["words"] = decision(step, trace.settings)
        entry["oracle"] = trace.oracle(step.index)
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
        "settings": trace.settings.to_dict(),
        "pair": {"target": trace.pair.target, "drafter": trace.pair.drafter, "dtype": trace.pair.dtype},
        "merits": merits(trace, source),
        "prompt": [_unit(unit) for unit in prompt_units(trace)],
        "units": [_unit(unit) for unit in answer_units(trace)],
        "steps": steps,
        "labels": {token: token_label(trace, token) for token in sorted(shown)},
        "stops": trace.stop_ids,
        "figures": {
            "adl": adl_figure(trace).to_plotly_json(),
            "acceptance": acceptance_figure(trace).to_plotly_json(),
            "stages": stages_figure(trace).to_plotly_json(),
        },
        "colours": COLOURS,
    }
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()


def _unit(unit: Unit) -> dict[str, Any]:
    return {"t": unit.text, "s": unit.steps, "o": unit.origins, "x": unit.special}
