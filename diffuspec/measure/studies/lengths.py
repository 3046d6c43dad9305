"""Figure 5: what the drafter generates and what is accepted of it, against k."""

from __future__ import annotations

from diffuspec.measure.statistics import ratio
from diffuspec.measure.studies.fixed_k import fixed_lengths
from diffuspec.measure.studies.study import Column, Study, bounds, plain_ar

GENERATED = Column("generated", "L_gen", "tokens a step")
ACCEPTED = Column("accepted", "L_acc", "tokens a step")
_COLUMNS = (
    Column("k", "k", digits=0),
    Column("steps", "steps", digits=0),
    GENERATED,
    ACCEPTED,
    *bounds(GENERATED, ACCEPTED),
)


def _variants(settings, longest):
    return plain_ar(settings), *fixed_lengths(settings, longest)


def _rows(results, variants):
    rows = []
    for variant in variants:
        counts = [n for r in results if r.variant == variant.name for n in r.lengths if n[0] == variant.settings.k]
        steps = sum(n[1] for n in counts)
        if steps:
            row = {"k": variant.settings.k, "steps": steps}
            for column, i in ((GENERATED, 2), (ACCEPTED, 3)):
                found = ratio([n[i] for n in counts], [n[1] for n in counts])
                row |= {column.key: found.value, f"{column.key}_low": found.low, f"{column.key}_high": found.high}
            rows.append(row)
    return rows


def _remark(rows):
    low, high = rows[0], rows[-1]
    return (
        f"From k = {low['k']} to k = {high['k']} the draft before its first end-of-text token grows from "
        f"{low['generated']:.1f} to {high['generated']:.1f} tokens, what is accepted of it from {low['accepted']:.2f} "
        f"to {high['accepted']:.2f}: {low['accepted'] / max(low['generated'], 1e-9):.0%} and "
        f"{high['accepted'] / max(high['generated'], 1e-9):.0%} of the draft. Steps cut short by the end of the "
        "budget are left out. The paper draws this figure without numbers."
    )


LENGTHS = Study(
    "lengths",
    "Generated and accepted length",
    "Figure 5",
    "How much of a longer draft is text, and how much of that is accepted?",
    _COLUMNS,
    _remark,
    _variants,
    _rows,
)
