"""Visitors' recent runs: the list that a browser keeps, and the traces that the server keeps for it."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace

import pytest

from diffuspec.ui.shell import mine
from diffuspec.ui.shell.mine import RecentRuns, added, entry, listed


def key() -> str:
    return uuid.uuid4().hex


def test_what_is_kept_comes_back_whole_and_under_its_own_key_alone(tiny_trace):
    runs, mine_, other = RecentRuns(), key(), key()
    runs.keep(mine_, tiny_trace)
    assert runs.get(mine_).dumps() == tiny_trace.dumps()
    assert runs.get(other) is None and other not in runs
    runs.keep(mine_, replace(tiny_trace, prompt="Later"))
    assert runs.get(mine_).prompt == "Later"


@pytest.mark.parametrize("bad", ["", "..", "../" * 10 + "ab", None, 7, "x" * 32 + "/", "é" * 32])
def test_no_other_text_is_a_key(bad):
    assert not mine.is_key(bad)
    assert RecentRuns().get(bad) is None


def test_the_oldest_go_first(tiny_trace, monkeypatch):
    runs, keys = RecentRuns(), [key() for _ in range(4)]
    runs.keep(keys[0], tiny_trace)
    size = runs._path(keys[0]).stat().st_size
    monkeypatch.setattr(mine, "KEPT_BYTES", int(2.5 * size))
    for age, one in enumerate(keys):
        runs.keep(one, tiny_trace)
        os.utime(runs._path(one), times=(1e9 + age, 1e9 + age))
        monkeypatch.setattr(mine, "KEPT_S", 1e12)
    runs._sweep()
    assert [one in runs for one in keys] == [False, False, True, True]


def test_a_list_of_a_browser_is_read_with_care():
    good = entry(key(), "  Why?  " + "x" * 500)
    assert good["prompt"].startswith("Why?") and len(good["prompt"]) == mine.PROMPT_CHARACTERS
    assert listed([good, {"key": "../../etc"}, 5, None, {"prompt": "no key"}]) == [good]
    assert listed(None) == listed("text") == listed({"key": good["key"]}) == []
    many = []
    for _ in range(20):
        many = added(many, entry(key(), "p"))
    assert len(many) == mine.LISTED
