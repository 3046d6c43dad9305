"""Pairs that come and go, on loads that tests hold back."""

from __future__ import annotations

import gc
import threading
import weakref
from types import SimpleNamespace

import pytest

from diffuspec.errors import PairError, WeightsError
from diffuspec.ui.shell.host import Host, Limits, Work
from diffuspec.ui.shell.shelf import Shelf, Unloaded

MB = 10**6


class Thing:
    """Stands for a pair of models."""


class Load:
    """Makes a `Thing` once `go` is set; `wants`: bytes that it asks room for."""

    def __init__(self, wants=0, error=None):
        self.wants, self.error = wants, error
        self.go, self.made, self.had_room = threading.Event(), [], None
        self.go.set()
        self.make_room = self.could_make_room = None

    def __call__(self, dtype, progress):
        progress(0.5, "half of it")
        assert self.go.wait(10)
        progress(0.9, "nearly")
        if self.wants:
            self.had_room = self.make_room(self.wants)
        if self.error:
            raise self.error
        thing = Thing()
        self.made.append(weakref.ref(thing))
        return thing


def loaded(shelf, key, dtype="int8", work=None, size=None):
    copy = shelf.ask(key, dtype, work)
    copy.ready.result(10)
    if size is not None:
        copy.size = size
    return copy


def gone(reference):
    gc.collect()
    return reference() is None


def test_pairs_are_loaded_once_and_unloading_frees_them():
    load = Load()
    shelf = Shelf({"a": load})
    assert loaded(shelf, "a") is loaded(shelf, "a") and len(load.made) == 1
    shelf.unload("a")
    assert gone(load.made[0]) and shelf.copies() == []
    loaded(shelf, "a")
    assert len(load.made) == 2


def test_another_arithmetic_of_a_pair_takes_the_place_of_the_first_unless_that_is_in_use():
    load, work = Load(), Work()
    shelf = Shelf({"a": load})
    loaded(shelf, "a", "int8", work)
    loaded(shelf, "a", "float32")
    assert not gone(load.made[0]), "somebody still computes with it"
    work.stop()
    loaded(shelf, "a", "bfloat16")
    assert gone(load.made[0]) and gone(load.made[1]) and [copy.dtype for copy in shelf.copies()] == ["bfloat16"]


def test_what_was_not_used_for_longest_makes_room_and_nothing_where_that_would_not_do():
    old, recent, busy, new = Load(), Load(), Load(), Load(wants=80 * MB)
    shelf = Shelf({"old": old, "recent": recent, "busy": busy, "new": new})
    work = Work()
    for key, user in (("old", None), ("recent", None), ("busy", work)):
        loaded(shelf, key, work=user, size=100 * MB)
    loaded(shelf, "old", size=100 * MB)
    loaded(shelf, "new")
    assert new.had_room and gone(recent.made[0]) and not gone(old.made[0]) and not gone(busy.made[0])
    greedy = Load(wants=900 * MB)
    shelf.add("greedy", greedy)
    loaded(shelf, "greedy")
    assert greedy.had_room is False and not gone(old.made[0])


def test_a_failed_load_is_told_and_leaves_the_others_alone():
    good, bad = Load(), Load(error=WeightsError("It is gated: accept its licence."))
    shelf = Shelf({"good": good, "bad": bad})
    loaded(shelf, "good")
    with pytest.raises(WeightsError, match="gated"):
        shelf.ask("bad", "int8").ready.result(10)
    assert not gone(good.made[0])
    bad.error = None
    assert shelf.ask("bad", "int8").ready.result(10), "the next call tries again"
    with pytest.raises(PairError, match="not offered here. Choose one of: good, bad"):
        shelf.ask("worse", "int8")


def test_a_load_can_be_given_up():
    load = Load()
    load.go.clear()
    shelf = Shelf({"a": load})
    copy = shelf.ask("a", "int8")
    shelf.unload("a")
    load.go.set()
    with pytest.raises(Unloaded):
        copy.ready.result(10)
    assert not load.made


def test_a_long_download_keeps_nobody_waiting():
    slow, quick = Load(), Load()
    held = threading.Event()
    slow.fetch = lambda dtype, progress: held.wait(10)
    shelf = Shelf({"slow": slow, "quick": quick})
    first = shelf.ask("slow", "int8")
    loaded(shelf, "quick")
    assert not first.ready.done()
    held.set()
    first.ready.result(10)


def test_a_visitor_keeps_the_old_pair_until_the_new_one_is_there():
    a, b = Load(), Load()
    b.go.clear()
    host = Host(pairs={"a": a, "b": b}, limits=Limits())
    host.want("me", "b")
    assert host.settle("me") == (None, None) and host.chosen("me") == "a"
    b.go.set()
    host._wanted["me"].ready.result(10)
    assert host.settle("me") == ("b", None) and host.chosen("me") == "b" and host.chosen("another") == "a"
    host.leave("me")
    assert host.chosen("me") == "a"


def test_a_failed_choice_leaves_the_old_pair_chosen():
    host = Host(pairs={"a": Load(), "b": Load(error=WeightsError("no"))})
    host.want("me", "b").ready.exception(10)
    key, error = host.settle("me")
    assert key is None and str(error) == "no" and host.chosen("me") == "a"


def test_alone_on_a_server_the_choice_holds_for_the_next_page():
    host = Host(pairs={"a": Load(), "b": Load()})
    host.want("me", "b").ready.result(10)
    host.settle("me")
    assert host.chosen("next page") == "b"


def test_work_uses_the_pair_that_its_visitor_chose():
    a, b = Load(), Load()
    host = Host(pairs={"a": a, "b": b}, limits=Limits())
    host.want("me", "b").ready.result(10)
    host.settle("me")
    for session, load in (("me", b), ("another", a)):
        work = Work(client=SimpleNamespace(session=session))
        steps = host.pair(work, "int8", lambda status: status)
        with pytest.raises(StopIteration) as end:
            while True:
                next(steps)
        assert end.value.value is load.made[-1]()
        assert host.shelf.copies(work.pair)[-1].in_use


def test_checkpoints_of_ones_own_only_where_nobody_else_is():
    with pytest.raises(PairError, match="Others share this server"):
        Host(pairs={"a": Load()}).name_own({"target": "x", "drafter": "y"})
    host = Host(pairs={"a": Load()}, own=True)
    assert host.name_own({"target": "x", "drafter": "y"}) == "x + y" and "x + y" in host.shelf.pairs
