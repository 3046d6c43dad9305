"""How far into a draft tokens survive: acceptance by position."""

from __future__ import annotations

from diffuspec.measure.methods import Variant
from diffuspec.measure.statistics import ratio
from diffuspec.measure.studies.study import VARIANT, Column, Study, bounds, plain_ar

_POSITIONS = {"argmax": "plain", "CPS": "cps", "token by token": "ar-drafter"}
_POSITION_K = 16
OFTEN = 20  # steps that make a share worth a sentence
RATE = Column("rate", "accepted of drafted")
_COLUMNS = (
    VARIANT,
    Column("position", "position", digits=0),
    Column("offered", "drafted", "steps", 0),
    Column("reached", "reached", "steps", 0),
    Column("accepted", "accepted", "steps", 0),
    RATE,
    Column("conditional", "accepted of reached"),
    *bounds(RATE),
)


def _variants(settings, longest):
    settings = settings.replace(k=min(_POSITION_K, longest))
    return plain_ar(settings), *(Variant(name, method, settings) for name, method in _POSITIONS.items())


def _rows(results, variants):
    rows = []
    for name in _POSITIONS:
        mine = [r.positions for r in results if r.variant == name]
        for position in range(max(map(len, mine), default=0)):
            counts = [p[position] for p in mine if len(p) > position]
            offered, reached, accepted = (sum(n[i] for n in counts) for i in range(3))
            found = ratio([n[2] for n in counts], [n[0] for n in counts])
            rows.append(
                {
                    "variant": name,
                    "position": position + 1,
                    "offered": offered,
                    "reached": reached,
                    "accepted": accepted,
                    "rate": accepted / offered,
                    "conditional": accepted / reached if reached else None,
                    "rate_low": found.low,
                    "rate_high": found.high,
                }
            )
    return rows


def _remark(rows):
    said = []
    for name in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == name]
        half = next((row["position"] for row in mine if row["rate"] < mine[0]["rate"] / 2), None)
        said.append(
            f"{name}: {mine[0]['rate']:.0%} of first positions are accepted"
            + (f", at position {half} fewer than half as many." if half else ".")
        )
        often = [row for row in mine if row["reached"] >= OFTEN]
        if often and often[-1] is not mine[0]:
            said.append(
                f"Once all before it stood, position {often[-1]['position']} was accepted "
                f"{often[-1]['conditional']:.0%} of the time."
            )
    return " ".join(said)


POSITIONS = Study(
    "positions",
    "Acceptance by position",
    "",
    "How far into a draft do tokens survive?",
    _COLUMNS,
    _remark,
    _variants,
    _rows,
)
