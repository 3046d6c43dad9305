"""What a user would pick instead: transformers' own `generate`, and llama.cpp on the same file.

Nothing here touches our kernels. Both decode greedily and report each pass with the time it took.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from diffuspec.errors import MethodError, ServerError, Stopped
from diffuspec.measure import llama_server
from diffuspec.models import embedded as weights
from diffuspec.models.pair import Pair
from diffuspec.models.presets import EMBEDDED
from diffuspec.models.remote.llama_cpp import LlamaCpp
from diffuspec.models.remote.server import Conversation
from diffuspec.models.remote.wire import Wire
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
    _make_sure_it_is_here(pair)
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
    _make_sure_it_is_here(pair)
    own = pair.target.source if pair.target.model is None else None
    if not own and (pair.info.name != EMBEDDED or pair.target.device.type != "cpu"):
        raise MethodError(
            f"llama-cpp decodes GGUF files and the embedded pair on a CPU, not {pair.info.name} on {pair.info.device}."
        )
    budget = min(settings.max_new_tokens, pair.room(ids))
    room = min(pair.info.context, -(-(len(ids) + budget) // ROOM) * ROOM)  # all of a long context would cost gigabytes
    address = _llama_address(own, room, torch.get_num_threads())
    server, last = LlamaCpp(Wire(address), "", "", room, slots=1), time.perf_counter()
    talk = Conversation(settings.replace(temperature=0), should_stop, list(ids[:-1]), len(ids))
    try:
        for token in server.plain(list(ids), budget, pair.stop_ids, talk):
            now = time.perf_counter()
            yield (token,), (now - last) * 1e3
            last = now
    except ServerError as error:
        raise MethodError(str(error)) from error
    except Stopped:
        return
    finally:
        server.wire.close()


def _make_sure_it_is_here(pair: Pair) -> None:
    if pair.target.remote:
        raise MethodError(
            "Other engines cannot be measured here with a target that is a server: its weights are not on this "
            "machine. The method ar is the server's own plain decoding."
        )


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
