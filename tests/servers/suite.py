"""What has to hold of any server as the target: run against a real one by `tests/servers/vllm`, not collected in CI.

DIFFUSPEC_SERVER_URL=http://HOST:PORT [DIFFUSPEC_SERVER_TARGET=MODEL] python -m pytest tests/servers/suite.py
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from diffuspec import DiffuSpec, Settings, Trace, load_pair
from diffuspec.measure.baselines import compare_with_ar
from tests.model.test_llama_server_target import Half

PROMPTS = [f"Count from {n} to {n + 9}, then say what comes next." for n in range(12)]
PATH = Settings(search="argmax", length="fixed", k=6)
TREE = Settings(search="tree", length="fixed", k=4, nodes=9)


@pytest.fixture(scope="module")
def pair():
    return load_pair(
        target_url=os.environ["DIFFUSPEC_SERVER_URL"], target=os.environ.get("DIFFUSPEC_SERVER_TARGET") or None
    )


def with_answer(pair, ids, answer):
    drafter = Half(pair.target.vocab_size, ids, answer)
    return dataclasses.replace(pair, drafter=drafter, info=dataclasses.replace(pair.info, max_draft=20))


@pytest.mark.parametrize("settings", [PATH, TREE], ids=["path", "tree"])
def test_answers_are_the_servers_own(pair, settings):
    requests = tokens = 0
    for prompt in PROMPTS:
        ids = pair.encode(prompt)
        expected = list(pair.target.plain(ids, 64, settings, pair.stop_ids))
        trace = DiffuSpec(with_answer(pair, ids, expected), settings).run(ids=ids, max_new_tokens=64)
        difference = compare_with_ar(pair, trace).difference
        # No server promises the same bits for other batches: where an answer parts, both tokens must be as likely.
        assert difference is None or (difference.gap is not None and abs(difference.gap) < 1e-2), difference
        print(prompt, "identical" if difference is None else difference)
        requests += sum(step.verification.server.requests for step in trace.steps)
        tokens += trace.new_tokens
        assert Trace.loads(trace.dumps()).dumps() == trace.dumps()
    print(f"{requests} requests for {tokens} tokens, {requests / tokens:.3f} each")
    assert requests / tokens < 0.45


def test_rows_are_those_of_single_requests(pair):
    """A path verified in one request tells what one prompt a place tells."""
    ids = pair.encode(PROMPTS[0])
    expected = list(pair.target.plain(ids, 24, PATH, pair.stop_ids))
    for draft in (expected[:8], [*expected[:3], 40, 41]):
        talk = pair.target.start(ids, PATH)
        rows = pair.target.ranked(talk, [ids[-1], *draft])
        talk = pair.target.start(ids, PATH)
        apart = pair.target.server.fan_out(talk, [ids[-1], *draft], list(range(-1, len(draft))))
        assert rows.likeliest.tolist() == [row.token for row in apart.rows]
        for place, row in enumerate(apart.rows):
            told = {i: rows.gap(place, i, row.ids[0]) for i in row.ids[:3]}
            for i, logp in zip(row.ids[:3], row.logp[:3], strict=True):
                assert told[i] == pytest.approx(logp - row.logp[0], abs=2e-2)
    took = rows.took
    print(f"one path: {took.requests} request, {took.prompts} prompts, {took.total_ms:.1f} ms, read {took.recomputed}")


def test_a_second_run_of_the_same_text_is_not_misled_by_the_servers_cache(pair):
    ids = pair.encode(PROMPTS[1])
    expected = list(pair.target.plain(ids, 48, PATH, pair.stop_ids))
    runs = [DiffuSpec(with_answer(pair, ids, expected), PATH).run(ids=ids, max_new_tokens=48) for _ in range(2)]
    assert runs[0].token_ids == runs[1].token_ids


def test_sampled_answers_follow_what_the_server_says_is_likely(pair):
    ids, runs = pair.encode(PROMPTS[2]), 120
    greedy = DiffuSpec(with_answer(pair, ids, []), PATH).run(ids=ids, max_new_tokens=1).steps[0].verification
    p = np.exp(greedy.top_logp[0, :3].astype(float))
    expected = runs * p / p.sum()
    sampled = PATH.replace(temperature=1.0, top_k=3)
    made = [DiffuSpec(with_answer(pair, ids, []), sampled).run(ids=ids, max_new_tokens=1) for _ in range(runs)]
    counts = np.array([sum(t.token_ids[0] == i for t in made) for i in greedy.top_ids[0, :3]])
    assert counts.sum() == runs and ((counts - expected) ** 2 / np.maximum(expected, 1e-3)).sum() < 18.4
