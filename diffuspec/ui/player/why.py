"""Why a run was faster than plain decoding, or not: one or two sentences with the run's own numbers.

A step makes some tokens and takes some time. Over the time that plain decoding takes for a token, that time is the
step's price in tokens: where a step makes more than its price, speculation pays. The prompt is read once by both.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffuspec.measure.race import Lane, Race
from diffuspec.trace.model import Trace

FEW_TOKENS, FEW_STEPS = 16, 6  # fewer say nothing: one step more or less turns the verdict
ALIKE = 0.03  # speed-ups this near 1 are called neither faster nor slower
HEAVY_PROMPT = 0.2  # from this share of the run on, reading the prompt is part of the story


@dataclass(frozen=True)
class Account:
    """Where the time of a run went. step_ms, draft_ms, verify_ms: of a mean step; plain_ms: a token of plain
    decoding; prompt_ms: reading the prompt; speedup: tokens per second over plain decoding's, prompt included."""

    tokens: int
    steps: int
    drafted: int
    step_ms: float
    draft_ms: float
    verify_ms: float
    plain_ms: float
    prompt_ms: float
    speedup: float

    @property
    def made(self) -> float:
        """Tokens a step."""
        return self.tokens / self.steps

    @property
    def price(self) -> float:
        """What a step costs, in tokens of plain decoding."""
        return self.step_ms / self.plain_ms

    @property
    def prompt_share(self) -> float:
        return self.prompt_ms / (self.prompt_ms + self.steps * self.step_ms)


def of_trace(trace: Trace) -> Account | None:
    """None before plain decoding was measured."""
    plain = trace.baseline
    if plain is None or not plain.token_ids or not trace.steps:
        return None
    plain_ms = (plain.wall_s * 1e3 - plain.prefill_ms) / len(plain.token_ids)
    stages, steps = trace.stage_ms(), len(trace.steps)
    step_ms = (trace.wall_s * 1e3 - trace.prefill_ms) / steps
    if min(plain_ms, step_ms) <= 0:
        return None
    return Account(
        trace.new_tokens,
        steps,
        sum(len(step.path) for step in trace.steps),
        step_ms,
        stages["draft"] / steps,
        stages["verify"] / steps,
        plain_ms,
        trace.prefill_ms,
        trace.speedup,
    )


def of_lane(race: Race, lane: Lane) -> Account | None:
    """None for plain decoding itself and for methods that do not say what their steps were."""
    ar = race.yardstick
    if lane is ar or not lane.passes or not ar.pass_ms:
        return None
    # A lane's clock starts with the prompt, which all lanes on our kernels read alike.
    prompt_ms = max(ar.times_ms[0] - ar.pass_ms, 0.0)
    step_ms = (lane.wall_ms - prompt_ms) / lane.passes
    if step_ms <= 0 or not lane.verify_ms:
        return None
    return Account(
        len(lane.token_ids),
        lane.passes,
        lane.drafted,
        step_ms,
        lane.draft_ms / lane.passes,
        lane.verify_ms / lane.passes,
        ar.pass_ms,
        prompt_ms,
        race.speedup(lane),
    )


def words(account: Account, advice: bool = True) -> str:
    """The verdict, what it is made of and, with `advice`, what to try where a run was slower."""
    a = account
    if a.tokens < FEW_TOKENS or a.steps < FEW_STEPS:
        return (
            f"Too short to tell whether drafting pays: {a.tokens} tokens in {a.steps} steps. "
            "A question with a longer answer tells more."
        )
    if not a.drafted:
        return "No draft promised to pay here, so none was made: this was plain decoding, and as fast."
    parts = [x / a.plain_ms for x in (a.draft_ms, a.verify_ms, a.step_ms - a.draft_ms - a.verify_ms)]
    draft, verify, rest = (max(part, 0.0) for part in parts)
    verdict = "About as fast" if abs(a.speedup - 1) < ALIKE else "Faster" if a.speedup > 1 else "Slower"
    said = [
        f"{verdict}: a step made {a.made:.2f} tokens in the time in which plain decoding makes {a.price:.2f} "
        f"(draft {draft:.2f}, target pass {verify:.2f}, all else {rest:.2f})."
    ]
    if a.prompt_share >= HEAVY_PROMPT:
        said.append(
            f"Reading the prompt, the same for both, was {a.prompt_share:.0%} of the run; "
            f"without it the speed-up is {a.made / a.price:.2f}."
        )
    if verdict == "Slower" and a.made >= a.price:
        said.append("The steps paid, but reading the prompt took longer than for plain decoding: run it again.")
    elif verdict == "Slower":
        said.append(f"It would pay from {max(a.price - 1, 0):.2f} accepted tokens a step on; {a.made - 1:.2f} were.")
        if advice:
            smaller = "a smaller k, or " if verify - 1 > draft else ""
            said.append(f"Try {smaller}the length rule “throughput”, which drafts only where it pays.")
    return " ".join(said)
