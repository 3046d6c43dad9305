"""Who may use the models next: first come, first served, one at a time."""

from __future__ import annotations

import threading
from collections import deque

from diffuspec.errors import BusyError

# More waiting visitors than this are turned away: each keeps a thread of the server.
LONGEST = 24


class Turns:
    """The line before the models."""

    def __init__(self):
        self._line: deque[Turn] = deque()
        self._moved = threading.Condition()

    def join(self) -> Turn:
        """A place at the end; raises `BusyError` where the line is too long already."""
        with self._moved:
            if len(self._line) >= LONGEST:
                raise BusyError(
                    f"{len(self._line)} runs are waiting for the models already: try again in a few minutes."
                )
            turn = Turn(self)
            self._line.append(turn)
            return turn


class Turn:
    """One place in the line. It is this visitor's turn once nobody is ahead, until `leave`."""

    def __init__(self, turns: Turns):
        self._turns = turns

    @property
    def ahead(self) -> int | None:
        """How many are before this one; None once it has left."""
        with self._turns._moved:
            return self._turns._line.index(self) if self in self._turns._line else None

    def wait(self, seconds: float) -> bool:
        """Whether it is this one's turn, after waiting for it no longer than that."""
        line, moved = self._turns._line, self._turns._moved
        with moved:
            moved.wait_for(lambda: self not in line or line[0] is self, seconds)
            return bool(line) and line[0] is self

    def leave(self) -> None:
        """Give the place up, whether waited for or used; leaving twice does nothing."""
        with self._turns._moved:
            if self in self._turns._line:
                self._turns._line.remove(self)
                self._turns._moved.notify_all()
