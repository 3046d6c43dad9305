"""Results as text."""

from __future__ import annotations

from collections.abc import Sequence

from diffuspec.measure import paper
from diffuspec.measure.studies import STUDIES, StudyResult
from diffuspec.measure.studies.study import ACCEPTED, SPEEDUP, interval
from diffuspec.trace.steps import STAGES


def text_table(result: StudyResult) -> str:
    """A study's rows under its columns; of rows by task only the mean. Methods side by side in the paper's form."""
    if result.study == "methods":
        return "\n\n".join([_paper_form(result), _stages(result)])
    columns = [column for column in STUDIES[result.study].columns if not column.bound]
    heads = [column.label + (f" ({column.unit})" if column.unit else "") for column in columns]
    rows = [row for row in result.rows if row.get("category", "mean") == "mean"]
    return aligned([heads, *([_cell(row[c.key], c.digits) + interval(row, c) for c in columns] for row in rows)])


def report(result: StudyResult) -> str:
    """The table, where answers were not plain AR's, which questions could not be asked, and the remark."""
    parts = [text_table(result), _identity(result), left_out(result), result.remark]
    return "\n\n".join(part for part in parts if part)


def left_out(result: StudyResult) -> str:
    """Which questions could not be asked, and why; empty where all were."""
    if not result.skipped:
        return ""
    lines = [f"question {row['question']}: {row['why']}" for row in result.skipped]
    return f"Left out, {len(lines)} of {result.questions.count} questions:\n" + "\n".join(lines)


def _paper_form(result: StudyResult) -> str:
    """As Table 1: speed-up by task, both MATs, mean speed-up; then what the paper has for the same rows."""
    found = list(dict.fromkeys(row["category"] for row in result.rows if row["category"] != "mean"))
    tasks = [task for task in paper.TASKS if task in found] + [task for task in found if task not in paper.TASKS]
    lines = [
        [
            "method",
            *(paper.TASKS.get(task, task) for task in tasks),
            "accepted/step",
            "tokens/step",
            "tokens/s",
            "speed-up",
            "identical",
        ]
    ]
    paper_lines = []
    for method in dict.fromkeys(row["method"] for row in result.rows):
        mine = {row["category"]: row for row in result.rows if row["method"] == method}
        mean = mine["mean"]
        lines.append(
            [
                method,
                *(_cell(mine[task]["speedup"]) if task in mine else "" for task in tasks),
                _cell(mean["accepted_per_step"]) + interval(mean, ACCEPTED),
                _cell(mean["tokens_per_step"]),
                _cell(mean["tokens_per_second"], 1),
                _cell(mean["speedup"]) + interval(mean, SPEEDUP),
                f"{mean['identical_answers']} of {mean['questions']}",
            ]
        )
        if mean["paper_speedup"]:
            paper_lines.append(
                [
                    f"{method}, paper",
                    *(_cell(mine[task]["paper_speedup"]) if task in mine else "" for task in tasks),
                    _cell(mean["paper_accepted_per_step"]),
                    "",
                    "",
                    _cell(mean["paper_speedup"]),
                    "",
                ]
            )
    return aligned([*lines, *paper_lines])


def _stages(result: StudyResult) -> str:
    rows = [row for row in result.rows if row["category"] == "mean" and row["verify_ms"]]
    if not rows:
        return ""
    return aligned(
        [["ms a step", *STAGES], *([row["method"], *(_cell(row[f"{stage}_ms"]) for stage in STAGES)] for row in rows)]
    )


def _identity(result: StudyResult) -> str:
    lines = []
    for variant in dict.fromkeys(d["variant"] for d in result.differences):
        mine = [d for d in result.differences if d["variant"] == variant]
        gaps = [d["gap"] for d in mine if d["gap"] is not None]
        first = mine[0]
        lines.append(
            f"{variant} differs from plain AR in {len(mine)} of {result.questions.count} answers, for example in "
            f"question {first['question']} at token {first['position'] + 1}"
            + (f"; logit gaps there {min(gaps):.2g} to {max(gaps):.2g}." if gaps else ".")
        )
    return "\n".join(lines)


def _cell(value, digits: int = 2) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    )
