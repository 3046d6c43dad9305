"""How many threads take part in a pass: all of them or one, whichever has been faster of late.

The threads of a pass meet some 200 times. Where neighbours keep the cores busy, each meeting waits for whichever thread
the kernel has just sent to sleep, and one thread alone is done sooner; the same holds for a few rows of a small model,
which one core reads as fast as memory gives them. The bits of a pass do not depend on the choice.
"""

from __future__ import annotations

TRY = 4  # passes of a try of the other choice
SOONEST, LATEST = 32, 1024  # passes between tries: fewest, and most after tries that changed nothing
RECENT = 1 / 8  # weight of a pass in the running mean of its choice
BETTER = 0.97  # the other choice must take less than this share of the time
CHANGED = 1.3  # a mean that moved by this factor calls for a new try soon


class Choice:
    """All threads or one, for passes of about the same number of rows."""

    def __init__(self):
        self.together = True
        self._means: dict[bool, float] = {}  # seconds of a pass
        self._left, self._since, self._wait = 0, 0, SOONEST
        self._settled: float | None = None  # the mean when the choice was last looked at

    def next(self) -> bool:
        """Whether all threads take part in the next pass."""
        if not self._left and self._since >= self._wait:
            self._left, self._since = TRY, 0
        return self.together != bool(self._left)

    def took(self, together: bool, seconds: float) -> None:
        """Learn from a pass."""
        is_try = together != self.together
        weight = 1 / 2 if is_try else RECENT
        before = self._means.get(together, seconds)
        self._means[together] = mean = before + weight * (seconds - before)
        if is_try:
            self._left -= 1
            if not self._left:
                self._decide()
            return
        self._since += 1
        if self._settled is None:
            self._settled = mean
        elif not self._settled / CHANGED < mean < self._settled * CHANGED:
            self._wait, self._settled = SOONEST, mean

    def _decide(self) -> None:
        other = not self.together
        if self._means[other] < BETTER * self._means[self.together]:
            self.together, self._wait = other, SOONEST
        else:
            self._wait = min(2 * self._wait, LATEST)
        self._settled = self._means[self.together]


class Team:
    """A `Choice` for each size of pass: rows 1, 2 to 3, 4 to 7, ..."""

    def __init__(self):
        self._choices: dict[int, Choice] = {}

    def choice(self, rows: int) -> Choice:
        return self._choices.setdefault(rows.bit_length(), Choice())
