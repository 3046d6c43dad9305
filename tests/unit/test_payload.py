"""What the player is sent, as a pure function of a trace: whole at once, and bit by bit while a run goes on."""

import dataclasses
import time

import orjson
import pytest

from diffuspec.ui.player.merits import MEASURED, Source
from diffuspec.ui.player.payload import FIGURES_S, RECENT, Stream, payload
from tests.fakes.scripted import fake_trace

SOURCE = Source(MEASURED)


@pytest.fixture(scope="module")
def trace():
    return fake_trace(k_min=4, k_max=14, max_new_tokens=128)


def so_far(trace, steps):
    return dataclasses.replace(trace, steps=trace.steps[:steps], baseline=None, stop_reason="running")


def test_a_whole_trace_has_every_step_in_full(trace):
    body = orjson.loads(payload(trace, "one", at=(2, "verify")))
    assert len(body["steps"]) == len(trace.steps) and not body["live"]
    for drawn, step in zip(body["steps"], trace.steps, strict=True):
        assert drawn["detail"]["ids"] == step.lattice.ids.tolist()
        assert drawn["path"] == step.search.ids.tolist() and drawn["accepted"] == step.accepted
        assert drawn["oracle"] == trace.oracle(step.index)
        named = {*step.lattice.ids.ravel().tolist(), *step.verification.top_ids.ravel().tolist(), *step.emitted}
        assert named <= {int(token) for token in body["labels"]}
    assert set(body["figures"]) == {"adl", "acceptance", "stages"}
    assert body["at"] == {"step": 2, "phase": "verify"}


def test_looks_at_a_run_are_small_and_add_up_to_the_whole(trace, monkeypatch):
    stream, shown = Stream("one"), {}
    total = len(trace.steps)
    for count in [*range(0, total, 5), total]:
        body = orjson.loads(stream.payload(so_far(trace, count), SOURCE))
        assert body["live"] and len(body["steps"]) == count
        assert body["figures"] is None, "figures are for a run that goes on for a while"
        full = [step["i"] for step in body["steps"] if "detail" in step]
        assert full == list(range(max(count - RECENT, 0), count))
        shown.update({step["i"]: step for step in body["steps"] if "detail" in step})
    again = orjson.loads(stream.payload(so_far(trace, total), SOURCE))
    assert not any("detail" in step for step in again["steps"]) and again["figures"] is None
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + FIGURES_S)
    assert orjson.loads(stream.payload(so_far(trace, total - 1), SOURCE))["figures"]
    assert orjson.loads(stream.payload(so_far(trace, total), SOURCE))["figures"] is None
    whole = orjson.loads(payload(trace, "one", SOURCE))
    assert [shown[i]["detail"] for i in range(total)] == [step["detail"] for step in whole["steps"]]


def test_outlines_that_are_kept_say_what_they_would_say_anew(trace):
    stream = Stream("one")
    for count in range(1, len(trace.steps) + 1):
        running = so_far(trace, count)
        drawn = orjson.loads(stream.payload(running, SOURCE))["steps"]
        anew = orjson.loads(payload(running, "one", SOURCE))["steps"]
        assert [{**one, "detail": 0} for one in drawn] == [{**one, "detail": 0} for one in anew]


def test_a_look_costs_little_beside_a_step(trace):
    """No figure is built and no outline is made anew."""

    def cost(act):
        times = []
        for _ in range(5):
            started = time.thread_time()
            act()
            times.append(time.thread_time() - started)
        return min(times)

    running, stream = so_far(trace, len(trace.steps)), Stream("one")
    stream.payload(so_far(trace, 0), SOURCE)
    stream.payload(so_far(trace, len(trace.steps) - 1), SOURCE)
    assert cost(lambda: stream.payload(running, SOURCE)) < cost(lambda: payload(running, "one", SOURCE)) / 3
