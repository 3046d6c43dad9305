"""A diagnosis as HTML: the sections of the page, and the same as one file that opens anywhere, offline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from diffuspec.measure.diagnose.diagnosis import Diagnosis
from diffuspec.measure.diagnose.levers import Lever
from diffuspec.measure.diagnose.losses import DRAFTING, HOST, REFUSED, UNEXPLAINED, WORDS
from diffuspec.measure.diagnose.verdict import AVOID, TUNE, UNSURE, USE, sentences, shares, verdict
from diffuspec.measure.methods import METHODS
from diffuspec.measure.results import AGAIN, YARDSTICK, accepted_per_step, speedup
from diffuspec.measure.statistics import Estimate
from diffuspec.settings import Settings
from diffuspec.ui.diagnose.svg import Mark, bars, lines, points
from diffuspec.ui.draw.chart import THEME_CSS

STYLE = THEME_CSS.parents[1] / "diagnose" / "diagnose.css"
SIGNS = {USE: ("✓", "good"), TUNE: ("✓", "good"), UNSURE: ("?", "warn"), AVOID: ("✗", "warn")}
TITLES = {
    "all": "all",
    "task": "task",
    "language": "language",
    "text": "text",
    "turn": "turn",
    "context": "tokens before the step",
    "entropy": "target’s entropy",
    "repeated": "repeats itself",
}


def body(found: Diagnosis) -> str:
    """The sections, as HTML whose every text is escaped."""
    parts = [
        _verdict(found),
        _losses(found),
        _levers(found),
        _frontier(found),
        _reliability(found),
        _tree(found),
        _positions(found),
        _splits(found),
        _facts(found),
    ]
    return f'<div class="ds ds-diagnosis">{"".join(parts)}</div>'


def page(found: Diagnosis) -> str:
    """One file by itself, light or dark as the reader's system is; no script, nothing fetched."""
    style = THEME_CSS.read_text(encoding="utf-8")
    dark = style[style.index(".dark {") :].partition("}")[0].removeprefix(".dark {")
    own = STYLE.read_text(encoding="utf-8")
    title = f"Is it worth it here? {found.pair.target}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{style}"
        f"@media (prefers-color-scheme: dark) {{ :root {{ color-scheme: dark; {dark} }} }}"
        "body { margin: 0; background: var(--ds-page); } main { max-width: 1400px; margin: 0 auto; padding: 16px; }"
        f"main > h1 {{ font: 650 19px system-ui, sans-serif; color: var(--ds-ink); }}{own}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{body(found)}</main></body></html>"
    )


def _card(title: str, *inside: str, hint: str = "") -> str:
    body = "".join(part for part in inside if part)
    if not body:
        return ""
    name = "".join(c if c.isalnum() else "-" for c in title.lower()).strip("-")
    said = f'<span class="ds-hint">{escape(hint)}</span>' if hint else ""
    return (
        f'<section class="ds-card" aria-labelledby="dg-{name}"><header class="ds-head"><h2 id="dg-{name}">'
        f"{escape(title)}</h2>{said}</header>{body}</section>"
    )


def _paragraph(words: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(words)}</p>' if words else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], label: str) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heads)
    lines = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{escape(cell)}</th>' if place == 0 else f"<td>{escape(cell)}</td>"
            for place, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="ds-scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table class="ds-numbers">'
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _closed(summary: str, inside: str) -> str:
    return f'<details class="ds-table"><summary>{escape(summary)}</summary>{inside}</details>' if inside else ""


def _verdict(found: Diagnosis) -> str:
    first, *rest = sentences(found)
    sign, kind = SIGNS[verdict(found)]
    listed = "".join(f"<li>{escape(sentence)}</li>" for sentence in (*rest, *found.notes))
    return (
        f'<section class="ds-card ds-worth ds-{kind}" aria-label="Verdict"><p class="ds-worth-first">'
        f'<span aria-hidden="true">{sign}</span> {escape(first)}</p><ul>{listed}</ul></section>'
    )


def _losses(found: Diagnosis) -> str:
    told = found.losses
    if told.gap_ms <= 0:
        return ""
    colours = {DRAFTING: "stage-draft", HOST: "stage-record", REFUSED: "average", UNEXPLAINED: "quiet"}
    marks = [
        Mark(
            WORDS[loss.name],
            100 * loss.ms_per_token / told.gap_ms,
            colour=colours.get(loss.name, "correction"),
            text=f"{loss.ms_per_token / told.gap_ms:.0%}, {loss.ms_per_token:.3f} ms".replace("-", "−"),
        )
        for loss in told.losses
    ]
    steps = {loss.name: loss.steps for loss in told.losses if loss.steps}
    total = sum(steps.values())
    rows = [(WORDS[name], str(n), f"{n / total:.0%}") for name, n in steps.items()]
    return _card(
        "Where the losses are",
        _paragraph(
            f"A token takes {told.reached_ms:.3f} ms. A drafter that is always right, at no cost, would make it "
            f"{told.bound_ms:.3f} ms, {told.oracle_rows} tokens a pass. What lies between, a token:"
        ),
        bars(marks, "Losses: " + ", ".join(f"{what} {share:.0%}" for what, share in shares(found))),
        _paragraph(
            "A pass that gave few tokens is put down to why it stopped where it did; rows that were read and refused, "
            "drafting and the host are counted by their time.",
            "ds-caption",
        ),
        _closed("why steps ended", _table(("why", "steps", "share"), rows, "Why steps ended")),
        hint=f"{told.explained:.0%} has a name",
    )


def changed(lever: Lever, settings: Settings) -> str:
    """The settings that a lever changes, as flags of the command line."""
    now, then = settings.to_dict(), lever.settings.to_dict()
    return " ".join(f"--{name.replace('_', '-')} {then[name]}" for name in then if then[name] != now[name])


def _levers(found: Diagnosis) -> str:
    if not found.levers:
        return ""
    marks, rows = [], []
    for lever in found.levers:
        marks.append(_of(lever.name, lever.predicted, "accepted-soft" if lever.measured else "accepted", "by replay"))
        if lever.measured:
            marks.append(_of("", lever.measured, "correction", "measured"))
        held = {True: "within", False: "outside", None: "–"}[lever.held]
        rows.append(
            (lever.name, str(lever.predicted), str(lever.measured or "–"), held, changed(lever, found.settings))
        )
    heads = ("lever", "by replay", "measured", "prediction", "as flags")
    return _card(
        "What other settings would gain",
        bars(marks, "Gain of each lever over the settings as they are", line=1.0),
        _closed("table", _table(heads, rows, "Levers")),
        hint="speed over the settings as they are: by replay on the tapes, then measured",
    )


def _of(label: str, found: Estimate, colour: str, what: str) -> Mark:
    return Mark(label, found.value, found.low, found.high, f"{found.value:.2f} {what}", colour)


def _label(variant: str) -> str:
    return METHODS[variant].label if variant in METHODS else variant


def _frontier(found: Diagnosis) -> str:
    marks, rows = [], []
    for variant in dict.fromkeys(r.variant for r in found.results):
        mine = [r for r in found.results if r.variant == variant]
        accepted, speed = accepted_per_step(mine), speedup(found.results, variant)
        same = sum(r.identical for r in mine)
        rate = sum(r.tokens / r.seconds for r in mine) / len(mine)
        told = str(accepted) if accepted.value else "–"
        rows.append((_label(variant), told, str(speed), f"{rate:.1f}", f"{same} of {len(mine)}"))
        if variant not in (YARDSTICK, AGAIN):
            marks.append((_label(variant), Mark(f"{accepted.value}", speed.value, speed.low, speed.high)))
    heads = ("method", "accepted/step", "speed-up", "tokens/s", "identical to AR")
    return _card(
        "Acceptance against speed",
        points(marks, "Each method’s accepted tokens a step and speed-up", "accepted tokens a step", "speed-up", 1.0),
        _table(heads, rows, "Methods"),
        hint="accepting more is not being faster; intervals are of 95 %",
    )


def _reliability(found: Diagnosis) -> str:
    if not found.reliability:
        return ""
    series = {}
    for one in found.reliability:
        series[one.kind] = [(b.predicted, b.walked) for b in one.bins]
        if one.kind == "tree nodes":
            series["tree nodes, recalibrated"] = [(b.predicted, b.walked) for b in one.bins_after]
    rows = [
        (
            r.kind,
            f"{r.count}",
            f"{r.ece:.3f}",
            f"{r.by_chance:.3f}",
            f"{r.ece_after:.3f}",
            f"{r.brier:.3f}",
            f"{r.brier_after:.3f}",
            "–" if r.auroc is None else f"{r.auroc:.3f}",
        )
        for r in found.reliability
    ]
    heads = ("predicted by", "events", "ECE", "by chance", "recalibrated", "Brier", "recalibrated", "AUROC")
    depths = sorted({c.depth for c in found.cells})
    ranks = sorted({c.rank for c in found.cells})
    at = {(c.depth, c.rank): c for c in found.cells}
    grid = [
        (
            str(depth),
            *(
                f"{at[depth, rank].walked:.0%} ({at[depth, rank].predicted:.0%})" if (depth, rank) in at else "–"
                for rank in ranks
            ),
        )
        for depth in depths
    ]
    by = _table(("depth", *(f"rank {rank}" for rank in ranks)), grid, "By depth and rank") if grid else ""
    return _card(
        "Are predictions kept?",
        lines(series, "Predicted against walked", "predicted", "walked to", percent=(True, True), diagonal=True),
        _table(heads, rows, "Calibration"),
        _closed("the drafter’s q by depth and rank: right (predicted)", by),
        hint="on answers that nothing was fitted on",
    )


def _tree(found: Diagnosis) -> str:
    if not found.budgets:
        return ""
    names = [b.nodes for b in found.budgets]
    series = {
        "tokens a step": [(i, b.tokens_per_step) for i, b in enumerate(found.budgets)],
        "speed-up": [(i, b.speedup.value) for i, b in enumerate(found.budgets)],
    }
    rows = [(str(b.nodes), f"{b.tokens_per_step:.2f}", str(b.speedup)) for b in found.budgets]
    return _card(
        "How large a tree",
        lines(series, "Tokens a step and speed-up against the nodes of a tree", "nodes", "", steps=names),
        _closed("table", _table(("nodes", "tokens/step", "speed-up"), rows, "By nodes")),
        hint="by replay; the length as set",
    )


def _positions(found: Diagnosis) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for p in found.positions:
        series.setdefault(p.drafter, []).append((p.position, p.accepted / p.reached))
    if not series:
        return ""
    rows = [(p.drafter, str(p.position), str(p.reached), f"{p.accepted / p.reached:.0%}") for p in found.positions]
    return _card(
        "Acceptance by position, where all before it stood",
        lines(series, "Share accepted by position", "position in the draft", "accepted", percent=(False, True)),
        _closed("table", _table(("drafter", "position", "reached", "accepted"), rows, "By position")),
    )


def _splits(found: Diagnosis) -> str:
    if not found.splits:
        return ""
    rows = [
        (
            f"{TITLES.get(s.by, s.by)}: {s.value}" if s.by != "all" else "all",
            str(s.answers),
            str(s.steps),
            str(s.tokens),
            f"{s.tokens_per_step:.2f}",
            str(s.speedup),
        )
        for s in found.splits
    ]
    heads = ("", "answers", "steps", "tokens", "tokens/step", "speed-up")
    return _card(
        "Whom the gain comes from",
        _table(heads, rows, "Splits"),
        hint="the settings’ own steps, prompts left out; intervals where five questions or more are on a side",
    )


def _facts(found: Diagnosis) -> str:
    from diffuspec.measure.diagnose.verdict import step_cost

    made, pair, default = found.provenance, found.pair, Settings().to_dict()
    changes = ", ".join(f"{n} = {v}" for n, v in found.settings.to_dict().items() if v != default[n])
    rows = [
        ("machine", f"{made.machine}, {made.threads} threads"),
        (
            "memory, arithmetic",
            f"{found.machine.gigabytes_s:.1f} GB/s, "
            f"{found.machine.giga_multiply_adds_s:.0f} thousand million multiply-adds a second",
        ),
        ("measured", f"{made.recorded_at}, in {found.took_s / 60:.1f} of {found.minutes:g} minutes"),
        ("pair", f"{pair.name}: {pair.target}; {pair.drafter} {pair.drafter_edition}; {pair.dtype} on {pair.device}"),
        ("settings", changes or "the defaults"),
        ("questions", f"{found.questions.count} of {found.questions.name}, sha256 {found.questions.sha256[:16]}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())),
        ("seed of the intervals", str(found.seed)),
        ("a draft", ", ".join(f"{c.size}: {c.ms:.2f} ms" for c in found.costs if c.part == "draft") or "none"),
        ("a pass over rows", ", ".join(f"{c.size}: {c.ms:.2f} ms" for c in found.costs if c.part == "verify")),
        ("host, a step", f"{found.host_ms:.2f} ms"),
        ("a step", f"{step_cost(found):.2f} plain passes, {found.draft_nodes:.1f} tokens drafted"),
    ]
    return _card("Made with", _table(("", ""), rows, "Made with"))
