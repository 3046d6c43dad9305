"""A trace to take along: a table of its steps, one of its tokens, or a page that replays it without a network."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import orjson

from diffuspec.plaintext import csv_text
from diffuspec.trace.model import Trace
from diffuspec.trace.origin import UNKNOWN
from diffuspec.trace.steps import STAGES, Step
from diffuspec.ui.draw.plotly_url import PLOTLY_JS
from diffuspec.ui.player.component import HTML, SCRIPTS, STYLES
from diffuspec.ui.player.merits import RECORDED, Source
from diffuspec.ui.player.misses import miss
from diffuspec.ui.player.payload import payload
from diffuspec.ui.player.text import origins

STEP_COLUMNS = (
    "step",
    "start",
    "k",
    "path",
    "accepted",
    "kind",
    "emitted",
    "text",
    "miss",
    "oracle",
    "L_gen",
    "L_acc",
    "EMA_gen",
    "EMA_acc",
    "next_k",
    "decided",
    *(f"{stage}_ms" for stage in STAGES),
)
TOKEN_COLUMNS = ("position", "token", "text", "origin", "step", "target_p", "drafter_q", "drafter_rank")


# Of a page for a notebook, and what the player itself takes of it.
LIGHT_BYTES, PLAYER_BYTES = 10**6, 250_000
LIGHT_STYLE = ".ds-plot { display: none; } body .offline-head { display: none; }"


def file_stem(trace: Trace) -> str:
    """A file name for the trace, from the first words of its prompt."""
    words = re.findall(r"[a-z0-9]+", (trace.prompt or "").lower())
    return "-".join(["diffuspec", *words[:6]])[:60]


def steps_csv(trace: Trace) -> str:
    """One row a step. Texts are JSON strings: line breaks stay visible and no cell starts a formula. What another
    engine did not tell of its steps is left empty."""
    return csv_text(STEP_COLUMNS, step_rows(trace))


def step_rows(trace: Trace) -> list[tuple]:
    """Of `STEP_COLUMNS`."""
    rows, own = [], trace.origin is None
    timed = own or trace.origin.times == "stages"
    for step in trace.steps:
        length, timing = step.length, step.timing
        rows.append(
            (
                step.index + 1,
                step.start,
                step.draft_length,
                len(step.path),
                step.accepted,
                step.verification.kind or "",
                len(step.emitted),
                _quoted(trace, step.emitted),
                miss(step) or "",
                trace.oracle(step.index) if own else "",
                length.generated if own else "",
                length.accepted,
                _number(length.ema_gen),
                _number(length.ema_acc),
                length.next_k if own else "",
                length.decided,
                *(round(ms, 3) if timed else "" for ms in timing.stages().values()),
            )
        )
    return rows


def tokens_csv(trace: Trace) -> str:
    """One row a token of the answer: where it came from, the target's p and the drafter's q where they are known."""
    return csv_text(TOKEN_COLUMNS, token_rows(trace))


def token_rows(trace: Trace) -> list[tuple]:
    """Of `TOKEN_COLUMNS`."""
    rows = []
    for step in trace.steps:
        for place, (token, origin) in enumerate(zip(step.emitted, origins(step), strict=True)):
            known = place < step.lattice.k and not np.isnan(step.lattice.logq[place, 0])
            rank = step.lattice.rank_of(place, token) if known else None
            q = None if rank is None else float(np.exp(step.lattice.logq[place, rank]))
            rows.append(
                (
                    step.start + place + 1,
                    "" if token == UNKNOWN else token,
                    _quoted(trace, [token]),
                    origin,
                    step.index + 1,
                    _number(_target_p(step, place, token)),
                    _number(q),
                    "" if rank is None else rank + 1,
                )
            )
    return rows


def _target_p(step: Step, place: int, token: int) -> float | None:
    check = step.verification
    if place < len(step.path) and step.path[place] == token:
        return float(np.exp(check.path_logp[place]))
    if place < len(check.top_ids):
        hits = np.flatnonzero(check.top_ids[place] == token)
        if hits.size:
            return float(np.exp(check.top_logp[place, hits[0]]))
    return None


def _quoted(trace: Trace, tokens: Iterable[int]) -> str:
    return json.dumps(b"".join(map(trace.piece, tokens)).decode("utf-8", "replace"), ensure_ascii=False)


def _number(value: float | None) -> float | str:
    return "" if value is None or np.isnan(value) else round(value, 6)


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<title>{title}</title>
<style>
{styles}
body {{ margin: 0; background: var(--ds-page); color: var(--ds-ink); }}
main {{ max-width: 1500px; margin: 0 auto; padding: 16px; }}
.offline-head {{ display: flex; flex-wrap: wrap; gap: 4px 18px; align-items: baseline; margin-bottom: 12px;
 font-family: system-ui, sans-serif; }}
.offline-head h1 {{ font-size: 17px; margin: 0; flex: 1 1 300px; overflow-wrap: anywhere; }}
.offline-head p {{ margin: 0; font-size: 13px; color: var(--ds-ink-soft); }}
.offline-head button {{ font: inherit; font-size: 13px; padding: 4px 12px; border: 1px solid var(--ds-line);
 border-radius: 6px; background: var(--ds-card); color: var(--ds-ink); cursor: pointer; }}
</style>
</head>
<body>
<main>
<div class="offline-head"><h1>{prompt}</h1><p>{about}</p>
<button type="button" id="theme" aria-pressed="false">dark</button></div>
{player}
</main>
<script type="application/json" id="trace">{payload}</script>
{scripts}
<script>
const theme = document.getElementById("theme");
const paint = (dark) => {{
  document.body.classList.toggle("dark", dark);
  theme.setAttribute("aria-pressed", String(dark));
}};
theme.addEventListener("click", () => paint(!document.body.classList.contains("dark")));
paint(matchMedia("(prefers-color-scheme: dark)").matches);
DiffuSpecPlayer.mount(document.querySelector(".ds-player"), {{ plotly: () => Promise.resolve(window.Plotly) }})
  .update(document.getElementById("trace").textContent);
</script>
</body>
</html>
"""


def replay_page(
    trace: Trace, source: Source | None = None, *, at: tuple[int, str] | None = None, light: bool = False
) -> str:
    """One HTML file that replays the trace: player, styles, plotly.js and the trace itself, and no address anywhere.

    The trace stands in it as JSON whose `<` are escaped, so that no token can end the script that holds it.
    at: step (from 0) and phase to open with; light: without plotly.js and what it draws, and of a long run only the
    lattices next to that step, so that the page takes less than `LIGHT_BYTES`.
    """
    body = payload(trace, "offline", source or Source(RECORDED), at=at, figures=not light)
    if light:
        body = _lightened(body, at[0] if at else 0)
    body = body.replace("<", "\\u003c")
    origin = trace.provenance
    where = f"recorded {origin.recorded_at[:10]} on {origin.machine}" if origin.machine else "recorded elsewhere"
    engine = f", by {trace.origin.engine}" if trace.origin else ""
    about = f"{', '.join(filter(None, [trace.pair.target, trace.pair.dtype]))} · {where}{engine}"
    scripts = SCRIPTS if light else [PLOTLY_JS, *SCRIPTS]
    return PAGE.format(
        title=html.escape(f"DiffuSpec: {trace.prompt or 'a run'}"[:120]),
        prompt=html.escape(trace.prompt or "A run on token ids"),
        about=html.escape(about),
        styles="\n".join([*(path.read_text(encoding="utf-8") for path in STYLES), LIGHT_STYLE if light else ""]),
        player=HTML.read_text(encoding="utf-8"),
        payload=body,
        scripts="\n".join(f"<script>{_script(path)}</script>" for path in scripts),
    )


def _lightened(body: str, at: int) -> str:
    """A payload without the details of the steps farthest from `at`, as many as make it too large."""
    if len(body) <= LIGHT_BYTES - PLAYER_BYTES:
        return body
    made = orjson.loads(body)
    sizes = [len(orjson.dumps(step.get("detail"))) for step in made["steps"]]
    excess = len(body) - (LIGHT_BYTES - PLAYER_BYTES)
    for index in sorted(range(len(sizes)), key=lambda i: -abs(i - at)):
        if excess <= 0:
            break
        excess -= sizes[index]
        del made["steps"][index]["detail"]
    return orjson.dumps(made).decode()


def _script(path: Path) -> str:
    return path.read_text(encoding="utf-8").replace("</script", "<\\/script")
