"""The line before the models."""

import threading

import pytest

from diffuspec.errors import BusyError
from diffuspec.ui.shell.queue import LONGEST, Turns


def test_first_come_first_served():
    turns = Turns()
    first, second, third = turns.join(), turns.join(), turns.join()
    assert [t.ahead for t in (first, second, third)] == [0, 1, 2]
    assert first.wait(0) and not second.wait(0)
    first.leave()
    assert first.ahead is None and not first.wait(0)
    assert second.wait(0) and third.ahead == 1


def test_one_who_leaves_the_line_lets_the_others_move_up():
    turns = Turns()
    first, second, third = turns.join(), turns.join(), turns.join()
    second.leave()
    second.leave()
    assert third.ahead == 1 and first.ahead == 0


def test_a_waiting_one_wakes_when_its_turn_comes_and_when_it_is_taken_out():
    turns = Turns()
    first, second, third = turns.join(), turns.join(), turns.join()
    woken = {}
    threads = [
        threading.Thread(target=lambda name=name, turn=turn: woken.update({name: turn.wait(10)}))
        for name, turn in (("second", second), ("third", third))
    ]
    for thread in threads:
        thread.start()
    third.leave()
    first.leave()
    for thread in threads:
        thread.join(5)
    assert woken == {"second": True, "third": False}


def test_an_overlong_line_turns_newcomers_away_and_recovers():
    turns = Turns()
    line = [turns.join() for _ in range(LONGEST)]
    with pytest.raises(BusyError, match="try again"):
        turns.join()
    line[3].leave()
    assert turns.join().ahead == LONGEST - 1
