"""What token ids mean: which of them end an answer, which are special, and whether two models share them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import jinja2
from transformers import AutoTokenizer
from transformers.utils import cached_file

from diffuspec.errors import PairError


def special_ids(tokenizer) -> frozenset[int]:
    """Ids of tokens that stand for no text: named ones (end of text, ...) and those only marked so when added."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


def stop_ids(model, tokenizer) -> frozenset[int]:
    """Every id that ends an answer: the end tokens of the model's two configurations and of the tokenizer, and the
    one that the chat template puts behind an assistant's turn.

    The template's is found by rendering such a turn: the first special token behind its text, where only white
    space stands between them.
    """
    found = set()
    ends = model.generation_config.eos_token_id, model.config.get_text_config().eos_token_id, tokenizer.eos_token_id
    for end in ends:
        if end is not None:
            found.update([end] if isinstance(end, int) else end)
    behind = _behind_an_answer(tokenizer) if tokenizer.chat_template else []
    special = special_ids(tokenizer)
    for token in behind:
        if token in special:
            found.add(token)
        if tokenizer.decode([token]).strip():
            break
    return frozenset(found)


def _behind_an_answer(tokenizer) -> list[int]:
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except (jinja2.TemplateError, ValueError, TypeError):  # told when a prompt is put into it
        return []
    return tokenizer(text.rpartition("answer")[2], add_special_tokens=False).input_ids


def has_tokenizer(source: str | Path) -> bool:
    """Whether a checkpoint comes with a tokenizer: without one, transformers makes an empty one of its model type."""
    for name in ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "vocab.txt", "tekken.json"):
        try:
            if cached_file(source, name) is not None:
                return True
        except (OSError, ValueError):
            continue
    return False


def names_of(source: str | Path) -> Mapping[str, int] | None:
    """Token -> id of a checkpoint's tokenizer, read without running its code; None where it has none."""
    if not has_tokenizer(source):
        return None
    try:
        return AutoTokenizer.from_pretrained(source).get_vocab()
    except (OSError, ValueError, KeyError, ImportError):
        pass
    for name in ("tokenizer.json", "vocab.json"):
        try:
            path = cached_file(source, name)
            body = json.loads(Path(path).read_text(encoding="utf-8"))
            vocabulary = body["model"]["vocab"] if name == "tokenizer.json" else body
            return vocabulary if isinstance(vocabulary, dict) else None
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def make_sure_they_share(target: Mapping[str, int], drafter: Mapping[str, int] | None, drafter_rows: int) -> None:
    """Refuse a drafter that reads other tokens under the target's ids, or has no row for some of them.

    target, drafter: token -> id; drafter None: its tokenizer is not known, and only the size is compared.
    Rows behind the last token are padding (151,936 and 152,064 of Qwen's): they do not matter. Raises `PairError`.
    """
    ours = {i: token for token, i in target.items()}
    missing = [i for i in ours if i >= drafter_rows]
    if missing:
        first = min(missing)
        raise PairError(
            f"The drafter has rows for {drafter_rows} tokens, and the target's token {first}, {ours[first]!r}, is not "
            "among them: choose a drafter made for this target's tokenizer."
        )
    if drafter is None:
        return
    theirs = {i: token for token, i in drafter.items()}
    for i in sorted(ours.keys() & theirs.keys()):
        if ours[i] != theirs[i]:
            raise PairError(
                f"Target and drafter have different tokenizers: token {i} is {ours[i]!r} to the target and "
                f"{theirs[i]!r} to the drafter. Choose a drafter made for this target's tokenizer."
            )
