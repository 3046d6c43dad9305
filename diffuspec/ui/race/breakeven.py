"""The break-even map: the speed-up to expect over the cost of a draft and its acceptance.

Drawn from `diffuspec.method.breakeven`; the lanes of a race and the paper's figures are points on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from diffuspec.measure import paper
from diffuspec.measure.race import Lane, Race
from diffuspec.method.breakeven import FREE, acceptance_for, acceptance_rate, speedup, tokens_per_step
from diffuspec.ui.draw.palette import COLOURS

MEASURED, FLAT = "as measured", "free"
OURS, THEIRS = "this race", "the paper"
COSTS = np.logspace(-2, math.log10(4), 49)
RATES = np.linspace(0, 1, 41)
PAPER_K = 25  # the paper's k runs from 20 to 30


@dataclass(frozen=True)
class Point:
    """A run on the break-even map.

    draft_cost: in one-token target passes; acceptance: per judged token; k: mean draft; measured: speed-up.
    """

    name: str
    draft_cost: float
    acceptance: float
    k: float
    measured: float | None
    origin: str


def points(race: Race, labels: dict[str, tuple[str, str]]) -> list[Point]:
    """One a lane that drafts, and the paper's."""
    ar = race.yardstick
    made = [
        Point(
            labels.get(lane.method, (lane.method,))[0],
            lane.draft_ms / lane.passes / ar.pass_ms,
            acceptance_rate(lane.accepted, lane.refused),
            lane.drafted / lane.passes,
            race.speedup(lane),
            OURS,
        )
        for lane in race.lanes
        if _drafts(lane) and ar.pass_ms
    ]
    # One pass of each a step, so that the seconds of Figure 6 stand for the passes.
    mat, gain = paper.ABLATION[True, True]
    cost = paper.SECONDS["DiffuSpec"]["draft"] / paper.SECONDS["DiffuSpec"]["verify"]
    theirs = Point("the paper", cost, acceptance_for(mat, PAPER_K), PAPER_K, gain, THEIRS)
    return [*made, theirs]


def curve(race: Race, verify: str) -> tuple[tuple[float, float], ...]:
    """(tokens in a pass, its cost in one-token passes): as the race measured it, or always 1."""
    if verify == FLAT or not race.costs:
        return FREE
    one = race.costs[0][1]
    return tuple((n, ms / one) for n, ms in race.costs)


def usual_k(race: Race) -> int:
    """The draft length to open the map with: the mean of the fastest lane that drafts."""
    fastest = max(filter(_drafts, race.lanes), key=lambda lane: lane.tokens_per_second, default=None)
    return max(1, round(fastest.drafted / fastest.passes)) if fastest else 6


def _drafts(lane: Lane) -> bool:
    return bool(lane.drafted and lane.passes)


def chart(race: Race, labels: dict[str, tuple[str, str]], k: int, verify: str = MEASURED) -> dict[str, Any]:
    """What the chart component draws. k: drafted tokens a step; verify: MEASURED or FLAT."""
    costs = curve(race, verify)
    marks = points(race, labels)
    z = speedup(RATES[:, None], COSTS[None, :], k, costs)
    needed = break_even(0.1, k, costs)
    caption = (
        f"At k = {k} a draft that costs a tenth of a target pass pays from an acceptance of {needed:.0%} per token on."
        if needed is not None
        else f"At k = {k} even a draft that costs a tenth of a target pass never pays here: the pass over "
        f"{k + 1} tokens costs too much."
    )
    head = [
        "method",
        "draft cost (target passes)",
        "acceptance per token",
        "k",
        "speed-up by the formula",
        "speed-up measured",
        "origin",
    ]
    rows = [
        [
            p.name,
            round(p.draft_cost, 3),
            round(p.acceptance, 3),
            round(p.k, 1),
            _expected(p, k, costs),
            None if p.measured is None else round(p.measured, 2),
            p.origin,
        ]
        for p in marks
    ]
    return {
        "title": "Break-even map",
        "hint": "hover for numbers; the bold line is speed-up 1",
        "name": "break-even",
        "caption": f"{caption} Each point is a method's own cost and acceptance; the map around it is for k = {k}.",
        "figure": breakeven_figure(z, marks, k, costs).to_plotly_json(),
        "label": f"Speed-up over draft cost and acceptance at k = {k}; the table below has the points",
        "table": {"head": head, "rows": rows},
        "colours": COLOURS,
    }


def break_even(draft_cost: float, k: int, costs: Sequence[tuple[float, float]]) -> float | None:
    """The acceptance per token at which a draft of that cost neither gains nor loses; None where it never gains."""
    fine = np.linspace(0, 1, 1001)
    gains = speedup(fine, draft_cost, k, costs) >= 1
    return float(fine[gains.argmax()]) if gains.any() else None


def _expected(point: Point, k: int, costs: Sequence[tuple[float, float]]) -> float:
    """The map's own value at a point, which is drawn for one k."""
    return round(float(speedup(point.acceptance, point.draft_cost, k, costs)), 2)


def _beside(marks: Sequence[Point], everyone: Sequence[Point]) -> list[str]:
    """Where each point's name stands: above it, or on the side away from a close neighbour and from the frame."""

    def side(p: Point) -> str:
        x = math.log10(max(p.draft_cost, COSTS[0]))
        near = [
            math.log10(max(q.draft_cost, COSTS[0])) - x
            for q in everyone
            if q is not p and abs(q.acceptance - p.acceptance) < 0.12
        ]
        close = min((dx for dx in near if abs(dx) < 0.4), key=abs, default=None)
        if x < -1.7:
            return "middle right" if close is None else "top right"
        if x > 0.2:
            return "top left"
        if close is not None:
            return "middle left" if close > 0 else "middle right"
        return "top center"

    return [side(p) for p in marks]


def breakeven_figure(z: np.ndarray, marks: Sequence[Point], k: int, costs: Sequence[tuple[float, float]]) -> go.Figure:
    """z: speed-up [acceptance, draft cost] over RATES and COSTS."""
    top = max(2.0, min(float(z.max()), 8.0))
    scale = [[0, COLOURS["loss"]], [1 / top, COLOURS["card"]], [1, COLOURS["accepted-soft"]]]
    made = tokens_per_step(RATES, k)
    figure = go.Figure(
        layout=go.Layout(
            template=go.layout.Template(),
            height=380,
            showlegend=False,
            dragmode=False,
            margin={"l": 56, "r": 12, "t": 10, "b": 46},
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            font={"color": COLOURS["ink-soft"], "size": 12},
            hoverlabel={"align": "left"},
            xaxis={
                "title": {"text": "cost of a draft, in target passes of one token", "standoff": 6},
                "type": "log",
                "range": [-2, math.log10(4)],
                "tickvals": [0.01, 0.03, 0.1, 0.3, 1, 3],
                "fixedrange": True,
                "linecolor": COLOURS["line"],
                "showgrid": False,
            },
            yaxis={
                "title": {"text": "acceptance per drafted token", "standoff": 6},
                "range": [0, 1],
                "tickformat": ".0%",
                "fixedrange": True,
                "showgrid": False,
                "linecolor": COLOURS["line"],
            },
        )
    )
    figure.add_contour(
        x=COSTS.round(4).tolist(),
        y=RATES.round(4).tolist(),
        z=z.round(3).tolist(),
        colorscale=scale,
        zmin=0,
        zmax=top,
        contours={
            "start": 0.5,
            "end": top,
            "size": 0.5,
            "showlabels": True,
            "labelformat": ".1f",
            "labelfont": {"size": 11, "color": COLOURS["ink-soft"]},
        },
        line={"width": 0.8, "color": COLOURS["quiet"]},
        showscale=False,
        customdata=np.repeat((made - 1)[:, None], len(COSTS), 1).round(2).tolist(),
        hovertemplate="draft %{x:.2f} target passes, %{y:.0%} accepted per token"
        f"<br>%{{customdata:.2f}} accepted/step at k = {k}<br><b>speed-up %{{z:.2f}}</b><extra></extra>",
    )
    figure.add_contour(
        x=COSTS.round(4).tolist(),
        y=RATES.round(4).tolist(),
        z=z.round(3).tolist(),
        showscale=False,
        hoverinfo="skip",
        contours={"start": 1, "end": 1, "size": 1, "coloring": "none"},
        line={"width": 3, "color": COLOURS["ink"]},
    )
    for mine, symbol, colour in ((True, "circle", "accepted"), (False, "diamond", "correction")):
        some = [p for p in marks if (p.origin == OURS) == mine]
        figure.add_scatter(
            x=[min(max(p.draft_cost, 0.0105), 3.9) for p in some],
            y=[p.acceptance for p in some],
            text=[p.name for p in some],
            mode="markers+text",
            textposition=_beside(some, marks),
            textfont={"color": COLOURS["ink"], "size": 12, "shadow": "auto"},
            marker={
                "size": 11,
                "symbol": symbol,
                "color": COLOURS[colour],
                "line": {"width": 1.5, "color": COLOURS["card"]},
            },
            customdata=[
                [
                    round(p.draft_cost, 3),
                    _expected(p, k, costs),
                    "–" if p.measured is None else f"{p.measured:.2f}",
                    round(p.k, 1),
                    "the paper reports" if p.origin == THEIRS else "measured in this race",
                ]
                for p in some
            ],
            hovertemplate="<b>%{text}</b>: draft %{customdata[0]} target passes, %{y:.0%} accepted per token, "
            f"mean k %{{customdata[3]}}<br>the formula at k = {k}: %{{customdata[1]}}"
            "<br>%{customdata[4]}: %{customdata[2]}<extra></extra>",
        )
    return figure
