"""Calls whose answers nobody reads, over HTTP: they must not keep visitors from the models."""

from __future__ import annotations

import time

import httpx
import pytest
from gradio_client import Client

from diffuspec.ui.page import build, launch_options
from diffuspec.ui.shell import visitors
from diffuspec.ui.shell.host import Host
from tests.fakes.scripted import FakePair, FakeRun, fake_compare

CALLS = 30
ALONE_S = 60.0  # one of the runs, read to its end, takes about that long


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(visitors, "PATIENCE_S", 1.0)
    runs = []

    def start(pair, settings, prompt):
        runs.append(FakeRun(pair, settings, prompt, pause=2.0 if prompt == "unread" else 0.01))
        return runs[-1]

    host = Host(lambda dtype, progress: FakePair(), start, fake_compare, pair_name="fake")
    demo = build(host)
    host.warm_up().result()
    demo.launch(prevent_thread_lock=True, quiet=True, inbrowser=False, **launch_options())
    yield demo.local_url, runs
    demo.close(verbose=False)


def test_thirty_calls_that_nobody_reads_keep_nobody_out(server):
    url, runs = server
    call = {"data": ["unread", "{}", "int8", False]}
    with httpx.Client(base_url=url, timeout=30) as http:
        events = [
            http.post("gradio_api/call/run", json=call).raise_for_status().json()["event_id"] for _ in range(CALLS)
        ]
    assert len(set(events)) == CALLS
    until = time.monotonic() + 20
    while not runs and time.monotonic() < until:
        time.sleep(0.05)
    assert runs, "none of the calls began"
    until, answer = time.monotonic() + ALONE_S / 2, None
    while answer is None:
        try:
            answer = Client(url, verbose=False).predict("read", "{}", "int8", False, api_name="/run")
        except Exception as error:
            assert "read their answers first" in str(error) and time.monotonic() < until, error
            time.sleep(0.3)
    unread = [run for run in runs if run.prompt == "unread"]
    assert answer["new_tokens"] > 0 and len(unread) < CALLS
    assert all(run.trace.stop_reason == "stopped" for run in unread)
