"""Where the time of each step went: draft, search, verify, commit, record."""

from __future__ import annotations

import plotly.graph_objects as go

from diffuspec.trace.model import Trace
from diffuspec.trace.steps import STAGES
from diffuspec.ui.draw.palette import COLOURS

PATTERNS = {"draft": "/", "search": "x", "commit": ".", "record": "-"}  # no stage is told by its colour alone


def stages_figure(trace: Trace) -> go.Figure:
    """One stacked bar a step, counted from 1; milliseconds on the y axis."""
    x = [step.index + 1 for step in trace.steps]
    figure = go.Figure(
        layout=go.Layout(
            template=go.layout.Template(),
            barmode="stack",
            bargap=0.2,
            height=190,
            hovermode="x unified",
            dragmode=False,
            margin={"l": 34, "r": 10, "t": 24, "b": 34},
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            font={"color": COLOURS["ink-soft"], "size": 12},
            legend={
                "orientation": "h",
                "x": 1,
                "xanchor": "right",
                "y": 1.24,
                "yanchor": "top",
                "traceorder": "normal",
            },
            xaxis={
                "title": {"text": "step", "standoff": 4},
                "range": [0.4, max(len(x), 8) + 0.6],
                "fixedrange": True,
                "showgrid": False,
                "tickformat": "d",
                "nticks": 16,
                "linecolor": COLOURS["line"],
            },
            yaxis={
                "fixedrange": True,
                "gridcolor": COLOURS["line"],
                "zeroline": False,
                "nticks": 5,
                "rangemode": "tozero",
            },
        )
    )
    origin = trace.origin
    if origin and origin.times != "stages":
        if origin.times:
            figure.add_bar(
                x=x,
                y=[round(step.timing.total_ms, 2) for step in trace.steps],
                name="whole step",
                marker={"color": COLOURS["ink-soft"], "line": {"width": 0}},
                hovertemplate="step %{y:.1f} ms<extra></extra>",
            )
        return figure
    for stage in ("draft", "verify") if origin else STAGES:
        colour = COLOURS[f"stage-{stage}"]
        figure.add_bar(
            x=x,
            y=[round(getattr(step.timing, f"{stage}_ms"), 2) for step in trace.steps],
            name=stage,
            marker={
                "color": colour,
                "line": {"width": 0},
                "pattern": {
                    "shape": PATTERNS.get(stage, ""),
                    "size": 6,
                    "solidity": 0.2,
                    "fillmode": "overlay",
                    "fgopacity": 0.6,
                },
            },
            hovertemplate=f"{stage} %{{y:.1f}} ms<extra></extra>",
        )
    return figure
