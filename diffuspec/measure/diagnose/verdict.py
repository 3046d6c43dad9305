"""A diagnosis in a few sentences with numbers, and two of them side by side."""

from __future__ import annotations

from collections.abc import Sequence

from diffuspec.measure.diagnose.diagnosis import AS_SET, Diagnosis
from diffuspec.measure.diagnose.losses import UNEXPLAINED, WORDS
from diffuspec.measure.results import AGAIN, YARDSTICK, Measured, speedup
from diffuspec.measure.statistics import FEWEST, Estimate, ratio
from diffuspec.method.breakeven import acceptance_for

USE, TUNE, UNSURE, AVOID = "use it", "tune it", "not sure", "do not use it here"
FEW_BITS = 0.02  # of a share that is worth naming


def gain(found: Diagnosis) -> Estimate:
    """The settings' speed over plain decoding's."""
    return speedup(found.results, AS_SET)


def best_lever(found: Diagnosis):
    """The pulled lever that was measured fastest, if it gained anything; else None."""
    gained = [x for x in found.levers if x.measured and x.measured.low is not None and x.measured.low > 1]
    return max(gained, key=lambda lever: lever.measured.value, default=None)


def verdict(found: Diagnosis) -> str:
    now, lever = gain(found), best_lever(found)
    tuned = now.value * (lever.measured.value if lever else 1.0)
    if now.low is None or now.low <= 1 <= now.high:
        return TUNE if lever and tuned > 1.02 and now.low is not None else UNSURE
    if now.value < 1:
        return TUNE if tuned > 1.02 else AVOID
    return TUNE if lever else USE


def tokens_a_step(results: Sequence[Measured], variant: str) -> float:
    mine = [r for r in results if r.variant == variant]
    return sum(r.tokens for r in mine) / max(sum(r.steps for r in mine), 1)


def step_cost(found: Diagnosis) -> float:
    """A step of the settings in plain passes, prompts left out: the tokens that it must give to pay."""
    return found.losses.reached_ms * tokens_a_step(found.results, AS_SET) / found.plain.pass_ms


def sentences(found: Diagnosis) -> list[str]:
    """The verdict first, then what it rests on."""
    said = [_headline(found), _roof(found), _pays(found)]
    said += [_where(found), *_levers(found), _kept(found), _sample(found)]
    return [sentence for sentence in said if sentence]


def _headline(found: Diagnosis) -> str:
    now, n, lever = gain(found), found.questions.count, best_lever(found)
    said = f"{now} times as fast as plain decoding, on {n} question{'s' if n != 1 else ''}"
    if lever:
        said += f"; with {lever.name} {now.value * lever.measured.value:.2f} times"
    means = {
        USE: "Use it: these settings are",
        TUNE: "Worth it once tuned: as set, it is",
        UNSURE: "Not sure: the interval holds 1, or there is none. As set, it is",
        AVOID: "Do not use it here: as set, it is",
    }[verdict(found)]
    return f"{means} {said}."


def _roof(found: Diagnosis) -> str:
    plain = found.plain
    said = f"Plain decoding takes {plain.pass_ms:.2f} ms a token"
    if plain.floor_ms:
        by_memory = plain.weight_bytes / found.machine.gigabytes_s / 1e6
        bound = "memory" if by_memory >= plain.floor_ms * 0.999 else "arithmetic"
        said += (
            f": {plain.reached:.0%} of what {bound} allows here ({plain.weight_bytes / 1e6:.0f} MB of weights at "
            f"{found.machine.gigabytes_s:.1f} GB/s, {plain.multiply_adds / 1e6:.0f} million multiply-adds at "
            f"{found.machine.giga_multiply_adds_s:.0f} thousand million a second: {plain.floor_ms:.2f} ms at least)"
        )
    return said + "."


def _pays(found: Diagnosis) -> str:
    cost, given = step_cost(found), tokens_a_step(found.results, AS_SET)
    plain, nodes = found.plain.pass_ms, found.draft_nodes
    said = []
    drafts = [c for c in found.costs if c.part == "draft"]
    if drafts:
        k = min(drafts, key=lambda c: abs(c.size - 4))
        said.append(f"a draft of {k.size} takes {k.ms:.2f} ms ({k.ms / plain:.2f} plain passes)")
    rows = {c.size: c.ms for c in found.costs if c.part == "verify"}
    if {1, 8} <= rows.keys():
        said.append(f"each of eight rows {(rows[8] - rows[1]) / 7:.2f} ms more")
    first = ", ".join(said)
    needs = f"A step costs {cost:.2f} plain passes, so it pays from {cost:.2f} tokens a step; it gives {given:.2f}"
    whole = round(nodes)
    if whole >= 1 and found.settings.search != "tree":
        least = acceptance_for(max(cost - 1, 0.0), whole)
        has = acceptance_for(max(given - 1, 0.0), whole)
        needs += f". Of {whole} tokens drafted, each must be accepted {least:.0%} of the time; {has:.0%} are"
    return (first[0].upper() + first[1:] + ". " if first else "") + needs + "."


def shares(found: Diagnosis) -> list[tuple[str, float]]:
    """(what, share of the gap to an oracle drafter), the largest first."""
    gap = found.losses.gap_ms
    named = [loss for loss in found.losses.losses if loss.name != UNEXPLAINED]
    return [(WORDS[loss.name], loss.ms_per_token / gap) for loss in named] if gap > 0 else []


def _where(found: Diagnosis) -> str:
    told = found.losses
    top = [f"{what} {share:.0%}" for what, share in shares(found)[:4] if share >= FEW_BITS]
    if not top:
        return ""
    return (
        f"A token takes {told.reached_ms:.2f} ms; a drafter that is always right would make it {told.bound_ms:.2f}, "
        f"{told.oracle_rows} at once. Of what lies between: {', '.join(top)}. {told.explained:.0%} has a name."
    )


def _levers(found: Diagnosis) -> list[str]:
    pulled = [lever for lever in found.levers if lever.measured is not None]
    good = [x for x in pulled if x.recommended]
    said = [f"{x.name}: {x.predicted} times as fast by replay, {x.measured} measured" for x in good[:3]]
    if said:
        return ["What to change: " + "; ".join(said) + "."]
    if found.levers:
        best = found.levers[0]
        return [f"No setting tried gains a hundredth; the best, {best.name}, {best.predicted} by replay."]
    return []


def _kept(found: Diagnosis) -> str:
    nodes = next((r for r in found.reliability if r.kind == "tree nodes"), None)
    if nodes is None:
        return ""
    return (
        f"Scores of tree nodes are off by {nodes.ece:.3f} on average (ECE, on held-out answers), recalibrated by "
        f"{nodes.ece_after:.3f}; chance alone makes {nodes.by_chance:.3f} of {nodes.count} nodes."
        + (f" Recalibrated, replay is {found.recalibrated} times as fast." if found.recalibrated else "")
    )


def _sample(found: Diagnosis) -> str:
    again, n = speedup(found.results, AGAIN), found.questions.count
    if n < FEWEST:
        return f"{n} question{'s' if n != 1 else ''} carry no interval: give more minutes, or shorter answers."
    if again.low is None:
        return ""
    wide = max(abs(again.low - 1), abs(again.high - 1))
    return f"Plain decoding against itself: {again}; here a difference below {wide:.1%} is noise."


def compare(a: Diagnosis, b: Diagnosis, names: tuple[str, str] = ("A", "B")) -> str:
    """Two diagnoses side by side, as text: of two machines, versions, drafters or settings."""
    lines = [f"{names[0]} against {names[1]}:", *_differences(a, b, names), ""]
    rows = [["", *names, f"{names[1]} / {names[0]}"]]
    speeds = [_speeds(x) for x in (a, b)]
    shared = [variant for variant in speeds[0] if variant in speeds[1]]
    for variant in shared:
        if variant == AGAIN:
            continue
        mine = [list(speed[variant].values()) for speed in speeds]
        both = [q for q in speeds[0][variant] if q in speeds[1][variant]]
        same = a.questions.sha256 == b.questions.sha256 and both
        change = (
            str(ratio([speeds[1][variant][q] for q in both], [speeds[0][variant][q] for q in both])) if same else "-"
        )
        rows.append([f"{variant}, tokens/s", *(f"{sum(m) / len(m):.1f}" for m in mine), change])
    for variant in shared:
        if variant not in (YARDSTICK, AGAIN):
            rows.append([f"{variant}, speed-up", *(str(speedup(x.results, variant)) for x in (a, b)), ""])
            rows.append([f"{variant}, tokens/step", *(f"{tokens_a_step(x.results, variant):.2f}" for x in (a, b)), ""])
    rows.append(["plain pass, ms", *(f"{x.plain.pass_ms:.2f}" for x in (a, b)), ""])
    rows.append(["of the roofline", *(f"{x.plain.reached:.0%}" if x.plain.reached else "-" for x in (a, b)), ""])
    rows.append(["memory, GB/s", *(f"{x.machine.gigabytes_s:.1f}" for x in (a, b)), ""])
    told = [dict(shares(x)) for x in (a, b)]
    for what in dict.fromkeys([*told[0], *told[1]]):
        rows.append([what, *(f"{one.get(what, 0.0):.0%}" for one in told), ""])
    from diffuspec.measure.tables import aligned

    return "\n".join([*lines, aligned(rows)])


def _speeds(found: Diagnosis) -> dict[str, dict[str, float]]:
    speeds: dict[str, dict[str, float]] = {}
    for r in found.results:
        if r.tokens:
            speeds.setdefault(r.variant, {})[r.question] = r.tokens / r.seconds
    return speeds


def _differences(a: Diagnosis, b: Diagnosis, names: tuple[str, str]) -> list[str]:
    """What the two were made with, where it differs."""
    facts = {
        "machine": [x.provenance.machine for x in (a, b)],
        "threads": [x.provenance.threads for x in (a, b)],
        **{
            f"version of {name}": [x.provenance.versions.get(name, "-") for x in (a, b)]
            for name in sorted({*a.provenance.versions, *b.provenance.versions})
        },
        **{
            name: [getattr(x.pair, name) for x in (a, b)]
            for name in ("name", "target", "drafter", "dtype", "device", "drafter_edition")
        },
        "questions": [f"{x.questions.name} ({x.questions.sha256[:8]})" for x in (a, b)],
        **{name: [x.settings.to_dict()[name] for x in (a, b)] for name in a.settings.to_dict()},
    }
    return [f"  {name}: {one} / {other}" for name, (one, other) in facts.items() if one != other] or [
        "  made with the same machine, versions, pair, questions and settings"
    ]
