"""transformers' own assisted generation, written down as it happens.

    with record_assisted(model, tokenizer) as recorded:
        model.generate(**inputs, assistant_model=assistant)      # or prompt_lookup_num_tokens=5
    recorded.trace.save("assisted.jsonl.gz")

The candidates of each round are kept with the assistant's and the model's likeliest tokens. An accepted token is one of
the drafted ones that was written: `generate` itself counts an end of text among its own tokens, also where it was
drafted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import transformers

from diffuspec.errors import TraceError
from diffuspec.hf.generate import name_of
from diffuspec.hf.spelling import spelled
from diffuspec.models.ranking import RankedLogits
from diffuspec.provenance import PairInfo, provenance
from diffuspec.trace.foreign.build import Answer, Looked
from diffuspec.trace.model import Trace
from diffuspec.trace.origin import Origin
from diffuspec.trace.recorder import IMPOSSIBLE
from diffuspec.trace.steps import Timing

WIDTH = 15  # of the assistant's candidates, those that are kept


class AssistedRecording:
    """The runs that were recorded, as traces; `trace` is the newest."""

    def __init__(self):
        self.traces: list[Trace] = []

    @property
    def trace(self) -> Trace:
        """Raises `TraceError` where nothing was recorded."""
        if not self.traces:
            raise TraceError(
                "No assisted generation was recorded: give generate an assistant_model, or prompt_lookup_num_tokens."
            )
        return self.traces[-1]


@contextmanager
def record_assisted(model, tokenizer=None) -> Iterator[AssistedRecording]:
    """Record every assisted `model.generate` within; tokenizer: spells the tokens, which else have ids alone."""
    recording, make = AssistedRecording(), model._get_candidate_generator
    runs: list[_Recorded] = []
    outer = model.__dict__.get("_get_candidate_generator")

    def made(*args, **kwargs):
        generator = make(*args, **kwargs)
        runs.append(_Recorded(model, tokenizer, generator, kwargs))
        return generator

    model._get_candidate_generator = made
    try:
        yield recording
    finally:
        del model._get_candidate_generator
        if outer is not None:
            model._get_candidate_generator = outer
        recording.traces += [run.trace() for run in runs if run.answer.steps]


class _Recorded:
    """One call of generate: stands between it and its candidate generator."""

    def __init__(self, model, tokenizer, generator, asked: dict):
        self.model, self.tokenizer, self.config = model, tokenizer, asked["generation_config"]
        self.answer = Answer(asked["input_ids"][0].tolist())
        self.assistant = asked.get("assistant_model")
        self.kind = type(generator).__name__.removesuffix("CandidateGenerator")
        self.drafts, self.looks = generator.get_candidates, generator.update_candidate_strategy
        self.candidates = True
        generator.get_candidates, generator.update_candidate_strategy = self.draft, self.verified

    def draft(self, input_ids, *args, **kwargs):
        started = time.perf_counter()
        ids, logits = self.drafts(input_ids, *args, **kwargs)
        self.drafted, self.logits, self.before = ids[0, input_ids.shape[1] :].tolist(), logits, input_ids.shape[1]
        _wait(ids)
        self.verifying = time.perf_counter()
        self.draft_s = self.verifying - started
        return ids, logits

    def verified(self, input_ids, scores, num_matches, *args, **kwargs):
        emitted = input_ids[0, self.before :].tolist()
        verify_s = time.perf_counter() - self.verifying
        drafted, accepted = self.drafted, 0
        while accepted < min(len(drafted), len(emitted)) and drafted[accepted] == emitted[accepted]:
            accepted += 1
        timing = Timing(1e3 * self.draft_s, 0.0, 1e3 * verify_s, 0.0, 0.0)
        looked = self.probabilities(drafted, scores[0])
        self.answer.add(drafted, accepted, emitted, timing, looked)
        return self.looks(input_ids, scores, num_matches, *args, **kwargs)

    def probabilities(self, drafted: Sequence[int], scores: torch.Tensor) -> Looked:
        n, nothing = len(drafted), Looked.nothing(drafted)
        ids, logq, ranks = nothing.ids, nothing.logq, nothing.ranks
        if n and self.logits is not None:
            ids, logq, ranks = _candidates(self.logits[0, -n:].float().cpu(), drafted)
        elif n:
            self.candidates = False
        rows = RankedLogits(scores.detach().float().cpu().clamp_min(IMPOSSIBLE))
        top_ids, top, norm = rows.top(np.arange(n + 1))
        path_logp, path_rank, cell_logp = rows.along(np.arange(n), np.array(drafted, np.int32), ids)
        return Looked(
            ids=ids,
            logq=logq,
            ranks=ranks,
            path_logp=path_logp.clip(IMPOSSIBLE),
            path_rank=path_rank,
            top_ids=top_ids,
            top_logp=(top - norm[:, None]).clip(IMPOSSIBLE),
            cell_logp=cell_logp.clip(IMPOSSIBLE),
        )

    def trace(self) -> Trace:
        answer, config = self.answer, self.config
        ends = getattr(config, "_eos_token_tensor", None)
        ends = frozenset(() if ends is None else ends.flatten().tolist())
        drafter = "prompt lookup" if self.kind == "PromptLookup" else _name(self.assistant) or self.kind
        info = PairInfo(
            name="transformers",
            target=_name(self.model),
            drafter=drafter,
            drafter_kind="",
            dtype=str(self.model.dtype).removeprefix("torch."),
            device=str(self.model.device),
            context=0,
            max_draft=max(len(step.path) for step in answer.steps),
            ngram=0,
        )
        last = answer.steps[-1].emitted[-1]
        full = len(answer.prompt_ids) + answer.start >= config.max_length
        origin = Origin(
            f"transformers {transformers.__version__}",
            "tokens",
            times="stages",
            candidates=self.candidates,
            target=True,
            reading="Recorded while assisted generation ran."
            + ("" if self.candidates else " Copies of the text have no other candidates."),
        )
        trace = answer.trace(
            origin,
            info=info,
            source=provenance(),
            stop_reason="stop token" if last in ends else "max tokens" if full else "stopping criterion",
            stop_ids=sorted(ends),
            wall_s=sum(step.timing.total_ms for step in answer.steps) / 1e3,
            temperature=config.temperature if config.do_sample else None,
        )
        return trace if self.tokenizer is None else spelled(trace, self.tokenizer)


def _candidates(logits: torch.Tensor, drafted: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids int32 and log q [n, W] of the likeliest, the drafted token among them, and its rank in each column."""
    logq = logits.log_softmax(-1)
    values, ids = logq.topk(min(WIDTH, logq.shape[1]))
    tokens = torch.tensor(drafted)
    hit = ids == tokens[:, None]
    absent = ~hit.any(1)  # drawn from further down: it takes the last place
    ids[absent, -1], values[absent, -1] = tokens[absent], logq[absent, tokens[absent]]
    ranks = (ids == tokens[:, None]).int().argmax(1)
    return ids.numpy().astype(np.int32), values.clamp_min(IMPOSSIBLE).numpy(), ranks.numpy().astype(np.int32)


def _name(model) -> str:
    return "" if model is None else name_of(model)


def _wait(tensor: torch.Tensor) -> None:
    """Until a GPU has done what it was told, so that its time is counted where it belongs."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
