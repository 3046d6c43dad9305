"""The pair that the app was started with, on machines that are described."""

from __future__ import annotations

import argparse

import pytest

import diffuspec
from diffuspec.cli.options import add_pair, asked_pair
from diffuspec.errors import PairError
from diffuspec.models import devices
from diffuspec.models.devices import Device
from diffuspec.ui.shell.host import Host
from diffuspec.ui.shell.loader import Loader, known_pairs, own_pair
from diffuspec.ui.shell.shelf import Shelf

GB = 10**9
GPU = Device("cuda", "cuda", 80 * GB, 80 * GB, False, True)
CPU = Device("cpu", "cpu", 80 * GB, 80 * GB, True, False)
PAIR = ["--target", "a", "--drafter", "b"]


def loader(monkeypatch, device, words=()):
    """A loader whose pairs are the arguments that `load_pair` was given."""
    monkeypatch.setattr(devices, "this_device", lambda name=None, dtype=None: CPU if name == "cpu" else device)
    monkeypatch.setattr(diffuspec, "load_pair", lambda progress, make_room, **asked: asked, raising=False)
    parser = argparse.ArgumentParser()
    add_pair(parser)
    return Loader(asked_pair(parser.parse_args(list(words))))


@pytest.mark.parametrize(
    ("device", "words", "asked", "given"),
    [
        (CPU, [], "int8", "int8"),
        (CPU, [], "float32", "float32"),
        (GPU, [], "int8", "bfloat16"),
        (GPU, [], "float32", "float32"),
        (GPU, ["--device", "cpu"], "int8", "int8"),
        (CPU, PAIR, "int8", "float32"),
        (GPU, PAIR, "int8", "bfloat16"),
        (CPU, [*PAIR, "--dtype", "int8"], "int8", "int8"),
        (GPU, ["--dtype", "float32"], "int8", "float32"),
        (GPU, ["--pair", "coder"], "bfloat16", "int8"),
        (CPU, ["--target", "x.gguf"], "float32", "int8"),
    ],
)
def test_a_page_gets_an_arithmetic_that_device_and_pair_have(monkeypatch, device, words, asked, given):
    assert loader(monkeypatch, device, words)(asked, print)["dtype"] == given


def test_one_arithmetic_is_loaded_once_whatever_it_is_called(monkeypatch):
    monkeypatch.setattr(Loader, "fetch", lambda self, dtype, progress: None)
    shelf = Shelf({"embedded": loader(monkeypatch, GPU)})
    pairs = [shelf.ask("embedded", dtype).ready.result(10) for dtype in ("int8", "bfloat16", "int8", "float32")]
    assert pairs[0] is pairs[1] is pairs[2] is not pairs[3]
    at_once = Shelf({"embedded": loader(monkeypatch, GPU)})
    waiting = [at_once.ask("embedded", dtype).ready for dtype in ("int8", "bfloat16")]
    assert waiting[0].result(10) is waiting[1].result(10)


def test_a_device_that_is_not_there_is_an_error_of_the_load_and_not_of_the_page(monkeypatch):
    load = loader(monkeypatch, GPU)
    monkeypatch.setattr(devices, "this_device", lambda name=None, dtype=None: (_ for _ in ()).throw(PairError("none")))
    assert str(Shelf({"embedded": load}).ask("embedded", "int8").ready.exception(10)) == "none"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "embedded"),
        (["--pair", "coder"], "coder"),
        (PAIR, "custom"),
        (["--target", "x.gguf"], "custom"),
    ],
)
def test_the_host_has_the_pair_that_was_asked_for(monkeypatch, words, name):
    monkeypatch.setattr(Loader, "fetch", lambda self, dtype, progress: None)
    read_as = ["--shifted"] if "--drafter" in words else []
    load = loader(monkeypatch, CPU, [*words, *read_as])
    host = Host(load, pair_name=load.pair_name)
    made = host.warm_up().result(10)
    assert load.pair_name == name and made["convention"] == ({"shifted": True} if read_as else {})
    assert (made["name"], made["target"]) == (
        (None, words[1]) if name == "custom" else (words[1] if words else None, None)
    )


def test_a_shared_server_offers_what_it_was_started_with_and_what_it_names():
    assert list(known_pairs({"name": "coder"}, [])) == ["coder"]
    assert list(known_pairs({}, ["coder"])) == ["embedded", "coder"]
    assert {"embedded", "coder", "dflash-qwen3-4b"} <= set(known_pairs({"target": "a", "drafter": "b"}))
    with pytest.raises(PairError, match="Unknown pair 'nope'"):
        known_pairs({}, ["nope"])


def test_a_page_names_two_checkpoints_and_how_the_drafter_is_read():
    told = {"target": " a/b ", "drafter": "c/d", "mask_token": "7", "shifted": "no", "layout": "", "attention": "full"}
    load = own_pair(told, "cpu")
    assert load.key == "a/b + c/d" and load.pair_name == "custom"
    assert load.asked["convention"] == {"mask_token": 7, "attention": "full", "shifted": False}
    assert own_pair({"target": "x.gguf"}).asked["drafter"] is None


@pytest.mark.parametrize(("told", "said"), [
    ({}, "Name a target"), ({"target": "  "}, "Name a target"), ({"target": 3}, "target is no text"),
    ({"target": "a", "drafter": "os:Popen"}, "is a program, which a page does not start"),
])  # fmt: skip
def test_what_a_page_must_not_name(told, said):
    with pytest.raises(PairError, match=said):
        own_pair(told)
