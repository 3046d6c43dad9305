"""What other engines wrote of their runs: read as far as it tells, refused where it cannot be."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import orjson
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuspec import Trace
from diffuspec.errors import TraceError
from diffuspec.trace.foreign import specspecs
from diffuspec.trace.origin import UNKNOWN


def saved(tmp_path, body, name="response.json"):
    path = tmp_path / name
    path.write_bytes(body if isinstance(body, bytes) else orjson.dumps(body))
    return path


def again(trace):
    """The trace, after it went through our own format."""
    back = Trace.loads(trace.dumps())
    assert back.origin == trace.origin and back.token_ids == trace.token_ids
    assert [(s.path, s.accepted, s.emitted, s.timing) for s in back.steps] == [
        (s.path, s.accepted, s.emitted, s.timing) for s in trace.steps
    ]
    assert back.totals == trace.totals and back.report() == trace.report()
    return back


# ------------------------------------------------------------------------------------------------ vLLM


def vllm(accepted=(2, 0, 3), drafted=(3, 3, 3), total=9, detailed=True, **more):
    histogram = [0, 0, 0, 0]
    for j in accepted:
        histogram[j] += 1
    spec = {
        "mean_acceptance_length": 1 + sum(accepted) / len(accepted),
        "draft_acceptance_rate": sum(accepted) / sum(drafted),
        "acceptance_histogram": histogram,
        "num_spec_steps": len(accepted),
        "num_accepted_draft_tokens": sum(accepted),
        "num_draft_tokens": sum(drafted),
        "num_spec_tokens": 3,
    }
    if detailed:
        spec |= {"per_step_accepted": list(accepted), "per_step_drafted": list(drafted)}
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "model": "Qwen/Qwen3-8B",
        "choices": [{"index": 0, "text": "a b c d", "finish_reason": "length", **more}],
        "usage": {"prompt_tokens": 5, "completion_tokens": total, "total_tokens": 5 + total},
        "metrics": {
            "time_to_first_token_ms": 50.0,
            "generation_time_ms": 200.0,
            "tokens_per_second": 45.0,
            "speculative_decoding": spec,
        },
    }


def test_vllms_steps_are_lengths_and_tokens_where_it_gave_them(tmp_path):
    ids = list(range(100, 109))
    trace = again(Trace.open(saved(tmp_path, vllm(token_ids=ids, prompt_token_ids=[1, 2, 3]))))
    assert trace.origin.knows == "lengths" and trace.origin.totals is None and trace.prompt_ids == (1, 2, 3)
    assert [(s.path, s.accepted, s.emitted) for s in trace.steps] == [
        ((), 0, (100,)),
        ((101, 102, UNKNOWN), 2, (101, 102, 103)),
        ((UNKNOWN,) * 3, 0, (104,)),
        ((105, 106, 107), 3, (105, 106, 107, 108)),
    ]
    assert [s.verification.kind for s in trace.steps] == ["bonus", "correction", "correction", "bonus"]
    assert trace.tokens_per_step == 9 / 4 and trace.wall_s == 0.25 and trace.tokens_per_second == 36
    assert trace.pair.target == "Qwen/Qwen3-8B" and trace.text == "a b c d" and trace.stop_reason == "max tokens"
    assert "which tokens were drafted" in trace.origin.sentence and "the target’s p" in trace.origin.sentence


def test_vllms_last_step_may_be_cut(tmp_path):
    trace = again(Trace.open(saved(tmp_path, vllm(total=7, token_ids=list(range(7))))))
    assert trace.steps[-1].emitted == (5, 6) and trace.steps[-1].accepted == 2 and trace.new_tokens == 7
    assert "ended within the last step" in trace.origin.reading


def test_passes_without_a_draft_leave_the_tokens_without_a_place(tmp_path):
    trace = again(Trace.open(saved(tmp_path, vllm(total=14, token_ids=list(range(14))))))
    assert set(trace.token_ids) == {UNKNOWN} and "has 5 tokens more" in trace.origin.reading
    assert trace.new_tokens == 14 and trace.accepted_per_step == 5 / 3


def test_vllms_summary_and_its_stream(tmp_path):
    trace = again(Trace.open(saved(tmp_path, vllm(detailed=False))))
    assert trace.origin.knows == "totals" and not trace.steps
    assert trace.totals.histogram == (1, 0, 1, 1) and trace.accepted_per_step == 5 / 3 and trace.tokens_per_step == 3
    parts = [{"id": "c", "choices": [{"text": t, "token_ids": i}]} for t, i in (("a", [1]), ("b", [2, 3, 4]))]
    end = vllm(accepted=(2,), drafted=(3,), total=4)
    end = {"id": "c", "choices": [], "metrics": end["metrics"], "usage": end["usage"], "model": "m"}
    stream = b"".join(b"data: " + orjson.dumps(part) + b"\n\n" for part in (*parts, end)) + b"data: [DONE]\n"
    trace = again(Trace.open(saved(tmp_path, stream, "stream.txt")))
    assert trace.token_ids == (1, 2, 3, 4) and trace.text == "ab"


# ---------------------------------------------------------------------------------------------- SGLang


def sglang():
    return {
        "text": " Paris.",
        "output_ids": [1, 2, 3],
        "meta_info": {
            "id": "x",
            "finish_reason": {"type": "length", "length": 30},
            "prompt_tokens": 6,
            "completion_tokens": 30,
            "e2e_latency": 0.5,
            "spec_accept_rate": 0.5,
            "spec_accept_length": 2.5,
            "spec_num_correct_drafts": 18,
            "spec_num_proposed_drafts": 36,
            "spec_verify_ct": 12,
            "spec_correct_drafts_histogram": [3, 3, 3, 3],
        },
    }


@pytest.mark.parametrize("name", ["json", "list", "lines", "gzip"])
def test_sglangs_totals(tmp_path, name):
    body = orjson.dumps(sglang())
    body = {"json": body, "list": b"[" + body + b"]", "lines": body + b"\n", "gzip": gzip.compress(body)}[name]
    trace = again(Trace.open(saved(tmp_path, body)))
    assert trace.origin.engine == "SGLang" and trace.origin.knows == "totals" and trace.text == " Paris."
    assert trace.tokens_per_step == 2.5 and trace.accepted_per_step == 1.5 and trace.tokens_per_second == 60
    assert "single steps" in trace.origin.sentence


def test_sglangs_openai_endpoint(tmp_path):
    details = {k: v for k, v in sglang()["meta_info"].items() if k.startswith("spec_")}
    body = {
        "id": "c",
        "model": "m",
        "choices": [{"message": {"content": "hi"}}],
        "usage": {"completion_tokens": 30},
        "sglext": {"spec_tokens_details": details},
    }
    trace = again(Trace.open(saved(tmp_path, body)))
    assert trace.tokens_per_step == 2.5 and trace.text == "hi"


# ------------------------------------------------------------------------------------------- llama.cpp


def llama(*events):
    """Events (token, text, predicted_ms, draft_n, draft_n_accepted) of a stream with timings_per_token."""
    bodies, n = [], 0
    for token, text, at, drafted, accepted in events:
        n += token is not None
        timings = {"prompt_n": 5, "prompt_ms": 20.0, "predicted_n": n, "predicted_ms": at}
        if drafted:
            timings |= {"draft_n": drafted, "draft_n_accepted": accepted}
        bodies.append(
            {"content": text, "tokens": [] if token is None else [token], "stop": token is None, "timings": timings}
        )
    bodies[-1] |= {"model": "/models/tiny.gguf", "prompt": "Count", "stop_type": "eos"}
    return b"".join(b"data: " + orjson.dumps(body) + b"\n\n" for body in bodies)


STREAM = (
    (7, "one", 0.001, 0, 0),
    (8, " two", 10.0, 4, 2),
    (9, " th", 10.0, 4, 2),
    (5, "ree", 10.0, 4, 2),
    (8, " two", 18.0, 4, 2),
    (6, " four", 40.0, 12, 2),
    (None, "", 40.0, 12, 2),
)


def test_llama_cpps_tokens_of_one_moment_are_a_step(tmp_path):
    trace = again(Trace.open(saved(tmp_path, llama(*STREAM))))
    assert [(s.path, s.accepted, s.emitted) for s in trace.steps] == [
        ((), 0, (7,)),
        ((8, 9, UNKNOWN, UNKNOWN), 2, (8, 9, 5)),
        ((), 0, (8,)),
        ((UNKNOWN,) * 8, 0, (6,)),
    ]
    assert [round(s.timing.total_ms, 3) for s in trace.steps] == [0.001, 9.999, 8.0, 22.0]
    assert trace.text == "one two three two four" and trace.prompt == "Count" and trace.wall_s == 0.06
    assert trace.piece(8) == b" two" and trace.pair.target == "tiny.gguf" and trace.stop_reason == "stop token"


def test_a_piece_that_two_places_spell_differently_is_not_believed(tmp_path):
    half = ((7, "", 0.0, 0, 0), (8, "é", 10.0, 4, 1), (9, "x", 10.0, 4, 1), (None, "", 10.0, 4, 1))
    trace = Trace.open(saved(tmp_path, llama(*half)))
    assert trace.pieces == {9: "x"}


def test_llama_cpps_sums_and_no_speculation(tmp_path):
    body = {
        "content": "x",
        "timings": {"predicted_n": 30, "prompt_ms": 1.0, "predicted_ms": 99.0, "draft_n": 40, "draft_n_accepted": 18},
    }
    trace = again(Trace.open(saved(tmp_path, body)))
    assert trace.origin.knows == "totals" and trace.tokens_per_step == 30 / 12 and trace.accepted_per_step == 1.5
    del body["timings"]["draft_n"]
    with pytest.raises(TraceError, match="without speculation"):
        Trace.open(saved(tmp_path, body))


def test_lm_studios_totals(tmp_path):
    body = {
        "model": "m",
        "choices": [{"text": "x"}],
        "usage": {"completion_tokens": 50},
        "stats": {"draft_model": "d", "total_draft_tokens_count": 60, "accepted_draft_tokens_count": 30},
    }
    trace = again(Trace.open(saved(tmp_path, body)))
    assert trace.totals.steps == 20 and trace.tokens_per_step == 2.5 and trace.pair.drafter == "d"


def test_one_of_several_answers_is_chosen(tmp_path):
    lines = b"\n".join(orjson.dumps({**vllm(total=9), "id": str(i), "model": f"m{i}"}) for i in range(3))
    path = saved(tmp_path, lines)
    assert [Trace.open(path, i).pair.target for i in range(3)] == ["m0", "m1", "m2"]
    with pytest.raises(TraceError, match="There are 3 .* no number 4"):
        Trace.open(path, 3)


# ------------------------------------------------------------------------------------------- specspecs

SEQUENCES = arrow.schema(
    [
        ("run_id", arrow.string()),
        ("sequence_id", arrow.string()),
        ("t", arrow.timestamp("us")),
        ("prompt_token_ids", arrow.list_(arrow.int64())),
        ("prompt_len", arrow.int32()),
    ]
)
DRAFTS = arrow.schema(
    [
        ("run_id", arrow.string()),
        ("sequence_id", arrow.string()),
        ("step", arrow.int32()),
        ("t", arrow.timestamp("us")),
        ("draft_tokens", arrow.list_(arrow.int64())),
        ("acceptances", arrow.list_(arrow.bool_())),
        ("k", arrow.int16()),
        ("acceptance_length", arrow.int16()),
        ("emitted_token", arrow.int32()),
    ]
)


def write(folder, *sequences):
    """Files as specspecs 0.1.0 writes them; sequences: (id, t, prompt, [(draft, accepted, token)])."""
    folder.mkdir(exist_ok=True)
    writers = {
        "sequences": parquet.ParquetWriter(folder / "sequences-1-00000.parquet", SEQUENCES, compression="zstd"),
        "drafts": parquet.ParquetWriter(folder / "drafts-1-00000.parquet", DRAFTS, compression="zstd"),
    }
    for name, t, prompt, steps in sequences:
        row = {"run_id": "r", "sequence_id": name, "t": t, "prompt_token_ids": prompt, "prompt_len": len(prompt)}
        writers["sequences"].write(arrow.RecordBatch.from_pylist([row], SEQUENCES))
        for step, (draft, accepted, token) in enumerate(steps):
            row = {
                "run_id": "r",
                "sequence_id": name,
                "step": step,
                "t": t + 1000 * (step + 1),
                "draft_tokens": draft,
                "acceptances": [i < accepted for i in range(len(draft))],
                "k": len(draft),
                "acceptance_length": accepted,
                "emitted_token": token,
            }
            writers["drafts"].write(arrow.RecordBatch.from_pylist([row], DRAFTS))
    for writer in writers.values():
        writer.close()
    return folder


REPEATING = [([10, 11, 12], 2, 20), ([20, 21, 22], 1, 30), ([30, 31], 2, 40)]
PLAIN = [([10, 11, 12], 2, 20), ([21, 22], 0, 30), ([31], 1, 40)]


@pytest.mark.parametrize("steps, says", [(REPEATING, "Read as its viewer does"), (PLAIN, "in the plain sense")])
def test_both_senses_of_specspecs_are_told_apart_by_the_tokens(tmp_path, steps, says):
    trace = again(Trace.open(write(tmp_path / "run", ("a", 10**15, [5, 6], steps))))
    assert trace.prompt_ids == (5, 6) and trace.token_ids == (10, 11, 20, 30, 31, 40)
    assert [(s.path, s.accepted) for s in trace.steps] == [((10, 11, 12), 2), ((21, 22), 0), ((31,), 1)]
    assert trace.origin.knows == "tokens" and says in trace.origin.reading
    assert [s.timing.total_ms for s in trace.steps] == [1.0, 1.0, 1.0]
    np.testing.assert_array_equal(trace.steps[0].lattice.logq, np.full((3, 1), np.nan))


def test_a_sequence_is_chosen_and_files_may_be_given_one_by_one(tmp_path):
    folder = write(tmp_path / "run", ("b", 2 * 10**15, [5], PLAIN), ("a", 10**15, [7], PLAIN[:1]))
    files = sorted(map(str, folder.glob("*.parquet")))
    assert [Trace.open(folder, i).prompt_ids for i in range(2)] == [(7,), (5,)]
    assert Trace.open(files, 1).prompt_ids == (5,)
    for path, says in ((files[:1], "sequences-\\*.parquet is missing"), (files[1], "drafts-\\*.parquet is missing")):
        with pytest.raises(TraceError, match=says):
            Trace.open(path)
    with pytest.raises(TraceError, match="no number 3"):
        Trace.open(folder, 2)


def test_a_file_without_a_footer_is_said_to_be_damaged(tmp_path):
    folder = write(tmp_path / "run", ("a", 10**15, [5], PLAIN))
    file = next(folder.glob("drafts*"))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(TraceError, match="has no footer: it is damaged, or its logger was not closed"):
        Trace.open(folder)


@pytest.mark.parametrize("steps", [[([1], 2, 3)], [([1, -4], 1, 3)], [([1], 0, -3)], [(list(range(2000)), 5, 3)]])
def test_rows_that_contradict_themselves_are_refused(tmp_path, steps):
    with pytest.raises(TraceError):
        Trace.open(write(tmp_path / "run", ("a", 10**15, [5], steps)))


def test_parquet_is_read_within_bounds(tmp_path, monkeypatch):
    folder = write(tmp_path / "run", ("a", 10**15, [5], PLAIN))
    monkeypatch.setattr(specspecs, "MAX_BYTES", 100)
    with pytest.raises(TraceError, match="at most"):
        Trace.open(folder)
    monkeypatch.setattr(specspecs, "MAX_BYTES", 2**20)
    monkeypatch.setattr(specspecs, "LIMIT_S", 0.01)
    with pytest.raises(TraceError, match="longer than"):
        Trace.open(folder)
    table = arrow.table({"sequence_id": ["x"], "prompt_token_ids": [np.zeros(60_000_000, np.int64)]})
    parquet.write_table(table, folder / "sequences-1-00000.parquet", compression="zstd")
    assert (folder / "sequences-1-00000.parquet").stat().st_size < 2**20
    monkeypatch.setattr(specspecs, "LIMIT_S", 60)
    with pytest.raises(TraceError, match="more memory|more than a trace may|damaged"):
        Trace.open(folder)


# -------------------------------------------------------------------------------------- what is hostile


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"hello",
        b"[[[[",
        b"\x1f\x8bxx",
        b"data: {}",
        b"\xff\xfe",
        b'{"id": 3, "meta_info": 4}',
    ],
)
def test_what_is_no_trace_is_refused_with_what_can_be_read(tmp_path, body):
    with pytest.raises(TraceError):
        Trace.open(saved(tmp_path, body))


@pytest.mark.parametrize(
    "change",
    [
        {"per_step_accepted": [5], "per_step_drafted": [3]},
        {"per_step_accepted": [1, 2], "per_step_drafted": [3]},
        {"per_step_accepted": [1], "per_step_drafted": [10**9]},
        {"per_step_accepted": [-1], "per_step_drafted": [3]},
        {"per_step_accepted": ["x"], "per_step_drafted": [3]},
        {"num_draft_tokens": -1},
        {"num_draft_tokens": 1e400},
        {"acceptance_histogram": [-1]},
        {"acceptance_histogram": {}},
        {"num_spec_steps": 10**12},
        {"per_step_accepted": [0] * 30_000, "per_step_drafted": [0] * 30_000},
    ],
)
def test_a_response_that_cannot_be_is_refused(tmp_path, change):
    body = vllm()
    del body["usage"]
    body["metrics"]["speculative_decoding"] |= change
    with pytest.raises(TraceError):
        Trace.open(saved(tmp_path, json.dumps(body).encode()))


VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
)
BODIES = st.sampled_from([vllm, sglang, lambda: orjson.loads(llama(*STREAM).split(b"\n")[2][6:])])


@given(BODIES, st.data())
def test_a_response_with_any_value_changed_is_read_or_refused(make, data):
    body = make()
    place = body
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not (isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans())):
            break
        place = place[key]
    place[key] = data.draw(VALUES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_text(json.dumps(body))
        try:
            trace = Trace.open(path)
        except TraceError as error:
            assert str(error).endswith(".") and folder not in str(error)
        else:
            again(trace)


def test_our_own_traces_open_too(tiny_trace, tmp_path):
    for name in ("t.jsonl", "t.jsonl.gz"):
        tiny_trace.save(tmp_path / name)
        opened = Trace.open(tmp_path / name)
        assert opened.origin is None and opened.token_ids == tiny_trace.token_ids
    (tmp_path / "t.jsonl").write_bytes(tiny_trace.dumps()[:-100])
    with pytest.raises(TraceError, match="damaged"):
        Trace.open(tmp_path / "t.jsonl")


def test_nothing_heavy_is_imported_to_open_one():
    code = "import sys; from diffuspec import Trace; import diffuspec.trace.foreign; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
