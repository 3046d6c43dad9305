"""A GGUF's own tokenizer, with the ids that llama.cpp gives.

llama.cpp neither normalises text nor adds a space in front of it; what belongs together before merging is said by a
regular expression, of which the file names one (`tokenizer.ggml.pre`).
"""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from diffuspec.errors import WeightsError
from diffuspec.models.gguf.file import GGUF

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # what `tokenizer.ggml.token_type` says

_SHORT = "'s|'t|'re|'ve|'m|'ll|'d"
_ANY_CASE = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_GPT2 = rf"{_SHORT}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
_NEWER = (
    rf"(?:{_ANY_CASE})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{%s}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_QWEN, _LLAMA3 = (_NEWER % "1", _NEWER % "1,3")
_SINGLE_DIGITS = r"\p{N}"
# Each splits what those before it left whole.
SPLITS = {
    name: splits
    for splits, names in (
        ((_GPT2,), "gpt-2 phi-2 mpt olmo jais trillion granite-docling"),
        ((_QWEN,), "qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez kormo"),
        ((_LLAMA3,), "llama3 llama-v3 llama-bpe falcon3 llama4 dbrx smaug-bpe falcon-h1 pixtral midm-2.0 lfm2"),
        ((_SINGLE_DIGITS, _GPT2), "smollm starcoder refact codeshell command-r exaone minerva-7b"),
        ((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"), "default"),
    )
    for name in names.split()
}
WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2")  # unmerged
# What ends an answer, wherever a file has it, whatever else its metadata names.
ENDS = frozenset(
    "<|eot_id|> <|eom_id|> <|im_end|> <|end|> <|end_of_text|> <|endoftext|> <end_of_turn> <end_of_utterance> "
    "<EOT> _<EOT> [EOT] [EOS] <|return|> <|call|> <eos> </s>".split()
)


def tokenizer_of(file: GGUF) -> PreTrainedTokenizerFast:
    """With the file's chat template. Raises `WeightsError` for a tokenizer that is damaged or of an unknown kind."""
    try:
        return _tokenizer(file)
    except WeightsError:
        raise
    except Exception as error:  # the library raises plain ones
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"The tokenizer of {file.path.name} is damaged: {said}.") from error


def _tokenizer(file: GGUF) -> PreTrainedTokenizerFast:
    name, meta = file.path.name, file.metadata
    tokens, kinds = meta.get("tokenizer.ggml.tokens"), meta.get("tokenizer.ggml.token_type")
    if not tokens:
        raise WeightsError(f"{name} holds no tokenizer.")
    kinds = kinds if kinds and len(kinds) == len(tokens) else [NORMAL] * len(tokens)
    model = meta.get("tokenizer.ggml.model")
    if model == "gpt2":
        made = _byte_level(file, tokens)
    elif model == "llama":
        made = _sentence_piece(file, tokens, kinds)
    else:
        raise WeightsError(f"{name} has a tokenizer of the kind {model}; known are gpt2 and llama.")
    special = [
        AddedToken(token, special=kind in (CONTROL, UNKNOWN), normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (CONTROL, USER_DEFINED) or kind == UNKNOWN and model == "llama"
    ]
    made.add_tokens([token for token in special if token.content])
    names = {}
    for part, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")):
        number = meta.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(number, int) and 0 <= number < len(tokens):
            names[part] = tokens[number]
    first, last = (
        meta.get(f"tokenizer.ggml.add_{end}_token", end == "bos" and model == "llama") for end in ("bos", "eos")
    )
    around = [names.get("bos_token") if first else None, names.get("eos_token") if last else None]
    if any(around):
        parts = [around[0], "$A", around[1]]
        made.post_processor = processors.TemplateProcessing(
            single=" ".join(f"{part}:0" if part != "$A" else part for part in parts if part),
            special_tokens=[(part, tokens.index(part)) for part in around if part],
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **names)
    fast.chat_template = meta.get("tokenizer.chat_template")
    return fast


def end_ids(file: GGUF) -> frozenset[int]:
    """Every id that ends an answer."""
    meta, tokens = file.metadata, file.metadata["tokenizer.ggml.tokens"]
    named = (meta.get(f"tokenizer.ggml.{end}_token_id") for end in ("eos", "eot", "eom"))
    found = {i for i in named if isinstance(i, int) and 0 <= i < len(tokens)}
    kinds = meta.get("tokenizer.ggml.token_type") or [CONTROL] * len(tokens)
    found |= {
        i
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
        if kind in (CONTROL, USER_DEFINED) and token in ENDS
    }
    return frozenset(found)


def _byte_level(file: GGUF, tokens: list[str]) -> Tokenizer:
    pre = file.metadata.get("tokenizer.ggml.pre", "default")
    if pre not in SPLITS:
        raise WeightsError(
            f"{file.path.name} splits text in the way {pre}, which is not known here; known are {', '.join(SPLITS)}."
        )
    merges = [_merge(line, file) for line in file.metadata.get("tokenizer.ggml.merges") or []]
    made = Tokenizer(
        models.BPE(vocab=_numbered(tokens), merges=merges, ignore_merges=pre in WHOLE_WORDS, fuse_unk=False)
    )
    splits = [pre_tokenizers.Split(Regex(way), "isolated") for way in SPLITS[pre]]
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    return made


def _merge(line: str, file: GGUF) -> tuple[str, str]:
    # A space parts the two, but the first may begin with one.
    at = line.find(" ", 1)
    if at < 0:
        raise WeightsError(f"{file.path.name} is damaged: {line!r} is no pair of tokens to be merged.")
    return line[:at], line[at + 1 :]


def _numbered(tokens: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for i, token in enumerate(tokens):
        found.setdefault(token, i)
    return found


def _sentence_piece(file: GGUF, tokens: list[str], kinds: list[int]) -> Tokenizer:
    """SentencePiece's pairs, the one first whose sum has the highest score."""
    scores = file.metadata.get("tokenizer.ggml.scores")
    if not scores or len(scores) != len(tokens):
        raise WeightsError(f"{file.path.name} has a tokenizer without scores.")
    vocab = _numbered(tokens)
    usual = {token for token, kind in zip(tokens, kinds, strict=True) if kind in (NORMAL, USER_DEFINED, UNUSED)}
    merges = []
    for token in usual:
        halves = [(token[:at], token[at:]) for at in range(1, len(token))]
        found = [(vocab[a], vocab[b], a, b) for a, b in halves if a in usual and b in usual]
        merges += [(-scores[vocab[token]], *pair) for pair in sorted(found)]
    merges.sort(key=lambda row: row[0])
    unknown = file.metadata.get("tokenizer.ggml.unknown_token_id", 0)
    made = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=[row[3:] for row in merges],
            unk_token=tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    space = file.metadata.get("tokenizer.ggml.add_space_prefix", True)
    steps = [normalizers.Prepend("▁")] if space else []
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    undone = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*undone, *([decoders.Strip(" ", 1, 0)] if space else [])])
    return made
