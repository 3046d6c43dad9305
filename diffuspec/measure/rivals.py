"""What a user would pick instead: transformers' own `generate`, and llama.cpp on the same file.

Nothing here touches our kernels. Both decode greedily and report each pass with the time it took.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from diffuspec import loopback
from diffuspec.errors import MethodError
from diffuspec.measure import llama_server
from diffuspec.models import embedded as weights
from diffuspec.models.pair import Pair
from diffuspec.models.presets import EMBEDDED
from diffuspec.models.target import stock_model
from diffuspec.settings import Settings

ROOM = 8192  # tokens that llama.cpp keeps room for, or twice as many, ...
# Plain greedy decoding in the words of each rival, every field that could change a token: defaults differ by
# checkpoint and by version.
GREEDY = dict(
    do_sample=False,
    num_beams=1,
    repetition_penalty=1.0,
    encoder_repetition_penalty=1.0,
    no_repeat_ngram_size=0,
    temperature=1.0,
    top_k=50,
    top_p=1.0,
    min_p=None,
    typical_p=1.0,
    bad_words_ids=None,
    suppress_tokens=None,
    begin_suppress_tokens=None,
    forced_bos_token_id=None,
    forced_eos_token_id=None,
    stop_strings=None,
    exponential_decay_length_penalty=None,
    sequence_bias=None,
    guidance_scale=None,
    use_cache=True,
    cache_implementation=None,
)
LLAMA_GREEDY = dict(
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

Pass = tuple[tuple[int, ...], float]  # the tokens a target pass gave, and its milliseconds


class _Passes(BaseStreamer):
    """Takes from `generate` the tokens of each pass as they come; the first call hands over the prompt."""

    def __init__(self):
        self.seen: list[Pass] = []
        self._last: float | None = None

    def put(self, value):
        now = time.perf_counter()
        if self._last is None:
            self._last = self.started
            return
        self.seen.append((tuple(value.flatten().tolist()), (now - self._last) * 1e3))
        self._last = now

    def end(self):
        pass


@functools.lru_cache(2)
def _stock(source, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    model = stock_model(source, dtype).to(device)
    model.generation_config = GenerationConfig()  # a checkpoint's own would add penalties that nobody here asked for
    return model


@torch.inference_mode()
def generate(
    pair: Pair,
    settings: Settings,
    ids: Sequence[int],
    should_stop: Callable[[], bool],
    *,
    dtype: str | None = None,
    **options,
) -> list[Pass]:
    """What transformers does by itself, on its own layers; `dtype` other than the pair's where given.

    options go to `generate`. A pair in a dtype of our own making is held against float32.
    """
    dtype = {"bfloat16": torch.bfloat16}.get(dtype or pair.info.dtype, torch.float32)
    model = _stock(pair.target.source, dtype, pair.target.device)
    passes = _Passes()
    passes.started = time.perf_counter()
    prompt = torch.tensor([list(ids)], device=model.device)
    model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        streamer=passes,
        **GREEDY,
        max_new_tokens=min(settings.max_new_tokens, pair.room(ids)),
        eos_token_id=sorted(pair.stop_ids) or None,
        pad_token_id=min(pair.stop_ids, default=0),
        stopping_criteria=[lambda tokens, scores: torch.full((1,), should_stop(), device=tokens.device)],
        **options,
    )
    return passes.seen


def llama_cpp(pair: Pair, settings: Settings, ids: Sequence[int], should_stop: Callable[[], bool]) -> Iterator[Pass]:
    """Plain decoding of the target's GGUF by llama.cpp, with as many threads as torch has.

    Its server, a process of its own, listens on 127.0.0.1 only; the prompt goes in as token ids, nothing is kept
    between prompts. Raises `MethodError` where it cannot run.
    """
    own = pair.target.source if pair.target.model is None else None
    if not own and (pair.info.name != EMBEDDED or pair.target.device.type != "cpu"):
        raise MethodError(
            f"llama-cpp decodes GGUF files and the embedded pair on a CPU, not {pair.info.name} on {pair.info.device}."
        )
    budget = min(settings.max_new_tokens, pair.room(ids))
    room = min(pair.info.context, -(-(len(ids) + budget) // ROOM) * ROOM)  # all of a long context would cost gigabytes
    address = _llama_address(own, room, torch.get_num_threads())
    body = dict(prompt=list(ids), n_predict=budget, cache_prompt=False, return_tokens=True, stream=True, **LLAMA_GREEDY)
    last = time.perf_counter()
    request = urllib.request.Request(
        f"{address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        events = loopback.direct.open(request)
    except OSError as error:
        raise MethodError(f"llama.cpp refused the prompt: {error}.") from error
    with events:
        for line in events:
            if should_stop():
                return
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[6:])
            tokens = event["tokens"]
            if event.get("stop_type") == "eos":  # it ends on this token without handing it out
                tokens = [*tokens, pair.tokenizer.eos_token_id]
            if tokens:
                now = time.perf_counter()
                yield tuple(tokens), (now - last) * 1e3
                last = now


def _llama_address(gguf: Path | None, context: int, threads: int) -> str:
    """Of a server that runs: one that died is replaced."""
    server, address = _llama_server(gguf, context, threads)
    if server.poll() is not None:
        _llama_server.cache_clear()
        server, address = _llama_server(gguf, context, threads)
    return address


@functools.lru_cache(1)
def _llama_server(gguf: Path | None, context: int, threads: int) -> tuple[subprocess.Popen, str]:
    """A server, which ends when it is held no longer, and its address; gguf: None for the embedded pair's."""
    try:
        import xllamacpp  # noqa: F401
    except ImportError as error:
        raise MethodError(
            "The method llama-cpp needs the package xllamacpp: `pip install xllamacpp`, or leave the method out."
        ) from error
    program = [sys.executable, llama_server.__file__, str(gguf or weights.embedded_gguf()), str(context), str(threads)]
    server = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    address = next((line.split()[-1] for line in server.stdout if line.startswith(llama_server.LISTENING)), None)
    if address is None:
        raise MethodError(f"llama.cpp's server ended by itself, with code {server.wait()}; its own words are above.")
    return server, address
