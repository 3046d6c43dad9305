"""llama.cpp's server: verification by fan-out over its slots, since it tells no log-probabilities of a prompt.

Each slot has a key-value cache of its own and takes the prompt that shares most with what it holds. llama.cpp computes
a token in other bits where a pass is long (from 64 rows on, seen in build b11549): the prompt is therefore read by each
slot as plain decoding reads it, alone and in one piece, and what follows in short pieces. With a folder for slots
(`--slot-save-path`) it is read once and copied.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterator, Sequence

import orjson

from diffuspec.errors import ServerError
from diffuspec.models.remote.server import TOLD, Asked, Conversation, Row, Server, Took
from diffuspec.models.remote.wire import Wire
from diffuspec.plaintext import brief
from diffuspec.settings import Settings

# Plain greedy decoding in llama.cpp's words, every field that could change a token: defaults differ by version.
GREEDY = dict(
    temperature=0,
    top_k=1,
    top_p=1.0,
    min_p=0.0,
    typical_p=1.0,
    repeat_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    dry_multiplier=0.0,
    xtc_probability=0.0,
    mirostat=0,
    ignore_eos=False,
    logit_bias=[],
)
PIECE = 32  # tokens of an answer that are read at once where it has to be read again
FIELDS = ["index", "tokens", "stop_type", "id_slot", "timings", "completion_probabilities"]


class LlamaCpp(Server):
    """slots: texts that it reads side by side."""

    kind, title = "llama.cpp", "llama.cpp's server"

    def __init__(self, *options, slots: int):
        super().__init__(*options)
        self.slots = slots
        self._saves: bool | None = None  # whether slots can be saved and restored, once that was tried
        self._file = f"diffuspec-{secrets.token_hex(8)}.bin"

    @classmethod
    def open(cls, wire: Wire, listed: dict) -> LlamaCpp:
        said = wire.get("/props", absent=(404,))
        context = int(said["default_generation_settings"]["n_ctx"])
        size = (listed.get("meta") or {}).get("n_vocab")
        return cls(wire, str(listed["id"]), str(said.get("model_path", "")), context, size, slots=said["total_slots"])

    def tokenize(self, text: str) -> list[int]:
        body = {"content": text, "add_special": False, "parse_special": True}
        return [int(token) for token in self.wire.post("/tokenize", body).body["tokens"]]

    def start(self, talk: Conversation, prompt: Sequence[int]) -> None:
        talk.ids, talk.first = list(prompt[:-1]), len(prompt)
        s = talk.settings
        drafted = s.nodes if s.search == "tree" else s.k if s.length == "fixed" else s.k_max
        self._warm(talk, list(prompt), min(drafted + 1, self.slots))

    def next_tokens(self, prompts: list[list[int]], talk: Conversation) -> Asked:
        # After a server was away its slots are empty: what came of the same request would be in other bits.
        requests = ms = 0
        while True:
            self._warm(talk, prompts[0], min(len(prompts), self.slots))
            reply = self._complete(prompts, talk)
            requests, ms = requests + reply.tries, ms + reply.ms
            if reply.tries == 1:
                break
            talk.warm = 0
        with self.understood():
            found = reply.body if isinstance(reply.body, list) else [reply.body]
            found = sorted(found, key=lambda one: one.get("index", 0))
            if len(found) != len(prompts):
                raise ValueError(f"{len(found)} answers to {len(prompts)} prompts")
            by_slot: dict[int, float] = defaultdict(float)
            for one in found:
                by_slot[one.get("id_slot", 0)] += one["timings"]["prompt_ms"] + one["timings"]["predicted_ms"]
            took = Took(
                requests=requests,
                prompts=len(prompts),
                total_ms=ms,
                server_ms=max(by_slot.values()),
                recomputed=sum(int(one["timings"]["prompt_n"]) for one in found),
            )
            return Asked([self._row(one, prompt, talk) for one, prompt in zip(found, prompts, strict=True)], took)

    def _complete(self, prompts: list[list[int]], talk: Conversation, **changes):
        told = 0 if talk.settings.temperature else TOLD
        body = dict(
            prompt=prompts,
            n_predict=1,
            cache_prompt=True,
            return_tokens=True,
            n_probs=told,
            response_fields=FIELDS,
        )
        return self.wire.post("/completion", {**_sampling(talk.settings), **body, **changes}, talk.should_stop)

    def _row(self, one: dict, prompt: list[int], talk: Conversation) -> Row:
        told = (one.get("completion_probabilities") or [{}])[0]
        top = [(int(t["id"]), float(t["logprob"])) for t in told.get("top_logprobs") or ()]
        token = next(iter(one["tokens"]), told.get("id"))
        if token is None:  # builds that keep an ending token to themselves name it among the likely ones
            token = self._last(prompt, talk)["completion_probabilities"][0]["id"]
        return Row(int(token), *(zip(*top, strict=True) if top else ()))

    def _warm(self, talk: Conversation, text: list[int], slots: int) -> None:
        """Have at least so many slots hold the prompt, and what of `text` follows it but its last token."""
        prompt, missing = text[: talk.first], range(talk.warm, slots)
        if not missing:
            return
        for slot in missing:
            if slot and self._copied(talk, slot):
                continue
            while True:
                reply = self._complete(prompt, talk, id_slot=slot, cache_prompt=False)
                if reply.tries == 1:
                    break
                talk.warm = 0
                return self._warm(talk, text, slots)
            if talk.row is None and not talk.settings.temperature:
                with self.understood():
                    talk.row = self._row(reply.body, prompt, talk)
            if slot == 0 and self._saves is not False:
                self._saves = self._slot(talk, 0, "save")
        for end in range(talk.first + PIECE, len(text), PIECE):
            for slot in missing:
                self._complete(text[:end], talk, id_slot=slot, n_probs=0)
        talk.warm = slots

    def _copied(self, talk: Conversation, slot: int) -> bool:
        return bool(self._saves) and self._slot(talk, slot, "restore")

    def _slot(self, talk: Conversation, slot: int, action: str) -> bool:
        path, body = f"/slots/{slot}?action={action}", {"filename": self._file}
        try:
            return self.wire.post(path, body, talk.should_stop, absent=(404, 500, 501)).body is not None
        except ServerError:
            return False

    def plain(self, prompt: list[int], budget: int, stop_ids: frozenset[int], talk: Conversation) -> Iterator[int]:
        text, ended = list(prompt), False
        for token in self._streamed(text, budget, talk):
            yield token
            text.append(token)
            if token in stop_ids:
                return
        # A stream leaves out tokens that end within a character: from there on whole answers, of rising length.
        size = PIECE
        while not ended and (left := budget - (len(text) - len(prompt))):
            reply = self._complete(text, talk, id_slot=0, n_predict=min(size, left), n_probs=0)
            with self.understood():
                tokens, ended = list(reply.body["tokens"]), reply.body["stop_type"] != "limit"
            for token in tokens:
                yield token
                text.append(token)
                if token in stop_ids:
                    return
            size *= 2

    def _streamed(self, prompt: list[int], budget: int, talk: Conversation) -> Iterator[int]:
        """Tokens as they come, up to the first that the stream leaves out."""
        told = 0
        body = dict(prompt=prompt, n_predict=budget, id_slot=0, cache_prompt=False, return_tokens=True, stream=True)
        for line in self.wire.lines("/completion", {**_sampling(talk.settings), **body}, talk.should_stop):
            if not line.startswith(b"data: "):
                continue
            with self.understood():
                event = orjson.loads(line[6:])
                if "error" in event:
                    raise ServerError(
                        f"The server {self.wire.place} gave up: {brief(event['error'].get('message', ''))}."
                    )
                tokens = [int(token) for token in event["tokens"]]
                told += len(tokens)
                if event.get("tokens_predicted", told) != told:
                    return
            yield from tokens

    def _last(self, text: list[int], talk: Conversation) -> dict:
        body = self._complete([text], talk, n_probs=1).body
        return body[0] if isinstance(body, list) else body


def _sampling(settings: Settings) -> dict:
    """The settings of a draw. The filters are put in this project's order; no seed is ever sent: one seed would give
    all prompts of a request the same draw."""
    if not settings.temperature:
        return GREEDY
    return {
        **GREEDY,
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "samplers": ["temperature", "top_k", "top_p"],
    }
