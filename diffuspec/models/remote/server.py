"""What is asked of a server, whatever its kind: which token it would put after each of several texts.

fan-out        a prompt for each place of the draft, one new token each: P, P + d1, P + d1 d2, ... A drafted token is
               accepted while the server's own draw equals it (rule A: exact at any temperature, with no
               probability known)
one request    the whole text once, with the log-probabilities of its last tokens: greedy decoding only, where an
               engine tells them
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from diffuspec.errors import ServerError
from diffuspec.models.remote.wire import Wire, never
from diffuspec.plaintext import brief
from diffuspec.settings import Settings

TOLD = 8  # likeliest tokens of a row that are asked for, with their log-probabilities


@dataclass(frozen=True)
class Row:
    """What a server would say after one text. ids, logp: its likeliest tokens and their log-probabilities, best first;
    empty where it told none."""

    token: int
    ids: tuple[int, ...] = ()
    logp: tuple[float, ...] = ()


@dataclass(frozen=True)
class Took:
    """What a verification took; a trace keeps it as `ServerPass`, where each number is explained."""

    requests: int = 0
    prompts: int = 0
    total_ms: float = 0.0
    server_ms: float | None = None
    recomputed: int | None = None


@dataclass(frozen=True)
class Asked:
    """The rows of one verification, and what they took."""

    rows: list[Row]
    took: Took


@dataclass
class Conversation:
    """What a server has been told of one text, in the place of a key-value cache: its ids, without the anchor.

    first: of them those of the prompt, anchor included; settings: of the run, whose temperature and filters the server
    draws by; should_stop: asked while a request is under way; row: what comes after the prompt, where that is known;
    warm: slots of the server that hold the prompt; salt: of its part of the server's cache, where it has one.
    """

    settings: Settings
    should_stop: Callable[[], bool] = never
    ids: list[int] = field(default_factory=list)
    first: int = 0
    row: Row | None = None
    warm: int = 0
    salt: str = ""

    def get_seq_length(self) -> int:
        return len(self.ids)


class Server(ABC):
    """One server and its protocol.

    kind: as --server names it; model: the name that it serves the model by; source: folder or Hub id where it says that
    the model lies; context: tokens that one text may have; vocab_size: where it tells it; told: whether it gives
    log-probabilities when it decodes greedily.
    """

    kind: str
    title: str

    def __init__(self, wire: Wire, model: str, source: str, context: int, vocab_size: int | None = None):
        self.wire, self.model, self.source, self.context, self.vocab_size = wire, model, source, context, vocab_size

    @classmethod
    @abstractmethod
    def open(cls, wire: Wire, listed: dict) -> Server:
        """listed: the entry of the model in the answer to GET /v1/models."""

    @abstractmethod
    def tokenize(self, text: str) -> list[int]:
        """The server's ids of a text, special tokens recognised in it, none put around it."""

    def start(self, talk: Conversation, prompt: Sequence[int]) -> None:
        """Let the server read a prompt, so that the first verification need not."""
        asked = self.next_tokens([list(prompt)], talk)
        talk.row = asked.rows[0] if not talk.settings.temperature else None

    @abstractmethod
    def next_tokens(self, prompts: list[list[int]], talk: Conversation) -> Asked:
        """One row a prompt, by fan-out in one request."""

    def verify(self, talk: Conversation, ids: Sequence[int], parents: Sequence[int]) -> Asked:
        """A row after each node of a tree behind `talk`; ids[0] is the anchor, parents[0] = -1."""
        return self.fan_out(talk, ids, parents)

    def fan_out(self, talk: Conversation, ids: Sequence[int], parents: Sequence[int]) -> Asked:
        texts = texts_of(talk.ids, ids, parents)
        known = talk.row if len(texts[0]) == talk.first else None
        if known is None:
            return self.next_tokens(texts, talk)
        if len(texts) == 1:
            return Asked([known], Took())
        asked = self.next_tokens(texts[1:], talk)
        return Asked([known, *asked.rows], asked.took)

    @abstractmethod
    def plain(self, prompt: list[int], budget: int, stop_ids: frozenset[int], talk: Conversation) -> Iterator[int]:
        """The server's own decoding, in one request: a token at a time, as they come."""

    @contextmanager
    def understood(self):
        """Answers of another shape than the protocol's become one sentence."""
        try:
            yield
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ServerError(
                f"The server {self.wire.place} answered in a way that {self.title} does not ({brief(repr(error))}): "
                "name its kind with --server, or update it."
            ) from error


def texts_of(before: Sequence[int], ids: Sequence[int], parents: Sequence[int]) -> list[list[int]]:
    """The text that ends in each node of a tree, what came before included."""
    texts: list[list[int]] = []
    for token, parent in zip(ids, parents, strict=True):
        texts.append([*(before if parent < 0 else texts[parent]), token])
    return texts


def leaves_of(parents: Sequence[int]) -> list[int]:
    """The nodes of a tree that none follows."""
    inner = set(parents)
    return [node for node in range(len(parents)) if node not in inner]
