"""What the threads of a pass do when one of them fails, when the process forks, and when they must wait long."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from diffuspec.models.int8 import decoder
from diffuspec.models.int8.threads import meet, new_counter, release
from diffuspec.models.target import Target

ROOT = Path(__file__).parents[2]


def test_threads_that_come_late_wake_those_that_sleep():
    counter, met = new_counter(), []
    threads = [threading.Thread(target=lambda: met.append(meet(counter, 3)), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)  # long enough to fall asleep
    for thread in threads:
        thread.join(30)
    assert met == [True] * 3 and counter.tolist() == [3, 0]


def test_released_threads_are_told_so():
    counter, met = new_counter(), []
    thread = threading.Thread(target=lambda: met.append(meet(counter, 2)), daemon=True)
    thread.start()
    time.sleep(0.05)
    release(counter)
    thread.join(30)
    assert met == [False] and not meet(counter, 9)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_in_one_share_is_raised_and_the_models_answer_again(tiny, monkeypatch, failing):
    monkeypatch.setattr(decoder, "_most_threads", lambda: 3)
    target, ids, threads = Target(tiny.model(), arithmetic="int8"), list(range(5, 25)), torch.get_num_threads()
    decoder._helpers.cache_clear()
    run = decoder.run

    def fails(t, *pass_):
        if t == failing:
            raise MemoryError("no room")
        run(t, *pass_)

    try:
        torch.set_num_threads(3)
        before = target.forward(target.new_cache(), ids)
        monkeypatch.setattr(decoder, "run", fails)
        with pytest.raises(MemoryError, match="no room"):
            target.forward(target.new_cache(), ids)
        monkeypatch.setattr(decoder, "run", run)
        assert torch.equal(target.forward(target.new_cache(), ids), before)
    finally:
        torch.set_num_threads(threads)
        decoder._helpers.cache_clear()


FORKED = """
import os, threading, torch
from transformers import LlamaConfig, LlamaForCausalLM
from diffuspec.models.int8 import decoder
from diffuspec.models.target import Target

torch.set_num_threads(2)
torch.manual_seed(0)
shape = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
target = Target(LlamaForCausalLM(LlamaConfig(vocab_size=264, **shape)), arithmetic="int8")
logits = lambda: target.forward(target.new_cache(), list(range(5, 25))).numpy().tobytes()
before = logits()
with decoder._one_pass:  # another thread's pass, at the moment of the fork
    child = os.fork()
    if not child:
        os._exit(0 if logits() == before else 1)
status = os.waitpid(child, 0)[1]
assert logits() == before
print("child", os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_answers():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.stdout.strip() == "child 0", done.stderr
