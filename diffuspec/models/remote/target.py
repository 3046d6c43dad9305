"""A server in the place of the target: the engine drafts and searches here, and the server verifies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from diffuspec.errors import PairError, PromptError
from diffuspec.models.remote.server import Asked, Conversation, Server
from diffuspec.models.remote.wire import never
from diffuspec.settings import Settings


class ToldRows:
    """What a server told of the rows of a pass, in the place of their logits: its own token after each, and of a few
    likely tokens the log-probability, NaN wherever it told none.

    took: requests and times of the pass; drawn: the rows' tokens are the server's own choice, at any temperature.
    """

    drawn = True

    def __init__(self, asked: Asked):
        self.took = asked.took
        rows = asked.rows
        self.likeliest = np.array([row.token for row in rows], np.int64)
        self._told = [dict(zip(row.ids, row.logp, strict=True)) for row in rows]
        self._order = [list(told) for told in self._told]
        width = min(len(order) for order in self._order)
        if width:
            self._ids = np.array([order[:width] for order in self._order], np.int32)
            self._top = np.array(
                [[told[i] for i in ids] for told, ids in zip(self._told, self._ids.tolist(), strict=True)]
            )
        else:
            self._ids = self.likeliest[:, None].astype(np.int32)
            self._top = np.array(
                [[told.get(i, np.nan)] for told, (i,) in zip(self._told, self._ids.tolist(), strict=True)]
            )
        self._top = self._top.astype(np.float32)

    def are_numbers(self) -> bool:
        return True

    def top(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `RankedLogits.top`, of log-probabilities: their logsumexp is 0."""
        return self._ids[rows], self._top[rows], np.zeros(len(rows), np.float32)

    def along(self, rows: np.ndarray, path: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `RankedLogits.along`; NaN, and rank -1, of what was not told."""
        rows, path = rows.tolist(), path.tolist()
        rank = [
            self._order[row].index(token) if token in self._told[row] else -1
            for row, token in zip(rows, path, strict=True)
        ]
        beside = np.full((len(rows), cells.shape[1]), np.nan, np.float32)
        for i, row in enumerate(rows[: len(cells)]):
            beside[i] = [self._told[row].get(token, np.nan) for token in cells[i].tolist()]
        return self.logp(np.array(rows, int), np.array(path, int)), np.array(rank, np.int32), beside

    def logp(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """log p of each token at its row, float32 [n]."""
        pairs = zip(rows.tolist(), ids.tolist(), strict=True)
        return np.array([self._told[row].get(token, np.nan) for row, token in pairs], np.float32)

    def gap(self, row: int, expected: int, got: int) -> float | None:
        """By how much one token's logit lies above another's; None where they were not both told."""
        told = self._told[row]
        return told[expected] - told[got] if expected in told and got in told else None


class RemoteTarget:
    """A causal LM behind a server, with what the engine asks of a `Target`.

    It has no weights here: no hidden states, no embedding, no cache that a drafter could read.
    """

    model = shape = None
    arithmetic = "server"
    trees = True
    remote = True
    device = torch.device("cpu")

    def __init__(self, server: Server, vocab_size: int):
        self.server, self.vocab_size = server, vocab_size
        self.context, self.source = server.context, server.wire.url

    def start(
        self,
        prefix: Sequence[int],
        settings: Settings,
        hidden: Sequence[int] = (),
        should_stop: Callable[[], bool] = never,
    ) -> Conversation:
        """As `Target.start`; raises `Stopped` where should_stop() turns true meanwhile."""
        if hidden:
            raise PairError(NO_HIDDEN_STATES)
        talk = Conversation(settings, should_stop, list(prefix[:-1]), len(prefix))
        self.server.start(talk, prefix)
        return talk

    def ranked(self, talk: Conversation, ids: Sequence[int], parents: Sequence[int] | None = None) -> ToldRows:
        """The server's rows after n `ids`, behind each other or, with parents, a tree; they join the conversation."""
        parents = list(range(-1, len(ids) - 1)) if parents is None else parents
        if len(talk.ids) + len(ids) > self.context:
            raise PromptError(f"The text has more than the {self.context} tokens that the server takes: shorten it.")
        asked = self.server.verify(talk, ids, parents)
        talk.ids.extend(ids)
        return ToldRows(asked)

    forward = ranked  # of a pass whose time alone is wanted

    def keep(self, talk: Conversation, total: int, rows: Sequence[int]) -> None:
        """Of the newest `total` tokens keep only `rows`."""
        first = len(talk.ids) - total
        talk.ids[first:] = [talk.ids[first + row] for row in rows]

    def rollback(self, talk: Conversation, n: int) -> None:
        if n:
            del talk.ids[-n:]

    def plain(
        self,
        prompt: Sequence[int],
        budget: int,
        settings: Settings,
        stop_ids: frozenset[int],
        should_stop: Callable[[], bool] = never,
    ) -> Iterator[int]:
        """The server's own plain decoding of a prompt, a token at a time as they come."""
        talk = Conversation(settings, should_stop, list(prompt[:-1]), len(prompt))
        return self.server.plain(list(prompt), budget, stop_ids, talk)


NO_HIDDEN_STATES = (
    "This drafter reads the target's own hidden states or key-value cache, which a server does not give away: choose a "
    "standalone diffusion model as the drafter, or none (drafts are then copies of the text so far and what an n-gram "
    "adds)."
)
