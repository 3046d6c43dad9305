"""vLLM, SGLang and Ray Serve as the target, against stand-ins that answer as their releases do."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest

from diffuspec import DiffuSpec, Settings, Trace, load_pair
from diffuspec.errors import PairError, ServerError, SettingsError, WeightsError
from diffuspec.measure.baselines import compare_with_ar
from diffuspec.models.remote.wire import KEY
from tests.fakes import model_servers
from tests.fakes.model_servers import TABLE, ModelServer, greedy, log_p
from tests.fakes.tiny import byte_tokenizer
from tests.model.test_llama_server_target import Half

SETTINGS = {
    "path": Settings(search="argmax", length="fixed", k=6, max_new_tokens=60),
    "tree": Settings(search="tree", length="fixed", k=4, nodes=9, max_new_tokens=60),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(params=["vllm v1", "vllm v2", "sglang", "ray"])
def server(request, source):
    kind, _, runner = request.param.partition(" ")
    made = ModelServer("vllm" if kind == "ray" else kind, source, runner=runner)
    made.named = kind
    yield made
    made.close()


def served(server, **more):
    return load_pair(target_url=server.url, server="ray" if server.named == "ray" else None, **more)


def with_answer(pair, ids, tokens=60):
    drafter = Half(261, ids, greedy(ids, tokens, set(pair.stop_ids)))
    return dataclasses.replace(pair, drafter=drafter, info=dataclasses.replace(pair.info, max_draft=20))


@pytest.mark.parametrize("how", SETTINGS)
def test_answers_are_the_servers_own(server, how):
    pair = served(server)
    for start in (40, 77, 130):
        ids = list(range(start, start + 37))
        expected = greedy(ids, 60, set(pair.stop_ids))
        server.requests.clear()
        trace = DiffuSpec(with_answer(pair, ids), SETTINGS[how]).run(ids=ids)
        assert list(trace.token_ids) == expected and trace.accepted_per_step > 1
        assert compare_with_ar(pair, trace).difference is None
        assert Trace.loads(trace.dumps()).dumps() == trace.dumps()
        for step in trace.steps:
            rows = step.verification.top_ids
            text = [step.anchor, *step.path]
            for place, token in enumerate(text):
                assert rows[place, 0] == TABLE[token].argmax()
                assert step.verification.top_logp[place] == pytest.approx(log_p(token)[rows[place]], abs=1e-4)
    assert all(sum(step.verification.server.requests for step in trace.steps[1:]) == len(trace.steps) - 1 for _ in [0])


def test_a_path_is_one_prompt_where_the_server_tells_its_log_probabilities(server):
    pair, ids = served(server), list(range(40, 77))
    trace = DiffuSpec(with_answer(pair, ids), SETTINGS["path"]).run(ids=ids)
    prompts = [step.verification.server.prompts for step in trace.steps[1:-1]]
    assert set(prompts) == ({7} if server.named == "ray" else {1})
    calls = [path for path, _ in server.requests if "token" not in path]
    wanted = {"vllm": "/inference/v1/generate", "ray": "/v1/completions", "sglang": "/generate"}[server.named]
    assert set(calls[1:]) == {wanted}


def test_the_same_run_twice_finds_no_drafted_token_in_the_servers_cache(server):
    """Were the cache shared by runs, rows of tokens read before would be missing or uninitialised."""
    pair, ids = served(server), list(range(40, 77))
    twice = [DiffuSpec(with_answer(pair, ids), SETTINGS["path"]).run(ids=ids) for _ in range(2)]
    assert twice[0].token_ids == twice[1].token_ids
    asked = [body["sampling_params"] for path, body in server.requests if path == "/inference/v1/generate"]
    assert not any(sampling["skip_reading_prefix_cache"] for sampling in asked)


def test_an_answer_lost_on_the_way_is_asked_for_again_past_the_cache(server):
    pair, ids = served(server), list(range(40, 77))
    run = DiffuSpec(with_answer(pair, ids), SETTINGS["path"]).stream(ids=ids)
    for step in run:
        if step.index in (1, 4):
            server.away = 1
    assert list(run.trace.token_ids) == greedy(ids, 60, set(pair.stop_ids))
    took = [step.verification.server.requests for step in run.trace.steps]
    assert took[2] == took[5] == (3 if server.named == "vllm" else 2)


def test_rows_that_cannot_be_trusted_are_asked_for_anew(source, monkeypatch):
    """The text lies in the cache already, as after a request of another client with the same salt."""
    for runner in ("v1", "v2"):
        server = ModelServer("vllm", source, runner=runner)
        try:
            monkeypatch.setattr("diffuspec.models.remote.vllm._salt", lambda talk: "shared")
            pair, ids = load_pair(target_url=server.url), list(range(40, 77))
            first, second = (DiffuSpec(with_answer(pair, ids), SETTINGS["path"]).run(ids=ids) for _ in range(2))
            assert first.token_ids == second.token_ids == tuple(greedy(ids, 60, set(pair.stop_ids)))
            assert sum(step.verification.server.requests for step in second.steps) > len(second.steps)
        finally:
            server.close()


@pytest.mark.parametrize("how", SETTINGS)
def test_sampled_answers_have_the_servers_distribution(server, how):
    pair, ids, runs = served(server), [50, 60], 250
    settings = SETTINGS[how].replace(temperature=0.7, max_new_tokens=2)
    second = np.zeros(261)
    first = np.zeros(261)
    for _ in range(runs):
        made = DiffuSpec(with_answer(pair, ids), settings).run(ids=ids)
        first[made.token_ids[0]] += 1
        second[made.token_ids[-1]] += len(made.token_ids) == 2
        assert np.isnan(made.steps[0].verification.top_logp).all()
    p = np.exp(log_p(60, 0.7))
    likely = np.argsort(-p)[:4]
    observed = [*first[likely], runs - first[likely].sum()]
    expected = runs * np.array([*p[likely], 1 - p[likely].sum()])
    assert ((observed - expected) ** 2 / expected).sum() < 25
    after = sum(p[i] * np.exp(log_p(i, 0.7)) for i in range(261) if i not in pair.stop_ids)
    likely = np.argsort(-after)[:4]
    expected = runs * after[likely]
    assert ((second[likely] - expected) ** 2 / expected).sum() < 25


def test_other_rules_than_the_servers_own_draw_are_refused(server):
    pair = with_answer(served(server), [50, 60])
    with pytest.raises(SettingsError, match="point-mass"):
        DiffuSpec(pair, SETTINGS["path"].replace(temperature=1.0, rule="sampled-path"))


def test_stop_works_within_a_request(server):
    pair, ids = served(server), list(range(40, 77))
    run = DiffuSpec(with_answer(pair, ids), SETTINGS["path"]).stream(ids=ids)
    next(run)
    server.hang.set()
    threading.Timer(0.2, run.stop).start()
    started = time.monotonic()
    assert list(run) == [] and run.stop_reason == "stopped" and len(run.trace.steps) == 1
    assert time.monotonic() - started < 2


def test_a_key_comes_from_the_environment_alone(source, monkeypatch):
    server = ModelServer("vllm", source, key=model_servers.KEY)
    try:
        with pytest.raises(ServerError, match=f"401: Unauthorized.*{KEY}"):
            load_pair(target_url=server.url)
        monkeypatch.setenv(KEY, model_servers.KEY)
        pair = load_pair(target_url=f"{server.url}/v1/")
        trace = DiffuSpec(pair).run("Say something.", max_new_tokens=12)
        assert model_servers.KEY not in trace.dumps().decode()
    finally:
        server.close()


def test_a_target_conditioned_drafter_says_why_it_cannot(server):
    from diffuspec import assets

    with pytest.raises(PairError, match="does not give away.*standalone"):
        served(server, drafter=str(assets.drafter()))


def test_what_has_no_tokenizer_says_so(source, tmp_path):
    server = ModelServer("sglang", tmp_path / "not here")
    try:
        with pytest.raises(WeightsError, match="--target"):
            load_pair(target_url=server.url)
        pair = load_pair(target_url=server.url, target=str(source))
        assert pair.info.dtype == "sglang"
    finally:
        server.close()


def test_another_kind_than_it_is_said_to_be(server):
    with pytest.raises(ServerError, match="--server"):
        load_pair(target_url=server.url, server="llama.cpp")
