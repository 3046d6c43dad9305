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


class Kept:
    """Keeps questions out of training data: as they stand, or asked in other words."""

    NEAR = 0.55  # share of their words that two questions may have in common

    def __init__(self, questions: Iterable[str], n: int = 8):
        questions = list(questions)
        self.n, self._known = n, set().union(*(word_ngrams(question, n) for question in questions))
        self._short = [words for question in questions if 0 < len(words := _words(question)) <= 24]

    def out(self, prompt: str) -> bool:
        """Whether a prompt shares n words in a row with one of the questions, or its last line most of one's words."""
        if word_ngrams(prompt, self.n) & self._known:
            return True
        asked = _words(prompt.rsplit("\n", 1)[-1])
        return any(len(asked & words) > self.NEAR * len(asked | words) for words in self._short)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


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
