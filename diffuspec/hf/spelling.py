"""The texts of tokens for traces that tell only ids."""

from __future__ import annotations

import dataclasses

from diffuspec.errors import TraceError
from diffuspec.models.pair import Pair
from diffuspec.trace.model import Trace
from diffuspec.trace.origin import UNKNOWN


def spelled(trace: Trace, tokenizer) -> Trace:
    """The trace with the texts that a tokenizer of transformers gives its tokens.

    Raises `TraceError` for a tokenizer that has not all of the prompt's: it is another model's. Of an answer's, a model
    may have more than its tokenizer.
    """
    pair = Pair(trace.pair, tokenizer, None, None, None, frozenset(trace.stop_ids))
    seen = {*trace.prompt_ids, *trace.token_ids}
    for step in trace.steps:
        seen.update(step.path, step.lattice.ids.ravel().tolist(), step.verification.top_ids.ravel().tolist())
    seen -= {UNKNOWN}
    if max(trace.prompt_ids, default=0) >= len(tokenizer):
        raise TraceError(
            f"The prompt of this trace has the token {max(trace.prompt_ids)}, and the tokenizer "
            f"{tokenizer.name_or_path} only {len(tokenizer)}: give the one of its model."
        )
    pieces = {token: pair.piece(token).decode("latin-1") for token in sorted(seen)}
    special = pair.special_ids & pieces.keys()
    answer = [token for token in trace.token_ids if token not in special]
    known = answer and UNKNOWN not in answer
    return dataclasses.replace(
        trace, pieces=pieces, special=tuple(sorted(special)), text=tokenizer.decode(answer) if known else trace.text
    )
