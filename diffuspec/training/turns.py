"""Answers that were made elsewhere, as conversations: a file of single turns, and the target's top 8 beside it.

turns.jsonl[.gz]   {"u": ids of the user's turn, "r": ids of the target's greedy answer} a line
top8.bin           answer by answer, for n tokens: n x 8 uint16 ids, then n x 8 float16 probabilities, little endian
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diffuspec.errors import DiffuSpecError
from diffuspec.training.data import Conversation
from diffuspec.training.synthesis import TOP, ChatFrame


def read_turns(path: Path, top8: Path, frame: ChatFrame, family: str) -> Iterator[Conversation]:
    """One conversation a line, without caches, numbered as the lines are; DiffuSpecError where the files disagree."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as lines:
            turns = [(list(turn["u"]), list(turn["r"])) for turn in map(json.loads, lines)]
        data = top8.read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DiffuSpecError(
            f'{path} is not a file of turns with "u" and "r", or {top8} cannot be read ({error}).'
        ) from error
    answered = sum(len(answer) for _, answer in turns)
    if len(data) != answered * TOP * 4:
        raise DiffuSpecError(
            f"{top8} holds {len(data)} bytes, {path} has {answered} answer tokens of {TOP * 4} bytes each."
        )
    at = 0
    for number, (user, answer) in enumerate(turns):
        size = len(answer) * TOP
        top_ids = np.frombuffer(data, "<u2", size, at).reshape(-1, TOP).astype(np.int32)
        top_p = np.frombuffer(data, "<f2", size, at + 2 * size).reshape(-1, TOP).astype(np.float16)
        at += 4 * size
        before = [*frame.head, *user, *frame.user_end]
        yield Conversation(
            number,
            family,
            np.array(before + answer, np.int32),
            np.array([[len(before), len(before) + len(answer)]], np.int32),
            top_ids,
            top_p,
        )
