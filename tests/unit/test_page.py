"""What the page is launched with, and what it costs while nobody uses it."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time

import pytest

from diffuspec.ui.page import build, launch_options
from diffuspec.ui.shell.host import Host


@pytest.mark.parametrize("installed", [True, False])
def test_the_endpoints_are_mcp_tools_only_where_mcp_is_installed(monkeypatch, installed):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: installed or None if name == "mcp" else real(name, *rest)
    )
    assert launch_options()["mcp_server"] is installed


def test_an_idle_server_looks_for_work_a_hundred_times_a_second_at_most(monkeypatch):
    real, slept = asyncio.sleep, []

    def sleep(seconds, *rest):
        slept.append(sys._getframe(1).f_code.co_filename)
        return real(seconds, *rest)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    demo = build(Host(lambda dtype, progress: None))
    demo.launch(quiet=True, prevent_thread_lock=True, inbrowser=False, **launch_options())
    try:
        time.sleep(0.5)
        slept.clear()
        time.sleep(2)
        looks = sum(name.endswith("queueing.py") for name in slept)
    finally:
        demo.close(verbose=False)
    assert 0 < looks <= 200


def test_only_the_notice_hears_how_far_hidden_events_are():
    demo = build(Host(lambda dtype, progress: None))
    config = demo.get_config_file()
    events = [event for event in config["dependencies"] if event["show_progress"] == "hidden"]
    assert len(events) > 20
    (told,) = {tuple(event["show_progress_on"]) for event in events}
    (notice,) = told
    assert next(part for part in config["components"] if part["id"] == notice)["props"]["elem_id"] == "notice"
