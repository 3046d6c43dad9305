"""What a page stops when its visitor presses Stop or leaves: that visitor's own work, on that page alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from diffuspec.ui.diagnose.events import Diagnoses
from diffuspec.ui.lab.events import Lab
from diffuspec.ui.measure.events import Studies
from diffuspec.ui.playground.events import Runs
from diffuspec.ui.race.events import Races
from diffuspec.ui.shell.host import Work

ME, OTHER = (SimpleNamespace(session_hash=name) for name in ("me", "other"))
PAGES = {
    "playground": (Runs, [SimpleNamespace(host=None, runs=None, controls={})], "jobs"),
    "lab": (Lab, [None], "work"),
    "race": (Races, [None, {}, []], "works"),
    "measure": (Studies, [None, []], "works"),
    "diagnose": (Diagnoses, [None, []], "works"),
}


@pytest.fixture
def handlers():
    """Page -> (its handlers, what its visitors wait for, by session)."""
    made = {}
    for name, (kind, arguments, held) in PAGES.items():
        page = kind(*arguments)
        getattr(page, held).update(me=Work(), other=Work())
        made[name] = page, dict(getattr(page, held))
    return made


def stopped(handlers) -> set[tuple[str, str]]:
    return {(page, who) for page, (_, works) in handlers.items() for who in works if works[who].stopped.is_set()}


@pytest.mark.parametrize("page", PAGES)
def test_leaving_stops_that_visitors_work_on_that_page_alone(handlers, page):
    handlers[page][0].leave(ME)
    assert stopped(handlers) == {(page, "me")}
    handlers[page][0].leave(ME)  # twice does nothing
    assert stopped(handlers) == {(page, "me")}


@pytest.mark.parametrize("page", ["playground", "race", "measure", "diagnose"])
def test_stop_stops_that_visitors_work_on_that_page_alone(handlers, page):
    handlers[page][0].stop(OTHER)
    assert stopped(handlers) == {(page, "other")}
