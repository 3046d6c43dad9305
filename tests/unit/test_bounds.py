"""What one visitor may take of a server: places, tokens, seconds, files, threads; and words for bad input."""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace

import gradio as gr
import pytest

from diffuspec.errors import BusyError, DiffuSpecError, PromptError, SettingsError
from diffuspec.settings import Settings
from diffuspec.ui.measure.events import MOST_QUESTIONS, asked, questions_asked
from diffuspec.ui.page import build
from diffuspec.ui.shell import files, host, visitors
from diffuspec.ui.shell.host import Host, Limits, Work, check_length, check_prompt, shared_with_others
from diffuspec.ui.shell.queue import LONGEST, OF_ONE_ADDRESS, OF_ONE_SCRIPTER, OF_ONE_SESSION, Client, Turns
from diffuspec.ui.shell.sessions import Sessions


def joined(turns: Turns, clients: list[Client]) -> int:
    made = 0
    for client in clients:
        try:
            turns.join(client)
            made += 1
        except BusyError:
            pass
    return made


def test_calls_of_one_script_leave_room_for_others():
    turns = Turns()
    assert joined(turns, [Client(f"s{i}", "10.0.0.1", script=True) for i in range(30)]) == OF_ONE_SCRIPTER
    assert joined(turns, [Client("page", "10.0.0.1")]) == 1
    assert joined(turns, [Client("other", "10.0.0.2", script=True)]) == 1


def test_one_page_and_one_address_are_bounded():
    turns = Turns()
    assert joined(turns, [Client("one", "10.0.0.1")] * 5) == OF_ONE_SESSION
    assert joined(turns, [Client(f"p{i}", "10.0.0.1") for i in range(30)]) == OF_ONE_ADDRESS - OF_ONE_SESSION
    assert joined(turns, [Client(f"q{i}", "10.0.0.2") for i in range(30)]) == LONGEST - OF_ONE_ADDRESS


def test_a_turn_on_a_shared_server_ends():
    shared = Host(limits=Limits(tokens=64, seconds=0.3))
    work = Work()
    for _ in shared.in_turn(work, lambda: work.stopped.wait(20), str, str):
        pass
    assert work.stopped.is_set() and "0.3 seconds" in work.cut
    with pytest.raises(SettingsError, match="at most 64 tokens"):
        shared.within(Settings(max_new_tokens=65))
    assert Host().within(Settings(max_new_tokens=4096)).max_new_tokens == 4096


@pytest.mark.parametrize(
    "address, shared",
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("::", True), ("box.lan", True)],
)
def test_what_a_shared_server_is(address, shared):
    assert shared_with_others(address) is shared


def test_long_prompts_are_refused_before_their_turn():
    with pytest.raises(PromptError, match="characters"):
        check_prompt("x" * (host.MOST_CHARACTERS + 1))

    def room(ids: list[str]) -> int:
        if len(ids) >= 2048:
            raise PromptError(f"{len(ids)} tokens")
        return 2048 - len(ids)

    pair = SimpleNamespace(encode=lambda text: text.split(), room=room)
    with pytest.raises(PromptError, match="3000 tokens"):
        check_length(pair, "word " * 3000)
    check_length(pair, "word " * 2000)


def test_an_unread_call_is_noticed(monkeypatch):
    waiting = iter([0, 1, 2, 3, 4, 2, 3, 4])
    monkeypatch.setattr(visitors.gradio_internals, "unread", lambda demo, session: next(waiting))
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(visitors.time, "monotonic", lambda: float(next(clock)))
    heard = visitors.Listener(None, "s", patience_s=55.0)
    assert [heard.listens() for _ in range(7)] == [True, True, True, True, True, True, True]
    monkeypatch.setattr(visitors.gradio_internals, "unread", lambda demo, session: 9)
    assert [heard.listens() for _ in range(8)][-1] is False


@pytest.mark.parametrize("limit", [0, -3, None, 2.5, float("nan"), MOST_QUESTIONS + 1])
def test_question_counts_that_make_no_sense_are_refused_in_words(limit):
    with pytest.raises(SettingsError, match=f"whole number from 1 to {MOST_QUESTIONS}"):
        questions_asked(limit)


def test_a_question_count():
    assert questions_asked(6.0) == 6


def test_a_bad_question_file_is_named_without_its_folder(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("no JSON\n", encoding="utf-8")
    with pytest.raises(DiffuSpecError) as caught:
        asked(str(path))
    assert "mine.jsonl" in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_files_handed_out_go_by_age_and_by_room(tmp_path, monkeypatch):
    monkeypatch.setattr(files.gradio_internals, "served_folder", lambda: str(tmp_path))
    monkeypatch.setattr(files, "HANDED_BYTES", 2500)

    def hand(age: float):
        path = files.handed_out("a.csv")
        path.write_bytes(b"x" * 1000)
        os.utime(path.parent, (time.time() - age,) * 2)
        return path

    old, early, middle, late = hand(files.HANDED_S + 5), hand(900), hand(600), hand(300)
    files.handed_out("b.csv")
    assert [path.exists() for path in (old, early, middle, late)] == [False, False, True, True]


def test_closed_tabs_share_one_thread_and_are_forgotten():
    with gr.Blocks() as demo:
        gr.HTML()
    before = set(threading.enumerate())  # other apps of this process have their own
    sessions = Sessions(demo, kept_s=0.4)
    for number in range(20):
        demo.state_holder.session_data[f"s{number}"] = object()
        sessions.leave(SimpleNamespace(session_hash=f"s{number}"))
    assert sum(thread.name == "closed tabs" for thread in set(threading.enumerate()) - before) == 1
    until = time.monotonic() + 20
    while len(demo.state_holder.session_data) and time.monotonic() < until:
        time.sleep(0.05)
    assert not len(demo.state_holder.session_data)


def test_endpoints_are_three_and_state_each_bound():
    demo = build(Host())
    shown = {fn.api_name: fn for fn in demo.fns.values() if fn.api_visibility == "public"}
    assert set(shown) == {"run", "trace", "search"}
    for fn in shown.values():
        said = " ".join(str(part.api_info().get("additional_description")) for part in fn.inputs)
        for knob in Settings.knobs().values():
            assert f"{knob.name}: " in said
        assert "max_new_tokens: a whole number from 1 to 4096 (default 128)" in said
        assert "seed: a whole number from 0 to 2147483647" in said
