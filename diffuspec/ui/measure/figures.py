"""A figure for each study, ours filled and the paper's in outline or with diamonds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from diffuspec.measure import paper
from diffuspec.measure.methods import METHODS
from diffuspec.measure.studies import STUDIES, StudyResult
from diffuspec.trace.steps import STAGES
from diffuspec.ui.draw.palette import COLOURS
from diffuspec.ui.measure.view import tables

SERIES = ("accepted", "correction", "bonus", "average", "quiet", "accepted-soft")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "triangle-up", "cross", "x", "star")
PATTERNS = ("", "/", "x", ".", "\\", "-")
OUTLINED = ("methods", "ablation", "fixed-k", "sweep")
THEIRS = {"color": COLOURS["card"], "line": {"color": COLOURS["ink-soft"], "width": 1.5}}


def study_chart(result: StudyResult) -> dict[str, Any] | None:
    """What the chart component draws; None where the study has no picture or no rows yet."""
    draw = FIGURES.get(result.study)
    if draw is None or not result.rows:
        return None
    study, (_, whole) = STUDIES[result.study], tables(result)
    return {
        "title": study.source or study.title,
        "hint": study.title if study.source else "",
        "name": f"study-{study.name}",
        "caption": "Outlines and diamonds are the paper’s values, from another machine and pair."
        if study.name in OUTLINED
        else "",
        "label": f"{study.title}; the table below has the numbers",
        "colours": COLOURS,
        "figure": _dressed(draw(list(result.rows))).to_plotly_json(),
        "table": {
            "head": [f"{label}, the paper’s" if theirs else label for label, theirs in whole.heads],
            "rows": whole.rows,
        },
    }


def _dressed(figure: go.Figure) -> go.Figure:
    figure.update_layout(
        template=go.layout.Template(),
        height=350,
        margin={"l": 46, "r": 12, "t": 62, "b": 42},
        dragmode=False,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": COLOURS["ink-soft"], "size": 12},
        legend={"orientation": "h", "x": 0, "y": 1.12, "yanchor": "bottom", "traceorder": "normal"},
        barmode=figure.layout.barmode or "group",
        bargap=0.25,
    )
    figure.update_xaxes(fixedrange=True, showgrid=False, linecolor=COLOURS["line"], automargin=True)
    figure.update_yaxes(fixedrange=True, gridcolor=COLOURS["line"], zeroline=False, automargin=True)
    figure.update_annotations(font={"size": 12, "color": COLOURS["ink-soft"]})
    return figure


def _filled(place: int) -> dict[str, Any]:
    pattern = {"shape": PATTERNS[place % len(PATTERNS)], "size": 5, "solidity": 0.25}
    colour = COLOURS[SERIES[place % len(SERIES)]]
    return {"color": colour, "pattern": {**pattern, "bgcolor": colour, "fgcolor": COLOURS["card"]}}


def _errors(rows: Sequence[dict], key: str) -> dict[str, Any] | None:
    """Error bars of the rows that have an interval, None where none has."""
    ends = [(row.get(f"{key}_low"), row[key], row.get(f"{key}_high")) for row in rows]
    if all(low is None for low, *_ in ends):
        return None
    gaps = [(0, 0) if low is None else (high - value, value - low) for low, value, high in ends]
    above, below = zip(*gaps, strict=True)
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "thickness": 1.2,
        "width": 3,
        "color": COLOURS["ink-soft"],
    }


def _bars(figure, x, y, name, place, *, theirs=False, **more) -> None:
    marker = THEIRS if theirs else _filled(place)
    at = {key: more.pop(key) for key in ("row", "col") if key in more}
    figure.add_bar(
        x=x, y=y, name=name, marker=marker, hovertemplate=f"{name}, %{{x}}: %{{y:.2f}}<extra></extra>", **more, **at
    )


def _lines(figure, x, y, name, place, *, theirs=False, **more) -> None:
    at = {key: more.pop(key) for key in ("row", "col") if key in more}
    colour = COLOURS["ink-soft"] if theirs else COLOURS[SERIES[place % len(SERIES)]]
    figure.add_scatter(
        x=x,
        y=y,
        name=name,
        mode="markers" if theirs else "lines+markers",
        line={"color": colour, "dash": DASHES[place % len(DASHES)], "width": 2},
        marker={"symbol": "diamond-open" if theirs else SYMBOLS[place % len(SYMBOLS)], "size": 9, "color": colour},
        hovertemplate=f"{name}, %{{x}}: %{{y:.2f}}<extra></extra>",
        **more,
        **at,
    )


def _methods(rows: Sequence[dict]) -> go.Figure:
    figure = go.Figure()
    tasks = [*(task for task in paper.TASKS if any(r["category"] == task for r in rows)), "mean"]
    names = {**paper.TASKS, "mean": "mean"}
    for place, method in enumerate(m for m in dict.fromkeys(r["method"] for r in rows) if m != "ar"):
        mine = {r["category"]: r for r in rows if r["method"] == method}
        measured = [t for t in tasks if t in mine]
        x, label = [names[t] for t in measured], METHODS[method].label if method in METHODS else method
        _bars(
            figure,
            x,
            [mine[t]["speedup"] for t in measured],
            label,
            place,
            error_y=_errors([mine[t] for t in measured], "speedup"),
        )
        if method == "diffuspec":
            _bars(figure, x, [mine[t]["paper_speedup"] for t in measured], "DiffuSpec, the paper", place, theirs=True)
    figure.add_hline(y=1, line={"color": COLOURS["ink"], "width": 1, "dash": "dot"})
    return figure.update_yaxes(title_text="speed-up over plain AR")


def _two_measures(rows: Sequence[dict]) -> go.Figure:
    """Accepted per step and speed-up by variant, ours and the paper's."""
    figure = make_subplots(1, 2, subplot_titles=("accepted/step", "speed-up"), horizontal_spacing=0.08)
    means = [r for r in rows if r["category"] == "mean"]
    names = [r["variant"] for r in means]
    for col, key in ((1, "accepted_per_step"), (2, "speedup")):
        _bars(
            figure,
            names,
            [r[key] for r in means],
            "here",
            0,
            row=1,
            col=col,
            showlegend=col == 1,
            error_y=_errors(means, key),
        )
        _bars(
            figure,
            names,
            [r[f"paper_{key}"] for r in means],
            "the paper",
            0,
            theirs=True,
            row=1,
            col=col,
            showlegend=col == 1,
        )
    return figure


def _draft_length(rows: Sequence[dict]) -> go.Figure:
    figure = make_subplots(1, 2, subplot_titles=("accepted/step", "speed-up"), horizontal_spacing=0.08)
    fixed = [r for r in rows if r["k"] is not None]
    for col, key in ((1, "accepted_per_step"), (2, "speedup")):
        first = col == 1
        _lines(
            figure,
            [r["k"] for r in fixed],
            [r[key] for r in fixed],
            "fixed k",
            0,
            row=1,
            col=col,
            showlegend=first,
            error_y=_errors(fixed, key),
        )
        theirs = {k: values[col - 1] for k, values in paper.DRAFT_LENGTH.items() if k}
        _lines(
            figure,
            list(theirs),
            list(theirs.values()),
            "fixed k, the paper",
            0,
            theirs=True,
            row=1,
            col=col,
            showlegend=first,
        )
        for place, policy in enumerate((r for r in rows if r["k"] is None), 1):
            _lines(
                figure,
                [fixed[0]["k"], fixed[-1]["k"]] if fixed else [1, 2],
                [policy[key]] * 2,
                policy["variant"],
                place,
                row=1,
                col=col,
                showlegend=first,
            )
    return figure.update_xaxes(title_text="k, tokens drafted a step", type="log", tickvals=[2, 4, 8, 16, 30, 50, 100])


def _lengths(rows: Sequence[dict]) -> go.Figure:
    figure = go.Figure()
    k = [r["k"] for r in rows]
    for place, (key, label) in enumerate(
        (("generated", "L_gen, before the first EOS"), ("accepted", "L_acc, accepted"))
    ):
        _lines(figure, k, [r[key] for r in rows], label, place, error_y=_errors(rows, key))
    return figure.update_xaxes(title_text="k, tokens drafted a step").update_yaxes(
        title_text="tokens a step", rangemode="tozero"
    )


def _time_split(rows: Sequence[dict]) -> go.Figure:
    figure = go.Figure(layout={"barmode": "stack"})
    bars = [
        (f"{name}, {where}", name, key)
        for name in dict.fromkeys(r["variant"] for r in rows)
        for where, key in (("here", "share"), ("the paper", "paper_share"))
    ]
    for place, stage in enumerate(STAGES):
        values = [
            next((r[key] or 0 for r in rows if r["variant"] == name and r["stage"] == stage), 0)
            for _, name, key in bars
        ]
        figure.add_bar(
            x=values,
            y=[label for label, *_ in bars],
            orientation="h",
            name=stage,
            marker=_filled(place),
            hovertemplate=f"%{{y}}: {stage} %{{x:.1%}}<extra></extra>",
        )
    return figure.update_xaxes(title_text="share of the time of a step", tickformat=".0%").update_yaxes(
        autorange="reversed"
    )


def _sweep(rows: Sequence[dict]) -> go.Figure:
    knobs = list(dict.fromkeys(r["knob"] for r in rows))
    titles = [next(r["symbol"] for r in rows if r["knob"] == knob) or knob for knob in knobs]
    figure = make_subplots(1, max(len(knobs), 1), subplot_titles=titles, horizontal_spacing=0.06)
    for col, knob in enumerate(knobs, 1):
        mine = [r for r in rows if r["knob"] == knob]
        x = [str(r["value"]) for r in mine]
        first = col == 1
        for place, (key, label) in enumerate((("speedup", "speed-up"), ("accepted_per_step", "accepted/step"))):
            _lines(
                figure,
                x,
                [r[key] for r in mine],
                label,
                place,
                row=1,
                col=col,
                showlegend=first,
                error_y=_errors(mine, key),
            )
        if knob == "passes":
            there = [r for r in mine if r["paper_speedup"] is not None]
            x, y = [str(r["value"]) for r in there], [r["paper_speedup"] for r in there]
            _lines(figure, x, y, "speed-up, the paper", 0, theirs=True, row=1, col=col, showlegend=first)
    return figure.update_xaxes(type="category")


def _positions(rows: Sequence[dict]) -> go.Figure:
    figure = go.Figure()
    for place, name in enumerate(dict.fromkeys(r["variant"] for r in rows)):
        mine = [r for r in rows if r["variant"] == name]
        _lines(
            figure, [r["position"] for r in mine], [r["rate"] for r in mine], name, place, error_y=_errors(mine, "rate")
        )
    return figure.update_xaxes(title_text="position in the draft").update_yaxes(
        title_text="accepted of drafted", tickformat=".0%", rangemode="tozero"
    )


def _costs(rows: Sequence[dict]) -> go.Figure:
    figure = go.Figure()
    for place, part in enumerate(dict.fromkeys(r["part"] for r in rows)):
        mine = [r for r in rows if r["part"] == part]
        _lines(figure, [r["tokens"] for r in mine], [r["ms"] for r in mine], part, place)
    return figure.update_xaxes(title_text="tokens in the pass").update_yaxes(title_text="ms", rangemode="tozero")


def _memory(rows: Sequence[dict]) -> go.Figure:
    figure = make_subplots(1, 2, subplot_titles=("ms a pass", "MB beyond caches and trace"), horizontal_spacing=0.08)
    for place, method in enumerate(dict.fromkeys(r["method"] for r in rows)):
        mine = [r for r in rows if r["method"] == method]
        for col, key in ((1, "ms_per_pass"), (2, "other_mb")):
            x, y = [r["tokens"] for r in mine], [r[key] for r in mine]
            _lines(figure, x, y, method, place, row=1, col=col, showlegend=col == 1)
    return figure.update_xaxes(title_text="tokens so far").update_yaxes(rangemode="tozero")


FIGURES = {
    "methods": _methods,
    "ablation": _two_measures,
    "fixed-k": _draft_length,
    "lengths": _lengths,
    "time-split": _time_split,
    "sweep": _sweep,
    "positions": _positions,
    "costs": _costs,
    "memory": _memory,
}
