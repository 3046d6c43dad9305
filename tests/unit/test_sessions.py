"""Closed tabs are forgotten, unless they come back."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from datetime import datetime
from types import SimpleNamespace

from diffuspec.ui.shell.sessions import Sessions


def app(*names: str) -> SimpleNamespace:
    return SimpleNamespace(
        state_holder=SimpleNamespace(
            lock=threading.Lock(),
            session_data=OrderedDict.fromkeys(names, "trace"),
            time_last_used=dict.fromkeys(names, datetime.now()),
        )
    )


def until(holds, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def test_a_closed_tab_is_forgotten_and_others_are_kept():
    demo = app("gone", "open")
    Sessions(demo, kept_s=0.05).leave(SimpleNamespace(session_hash="gone"))
    assert until(lambda: "gone" not in demo.state_holder.session_data)
    assert list(demo.state_holder.session_data) == list(demo.state_holder.time_last_used) == ["open"]


def test_a_tab_that_came_back_keeps_its_trace_while_it_is_used():
    demo = app("back")
    Sessions(demo, kept_s=0.4).leave(SimpleNamespace(session_hash="back"))
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        demo.state_holder.time_last_used["back"] = datetime.now()
        time.sleep(0.01)
    assert "back" in demo.state_holder.session_data
    assert until(lambda: "back" not in demo.state_holder.session_data)
