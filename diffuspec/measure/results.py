"""What was measured, as plain values that travel through JSON, and its summary in Spec-Bench's terms.

Results files are loaded by people who got them from others, so reading one checks every value.
No model and no torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffuspec.measure.statistics import FEWEST, Estimate, estimate, ratio
from diffuspec.trace.steps import STAGES

YARDSTICK = "ar"
AGAIN = "ar-again"  # plain AR a second time: what its speed-up differs from 1 by is the machine


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
    questions answered as AR does; *_ms: per step; *_low, *_high: 95 % intervals over questions (see `statistics`),
    None where there are too few.
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
    intervals = {"speedup": speedup(everyone, variant), "accepted_per_step": accepted_per_step(mine)}
    for name, found in intervals.items():
        row |= {f"{name}_low": found.low, f"{name}_high": found.high}
    for stage in STAGES:
        row[f"{stage}_ms"] = sum(getattr(r, f"{stage}_ms") for r in mine) / steps
    return row


def speedup(results: Sequence[Measured], variant: str, over: str = YARDSTICK) -> Estimate:
    """Mean tokens per second of `variant` over that of `over`, on the questions that both answered."""
    speeds = _speeds(results)
    shared = [question for question in speeds.get(variant, ()) if question in speeds.get(over, ())]
    return ratio([speeds[variant][q] for q in shared], [speeds[over][q] for q in shared])


def accepted_per_step(results: Sequence[Measured]) -> Estimate:
    """Accepted tokens a step of one variant's results; of several families the mean of theirs."""
    families = list(dict.fromkeys(r.category for r in results))
    values = np.zeros((len(results), 2 * len(families)))
    for row, r in zip(values, results, strict=True):
        at = 2 * families.index(r.category)
        row[at : at + 2] = r.accepted, r.steps

    def mean(sums: np.ndarray) -> np.ndarray:
        steps = sums[:, 1::2]  # a sample may lack a family
        rate = np.divide(sums[:, ::2], steps, out=np.zeros_like(steps), where=steps > 0)
        return rate.sum(1) / (steps > 0).sum(1)

    return estimate(values, mean)


def _speeds(results: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """variant -> question -> tokens per second, of the questions that got an answer."""
    found: dict[str, dict[str, float]] = {}
    for r in results:
        if r.tokens:
            found.setdefault(r.variant, {})[r.question] = r.tokens / r.seconds
    return found


def cautions(results: Sequence[Measured]) -> str:
    """What these results cannot carry, in sentences; empty where they carry everything."""
    speeds = _speeds(results)
    n = len(speeds.get(YARDSTICK, ()))
    others = [variant for variant in speeds if variant not in (YARDSTICK, AGAIN)]
    if not n or not others:
        return ""
    if n < FEWEST:
        return f"{_count(n, 'question')} {'carries' if n == 1 else 'carry'} no interval: ask {FEWEST} at least."
    said = []
    again = speedup(results, AGAIN)
    if again.low is not None:
        wide = max(abs(again.low - 1), abs(again.high - 1))
        said.append(f"Plain AR against itself: {again}; here a difference below {wide:.1%} is noise.")
    found = {variant: speedup(results, variant) for variant in others}
    same = [variant for variant, one in found.items() if one.holds(1.0)]
    if same:
        said.append(f"{_count(n, 'question')} cannot tell {_listed(same)} from plain AR.")
    first, *rest = sorted(found, key=lambda variant: -found[variant].value)
    close = [variant for variant in rest if speedup(results, first, variant).holds(1.0)]
    if close:
        said.append(f"{_count(n, 'question')} cannot tell {first}, the fastest, from {_listed(close)}.")
    return " ".join(said)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = [f"{len(names) - most} more"] if len(names) > most + 1 else list(names[most:])
    shown = [*names[:most], *more]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
