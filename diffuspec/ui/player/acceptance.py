"""How far drafts get: acceptance by position over the run, and the target's p in one step."""

from __future__ import annotations

import plotly.graph_objects as go

from diffuspec.trace.model import Trace
from diffuspec.ui.draw.palette import COLOURS


def reached(trace: Trace) -> list[int]:
    """Steps whose accepted length reaches position i + 1, for i from 0 to the longest draft."""
    if not trace.steps:
        histogram = trace.totals.histogram
        return [sum(histogram[place + 1 :]) for place in range(len(histogram) - 1)]
    longest = max((step.draft_length for step in trace.steps), default=0)
    return [sum(step.accepted > place for step in trace.steps) for place in range(longest)]


def acceptance_figure(trace: Trace) -> go.Figure:
    """Share of the run's steps that reach each position; one bar a position."""
    counts, steps = reached(trace), max(len(trace.steps) or trace.totals.steps or 0, 1)
    positions = list(range(1, len(counts) + 1))
    figure = go.Figure(
        layout=go.Layout(
            template=go.layout.Template(),
            bargap=0.25,
            height=236,
            showlegend=False,
            dragmode=False,
            margin={"l": 42, "r": 10, "t": 8, "b": 34},
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            font={"color": COLOURS["ink-soft"], "size": 12},
            xaxis={
                "title": {"text": "position in the draft", "standoff": 4},
                "fixedrange": True,
                "showgrid": False,
                "range": [0.4, max(len(counts), 8) + 0.6],
                "tickformat": "d",
                "nticks": 16,
                "linecolor": COLOURS["line"],
            },
            yaxis={
                "range": [0, 1.02],
                "tickformat": ".0%",
                "fixedrange": True,
                "gridcolor": COLOURS["line"],
                "nticks": 4,
                "zeroline": False,
            },
        )
    )
    figure.add_bar(
        x=positions,
        y=[count / steps for count in counts],
        customdata=counts,
        marker={"color": COLOURS["accepted"], "line": {"width": 0}},
        hovertemplate=f"+%{{x}}: %{{y:.0%}} (%{{customdata}} of {steps} steps)<extra></extra>",
    )
    return figure
