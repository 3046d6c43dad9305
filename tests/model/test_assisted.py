"""transformers' assisted generation, recorded live: what it wrote, drafted and thought, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffuspec import Trace, record_assisted
from diffuspec.errors import TraceError

PROMPT = torch.tensor([[20 + (7 * i) % 40 for i in range(30)]])
ASKED = dict(do_sample=False, max_new_tokens=40, pad_token_id=0)


@pytest.fixture(scope="module")
def model(tiny):
    return tiny.model()


@pytest.fixture(scope="module")
def assistant(model, tiny):
    """The same model with some noise: right now and then."""
    other = tiny.model()
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in other.model.layers.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return other


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return tiny.tokenizer()


def greedy(model, text):
    """log p after each token of a text, float64 [n, V]."""
    with torch.no_grad():
        return model(torch.tensor([text])).logits[0].double().log_softmax(-1)


@pytest.mark.parametrize("kind", ["assistant", "lookup"])
def test_the_trace_is_what_generate_did(model, assistant, tokenizer, kind):
    more = dict(assistant_model=assistant) if kind == "assistant" else dict(prompt_lookup_num_tokens=5)
    with record_assisted(model, tokenizer) as recorded:
        out = model.generate(PROMPT, **ASKED, **more)
    trace = recorded.trace
    assert list(trace.prompt_ids) == PROMPT[0].tolist()
    assert list(trace.token_ids) == out[0, 30:].tolist() == model.generate(PROMPT, **ASKED)[0, 30:].tolist()
    assert trace.origin.knows == "tokens" and trace.origin.times == "stages" and trace.origin.target
    assert trace.origin.candidates == (kind == "assistant")
    assert trace.text == tokenizer.decode(out[0, 30:], skip_special_tokens=True)
    assert all(step.timing.draft_ms > 0 and step.timing.verify_ms > 0 for step in trace.steps)
    text, drafted = list(trace.prompt_ids), 0
    for step in trace.steps:
        drafted += len(step.path)
        logp = greedy(model, [*text, *step.path])[len(text) - 1 :]
        own = logp.argmax(-1).tolist()
        accepted = next((i for i, token in enumerate(step.path) if token != own[i]), len(step.path))
        assert step.accepted == min(accepted, len(step.emitted))
        np.testing.assert_allclose(step.verification.path_logp, logp[range(len(step.path)), step.path], atol=1e-4)
        np.testing.assert_array_equal(step.verification.top_ids[:, 0], own)
        if kind == "assistant" and step.path:
            q = greedy(assistant, [*text, *step.path])[len(text) - 1 : -1]
            np.testing.assert_allclose(step.lattice.logq[:, 0], q.max(-1).values, atol=1e-4)
            assert step.lattice.ids[:, 0].tolist() == list(step.path) and step.lattice.width == 15
        text += step.emitted
    assert drafted > 10
    assert kind == "lookup" or 0 < sum(step.accepted for step in trace.steps) < drafted
    again = Trace.loads(trace.dumps())
    assert again.origin == trace.origin and again.token_ids == trace.token_ids
    assert [step.accepted for step in again.steps] == [step.accepted for step in trace.steps]


def test_a_drafted_end_of_text_counts_as_accepted(model):
    text = model.generate(PROMPT, **ASKED)[0, 30:].tolist()
    with record_assisted(model) as recorded:
        for end in sorted(set(text[3:30])):
            model.generate(PROMPT, **ASKED, assistant_model=model, eos_token_id=end)
    assert len(recorded.traces) > 3
    for trace in recorded.traces:
        last = trace.steps[-1]
        assert trace.stop_reason == "stop token" and trace.stop_ids[0] == trace.token_ids[-1]
        if trace.token_ids[-1] in last.path[: len(last.emitted)]:
            assert last.accepted == len(last.emitted) and last.verification.kind is None


def test_a_sampled_run_is_recorded_as_such(model, assistant):
    torch.manual_seed(0)
    with record_assisted(model) as recorded:
        out = model.generate(PROMPT, **{**ASKED, "do_sample": True}, temperature=0.9, assistant_model=assistant)
    trace = recorded.trace
    assert list(trace.token_ids) == out[0, 30:].tolist() and trace.settings.temperature == 0.9
    for step in trace.steps:
        assert step.lattice.ids[np.arange(len(step.path)), step.search.ranks].tolist() == list(step.path)
    assert Trace.loads(trace.dumps()).token_ids == trace.token_ids


def test_generate_is_as_before_once_the_recording_is_over(model):
    own = type(model)._get_candidate_generator
    with record_assisted(model) as outer:
        with record_assisted(model) as inner:
            model.generate(PROMPT, **ASKED, prompt_lookup_num_tokens=3)
        model.generate(PROMPT, **ASKED, prompt_lookup_num_tokens=3)
    assert len(inner.traces) == 1 and len(outer.traces) == 2
    assert model._get_candidate_generator.__func__ is own
    with record_assisted(model) as recorded:
        model.generate(PROMPT, **ASKED)
    with pytest.raises(TraceError, match="prompt_lookup_num_tokens"):
        recorded.trace  # noqa: B018
