"""Table 1: methods side by side. Its rows are the public format of `python -m diffuspec bench`."""

from __future__ import annotations

from collections.abc import Sequence

from diffuspec.measure import paper
from diffuspec.measure.methods import METHODS, Variant
from diffuspec.measure.results import AGAIN, summarise
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
    Column,
    Study,
    against_paper,
    interval,
)

_IN_TABLE_1 = {
    "diffuspec": "DiffuSpec",
    "ar-drafter": "SPS (Qwen2.5-7B)",
    "prompt-lookup": "PLD",
    "hf-prompt-lookup": "PLD",
}
_COLUMNS = (
    Column("method", "method"),
    CATEGORY,
    QUESTIONS,
    ACCEPTED,
    TOKENS,
    SPEED,
    SPEEDUP,
    IDENTICAL,
    Column("identical_answers", "identical answers", digits=0),
    *STAGE_MS,
    PAPER_ACCEPTED,
    PAPER_SPEEDUP,
    *BOUNDS,
)


def _rows(results, variants):
    rows = []
    for row in summarise(results):
        by_task, mat, speedup = paper.METHODS.get(_IN_TABLE_1.get(row["method"]), ((), None, None))
        if row["category"] != "mean":
            mat, speedup = None, dict(zip(paper.TASKS, by_task, strict=False)).get(row["category"])
        rows.append({**row, "paper_accepted_per_step": mat, "paper_speedup": speedup})
    return rows


def _remark(rows):
    means = {row["method"]: row for row in rows if row["category"] == "mean"}
    best = max((row for row in means.values() if row["method"] != AGAIN), key=lambda row: row["speedup"])
    if best["method"] == "ar":
        said = "None of these methods beats plain AR here."
    else:
        said = f"The fastest here is {METHODS[best['method']].label}, {best['speedup']:.2f}{interval(best, SPEEDUP)} "
        said += "times plain AR."
    if "diffuspec" in means:
        ours = means["diffuspec"]
        said += f" DiffuSpec reaches {ours['speedup']:.2f}, in the paper {ours['paper_speedup']:.2f}. "
        said += against_paper(ours)
    unequal = {name: row for name, row in means.items() if METHODS[name].lossless and row["identical"] < 1}
    if unequal:
        said += (
            " Not all answers equal plain AR's: "
            + ", ".join(f"{name} {row['identical_answers']} of {row['questions']}" for name, row in unequal.items())
            + "."
        )
    return said


def comparison(methods: Sequence[str]) -> Study:
    """Table 1 with the methods named."""
    return Study(
        "methods",
        "Methods side by side",
        "Table 1",
        "How much faster is each method than plain decoding of the same target, by task?",
        _COLUMNS,
        _remark,
        variants=lambda settings, longest: tuple(Variant(name, name, settings) for name in methods),
        rows=_rows,
    )
