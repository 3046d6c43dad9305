"""Do prompts of the training data share word n-grams with the questions that measure the drafter?

Two texts that share eight words in a row are hardly independent; the usual test for contamination (Brown et al.,
2020, appendix C, use 8 to 13 words).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

from diffuspec.training.data import Conversation


def word_ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    """All runs of n words, lower case, punctuation dropped."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def shared(
    conversations: Iterable[Conversation], questions: Iterable[str], tokenizer, n: int
) -> Iterator[tuple[Conversation, str]]:
    """(conversation, one shared n-gram) for every conversation whose user turns share one with a question."""
    known = set().union(*(word_ngrams(question, n) for question in questions))
    for conversation in conversations:
        asked = np.ones(len(conversation.ids), bool)
        for start, end in conversation.spans:
            asked[start:end] = False
        text = tokenizer.decode(conversation.ids[asked].tolist())
        # The template's own words stand in front of every turn.
        turns = re.split(r"<\|im_start\|>\w+|<\|im_end\|>", text)
        both = set().union(*(word_ngrams(turn, n) for turn in turns)) & known
        if both:
            yield conversation, " ".join(min(both))
