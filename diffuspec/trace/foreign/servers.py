"""What servers say of their own speculation in their responses, as saved from `curl` or a client.

vLLM       metrics.speculative_decoding, of `--per-request-spec-decode-metrics summary` or `detailed` (0.32.0)
SGLang     meta_info.spec_* of /generate; sglext.spec_tokens_details of its OpenAI endpoints (0.5.23)
llama.cpp  timings.draft_n and draft_n_accepted; token by token with "timings_per_token": true
LM Studio  stats.total_draft_tokens_count and its like

A file holds one response, a list of them, JSON Lines, or a stream of "data: ..." lines.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from diffuspec import codec
from diffuspec.errors import TraceError
from diffuspec.trace.foreign.build import MAX_DRAFT, MAX_TOKENS, Answer
from diffuspec.trace.model import MAX_STEPS, Trace
from diffuspec.trace.origin import UNKNOWN, Origin, Totals
from diffuspec.trace.steps import Timing

Body = Mapping[str, Any]
FIRST = "The first token came with the prompt’s own pass and stands as a step without a draft."
LAST = "The answer ended within the last step’s accepted tokens."


def read(body: Any, kind: Any, name: str, default: Any = None) -> Any:
    """A field of a response as the type `kind`, `default` where it is missing or null; `ValueError` where it is of
    another type, or too large to be true."""
    value = body.get(name) if isinstance(body, dict) else None
    return default if value is None else codec.decode(kind, value, name)


def count(body: Any, name: str) -> int | None:
    value = read(body, int, name)
    if value is not None and not 0 <= value <= MAX_TOKENS:
        raise ValueError(f"{name} is not a sensible number of tokens")
    return value


def ms(body: Any, name: str) -> float:
    value = read(body, float, name, 0.0)
    if not 0 <= value <= 1e9:
        raise ValueError(f"{name} is not a time")
    return value


def tokens(body: Any, name: str) -> list[int]:
    found = read(body, tuple[int, ...], name, ())
    if len(found) > MAX_TOKENS or any(not 0 <= token < 2**31 for token in found):
        raise ValueError(f"{name} holds something other than token ids")
    return list(found)


def text_of(parts: Sequence[Body]) -> str:
    """What a response, or the parts of a stream, say."""
    said = []
    for part in parts:
        choice = next(iter(read(part, tuple[dict, ...], "choices", ())), {})
        message = read(choice, dict, "message") or read(choice, dict, "delta") or {}
        said.append(read(choice, str, "text") or read(message, str, "content") or "")
    return "".join(said)


def ended(reason: str | None) -> str:
    return {"stop": "stop token", "eos": "stop token", "length": "max tokens", "limit": "max tokens"}.get(
        reason or "", ""
    )


def emit(
    answer: Answer, drafted: Sequence[int], accepted: Sequence[int], known: Sequence[int], total: int | None
) -> str:
    """Fill in steps of which only lengths are told, behind the token of the prompt's pass; gives how they were read.

    known: the answer's tokens, or none; total: how many there are, None where that is not told.
    """
    for n, most in ((max(drafted, default=0), MAX_DRAFT), (len(drafted), MAX_STEPS)):
        if n > most:
            raise ValueError(f"{n} is more than any draft has")
    written = 1 + sum(accepted) + len(accepted)
    total = written if total is None else total
    last = accepted[-1] if accepted else 0
    if not written - last <= total <= written:
        more = total - written
        known, total = (), written
        note = (
            f"The answer has {more} tokens more than these steps make: they came in passes without a draft, whose "
            "place is not told, so no token can be said to be a step’s."
            if more > 0
            else f"The answer has {-more} tokens fewer than these steps make: which were left out is not told."
        )
    else:
        note = LAST if total < written else ""
    rest = iter(known if len(known) == total else itertools.repeat(UNKNOWN, total))
    take: Callable[[int], list[int]] = lambda n: list(itertools.islice(rest, n))  # noqa: E731
    answer.add((), 0, take(1))
    for drafted_n, accepted_n in zip(drafted, accepted, strict=True):
        if not 0 <= accepted_n <= drafted_n:
            raise ValueError(f"a step accepts {accepted_n} of {drafted_n} tokens")
        emitted = take(accepted_n + 1)
        if emitted:
            draft = emitted[:accepted_n] + [UNKNOWN] * (drafted_n - min(accepted_n, len(emitted)))
            answer.add(draft, accepted_n, emitted)
    return " ".join(filter(None, [FIRST, note]))


# ------------------------------------------------------------------------------------------------ vLLM


def is_vllm(body: Body) -> bool:
    return isinstance(body.get("metrics"), dict) and isinstance(body["metrics"].get("speculative_decoding"), dict)


def vllm(parts: Sequence[Body]) -> Trace:
    """parts: a response, or the parts of a stream, whose last tells."""
    body = next(part for part in parts if is_vllm(part))
    metrics, spec = body["metrics"], body["metrics"]["speculative_decoding"]
    choices = [next(iter(read(part, tuple[dict, ...], "choices", ())), {}) for part in parts]
    known = [token for choice in choices for token in tokens(choice, "token_ids")]
    prompt = next(filter(None, (tokens(x, "prompt_token_ids") for x in (*parts, *choices))), [])
    total = next(filter(None, (count(part.get("usage"), "completion_tokens") for part in parts)), None) or len(known)
    answer, steps = Answer(prompt), count(spec, "num_spec_steps") or 0
    drafted, accepted = (
        read(spec, tuple[int, ...], "per_step_drafted", ()),
        read(spec, tuple[int, ...], "per_step_accepted", ()),
    )
    histogram = read(spec, tuple[int, ...], "acceptance_histogram", ())
    totals = Totals(
        total or steps + (count(spec, "num_accepted_draft_tokens") or 0),
        steps,
        count(spec, "num_draft_tokens") or 0,
        count(spec, "num_accepted_draft_tokens") or 0,
        histogram,
    )
    told = bool(accepted)
    reading = (
        emit(answer, drafted, accepted, known, total or None)
        if told
        else ("Start vLLM with --per-request-spec-decode-metrics detailed for single steps.")
    )
    if told and answer.start == total:
        totals = None
    origin = Origin("vLLM", "lengths" if told else "totals", reading=reading, totals=totals)
    first = ms(metrics, "time_to_first_token_ms")
    return answer.trace(
        origin,
        model=read(body, str, "model", ""),
        text=text_of(parts),
        stop_reason=ended(next(filter(None, (read(c, str, "finish_reason") for c in choices)), None)),
        prefill_ms=first,
        wall_s=(first + ms(metrics, "generation_time_ms")) / 1e3,
    )


# ---------------------------------------------------------------------------------------------- SGLang


def is_sglang(body: Body) -> bool:
    return "spec_verify_ct" in _sglang_details(body)


def _sglang_details(body: Body) -> dict:
    if isinstance(body.get("meta_info"), dict):
        return body["meta_info"]
    details = (body.get("sglext") or {}).get("spec_tokens_details") if isinstance(body.get("sglext"), dict) else None
    details = next(iter(details), None) if isinstance(details, list) else details
    return details if isinstance(details, dict) else {}


def sglang(parts: Sequence[Body]) -> Trace:
    """Each part of a stream of /generate repeats what came before: the last tells all."""
    body = [part for part in parts if is_sglang(part)][-1]
    details = _sglang_details(body)
    known, steps = tokens(body, "output_ids"), count(details, "spec_verify_ct") or 0
    accepted = count(details, "spec_num_correct_drafts") or 0
    total = count(details, "completion_tokens") or count(body.get("usage"), "completion_tokens") or len(known)
    totals = Totals(
        total or accepted + steps,
        steps,
        count(details, "spec_num_proposed_drafts") or 0,
        accepted,
        read(details, tuple[int, ...], "spec_correct_drafts_histogram", ()),
    )
    reason = details.get("finish_reason")
    latency = read(details, float, "e2e_latency", 0.0)
    if not 0 <= latency <= 1e6:
        raise ValueError("e2e_latency is not a time")
    return Answer().trace(
        Origin("SGLang", "totals", totals=totals),
        model=read(body, str, "model", ""),
        text=read(body, str, "text", "") or text_of(parts),
        stop_reason=ended(read(reason, str, "type")) if isinstance(reason, dict) else "",
        wall_s=latency,
    )


# ------------------------------------------------------------------------------------------- llama.cpp


def is_llama(body: Body) -> bool:
    return isinstance(body.get("timings"), dict) and "predicted_n" in body["timings"]


def llama(parts: Sequence[Body]) -> Trace:
    """Of a stream with timings_per_token, tokens that came at one time are one step; else only the sums are told."""
    parts = [part for part in parts if is_llama(part)]
    end = parts[-1]
    timings = end["timings"]
    pieces, said = _llama_pieces(parts)
    settings = read(end, dict, "generation_settings", {})
    common = dict(
        model=read(end, str, "model", "").rpartition("/")[2],
        drafter=read(settings, str, "speculative.types", ""),
        prompt=read(end, str, "prompt"),
        text=said or text_of(parts),
        stop_reason=ended(read(end, str, "stop_type")),
        prefill_ms=ms(timings, "prompt_ms"),
        wall_s=(ms(timings, "prompt_ms") + ms(timings, "predicted_ms")) / 1e3,
        temperature=read(settings, float, "temperature"),
        pieces=pieces,
    )
    if len(parts) == 1 or not any("draft_n" in part["timings"] for part in parts):
        if "draft_n" not in timings:
            raise TraceError("This answer of llama.cpp was made without speculation: there is no draft to show.")
        accepted, total = count(timings, "draft_n_accepted") or 0, count(timings, "predicted_n") or 0
        # A pass writes what was accepted and one token: passes are what is left.
        totals = Totals(total, total - accepted, count(timings, "draft_n") or 0, accepted)
        reading = 'Ask with "stream": true and "timings_per_token": true for single steps.'
        return Answer().trace(Origin("llama.cpp", "totals", reading=reading, totals=totals), **common)
    answer, before, reading = Answer(), (0, 0, 0.0), [FIRST]
    for _, group in itertools.groupby(parts, key=lambda part: ms(part["timings"], "predicted_ms")):
        group = list(group)
        at = group[-1]["timings"]
        emitted = [token for part in group for token in (tokens(part, "tokens") or _unnamed(part))]
        drafted, accepted = count(at, "draft_n") or 0, count(at, "draft_n_accepted") or 0
        n, kept, took = drafted - before[0], accepted - before[1], ms(at, "predicted_ms") - before[2]
        if n > MAX_DRAFT:
            raise ValueError(f"{n} is more than any draft has")
        if min(n, kept, took) < 0 or kept > n:
            raise ValueError("its counts of drafted tokens fall")
        before = (drafted, accepted, before[2] + took)
        if not emitted:
            continue
        if len(emitted) <= kept:
            reading.append(LAST)
        elif len(emitted) > kept + 1:
            raise ValueError("a step writes more tokens than it accepts, and one")
        draft = [*emitted[:kept], *[UNKNOWN] * (n - len(emitted[:kept]))]
        answer.add(draft, kept, emitted, Timing(0.0, 0.0, took, 0.0, 0.0))
    return answer.trace(Origin("llama.cpp", "lengths", times="steps", reading=" ".join(reading)), **common)


def _unnamed(part: Body) -> list[int]:
    """A token without an id: its OpenAI endpoint, and /completion without return_tokens, give text alone."""
    return [UNKNOWN] if (read(part, str, "content") or text_of([part])) else []


def _llama_pieces(parts: Iterable[Body]) -> tuple[dict[int, str], str]:
    """(token id -> its bytes, the whole text). A token that ended in the middle of a character came with an empty text,
    and the next one with more than its own: neither is believed."""
    pieces: dict[int, str | None] = {}
    said, whole = [], True
    for part in parts:
        text, ids = read(part, str, "content", ""), tokens(part, "tokens")
        said.append(text)
        if len(ids) == 1:
            own = text.encode().decode("latin-1") if text and whole and "\ufffd" not in text else None
            pieces[ids[0]] = own if pieces.get(ids[0], own) == own else None
            whole = bool(text)
    return {token: piece for token, piece in pieces.items() if piece}, "".join(said)


# ------------------------------------------------------------------------------------------- LM Studio


def is_lm_studio(body: Body) -> bool:
    return isinstance(body.get("stats"), dict) and _studio(body["stats"], "total") is not None


def _studio(stats: Body, which: str) -> int | None:
    """Spelt in two ways, by its REST interface and by its SDK."""
    camel = {"total": "totalDraftTokensCount", "accepted": "acceptedDraftTokensCount"}[which]
    found = count(stats, f"{which}_draft_tokens_count")
    return count(stats, camel) if found is None else found


def lm_studio(parts: Sequence[Body]) -> Trace:
    body = [part for part in parts if is_lm_studio(part)][-1]
    stats, accepted = body["stats"], _studio(body["stats"], "accepted") or 0
    total = count(body.get("usage"), "completion_tokens") or count(stats, "predictedTokensCount") or 0
    steps = total - accepted if total > accepted else None
    origin = Origin("LM Studio", "totals", totals=Totals(total, steps, _studio(stats, "total") or 0, accepted))
    model = read(body, str, "model", "")
    return Answer().trace(origin, model=model, drafter=read(stats, str, "draft_model", ""), text=text_of(parts))


READERS: tuple[tuple[Callable[[Body], bool], Callable[[Sequence[Body]], Trace]], ...] = (
    (is_vllm, vllm),
    (is_sglang, sglang),
    (is_llama, llama),
    (is_lm_studio, lm_studio),
)


def runs(bodies: Sequence[Body]) -> list[list[Body]]:
    """Responses, and the parts of streams, by the answer they belong to: parts have one id, or end with "stop"."""
    found: list[list[Body]] = []
    ids: dict[str, list[Body]] = {}
    stream: list[Body] | None = None
    for body in bodies:
        name = (
            body.get("id") or (body.get("meta_info") or {}).get("id")
            if isinstance(body.get("meta_info") or {}, dict)
            else None
        )
        if isinstance(name, str):
            if name not in ids:
                ids[name] = []
                found.append(ids[name])
            ids[name].append(body)
            continue
        if stream is None:
            stream = []
            found.append(stream)
        stream.append(body)
        if body.get("stop") is not False:  # of llama.cpp's streams alone, all parts but the last say false
            stream = None
    return found


def read_runs(bodies: Sequence[Body]) -> list[Callable[[], Trace]]:
    """One for each answer that tells of speculation, in order."""
    made = []
    for parts in runs(bodies):
        for told, reader in READERS:
            if any(told(part) for part in parts):
                made.append(lambda parts=parts, reader=reader: reader(parts))
                break
    return made
