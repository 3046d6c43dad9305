"""Tables 2 and 4: CPS and ADL, on and off."""

from __future__ import annotations

from diffuspec.measure import paper
from diffuspec.measure.methods import Variant
from diffuspec.measure.results import YARDSTICK, summarise
from diffuspec.measure.studies.study import (
    ACCEPTED,
    BOUNDS,
    CATEGORY,
    IDENTICAL,
    PAPER_ACCEPTED,
    PAPER_SPEEDUP,
    QUESTIONS,
    SPEED,
    SPEEDUP,
    STAGE_MS,
    TOKENS,
    VARIANT,
    Study,
    against_paper,
    plain_ar,
    select,
    step_ms,
)

_SWITCHED = {"CPS + ADL": "diffuspec", "CPS": "cps", "ADL": "adl", "neither": "plain"}
_COLUMNS = (
    VARIANT,
    CATEGORY,
    QUESTIONS,
    ACCEPTED,
    PAPER_ACCEPTED,
    SPEEDUP,
    PAPER_SPEEDUP,
    TOKENS,
    SPEED,
    IDENTICAL,
    *STAGE_MS,
    *BOUNDS,
)


def _rows(results, variants):
    rows = []
    for row in summarise(results):
        if row["method"] == YARDSTICK:
            continue
        switches = "CPS" in row["method"], "ADL" in row["method"]
        mat, speedup = paper.ABLATION[switches]
        if row["category"] != "mean":
            mat, speedup = (
                dict(zip(paper.TASKS, values, strict=True)).get(row["category"])
                for values in paper.ABLATION_BY_TASK[switches]
            )
        rows.append(select(row, _COLUMNS, paper_accepted_per_step=mat, paper_speedup=speedup))
    return rows


def _remark(rows):
    means = {row["variant"]: row for row in rows if row["category"] == "mean"}
    none, said = means["neither"], []
    for name in ("CPS", "ADL", "CPS + ADL"):
        row = means[name]
        ours = row["accepted_per_step"] - none["accepted_per_step"], row["speedup"] / none["speedup"] - 1
        theirs = (
            row["paper_accepted_per_step"] - none["paper_accepted_per_step"],
            row["paper_speedup"] / none["paper_speedup"] - 1,
        )
        said.append(
            f"{name} changes accepted/step by {ours[0]:+.2f} and the speed-up by {ours[1]:+.1%} "
            f"(paper: {theirs[0]:+.2f} and {theirs[1]:+.1%})."
        )
    cps = means["CPS"]
    said.append(
        f"With CPS a step takes {step_ms(cps):.1f} ms, without it {step_ms(none):.1f} ms, {cps['search_ms']:.2f} ms "
        "of it in the search."
    )
    return " ".join([*said, against_paper(means["CPS + ADL"])])


def _variants(settings, longest):
    return plain_ar(settings), *(Variant(name, method, settings) for name, method in _SWITCHED.items())


ABLATION = Study(
    "ablation",
    "CPS and ADL, on and off",
    "Tables 2 and 4",
    "What does each part of the method give?",
    _COLUMNS,
    _remark,
    _variants,
    _rows,
)
