"""The draft length over the run (Eqs. 9-11): k, L_gen, L_acc, both moving averages, guard rails."""

from __future__ import annotations

import plotly.graph_objects as go

from diffuspec.settings import Settings
from diffuspec.trace.model import Trace
from diffuspec.trace.origin import NOT_TOLD
from diffuspec.trace.steps import Step
from diffuspec.ui.draw.palette import COLOURS

STRIP = -0.09  # where the marks of the deciding terms stand, in shares of the axis
NAMES = {
    "EMA_gen": "EMA_gen alone",
    "EMA_gen + δ": "EMA_gen + δ: acceptance kept up",
    "k_min": "the guard rail k_min",
    "k_max": "the guard rail k_max",
    "fixed": "nothing: the length is fixed",
    "confidence": "the drafter's cumulated confidence",
    "failfast": "a token that the drafter was not sure of",
    "predicted": "the acceptance that the drafter expects",
    "throughput": "expected tokens per second",
    "no draft": "expected tokens per second without a draft",
}


SYMBOLS = {
    "EMA_gen": "circle-open",
    "EMA_gen + δ": "triangle-up",
    "k_min": "line-ew-open",
    "k_max": "star-triangle-down",
    "confidence": "diamond-open",
    "failfast": "diamond-tall-open",
    "predicted": "diamond-wide-open",
    "throughput": "square-open",
    "no draft": "x",
}


def decision(step: Step, settings: Settings) -> str:
    """Which term of Eq. 11 fixed the next draft length, in words and with its numbers."""
    length = step.length
    if length.decided == NOT_TOLD:
        return "what sets the next length is not told"
    if settings.length == "confidence" and length.wanted is not None:
        return (
            f"{length.k} columns kept, decided by {NAMES.get(length.decided, length.decided)}: "
            f"{length.wanted:.0f} of them stay above {settings.confidence:g}"
        )
    if settings.length == "predicted" and length.wanted is not None:
        return (
            f"{length.k} columns kept, decided by {NAMES.get(length.decided, length.decided)}: "
            f"at {length.wanted:.0f} of them it is at least {settings.confidence:g}"
        )
    if settings.length == "failfast":
        return f"{length.k} columns drafted, decided by {NAMES.get(length.decided, length.decided)}"
    words = f"next k = {length.next_k}, decided by {NAMES.get(length.decided, length.decided)}"
    if length.rate is not None:
        return f"{words}: it promises {length.rate:.1f} tokens/s"
    if length.wanted is None or length.ema_gen is None:
        return words
    holds = "≥" if length.grew else "<"
    return (
        f"{words}: clip({length.ema_gen:.1f} + {settings.delta}·[{length.ema_acc:.1f} {holds} {length.ema_gen:.1f}] "
        f"= {length.wanted:.1f}, {settings.k_min}, {settings.k_max})"
    )


def adl_figure(trace: Trace) -> go.Figure:
    """One point a step on the x axis, counted from 1; lengths in tokens on the y axis."""
    steps, settings = trace.steps, trace.settings
    x = [step.index + 1 for step in steps]
    averaged, adaptive = settings.length == "adl", settings.length != "fixed"
    figure = go.Figure(layout=_layout(trace))
    if trace.origin is None:
        figure.add_bar(
            x=x,
            y=[step.length.generated for step in steps],
            name="L_gen",
            width=0.8,
            marker={"color": COLOURS["accepted-soft"], "line": {"width": 0}},
            hovertemplate="L_gen %{y}<extra></extra>",
        )
    figure.add_bar(
        x=x,
        y=[step.length.accepted for step in steps],
        name="L_acc",
        width=0.45,
        marker={"color": COLOURS["bonus"], "line": {"width": 0}},
        hovertemplate="L_acc %{y}<extra></extra>",
    )
    if averaged:
        figure.add_scatter(
            x=x,
            y=[step.length.ema_gen for step in steps],
            name="EMA_gen",
            mode="lines",
            line={"color": COLOURS["average"], "dash": "dash", "width": 2},
            hovertemplate="EMA_gen %{y:.2f}<extra></extra>",
        )
        figure.add_scatter(
            x=x,
            y=[step.length.ema_acc for step in steps],
            name="EMA_acc",
            mode="lines",
            line={"color": COLOURS["correction"], "dash": "dot", "width": 2},
            hovertemplate="EMA_acc %{y:.2f}<extra></extra>",
        )
    figure.add_scatter(
        x=x,
        y=[step.draft_length for step in steps],
        name="k",
        mode="lines+markers",
        line={"color": COLOURS["accepted"], "width": 2.5, "shape": "hvh"},
        marker={"size": 5},
        customdata=[decision(step, settings) for step in steps],
        hovertemplate="k = %{y}; %{customdata}<extra></extra>",
    )
    if adaptive:
        for term, symbol in SYMBOLS.items():
            decided = [step for step in steps if step.length.decided == term]
            if decided:
                figure.add_scatter(
                    x=[step.index + 1 for step in decided],
                    y=[STRIP * _top(trace)] * len(decided),
                    mode="markers",
                    name=f"set by {term}",
                    hoverinfo="skip",
                    marker={
                        "symbol": symbol,
                        "size": 6,
                        "color": COLOURS["ink-soft"],
                        "line": {"width": 1.5, "color": COLOURS["ink-soft"]},
                    },
                )
    return figure


def _top(trace: Trace) -> int:
    """The longest draft the axis must hold, in tokens."""
    settings = trace.settings
    return max([settings.k if settings.length == "fixed" else settings.k_max, *(s.draft_length for s in trace.steps)])


def _layout(trace: Trace) -> go.Layout:
    settings = trace.settings
    count = max(len(trace.steps), 1)
    rails = []
    if settings.length != "fixed":
        rails = [
            {
                "type": "rect",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": settings.k_min,
                "y1": settings.k_max,
                "fillcolor": COLOURS["band"],
                "line": {"width": 0},
                "layer": "below",
            }
        ]
    return go.Layout(
        template=go.layout.Template(),
        shapes=rails,
        barmode="overlay",
        bargap=0.2,
        height=236,
        margin={"l": 34, "r": 10, "t": 44, "b": 34},
        hovermode="x unified",
        dragmode=False,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": COLOURS["ink-soft"], "size": 12},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"},
        xaxis={
            "title": {"text": "step", "standoff": 4},
            "range": [0.4, max(count, 8) + 0.6],
            "fixedrange": True,
            "showgrid": False,
            "tickformat": "d",
            "nticks": 16,
            "linecolor": COLOURS["line"],
        },
        yaxis={
            "range": [1.7 * STRIP * _top(trace), 1.12 * _top(trace)],
            "fixedrange": True,
            "gridcolor": COLOURS["line"],
            "zeroline": False,
            "tickformat": "d",
            "nticks": 6,
        },
    )
