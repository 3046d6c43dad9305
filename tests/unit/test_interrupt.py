"""Ctrl-C between two steps: heard wherever it comes, and only once without an exception."""

import gc
import signal
import threading

import pytest

from diffuspec.cli.interrupt import interruptible


def press():
    signal.raise_signal(signal.SIGINT)


class PressedAtTheEnd:
    """Python ignores what a finaliser raises."""

    def __del__(self):
        press()


def test_a_press_is_told_and_a_second_one_raises():
    with interruptible() as interrupted:
        assert not interrupted()
        press()
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            press()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_press_is_heard_where_an_exception_would_be_ignored():
    with interruptible() as interrupted:
        one = PressedAtTheEnd()
        del one
        gc.collect()
        assert interrupted()


def test_afterwards_a_press_does_what_it_did_before():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), interruptible():
        assert signal.getsignal(signal.SIGINT) is not before
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_hear_nothing_and_change_nothing():
    told, before = [], signal.getsignal(signal.SIGINT)

    def work():
        with interruptible() as interrupted:
            told.append((interrupted(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told == [(False, before)]
