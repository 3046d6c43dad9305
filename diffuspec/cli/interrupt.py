"""Ctrl-C between two steps.

As an exception an interrupt comes anywhere, and it is lost where Python cannot pass exceptions on: while a kernel is
compiled, in a finaliser, in a callback from C. The run then went on to its end as if nothing had been pressed.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether Ctrl-C was pressed; a second press raises `KeyboardInterrupt`, as ever.

    Outside the main thread, which alone hears of it, the function is always False.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return

    def press(*_) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
