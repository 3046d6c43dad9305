"""The models' host on scripted runs: order, places in the line, stopping."""

import threading
import time
from functools import partial

import pytest

from diffuspec.settings import Settings
from diffuspec.ui.shell.host import Host, Job
from tests.fakes.scripted import FakePair, FakeRun, fake_compare


class Watched:
    """A host that remembers the runs it started; a step takes `pause` seconds."""

    def __init__(self, pause=0.02):
        self.runs = []
        self.busy, self.most = 0, 0
        self.host = Host(lambda dtype, progress: FakePair(), partial(self._start, pause), fake_compare)

    def _start(self, pause, pair, settings, prompt):
        self.runs.append(FakeRun(pair, settings, prompt, pause=pause))
        return self.runs[-1]


def follow(host, job, looks):
    for look in host.follow(job):
        looks.append(look)


@pytest.fixture
def watched():
    return Watched()


def job(prompt, tokens=24):
    return Job(prompt, Settings(max_new_tokens=tokens))


def test_jobs_are_served_in_order_each_told_its_place(watched):
    jobs = [job(f"visitor {i}", 60) for i in range(4)]
    seen = [[] for _ in jobs]
    threads = []
    for one, looks in zip(jobs, seen, strict=True):
        threads.append(threading.Thread(target=follow, args=(watched.host, one, looks)))
        threads[-1].start()
        time.sleep(0.08)
    for thread in threads:
        thread.join(30)
    assert [run.prompt for run in watched.runs] == [one.prompt for one in jobs]
    for one, looks in zip(jobs, seen, strict=True):
        assert looks[-1].final and looks[-1].trace.prompt == one.prompt
        assert {look.trace.prompt for look in looks if look.trace} == {one.prompt}
    places = [look.status.text for look in seen[3] if look.status and "queue" in look.status.text]
    assert places[0].startswith("Place 3 in the queue")
    assert places == sorted(places, reverse=True)


def test_one_stopped_while_waiting_never_runs_and_lets_the_next_move_up(watched):
    first, second, third = (job(name, 60) for name in ("first", "second", "third"))
    looks = {one.prompt: [] for one in (first, second, third)}
    threads = [threading.Thread(target=follow, args=(watched.host, one, looks[one.prompt])) for one in (first, second)]
    threads.append(threading.Thread(target=follow, args=(watched.host, third, looks["third"])))
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    second.stop()
    threads[1].join(2)
    assert not threads[1].is_alive() and not any(look.trace for look in looks["second"])
    for thread in threads:
        thread.join(30)
    assert [run.prompt for run in watched.runs] == ["first", "third"]
    assert looks["third"][-1].final


def test_closing_the_iterator_frees_the_models_within_a_step(watched):
    left = job("left", 400)
    following = watched.host.follow(left)
    while next(following).trace is None:
        pass
    following.close()
    looks = []
    started = time.perf_counter()
    follow(watched.host, job("next", 8), looks)
    assert looks[-1].final and time.perf_counter() - started < 5
    assert watched.runs[0].trace.stop_reason == "stopped"


def test_an_error_of_the_engine_gives_the_turn_back(watched):
    with pytest.raises(ValueError, match="can hold"):
        follow(watched.host, job("word " * 3000), [])
    looks = []
    follow(watched.host, job("after", 8), looks)
    assert looks[-1].final


def test_tokens_are_spelled_by_loaded_models_of_the_same_pair_only():
    host = Host(lambda dtype, progress: FakePair(), pair_name="fake")
    assert host.spell("fake", [1]) == {}
    host.warm_up().result(10)
    assert host.spell("fake", [0, 1]) == {0: "<|im_end|>", 1: "<|im_start|>"} and host.spell("other", [1]) == {}
