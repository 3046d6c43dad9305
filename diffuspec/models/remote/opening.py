"""Finding out what a server is, and making sure that its token ids are ours."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from diffuspec.errors import PairError, ServerError, WeightsError
from diffuspec.models.gguf.file import GGUF
from diffuspec.models.gguf.tokenizer import ENDS, end_ids, tokenizer_of
from diffuspec.models.remote.llama_cpp import LlamaCpp
from diffuspec.models.remote.server import Server
from diffuspec.models.remote.sglang import Sglang
from diffuspec.models.remote.vllm import RayServe, Vllm
from diffuspec.models.remote.wire import Wire
from diffuspec.models.vocabulary import special_ids, stop_ids
from diffuspec.plaintext import brief

KINDS: dict[str, type[Server]] = {made.kind: made for made in (LlamaCpp, Vllm, Sglang, RayServe)}
OWNERS = {"llamacpp": "llama.cpp", "vllm": "vllm", "sglang": "sglang"}  # as servers call themselves in /v1/models

# Texts that tokenizers of different models cut in different places, or normalise: runs of spaces and line breaks,
# digits, contractions, scripts, accents in one code point or two, joined emoji, bytes that no token holds.
HARD = (
    "Hello, world!",
    " leading",
    "trailing ",
    "two  spaces",
    "     five",
    "\ttab\t\ttabs",
    "a\nb",
    "a\n\nb\n\n\nc",
    "\r\nCRLF\r\n",
    " \n \n",
    "I'll we're it's DON'T y'all",
    "0 12 345 6789 1234567890",
    "3.14159e-10",
    "1,234,567.89",
    "def f(x):\n    return x**2  # square\n",
    "for(int i=0;i<10;++i){a[i]+=b[i];}",
    "</div><br/>&nbsp;",
    '{"k": [1, null]}',
    "https://example.org/a_b-c?d=e&f=%20#g",
    "snake_case camelCase SCREAMING_CASE kebab-case",
    "!!!???...---___***",
    "Ωμέγα αβγδ",
    "Привет, как дела?",
    "你好，世界。今天天气很好",
    "こんにちは、世界",
    "안녕하세요 세계",
    "مرحبا بالعالم",
    "שלום עולם",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "café naïve",
    "cafe\u0301 nai\u0308ve",
    "ﬁ ﬂ ½ ² ™ №",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛",
    "\u200bzero\u200bwidth\u00a0nbsp\u3000wide",
    "\ufeffbom",
    "\x01\x1f control",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "x" * 7 + " " * 9 + "y" * 3,
    "<|im_start|>user\n<|im_end|>",
    "[INST] <s> </s> <unk>",
    "▁under ▁▁ Ġ Ċ",
    "The quick brown fox jumps over the lazy dog. " * 3,
)


def open_server(url: str, kind: str | None = None, model: str | None = None) -> Server:
    """The server at an address; kind: of `KINDS`, by default what it says of itself; model: which of those it serves,
    where there are several. Raises `ServerError`."""
    wire = Wire(url)
    if kind is not None and kind not in KINDS:
        raise ServerError(f"Unknown kind of server {brief(kind)!r}: choose {', '.join(KINDS)}.")
    said = wire.get("/v1/models", again=False)
    listed = said.get("data") if isinstance(said, dict) else None
    listed = [entry for entry in listed or () if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    if not listed:
        raise ServerError(f"The server {wire.place} names no model that it serves: is it a model server?")
    chosen = next((entry for entry in listed if entry["id"] == model), listed[0] if len(listed) == 1 else None)
    chosen = chosen or next((entry for entry in listed if not entry.get("parent")), listed[0])
    kind = kind or OWNERS.get(chosen.get("owned_by"))
    if kind is None:
        raise ServerError(
            f"What kind of server runs at {wire.place} is not known: say it with --server, {' or '.join(KINDS)}."
        )
    made = KINDS[kind]
    try:
        return made.open(wire, chosen)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServerError(
            f"The server {wire.place} does not answer as {made.title} does ({brief(repr(error))}): name its kind with "
            f"--server, {' or '.join(KINDS)}."
        ) from error


def tokenizer_for(server: Server, named: str | None):
    """(tokenizer, ids that end an answer, vocabulary's size) of the model that a server serves.

    named: folder, Hub id or GGUF file to read them from; by default what the server says of itself, where this machine
    can read it. Raises `WeightsError`.
    """
    source = named or server.source
    try:
        if str(source).lower().endswith(".gguf"):
            file = GGUF(Path(source))
            tokenizer, ends = tokenizer_of(file), end_ids(file)
            size = len(file.metadata["tokenizer.ggml.tokens"])
        else:
            tokenizer = AutoTokenizer.from_pretrained(source)
            config = _read(AutoConfig, source)
            told = SimpleNamespace(
                generation_config=_read(GenerationConfig, source) or GenerationConfig(),
                config=SimpleNamespace(
                    get_text_config=lambda: config.get_text_config() if config else GenerationConfig()
                ),
            )
            ends = stop_ids(told, tokenizer)
            size = config.get_text_config().vocab_size if config else len(tokenizer)
            if server.kind == "llama.cpp":  # it ends on every token of these names
                names = tokenizer.get_vocab()
                ends |= {names[name] for name in ENDS & names.keys()} & special_ids(tokenizer)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        said = "" if named else f" The server {server.wire.place} says that its model is {brief(source or 'unnamed')}."
        raise WeightsError(
            f"The tokenizer of the served model cannot be read from {brief(source) or 'nowhere'} ({brief(error)})."
            f"{said} Give the model's folder, Hub id or GGUF file with --target: only its tokenizer is read."
        ) from error
    return tokenizer, ends, server.vocab_size or max(size, len(tokenizer))


def _read(kind, source):
    try:
        return kind.from_pretrained(source)
    except (OSError, ValueError, KeyError):
        return None


def make_sure_they_agree(server: Server, tokenizer, named: str) -> None:
    """Refuse a tokenizer whose ids are not the server's, by a few dozen hard texts. Raises `PairError`."""

    def ours(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    for text, theirs in zip(HARD, _at_once(server.tokenize, HARD), strict=True):
        if theirs != ours(text):
            raise PairError(
                f"The server {server.wire.place} and {brief(named)} cut text into different tokens: of {text[:40]!r} "
                f"the server makes {_few(theirs)}, the tokenizer {_few(ours(text))}. Name the model that the server "
                "serves with --target."
            )


def _few(ids: list[int]) -> str:
    return f"{ids[:8]}"[:-1] + (", ...]" if len(ids) > 8 else "]")


def _at_once(ask: Callable[[str], list[int]], texts) -> list[list[int]]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(ask, texts))
