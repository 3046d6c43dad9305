"""What lesson 2 shows, masks filled in one pass of the drafter and in several: `python -m scripts.record_passes`.

Of the recorded answers it takes the place where one pass puts the same token in two neighbouring places, several passes
do not, and most of what they put is what the target wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import orjson

from diffuspec import load_pair
from diffuspec.models.drafter import MASKED
from diffuspec.trace.gallery import gallery
from diffuspec.trace.model import Trace
from diffuspec.ui.player.text import token_label

K, PASSES, BEFORE = 6, 3, 1
FILE = Path(__file__).resolve().parents[1] / "diffuspec" / "ui" / "learn" / "lessons" / "passes.json"


def fills(pair, prefix, cache, passes: int) -> list[list[int]]:
    """The block before each pass and after the last, `MASKED` where it is not filled yet."""
    seen = []
    drafter, ranked = pair.drafter, pair.drafter.ranked
    drafter.ranked = lambda prefix, block, *rest: (seen.append(list(block)), ranked(prefix, block, *rest))[1]
    try:
        ids, _ = drafter.draft(prefix, K, width=15, passes=passes, cache=cache)
    finally:
        del drafter.ranked
    return [*seen, ids[:, 0].tolist()]


def examples(pair, trace: Trace) -> Iterator[tuple[int, dict]]:
    """(tokens that came out right, what is shown), for each place where several passes mend what one did."""
    cache = pair.target.new_cache()
    first = len(trace.prompt_ids)
    text = [*trace.prompt_ids, *trace.token_ids]
    pair.target.prefill(cache, text[: first - 1])
    spelling = SimpleNamespace(piece=pair.piece, special=pair.special_ids, stop_ids=pair.stop_ids)
    label = lambda ids: [None if token == MASKED else token_label(spelling, token) for token in ids]  # noqa: E731
    for at in range(first, len(text) - K):
        if at > first:
            pair.target.forward(cache, [text[at - 2]])
        one, several = (fills(pair, text[:at], cache, passes) for passes in (1, PASSES))
        if doubled(one[-1]) and not doubled(several[-1]):
            right = sum(a == b for a, b in zip(several[-1], text[at:], strict=False))
            before = label(text[max(first, at - BEFORE) : at])
            yield right, {"before": before, "one": [*map(label, one)], "several": [*map(label, several)]}


def doubled(ids: list[int]) -> bool:
    return any(a == b for a, b in pairwise(ids))


def main() -> None:
    pair = load_pair("embedded")
    found = [
        made for entry in gallery() if entry.group == "tasks" for made in examples(pair, gallery().trace(entry.name))
    ]
    right, best = max(found, key=lambda item: item[0])
    FILE.write_bytes(orjson.dumps(best, option=orjson.OPT_INDENT_2))
    print(f"{len(found)} places, {right} of {K} right: {best}")


if __name__ == "__main__":
    main()
