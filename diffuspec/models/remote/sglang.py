"""SGLang's server: a path or a tree is verified in one request, which reads the cache up to the anchor.

`/generate` gives the log-probabilities of the input from `logprob_start_len` on (SGLang 0.5.23). Sampled decoding takes
the fan-out, in one request as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from diffuspec.errors import ServerError
from diffuspec.models.remote.server import TOLD, Asked, Conversation, Row, Server, Took, leaves_of, texts_of
from diffuspec.models.remote.wire import Reply, Wire
from diffuspec.plaintext import brief
from diffuspec.settings import Settings


class Sglang(Server):
    kind, title = "sglang", "SGLang's server"

    @classmethod
    def open(cls, wire: Wire, listed: dict) -> Sglang:
        return cls(wire, listed["id"], str(listed.get("root") or listed["id"]), int(listed["max_model_len"]))

    def tokenize(self, text: str) -> list[int]:
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        with self.understood():
            return [int(token) for token in self.wire.post("/v1/tokenize", body).body["tokens"]]

    def verify(self, talk: Conversation, ids: Sequence[int], parents: Sequence[int]) -> Asked:
        if talk.settings.temperature:
            return self.fan_out(talk, ids, parents)
        texts, leaves = texts_of(talk.ids, ids, parents), leaves_of(parents)
        anchor = len(talk.ids)
        reply = self._generate([texts[leaf] for leaf in leaves], talk, logprob_start_len=anchor)
        with self.understood():
            answers = self._answers(reply, len(leaves))
            rows: dict[int, Row] = {}
            for leaf, answer in zip(leaves, answers, strict=True):
                way = _way(leaf, parents)
                told = answer["meta_info"]["input_top_logprobs"][1:]  # the first entry is the anchor's own
                if len(told) != len(way) - 1:
                    raise ValueError(f"log-probabilities of {len(told)} tokens, not of {len(way) - 1}")
                for node, entry in zip(way[:-1], told, strict=True):
                    rows[node] = _row(entry)
                rows[leaf] = _new(answer)
            return Asked([rows[node] for node in range(len(ids))], self._took(reply, answers))

    def next_tokens(self, prompts: list[list[int]], talk: Conversation) -> Asked:
        reply = self._generate(prompts, talk)
        with self.understood():
            answers = self._answers(reply, len(prompts))
            return Asked([_new(answer) for answer in answers], self._took(reply, answers))

    def _generate(self, prompts: list[list[int]], talk: Conversation, **more) -> Reply:
        body = {"input_ids": prompts, "sampling_params": {**_sampling(talk.settings), "max_new_tokens": 1}, **more}
        if not talk.settings.temperature:
            body |= {"return_logprob": True, "top_logprobs_num": TOLD}
        return self.wire.post("/generate", body, talk.should_stop)

    def _answers(self, reply: Reply, wanted: int) -> list[dict]:
        answers = reply.body if isinstance(reply.body, list) else [reply.body]
        if len(answers) != wanted:
            raise ValueError(f"{len(answers)} answers to {wanted} prompts")
        return answers

    def _took(self, reply: Reply, answers: list[dict]) -> Took:
        told = [answer["meta_info"] for answer in answers]
        seconds = [one["e2e_latency"] for one in told if "e2e_latency" in one]
        read = [one["prompt_tokens"] - one["cached_tokens"] for one in told if "cached_tokens" in one]
        ms = min(1e3 * max(seconds), reply.ms) if seconds else None
        return Took(reply.tries, len(answers), reply.ms, ms, sum(read) if len(read) == len(told) else None)

    def plain(self, prompt: list[int], budget: int, stop_ids: frozenset[int], talk: Conversation) -> Iterator[int]:
        sampling = {**_sampling(talk.settings), "max_new_tokens": budget, "stop_token_ids": sorted(stop_ids)}
        body, made = {"input_ids": prompt, "sampling_params": sampling, "stream": True}, 0
        for line in self.wire.lines("/generate", body, talk.should_stop):
            if not line.startswith(b"data: ") or line == b"data: [DONE]":
                continue
            with self.understood():
                event = orjson.loads(line[6:])
                if "error" in event:
                    raise ServerError(f"The server {self.wire.place} gave up: {brief(event['error'])}.")
                ids, total = event["output_ids"], event["meta_info"]["completion_tokens"]
                new = ids[made - (total - len(ids)) :]  # all so far, or (--incremental-streaming-output) the new
            for token in new:
                yield int(token)
                made += 1
                if token in stop_ids:
                    return


def _way(node: int, parents: Sequence[int]) -> list[int]:
    way = []
    while node >= 0:
        way.append(node)
        node = parents[node]
    return way[::-1]


def _row(entry: list) -> Row:
    top = [(int(i), float(logp)) for logp, i, *_ in entry]
    return Row(top[0][0], tuple(i for i, _ in top), tuple(logp for _, logp in top))


def _new(answer: dict) -> Row:
    """The row of the one new token."""
    meta = answer["meta_info"]
    top = (meta.get("output_top_logprobs") or [None])[0]
    token = int(answer["output_ids"][0])
    if not top:
        return Row(token)
    row = _row(top)
    return Row(token, row.ids, row.logp)


def _sampling(settings: Settings) -> dict:
    """Every field that could change a draw: what is left out is taken from the model's own configuration. No seed is
    sent."""
    greedy = not settings.temperature
    return {
        "temperature": settings.temperature,
        "top_p": 1.0 if greedy else settings.top_p,
        "top_k": -1 if greedy or not settings.top_k else settings.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "min_new_tokens": 0,
    }
