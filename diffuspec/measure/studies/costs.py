"""What a pass costs: the draft of k tokens and the target's pass over n, on this machine, in turn.

From these two curves and the acceptance follows where speculation pays: a step that drafts k tokens
costs draft(k) + verify(k + 1), and must give more tokens than it costs plain passes.
"""

from __future__ import annotations

import statistics
import time

from diffuspec.measure.studies.study import Column, Study

CONTEXT, ROUNDS = 256, 9
_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_COLUMNS = (
    Column("part", "pass"),
    Column("tokens", "tokens", digits=0),
    Column("ms", "median", "ms"),
    Column("least_ms", "least", "ms"),
    Column("plain_passes", "in plain passes"),
)


def _probe(pair, settings, should_stop):
    target, drafter = pair.target, pair.drafter
    context = min(CONTEXT, pair.info.context - max(_LENGTHS) - 1)
    text = (pair.encode("The five boxing wizards jump quickly over the lazy dog. ") * context)[:context]
    cache = target.new_cache(drafter.hidden_entries)
    target.prefill(cache, text[:-1])

    def verify(n):
        target.forward(cache, text[:n])
        target.rollback(cache, n)

    def draft(k):
        drafter.draft(text, k, width=settings.m_max, passes=settings.passes, cache=cache)

    kinds = [("verify", n, lambda n=n: verify(n)) for n in (*_LENGTHS, max(_LENGTHS) + 1)]
    kinds += [("draft", k, lambda k=k: draft(k)) for k in _LENGTHS if k <= drafter.max_block]
    times: dict[tuple[str, int], list[float]] = {(part, n): [] for part, n, _ in kinds}
    for done in range(ROUNDS):
        yield done, ROUNDS, f"round {done + 1}", _rows(times)
        for part, n, call in kinds:
            if should_stop():
                return
            call()  # the first call of a size may set things up
            started = time.perf_counter()
            call()
            times[part, n].append((time.perf_counter() - started) * 1e3)
    yield ROUNDS, ROUNDS, "", _rows(times)


def _rows(times):
    if not times["verify", 1]:
        return []
    plain = statistics.median(times["verify", 1])
    return [
        {
            "part": part,
            "tokens": n,
            "ms": statistics.median(ms),
            "least_ms": min(ms),
            "plain_passes": statistics.median(ms) / plain,
        }
        for (part, n), ms in times.items()
    ]


def _remark(rows):
    ms = {(row["part"], row["tokens"]): row["ms"] for row in rows}
    plain, said = ms["verify", 1], []
    for k in (4, 8, 16):
        if ("draft", k) in ms:
            after = next(n for n in sorted(n for part, n in ms if part == "verify") if n > k)
            cost = (ms["draft", k] + ms["verify", after]) / plain
            said.append(f"at k = {k} a step costs {cost:.2f} plain passes")
    return (
        f"A plain pass over one token takes {plain:.1f} ms with {CONTEXT} tokens in the cache; {', '.join(said)}, "
        "and pays where it gives more tokens than that, its own included."
    )


COSTS = Study(
    "costs",
    "What a pass costs",
    "",
    "How do the draft and the target's pass grow with the tokens they handle?",
    _COLUMNS,
    _remark,
    probe=_probe,
)
