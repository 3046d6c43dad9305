"""The draft length over the run (Eqs. 9-11): k, L_gen, L_acc, both moving averages, guard rails."""

from __future__ import annotations

import plotly.graph_objects as go

from diffuspec.trace import Step, Trace
from diffuspec.ui.views.palette import COLOURS

NAMES = {
    "EMA_gen": "EMA_gen alone",
    "EMA_gen + δ": "EMA_gen + δ: acceptance kept up",
    "k_min": "the guard rail k_min",
    "k_max": "the guard rail k_max",
    "fixed": "nothing: the length is fixed",
}


def decision(step: Step) -> str:
    """Which term of Eq. 11 fixed the next draft length, in words."""
    length = step.length
    wanted = "" if length.wanted is None else f" (wanted {length.wanted:.1f})"
    return f"next k = {length.next_k}{wanted}, decided by {NAMES.get(length.decided, length.decided)}"


def adl_figure(trace: Trace) -> go.Figure:
    """One point a step on the x axis, counted from 1; lengths in tokens on the y axis."""
    steps, settings = trace.steps, trace.settings
    x = [step.index + 1 for step in steps]
    adaptive = settings.length == "adl"
    figure = go.Figure(layout=_layout(trace))
    figure.add_bar(
        x=x, y=[step.length.generated for step in steps], name="L_gen", width=0.8,
        marker={"color": COLOURS["accepted-soft"], "line": {"width": 0}},
        hovertemplate="L_gen %{y}<extra></extra>",
    )  # fmt: skip
    figure.add_bar(
        x=x, y=[step.length.accepted for step in steps], name="L_acc", width=0.45,
        marker={"color": COLOURS["bonus"], "line": {"width": 0}},
        hovertemplate="L_acc %{y}<extra></extra>",
    )  # fmt: skip
    if adaptive:
        figure.add_scatter(
            x=x, y=[step.length.ema_gen for step in steps], name="EMA_gen", mode="lines",
            line={"color": COLOURS["average"], "dash": "dash", "width": 2},
            hovertemplate="EMA_gen %{y:.2f}<extra></extra>",
        )  # fmt: skip
        figure.add_scatter(
            x=x, y=[step.length.ema_acc for step in steps], name="EMA_acc", mode="lines",
            line={"color": COLOURS["correction"], "dash": "dot", "width": 2},
            hovertemplate="EMA_acc %{y:.2f}<extra></extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=x, y=[step.draft_length for step in steps], name="k", mode="lines+markers",
        line={"color": COLOURS["accepted"], "width": 2.5, "shape": "hvh"}, marker={"size": 5},
        customdata=[decision(step) for step in steps],
        hovertemplate="k = %{y}; %{customdata}<extra></extra>",
    )  # fmt: skip
    return figure


def _layout(trace: Trace) -> go.Layout:
    settings = trace.settings
    count = max(len(trace.steps), 1)
    rails = []
    if settings.length == "adl":
        rails = [
            {
                "type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": settings.k_min, "y1": settings.k_max,
                "fillcolor": COLOURS["band"], "line": {"width": 0}, "layer": "below",
            }
        ]  # fmt: skip
    top = max([settings.k_max if settings.length == "adl" else settings.k, *(s.draft_length for s in trace.steps)])
    return go.Layout(
        template=go.layout.Template(), shapes=rails, barmode="overlay", bargap=0.2, height=236,
        margin={"l": 34, "r": 10, "t": 26, "b": 34}, hovermode="x unified", dragmode=False,
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        font={"color": COLOURS["ink-soft"], "size": 12},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.14, "yanchor": "top"},
        xaxis={"title": {"text": "step", "standoff": 4}, "range": [0.4, max(count, 8) + 0.6], "fixedrange": True,
               "showgrid": False, "tickformat": "d", "nticks": 16, "linecolor": COLOURS["line"]},
        yaxis={"range": [0, top * 1.12], "fixedrange": True, "gridcolor": COLOURS["line"], "zeroline": False,
               "tickformat": "d", "nticks": 6},
    )  # fmt: skip
