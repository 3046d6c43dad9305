"""Who may use the models next: first come, first served, one at a time, and nobody takes all places."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from diffuspec.errors import BusyError

# More waiting visitors than this are turned away: each keeps a thread of the server.
LONGEST = 24
# Of these, at most so many for one page or client, for one address' scripts, and for one address with all its pages
# (a class behind one router is one address).
OF_ONE_SESSION, OF_ONE_SCRIPTER, OF_ONE_ADDRESS = 2, 4, 16


@dataclass(frozen=True)
class Client:
    """Who asks. session: the page's; address: of the network; script: by an endpoint of the API, not by a page."""

    session: str = ""
    address: str = ""
    script: bool = False


class Turns:
    """The line before the models, the one that uses them included."""

    def __init__(self):
        self._line: deque[Turn] = deque()
        self._moved = threading.Condition()

    def join(self, client: Client | None = None) -> Turn:
        """A place at the end. Raises `BusyError` where the line is too long already, or too much of it is this
        client's; None: nobody in particular."""
        with self._moved:
            if len(self._line) >= LONGEST:
                raise BusyError(
                    f"{len(self._line)} runs are waiting for the models already: try again in a few minutes."
                )
            if client is not None:
                self._bound(client)
            turn = Turn(self, client)
            self._line.append(turn)
            return turn

    def _bound(self, client: Client) -> None:
        mine = [turn.client for turn in self._line if turn.client and turn.client.address == client.address]
        same = sum(bool(client.session) and other.session == client.session for other in mine)
        scripts = sum(other.script for other in mine)
        if same >= OF_ONE_SESSION:
            raise BusyError(f"You have {same} runs waiting or running already: stop one, or wait until it has ended.")
        if client.script and scripts >= OF_ONE_SCRIPTER:
            raise BusyError(
                f"{scripts} calls from your address are waiting or running already: read their answers first, then "
                "call again."
            )
        if client.address and len(mine) >= OF_ONE_ADDRESS:
            raise BusyError(f"{len(mine)} runs from your address are waiting already: try again in a few minutes.")


class Turn:
    """One place in the line. It is this visitor's turn once nobody is ahead, until `leave`."""

    def __init__(self, turns: Turns, client: Client | None = None):
        self._turns, self.client = turns, client

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
