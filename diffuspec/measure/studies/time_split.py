"""Figure 6: where the time of a step goes."""

from __future__ import annotations

from diffuspec.measure import paper
from diffuspec.measure.methods import Variant
from diffuspec.measure.statistics import ratio
from diffuspec.measure.studies.study import VARIANT, Column, Study, bounds, plain_ar
from diffuspec.trace.steps import STAGES

_SPLIT = {"DiffuSpec": "diffuspec", "SPS": "ar-drafter"}
SHARE = Column("share", "share")
_COLUMNS = (
    VARIANT,
    Column("stage", "stage"),
    Column("ms_per_step", "a step", "ms"),
    Column("ms_per_token", "a token", "ms"),
    SHARE,
    Column("paper_share", "share, paper", paper=True),
    Column("paper_seconds", "paper", "s", paper=True),
    *bounds(SHARE),
)


def _variants(settings, longest):
    return plain_ar(settings), *(Variant(name, method, settings) for name, method in _SPLIT.items())


def _rows(results, variants):
    rows = []
    for name in _SPLIT:
        mine = [r for r in results if r.variant == name]
        ms = {stage: sum(getattr(r, f"{stage}_ms") for r in mine) for stage in STAGES}
        steps, tokens, total = sum(r.steps for r in mine), sum(r.tokens for r in mine), sum(ms.values())
        seconds = paper.SECONDS[name]
        for stage in STAGES if total else ():
            spent = [sum(getattr(r, f"{other}_ms") for other in STAGES) for r in mine]
            found = ratio([getattr(r, f"{stage}_ms") for r in mine], spent)
            rows.append(
                {
                    "variant": name,
                    "stage": stage,
                    "ms_per_step": ms[stage] / steps,
                    "ms_per_token": ms[stage] / tokens,
                    "share": ms[stage] / total,
                    "share_low": found.low,
                    "share_high": found.high,
                    "paper_seconds": seconds.get(stage),
                    "paper_share": seconds[stage] / sum(seconds.values()) if stage in seconds else None,
                }
            )
    return rows


def _remark(rows):
    said = []
    for name in dict.fromkeys(row["variant"] for row in rows):
        mine = {row["stage"]: row for row in rows if row["variant"] == name}
        said.append(
            f"{name}: "
            + ", ".join(
                f"{stage} {row['share']:.1%}" + (f" (paper {row['paper_share']:.1%})" if row["paper_share"] else "")
                for stage, row in mine.items()
            )
            + "."
        )
    draft = {row["variant"]: row["ms_per_step"] for row in rows if row["stage"] == "draft"}
    if draft.get("DiffuSpec") and draft.get("SPS"):
        theirs = paper.SECONDS["SPS"]["draft"] / paper.SECONDS["DiffuSpec"]["draft"]
        said.append(
            f"Drafting token by token with the same network takes {draft['SPS'] / draft['DiffuSpec']:.1f} times as "
            f"long a step as drafting at once; in the paper, with another model of the same size, SPS drafts "
            f"{theirs:.1f} times as long in all."
        )
    return " ".join(said)


TIME_SPLIT = Study(
    "time-split",
    "Where the time goes",
    "Figure 6",
    "What share of a step is drafting, searching and verifying, and what if the drafter wrote token by token?",
    _COLUMNS,
    _remark,
    _variants,
    _rows,
)
