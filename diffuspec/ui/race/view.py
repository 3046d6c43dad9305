"""A race as the race component draws it, under way and to be replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from diffuspec.measure.race import Lane, Race
from diffuspec.ui.player import why
from diffuspec.ui.player.merits import RECORDED, provenance
from diffuspec.ui.player.text import units

WAITING, RUNNING, DONE, LEFT_OUT = "waiting", "running", "done", "left out"
HEAD = (
    "method",
    "tokens/s",
    "speed-up",
    "tokens/step",
    "accepted/step",
    "target passes",
    "tokens",
    "seconds",
    "identical to AR",
)
DIGITS = (None, 1, 2, 2, 2, 0, 0, 2, None)


@dataclass(frozen=True)
class LaneState:
    """A lane while the race goes on: state, tokens so far, seconds it took (None until done), why it was left out."""

    method: str
    label: str
    state: str = WAITING
    made: int = 0
    seconds: float | None = None
    said: str = ""


def live_payload(ticket: str, prompt: str, budget: int, lanes: Sequence[LaneState], said: str) -> str:
    """JSON text of a race under way. said: one line on what happens now."""
    return orjson.dumps(
        {
            "race": ticket,
            "live": True,
            "prompt": prompt,
            "budget": budget,
            "said": said,
            "lanes": [
                {
                    "method": s.method,
                    "label": s.label,
                    "state": s.state,
                    "made": s.made,
                    "seconds": s.seconds,
                    "said": s.said,
                }
                for s in lanes
            ],
        }
    ).decode()


def race_payload(
    race: Race, ticket: str, kind: str = RECORDED, labels: dict[str, tuple[str, str]] | None = None
) -> str:
    """JSON text of a finished race. labels: method -> (label, one line about it)."""
    labels = labels or {}
    order = sorted(race.lanes, key=lambda lane: lane.wall_ms)
    lanes = []
    for lane in race.lanes:
        label, about = labels.get(lane.method, (lane.method, ""))
        account = why.of_lane(race, lane)
        lanes.append(
            {
                "method": lane.method,
                "label": label,
                "about": about,
                "place": order.index(lane) + 1,
                "tokens": len(lane.token_ids),
                "ms": round(lane.wall_ms, 1),
                "speedup": _round(race.speedup(lane), 3),
                "units": _units(race, lane),
                "why": why.words(account, advice=False) if account else None,
            }
        )
    body = {
        "race": ticket,
        "live": False,
        "prompt": race.prompt,
        "budget": race.settings.max_new_tokens,
        "source": provenance(race.provenance, kind),
        "pair": {"target": race.pair.target, "drafter": race.pair.drafter, "dtype": race.pair.dtype},
        "lanes": lanes,
        "table": {"head": HEAD, "rows": table(race, labels), "digits": DIGITS},
    }
    return orjson.dumps(body).decode()


def _units(race: Race, lane: Lane) -> list[list[Any]]:
    """[text, milliseconds when it was there, tokens so far, origin, special] of each unit of the answer."""
    marked = [
        (token, place, origin) for place, (token, origin) in enumerate(zip(lane.token_ids, lane.origins, strict=True))
    ]
    made = units(race, marked)
    return [[u.text, round(lane.times_ms[u.steps[-1]], 1), u.steps[-1] + 1, u.origins[-1], u.special] for u in made]


def table(race: Race, labels: dict[str, tuple[str, str]] | None = None) -> list[list[Any]]:
    """A row a lane, fastest first, with the columns of HEAD."""
    labels = labels or {}
    rows = []
    for lane in sorted(race.lanes, key=lambda lane: -lane.tokens_per_second):
        apart = race.difference(lane)
        ran = bool(lane.accepted or lane.drafted)
        rows.append(
            [
                labels.get(lane.method, (lane.method,))[0],
                round(lane.tokens_per_second, 1),
                _round(race.speedup(lane), 2),
                round(lane.tokens_per_step, 2) if lane.passes else None,
                round(lane.accepted_per_step, 2) if ran else None,
                lane.passes,
                len(lane.token_ids),
                round(lane.wall_ms / 1e3, 2),
                "yes" if apart is None else f"no, from token {apart + 1} on",
            ]
        )
    return rows


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
