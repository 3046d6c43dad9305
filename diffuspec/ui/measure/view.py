"""A study's results as the results component draws them: tables as in the paper, the paper's values marked as such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from diffuspec.measure import paper
from diffuspec.measure.methods import METHODS
from diffuspec.measure.studies import STUDIES, Column, StudyResult
from diffuspec.measure.studies.study import ACCEPTED, SPEEDUP, interval
from diffuspec.measure.tables import left_out
from diffuspec.ui.player.merits import MEASURED, RECORDED, provenance

LOADED = "loaded"
PERCENT = ("identical", "share", "paper_share", "rate", "conditional")
NOTE = {
    MEASURED: "Measured here, on this machine.",
    RECORDED: "Recorded earlier; the badge says where and when.",
    LOADED: "From the file you opened, as it says of itself.",
}


@dataclass(frozen=True)
class Table:
    """A table of a study, as the page draws it.

    heads: (label, whether the column is the paper's); rows: texts; paper_rows: which rows are the paper's.
    """

    heads: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]
    paper_rows: tuple[int, ...] = ()


def results_payload(name: str, result: StudyResult | None, kind: str, said: str = "", live: bool = False) -> str:
    """JSON text. name: of the study; said: one line on what happens now; live: being measured."""
    study = STUDIES[name]
    body: dict[str, Any] = {
        "study": name,
        "title": study.title,
        "where": study.source or "not in the paper",
        "about": study.about,
        "said": said,
        "live": live,
        "paper": paper.SOURCE if any(column.paper for column in study.columns) else "",
    }
    if result is not None:
        summary, whole = tables(result)
        s = result.settings
        asked = f"{result.questions.count} questions of {result.questions.name}, " if result.questions.count else ""
        body |= {
            "source": provenance(result.provenance, MEASURED if kind == MEASURED else RECORDED),
            "note": NOTE[kind],
            "done": result.done,
            "total": result.total,
            "now": result.now,
            "complete": result.complete,
            "remark": result.remark,
            "summary": vars(summary),
            "whole": vars(whole),
            "csv": result.to_csv(),
            "conditions": f"{asked}at most {s.max_new_tokens} tokens an answer, {result.pair.dtype}, greedy; target "
            f"{result.pair.target}; differences from plain AR: {len(result.differences)}"
            + (f"; {left_out(result)}" if result.skipped else ""),
        }
    return orjson.dumps(body).decode()


def tables(result: StudyResult) -> tuple[Table, Table]:
    """(what is read first, every row and column)."""
    columns = [column for column in STUDIES[result.study].columns if not column.bound]
    whole = _table(columns, result.rows)
    if result.study == "methods":
        return _as_table_1(result), whole
    means = [row for row in result.rows if row.get("category", "mean") == "mean"]
    first = [c for c in columns if not c.key.endswith("_ms") and c.key not in ("category", "knob")] or list(columns)
    return _table(first if result.study != "time-split" else columns, means), whole


def _table(columns: Sequence[Column], rows: Sequence[dict]) -> Table:
    return Table(
        tuple((_head(column), column.paper) for column in columns),
        tuple(tuple(_with_interval(row, column) for column in columns) for row in rows),
    )


def _head(column: Column) -> str:
    label = column.label.removesuffix(", paper")
    return f"{label} ({column.unit})" if column.unit else label


def _with_interval(row: dict, column: Column) -> str:
    return cell(row[column.key], column) + interval(row, column, ".0%" if column.key in PERCENT else "")


def cell(value: Any, column: Column) -> str:
    if value is None:
        return "–"
    if column.key in PERCENT:
        return f"{value:.0%}"
    return f"{value:.{column.digits}f}" if isinstance(value, float) else str(value)


def _as_table_1(result: StudyResult) -> Table:
    """A row a method: speed-up by task, both MATs, speeds; below it the paper's row where it has one."""
    found = list(dict.fromkeys(row["category"] for row in result.rows if row["category"] != "mean"))
    tasks = [task for task in paper.TASKS if task in found] + [task for task in found if task not in paper.TASKS]
    heads = [
        "method",
        *(paper.TASKS.get(task, task) for task in tasks),
        "mean speed-up",
        "accepted/step",
        "tokens/step",
        "tokens/s",
        "identical to AR",
    ]
    rows, theirs = [], []
    for name in dict.fromkeys(row["method"] for row in result.rows):
        mine = {row["category"]: row for row in result.rows if row["method"] == name}
        mean = mine["mean"]
        rows.append(
            (
                METHODS[name].label if name in METHODS else name,
                *(_number(mine[task]["speedup"] if task in mine else None) for task in tasks),
                _number(mean["speedup"]) + interval(mean, SPEEDUP),
                _number(mean["accepted_per_step"]) + interval(mean, ACCEPTED),
                _number(mean["tokens_per_step"]),
                _number(mean["tokens_per_second"], 1),
                f"{mean['identical_answers']} of {mean['questions']}",
            )
        )
        if mean["paper_speedup"] is not None:
            theirs.append(len(rows))
            rows.append(
                (
                    "in the paper",
                    *(_number(mine[task]["paper_speedup"] if task in mine else None) for task in tasks),
                    _number(mean["paper_speedup"]),
                    _number(mean["paper_accepted_per_step"]),
                    "",
                    "",
                    "",
                )
            )
    return Table(tuple((head, False) for head in heads), tuple(rows), tuple(theirs))


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
