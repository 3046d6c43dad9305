"""Table 5: fixed draft lengths against adaptive ones."""

from __future__ import annotations

from diffuspec.measure import paper
from diffuspec.measure.methods import Variant
from diffuspec.measure.results import YARDSTICK, summarise
from diffuspec.measure.studies.study import (
    ACCEPTED,
    BOUNDS,
    IDENTICAL,
    PAPER_ACCEPTED,
    PAPER_SPEEDUP,
    QUESTIONS,
    SPEED,
    SPEEDUP,
    STAGE_MS,
    TOKENS,
    VARIANT,
    Column,
    Study,
    plain_ar,
    select,
    step_ms,
)
from diffuspec.settings import Settings

_LENGTHS = (2, 3, 4, 6, 8, 10, 12, 16, 20, 30, 50, 100)
_COLUMNS = (
    VARIANT,
    Column("k", "k", digits=0),
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


def fixed_lengths(settings: Settings, longest: int) -> tuple[Variant, ...]:
    return tuple(Variant(f"k = {k}", "cps", settings.replace(k=k)) for k in _LENGTHS if k <= longest)


def _variants(settings, longest):
    return plain_ar(settings), *fixed_lengths(settings, longest), Variant("ADL", "diffuspec", settings)


def _rows(results, variants):
    fixed = {v.name: v.settings.k for v in variants if v.method == "cps"}
    rows = []
    for row in summarise(results):
        if row["category"] != "mean" or row["method"] == YARDSTICK:
            continue
        k = fixed.get(row["method"])
        in_paper = k is not None or row["method"] == "ADL"
        mat, speedup = paper.DRAFT_LENGTH.get(k, (None, None)) if in_paper else (None, None)
        rows.append(select(row, _COLUMNS, k=k, paper_accepted_per_step=mat, paper_speedup=speedup))
    return rows


def _remark(rows):
    fixed, policies = [r for r in rows if r["k"] is not None], [r for r in rows if r["k"] is None]
    best, longest = max(fixed, key=lambda r: r["speedup"]), max(fixed, key=lambda r: r["k"])
    their_best = max((k for k in paper.DRAFT_LENGTH if k), key=lambda k: paper.DRAFT_LENGTH[k][1])
    theirs, adl = paper.DRAFT_LENGTH[their_best][1], paper.DRAFT_LENGTH[None][1]
    said = [f"The best fixed length here is k = {best['k']} at {best['speedup']:.2f}, in the paper {their_best}."]
    said += [
        f"{r['variant']} reaches {r['speedup']:.2f}, {r['speedup'] / best['speedup'] - 1:+.1%} against that"
        + (f" (paper: {adl / theirs - 1:+.1%})." if r["variant"] == "ADL" else ".")
        for r in policies
    ]
    if longest is not best:
        said.append(
            f"From k = {best['k']} to k = {longest['k']} accepted/step goes from {best['accepted_per_step']:.2f} to "
            f"{longest['accepted_per_step']:.2f}, while a step goes from {step_ms(best):.1f} to "
            f"{step_ms(longest):.1f} ms; in the paper, from k = 10 to k = 100, accepted/step goes from "
            f"{paper.DRAFT_LENGTH[10][0]:.2f} to {paper.DRAFT_LENGTH[100][0]:.2f}."
        )
    return " ".join(said)


DRAFT_LENGTH = Study(
    "fixed-k",
    "Fixed draft lengths against ADL",
    "Table 5",
    "Is any fixed draft length as good as an adaptive one?",
    _COLUMNS,
    _remark,
    _variants,
    _rows,
)
