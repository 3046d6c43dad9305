"""vLLM's server, and Ray Serve LLM, which speaks the same: verification in one request, or by fan-out.

A path is verified in one request that asks for the log-probabilities of its prompt and still reads the prefix cache
(`/inference/v1/generate` of vLLM 0.32, where it was started with `--enable-scale-out`). Rows of tokens that lay in that
cache come back missing or uninitialised, so each run has a part of the cache to itself (`cache_salt`), where no drafted
token has been before; rows are counted from the end and must name the drafted token; in doubt the server is asked again
to read nothing from its cache. A tree, and any sampled decoding, takes the fan-out of `/v1/completions`.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from diffuspec.errors import ServerError
from diffuspec.models.remote.server import TOLD, Asked, Conversation, Row, Server, Took
from diffuspec.models.remote.wire import Wire
from diffuspec.plaintext import brief
from diffuspec.settings import Settings


class Vllm(Server):
    kind, title = "vllm", "vLLM's server"

    def __init__(self, *options):
        super().__init__(*options)
        self._one_request: bool | None = None  # whether the server has such a call, once that was tried

    @classmethod
    def open(cls, wire: Wire, listed: dict) -> Vllm:
        source = str(listed.get("root") or listed["id"])
        return cls(wire, listed["id"], source, int(listed["max_model_len"]))

    def tokenize(self, text: str) -> list[int]:
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        with self.understood():
            return [int(token) for token in self.wire.post("/tokenize", body).body["tokens"]]

    def verify(self, talk: Conversation, ids: Sequence[int], parents: Sequence[int]) -> Asked:
        chain = list(parents) == list(range(-1, len(ids) - 1))
        if talk.settings.temperature or not chain or len(ids) == 1 or self._one_request is False:
            return self.fan_out(talk, ids, parents)
        text, drafted = [*talk.ids, *ids], list(ids[1:])
        requests = ms = 0
        for past_the_cache in (False, True):
            reply = self._scored(text, talk, past_the_cache)
            if reply.body is None:  # vllm serve without --enable-scale-out, an older release, a router in front of it
                self._one_request = False
                return self.fan_out(talk, ids, parents)
            self._one_request = True
            requests, ms = requests + reply.tries, ms + reply.ms
            # An answer that was lost on the way may have left all of the text in the cache.
            rows = None if reply.tries > 1 and not past_the_cache else self._rows(reply.body, drafted)
            if rows:
                return Asked(rows, Took(requests, requests, ms, None, _recomputed(reply.body)))
        raise ServerError(
            f"The server {self.wire.place} gave log-probabilities of fewer tokens than it was asked for: say "
            "--server ray, which asks for none of a prompt."
        )

    def _scored(self, text: list[int], talk: Conversation, past_the_cache: bool):
        sampling = {
            **_sampling(talk.settings),
            "max_tokens": 1,
            "logprobs": TOLD,
            "prompt_logprobs": TOLD,
            "detokenize": False,
            "skip_reading_prefix_cache": past_the_cache,
        }
        body = {"model": self.model, "token_ids": text, "sampling_params": sampling, "cache_salt": _salt(talk)}
        return self.wire.post("/inference/v1/generate", body, talk.should_stop, absent=(403, 404, 405))

    def _rows(self, body: Any, drafted: list[int]) -> list[Row] | None:
        """A row before each drafted token and one after the last; None where the server did not compute them all."""
        with self.understood():
            told = body["prompt_logprobs"][-len(drafted) :]
            choice = body["choices"][0]
            last = choice["logprobs"]["content"][0]["top_logprobs"]
            if len(told) < len(drafted):
                return None
            rows = [_told(entry, token) for entry, token in zip(told, drafted, strict=True)]
            if None in rows:
                return None
            # Before 0.32 a token was written as text there, "token_id:123".
            top = [
                (one["token_id"] if "token_id" in one else _id_of(one["token"]), float(one["logprob"])) for one in last
            ]
            return [*rows, _row(int(choice["token_ids"][0]), top)]

    def next_tokens(self, prompts: list[list[int]], talk: Conversation) -> Asked:
        told = {} if talk.settings.temperature else {"logprobs": TOLD}
        reply = self._complete(prompts, talk, **told)
        with self.understood():
            choices = sorted(reply.body["choices"], key=lambda choice: choice["index"])
            if len(choices) != len(prompts):
                raise ValueError(f"{len(choices)} answers to {len(prompts)} prompts")
            rows = []
            for choice in choices:
                top = (choice.get("logprobs") or {}).get("top_logprobs") or [{}]
                pairs = [(_id_of(name), float(logp)) for name, logp in top[0].items()]
                rows.append(_row(int(choice["token_ids"][0]), pairs))
            return Asked(rows, Took(reply.tries, len(prompts), reply.ms, None, _recomputed(reply.body)))

    def _complete(self, prompts: list[list[int]], talk: Conversation, **more):
        return self.wire.post("/v1/completions", self._body(prompts, talk, **more), talk.should_stop)

    def _body(self, prompt: list, talk: Conversation, **more) -> dict:
        return {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": 1,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "cache_salt": _salt(talk),
            **_sampling(talk.settings),
            **more,
        }

    def plain(self, prompt: list[int], budget: int, stop_ids: frozenset[int], talk: Conversation) -> Iterator[int]:
        body = self._body(prompt, talk, max_tokens=budget, stream=True, stop_token_ids=sorted(stop_ids))
        for line in self.wire.lines("/v1/completions", body, talk.should_stop):
            if not line.startswith(b"data: ") or line == b"data: [DONE]":
                continue
            with self.understood():
                event = orjson.loads(line[6:])
                if "error" in event:
                    raise ServerError(f"The server {self.wire.place} gave up: {brief(event['error'])}.")
                tokens = [int(t) for choice in event["choices"] for t in choice.get("token_ids") or ()]
            for token in tokens:
                yield token
                if token in stop_ids:
                    return


class RayServe(Vllm):
    """Ray Serve LLM: of vLLM's calls those of OpenAI's protocol alone."""

    kind, title = "ray", "Ray Serve LLM"

    @classmethod
    def open(cls, wire: Wire, listed: dict) -> RayServe:
        said = listed.get("metadata") or listed.get("rayllm_metadata") or {}
        context = listed.get("max_model_len") or said.get("max_model_len") or said.get("max_request_context_length")
        source = str(listed.get("root") or said.get("model_id") or listed["id"])
        made = cls(wire, listed["id"], source, int(context or 4096))
        made._one_request = False
        return made

    def tokenize(self, text: str) -> list[int]:
        body = {"model": self.model, "prompt": text, "add_special_tokens": False, "max_tokens": 1, "temperature": 0}
        with self.understood():
            reply = self.wire.post("/v1/completions", {**body, "return_token_ids": True}).body
            return [int(token) for token in reply["choices"][0]["prompt_token_ids"]]


def _sampling(settings: Settings) -> dict:
    """Every field that could change a draw: what is left out is taken from the model's own configuration. No seed is
    sent: one seed gives all prompts of a request the same draw."""
    greedy = not settings.temperature
    return {
        "temperature": settings.temperature,
        "top_p": 1.0 if greedy else settings.top_p,
        "top_k": 0 if greedy else settings.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "min_tokens": 0,
    }


def _salt(talk: Conversation) -> str:
    talk.salt = talk.salt or secrets.token_urlsafe(32)
    return talk.salt


def _id_of(name: str) -> int:
    """Of "token_id:123", as the server writes tokens where it was asked for ids; of "123" as well."""
    return int(name.rpartition(":")[2])


def _row(token: int, top: list[tuple[int, float]]) -> Row:
    """The token drawn may stand in the list beside the likeliest ones."""
    top = sorted((pair for pair in top if math.isfinite(pair[1])), key=lambda pair: -pair[1])[:TOLD]
    return Row(token, tuple(i for i, _ in top), tuple(logp for _, logp in top))


def _told(entry: dict | None, drafted: int) -> Row | None:
    """The row before a drafted token, which is always named in it; None where it was not computed."""
    if not entry or str(drafted) not in entry:
        return None
    ranked = sorted((int(one["rank"]), int(i), float(one["logprob"])) for i, one in entry.items())
    logs = [logp for _, _, logp in ranked]
    if ranked[0][0] != 1 or not all(-1e5 < logp <= 1e-3 for logp in logs) or logs != sorted(logs, reverse=True):
        return None
    return Row(ranked[0][1], tuple(i for _, i, _ in ranked), tuple(logs))


def _recomputed(body: dict) -> int | None:
    usage = body.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return usage["prompt_tokens"] - details["cached_tokens"] if "cached_tokens" in details else None
