"""Figure 7: one knob at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffuspec.errors import SettingsError
from diffuspec.measure import paper
from diffuspec.measure.methods import Variant
from diffuspec.measure.results import summarise
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
    Column,
    Study,
    plain_ar,
    select,
    step_ms,
)
from diffuspec.settings import Settings

SWEEP = {
    "passes": (1, 2, 4, 10),
    "beam": (1, 2, 3, 5, 8),
    "m_max": (1, 5, 10, 15, 30),
    "tau": (0.3, 0.5, 0.8, 0.95, 1.0),
}
_COLUMNS = (
    Column("knob", "knob"),
    Column("symbol", "symbol"),
    Column("value", "value"),
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


def sweep(grid: dict[str, Sequence[Any]], method: str = "diffuspec") -> Study:
    """Figure 7 over the knobs and values of `grid`, each knob varied by itself; the value set is always among them.

    Raises `SettingsError` for an unknown knob, and when it is run for a value out of bounds.
    """
    knobs = Settings.knobs()
    for name in grid:
        if name not in knobs:
            raise SettingsError(f"There is no setting {name!r} to sweep. Settings: {', '.join(knobs)}.")

    def values(settings: Settings, name: str) -> list[Any]:
        return sorted({knobs[name].parse(value) for value in (*grid[name], getattr(settings, name))})

    def variants(settings, longest):
        found = [plain_ar(settings), Variant("as set", method, settings)]
        for name in grid:
            for value in values(settings, name):
                if value != getattr(settings, name):
                    changed = settings.replace(**{name: value})
                    found.append(Variant(f"{name} = {value}", method, changed))
        return tuple(found)

    def rows(results, variants):
        means = {row["method"]: row for row in summarise(results) if row["category"] == "mean"}
        base = next(v.settings for v in variants if v.name == "as set")
        found = []
        for name in grid:
            for value in values(base, name):
                row = means.get("as set" if value == getattr(base, name) else f"{name} = {value}")
                if row:
                    mat, speedup = paper.REFINEMENT.get(value, (None, None)) if name == "passes" else (None, None)
                    found.append(
                        select(
                            row,
                            _COLUMNS,
                            knob=name,
                            symbol=knobs[name].symbol,
                            value=value,
                            paper_accepted_per_step=mat,
                            paper_speedup=speedup,
                        )
                    )
        return found

    return Study(
        "sweep",
        "Sensitivity",
        "Figure 7",
        "How do accepted tokens and speed-up move when one knob is turned?",
        _COLUMNS,
        _remark,
        variants=variants,
        rows=rows,
    )


def _remark(rows):
    said = []
    for name in dict.fromkeys(row["knob"] for row in rows):
        mine = [row for row in rows if row["knob"] == name]
        best, worst = (f(mine, key=lambda row: row["speedup"]) for f in (max, min))
        accepted = [row["accepted_per_step"] for row in mine]
        said.append(
            f"{mine[0]['symbol'] or name}: speed-up from {worst['speedup']:.2f} at {worst['value']} to "
            f"{best['speedup']:.2f} at {best['value']}, accepted/step between {min(accepted):.2f} and "
            f"{max(accepted):.2f}."
        )
    passes = {row["value"]: row for row in rows if row["knob"] == "passes"}
    if {1, 10} <= passes.keys():
        gain = passes[10]["accepted_per_step"] - passes[1]["accepted_per_step"]
        their_gain = paper.REFINEMENT[10][0] - paper.REFINEMENT[1][0]
        said.append(
            f"Ten drafter passes in place of one change accepted/step by {gain:+.2f} (paper: {their_gain:+.2f}) and "
            f"take the speed-up from {passes[1]['speedup']:.2f} to {passes[10]['speedup']:.2f} (paper: "
            f"{paper.REFINEMENT[1][1]:.2f} to {paper.REFINEMENT[10][1]:.2f}); drafting is "
            f"{passes[1]['draft_ms'] / step_ms(passes[1]):.0%} of a step with one pass here."
        )
    return " ".join(said)
