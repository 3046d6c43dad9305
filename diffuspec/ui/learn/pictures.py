"""The picture in each lesson's text: rows of tokens, drawn by `picture.js`.

Steps are picked from the recorded traces by what happened in them, and not the one that the lesson asks about where
that would give its answer away.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson

from diffuspec.errors import TraceError
from diffuspec.method.acceptance import accept_probability
from diffuspec.method.lattice import generated_length
from diffuspec.method.length import AdaptiveDraftLength
from diffuspec.method.search import argmax_path
from diffuspec.method.tree import best_first_tree
from diffuspec.settings import Settings
from diffuspec.trace.gallery import Gallery
from diffuspec.trace.model import Trace
from diffuspec.trace.steps import Step
from diffuspec.ui.learn.lessons import HERE
from diffuspec.ui.learn.lessons.puzzles import proxy_of, solve
from diffuspec.ui.player.misses import miss
from diffuspec.ui.player.text import token_label

PASSES = HERE / "passes.json"  # by `scripts.record_passes`
MASK = "▒▒"


@dataclass(frozen=True)
class Tile:
    """One block. tone: "text", "mask", "draft", "path", "faint", "accepted", "refused", "own", "weights" or "none";
    note: a few words above it; width: its share of the row, where blocks are drawn to scale."""

    text: str
    tone: str = "text"
    note: str = ""
    width: float | None = None


@dataclass(frozen=True)
class Row:
    label: str
    tiles: tuple[Tile, ...]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A small picture of a lesson, made of rows.

    rows: from top to bottom; caption: what they show, in a sentence or two.
    """

    rows: tuple[Row, ...]
    caption: str


def picture(gallery: Gallery, lesson: str) -> dict[str, Any] | None:
    """The picture of a lesson by its name, for the page; None where it has none.

    Raises `TraceError` where no recorded trace shows what it needs.
    """
    made = PICTURES.get(lesson)
    return made and asdict(made(gallery))


# ------------------------------------------------------------------------------------------------- shared


def _steps(gallery: Gallery, fits: Callable[[Trace, Step], bool], besides: str = "") -> tuple[Trace, Step]:
    """The first recorded step that fits, other than the one that the puzzle `besides` is about."""
    asked = solve(gallery, besides) if besides else None
    for entry in gallery:
        trace = gallery.trace(entry.name)
        for step in trace.steps:
            if asked and (entry.name, step.index) == (asked.trace, asked.step):
                continue
            if step.search.method != "tree" and fits(trace, step):
                return trace, step
    raise TraceError("No recorded trace shows what this picture needs; make them anew: `python -m diffuspec record`.")


def _labels(trace: Trace, ids: Sequence[int]) -> list[str]:
    return [token_label(trace, int(token)) for token in ids]


def _before(trace: Trace, step: Step, count: int = 3) -> tuple[Tile, ...]:
    """The text just before a step."""
    known = [*trace.prompt_ids, *trace.token_ids[: step.start]]
    return tuple(Tile(text) for text in _labels(trace, known[-count:]))


def _verified(trace: Trace, step: Step) -> tuple[Tile, ...]:
    """The path with the target's verdict, its own token in the place of the refused one."""
    at, tiles = step.verification.accepted, []
    for place, text in enumerate(_labels(trace, step.path)):
        if place < at:
            tiles.append(Tile(text, "accepted", "✓"))
        elif place == at:
            tiles.append(Tile(text, "refused", "✗"))
        else:
            tiles.append(Tile(text, "faint"))
    return tuple(tiles)


def _q(step: Step, column: int, rank: int) -> str:
    return f"{np.exp(float(step.lattice.logq[column, rank])):.2f}"


def _corrected(step: Step, least: int = 2) -> bool:
    """A draft of which some tokens, not all, were accepted, and then the target's own was added."""
    check = step.verification
    return check.kind == "correction" and least <= check.accepted < len(step.path) - 1


# ------------------------------------------------------------------------------------------------ lessons


def one_token(gallery: Gallery) -> Picture:
    trace, step = _steps(gallery, lambda trace, step: len(step.emitted) == 3 and step.accepted >= 2)
    emitted = _labels(trace, step.emitted)
    weights = Tile("weights", "weights")
    plain = tuple(tile for text in emitted for tile in (weights, Tile(text, "own")))
    checked = tuple(Tile(text, "accepted" if i < step.accepted else "own") for i, text in enumerate(emitted))
    n = len(emitted)
    return Picture(
        (
            Row("plain decoding", plain, f"{n} passes, each reads all weights"),
            Row("with a draft", (weights, *checked), "one pass reads the draft"),
        ),
        f"The same {n} tokens of a recorded answer. Plain decoding reads all weights once a token; a check reads them "
        "once for the whole draft.",
    )


def masks(gallery: Gallery) -> Picture:
    recorded = orjson.loads(PASSES.read_bytes())
    before = tuple(Tile(text) for text in recorded["before"])

    def rows(blocks: list[list[str | None]], names: Sequence[str]) -> list[Row]:
        made, known = [], blocks[0]
        for name, block in zip(names, blocks[1:], strict=True):
            tiles = [
                Tile(MASK, "mask") if new is None else Tile(new, "draft" if old is None else "text")
                for old, new in zip(known, block, strict=True)
            ]
            made.append(Row(name, (*before, *tiles)))
            known = block
        return made

    several = recorded["several"]
    start = Row("masks", (*before, *(Tile(MASK, "mask") for _ in several[0])))
    count = len(several) - 1
    return Picture(
        (
            start,
            *rows(recorded["one"], ["in one pass"]),
            *rows(several, [f"pass {i + 1} of {count}" for i in range(count)]),
        ),
        "The drafter of this playground at one place of a recorded answer. In one pass each mask gets its likeliest "
        "token without knowing its neighbour; in several, the surest masks are filled first and seen by the next pass.",
    )


def phases(gallery: Gallery) -> Picture:
    trace, step = _steps(gallery, lambda trace, step: _corrected(step) and 4 <= len(step.path) <= 6, "one_step")
    before, n = _before(trace, step, 1), len(step.path)
    ranks = [tuple(Tile(text, "draft") for text in _labels(trace, step.lattice.ids[:n, rank])) for rank in range(3)]
    emitted = _labels(trace, step.emitted)
    own = step.accepted
    committed = tuple(Tile(text, "accepted" if i < own else "own") for i, text in enumerate(emitted))
    pad = tuple(Tile("", "none") for _ in before)
    return Picture(
        (
            Row("1 mask", (*before, *(Tile(MASK, "mask") for _ in range(n)))),
            Row("2 lattice", (*pad, *ranks[0])),
            *(Row("", (*pad, *tiles)) for tiles in ranks[1:]),
            Row("3 search", (*pad, *(Tile(text, "path") for text in _labels(trace, step.path)))),
            Row("4 verify", (*pad, *_verified(trace, step))),
            Row("5 commit", (*before, *committed)),
        ),
        f"A recorded step with k = {n}, phase by phase; of the lattice its first three ranks.",
    )


def lattice(gallery: Gallery) -> Picture:
    def fits(trace: Trace, step: Step) -> bool:
        counts = step.lattice.kept.sum(1)
        return len(step.path) >= 4 and counts.min() <= 2 and 3 <= counts.max() <= 5

    trace, step = _steps(gallery, fits, "pruning")
    n, kept = len(step.path), step.lattice.kept
    rows = tuple(
        Row(
            f"rank {rank + 1}",
            tuple(
                Tile(text, "draft" if kept[column, rank] else "faint", _q(step, column, rank))
                for column, text in enumerate(_labels(trace, step.lattice.ids[:n, rank]))
            ),
        )
        for rank in range(6)
    )
    return Picture(
        rows, "A recorded lattice: a column for each masked place, with q above each token. Pruned ones are struck out."
    )


def path(gallery: Gallery) -> Picture:
    def fits(trace: Trace, step: Step) -> bool:
        plain = argmax_path(step.lattice, trace.stop_ids).ids.tolist()
        return (
            step.search.method == "cps"
            and 4 <= len(step.path) <= 6
            and step.search.ranks.max() in (1, 2, 3)
            and plain != step.path
        )

    trace, step = _steps(gallery, fits, "path_search")
    n, ranks = len(step.path), step.search.ranks.tolist()
    deepest = max(ranks)
    rows = [
        Row(
            f"rank {rank + 1}" + (" = argmax" if not rank else ""),
            tuple(
                Tile(
                    text,
                    "path" if ranks[column] == rank else "draft" if step.lattice.kept[column, rank] else "faint",
                    _q(step, column, rank),
                )
                for column, text in enumerate(_labels(trace, step.lattice.ids[:n, rank]))
            ),
        )
        for rank in range(deepest + 1)
    ]
    rows.append(Row("CPS path", tuple(Tile(text, "path") for text in _labels(trace, step.path))))
    return Picture(
        tuple(rows),
        "A recorded lattice. The first row is each column’s favourite; the framed cells are the path that CPS chose.",
    )


def blame(gallery: Gallery) -> Picture:
    words = {"drafter": "drafter miss", "pruned": "pruning miss", "search": "search miss"}
    rows = []
    for kind, name in words.items():
        trace, step = _steps(gallery, lambda trace, step, kind=kind: miss(step) == kind and step.accepted > 0)
        at = step.verification.accepted
        wanted = int(step.verification.draws[at])
        rank = step.lattice.rank_of(at, wanted)
        where = "not among the candidates" if rank is None else f"rank {rank + 1}, q = {_q(step, at, rank)}, "
        where += "" if rank is None else "kept" if step.lattice.kept[at, rank] else "pruned"
        drafted, right = _labels(trace, [step.path[at], wanted])
        rows.append(
            Row(
                name,
                (
                    *_before(trace, step, 1),
                    *(Tile(t, "accepted") for t in _labels(trace, step.path[:at][-2:])),
                    Tile(drafted, "refused", "✗"),
                    Tile(right, "own", "↺"),
                ),
                where,
            )
        )
    return Picture(
        tuple(rows),
        "Three recorded refusals: what was drafted, what the target wanted, and where that was in the lattice.",
    )


def same_text(gallery: Gallery) -> Picture:
    trace, step = _steps(
        gallery,
        lambda trace, step: step.accepted >= 3 and len(step.emitted) == step.accepted + 1 and len(step.path) <= 6,
    )
    text = trace.token_ids[step.start : step.start + len(step.emitted)]
    # A poor draft of the same place: the likeliest candidates that the target did not write.
    poor = [
        next(int(t) for t in column if int(t) != right) for column, right in zip(step.lattice.ids, text, strict=False)
    ]
    labels = functools.partial(_labels, trace)
    n = len(text)
    good = tuple(
        Tile(t, "accepted" if i < step.accepted else "refused", "✓" if i < step.accepted else "✗")
        for i, t in enumerate(labels(step.path[:n]))
    )
    bad = tuple(Tile(t, "refused" if not i else "faint", "" if i else "✗") for i, t in enumerate(labels(poor)))
    return Picture(
        (
            Row("a good draft", good, f"adds {n} tokens"),
            Row("a poor draft", bad, "adds 1 token"),
            Row("the text", tuple(Tile(t, "own") for t in labels(text)), "either way"),
        ),
        "The same place of a recorded answer with two drafts. What is refused is replaced by the target’s own token: "
        "the poor draft only takes more steps.",
    )


def conventions(gallery: Gallery) -> Picture:
    trace, first = _steps(gallery, lambda trace, step: _corrected(step) and step.index + 2 < len(trace.steps))
    rows = []
    for step in trace.steps[first.index : first.index + 3]:
        emitted = _labels(trace, step.emitted)
        tiles = tuple(Tile(t, "accepted" if i < step.accepted else "own") for i, t in enumerate(emitted))
        rows.append(Row(f"step {step.index + 1}", tiles, f"{step.accepted} accepted, {len(emitted)} in all"))
    return Picture(
        tuple(rows),
        "Three recorded steps. Blue came from the drafter, orange is the target’s own token: one mean counts blue, the "
        "other all.",
    )


def costs(gallery: Gallery) -> Picture:
    facts = solve(gallery, "break_even").facts
    draft, check, rest, plain = (float(facts[name]) for name in ("draft_ms", "verify_ms", "rest_ms", "ar_ms"))
    total = draft + check + rest
    parts = (
        Tile("draft", "draft", f"{draft:g} ms", draft),
        Tile("verify", "accepted", f"{check:g} ms", check),
        Tile("", "faint", "", rest),
    )
    one = (Tile("1 pass", "own", f"{plain:g} ms", plain), Tile("", "none", "", max(total - plain, 0)))
    return Picture(
        (Row("one step", parts), Row("one plain token", one)),
        "Drawn to scale, means of a recorded run; the small block is search, commit and recording.",
    )


def ends_early(gallery: Gallery) -> Picture:
    def fits(trace: Trace, step: Step) -> bool:
        raw = step.lattice.ids[:, 0] if step.draft_length else step.search.ids
        cut = 1 <= generated_length(raw, trace.stop_ids) < step.draft_length
        length = generated_length(raw, trace.stop_ids)
        return cut and 0 < step.accepted <= length and step.draft_length <= 9

    trace, step = _steps(gallery, fits, "next_length")
    raw = step.lattice.ids[:, 0]
    length = generated_length(raw, trace.stop_ids)
    tiles = tuple(
        Tile(text, "draft" if i < length else "faint", "" if i < length else "end")
        for i, text in enumerate(_labels(trace, raw))
    )
    return Picture(
        (
            Row("raw draft", tiles, f"L_gen = {length}"),
            Row("verified", _verified(trace, step), f"L_acc = {step.accepted}"),
        ),
        f"A recorded step with k = {step.draft_length}: the drafter believes that the answer ends, and fills the rest "
        "with end-of-text tokens.",
    )


def feedback(gallery: Gallery) -> Picture:
    paper = Settings.paper()
    policy = AdaptiveDraftLength(paper.k_min, paper.k_max, paper.delta, paper.rho)
    rows = []
    for place in range(3):
        k = policy.k
        made = policy.update(k, k - 1)
        tiles = (
            Tile(f"k = {k}", "draft"),
            Tile(f"EMA_gen = {made.ema_gen:g}"),
            Tile(f"wish = {made.wanted:g}", "own"),
            Tile(f"next k = {made.next_k}", "path"),
        )
        why = f"EMA_acc = {made.ema_acc:g} is below EMA_gen: no δ; clipped to {paper.k_min} … {paper.k_max}"
        rows.append(Row(f"step {place + 1}", tiles, why))
    return Picture(
        tuple(rows), "The project’s own ADL at the paper’s settings, where every draft but its last token is accepted."
    )


def ratios(gallery: Gallery) -> Picture:
    facts = solve(gallery, "biased_rule").facts
    p, q = (np.array([float(x) for x in facts[name].strip("()").split(",")]) for name in "pq")
    token = int(facts["word"]) - 1
    rows = []
    for i in range(len(p)):
        chance = accept_probability(p, q, i)
        bars = (
            Tile("", "accepted", f"p {p[i]:.2g}", float(p[i])),
            Tile("", "draft", f"q {q[i]:.2g}", float(q[i])),
            Tile("", "none", "", float(2 - p[i] - q[i])),
        )
        rows.append(
            Row(f"word {i + 1}" + (" · on the path" if i == token else ""), bars, f"min(1, p/q) = {chance:.2g}")
        )
    return Picture(
        tuple(rows),
        "Target and drafter, drawn to scale. The search puts the same word on the path every time, whatever its q.",
    )


def branches(gallery: Gallery) -> Picture:
    def fits(trace: Trace, step: Step) -> bool:
        return len(step.path) >= 4 and step.lattice.kept.sum(1)[:2].min() >= 2 and trace.pair.name == "embedded"

    trace, step = _steps(gallery, fits)
    proxy = proxy_of(trace)
    proxy.extend(trace.token_ids[: step.start])
    context = [*trace.prompt_ids, *trace.token_ids[: step.start]]
    made, _ = best_first_tree(step.lattice, proxy, context, nodes=9, lam=trace.settings.lam, stop_ids=trace.stop_ids)
    parents = made.parent.tolist()
    ways = []
    for leaf in sorted(set(range(len(made))) - set(parents)):
        way = [leaf]
        while (above := parents[way[0]]) >= 0:
            way.insert(0, above)
        ways.append(way)
    rows, seen = [], set()
    for way in sorted(ways):
        tiles = tuple(
            Tile(text, "none" if node in seen else "path")
            for node, text in zip(way, _labels(trace, made.ids[way]), strict=True)
        )
        rows.append(
            Row("" if rows else "the tree", (*(_before(trace, step, 1) if not rows else (Tile("", "none"),)), *tiles))
        )
        seen |= set(way)
    return Picture(
        tuple(rows),
        f"{len(made)} nodes over a recorded lattice: {len(ways)} paths that share their beginnings, read in one pass.",
    )


PICTURES: dict[str, Callable[[Gallery], Picture]] = {
    "one-token-at-a-time": one_token,
    "from-masks-to-text": masks,
    "one-step": phases,
    "lattice-and-pruning": lattice,
    "path-search": path,
    "who-missed": blame,
    "lossless": same_text,
    "two-conventions": conventions,
    "break-even": costs,
    "adaptive-length": ends_early,
    "adl-at-the-papers-settings": feedback,
    "biased-rule": ratios,
    "trees": branches,
}
