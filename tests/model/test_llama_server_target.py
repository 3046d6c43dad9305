"""llama.cpp's real server as the target, on a tiny model that the test writes."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import urllib.request

import numpy as np
import pytest
import torch

from diffuspec import DiffuSpec, Settings, Trace, load_pair
from diffuspec.errors import PairError, ServerError
from diffuspec.loopback import direct
from diffuspec.measure.baselines import compare_with_ar
from diffuspec.models.drafter import DiffusionDrafter
from diffuspec.models.remote.wire import Wire
from tests.fakes import gguf_files
from tests.fakes.llama_process import LlamaProcess

PROMPTS = [f"return {number} {{ return 12 }} re" for number in range(20)]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "tiny.gguf"
    gguf_files.write(path, gguf_files.tiny("qwen2"))
    return path


@pytest.fixture(scope="module")
def server(gguf):
    process = LlamaProcess(gguf, 300, slots=7)
    yield process
    process.kill()


@pytest.fixture(scope="module")
def pair(server):
    return load_pair(target_url=server.url)


class Half(DiffusionDrafter):
    """Knows the answer, but errs in every fourth place."""

    max_block = 20

    def __init__(self, width: int, prompt: list[int], answer: list[int]):
        self.width, self.text = width, [*prompt, *answer]

    def logits(self, prefix, block, cache):
        assert self.text[: len(prefix)] == list(prefix)
        rows = torch.zeros(len(block), self.width)
        for i, place in enumerate(range(len(prefix), len(prefix) + len(block))):
            right = self.text[place] if place < len(self.text) else 5
            rows[i, (right + (place % 4 == 0)) % self.width] = 9.0
        return rows


def own_decoding(url: str, ids: list[int], tokens: int) -> list[int]:
    """What the server itself answers to one plain request of its own protocol, from nothing in its cache."""
    body = dict(prompt=ids, n_predict=tokens, temperature=0, top_k=1, cache_prompt=False, return_tokens=True)
    request = urllib.request.Request(
        f"{url}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with direct.open(request) as answer:
        return json.load(answer)["tokens"]


SETTINGS = {
    "copies": Settings(search="tree", length="fixed", nodes=6, copy=1),
    "a path": Settings(search="argmax", length="fixed", k=6),
    "a tree": Settings(search="tree", length="fixed", k=4, nodes=9),
    "adaptive": Settings(search="cps", length="adl", k_min=2, k_max=12),
}


@pytest.mark.parametrize("how", SETTINGS)
def test_every_answer_is_the_servers_own_token_for_token(server, pair, how):
    accepted = requests = tokens = 0
    for prompt in PROMPTS[:: 1 if how == "copies" else 4]:
        ids = pair.encode(prompt)
        expected = own_decoding(server.url, ids, 48)
        drafted = pair if how == "copies" else with_drafter(pair, Half(pair.target.vocab_size, ids, expected))
        trace = DiffuSpec(drafted, SETTINGS[how]).run(ids=ids, max_new_tokens=48)
        assert list(trace.token_ids) == expected
        took = [step.verification.server for step in trace.steps]
        accepted += sum(step.accepted for step in trace.steps)
        requests, tokens = requests + sum(one.requests for one in took), tokens + len(expected)
        for step, one in zip(trace.steps[1:], took[1:], strict=True):
            nodes = len(step.search.tree) if step.search.tree is not None else len(step.path)
            assert (one.requests, one.prompts) == (1, nodes + 1)
            assert one.recomputed >= one.prompts and 0 < one.server_ms <= one.total_ms
    assert accepted
    if how == "a path":
        assert requests / tokens < 0.45


def with_drafter(pair, drafter):
    return dataclasses.replace(pair, drafter=drafter, info=dataclasses.replace(pair.info, max_draft=drafter.max_block))


def test_the_first_token_needs_no_request_but_the_one_that_reads_the_prompt(pair):
    trace = DiffuSpec(pair, SETTINGS["copies"]).run(ids=[30, 31], max_new_tokens=1)
    assert [step.verification.server.requests for step in trace.steps] == [0]


def test_the_trace_tells_what_the_server_told_and_no_more(pair):
    trace = DiffuSpec(pair, SETTINGS["copies"]).run(PROMPTS[0], max_new_tokens=32)
    for step in trace.steps:
        check = step.verification
        assert check.top_ids.shape == (len(step.path) + 1, 8)
        assert check.top_ids[: len(check.draws), 0].tolist() == list(check.draws)
        assert (np.diff(check.top_logp, axis=1) <= 1e-6).all() and (check.top_logp < 0).all()
        for place, token in enumerate(step.path):
            told = check.top_ids[place].tolist()
            known = token in told
            assert np.isnan(check.path_logp[place]) != known
            assert check.path_rank[place] == (told.index(token) if known else -1)
    assert trace.pair.name == "server" and trace.pair.dtype == "llama.cpp"
    assert Trace.loads(trace.dumps()).dumps() == trace.dumps()
    assert str(pair.target.server.wire.place) not in trace.dumps().decode()


def test_a_first_difference_is_told_with_its_gap(pair):
    trace = DiffuSpec(pair, SETTINGS["copies"]).run(PROMPTS[1], max_new_tokens=12)
    assert compare_with_ar(pair, trace).difference is None
    step = trace.steps[0]
    likely = [int(token) for token in step.verification.top_ids[0]]
    other = dataclasses.replace(step, emitted=(likely[1], *step.emitted[1:]))
    wrong = dataclasses.replace(trace, steps=(other, *trace.steps[1:]))
    wrong.__dict__.pop("token_ids", None)
    found = compare_with_ar(pair, wrong).difference
    assert (found.position, found.expected, found.got) == (0, likely[0], likely[1])
    assert found.gap == pytest.approx(float(-np.diff(step.verification.top_logp[0])[0]), abs=1e-3)


def test_sampled_answers_are_drawn_by_the_server(pair):
    """Direct draws of the server against those through drafts, of the second token after one drafted in two places."""
    settings = Settings(search="tree", length="fixed", nodes=4, temperature=1.0, top_k=3)
    runs, ids = 150, pair.encode(PROMPTS[2])
    made = [DiffuSpec(pair, settings).run(ids=ids, max_new_tokens=2) for _ in range(runs)]
    firsts = [trace.token_ids[0] for trace in made]
    row = DiffuSpec(pair, SETTINGS["copies"]).run(ids=ids, max_new_tokens=1).steps[0].verification
    p = np.exp(row.top_logp[0, :3].astype(float))
    expected = runs * p / p.sum()
    counts = np.array([firsts.count(int(token)) for token in row.top_ids[0, :3]])
    assert counts.sum() == runs
    assert ((counts - expected) ** 2 / expected).sum() < 18.4  # chi-square, 2 degrees, p = 1e-4
    assert np.isnan(made[0].steps[0].verification.top_logp).all()


def test_the_throughput_policy_weighs_requests_by_what_they_take(pair):
    cost = pair.step_cost
    assert [rows for rows, _ in cost.verify] == [1, 2, 4, 8, 12, 16, 24] and cost.verify[0][1] > 0
    trace = DiffuSpec(pair).run(PROMPTS[3], max_new_tokens=24)
    assert trace.settings.length == "throughput" and trace.steps[0].length.rate > 0
    assert list(trace.token_ids) == own_decoding(pair.target.source, list(trace.prompt_ids), 24)


def test_another_tokenizer_is_refused_with_the_text_it_differs_in(server, tmp_path):
    other = tmp_path / "other.gguf"
    gguf_files.write(other, gguf_files.tiny("qwen2"), tokenizer_pre="llama-bpe")
    with pytest.raises(PairError, match="cut text into different tokens.*--target"):
        load_pair(target_url=server.url, target=str(other))


def test_what_the_server_says_of_a_mistake_is_shown(pair):
    with pytest.raises(ServerError, match="400: .*invalid tokens"):
        pair.target.server.wire.post("/completion", {"prompt": [10**6], "n_predict": 1})


def test_a_run_is_stopped_within_a_request(gguf):
    process = LlamaProcess(gguf, 300, slots=2)
    try:
        run = DiffuSpec(load_pair(target_url=process.url), SETTINGS["copies"]).stream(PROMPTS[0], max_new_tokens=200)
        next(run)
        process.kill()
        threading.Timer(0.5, run.stop).start()
        started = time.monotonic()
        assert len(list(run)) <= 1 and run.stop_reason == "stopped"
        assert time.monotonic() - started < 5
        assert len(run.trace.steps) >= 1
    finally:
        process.kill()


def test_a_server_that_stays_away_is_one_sentence_and_what_was_made_is_kept(gguf):
    process = LlamaProcess(gguf, 300, slots=2)
    pair = load_pair(target_url=process.url)
    pair.target.server.wire.patience_s = 1.0
    run = DiffuSpec(pair, SETTINGS["copies"]).stream(PROMPTS[0], max_new_tokens=200)
    made = [*next(run).emitted, *next(run).emitted]
    process.kill()
    with pytest.raises(ServerError, match="cannot be reached"):
        list(run)
    assert run.stop_reason == "failed" and list(run.trace.token_ids)[:2] == made[:2]
    with pytest.raises(ServerError, match="cannot be reached"):
        load_pair(target_url=process.url)


def test_a_thousand_requests_to_a_server_killed_and_restarted_twice(gguf):
    process = LlamaProcess(gguf, 300, slots=4)
    try:
        pair = load_pair(target_url=process.url)
        expected = {prompt: own_decoding(process.url, pair.encode(prompt), 40) for prompt in PROMPTS}
        requests, deaths, wrong, answers = 0, [300, 650], [], 0
        settings = Settings(search="tree", length="fixed", nodes=4)
        while requests < 1000:
            prompt = PROMPTS[answers % len(PROMPTS)]
            answers += 1
            run = DiffuSpec(pair, settings).stream(prompt, max_new_tokens=40)
            for step in run:
                requests += step.verification.server.requests
                if deaths and requests > deaths[0]:
                    deaths.pop(0)
                    process.kill()
                    threading.Timer(0.3, process.start).start()
            if list(run.trace.token_ids) != expected[prompt]:
                wrong.append((prompt, run.trace.token_ids))
        assert not wrong and not deaths
    finally:
        process.kill()


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8080", "ftp://host", "http://", "http://host:99999", "http://me:secret@host", "http://h/?a=1"],
)
def test_what_is_no_address_is_refused_before_anything_is_sent(url):
    with pytest.raises(ServerError, match="address") as error:
        Wire(url)
    assert "secret" not in str(error.value)
