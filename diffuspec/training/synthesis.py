"""The target answers prompts greedily, many conversations at once: a drafter's training data.

Continuous batching over one preallocated key-value cache: every conversation owns a slot of it, and the moment one
ends the next moves in, so that each pass over the weights serves a full batch. A conversation follows its prompt's
plan (`prompts`): words are read in one pass, a user's turn may be sampled from the target itself, answers are greedy.
At every answer token the target's `TOP` likeliest next tokens are kept for distillation. When a conversation ends,
the keys and values of the layers that a drafter will read lie in its slot, computed already: they are kept as well.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from diffuspec.errors import DiffuSpecError
from diffuspec.models.int8.ranks import likeliest_few
from diffuspec.training.data import Conversation
from diffuspec.training.prompts import Answer, Invent, Prompt, Say
from diffuspec.training.slots import Slots

TOP = 8
NUCLEUS = 0.95


class ChatFrame:
    """The token ids around the turns of a chat, cut out of the tokenizer's own template."""

    def __init__(self, tokenizer):
        render = lambda *contents: tokenizer.apply_chat_template(  # noqa: E731
            [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)],
            tokenize=False,
            add_generation_prompt=True,
        )
        self.tokenizer = tokenizer
        head, _, tail = render("QUESTION").partition("QUESTION")
        between = render("QUESTION", "ANSWER", "AGAIN").partition("ANSWER")[2].partition("AGAIN")[0]
        self.head, self.user_end, self.next_user = map(self.encode, (head, tail, between))

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids


@dataclass(frozen=True)
class _Read:
    ids: list[int]


@dataclass(frozen=True)
class _Sample:
    limit: int


@dataclass(frozen=True)
class _Greedy:
    limit: int


@dataclass
class _Sequence:
    """A conversation on its way: the steps still to come, and what there is so far."""

    prompt: Prompt
    steps: deque
    ids: list[int] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    top_ids: list[np.ndarray] = field(default_factory=list)
    top_p: list[np.ndarray] = field(default_factory=list)
    made: int = 0

    @classmethod
    def plan(cls, prompt: Prompt, frame: ChatFrame) -> _Sequence:
        steps: deque = deque()
        read = list(frame.head)
        answered = False
        for part in prompt.parts:
            if answered and not isinstance(part, Answer):
                read += frame.next_user
                answered = False
            match part:
                case Say(text):
                    read += frame.encode(text)
                case Invent(start, limit):
                    read += frame.encode(start.rstrip(" ")) if start else []
                    steps += [_Read(read), _Sample(limit)]
                    read = []
                case Answer(limit):
                    steps += [_Read(read + frame.user_end), _Greedy(limit)]
                    read, answered = [], True
        return cls(prompt, steps)

    @property
    def room(self) -> int:
        """Tokens it may come to hold."""
        return sum(len(s.ids) if isinstance(s, _Read) else s.limit for s in self.steps)

    def conversation(self, cache: np.ndarray | None) -> Conversation:
        return Conversation(
            self.prompt.number,
            self.prompt.family,
            np.array(self.ids, np.int32),
            np.array(self.spans, np.int32),
            np.array(self.top_ids, np.int32),
            np.array(self.top_p, np.float16),
            cache,
        )


class Synthesis:
    """Carries out prompts on a target, as many at a time as there are slots.

    stop_ids end a turn; keep_layers: layers of the target whose keys and values are kept with each conversation;
    seed: of what is sampled.
    """

    def __init__(self, slots: Slots, tokenizer, stop_ids: Iterable[int], *, keep_layers=(), seed: int = 0):
        self._store, self.frame, self.stop_ids = slots, ChatFrame(tokenizer), frozenset(stop_ids)
        self.capacity, self.keep_layers = slots.capacity, tuple(keep_layers)
        self._active: list[_Sequence | None] = [None] * slots.slots
        self._seed = seed
        self.speed = Speed()

    def run(self, prompts: Iterable[Prompt], window: int = 128) -> Iterator[Conversation]:
        """Conversations in the order in which they end. Of each `window` of prompts the short ones go first:
        slots of like length waste least."""
        waiting = iter(prompts)
        queue: deque[_Sequence] = deque()
        exhausted = False
        while True:
            while not exhausted and len(queue) < len(self._active):
                batch = []
                for prompt in waiting:
                    batch.append(_Sequence.plan(prompt, self.frame))
                    if len(batch) == window:
                        break
                exhausted = len(batch) < window
                queue += sorted((s for s in batch if s.room <= self.capacity), key=lambda s: s.room)
            for slot, sequence in enumerate(self._active):
                if sequence is None and queue:
                    self._active[slot] = queue.popleft()
                    self._advance(slot)
            if not any(self._active):
                return
            yield from self._step()

    def _advance(self, slot: int) -> None:
        """Read what the plan says comes next; the newest token stays out of the cache: the next pass feeds it."""
        sequence = self._active[slot]
        if sequence.steps and isinstance(sequence.steps[0], _Read):
            ids = sequence.steps.popleft().ids
            start = max(0, len(sequence.ids) - 1)
            sequence.ids += ids
            fed = sequence.ids[start:-1]
            if fed:
                self._store.read(slot, start, fed)
                self.speed.read += len(fed)
        sequence.made = 0
        if isinstance(sequence.steps[0], _Greedy):
            sequence.spans.append((len(sequence.ids), len(sequence.ids)))

    def _step(self) -> Iterator[Conversation]:
        """One token for every slot in use."""
        active = [(slot, sequence) for slot, sequence in enumerate(self._active) if sequence]
        logits = self._store.following(
            [slot for slot, _ in active], [len(s.ids) - 1 for _, s in active], [s.ids[-1] for _, s in active]
        )
        top_ids, top, norm = likeliest_few(logits, min(TOP, logits.shape[1]))
        top_p = np.exp(top - norm[:, None])
        for row, (slot, sequence) in enumerate(active):
            step = sequence.steps[0]
            sequence.made += 1
            if isinstance(step, _Greedy):
                token = int(top_ids[row, 0])
                sequence.ids.append(token)
                sequence.top_ids.append(top_ids[row])
                sequence.top_p.append(top_p[row])
                sequence.spans[-1] = (sequence.spans[-1][0], len(sequence.ids))
                self.speed.answered += 1
                ended = token in self.stop_ids
            else:
                token = self._sampled(logits[row], sequence)
                ended = token in self.stop_ids
                if not ended:
                    sequence.ids.append(token)
            if not ended and sequence.made < step.limit:
                continue
            sequence.steps.popleft()
            if not sequence.steps:
                self._active[slot] = None
                yield sequence.conversation(self._kept(slot, len(sequence.ids) - 1))
                continue
            following = sequence.steps[0]
            if isinstance(step, _Greedy) and ended and following.ids[:1] == [token]:
                sequence.steps[0] = _Read(following.ids[1:])
            self._advance(slot)

    def _sampled(self, logits: np.ndarray, sequence: _Sequence) -> int:
        """A token by nucleus sampling (Holtzman et al., 2020); the draw depends on the prompt and place alone."""
        p, order = torch.from_numpy(logits).softmax(-1).topk(min(1024, len(logits)))
        p = p * (p.cumsum(-1) - p < NUCLEUS)
        seed = (self._seed * 1_000_003 + sequence.prompt.number) * 4096 + len(sequence.ids)
        draw = np.random.default_rng(seed).random() * float(p.sum())
        return int(order[min(int((p.cumsum(-1) < draw).sum()), len(order) - 1)])

    def _kept(self, slot: int, length: int) -> np.ndarray | None:
        return self._store.kept(slot, self.keep_layers, length) if self.keep_layers else None


@dataclass
class Speed:
    """How fast answers are made.

    answered, read: tokens since `started` (seconds of `time.monotonic`).
    """

    answered: int = 0
    read: int = 0
    started: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        seconds = max(1e-9, time.monotonic() - self.started)
        return f"{self.answered} answer tokens, {self.answered / seconds:.0f} a second, {self.read} read"


def answer_all(
    synthesis: Synthesis, prompts: Sequence[Prompt], folder, progress: Callable[[float | None, str], None]
) -> None:
    """Add what is missing of these prompts' conversations to `folder`."""
    done = folder.numbers()
    missing = [prompt for prompt in prompts if prompt.number not in done]
    with folder.writer(synthesis.keep_layers) as writer:
        for count, conversation in enumerate(synthesis.run(missing), start=1):
            writer.add(conversation)
            progress(count / len(missing), f"{count}/{len(missing)} conversations; {synthesis.speed}")


def synthesise(
    synthesis: Synthesis, prompts, folder, tokens: int, progress: Callable[[float | None, str], None]
) -> None:
    """Fill `folder` with shards until it holds `tokens` answer tokens; goes on where an interrupted call stopped."""
    done, have = folder.numbers(), folder.answer_tokens()
    if tokens <= have:
        return
    held = have

    def numbers() -> Iterator[Prompt]:
        number = 0
        while held < tokens:
            if number not in done:
                yield prompts[number]
            number += 1
            if number > 100_000_000:
                raise DiffuSpecError("No prompt fits into the capacity.")

    with folder.writer(synthesis.keep_layers) as writer:
        for conversation in synthesis.run(numbers()):
            writer.add(conversation)
            held += len(conversation.top_p)
            progress(min(1.0, held / tokens), f"{held} answer tokens in {folder.path}; {synthesis.speed}")
