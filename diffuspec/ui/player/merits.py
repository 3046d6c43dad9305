"""The figures of merit of a run, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffuspec.provenance import Provenance
from diffuspec.trace.model import Trace
from diffuspec.trace.origin import UNKNOWN
from diffuspec.ui.player import why
from diffuspec.ui.player.text import looping, token_label

MEASURED, RECORDED = "measured", "recorded"


@dataclass(frozen=True)
class Source:
    """Where a trace comes from: "measured" in this process or "recorded" elsewhere or earlier.

    comparing: tokens plain AR has made so far while it is being measured, else None.
    """

    kind: str = RECORDED
    comparing: int | None = None


def provenance(origin: Provenance, kind: str) -> dict[str, str]:
    """badge: the short form; title: machine, date, threads, versions."""
    day = origin.recorded_at[:10]
    machine = origin.machine or "unknown machine"
    badge = "measured here" if kind == MEASURED else f"recorded {day} · {machine}"
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    title = f"{machine}, {origin.threads} threads, {origin.recorded_at}; {versions}"
    return {"badge": badge, "title": title, "kind": kind}


def _foreign(trace: Trace) -> dict[str, str]:
    """As `provenance`, of a trace that another engine made."""
    engine, made = trace.origin.engine, provenance(trace.provenance, RECORDED)
    title = made["title"] if trace.provenance.machine else f"{engine} does not tell on which machine, nor when"
    return {"badge": f"from {engine}", "title": title, "kind": RECORDED}


def verdict(trace: Trace, source: Source) -> dict[str, Any]:
    """Whether the answer is plain AR's: state, the headline and one line of detail."""
    baseline, compared = trace.baseline, source.comparing
    if compared is not None:
        budget = trace.settings.max_new_tokens
        return _verdict("pending", "…", f"measuring plain AR … {compared}/{budget}")
    if trace.origin:
        return _verdict("none", "–", f"{trace.origin.engine} does not tell plain decoding’s answer")
    if baseline is None:
        if trace.stop_reason == "running":
            return _verdict("pending", "…", "plain AR is measured after the run")
        why = "stopped: not compared with plain AR" if trace.stop_reason == "stopped" else "not compared with plain AR"
        return _verdict("none", "–", why)
    if trace.settings.temperature > 0:
        return _verdict("none", "sampled", "same distribution as plain AR, not the same tokens")
    difference = baseline.difference
    if difference is None:
        return _verdict("same", "identical", f"to plain AR, {baseline.compared} of {trace.new_tokens} tokens")
    expected, got = (
        "nothing more" if token is None else f"“{token_label(trace, token)}”"
        for token in (difference.expected, difference.got)
    )
    gap = "" if difference.gap is None else f", logit gap {difference.gap:.3g}"
    return _verdict(
        "differs", "differs", f"from plain AR at token {difference.position + 1}: {expected} there, {got} here{gap}"
    )


def _verdict(state: str, headline: str, detail: str) -> dict[str, str]:
    return {"state": state, "headline": headline, "detail": detail}


def merits(trace: Trace, source: Source) -> dict[str, Any]:
    """Everything the figures of merit show; times in milliseconds, rates in tokens per second."""
    baseline, account, origin = trace.baseline, why.of_trace(trace), trace.origin
    counted, staged = trace.totals.steps or not origin, not origin or origin.times == "stages"
    # More digits than the page shows: 16 / 11 rounded to 1.455 would be 1.46 there.
    return {
        "tokens_per_step": round(trace.tokens_per_step, 6) if counted else None,
        "accepted_per_step": round(trace.accepted_per_step, 6) if counted else None,
        "tokens_per_second": round(trace.tokens_per_second, 2) if trace.wall_s or not origin else None,
        "ar_tokens_per_second": round(baseline.tokens_per_second, 2) if baseline and baseline.token_ids else None,
        "speedup": round(trace.speedup, 6) if baseline and baseline.token_ids else None,
        "verdict": verdict(trace, source),
        "plain_ms": round(account.plain_ms, 3) if account else None,
        "why": origin.sentence if origin else why.words(account) if account else None,
        "stage_ms": {name: round(value, 2) for name, value in trace.stage_ms().items()} if staged else None,
        "loops": "" if UNKNOWN in trace.token_ids else looping(trace.token_ids),
        "new_tokens": trace.new_tokens,
        "budget": trace.settings.max_new_tokens,
        "stop_reason": trace.stop_reason,
        "steps": trace.totals.steps,
        "wall_s": round(trace.wall_s, 3),
        "provenance": _foreign(trace) if origin else provenance(trace.provenance, source.kind),
    }
