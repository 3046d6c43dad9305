"""What was measured, as plain values that travel through JSON, and its summary in Spec-Bench's terms.

Results files are loaded by people who got them from others, so reading one checks every value.
No model and no torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffuspec.trace.steps import STAGES

YARDSTICK = "ar"


@dataclass(frozen=True)
class Difference:
    """Where an answer first left plain AR's. turn, position: 0-based; expected, got: token ids, None past an
    end; gap: the target's logit of `expected` minus its logit of `got`, None where either is missing."""

    turn: int
    position: int
    expected: int | None
    got: int | None
    gap: float | None


@dataclass(frozen=True)
class Measured:
    """One variant on one question, all turns added up.

    seconds include prefill; *_ms add up over steps and are 0 for methods that write no trace, as are:
    positions: per position of the path, (offered, reached, accepted), counts of steps that drafted it,
    that accepted all before it, and that accepted it too;
    lengths: (k, steps, sum of L_gen, sum of L_acc) for each draft length used.
    """

    variant: str
    question: str
    category: str
    tokens: int
    seconds: float
    steps: int
    accepted: int
    draft_ms: float
    search_ms: float
    verify_ms: float
    commit_ms: float
    record_ms: float
    positions: tuple[tuple[int, ...], ...]
    lengths: tuple[tuple[int, ...], ...]
    differences: tuple[Difference, ...]

    @property
    def identical(self) -> bool:
        return not self.differences


def summarise(results: Sequence[Measured]) -> list[dict]:
    """A row a variant and family, and one a variant with category "mean".

    accepted_per_step and tokens_per_step are means over all steps; the mean row's are means over
    families. speedup: ratio of the means over questions of tokens per second. identical: share of
    questions answered as AR does; *_ms: per step.
    """
    answered = [r for r in results if r.tokens]
    rows = []
    for variant in dict.fromkeys(r.variant for r in answered):
        mine = [r for r in answered if r.variant == variant]
        families = [
            _row(
                variant,
                family,
                [r for r in mine if r.category == family],
                [r for r in answered if r.category == family],
            )
            for family in dict.fromkeys(r.category for r in mine)
        ]
        mean = _row(variant, "mean", mine, answered)
        for name in ("accepted_per_step", "tokens_per_step"):
            mean[name] = sum(row[name] for row in families) / len(families)
        rows += [*families, mean]
    return rows


def _row(variant: str, category: str, mine: list[Measured], everyone: list[Measured]) -> dict:
    def mean_speed(results):
        return sum(r.tokens / r.seconds for r in results) / len(results)

    steps = sum(r.steps for r in mine)
    row = {
        "method": variant,
        "category": category,
        "questions": len(mine),
        "accepted_per_step": sum(r.accepted for r in mine) / steps,
        "tokens_per_step": sum(r.tokens for r in mine) / steps,
        "tokens_per_second": mean_speed(mine),
        "speedup": mean_speed(mine) / mean_speed([r for r in everyone if r.variant == YARDSTICK]),
        "identical": sum(r.identical for r in mine) / len(mine),
        "identical_answers": sum(r.identical for r in mine),
    }
    for stage in STAGES:
        row[f"{stage}_ms"] = sum(getattr(r, f"{stage}_ms") for r in mine) / steps
    return row
